"""What populations say of published claims: sets of points, tests as published and exact ones."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from analyses.inference import BASE, TESTS, evidence, pooled
from analyses.power import least
from analyses.published import MEDIANS, P_VALUES
from analyses.rank_correlation import holm
from landscape.results.populations import Course

SETS = ("SetA", "SetB", "SetB as published")
VIEWS = ("equal gradients", "equal epochs")
QUANTITIES = ("train loss", "test score", "test loss")
_PAIRS = (("sgd", "sam"), ("sgd", "nim-bh"), ("sam", "nim-bh"), ("sgd", "nig-sgd"),
          ("sgd", "nim-sgd"), ("sgd", "nig-bh"), ("sgd", "gcsam"), ("sgd", "cnognp"))  # fmt: skip
_TWINS = ("2a", "3a")  # the same at base settings are tables of their own
_MANN_WHITNEY, _T = "mannwhitneyu", "ttest_ind"
_POOLED = {_MANN_WHITNEY: 0, _T: 1}

Runs = Mapping[str, Sequence[Sequence[Sequence[Course]]]]
"""Trajectories by setting, task and method."""


class Family(NamedTuple):
    """A published table: what is compared, with what test, at what settings."""

    table: str
    key: str
    quantity: str
    test: str
    setting: str

    @property
    def between(self) -> bool:
        """Whether methods are compared, and not the sets of one."""
        return self.key == "6"


FAMILIES = (
    Family("Table 2a: test score, SetA and SetB", "2a", "test score", _MANN_WHITNEY, "tuned"),
    Family("Table 2b: test score, SetA and SetB", "2b", "test score", _MANN_WHITNEY, "base"),
    Family("Table 3a: test score, SetA and SetB", "3a", "test score", _T, "tuned"),
    Family("Table 3b: test score, SetA and SetB", "3b", "test score", _T, "base"),
    Family("Table 5a: training loss, SetA and SetB", "5a", "train loss", _MANN_WHITNEY, "tuned"),
    Family("Table 5b: training loss, SetA and SetB", "5b", "train loss", _T, "tuned"),
    Family("Table 6: test score, SetA of two methods", "6", "test score", _MANN_WHITNEY, "tuned"),
)


class Row(NamedTuple):
    """One comparison: of the sets of a method, or of two methods; places in the array of values."""

    family: Family
    setting: int
    task: int
    methods: tuple[int, ...]


def told(
    runs: Runs,
    methods: Sequence[str],
    published: Mapping[str, str],
    points: int,
    margin: float,
    confidence: float,
) -> dict[str, Any]:
    """The fields of a `Populations` that follow from the trajectories.

    Args:
        runs: trajectories by setting, task and method.
        methods: names.
        published: the column of the published tables by task; empty where there is none.
        points: of a set.
        margin: differences of the score below it count as none.
        confidence: of the intervals and tests.
    """
    groups = list(runs.values())
    # The epochs that all methods have of a task.
    common = [
        [float(min(run.epoch.max() for own in task for run in own)) for task in group]
        for group in groups
    ]
    whole = [[np.inf] * len(group) for group in groups]
    limits = dict(zip(VIEWS, (whole, common), strict=True))
    value = np.array([
        _values(groups, limits[view], points) for view in VIEWS
    ])  # (view, setting, task, method, trajectory, set, point, quantity)
    rows = list(_rows(tuple(runs), len(published), methods))
    found = [[_known(own, row, margin, confidence) for row in rows] for own in value]
    fields = {
        "views": VIEWS,
        "sets": SETS,
        "quantities": QUANTITIES,
        "value": value,
        "epochs": np.array([
            _means(groups, lambda run, most: min(run.epoch.max(), most), limits[view])
            for view in VIEWS
        ]),
        "passes": _means(groups, lambda run, _: run.passes.max(), whole),
        "seconds": _means(groups, lambda run, _: run.seconds, whole),
        "rate": _means(groups, lambda run, _: run.rate, whole),
        "radius": _means(groups, lambda run, _: run.radius, whole),
        **_medians(value, methods, tuple(published.values())),
        **_table(rows, found, tuple(runs), methods, published),
    }
    return fields | {"claims": tuple(_claims(fields, margin, confidence))}


def _values(
    groups: Sequence[Any], limits: Sequence[Sequence[float]], points: int
) -> list[list[list[list[np.ndarray]]]]:
    """The quantities of the points of each set of each trajectory."""
    return [
        [
            [[_sets(run, most, points) for run in own] for own in task]
            for task, most in zip(group, limit, strict=True)
        ]
        for group, limit in zip(groups, limits, strict=True)
    ]


def _sets(run: Course, most: float, points: int) -> np.ndarray:
    """The quantities (set, point, quantity) of the best points up to an epoch; NaN where none."""
    train, validation, test = (run.splits.index(s) for s in ("train", "validation", "test"))
    finite = np.isfinite(run.value).all((1, 2)) & (run.epoch <= most)
    value = run.value[finite]
    keys = (value[:, train, 0], -value[:, validation, 1], -value[:, test, 1])
    found = np.full((len(SETS), points, len(QUANTITIES)), np.nan)
    for k, key in enumerate(keys):
        best = value[np.argsort(key, kind="stable")[:points]]
        columns = (best[:, train, 0], best[:, test, 1], best[:, test, 0])
        found[k, : len(best)] = np.stack(columns, -1)
    return found


def _means(groups: Sequence[Any], of: Any, limits: Sequence[Sequence[float]]) -> np.ndarray:
    """A number of each trajectory, mean over those of a method: (setting, task, method)."""
    return np.array([
        [
            [np.mean([of(run, most) for run in own]) for own in task]
            for task, most in zip(group, limit, strict=True)
        ]
        for group, limit in zip(groups, limits, strict=True)
    ])


def _medians(
    value: np.ndarray, methods: Sequence[str], columns: Sequence[str]
) -> dict[str, np.ndarray]:
    """Table 4: ours (view, setting, task, method, set), and as printed (task, method, set)."""
    score = value[..., QUANTITIES.index("test score")]
    with warnings.catch_warnings():
        # Trajectories that have no point at all.
        warnings.simplefilter("ignore", RuntimeWarning)
        ours = (np.nanmedian(score, -1), np.nanstd(score, -1, ddof=1))
        median, deviation = (np.nanmedian(each, 4) for each in ours)
    theirs = np.full((2, len(columns), len(methods), len(SETS)), np.nan)
    for t, column in enumerate(columns):
        for m, method in enumerate(methods):
            # The published SetB is the one that chooses on the test split.
            for name, k in (("SetA", 0), ("SetB", SETS.index("SetB as published"))):
                theirs[:, t, m, k] = MEDIANS.get((method, column, name), (np.nan, np.nan))
    return {
        "median": median, "deviation": deviation,
        "published_median": theirs[0], "published_deviation": theirs[1],
    }  # fmt: skip


def _rows(settings: Sequence[str], tasks: int, methods: Sequence[str]) -> Iterator[Row]:
    """Every comparison; where nothing was tuned, at base settings, and each once."""
    known = [
        family if family.setting in settings else family._replace(setting=settings[0])
        for family in FAMILIES
        if family.setting in settings or family.key not in _TWINS
    ]
    place = {name: k for k, name in enumerate(methods)}
    for family in known:
        pairs = [(place[a], place[b]) for a, b in _PAIRS if {a, b} <= set(place)]
        compared = pairs if family.between else [(m,) for m in range(len(methods))]
        for task in range(tasks):
            yield from (Row(family, settings.index(family.setting), task, m) for m in compared)


def _known(value: np.ndarray, row: Row, margin: float, confidence: float) -> dict[str, float]:
    """What is known of a comparison of a view."""
    own = value[row.setting, row.task][..., QUANTITIES.index(row.family.quantity)]
    paired = not row.family.between
    if paired:
        # As published: SetB chooses on the test split for the pooled test.
        sides = [own[row.methods[0], :, k] for k in (0, 1)]
        theirs = [own[row.methods[0], :, k] for k in (0, SETS.index("SetB as published"))]
    else:
        sides = theirs = [own[m, :, 0] for m in row.methods]
    one, other = _kept(sides[0], sides[1], paired)
    found = evidence(one, other, margin=margin, paired=paired, confidence=confidence)
    return {
        "pooled": _pooled(*_kept(theirs[0], theirs[1], paired))[_POOLED[row.family.test]],
        "exact": float(found.p_value[TESTS.index(BASE[0])]),
        "p_same": found.p_same,
        "difference": float(found.difference.value),
        "low": float(found.difference.low),
        "high": float(found.difference.high),
        "least": least(len(one), len(other), paired) if one and other else np.nan,
    }


def _pooled(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> tuple[float, float]:
    """The p values of the published tests of all points."""
    if not (one and other):
        return np.nan, np.nan
    rank, student = pooled(np.concatenate(one), np.concatenate(other))
    return float(rank), float(student)


def _kept(
    one: np.ndarray, other: np.ndarray, paired: bool
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The finite values of each trajectory; trajectories without any are left out."""
    sides = [[row[np.isfinite(row)] for row in side] for side in (one, other)]
    if paired:
        both = [(a, b) for a, b in zip(*sides, strict=True) if a.size and b.size]
        return [a for a, _ in both], [b for _, b in both]
    first, second = ([row for row in side if row.size] for side in sides)
    return first, second


def _table(
    rows: Sequence[Row], found: Sequence[Sequence[Mapping[str, float]]], settings: Sequence[str],
    methods: Sequence[str], published: Mapping[str, str],
) -> dict[str, Any]:  # fmt: skip
    """The fields of all comparisons."""
    tasks = tuple(published)
    compared = [" vs ".join(methods[m] for m in row.methods) for row in rows]
    cells = {(each.table, each.method, each.task): each.p for each in P_VALUES}
    fields: dict[str, Any] = {
        name: np.array([[each[name] for each in own] for own in found])
        for name in ("pooled", "exact", "p_same", "difference", "low", "high", "least")
    }
    table = np.array([row.family.key for row in rows])
    for name, corrected in (("exact", "holm"), ("p_same", "p_same")):
        column = np.array(fields[name])
        for view in range(len(VIEWS)):
            for key in dict.fromkeys(table.tolist()):
                column[view, table == key] = holm(column[view, table == key])
        fields[corrected] = column
    # A margin of the score says nothing of a loss.
    fields["p_same"][:, [row.family.quantity == "train loss" for row in rows]] = np.nan
    return fields | {
        "table": tuple(row.family.table for row in rows),
        "row_setting": tuple(settings[row.setting] for row in rows),
        "row_task": tuple(tasks[row.task] for row in rows),
        "row_compared": tuple(compared),
        "row_test": tuple(row.family.test for row in rows),
        "published": np.array([
            cells.get((row.family.key, name, published[tasks[row.task]]), np.nan)
            for row, name in zip(rows, compared, strict=True)
        ]),
    }


def _claims(fields: Mapping[str, Any], margin: float, confidence: float) -> Iterator[str]:
    """Each claim of the paper, and what is found of it, at equal gradients."""
    level = 1 - confidence
    said = (
        ("2", "SetA and SetB have the same test score"),
        ("5", "SetA and SetB differ in training loss no more than by chance"),
        ("6", "no method has a better test score than another"),
    )
    for key, claim in said:
        (first, *_) = [each for each in fields["table"] if each.startswith(f"Table {key}")] or [""]
        at = np.array([name == first for name in fields["table"]])
        if not first:
            continue
        naive, holm_, same, least_ = (
            fields[name][0, at] for name in ("pooled", "holm", "p_same", "least")
        )
        count = int(at.sum())
        yield (
            f"Claim: {claim}. Of {count} comparisons the pooled test as published rejects "
            f"{int((naive < level).sum())}; exact tests of trajectories after Holm's correction "
            f"reject {int((holm_ < level).sum())}"
            + _sameness(same, margin, level)
            + _power(least_, count, level)
        )


def _sameness(same: np.ndarray, margin: float, level: float) -> str:
    """How many are shown to be the same; nothing where that was not asked."""
    if np.isnan(same).all():
        return ""
    return f", and {int((same < level).sum())} are the same to within {margin:g}"


def _power(least_: np.ndarray, count: int, level: float) -> str:
    """What so many trajectories cannot show."""
    known = least_[np.isfinite(least_)]
    if known.size and known.min() * count >= level:
        return (
            f". With so few trajectories no exact test can reject here: the least p value is "
            f"{known.min():.2g}, times {count} above {level:.2g}."
        )
    return "."
