"""The built-in tasks by name, and tasks from a file of the user's own.

The command line reads keywords and descriptions from here. They come from the sources, and torch
and scikit-learn are imported only when a task is made.
"""

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from cnognp.keywords import Made, function, keywords_of

if TYPE_CHECKING:
    from cnognp.tasks.task import Task

_PLACES: Mapping[str, str] = {
    "adult": "census:adult",
    "breast-cancer": "tabular:breast_cancer",
    "breastmnist": "medical:breastmnist",
    "cifar10": "cifar:cifar10",
    "cifar100": "cifar:cifar100",
    "digits": "images:digits",
    "goemotions": "text:goemotions",
    "imagenet": "imagenet:imagenet",
    "mnist": "mnist:mnist",
    "pneumoniamnist": "medical:pneumoniamnist",
    "tweeteval": "text:tweeteval",
    "wine": "tabular:wine",
}


def _built_in(name: str) -> Callable[..., "Task"]:
    """The function that makes a built-in task."""
    place = _PLACES[name]
    module, _, inside = place.partition(":")

    def make(given: Mapping[str, Any]) -> "Task":
        return getattr(importlib.import_module(f"cnognp.tasks.{module}"), inside)(**given)

    text, keywords = keywords_of("tasks", place)
    return function(inside, text, keywords, make)


TASKS: Mapping[str, Callable[..., "Task"]] = Made(_PLACES, _built_in)
"""Functions with plain keywords that return a `Task`, by name."""


class TaskError(ValueError):
    """A user's task file that fails; the message names the file and the line."""


def load(spec: str, /, **keywords: Any) -> "Task":
    """The task that ``spec`` names.

    Args:
        spec: a name in `TASKS`, or ``path/to/file.py:function``. The file is run afresh; modules
            beside it can be imported while it loads. Its function must return a `Task`.
        keywords: go to the function. ``seed`` is left out where the function does not take it.

    Raises:
        ValueError: if there is no such task, file, function or keyword.
        TaskError: if the user's file or function fails, or returns something else than a `Task`.
    """
    path, colon, _ = spec.rpartition(":")
    if spec in TASKS or not (colon and path.endswith(".py")):
        build = builder(spec)
        return build(**_accepted(build, keywords, spec))
    return _from_file(Path(path).expanduser(), spec, keywords)


def builder(spec: str, /) -> Callable[..., Any]:
    """The function that makes the task which ``spec`` names; its signature has the task's keywords.

    Raises:
        ValueError: if there is no such task, file or function.
        TaskError: if the user's file fails.
    """
    if spec in TASKS:
        return TASKS[spec]
    path, colon, name = spec.rpartition(":")
    if colon and path.endswith(".py"):
        return _function(Path(path).expanduser(), name)
    if spec.endswith(".py"):
        raise ValueError(
            f"{spec} names a file but no function in it; write {spec}:FUNCTION, for instance "
            f"{spec}:make_task"
        )
    near = difflib.get_close_matches(spec.lower().replace("_", "-"), TASKS, n=1)
    advice = f"Did you mean {near[0]!r}? " if near else ""
    raise ValueError(
        f"no task is called {spec!r}. {advice}Built in: {', '.join(TASKS)}. A task of your own is "
        "path/to/file.py:function"
    )


def defaults(name: str) -> dict[str, Any]:
    """The keywords of a built-in task at their defaults; none of one in a file."""
    if name not in TASKS:
        return {}
    return {p.name: p.default for p in inspect.signature(TASKS[name]).parameters.values()}


def check_data(name: str, data: str) -> None:
    """Nothing, if the files that a built-in task reads are in its folder; none of them is read.

    Nor is anything checked of a task that brings its data, or takes whatever images a folder has.

    Args:
        name: of the task.
        data: the folder.

    Raises:
        FileNotFoundError: if one is missing; says which, and how to get it.
    """
    module = importlib.import_module(f"cnognp.tasks.{_PLACES[name].partition(':')[0]}")
    if (check := getattr(module, "check_data", None)) is not None:
        check(name, Path(data).expanduser())


def describe() -> dict[str, str]:
    """One line on each built-in task, by name.

    >>> describe()["wine"]
    'Wine: 3 cultivars from 13 measurements, 178 rows, a perceptron.'
    """
    return {name: inspect.getdoc(build).splitlines()[0] for name, build in TASKS.items()}  # type: ignore[union-attr]


def _from_file(path: Path, spec: str, keywords: Mapping[str, Any]) -> "Task":
    from cnognp.tasks.task import Task

    with _importable(path.parent):
        build = builder(spec)
        keywords = _accepted(build, keywords, spec)
        with _blamed(path):
            task = build(**keywords)
    if not isinstance(task, Task):
        raise TaskError(
            f"{spec} returned {type(task).__name__}, but a cnognp.tasks.Task was expected"
        )
    return task


def _function(path: Path, name: str) -> Callable[..., Any]:
    if not path.is_file():
        raise ValueError(
            f"no file {path}, so no task {path}:{name}; relative paths start at {Path.cwd()}"
        )
    with _importable(path.parent):
        module = _run(path)
    build = getattr(module, name, None)
    if callable(build):
        return build
    own = [
        key
        for key, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    ]
    raise ValueError(f"{path} has no function {name!r}; its functions: {', '.join(own) or 'none'}")


def _run(path: Path) -> ModuleType:
    # The name follows from the path, so that another process finds the same classes.
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    name = f"cnognp_task_{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules[name] = module
    try:
        with _blamed(path):
            # Compiled here: the cache of the import system can miss an edit of the same second.
            exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Modules in ``folder`` can be imported, after all installed ones."""
    place = str(folder.resolve())
    sys.path.append(place)
    try:
        yield
    finally:
        # The user's file may have removed it, or put the same folder elsewhere.
        for index in range(len(sys.path) - 1, -1, -1):
            if sys.path[index] == place:
                del sys.path[index]
                break


@contextmanager
def _blamed(path: Path) -> Iterator[None]:
    # The deepest line in the user's own file tells more than where it was called from.
    try:
        yield
    except Exception as error:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == str(path)
        ]
        if isinstance(error, SyntaxError) and error.filename == str(path):
            lines.append(error.lineno)
        place = f"{path}, line {lines[-1]}" if lines else str(path)
        raise TaskError(f"{place}: {type(error).__name__}: {error}") from error


def _accepted(build: Callable[..., Any], keywords: Mapping[str, Any], spec: str) -> dict[str, Any]:
    parameters = inspect.signature(build).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return dict(keywords)
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    kept = {key: value for key, value in keywords.items() if key in names}
    unknown = [key for key in keywords if key not in names and key != "seed"]
    if unknown:
        raise ValueError(
            f"{spec} takes no {', '.join(unknown)}; it takes: {', '.join(names) or 'nothing'}"
        )
    lacking = [
        p.name for p in parameters
        if p.default is p.empty and p.name not in kept
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]  # fmt: skip
    if lacking:
        raise ValueError(f"{spec} needs a value for {', '.join(lacking)}")
    return kept
