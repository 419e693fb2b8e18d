"""Methods on Wine with 32 members: all at once against a Python loop over torch modules.

The loops do the same updates from the same starts with the same random numbers, on the whole data:
torch.optim's own SGD, Adam, AdamW and LBFGS, one optimiser for each member, where these exist; for
bfgs and lbfgs-gss, of which torch has none, the optimiser of `cnognp.torch_optim`; else a plain
loop. A method that has no loop here is left out. Where both end is compared first, and so is what
both have evaluated.
"""

from collections import deque
from collections.abc import Callable, Iterator
from inspect import signature
from itertools import repeat

import torch
from timing import arguments, interleaved, report
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from cnognp import METHODS, torch_optim
from cnognp.method import traits_of
from cnognp.methods.centralisation import centralised
from cnognp.methods.noise import uniform_ball
from cnognp.run import run
from cnognp.tasks import load
from cnognp.tasks.networks import mlp
from cnognp.tasks.task import initial_population
from landscape.networks import EmpiricalRisk
from landscape.randomness import derive, draw_rows

MEMBERS, STEPS = 32, 12
HOP = {"lr": 0.1, "rho": 0.5, "eps": 0.05, "tau": 10}
PULLS = {"cognitive": 0.5, "social": 0.5}
OPTIONS = {
    "gd": {}, "sgd": {"momentum": 0.9}, "normalised-gd": {}, "adam": {"lr": 0.01},
    "adamw": {"lr": 0.01}, "nig": {}, "nim": {"eps": 0.5, "tau": 2}, "nig-bh": HOP, "nim-bh": HOP,
    "nig-mbh": HOP, "nim-mbh": HOP, "sam": {}, "asam": {}, "gcsam": {}, "gnp": {},
    "swa": {"start": 5}, "bfgs": {}, "lbfgs-gss": {}, "pso": {}, "pso-bfgs": {}, "egd": {},
    "cno": PULLS, "cnognp": PULLS,
}  # fmt: skip
HOPS = 2
SHARP = ("sam", "asam", "gcsam", "gnp")


class Member:
    """A module and its flat vector; counts what it evaluates."""

    def __init__(self, z: torch.Tensor, inputs: torch.Tensor, target: torch.Tensor):
        self.module, self.inputs, self.target = mlp(13, (10,), 3), inputs, target
        self.count = 0
        self.move(z.clone())

    def move(self, z: torch.Tensor) -> None:
        vector_to_parameters(z, self.module.parameters())

    def backward(self) -> torch.Tensor:
        self.count += 1
        self.module.zero_grad(set_to_none=True)
        loss = cross_entropy(self.module(self.inputs), self.target)
        loss.backward()
        return loss

    def value(self, z: torch.Tensor) -> float:
        self.count += 1
        self.move(z)
        with torch.no_grad():
            return float(cross_entropy(self.module(self.inputs), self.target))

    def at(self, z: torch.Tensor) -> tuple[float, torch.Tensor]:
        self.move(z)
        loss = float(self.backward().detach())
        return loss, torch.cat([p.grad.flatten() for p in self.module.parameters()])

    def position(self) -> torch.Tensor:
        return parameters_to_vector(self.module.parameters()).detach().clone()


class Bench:
    """The task, where members start, and the random numbers that both sides draw."""

    def __init__(self):
        task = load("wine")
        self.inputs, self.target = task.train
        self.risk = EmpiricalRisk(task.model, task.train, task.loss)
        self.start = initial_population(task, self.risk.layout, MEMBERS, 0)
        self.generator = torch.Generator(device="cpu").manual_seed(0)

    def members(self) -> list[Member]:
        return [Member(z, self.inputs, self.target) for z in self.start]

    def together(self, name: str) -> tuple[torch.Tensor, float]:
        """Where the population ends, and what all of it has evaluated, reports left out."""
        whole = {"batch_size": 0} if "batch_size" in signature(METHODS[name]).parameters else {}
        method = METHODS[name](**OPTIONS.get(name, {}), **whole)
        rounds = run(method, repeat(self.risk, steps_of(name)), self.start, self.generator)
        spent, end = 0.0, self.start
        for state, info in rounds:
            spent += MEMBERS * info.evaluations
            end = state.best if hasattr(state, "best") else state.position
        return end, spent

    def ball(self, k: int, rho: float) -> torch.Tensor:
        draws = derive(derive(self.generator, "round", k), "noise")
        return uniform_ball(self.risk, self.start, rho, draws)

    def pulls(self, k: int, width: int) -> torch.Tensor:
        draws = derive(derive(self.generator, "round", k), "attraction")
        return draw_rows("uniform", (MEMBERS, 2, width), draws, self.start)


def steps_of(name: str) -> int:
    return HOPS if hops(name) else STEPS


def hops(name: str) -> bool:
    return traits_of(METHODS[name]()).stride == "search"


def optimisers(bench: Bench, make: Callable) -> list[Member]:
    """One torch optimiser for each member."""
    members = bench.members()
    for member in members:
        optimiser = make(member.module.parameters())
        for _ in range(STEPS):
            optimiser.step(member.backward)
    return members


def stepping(bench: Bench, move: Callable) -> list[Member]:
    """``z <- move(bench, member, i, k, z)``, member by member."""
    members = bench.members()
    balls = [bench.ball(k, 0.05) for k in range(STEPS)]
    for i, member in enumerate(members):
        z = member.position()
        for k in range(STEPS):
            z = move(member, balls[k][i], z)
        member.move(z)
    return members


def neighbour(name: str, bench: Bench) -> Callable:
    """Steps of SAM and its relatives, of length 0.1, with their defaults."""

    def move(member: Member, ball: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        _, grad = member.at(z)
        if name == "asam":
            scale = z.abs() + 0.01
            e = 0.5 * scale * scale * grad / ((scale * grad).norm() + 1e-12)
        elif name == "gcsam":
            e = 0.05 * centralised(bench.risk, grad[None])[0] / (grad.norm() + 1e-12)
        else:
            e = (0.1 if name == "gnp" else 0.05) * grad / (grad.norm() + 1e-12)
        _, slope = member.at(z + e)
        return z - 0.1 * (0.2 * grad + 0.8 * slope if name == "gnp" else slope)

    return move


def normalised(member: Member, ball: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    _, grad = member.at(z)
    return z - 0.01 * grad / grad.norm()


def noisy(member: Member, ball: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    return z - 0.1 * (member.at(z)[1] + ball)


def perturbed(member: Member, ball: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    _, grad = member.at(z)
    if grad.norm() < 0.5 and member.count > 2:
        z = z + ball
        _, grad = member.at(z)
    return z - 0.1 * grad


def averaged(bench: Bench) -> list[Member]:
    members = bench.members()
    for member in members:
        z, mean, n = member.position(), torch.zeros(()), 0
        for k in range(STEPS):
            z = z - 0.1 * member.at(z)[1]
            if k >= 5:
                mean, n = (z if n == 0 else mean + (z - mean) / (n + 1)), n + 1
        member.move(mean)
    return members


def hopping(name: str, bench: Bench) -> list[Member]:
    """Descents from perturbed minima, each until the gradient is small."""
    lr, eps, tau = HOP["lr"], HOP["eps"], HOP["tau"]

    def descend(member: Member, z: torch.Tensor) -> tuple[torch.Tensor, float]:
        loss, grad = member.at(z)
        for _ in range(tau):
            if grad.norm() < eps:
                break
            z = z - lr * grad
            loss, grad = member.at(z)
        return z, loss

    members, balls = bench.members(), [bench.ball(k, HOP["rho"]) for k in range(HOPS)]
    for i, member in enumerate(members):
        z, _ = descend(member, member.position())
        for k in range(1, HOPS):
            here = member.at(z) if name != "nim-bh" else (0.0, z)
            moved = z + balls[k][i]
            if name.startswith("nig"):
                moved = z - lr * (here[1] + balls[k][i])
            found, loss = descend(member, moved)
            if "mbh" not in name or loss < here[0]:
                z = found
        member.move(z)
    return members


SWARM = {"egd": (0.1, 1.0, 0.0, 0.0), "cno": (0.1, 1.0, 0.5, 0.5), "cnognp": (0.1, 1.0, 0.5, 0.5),
         "pso": (0.0, 0.7298, 1.49618, 1.49618), "pso-bfgs": (0.1, 1.0, 0.5, 0.5)}  # fmt: skip


def swarming(name: str, bench: Bench) -> list[Member]:
    """Swarms: a local search, then the pulls to the best points."""
    members, (lr, inertia, c1, c2) = bench.members(), SWARM[name]
    valued = name in ("pso", "pso-bfgs")

    def judged(member: Member, z: torch.Tensor) -> tuple[float, torch.Tensor]:
        if valued:
            return member.value(z), z
        loss, grad = member.at(z)
        return loss + (0.01 * float(grad @ grad) if name == "cnognp" else 0.0), grad

    places = [member.position() for member in members]
    fitness, grads = map(list, zip(*map(judged, members, places), strict=True))
    bests, best, velocity = list(places), list(fitness), [torch.zeros_like(z) for z in places]
    for k in range(STEPS):
        leader = bests[min(range(MEMBERS), key=best.__getitem__)]
        r = bench.pulls(k, places[0].numel() if name == "pso" else 1)
        for i, member in enumerate(members):
            z = places[i]
            pull = c1 * r[i, 0] * (bests[i] - z) + c2 * r[i, 1] * (leader - z)
            if name == "pso":
                velocity[i] = inertia * velocity[i] + pull
                z = z + velocity[i]
            elif name == "pso-bfgs":
                member.move(z)
                torch.optim.LBFGS(
                    member.module.parameters(), lr=lr, max_iter=5, max_eval=100, history_size=10,
                    tolerance_grad=0.0, tolerance_change=0.0,
                ).step(member.backward)  # fmt: skip
                z = member.position() + pull
            else:
                z = z - lr * grads[i] + pull
            places[i] = z
            now, grads[i] = judged(member, z)
            if now < best[i]:
                best[i], bests[i] = now, z
    for member, z in zip(members, bests, strict=True):
        member.move(z)
    return members


def loop(name: str) -> Callable[[Bench], list[Member]] | None:
    """What moves members as the method called ``name`` does, in a Python loop; None if not here."""
    own: dict[str, Callable] = {
        "gd": lambda params: torch.optim.SGD(params, lr=0.1),
        "sgd": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
        "adam": lambda params: torch.optim.Adam(params, lr=0.01),
        "adamw": lambda params: torch.optim.AdamW(params, lr=0.01),
        "bfgs": torch_optim.BFGS,
        "lbfgs-gss": torch_optim.LBFGS,
    }
    moves = {"normalised-gd": normalised, "nig": noisy, "nim": perturbed}
    if name in own:
        return lambda bench: optimisers(bench, own[name])
    if name in moves:
        return lambda bench: stepping(bench, moves[name])
    if name in SHARP:
        return lambda bench: stepping(bench, neighbour(name, bench))
    if name == "swa":
        return averaged
    if name in SWARM:
        return lambda bench: swarming(name, bench)
    return (lambda bench: hopping(name, bench)) if hops(name) else None


def compared(name: str, bench: Bench, peer: Callable) -> Iterator[float]:
    """Evaluations of both sides and the distance of their ends.

    Raises:
        RuntimeError: if either is not equal.
    """
    ends, spent = bench.together(name)
    members = peer(bench)
    counted = sum(member.count for member in members)
    # Rounding in float32 decides where a line search stops, and grows along quasi-Newton steps.
    rounded = name in ("bfgs", "lbfgs-gss", "pso-bfgs")
    few, near = (0.02, 1e-2) if rounded else (1e-9, 1e-4)
    losses = [[m.value(z) for m, z in zip(members, points, strict=True)]
              for points in (ends, [m.position() for m in members])]  # fmt: skip
    gap = float((torch.tensor(losses[0]) - torch.tensor(losses[1])).abs().median())
    if abs(spent - counted) > few * counted or gap > near:
        raise RuntimeError(f"{name}: {spent} and {counted} evaluations, losses {gap} apart")
    yield from (spent, counted, gap)


def main() -> None:
    """Compares and times all of them."""
    options = arguments(__doc__)
    bench, rows = Bench(), {}
    for name in METHODS:
        peer = loop(name)
        if peer is None:
            continue
        spent, counted, gap = compared(name, bench, peer)
        seconds = interleaved(
            {
                "population": lambda n=name: deque(bench.together(n), maxlen=0),
                "loop": lambda peer=peer: peer(bench),
            },
            options.rounds,
        )
        per = {"population": 1e6 * seconds["population"] / spent}
        per["loop"] = 1e6 * seconds["loop"] / counted
        rows[name] = {
            "evaluations": [round(spent), counted], "losses apart": gap,
            "us an evaluation": per, "faster": per["loop"] / per["population"],
        }  # fmt: skip
    report(f"every method on Wine, {MEMBERS} members", rows, options)


if __name__ == "__main__":
    main()
