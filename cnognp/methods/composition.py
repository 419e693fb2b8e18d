"""What is composed with any step, each with the only definition of its keywords.

A step (SAM, Adam, noise ...) has keywords of its own, in its class. What does not depend on it is
here: its base, its gradients' centralisation, its data and its schedule. torch is imported only
when a method is made, so that the command line can read the keywords.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from cnognp.method import Method
    from cnognp.methods import schedule as schedules

Known = Literal["sgd", "adam", "adamw"]
BASES: dict[str, str] = {"sgd": "descent:SGD", "adam": "adaptive:Adam", "adamw": "adaptive:AdamW"}
"""Where the classes of `Known` are."""

Decay = Literal["constant", "step", "cosine"]
Centred = Literal["none", "all", "convolutions"]

COMPOSED = ("base", "batch_size", "schedule", "horizon", "warmup", "centralise")
"""Keywords that say what a step is composed with; on the command line flags of their own."""


def class_of(place: str) -> Any:
    """The class at ``module:Class`` in this package."""
    module, _, name = place.partition(":")
    return getattr(import_module(f"cnognp.methods.{module}"), name)


def _require_one_of(name: str, choices: tuple[str, ...], got: str) -> None:
    from cnognp.method import require

    require(got in choices, name, f"one of {choices}", got)


@dataclass(frozen=True)
class Base:
    """The method that does the step of another one.

    Args:
        lr: step length of the base, not negative.
        base: what does the step.
        momentum: factor on the velocity of sgd, from 0 to below 1.
        weight_decay: of the base step, not negative.

    Raises:
        ValueError: if there is no such base.
    """

    lr: float = 0.1
    base: Known = "sgd"
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self):
        _require_one_of("base", get_args(Known), self.base)

    def step(self) -> "Method":
        """The base method.

        Raises:
            ValueError: if a keyword is out of range, or momentum is given to a method with its own.
        """
        kind, given = class_of(BASES[self.base]), {"lr": self.lr, "weight_decay": self.weight_decay}
        if "momentum" in kind.__dataclass_fields__:
            given["momentum"] = self.momentum
        elif self.momentum:
            raise ValueError(f"momentum belongs to base='sgd'; {self.base} has its own")
        return kind(**given)


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

    def around(self, method: "Method", *, evaluate: bool = True) -> "Method":
        """The method, its gradients centralised."""
        from cnognp.methods.centralisation import Centralised

        if self.centralise == "none":
            return method
        return Centralised(method, conv_only=self.centralise == "convolutions")


@dataclass(frozen=True)
class Data:
    """What a step sees.

    Args:
        batch_size: samples in a mini-batch; 0 takes one step on the whole data.

    Raises:
        ValueError: if it is negative.
    """

    batch_size: int = 32

    def __post_init__(self):
        from cnognp.method import require

        require(self.batch_size >= 0, "batch_size", "at least 0", self.batch_size)

    def around(self, method: "Method", *, evaluate: bool = True) -> "Method":
        """The method on mini-batches, an epoch of which is one iteration."""
        from cnognp.methods.descent import Epoch

        return Epoch(method, self.batch_size, evaluate) if self.batch_size else method


@dataclass(frozen=True)
class Schedule:
    """How the step length falls.

    Args:
        schedule: how lr falls: not at all, to a tenth after each third of the horizon, or like a
            cosine.
        horizon: iterations that the schedule spans.
        warmup: iterations over which lr first rises from near 0; they belong to the horizon.

    Raises:
        ValueError: if one is out of range.
    """

    schedule: Decay = "constant"
    horizon: int = 100
    warmup: int = 0

    def __post_init__(self):
        from cnognp.method import require

        _require_one_of("schedule", get_args(Decay), self.schedule)
        require(self.horizon >= 1, "horizon", "at least 1", self.horizon)
        require(self.warmup >= 0, "warmup", "at least 0", self.warmup)

    def factors(self) -> "schedules.Schedule":
        """The factor on lr as a function of the round."""
        from cnognp.methods.schedule import Constant, Cosine, StepDecay, WarmUp

        if self.schedule == "constant" and not self.warmup:
            return Constant()
        left = max(1, self.horizon - self.warmup)
        decay: schedules.Schedule = Constant()
        if self.schedule == "step":
            decay = StepDecay(-(-left // 3))
        elif self.schedule == "cosine":
            decay = Cosine(left)
        return WarmUp(self.warmup, decay)

    def around(self, method: "Method", *, evaluate: bool = True) -> "Method":
        """The method, its lr scheduled; outermost, so that a round is an iteration of the user."""
        from cnognp.methods.schedule import Constant, Scheduled

        factors = self.factors()
        return method if factors == Constant() else Scheduled(method, factors)
