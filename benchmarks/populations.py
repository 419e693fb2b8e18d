"""Whole populations at once against a loop over torch modules.

CNOGNP on Wine with 20 and 200 members. Both do the same updates from the same starts with the same
random factors: 100 iterations of
z <- z - omega eta grad f + c1 r1 (p - z) + c2 r2 (g - z), one evaluation of loss and gradient per
member and step, fitness loss + lambda |grad|^2. The final best fitness of both is compared first.

SGD on 8 convolution networks with BatchNorm of 4,650 parameters, mini-batches of digits, and on 8
classifiers of texts, transformers of 310,596, against ``torch.optim.SGD`` for each; where both end
is compared first.

Then the step alone of 8 members of up to 10 million parameters each, whose gradients are there.
"""

import time
from collections import deque
from functools import partial
from itertools import repeat

import torch
from sklearn.datasets import load_digits
from timing import arguments, interleaved, report
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from cnognp import METHODS
from cnognp.population import Population
from cnognp.run import run
from cnognp.tasks import load
from cnognp.tasks.encoder import encoder
from cnognp.tasks.networks import mlp, small_conv
from cnognp.tasks.task import initial_population
from landscape.networks import EmpiricalRisk
from landscape.networks.network import called
from landscape.objective import Objective
from landscape.randomness import derive, draw_rows

ITERATIONS = 100
LR, PENALTY, COGNITIVE, SOCIAL = 0.1, 0.01, 0.5, 0.5
SMALL, STEPS = 8, 10
TOKENS, PIECES = 40, 4000


def seeded(seed: int) -> torch.Generator:
    return torch.Generator(device="cpu").manual_seed(seed)


def looped(inputs, target, start, generator) -> float:
    """The best fitness after a Python loop over one module per member."""
    modules = [mlp(13, (10,), 3) for _ in start]
    for module, z in zip(modules, start, strict=True):
        vector_to_parameters(z.clone(), module.parameters())
    grads, fitness = zip(*(evaluated(m, inputs, target) for m in modules), strict=True)
    grads, fitness = list(grads), list(fitness)
    bests = [parameters_to_vector(m.parameters()).detach().clone() for m in modules]
    best_fitness = list(fitness)
    for k in range(ITERATIONS):
        leader = bests[min(range(len(modules)), key=best_fitness.__getitem__)]
        draws = derive(derive(generator, "round", k), "attraction")
        r = draw_rows("uniform", (len(modules), 2, 1), draws, start)
        for i, module in enumerate(modules):
            z = parameters_to_vector(module.parameters()).detach()
            z = (
                z
                - LR * grads[i]
                + COGNITIVE * r[i, 0] * (bests[i] - z)
                + SOCIAL * r[i, 1] * (leader - z)
            )
            vector_to_parameters(z, module.parameters())
            grads[i], fitness[i] = evaluated(module, inputs, target)
            if fitness[i] < best_fitness[i]:
                best_fitness[i], bests[i] = fitness[i], z
    return min(best_fitness)


def evaluated(module, inputs, target) -> tuple[torch.Tensor, float]:
    """Gradient and fitness of one module, by backward."""
    module.zero_grad(set_to_none=True)
    loss = cross_entropy(module(inputs), target)
    loss.backward()
    grad = torch.cat([p.grad.flatten() for p in module.parameters()])
    return grad, float(loss.detach() + PENALTY * (grad @ grad))


def together(risk: Objective, start, generator) -> float:
    """The best fitness after the same iterations by the swarm."""
    method = METHODS["cnognp"](
        lr=LR, penalty=PENALTY, cognitive=COGNITIVE, social=SOCIAL, batch_size=0
    )
    ((state, _),) = deque(run(method, repeat(risk, ITERATIONS), start, generator), maxlen=1)
    return float(state.best_fitness.min())


class Steps:
    """The same few steps of SGD of all members, by both; each call begins where they start.

    Args:
        make: a network from a generator.
        inputs: of a mini-batch.
        target: of it.
    """

    def __init__(self, make, inputs, target):
        self.inputs, self.target = inputs, target
        self.modules = [make(generator=seeded(seed)) for seed in range(SMALL)]
        self.risk = EmpiricalRisk(
            make(), (inputs, target), cross_entropy, statistics="batch", check=False
        )
        self.start = torch.stack([parameters_to_vector(m.parameters()) for m in self.modules])
        self.start = self.start.detach()

    def together(self) -> torch.Tensor:
        method = METHODS["sgd"](lr=LR, batch_size=0)
        rounds = run(method, repeat(self.risk, STEPS), self.start, seeded(0))
        ((state, _),) = deque(rounds, maxlen=1)
        return state.position

    def looped(self) -> torch.Tensor:
        for module, z in zip(self.modules, self.start, strict=True):
            vector_to_parameters(z.clone(), module.parameters())
            optimiser = torch.optim.SGD(module.parameters(), lr=LR)
            for _ in range(STEPS):
                optimiser.zero_grad()
                cross_entropy(called(module, self.inputs), self.target).backward()
                optimiser.step()
        return torch.stack([parameters_to_vector(m.parameters()) for m in self.modules]).detach()

    def compared(self, rounds: int) -> dict[str, object]:
        """What both take for a step."""
        torch.testing.assert_close(self.together(), self.looped(), rtol=1e-3, atol=1e-4)
        seconds = interleaved({"population": self.together, "loop": self.looped}, rounds)
        return {
            "evaluation": self.risk.evaluation, "members together": self.risk.chunk,
            "ms a step": {name: 1000 * taken / STEPS for name, taken in seconds.items()},
            "faster": seconds["loop"] / seconds["population"],
        }  # fmt: skip


def convolutions(samples: int) -> Steps:
    """Networks for digits."""
    digits = load_digits()
    x = torch.from_numpy(digits.images).float().unsqueeze(1)[:samples] / 8 - 1
    return Steps(small_conv, x, torch.from_numpy(digits.target)[:samples])


def texts(samples: int) -> Steps:
    """Transformers that read texts of up to 40 pieces, as mini-batches of tweets are cut."""
    lengths = torch.randint(8, TOKENS, (samples, 1), generator=seeded(1))
    lengths[0] = TOKENS
    mask = torch.arange(TOKENS) < lengths
    ids = torch.randint(2, PIECES, mask.shape, generator=seeded(2), dtype=torch.int32) * mask
    inputs = {"input_ids": ids, "attention_mask": mask}
    return Steps(partial(encoder, PIECES, 64, 4), inputs, torch.arange(samples) % 4)


def small(rounds: int) -> dict[str, object]:
    """Steps of both at several sizes of the mini-batch."""
    networks = {"convolution networks": convolutions, "classifiers of texts": texts}
    cases = ((kind, make, size) for kind, make in networks.items() for size in (16, 64, 256))
    return {
        f"{SMALL} {kind}, batch {size}": make(size).compared(rounds) for kind, make, size in cases
    }


class Given:
    """An objective whose gradients are there, so that a step costs nothing but itself."""

    def __init__(self, members: int, dim: int):
        self.dim, self.chunk = dim, 1
        self.grads = torch.full((members, dim), 1e-3)

    def terms(self):
        raise NotImplementedError

    def value_and_grad(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return z[:, 0].clone(), self.grads[: len(z)]


def large(dim: int, home: str, rounds: int, members: int = 8) -> float:
    """The fewest nanoseconds of a step, for each member and parameter."""
    method = METHODS["cnognp"](batch_size=0)
    if home == "host":
        method = Population(method, "host", torch.device("cpu"))
    generator = torch.Generator(device="cpu").manual_seed(0)
    objective, z = Given(members, dim), torch.randn(members, dim, generator=generator)
    steps, taken = run(method, repeat(objective), z, generator), []
    for _ in range(rounds + 2):
        began = time.process_time()
        next(steps)
        taken.append(time.process_time() - began)
    return 1e9 * min(taken[2:]) / members / dim


def main() -> None:
    """Compares for 20 and 200 perceptrons, and for 8 small networks."""
    options = arguments(__doc__)
    task = load("wine")
    inputs, target = task.train
    risk = EmpiricalRisk(task.model, task.train, task.loss)
    rows: dict[str, object] = {}
    for members in (20, 200):
        start = initial_population(task, risk.layout, members, 0)
        generator = seeded(0)
        ours, theirs = together(risk, start, generator), looped(inputs, target, start, generator)
        if abs(ours - theirs) > 1e-4 * abs(theirs):
            raise RuntimeError(f"the two disagree: {ours} and {theirs}")
        seconds = interleaved(
            {
                "swarm": lambda s=start, g=generator: together(risk, s, g),
                "loop": lambda s=start, g=generator: looped(inputs, target, s, g),
            },
            options.rounds,
        )
        rows[f"{members} members"] = {
            "seconds": seconds, "faster": seconds["loop"] / seconds["swarm"],
            "best fitness": {"swarm": ours, "loop": theirs},
        }  # fmt: skip
    for home in ("device", "host"):
        rows[f"large members on the {home}, ns per member and parameter of a step"] = {
            dim: large(dim, home, options.rounds) for dim in (10**5, 10**6, 10**7)
        }
    rows |= small(options.rounds)
    report("populations: CNOGNP on Wine, 100 iterations; SGD on digits and texts", rows, options)


if __name__ == "__main__":
    main()
