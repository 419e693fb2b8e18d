"""How high are the walls between minima that trainings have found?

Question: between the members of some runs, how much higher than its ends is the loss along a path,
with units as they are or put in order first, and do minima of one method lie closer together, in
this sense, than those of another?

Expected: straight lines between independent trainings are high; paths that bend are much lower;
with units in order lines are lower, and the more so the wider the network.

n: pairs share minima. Intervals are over minima, each left out once (jackknife), with Student's t:
with m minima of a group there are m - 1 degrees of freedom, whatever the number of pairs.

Cost: a straight line takes ``points`` evaluations and 32 more; a Fourier path some thousand
gradients. Each pair is a unit, and leaves a file.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.stats import t as student
from torch import Tensor

from analyses.stationary import require_one_of
from cnognp.measuring import paths
from cnognp.measuring.alignment import ALIGNED
from cnognp.training.config import RunFolder
from cnognp.workers import Unit, results_of
from landscape import results
from landscape.embedding import embedding
from landscape.paths import FINDERS
from landscape.results import provenance
from landscape.results.connectivity import Connectivity
from landscape.topology import merge_tree

PAIRS = ("all", "tree")
NOTES = (
    "A height is that of a path that was found: the lowest is at most a little above it, and may "
    "be far below.",
    "Intervals are over minima, each left out once, with Student's t.",
)


@dataclass(frozen=True)
class Config:
    """What is joined.

    Args:
        runs: folders of runs of one task and model, or ``RUN:MEMBER``.
        members: which of each run that is named without: best, all, or numbers, comma-separated.
        kind: how paths are found: linear, fourier, elastic-band, string, bezier or polygon.
        pairs: all pairs, or those of a tree that spans all minima and is the shortest by distance.
        align: put the units of the second of a pair in the order in which they are closest to the
            first: by weights or by activations; empty to leave them.
        points: of the grid on each path, at least 3.
        statistics: of BatchNorm at each point of a path: reestimated, or as given.
        gamma: of the kernel PCA of the minima; 0 for 1 / p.
        confidence: of the intervals, between 0.5 and 1.
        data: folder of the task's data, where it is not where it was.
        device: where; that of the first run where empty.

    Raises:
        ValueError: if a name is not known or a number is out of range.
    """

    runs: tuple[str, ...] = ()
    members: str = "all"
    kind: str = "linear"
    pairs: str = "all"
    align: str = ""
    points: int = 51
    statistics: str = "reestimated"
    gamma: float = 0.0
    confidence: float = 0.95
    data: str = ""
    device: str = ""

    def __post_init__(self):
        require_one_of("kind", self.kind, tuple(FINDERS))
        require_one_of("pairs", self.pairs, PAIRS)
        require_one_of("align", self.align, ("", *ALIGNED))
        require_one_of("statistics", self.statistics, ("reestimated", "as given"))
        if self.points < 3:
            raise ValueError(f"points must be at least 3, got {self.points}")
        if not self.gamma >= 0:
            raise ValueError(f"gamma must not be negative, got {self.gamma}")
        if not 0.5 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0.5 and 1, got {self.confidence}")


class Pair(NamedTuple):
    """Two minima; the digests are those of their weights."""

    config: Config
    one: str
    other: str
    digests: tuple[str, str]


class Minima(NamedTuple):
    """Words for minima, the run that each is of, and where they are."""

    words: tuple[str, ...]
    run: tuple[str, ...]
    points: list[Tensor]


def study(config: Config) -> Connectivity:
    """The walls between the minima.

    Args:
        config: what is joined.

    Raises:
        ValueError: if there are fewer than two minima, or of different models or data.
    """
    return joined(config, results_of(units(config)))["connectivity"]


def minima(config: Config) -> Minima:
    """The minima that are joined.

    Raises:
        ValueError: if there are fewer than two, one is named twice, or they are of different tasks
            or lengths.
        FileNotFoundError: if there is no such run.
    """
    words = [word for run in config.runs for word in _words(run, config.members)]
    points = [paths.point(word, config.device, config.data or None) for word in words]
    places = {str(Path(run).resolve()) + colon + member
              for run, colon, member in (word.rpartition(":") for word in words)}  # fmt: skip
    if len(places) < len(words) or len(words) < 2:
        raise ValueError(
            f"at least two minima that differ are needed, got {', '.join(words) or 'none'}: name "
            "runs with several members, or several runs, each once"
        )
    for word, z in zip(words, points, strict=True):
        tasks = {_task(words[0]), _task(word)} - {""}
        if len(tasks) > 1 or len(z) != len(points[0]):
            raise ValueError(
                f"minima of one task and model are needed: {words[0]} and {word} are of "
                f"{' and '.join(sorted(tasks))} with {len(points[0]):,} and {len(z):,} parameters"
            )
    return Minima(tuple(words), tuple(word.rpartition(":")[0] or word for word in words), points)


def units(config: Config) -> list[Unit]:
    """A path for each pair."""
    found = minima(config)
    plain = replace(config, runs=(), members="all", pairs="all", gamma=0.0,
                    confidence=Config.confidence)  # fmt: skip
    digests = [digest(z) for z in found.points]
    return [
        Unit(
            f"{found.words[i]} to {found.words[j]}", path_of,
            Pair(plain, found.words[i], found.words[j], (digests[i], digests[j])),
        )
        for i, j in _pairs(config, found.points)
    ]  # fmt: skip


def path_of(pair: Pair) -> results.Path:
    """The path between two minima, the second with its units in order where that is wanted."""
    config = pair.config
    ends = paths.between(
        pair.one, pair.other, device=config.device, data=config.data or None, align=config.align
    )
    wanted = paths.Wanted(
        config.kind,
        options={"points": config.points, "statistics": config.statistics, "keep": False},
    )
    path = paths.found_path(ends, wanted)
    return replace(path, provenance={**path.provenance, **ends.origin})


def joined(config: Config, found: Sequence[Any]) -> dict[str, Any]:
    """The walls, the tree of valleys that they make, and the minima in two coordinates."""
    own = minima(config)
    count, runs = len(own.words), tuple(dict.fromkeys(own.run))
    group = np.array([runs.index(run) for run in own.run])
    edges = np.array(_pairs(config, own.points))
    loss = np.full(count, np.nan)
    table = {name: np.full((count, count), np.nan) for name in _FIELDS}
    distance = distances(own.points)
    for (i, j), path in zip(edges, found, strict=True):
        loss[i], loss[j] = path.loss[0], path.loss[-1]
        for name in _FIELDS:
            table[name][i, j] = table[name][j, i] = getattr(path, name)
    np.fill_diagonal(table["straight"], 0.0)
    names, means, low, high, pairs = intervals(table["barrier"], group, runs, config.confidence)
    walls = Connectivity(
        names=own.words, groups=runs, group=group, loss=loss, height=table["height"],
        barrier=table["barrier"], chord_barrier=table["chord_barrier"], distance=distance,
        aligned_distance=table["straight"], means=means, low=low, high=high, count=pairs,
        pairs=names, finder=config.kind, align=config.align, statistics=found[0].statistics,
        confidence=config.confidence, notes=NOTES,
        provenance=provenance(configuration=asdict(config)),
    )  # fmt: skip
    # An end may differ in its last bits from path to path.
    heights = np.maximum(walls.height[tuple(edges.T)], loss[edges].max(-1))
    tree = replace(merge_tree(loss, edges, heights, names=own.words), source=f"{config.kind} paths")
    found_in: dict[str, Any] = {"connectivity": walls, "valleys": tree}
    points = torch.stack([z.cpu() for z in own.points])
    if count > 2 and bool((points != points[0]).any()):
        found_in["minima"] = embedding(
            points, kind="rbf", gamma=config.gamma or None, names=own.words, groups=own.run
        )
    return found_in


_FIELDS = ("height", "barrier", "chord_barrier", "straight")


def intervals(
    barrier: np.ndarray, group: np.ndarray, groups: Sequence[str], confidence: float
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Names, means, lower and upper ends and numbers of pairs, within groups and between two.

    A mean over pairs varies as the minima do: with each minimum left out once, the spread of the
    means gives its variance, and Student's t with Satterthwaite's degrees of freedom the interval.
    NaN where a group has fewer than three minima within, or two between.

    Args:
        barrier: (m, m), NaN where it is not known.
        group: (m,), of each minimum.
        groups: their names.
        confidence: of the intervals.
    """
    rows = []
    for k, one in enumerate(groups):
        for j in range(k, len(groups)):
            name = one if j == k else f"{one} and {groups[j]}"
            rows.append((name, *_interval(barrier, group, k, j, confidence)))
    rows = [row for row in rows if row[-1]]
    names, *columns = zip(*rows, strict=True)
    means, low, high, count = map(np.array, columns)
    return names, means, low, high, count


def _interval(
    barrier: np.ndarray, group: np.ndarray, k: int, j: int, confidence: float
) -> tuple[float, float, float, int]:
    """Mean, interval and number of the pairs of two groups, which may be one."""

    def pairs(kept: np.ndarray) -> np.ndarray:
        one, other = kept & (group == k), kept & (group == j)
        part = barrier[np.ix_(one, other)]
        values = part[np.triu_indices(len(part), 1)] if k == j else part.ravel()
        return values[~np.isnan(values)]

    everything = np.ones(len(group), bool)
    values = pairs(everything)
    if not values.size:
        return np.nan, np.nan, np.nan, 0
    variance, parts = 0.0, []
    for which in {k, j}:
        own = np.flatnonzero(group == which)
        left = [pairs(np.arange(len(group)) != i) for i in own]
        if len(own) < (3 if k == j else 2) or not all(each.size for each in left):
            return float(values.mean()), np.nan, np.nan, values.size
        means = np.array([each.mean() for each in left])
        part = (len(own) - 1) / len(own) * ((means - means.mean()) ** 2).sum()
        variance += part
        parts.append(part**2 / (len(own) - 1))
    freedom = variance**2 / sum(parts) if sum(parts) else 1.0
    reach = student.ppf((1 + confidence) / 2, freedom) * variance**0.5
    mean = float(values.mean())
    return mean, mean - reach, mean + reach, values.size


def _words(run: str, members: str) -> list[str]:
    """``RUN:MEMBER`` for the members of a run that are wanted; one that names its own is left."""
    folder = RunFolder(Path(run))
    if not folder.path.is_dir():
        return [run]
    count = folder.config().members
    chosen = [str(k) for k in range(count)] if members == "all" else members.split(",")
    return [f"{run}:{member.strip()}" for member in chosen]


def _task(word: str) -> str:
    """The task of the run that a word names; empty where it names a file."""
    folder = RunFolder(Path(word.rpartition(":")[0] or word))
    return folder.config().task if folder.path.is_dir() else ""


def _pairs(config: Config, points: Sequence[Tensor]) -> list[tuple[int, int]]:
    """The pairs that are joined, as indices in ascending order."""
    if config.pairs == "all":
        return list(combinations(range(len(points)), 2))
    distance = distances(points)
    # What has no length is no edge there.
    tree = minimum_spanning_tree(np.maximum(distance, np.finfo(float).tiny)).tocoo()
    edges = zip(tree.row.tolist(), tree.col.tolist(), strict=True)
    return sorted((min(edge), max(edge)) for edge in edges)


def distances(points: Sequence[Tensor]) -> np.ndarray:
    """The distances (m, m)."""
    rows = [z.double() for z in points]
    return np.array([[float((a - b).norm()) for b in rows] for a in rows])


def digest(z: Tensor) -> str:
    """SHA-256 of the bytes of a point."""
    return sha256(z.cpu().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
