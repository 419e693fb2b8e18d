"""Units of work, and what runs them: any `concurrent.futures.Executor`, or this process.

A unit is a pure function of its arguments, so that it gives the same bits wherever, whenever and
however often it runs: a worker that is killed costs time and nothing else.
"""

from cnognp.workers.engines import engine
from cnognp.workers.pool import Pool
from cnognp.workers.studies import Unit, UnitError, results_of
from cnognp.workers.units import in_order, outcomes, put, taken, threaded

__all__ = [
    "Pool",
    "Unit",
    "UnitError",
    "engine",
    "in_order",
    "outcomes",
    "put",
    "results_of",
    "taken",
    "threaded",
]
