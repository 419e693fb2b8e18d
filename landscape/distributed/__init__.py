"""One objective evaluated by several processes: its terms shared, its sums the same on any number.

.. code-block:: python

    from landscape.distributed import Distributed, shards, start

    ranks = start()  # under torchrun; alone otherwise
    with Distributed(shards(risk, 8), ranks) as shared:
        if shared.leads:
            print(top_eigenpairs(shared, risk.point(), 3).eigenvalues)
"""

from landscape.distributed.objective import Distributed, shards
from landscape.distributed.processes import Ranks, start

__all__ = ["Distributed", "Ranks", "shards", "start"]
