"""The methods by name, each as a function with plain keywords that returns a `Method`.

The command line reads names, keywords and descriptions from here, so this module imports torch only
when a method is made.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from cnognp.methods.builders import descent, noise, sharpness
from cnognp.methods.builders.parts import Decay, scheduled, trained

if TYPE_CHECKING:
    from cnognp.method import Method
else:
    # So that typing.get_type_hints resolves the return type without torch.
    Method = Any

Randomness = Literal["particle", "tensor", "coordinate"]
BATCH = 32
"""Samples in a mini-batch where nobody has said how many."""


def gd(
    lr: float = 0.1,
    schedule: Decay = "constant",
    horizon: int = 100,
    warmup: int = 0,
) -> "Method":
    """Gradient descent on the whole data: z <- z - lr grad f(z).

    Args:
        lr: step length; a minimum with largest eigenvalue l attracts only below 2 / l.
        schedule: how lr falls: not at all, to a tenth after each third of the horizon, or like a
            cosine.
        horizon: iterations that the schedule spans.
        warmup: iterations over which lr first rises from near 0; they belong to the horizon.
    """
    given = locals()
    from cnognp.methods.descent import GradientDescent

    return scheduled(GradientDescent(lr=lr), given)


def sgd(
    lr: float = 0.1,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    batch_size: int = 32,
    schedule: Decay = "constant",
    horizon: int = 100,
    warmup: int = 0,
) -> "Method":
    """Stochastic gradient descent with momentum; one iteration is one epoch of mini-batches.

    Args:
        lr: step length.
        momentum: factor on the velocity, from 0 to below 1.
        nesterov: look ahead along the velocity.
        weight_decay: added to the gradient, times the weights.
        decoupled: the decay shrinks the weights by lr times weight_decay instead.
        batch_size: samples in a mini-batch; 0 takes one step on the whole data.
        schedule: how lr falls: not at all, to a tenth after each third of the horizon, or like a
            cosine.
        horizon: iterations that the schedule spans.
        warmup: iterations over which lr first rises from near 0; they belong to the horizon.
    """
    given = locals()
    from cnognp.methods.descent import SGD

    step = SGD(
        lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, decoupled=decoupled
    )
    return trained(step, given)


def egd(lr: float = 0.1) -> "Method":
    """The swarm without attraction: every member follows its own Euler gradient flow.

    Args:
        lr: Euler step of the flow.
    """
    return cno(lr=lr, cognitive=0.0, social=0.0, batch_size=0)


def cno(
    lr: float = 0.1,
    inertia: float = 1.0,
    cognitive: float = 0.1,
    social: float = 0.1,
    randomness: Randomness = "particle",
    batch_size: int | None = None,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    box: tuple[float, float] | None = None,
    mutation: float = 0.0,
    horizon: int = 100,
    stale_fitness: bool = False,
) -> "Method":
    """Collaborative neurodynamic optimisation: gradient steps, drawn to the best points so far.

    An iteration is an epoch of mini-batches. As published for small networks: ``batch_size=0``, and
    pulls from 0.1 to 1; one step in an iteration trains few networks within a hundred of them, and
    pulls of 0.5 put all members on one point after some twenty.

    Args:
        lr: Euler step of each member's gradient flow.
        inertia: factor on that step (the paper's omega; no velocity is remembered).
        cognitive: largest pull towards a member's own best point (c1).
        social: largest pull towards the best point of all (c2).
        randomness: one random factor per particle, per tensor, or per coordinate.
        batch_size: samples in a mini-batch, an epoch of which is one iteration; 0 takes one step on
            the whole data, as published. If none is given: 32 in training where the data fall into
            samples, else 0.
        momentum: of the epoch's steps.
        weight_decay: of the epoch's steps.
        box: (low, high) that every coordinate is clipped to.
        mutation: diversity below which members mutate by a wavelet; 0 for never. Needs a box.
        horizon: iterations over which the mutation narrows.
        stale_fitness: the published code's mistake, the fitness of the previous point; for
            comparison only.
    """
    from cnognp.methods.fitness import Loss

    return _swarm(Loss(), locals())


def cnognp(
    lr: float = 0.1,
    penalty: float = 0.01,
    power: Literal["squared", "norm"] = "squared",
    inertia: float = 1.0,
    cognitive: float = 0.1,
    social: float = 0.1,
    randomness: Randomness = "particle",
    batch_size: int | None = None,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    box: tuple[float, float] | None = None,
    mutation: float = 0.0,
    horizon: int = 100,
    stale_fitness: bool = False,
) -> "Method":
    """CNO whose fitness adds a gradient norm penalty to the loss.

    An iteration is an epoch of mini-batches. As published for small networks: ``batch_size=0``, and
    pulls from 0.1 to 1; one step in an iteration trains few networks within a hundred of them, and
    pulls of 0.5 put all members on one point after some twenty.

    Args:
        lr: Euler step of each member's gradient flow.
        penalty: weight of the gradient norm in the fitness (lambda).
        power: penalise the squared norm (as published) or the norm (as the published code does).
        inertia: factor on that step (the paper's omega; no velocity is remembered).
        cognitive: largest pull towards a member's own best point (c1).
        social: largest pull towards the best point of all (c2).
        randomness: one random factor per particle, per tensor, or per coordinate.
        batch_size: samples in a mini-batch, an epoch of which is one iteration; 0 takes one step on
            the whole data, as published. If none is given: 32 in training where the data fall into
            samples, else 0.
        momentum: of the epoch's steps.
        weight_decay: of the epoch's steps.
        box: (low, high) that every coordinate is clipped to.
        mutation: diversity below which members mutate by a wavelet; 0 for never. Needs a box.
        horizon: iterations over which the mutation narrows.
        stale_fitness: the published code's mistake, the fitness of the previous point; for
            comparison only.
    """
    from cnognp.methods.fitness import GradientNormPenalty

    return _swarm(GradientNormPenalty(penalty, power), locals())


def pso(
    inertia: float = 0.7298,
    cognitive: float = 1.49618,
    social: float = 1.49618,
    randomness: Randomness = "coordinate",
    box: tuple[float, float] | None = None,
) -> "Method":
    """Particle swarm optimisation with velocity memory; uses no gradient.

    Args:
        inertia: factor on the velocity (the constriction coefficient of Clerc & Kennedy 2002).
        cognitive: largest pull towards a member's own best point (c1).
        social: largest pull towards the best point of all (c2).
        randomness: one random factor per particle, per tensor, or per coordinate.
        box: (low, high) that every coordinate is clipped to.
    """
    from cnognp.methods.swarm import Swarm

    return Swarm(
        lr=0.0, inertia=inertia, cognitive=cognitive, social=social, velocity=True,
        randomness=randomness, box=box,
    )  # fmt: skip


def pso_bfgs(
    lr: float = 0.1,
    search_iterations: int = 5,
    inertia: float = 1.0,
    cognitive: float = 0.5,
    social: float = 0.5,
    randomness: Randomness = "particle",
    box: tuple[float, float] | None = None,
) -> "Method":
    """The swarm with a few limited-memory BFGS iterations as the local search of every member.

    Args:
        lr: step length of the quasi-Newton iterations.
        search_iterations: quasi-Newton iterations in a step.
        inertia: factor on the displacement by the local search.
        cognitive: largest pull towards a member's own best point (c1).
        social: largest pull towards the best point of all (c2).
        randomness: one random factor per particle, per tensor, or per coordinate.
        box: (low, high) that every coordinate is clipped to.
    """
    from cnognp.method import require
    from cnognp.methods.quasi_newton import LBFGS
    from cnognp.methods.swarm import Swarm

    require(search_iterations >= 1, "search_iterations", "at least 1", search_iterations)
    return Swarm(
        lr=0.0, local=LBFGS(lr=lr, iterations=search_iterations), inertia=inertia,
        cognitive=cognitive, social=social, randomness=randomness, box=box,
    )  # fmt: skip


def _swarm(fitness: Any, given: dict[str, Any]) -> "Method":
    """The swarm that `cno` and `cnognp` share, from their keywords.

    Raises:
        ValueError: if keywords contradict each other.
    """
    from cnognp.method import require
    from cnognp.methods.descent import SGD, Epoch, GradientDescent
    from cnognp.methods.swarm import Swarm, WaveletMutation

    if given["batch_size"] is None:
        # Training has settled it before; an objective without samples takes its steps whole.
        given = {**given, "batch_size": BATCH if given["momentum"] or given["weight_decay"] else 0}
    for name in ("batch_size", "mutation"):
        require(given[name] >= 0, name, "at least 0", given[name])
    local = None
    steps: Any
    if given["batch_size"]:
        extras = {name: given[name] for name in ("momentum", "weight_decay")}
        # Without them no velocity is carried and kept for nothing.
        steps = SGD(given["lr"], **extras) if any(extras.values()) else GradientDescent(given["lr"])
        local = Epoch(steps, given["batch_size"], evaluate=False)
    elif given["momentum"] or given["weight_decay"]:
        raise ValueError("momentum and weight_decay belong to mini-batch steps: set batch_size")
    mutation = None
    if given["mutation"]:
        mutation = WaveletMutation(threshold=given["mutation"], horizon=given["horizon"])
    return Swarm(
        lr=0.0 if local else given["lr"],
        local=local,
        fitness=fitness,
        inertia=given["inertia"],
        cognitive=given["cognitive"],
        social=given["social"],
        randomness=given["randomness"],
        box=given["box"],
        mutation=mutation,
        stale_fitness=given["stale_fitness"],
    )


METHODS: Mapping[str, Callable[..., "Method"]] = MappingProxyType({
    "gd": gd,
    "sgd": sgd,
    "normalised-gd": descent.normalised_gd,
    "adam": descent.adam,
    "adamw": descent.adamw,
    "nig": noise.nig,
    "nim": noise.nim,
    "nig-bh": noise.nig_bh,
    "nim-bh": noise.nim_bh,
    "nig-mbh": noise.nig_mbh,
    "nim-mbh": noise.nim_mbh,
    "sam": sharpness.sam,
    "asam": sharpness.asam,
    "gcsam": sharpness.gcsam,
    "gnp": sharpness.gnp,
    "swa": sharpness.swa,
    "bfgs": descent.bfgs,
    "lbfgs-gss": descent.lbfgs_gss,
    "pso": pso,
    "pso-bfgs": pso_bfgs,
    "egd": egd,
    "cno": cno,
    "cnognp": cnognp,
})
