"""Training tasks: what a network learns from what, built in or from a file of the user's own."""

from typing import TYPE_CHECKING, Any

from cnognp.tasks.registry import TASKS, TaskError, describe, load

if TYPE_CHECKING:
    from cnognp.tasks.classification import macro_f1
    from cnognp.tasks.task import Task, initial_population

__all__ = ["TASKS", "Task", "TaskError", "describe", "initial_population", "load", "macro_f1"]

_NEEDS_TORCH = ("Task", "initial_population")


def __getattr__(name: str) -> Any:
    # The command line lists tasks without waiting seconds for torch.
    if name in _NEEDS_TORCH:
        from cnognp.tasks import task

        return getattr(task, name)
    if name == "macro_f1":
        from cnognp.tasks.classification import macro_f1

        return macro_f1
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
