"""Which minima belong together: merge trees of sampled planes and of networks of minima.

The valleys at height t are the connected parts of where the loss is at most t. As t grows they are
born at minima and merge at saddles, where the one with the higher minimum ends (the elder rule).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from landscape.results import Surface, provenance
from landscape.results.topology import MergeTree

_STEPS = {4: ((0, 1), (1, 0)), 8: ((0, 1), (1, 0), (1, 1), (1, -1))}


class _Merges(NamedTuple):
    """Where each valley ends: with which edge, or -1, and in which other one."""

    edge: np.ndarray
    into: np.ndarray


def merge_tree(
    loss: np.ndarray,
    edges: np.ndarray,
    heights: np.ndarray,
    *,
    names: Sequence[str] = (),
    least: float = 0.0,
) -> MergeTree:
    """The merge tree of minima that paths of known heights join, by Kruskal's algorithm.

    Paths found by a search are upper bounds of the lowest heights, and so is what is told here.

    Args:
        loss: (m,), of the minima.
        edges: (e, 2), two indices of minima for each path.
        heights: (e,), the largest loss along each path; an infinite one joins nothing.
        names: of the minima; numbers where none are given.
        least: minima whose bars are no longer are left out.

    Raises:
        ValueError: if the shapes do not fit, a loss is not finite, a height is NaN, or lower than
            an end of its path.
    """
    loss, heights = np.asarray(loss, float), np.asarray(heights, float)
    edges = np.asarray(edges).reshape(-1, 2)
    names = tuple(names) or tuple(str(k) for k in range(len(loss)))
    _check(loss, edges, heights, names)
    kept = np.isfinite(heights)
    order = np.argsort(heights[kept], kind="stable")
    edges, heights = edges[kept][order], heights[kept][order]
    merges = _merged(_ranks(loss), edges)
    ends = np.where(merges.edge < 0, np.inf, heights[merges.edge] if len(heights) else np.inf)
    return _tree(loss, ends, merges.into, names, least, source="network of minima")


def merge_tree_of_grid(
    loss: np.ndarray, *, neighbours: int = 8, least: float = 0.0, **described: Any
) -> MergeTree:
    """The merge tree of the samples of a plane, whose cells are neighbours in the grid.

    Exact for the graph of the grid; of a smooth function sampled at distance h, heights are off by
    O(h^2). Samples that are not finite are walls. Equal samples are ordered by their place. Takes
    O(n log n) for n samples.

    Args:
        loss: (n, m), the samples.
        neighbours: of each sample: 4, or 8 with those across.
        least: minima whose bars are no longer are left out; where all samples are distinct, 0
            leaves out none.
        described: further fields of the result.

    Raises:
        ValueError: if there are not two axes, no sample is finite, or another number of neighbours.
    """
    loss = np.asarray(loss, float)
    if loss.ndim != 2 or not np.isfinite(loss).any():
        raise ValueError(
            f"loss must have two axes and finite samples, got the shape {loss.shape} and "
            f"{int(np.isfinite(loss).sum())} finite samples"
        )
    if neighbours not in _STEPS:
        raise ValueError(f"neighbours must be 4 or 8, got {neighbours}")
    flat = loss.ravel()
    ranks = _ranks(np.where(np.isfinite(flat), flat, np.inf)).reshape(loss.shape)
    walls = ~np.isfinite(loss)
    pairs = [_adjacent(ranks, walls, step) for step in _STEPS[neighbours]]
    low, high = (np.concatenate(part) for part in zip(*pairs, strict=True))
    lowest = _descended(low, high, loss.size)
    order = np.argsort(ranks, axis=None)
    minima = np.flatnonzero(lowest == np.arange(loss.size))
    minima = minima[np.isfinite(flat[order[minima]])]
    edges, saddles = _passes(lowest, low, high, minima, loss.size)
    merges = _merged(np.arange(len(minima)), edges)
    at = order[minima]
    meets = np.where(merges.edge < 0, -1, saddles[merges.edge] if len(saddles) else -1)
    ends = np.where(meets < 0, np.inf, flat[order[meets]])
    place = np.stack(np.unravel_index(at, loss.shape), -1).astype(float)
    saddle = np.stack(np.unravel_index(order[meets], loss.shape), -1).astype(float)
    saddle[meets < 0] = np.nan
    described = {"coordinates": ("row", "column"), "source": "samples of a plane"} | described
    names = tuple(f"({int(row)}, {int(column)})" for row, column in place)
    return _tree(flat[at], ends, merges.into, names, least, place=place, saddle=saddle, **described)


def merge_tree_of_plane(surface: Surface, *, neighbours: int = 8, least: float = 0.0) -> MergeTree:
    """The merge tree of a measured plane, with places in its own coordinates.

    Arguments and errors as in `merge_tree_of_grid`.
    """
    tree = merge_tree_of_grid(surface.loss, neighbours=neighbours, least=least)

    def located(cells: np.ndarray) -> np.ndarray:
        known = np.nan_to_num(cells).astype(int)
        found = np.stack([surface.alpha[known[:, 0]], surface.beta[known[:, 1]]], -1)
        return np.where(np.isnan(cells), np.nan, found)

    place, saddle = located(tree.place), located(tree.saddle)  # type: ignore[arg-type]
    return MergeTree(
        **vars(tree) | {
            "names": tuple(f"({alpha:.4g}, {beta:.4g})" for alpha, beta in place),
            "coordinates": ("alpha", "beta"), "place": place, "saddle": saddle,
        }
    )  # fmt: skip


def minimax(tree: MergeTree) -> Float[np.ndarray, "m m"]:
    """The lowest height that joins each pair of minima; their own loss on the diagonal.

    Args:
        tree: of m minima; an infinite height where nothing joins a pair.
    """
    count = len(tree.birth)
    found = np.full((count, count), np.inf)
    np.fill_diagonal(found, tree.birth)
    parts, home = {k: [k] for k in range(count)}, list(range(count))
    # In the order in which valleys end, each is whole when it does, but for those of one height.
    for k in np.argsort(tree.death, kind="stable").tolist():
        if not np.isfinite(tree.death[k]):
            break
        other = int(tree.into[k])
        while home[other] != other:
            other = home[other]
        own, home[k] = parts.pop(k), other
        found[np.ix_(own, parts[other])] = tree.death[k]
        found[np.ix_(parts[other], own)] = tree.death[k]
        parts[other] = parts[other] + own
    return found


def _check(
    loss: np.ndarray, edges: np.ndarray, heights: np.ndarray, names: tuple[str, ...]
) -> None:
    """Nothing, where the numbers fit.

    Raises:
        ValueError: where they do not.
    """
    count = len(loss)
    if loss.ndim != 1 or not count or len(names) != count or len(edges) != len(heights):
        raise ValueError(
            f"there must be a name for each minimum and a height for each edge, got {count} "
            f"minima, {len(names)} names, {len(edges)} edges and {len(heights)} heights"
        )
    if not np.isfinite(loss).all():
        raise ValueError(f"minima must have a finite loss, got {loss[~np.isfinite(loss)][0]}")
    if edges.size and edges.dtype.kind not in "iu":
        raise ValueError(f"edges must be indices of minima, whole numbers, got {edges.dtype}")
    if edges.size and (edges.min() < 0 or edges.max() >= count):
        raise ValueError(f"edges must name minima from 0 to {count - 1}, got {edges.max()}")
    low = ~(heights >= loss[edges].max(-1)) if edges.size else np.zeros(0, bool)
    if low.any():
        k = int(np.flatnonzero(low)[0])
        raise ValueError(
            f"no path is lower than its ends: from {names[edges[k, 0]]} to {names[edges[k, 1]]} "
            f"the height is {heights[k]:.6g}, and the ends {loss[edges[k, 0]]:.6g} and "
            f"{loss[edges[k, 1]]:.6g}"
        )


def _ranks(values: np.ndarray) -> np.ndarray:
    """The place of each value in ascending order; of equal ones the first is lower."""
    found = np.empty(len(values), np.int64)
    found[np.argsort(values, kind="stable")] = np.arange(len(values))
    return found


def _adjacent(
    ranks: np.ndarray, walls: np.ndarray, step: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The lower and the higher rank of all neighbours that are a step apart."""
    down, right = step
    rows = slice(None, -down or None), slice(down, None)
    columns = (
        slice(max(-right, 0), -right if right > 0 else None),
        slice(max(right, 0), right if right < 0 else None),
    )
    one, other = ((rows[k], columns[k]) for k in (0, 1))
    open_ = ~(walls[one] | walls[other])
    pair = ranks[one][open_], ranks[other][open_]
    return np.minimum(*pair), np.maximum(*pair)


def _descended(low: np.ndarray, high: np.ndarray, count: int) -> np.ndarray:
    """The minimum that each sample comes to by going to its lowest neighbour, all as ranks."""
    to = np.arange(count)
    np.minimum.at(to, high, low)
    while not np.array_equal(further := to[to], to):
        to = further
    return to


def _passes(
    lowest: np.ndarray, low: np.ndarray, high: np.ndarray, minima: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of minima whose valleys touch, as places in ``minima``, and where they are lowest.

    In ascending order of the height, told as a rank.
    """
    place = np.full(count, -1)
    place[minima] = np.arange(len(minima))
    ends = np.sort(np.stack([place[lowest[low]], place[lowest[high]]], -1), -1)
    apart = ends[:, 0] != ends[:, 1]
    ends, height = ends[apart], high[apart]
    order = np.argsort(height, kind="stable")
    ends, height = ends[order], height[order]
    # The first of each pair is the lowest.
    _, first = np.unique(ends[:, 0] * max(len(minima), 1) + ends[:, 1], return_index=True)
    first.sort()
    return ends[first], height[first]


def _merged(ranks: np.ndarray, edges: np.ndarray) -> _Merges:
    """Which edge, in ascending order of height, ends each valley, by the elder rule."""
    count = len(ranks)
    above, lowest = list(range(count)), list(range(count))
    edge, into = np.full(count, -1), np.full(count, -1)

    def root(k: int) -> int:
        while above[k] != k:
            above[k] = k = above[above[k]]
        return k

    left, rank = count - 1, ranks.tolist()
    for number, (one, other) in enumerate(edges.tolist()):
        one, other = root(one), root(other)
        if one == other:
            continue
        if rank[lowest[one]] > rank[lowest[other]]:
            one, other = other, one
        edge[lowest[other]], into[lowest[other]] = number, lowest[one]
        above[other] = one
        left -= 1
        if not left:
            break
    return _Merges(edge, into)


def _tree(
    birth: np.ndarray, death: np.ndarray, into: np.ndarray, names: tuple[str, ...], least: float,
    place: np.ndarray | None = None, saddle: np.ndarray | None = None, **described: Any,
) -> MergeTree:  # fmt: skip
    """The minima in ascending order, those with short bars left out.

    Raises:
        ValueError: if ``least`` is negative.
    """
    if not least >= 0:
        raise ValueError(f"least must not be negative, got {least}")
    # What a valley merges into is lower and ends no sooner: its bar is at least as long, and kept.
    order = np.flatnonzero(death - birth > least)
    order = order[np.argsort(birth[order], kind="stable")]
    number = np.full(len(birth) + 1, -1)
    number[order] = np.arange(len(order))
    return MergeTree(
        names=tuple(names[k] for k in order),
        birth=birth[order],
        death=death[order],
        into=number[into[order]],
        dropped=len(birth) - len(order),
        least=least,
        place=None if place is None else place[order],
        saddle=None if saddle is None else saddle[order],
        **described,
        provenance=provenance(),
    )
