"""What a complete figure is, and how it is found: a module of this package declares its own."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import figures
from figures import style
from landscape.results import Result


@dataclass(frozen=True)
class Picture:
    """A complete figure of some kinds of results, ready to be saved; `picture` declares one.

    Attributes:
        name: what it is called beside the other figures of a result.
        kinds: the results that it is of.
        draw: gives the figure of a result, or None where there is nothing to show.
    """

    name: str
    kinds: tuple[type[Result], ...]
    draw: Callable[[Any], Any]

    def __call__(self, result: Any) -> Any:
        return self.draw(result)


class Animation(Picture):
    """A moving picture: what is drawn is the list of its frames; `animation` declares one."""


def picture(name: str, *kinds: type[Result]) -> Callable[[Callable[[Any], Any]], Picture]:
    """A decorator that makes a picture of a function, which then draws in our style.

    Args:
        name: of the picture.
        kinds: the results that the function takes.
    """
    return lambda draw: Picture(name, kinds, style.context()(draw))


def animation(*kinds: type[Result]) -> Callable[[Callable[[Any], list[np.ndarray]]], Animation]:
    """A decorator that makes a moving picture of a function, which then draws in our style.

    Args:
        kinds: the results that the function takes.
    """
    return lambda draw: Animation("", kinds, style.context()(draw))


def pictures(result: Any) -> Iterator[Picture]:
    """The pictures that there are of a result, in the order of the modules and of their lines."""
    for found in pkgutil.iter_modules(figures.__path__, f"{figures.__name__}."):
        module = importlib.import_module(found.name)
        for value in vars(module).values():
            if isinstance(value, Picture) and type(result) in value.kinds:
                yield value


def part(result: Any) -> str:
    """The layers that a matrix is restricted to; empty for all."""
    return f"parameters of {result.where}" if result.where else ""


def statistics(result: Any) -> str:
    """Which BatchNorm statistics were used; empty where there are none."""
    return f"BatchNorm statistics: {result.statistics}" if result.statistics else ""


def count(values: np.ndarray, thing: str) -> str:
    """How many values there are, and how many are finite where not all are."""
    finite = np.isfinite(values).sum()
    return style.plural(values.size, thing) + (
        f", {finite:,} finite" if finite < values.size else ""
    )
