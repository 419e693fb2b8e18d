"""What several named methods are made of, from their keywords."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from cnognp.method import Method
    from cnognp.methods.schedule import Schedule
else:
    # So that typing.get_type_hints resolves the return type without torch.
    Method = Schedule = Any

Base = Literal["sgd", "adam", "adamw"]
Decay = Literal["constant", "step", "cosine"]
Centre = Literal["none", "all", "convolutions"]


def base_step(given: Mapping[str, Any]) -> Method:
    """The method that does the step, from ``base``, ``lr``, ``momentum`` and ``weight_decay``.

    Raises:
        ValueError: if a keyword is out of range, or momentum is given to a method with its own.
    """
    from cnognp.method import require
    from cnognp.methods.adaptive import Adam, AdamW
    from cnognp.methods.descent import SGD

    bases = ("sgd", "adam", "adamw")
    require(given["base"] in bases, "base", f"one of {bases}", given["base"])
    if given["base"] == "sgd":
        return SGD(lr=given["lr"], momentum=given["momentum"], weight_decay=given["weight_decay"])
    if given["momentum"]:
        raise ValueError(f"momentum belongs to base='sgd'; {given['base']} has its own")
    kind = Adam if given["base"] == "adam" else AdamW
    return kind(lr=given["lr"], weight_decay=given["weight_decay"])


def trained(method: Method, given: Mapping[str, Any], evaluate: bool = True) -> Method:
    """The method on mini-batches and with a schedule, where the keywords ask for them.

    Args:
        method: does the step.
        given: has ``batch_size`` and what `scheduled` needs.
        evaluate: as in `cnognp.methods.descent.Epoch`.

    Raises:
        ValueError: if a keyword is out of range.
    """
    from cnognp.method import require
    from cnognp.methods.descent import Epoch

    size = given["batch_size"]
    require(size >= 0, "batch_size", "at least 0", size)
    # Outermost, so that a round of the schedule is an iteration as users count them.
    return scheduled(Epoch(method, size, evaluate) if size else method, given)


def scheduled(method: Method, given: Mapping[str, Any]) -> Method:
    """The method with the schedule that ``schedule``, ``horizon`` and ``warmup`` describe.

    Raises:
        ValueError: if a keyword is out of range.
    """
    from cnognp.methods.schedule import Constant, Scheduled

    described = schedule(given)
    return method if described == Constant() else Scheduled(method, described)


def schedule(given: Mapping[str, Any]) -> Schedule:
    """The schedule that ``schedule``, ``horizon`` and ``warmup`` describe.

    Raises:
        ValueError: if a keyword is out of range.
    """
    from cnognp.method import require
    from cnognp.methods.schedule import Constant, Cosine, StepDecay, WarmUp

    kinds = ("constant", "step", "cosine")
    require(given["schedule"] in kinds, "schedule", f"one of {kinds}", given["schedule"])
    require(given["horizon"] >= 1, "horizon", "at least 1", given["horizon"])
    require(given["warmup"] >= 0, "warmup", "at least 0", given["warmup"])
    if given["schedule"] == "constant" and not given["warmup"]:
        return Constant()
    left = max(1, given["horizon"] - given["warmup"])
    decay: Schedule = Constant()
    if given["schedule"] == "step":
        decay = StepDecay(-(-left // 3))
    elif given["schedule"] == "cosine":
        decay = Cosine(left)
    return WarmUp(given["warmup"], decay)
