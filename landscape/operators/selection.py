"""Some of the coordinates of a flat vector: a layer, a module, whatever a filter accepts."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from landscape.networks import Entry, Layout
from landscape.objective import Derived, Objective, offered, ordinary

Where: TypeAlias = str | Sequence[str] | Callable[[Entry], bool] | Tensor | slice


def selected(objective: Any, where: Where, device: torch.device) -> Int[Tensor, " k"]:
    """The places of the chosen coordinates, ascending.

    Args:
        objective: anything with ``dim`` and, for choices by name, ``layout``.
        where: the name of a tensor or of a module (``"layer1"`` is all inside it), with ``*`` and
            ``?`` where wanted; several of these; a function of an `Entry`; a mask (p,) of booleans;
            or a slice.
        device: where the places shall lie.

    Raises:
        ValueError: if nothing is chosen, a mask has another length, or names are given and the
            objective has no layout.
        TypeError: if ``where`` is of another kind.
    """
    if isinstance(where, slice):
        mask = torch.zeros(objective.dim, dtype=torch.bool, device=device)
        mask[where] = True
    elif isinstance(where, Tensor):
        if where.dtype != torch.bool or where.shape != (objective.dim,):
            raise ValueError(
                f"a mask must be booleans ({objective.dim},), got {where.dtype} "
                f"{tuple(where.shape)}"
            )
        mask = where.to(device)
    else:
        mask = _named(objective, where, device)
    places = mask.nonzero().squeeze(-1)
    if len(places) == 0:
        raise ValueError(f"no coordinate is chosen by {describe(where)!r}")
    return places


def describe(where: Where | None) -> str:
    """How results call the choice; empty for all coordinates."""
    if where is None:
        return ""
    if isinstance(where, str):
        return where
    if isinstance(where, slice):
        return f"{'' if where.start is None else where.start}:" + (
            f"{'' if where.stop is None else where.stop}"
            + (f":{where.step}" if where.step is not None else "")
        )
    if isinstance(where, Tensor):
        return "mask"
    if callable(where):
        return getattr(where, "__name__", type(where).__name__)
    return ", ".join(where)


class Selection(Derived):
    """An objective as a function of some of its coordinates, the others held fixed.

    Whatever takes an objective then looks at one layer alone, for instance
    ``top_eigenpairs(part, part.start, k)`` with ``part = Selection(risk, z, "layer1")``.

    Args:
        objective: over vectors of length p.
        origin: (p,), where the others are held.
        where: which coordinates, as in `selected`.

    Attributes:
        index: (k,), the places of the coordinates.
        start: (k,), the chosen coordinates of the origin.

    Raises:
        ValueError: if the origin has another shape, or nothing is chosen.
    """

    def __init__(self, objective: Objective, origin: Tensor, where: Where):
        if origin.shape != (objective.dim,):
            raise ValueError(f"origin must be ({objective.dim},), got {tuple(origin.shape)}")
        self.parts = (objective,)
        self.origin = ordinary(origin)
        self.index = selected(objective, where, self.origin.device)
        self.start = self.origin[self.index]
        self.dim = len(self.index)

    layout = None  # its coordinates are no tensors

    def point(self, t: Tensor) -> Tensor:
        """The points (..., p) with chosen coordinates t (..., k)."""
        whole = self.origin.to(t).expand(*t.shape[:-1], -1)
        return whole.index_copy(-1, self.index.to(t.device), t)

    def inside(self, z: Tensor) -> Tensor:
        return self.point(z)


def _named(objective: Any, where: Any, device: torch.device) -> Tensor:
    """The mask of the entries that a filter or patterns accept.

    Raises:
        ValueError: if there is no layout, or a pattern fits nothing.
        TypeError: if ``where`` is neither a function nor text.
    """
    layout: Layout | None = offered(objective, "layout")
    if layout is None:
        raise ValueError(
            f"{type(objective).__name__} has no names of coordinates: choose them by a mask or a "
            "slice"
        )
    if callable(where):
        return layout.mask(where, device)
    patterns = [where] if isinstance(where, str) else where
    if not isinstance(patterns, Sequence) or not all(isinstance(p, str) for p in patterns):
        raise TypeError(
            "where must be a name, several names, a function of an entry, a mask or a slice, got "
            f"{type(where).__name__}"
        )
    for pattern in patterns:
        if not any(_fits(entry.name, pattern) for entry in layout.entries):
            raise ValueError(f"no parameter is called {pattern!r}; there are {layout.names}")
    return layout.mask(lambda entry: any(_fits(entry.name, p) for p in patterns), device)


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
