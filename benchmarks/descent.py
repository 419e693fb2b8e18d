"""500 trajectories of 1000 gradient steps on Himmelblau's function.

Through `cnognp.run.run`, against one torch optimiser and autograd per trajectory (two trajectories
are timed and scaled).
"""

from collections import deque
from itertools import repeat

import torch
from timing import arguments, interleaved, report

from cnognp import METHODS
from cnognp.run import run
from landscape.functions import himmelblau

MEMBERS, STEPS, LR, SAMPLE = 500, 1000, 0.001, 2


def main() -> None:
    """Times both and compares where they end."""
    options = arguments(__doc__)
    generator = torch.Generator(device="cpu").manual_seed(0)
    start = torch.rand((MEMBERS, 2), generator=generator, dtype=torch.float64) * 10 - 5
    method = METHODS["gd"](lr=LR)
    ends = {}

    def population() -> None:
        ((state, _),) = deque(run(method, repeat(himmelblau, STEPS), start, generator), maxlen=1)
        ends["population"] = state.position[:SAMPLE]

    def alone() -> None:
        rows = []
        for row in start[:SAMPLE]:
            z = row.clone().requires_grad_()
            optimiser = torch.optim.SGD([z], lr=LR)
            for _ in range(STEPS):
                optimiser.zero_grad()
                himmelblau.formula(z).backward()
                optimiser.step()
            rows.append(z.detach())
        ends["alone"] = torch.stack(rows)

    seconds = interleaved({"population": population, "alone": alone}, options.rounds)
    torch.testing.assert_close(ends["population"], ends["alone"])
    scaled = seconds["alone"] * MEMBERS / SAMPLE
    rows = {
        "population, ms": 1000 * seconds["population"],
        "per trajectory, ms (scaled)": 1000 * scaled,
        "faster": scaled / seconds["population"],
    }
    report("500 x 1000 gradient steps", rows, options)


if __name__ == "__main__":
    main()
