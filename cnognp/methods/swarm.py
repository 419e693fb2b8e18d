"""Swarms of gradient flows: CNO, CNOGNP, PSO and their hybrids are one method with other parts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from cnognp.method import Info, Method, Traits, norms, require
from cnognp.methods.attraction import Move, bests
from cnognp.methods.composition import class_of
from cnognp.methods.descent import GradientDescent
from cnognp.methods.fitness import Fitness, Loss
from cnognp.methods.quasi_newton import LBFGS
from landscape.devices import sent
from landscape.objective import Objective, offered, value, value_and_grad
from landscape.randomness import derive, draw_rows


class SwarmState(NamedTuple):
    """Members with loss and gradient at their positions, and the best points that they have seen.

    ``best`` and ``best_fitness`` were produced by one evaluation. ``velocity``, ``grad`` and
    ``local`` are None where the swarm has no use for them. ``round`` counts the steps; it lives on
    the CPU, so that no step waits for an accelerator.
    """

    position: Tensor
    loss: Tensor
    grad: Tensor | None
    best: Tensor
    best_fitness: Tensor
    velocity: Tensor | None
    local: Any
    round: Tensor


@dataclass(frozen=True)
class WaveletMutation:
    r"""Members that have come too close are scattered by a Morlet wavelet.

    Where the mean distance to the leader is below ``threshold``:
    :math:`a = e^{10 j / J}`, :math:`\varphi \sim U(-2.5 a, 2.5 a)`,
    :math:`\mu = a^{-1/2} e^{-(\varphi/a)^2/2} \cos(5 \varphi / a)`; then
    :math:`x \leftarrow x + \mu (x_{\max} - x)` for positive and :math:`x + \mu (x - x_{\min})`
    for negative :math:`\mu`.

    Args:
        threshold: distance below which members mutate, positive.
        horizon: J, the iterations over which the mutation narrows.

    Raises:
        ValueError: if one is not positive.

    Reference: the diversity step of collaborative neurodynamic optimisation (Yan, Fan & Wang 2017).
    """

    threshold: float
    horizon: int

    def __post_init__(self):
        require(self.threshold > 0, "threshold", "positive", self.threshold)
        require(self.horizon > 0, "horizon", "positive", self.horizon)

    def __call__(
        self, z: Tensor, low: Tensor, high: Tensor, round: Tensor, generator: torch.Generator
    ) -> Tensor:
        width = torch.exp(10 * sent(round, z.device, z.dtype) / self.horizon)
        ratio = 5 * draw_rows("uniform", (len(z), 1), generator, z) - 2.5
        mu = torch.exp(-(ratio**2) / 2) * torch.cos(5 * ratio) / width.sqrt()
        return torch.where(mu > 0, z + mu * (high - z), z + mu * (z - low))


@dataclass(frozen=True)
class Swarm:
    r"""A population of local searches, drawn to the best points so far.

    .. math:: z \leftarrow z + \omega (\bar z - z) + c_1 r_1 (p - z) + c_2 r_2 (g - z)

    with :math:`\bar z` where the local search leads, p the best point of the member, g that of all,
    and :math:`r \sim U(0, 1)`. The local search is one gradient step,
    :math:`\bar z = z - \eta \nabla f(z)`, or a step of any other method. With ``velocity``, the
    swarm of Kennedy & Eberhart: :math:`v \leftarrow \omega v + c_1 r_1 (p - z) + c_2 r_2 (g - z)`,
    :math:`z \leftarrow z + v`.

    The new points are evaluated once, and this one evaluation gives their fitness and the gradient
    of the next step. All members move at once, so that their order does not matter. A fitness that
    is not finite is worse than any other, so that no diverged member leads.

    At a minimum of curvature l with p = g the error shrinks in every step if and only if
    :math:`\omega \eta l + c_1 + c_2 \le 2`. As published for small networks: no mini-batches, and
    pulls from 0.1 to 1; one step in an iteration trains few networks within a hundred of them, and
    pulls of 0.5 put all members on one point after some twenty.

    A step costs this evaluation, what the fitness says it costs and what the local search did; the
    first one those of the starts, too.

    Args:
        lr: Euler step of each member's gradient flow; 0 for none, also where ``local`` is set.
        local: another method as the local search.
        fitness: what members are ranked by.
        inertia: factor on the step, or on the velocity where it is remembered (omega).
        cognitive: largest pull towards a member's own best point (c1).
        social: largest pull towards the best point of all (c2).
        velocity: whether velocity is remembered (PSO).
        randomness: one random factor per particle, per tensor (of a network), or per coordinate.
        box: (low, high) that every coordinate is clipped to, or one pair for each coordinate.
        mutation: scatters members that came too close; needs a finite box.
        stale_fitness: the published code's mistake, the fitness of the previous point; for
            comparison only. The best fitness is then not that of the best point.

    Raises:
        ValueError: if one is out of range, or a mutation has no finite box.

    Reference: the steps of the published CNOGNP code, with the fitness taken at the new position.
    """

    lr: float = 0.1
    local: Method | None = None
    fitness: Fitness = Loss()
    inertia: float = 1.0
    cognitive: float = 0.5
    social: float = 0.5
    velocity: bool = False
    randomness: Literal["particle", "tensor", "coordinate"] = "particle"
    box: Sequence | None = None
    mutation: WaveletMutation | None = None
    stale_fitness: bool = False

    fitness_from = "point"

    def __post_init__(self):
        for name in ("lr", "inertia", "cognitive", "social"):
            value = getattr(self, name)
            require(value >= 0 and math.isfinite(value), name, "at least 0 and finite", value)
        choices = ("particle", "tensor", "coordinate")
        require(self.randomness in choices, "randomness", f"one of {choices}", self.randomness)
        if self.box is not None:
            nested = bool(self.box) and isinstance(self.box[0], Sequence)
            pairs = self.box if nested else (self.box,)
            ordered = all(len(pair) == 2 and pair[0] < pair[1] for pair in pairs)
            require(ordered, "box", "(low, high) with low below high", self.box)
        if self.mutation is not None and not (self.box and _finite(self.box)):
            raise ValueError(
                "mutation scatters members inside a box: give a finite box=(low, high), not "
                f"{self.box}"
            )
        if isinstance(self.local, Swarm):
            raise ValueError(
                "a swarm cannot be the local search of a swarm: its loss and gradient would not "
                "belong to where the outer one has put its members"
            )
        if self.local is not None and self.lr:
            raise ValueError("lr is the step of the swarm's own local search: set lr=0 with local")

    @classmethod
    def named(
        cls,
        local: Method | None = None,
        *,
        lr: float = 0.1,
        quasi_newton: bool = False,
        search_iterations: int = 5,
        box: tuple[float, float] | None = None,
        mutation: float = 0.0,
        horizon: int = 100,
        fitness_from: Literal["point", "epoch"] = "point",
        published: bool = False,
        **keys: Any,
    ) -> "Swarm":
        """The swarm, its parts from plain numbers; with ``quasi_newton`` as PSO-BFGS.

        Args:
            local: the local search; one step along the gradient is the swarm's own.
            lr: step length of each member's gradient flow, or of its quasi-Newton search.
            search_iterations: quasi-Newton iterations in a step.
            box: (low, high) that every coordinate is clipped to.
            mutation: diversity below which members mutate by a wavelet; 0 for never. Needs a box.
            horizon: iterations over which the mutation narrows; all of the run where the command
                line gives none.
            fitness_from: what members are ranked by: a pass over the whole data at each new point,
                or the means over the mini-batches of the epoch that led there, free of charge.
            published: repeat the published script for CIFAR, its order and its dummy fitness of the
                starts; keywords at their defaults get its settings. It has 2 members and 10
                iterations. For comparison only.
            **keys: the other fields.

        Raises:
            ValueError: if keywords are out of range or contradict each other.
        """
        require(mutation >= 0, "mutation", "at least 0", mutation)
        if isinstance(local, GradientDescent):
            lr, local = float(local.lr), None
        elif quasi_newton:
            require(search_iterations >= 1, "search_iterations", "at least 1", search_iterations)
            local = LBFGS(lr=lr, iterations=search_iterations)
        kind: Any = cls
        if published or fitness_from == "epoch":
            kind = class_of("epoch_swarm:EpochSwarm")
            keys |= {"published": published}
        return kind(
            lr=0.0 if local else lr,
            local=local,
            box=box,
            mutation=WaveletMutation(mutation, horizon) if mutation else None,
            **keys,
        )

    def init(self, objective: Objective, z: Tensor) -> SwarmState:
        z = self._clipped(z)
        loss, grad = _evaluated(objective, z, self.lr > 0 or self.fitness.needs_gradient)
        fitness = self.fitness(objective, z, loss, grad)
        return SwarmState(
            position=z,
            loss=loss,
            grad=grad,
            best=z,
            # argmin would return the index of a NaN.
            best_fitness=torch.where(fitness.isfinite(), fitness, math.inf),
            velocity=torch.zeros_like(z) if self.velocity else None,
            local=None if self.local is None else self.local.init(objective, z),
            round=torch.zeros((), dtype=torch.int64, device="cpu"),
        )

    @property
    def apart(self) -> bool:
        """Whether members can move a few at a time, told of the leader."""
        return self.mutation is None

    def leader(self, state: SwarmState) -> Tensor:
        """The best point (p,) of all members, which is what they learn from each other in a step.

        Raises:
            ValueError: if they also learn when to scatter, which no few of them can know.
        """
        if self.mutation is not None:
            raise ValueError("members that scatter must fit together: set mutation to 0")
        return state.best[int(state.best_fitness.argmin())]

    def step(
        self,
        objective: Objective,
        state: SwarmState,
        generator: torch.Generator,
        leader: Tensor | None = None,
        over: bool = False,
    ) -> tuple[SwarmState, Info]:
        """The next state and what was seen.

        Args:
            objective: what is minimised.
            state: of these members.
            generator: of the round.
            leader: of all members, where these are some of them only.
            over: the new members may be written over the old ones, so that no memory is asked for.
        """
        local, cost = state.local, self._cost if int(state.round) else 2 * self._cost
        over = over and not self.stale_fitness
        if self.local is not None:
            local, info = self.local.step(
                objective, _at(local, state.position), derive(generator, "local")
            )
            cost += info.evaluations
        leader = self._leader(state) if leader is None else leader
        z, velocity = self._moved(objective, state, local, generator, leader, over)
        z = self._clipped(z, out=z)
        if self.mutation is not None:
            z = self._mutated(z, state, generator)
        # Not where lr is positive now: a schedule may have made it 0 for this step alone.
        loss, grad = _evaluated(objective, z, state.grad is not None)
        norm = None if grad is None else norms(grad)
        fitness = self._judged(objective, state, z, loss, grad, norm)
        # Neither of which is true of what is no number.
        better = (fitness < state.best_fitness) & (fitness > -math.inf)
        new = SwarmState(
            position=z,
            loss=loss,
            grad=grad,
            best=bests(better, z, state.best, over),
            best_fitness=torch.where(better, fitness, state.best_fitness),
            velocity=velocity,
            local=local,
            round=state.round + 1,
        )
        return new, Info(z, loss, norm, fitness, cost)

    @property
    def moves_by_lr(self) -> bool:
        """Whether a schedule has an lr to change here; with 0 the local search, if any, has it."""
        return self.lr > 0

    @property
    def traits(self) -> Traits:
        """Members learn from each other by attraction, and by when they scatter."""
        drawn = bool(self.cognitive or self.social or self.mutation)
        return Traits(random=drawn, couples=bool(self.social or self.mutation))

    @property
    def _cost(self) -> float:
        """Evaluations for each member that judging one point takes."""
        return 1.0 + getattr(self.fitness, "evaluations", 0)

    def _judged(
        self,
        objective: Objective,
        state: SwarmState,
        z: Tensor,
        loss: Tensor,
        grad: Tensor | None,
        norm: Tensor | None,
    ) -> Tensor:
        """The fitness (n,) at z, from the gradient's norm alone where that is enough."""
        if self.stale_fitness:
            return self.fitness(objective, state.position, state.loss, state.grad)
        of_norm = getattr(self.fitness, "of_norm", None)
        return of_norm(loss, norm) if of_norm else self.fitness(objective, z, loss, grad)

    def _leader(self, state: SwarmState) -> Tensor:
        """Whom each member follows, (p,) or (n, p)."""
        place = state.best_fitness.argmin()
        if place.device.type == "cpu":
            return state.best[place]
        # As an index the place would be fetched by the host, which had to wait for it.
        return state.best.index_select(0, place.unsqueeze(0))[0]

    def _moved(
        self,
        objective: Objective,
        state: SwarmState,
        local: Any,
        generator: torch.Generator,
        leader: Tensor,
        over: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """The members' next places and velocities."""
        z, velocity = state.position, state.velocity
        own, common = self._factors(objective, z, generator)
        onward = velocity if over or velocity is None else torch.empty_like(z)
        move = Move(
            z, state.best, leader, own, common,
            grad=state.grad if local is None and self.lr else None,
            found=None if local is None else local.position,
            velocity=velocity, out=z if over else torch.empty_like(z), onward=onward,
        )  # fmt: skip
        move.take(self.inertia, self.inertia * self.lr)
        return move.out, onward

    def _factors(
        self, objective: Objective, z: Tensor, generator: torch.Generator
    ) -> tuple[Tensor | None, Tensor | None]:
        """Of the pulls to a member's own best point and to the leader, (n, 1) or (n, p) each.

        Row i of the random numbers belongs to member i. None where nothing pulls.

        Raises:
            ValueError: if one number per tensor is wanted and the objective knows no tensors.
        """
        if not (self.cognitive or self.social):
            return None, None
        layout = offered(objective, "layout")
        if self.randomness == "tensor" and layout is None:
            raise ValueError("randomness='tensor' needs an objective with a layout, a network's")
        width = {"particle": 1, "tensor": len(layout.names) if layout else 1}.get(
            self.randomness, z.shape[-1]
        )
        r = draw_rows("uniform", (len(z), 2, width), derive(generator, "attraction"), z)
        if self.randomness == "tensor":
            r = layout.spread(r)  # type: ignore[union-attr]
        return self.cognitive * r[:, 0], self.social * r[:, 1]

    def _mutated(self, z: Tensor, state: Any, generator: torch.Generator) -> Tensor:
        # A member that has diverged must not keep the others from scattering.
        diversity = norms(z - self._leader(state)).nanmean()
        low, high = self._bounds(z)
        scattered = self.mutation(z, low, high, state.round, derive(generator, "mutation"))  # type: ignore[misc]
        return torch.where(diversity < self.mutation.threshold, scattered, z)  # type: ignore[union-attr]

    def _clipped(self, z: Tensor, out: Tensor | None = None) -> Tensor:
        if self.box is None:
            return z
        if not isinstance(self.box[0], Sequence):
            return torch.clamp(z, *self.box, out=out)
        low, high = self._bounds(z)
        return torch.minimum(torch.maximum(z, low, out=out), high, out=out)

    def _bounds(self, z: Tensor) -> tuple[Tensor, Tensor]:
        pairs = sent(torch.as_tensor(self.box, dtype=z.dtype, device="cpu"), z.device)
        if pairs.ndim == 2 and len(pairs) not in (1, z.shape[-1]):
            raise ValueError(f"box has {len(pairs)} pairs for {z.shape[-1]} coordinates")
        return pairs[..., 0], pairs[..., 1]


def _finite(box: Sequence) -> bool:
    return all(_finite(end) if isinstance(end, Sequence) else math.isfinite(end) for end in box)


def _at(state: Any, z: Tensor) -> Any:
    """The local search's state, moved to where the swarm has put its members."""
    return state._replace(position=z)


def _evaluated(objective: Objective, z: Tensor, slope: bool) -> tuple[Tensor, Tensor | None]:
    """Loss, and gradient where a slope is wanted, at z."""
    return value_and_grad(objective, z) if slope else (value(objective, z), None)
