"""What is composed with any step, each with the only definition of its keywords.

A step (SAM, Adam, noise ...) has keywords of its own, in its class. What does not depend on it is
here: its base, the clipping and centralisation of its gradients, its data, its schedule and the
average that is reported. torch is imported only
when a method is made, so that the command line can read the keywords.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, get_args

from cnognp.ranges import require

if TYPE_CHECKING:
    from cnognp.method import Method
    from cnognp.methods import schedule as schedules

Decay = Literal["constant", "step", "cosine"]
Decayed = Literal["all", "weights"]
Centred = Literal["none", "all", "convolutions"]
Averaged = Literal["none", "swa", "ema"]
Changing = Literal["epoch", "step"]
_STEP = ("lr", "momentum", "weight_decay")  # of the base; methods without one have them, too


def class_of(place: str) -> Any:
    """The class at ``module:Class`` in this package."""
    module, _, name = place.partition(":")
    return getattr(import_module(f"cnognp.methods.{module}"), name)


def unevaluated(method: Any) -> Any:
    """The method, where no part of it evaluates the objective only to tell of it."""
    changes = {
        each.name: unevaluated(getattr(method, each.name))
        for each in fields(method)
        if is_dataclass(getattr(method, each.name))
    }
    if "evaluate" in method.__dataclass_fields__:
        changes["evaluate"] = False
    return replace(method, **changes)


def _require_one_of(name: str, choices: tuple[str, ...], got: str) -> None:
    require(got in choices, name, f"one of {choices}", got)


@dataclass(frozen=True)
class Base:
    """The method that does the step of another one.

    Args:
        lr: step length of the base, not negative.
        base: what does the step; any method that has weight_decay and may see mini-batches.
        momentum: factor on the velocity of sgd, from 0 to below 1.
        weight_decay: of the base step, not negative.
    """

    lr: float = 0.1
    base: str = "sgd"
    momentum: float = 0.0
    weight_decay: float = 0.0

    def step(self, places: Mapping[str, str]) -> "Method":
        """The base method.

        Args:
            places: ``module:Class`` of every method that can be one, by name.

        Raises:
            ValueError: if there is no such base, a keyword is out of range, or momentum is given to
                a method with its own.
        """
        _require_one_of("base", tuple(places), self.base)
        kind = class_of(places[self.base])
        given = {"lr": self.lr, "weight_decay": self.weight_decay}
        if "momentum" in kind.__dataclass_fields__:
            given["momentum"] = self.momentum
        elif self.momentum:
            raise ValueError(f"momentum belongs to base='sgd'; {self.base} has its own")
        return kind(**given)


@dataclass(frozen=True)
class Search(Base):
    """What a member of a swarm does between two pulls.

    Args:
        base: what does the step: a method that has weight_decay and may see mini-batches, or one
            that hands it another gradient, as sam and gcsam do.
        base_step: what does the step of sam, asam, gcsam or gnp.
        base_rho: their rho; their own default if none is given.
    """

    noun = "base"

    base_step: str = "sgd"
    base_rho: float | None = None

    @property
    def plain(self) -> bool:
        """Whether the step is one along the gradient, which needs no memory."""
        return self.base == "sgd" and not (self.momentum or self.weight_decay)

    def keys(self, known: Collection[str]) -> dict[str, Any]:
        """The keywords of the base, which knows these.

        Raises:
            ValueError: if one is given that it does not know.
        """
        keys: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        for own, key in (("momentum", "momentum"), ("base_step", "base"), ("base_rho", "rho")):
            value = getattr(self, own)
            if key in known and value is not None:
                keys[key] = value
            elif value != self.__dataclass_fields__[own].default:
                raise ValueError(f"{own} is nothing that base={self.base!r} has")
        return keys


@dataclass(frozen=True)
class DecayOf:
    """What weight decay shrinks.

    Args:
        decay_of: what weight_decay shrinks: all parameters, or weights alone, which are tensors of
            more than one axis, and not biases and the scales and shifts of norms.

    Raises:
        ValueError: if there is no such choice.
    """

    decay_of: Decayed = "all"

    def __post_init__(self):
        _require_one_of("decay_of", get_args(Decayed), self.decay_of)

    def around(self, method: "Method") -> "Method":
        """The method, its decay restricted; the method itself where it has none."""
        if self.decay_of == "all" or not method.weight_decay:  # type: ignore[attr-defined]
            return method
        return class_of("selective_decay:SelectiveDecay")(method)


@dataclass(frozen=True)
class Clip:
    """How long a gradient may be.

    Args:
        clip: largest Euclidean norm of the gradient of a step, beyond which it is shortened; 0 for
            none.

    Raises:
        ValueError: if it is negative.
    """

    clip: float = 0.0

    def __post_init__(self):
        require(self.clip >= 0, "clip", "at least 0", self.clip)

    def around(self, method: "Method") -> "Method":
        """The method, its gradients clipped."""
        return class_of("clipping:Clipped")(method, self.clip) if self.clip else method


@dataclass(frozen=True)
class Centralisation:
    """Gradient centralisation, where it is asked for.

    Args:
        centralise: subtract row means from the gradients of weights: of none, of all tensors of
            more than one axis, or of convolutions alone (more than three axes).

    Raises:
        ValueError: if there is no such choice.
    """

    centralise: Centred = "none"

    def __post_init__(self):
        _require_one_of("centralise", get_args(Centred), self.centralise)

    def around(self, method: "Method") -> "Method":
        """The method, its gradients centralised."""
        if self.centralise == "none":
            return method
        kind = class_of("centralisation:Centralised")
        return kind(method, conv_only=self.centralise == "convolutions")


@dataclass(frozen=True)
class Data:
    """What a step sees.

    Args:
        batch_size: samples in a mini-batch; 0 takes one step on the whole data.
        accumulation: parts of a mini-batch whose gradients are added up for one step, so that the
            memory is that of a part; the step is that of the whole mini-batch.

    Raises:
        ValueError: if one is out of range, or there is accumulation without mini-batches.
    """

    batch_size: int = 32
    accumulation: int = 1

    def __post_init__(self):
        require(self.batch_size >= 0, "batch_size", "at least 0", self.batch_size)
        alone = self.accumulation == 1 or self.batch_size > 0
        require(self.accumulation >= 1, "accumulation", "at least 1", self.accumulation)
        require(alone, "accumulation", "1 without mini-batches", self.accumulation)

    def around(self, method: "Method") -> "Method":
        """The method on mini-batches, an epoch of which is one iteration."""
        if not self.batch_size:
            return method
        stepwise = getattr(method, "on_minibatches", None)
        inside = unevaluated(method if stepwise is None else stepwise())
        return class_of("descent:Epoch")(inside, self.batch_size, parts=self.accumulation)


@dataclass(frozen=True)
class Schedule:
    """How the step length falls.

    Args:
        schedule: how lr falls: not at all, to a tenth after each third of the horizon, or like a
            cosine.
        horizon: iterations that the schedule spans; all of the run where the command line
            gives none.
        warmup: iterations over which lr first rises from near 0; they belong to the horizon.
        schedule_per: how often lr changes: with every iteration, which is an epoch of mini-batches,
            or with every mini-batch, as schedulers do that are stepped by batch. Horizon and
            warmup are iterations either way.

    Raises:
        ValueError: if one is out of range.
    """

    schedule: Decay = "constant"
    horizon: int = 100
    warmup: int = 0
    schedule_per: Changing = "epoch"

    def __post_init__(self):
        _require_one_of("schedule", get_args(Decay), self.schedule)
        _require_one_of("schedule_per", get_args(Changing), self.schedule_per)
        require(self.horizon >= 1, "horizon", "at least 1", self.horizon)
        require(self.warmup >= 0, "warmup", "at least 0", self.warmup)
        changes = self.schedule != "constant" or self.warmup > 0 or self.schedule_per == "epoch"
        require(changes, "schedule_per", "'epoch' without schedule or warmup", self.schedule_per)

    def factors(self) -> "schedules.Schedule":
        """The factor on lr as a function of the round."""
        constant = class_of("schedule:Constant")()
        if self.schedule == "constant" and not self.warmup:
            return constant
        left = max(1, self.horizon - self.warmup)
        decay: schedules.Schedule = constant
        if self.schedule == "step":
            decay = class_of("schedule:StepDecay")(-(-left // 3))
        elif self.schedule == "cosine":
            decay = class_of("schedule:Cosine")(left)
        return class_of("schedule:WarmUp")(self.warmup, decay)

    def around(self, method: "Method") -> "Method":
        """The method, its lr scheduled; a round is an iteration of the user."""
        factors = self.factors()
        if factors == class_of("schedule:Constant")():
            return method
        per = "step" if self.schedule_per == "step" else "round"
        return class_of("schedule:Scheduled")(method, factors, per)


@dataclass(frozen=True)
class Average:
    """Which average of the points is reported, where it is one.

    Args:
        average: none, swa (stochastic weight averaging) of the points after each iteration, or ema
            (exponential moving average) of those after each step.
        average_start: iterations, or steps, before averaging begins.
        average_every: iterations, or steps, between two points that are averaged.
        average_decay: share of the exponential average that a step keeps, from 0 to below 1; it
            remembers about 1 / (1 - average_decay) steps.

    Raises:
        ValueError: if one is out of range.
    """

    average: Averaged = "none"
    average_start: int = 0
    average_every: int = 1
    average_decay: float = 0.999

    def __post_init__(self):
        _require_one_of("average", get_args(Averaged), self.average)
        require(self.average_start >= 0, "average_start", "at least 0", self.average_start)
        require(self.average_every >= 1, "average_every", "at least 1", self.average_every)
        decays = 0 <= self.average_decay < 1
        require(decays, "average_decay", "from 0 to below 1", self.average_decay)

    def of_steps(self, method: "Method") -> "Method":
        """The method, the average over its steps reported where that is asked for."""
        if self.average != "ema":
            return method
        kind = class_of("averaging:EMA")
        return kind(method, self.average_start, self.average_every, decay=self.average_decay)

    def around(self, method: "Method") -> "Method":
        """The method, the average over its iterations reported where that is asked for."""
        if self.average != "swa":
            return method
        kind = class_of("averaging:SWA")
        return kind(unevaluated(method), self.average_start, self.average_every)


GROUPS = (Base, Search, DecayOf, Clip, Centralisation, Data, Schedule, Average)
"""What a step can be composed with, in the order in which configurations have it."""

COMPOSED = tuple(key for group in GROUPS for key in group.__dataclass_fields__ if key not in _STEP)
"""Keywords that say what a step is composed with; on the command line flags of their own."""

OF_TRAINING = (
    *(key for group in (DecayOf, Clip, Data, Average) for key in group.__dataclass_fields__),
    "schedule_per",
)
"""Those of them that the loop around an optimiser decides, where there is one."""
