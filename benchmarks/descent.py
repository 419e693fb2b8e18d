"""500 trajectories of 1000 gradient steps on Himmelblau's function.

Through `cnognp.run.run`, against a bare loop over the batch that evaluates loss and gradient by
their formulas, and against one torch optimiser and autograd per trajectory (two trajectories are
timed and scaled).
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

    def bare() -> None:
        z = start
        for _ in range(STEPS):
            himmelblau.formula(z)
            x, y = z.unbind(-1)
            a, b = x * x + y - 11, x + y * y - 7
            z = z - LR * torch.stack((4 * x * a + 2 * b, 2 * a + 4 * y * b), -1)
        ends["bare"] = z[:SAMPLE]

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

    candidates = {"population": population, "bare": bare, "alone": alone}
    seconds = interleaved(candidates, options.rounds)
    torch.testing.assert_close(ends["population"], ends["alone"])
    torch.testing.assert_close(ends["bare"], ends["alone"])
    scaled = seconds["alone"] * MEMBERS / SAMPLE
    rows = {
        "population, ms": 1000 * seconds["population"],
        "bare loop over the batch, ms": 1000 * seconds["bare"],
        "per trajectory, ms (scaled)": 1000 * scaled,
        "faster": scaled / seconds["population"],
    }
    report("500 x 1000 gradient steps", rows, options)


if __name__ == "__main__":
    main()
