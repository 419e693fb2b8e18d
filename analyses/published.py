"""Published numbers that studies are compared with, as printed; the tables are in ``papers/``.

Table 1 of "Beyond Single-Model Views for Deep Learning" (AAAI 2024) has shares of restarts on three
test functions, with neither box, step length, radius nor tolerance. Its Tables 2 to 6 have p values
and medians of populations of networks: 10 points of each of 5 trajectories, SetA those of lowest
training loss, SetB those best on the test set. The table of the CNOGNP repository has test
accuracies of trained networks that are trained further.
"""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import chi2

from landscape.objective import Analytic

NA = math.nan

NAMES: Mapping[str, str] = MappingProxyType({
    "gd": "GD",
    "nig": "NiG-GD",
    "nim": "NiM-GD",
    "sam": "SAM",
    "nig-bh": "NiG-BH",
    "nim-bh": "NiM-BH",
    "nig-mbh": "NiG-MBH",
    "nim-mbh": "NiM-MBH",
})
"""The published names of the methods, in the order of the published table."""

_PUBLISHED_RESTARTS = 500

LABELS: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "himmelblau": ("A", "B", "D", "C", "else"),
    "three-hump-camel": ("O", "L-", "L+", "else"),
    "six-hump-camel": ("G-", "G+", "H-", "H+", "M-", "M+", "else"),
})
"""Our name of each published column if, as the paper says, flatter minima come before sharper ones
and GM are the global minima. For Himmelblau's function that order is taken by the trace. Which
member of a pair comes first is not known."""

_COLUMNS = {"six-hump-camel": ("GM1", "GM2", "LM1", "LM2", "LM3", "LM4")}

RELABELLED: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "six-hump-camel": ("M-", "G-", "G+", "M+", "H-", "H+", "else"),
})
"""Labels that fit the published columns GM1, GM2, LM1, LM2, LM3, LM4, else: a hypothesis."""


def _rows(name: str) -> list[dict[str, str]]:
    """The rows of a published table; its first line says where it is from."""
    lines = Path(__file__).with_name("papers").joinpath(name).read_text().splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def _shares() -> dict[str, dict[str, tuple[float, ...]]]:
    """The shares in percent by function and method, columns as printed."""
    ours = {"nig-gd": "nig", "nim-gd": "nim"}
    found: dict[str, dict[str, tuple[float, ...]]] = {}
    for row in _rows("table1.csv"):
        method = ours.get(row["method"], row["method"])
        cells = found.setdefault(row["function"], {})
        cells[method] = (*cells.get(method, ()), float(row["percent"]))
    return found


def _trained() -> dict[str, dict[str, tuple[float, float]]]:
    """Mean and standard deviation in percent by network and method."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for row in _rows("cnognp.csv"):
        start = {"pretrained": (float(row["pretrained"]), NA)}
        found.setdefault(row["network"], start)[row["method"]] = (
            float(row["mean"]),
            float(row["std"]),
        )
    return found


class Tested(NamedTuple):
    """A published p value, and what of: all as in ``papers/tables2to6.csv``."""

    table: str
    quantity: str
    test: str
    setting: str
    method: str
    task: str
    p: float


def _medians() -> dict[tuple[str, str, str], tuple[float, float]]:
    """Median of the metric and of its standard deviation by method, task and set."""
    return {
        (row["method"], row["task"], row["set"]): (float(row["median"]), float(row["median_std"]))
        for row in _rows("table4.csv")
    }


def _tested() -> tuple[Tested, ...]:
    """The p values in the order of the tables."""
    rows = _rows("tables2to6.csv")
    return tuple(Tested(**{**row, "p": float(row["p"])}) for row in rows)  # type: ignore[arg-type]


def _topography() -> dict[tuple[str, str], dict[str, float]]:
    """Losses and standard deviations of weights by network and method."""
    return {
        (row.pop("network"), row.pop("method")): {name: float(text) for name, text in row.items()}
        for row in _rows("topography.csv")
    }


P_VALUES: tuple[Tested, ...] = _tested()
"""Every cell of the published Tables 2, 3, 5 and 6."""

MEDIANS: Mapping[tuple[str, str, str], tuple[float, float]] = MappingProxyType(_medians())
"""Every cell of the published Table 4, as shares of 1, by method, task and set; two of the standard
deviations, 0.298 and 0.327, look like lost zeros."""

TOPOGRAPHY: Mapping[tuple[str, str], Mapping[str, float]] = MappingProxyType(_topography())
"""Losses and standard deviations of weights of Yu & Morozov (2026), by network and method."""

PUBLISHED: Mapping[str, Mapping[str, tuple[float, ...]]] = MappingProxyType(_shares())
"""Every cell of the published table, in percent, by function and method."""

PUBLISHED_SUMS: Mapping[str, Mapping[str, float]] = MappingProxyType({
    function: {method: round(sum(cells), 6) for method, cells in rows.items()}
    for function, rows in PUBLISHED.items()
})
"""Sums of the published rows, in percent."""

FINETUNED: Mapping[str, Mapping[str, tuple[float, float]]] = MappingProxyType(_trained())
"""Test accuracies in percent, mean and standard deviation, by network and method."""

FAR = 3.0
"""Standard errors beyond which two shares are called different."""


def compared(
    functions: Sequence[Analytic], methods: Sequence[str], share: np.ndarray, restarts: int
) -> dict[str, np.ndarray]:
    """The published shares, and how far ours are from them, in the layout of a `Distribution`.

    A deviation is ours minus theirs in standard errors of the difference of two independent samples
    with one probability, ours of ``restarts`` and theirs of 500; 0 where both are 0 or both 1.
    """
    fields = {}
    for suffix, labels in (("", LABELS), ("_relabelled", {**LABELS, **RELABELLED})):
        theirs = np.concatenate([_placed(f, methods, labels) for f in functions], axis=1)
        total = restarts + _PUBLISHED_RESTARTS
        pooled = (restarts * share + _PUBLISHED_RESTARTS * theirs) / total
        error = np.sqrt(pooled * (1 - pooled) * (1 / restarts + 1 / _PUBLISHED_RESTARTS))
        fields[suffix.strip("_") or "published"] = theirs
        fields[f"deviation{suffix}"] = (share - theirs) / np.where(error == 0, 1.0, error)
    fields["published_sum"] = np.array([
        [PUBLISHED_SUMS.get(f.name, {}).get(m, NA) / 100 for f in functions] for m in methods
    ])
    return fields


def remarks(
    functions: Sequence[str], methods: Sequence[str], fields: Mapping[str, Any]
) -> tuple[str, ...]:
    """What can be said about the published table beside these shares, one sentence each."""
    return tuple(_remarks(functions, methods, fields))


def _remarks(
    functions: Sequence[str], methods: Sequence[str], fields: Mapping[str, Any]
) -> Iterator[str]:
    for k, function in enumerate(functions):
        if function not in PUBLISHED:
            continue
        here = fields["function"] == k
        known, far = _far(fields["deviation"][:, here])
        yield (
            f"{function}: {known - far} of the {known} published shares lie within "
            f"{FAR:g} standard errors of ours."
        )
        if function in RELABELLED:
            fewer = _far(fields["deviation_relabelled"][:, here])[1]
            yield f"{function}: {_RELABELLING} Then {known - fewer} of {known} lie that close."
            yield f"{function}: {_pairs_said(function)}"
        rows = [m for m in methods if m in PUBLISHED_SUMS[function]]
        odd = {m: PUBLISHED_SUMS[function][m] for m in rows if PUBLISHED_SUMS[function][m] != 100}
        if odd:
            sums = ", ".join(f"{NAMES[m]} {total:g} %" for m, total in odd.items())
            yield f"{function}: published rows do not sum to 100 %: {sums}."
    yield from (text for function, text in _STANDING if function in functions)


def mirrored(function: str) -> dict[tuple[int, int], float]:
    """Chi-square of each pair of published columns, if they are shares of two mirror images.

    With f(-z) = f(z) and a symmetric box both have one probability in each row; with 500 restarts
    the statistic then has as many degrees of freedom as there are rows. "else" is left out.
    """
    cells = np.array(list(PUBLISHED[function].values()))[:, :-1]
    return {
        (i, j): float(
            ((cells[:, i] - cells[:, j]) ** 2 / (cells[:, i] + cells[:, j])).sum()
            * _PUBLISHED_RESTARTS / 100
        )
        for i, j in combinations(range(cells.shape[1]), 2)
    }  # fmt: skip


def _pairs_said(function: str) -> str:
    """Which published columns can be mirror images of each other, in words."""
    found, rows = mirrored(function), len(PUBLISHED[function])
    names = _COLUMNS[function]
    first, second = sorted(found, key=lambda pair: found[pair])[:2]
    printed = found[names.index("GM1"), names.index("GM2")]

    def said(pair: tuple[int, int]) -> str:
        p_value = chi2.sf(found[pair], rows)
        both = " and ".join(names[k] for k in pair)
        return f"{both} (chi-square {found[pair]:.3g}, {rows} degrees of freedom, p {p_value:.2g})"

    return (
        f"of the {len(found)} pairs of published columns only {said(first)} can be mirror images; "
        f"next come {said(second)}, and GM1 and GM2, printed as the two global minima, have "
        f"{printed:.3g}. So the two columns are most likely one pair, under whatever name. The "
        "other two pairs of the hypothesis are not equal either: labels alone do not explain the "
        "table, starts or losses on one side have to be added."
    )


def _far(deviation: np.ndarray) -> tuple[int, int]:
    """How many deviations are known, and how many of those are large."""
    return int(np.isfinite(deviation).sum()), int((np.abs(deviation) > FAR).sum())


def _placed(
    function: Analytic, methods: Sequence[str], labels: Mapping[str, tuple[str, ...]]
) -> np.ndarray:
    """The published shares (method, outcome of this function)."""
    outcomes = (*(minimum.name for minimum in function.minima), "else")
    columns = labels.get(function.name, ())
    rows = PUBLISHED.get(function.name, {})
    placed = np.full((len(methods), len(outcomes)), NA)
    for i, method in enumerate(methods):
        for label, percent in zip(columns, rows.get(method, (NA,) * len(columns)), strict=True):
            placed[i, outcomes.index(label)] = percent / 100
    return placed


_RELABELLING = (
    "not reproduced as labelled under any setting searched (6 step lengths, 21 ranges of y, all "
    "ranges of x on a grid of 0.5 in [-5, 5]: never within 7 points of all numbers of GD). A "
    "hypothesis: the columns GM2 and LM1 are G, GM1 and LM2 are M, LM3 and LM4 are H; GM2 and LM1 "
    "are about equal in all eight rows, as a pair of mirror images must be: 23.5/22.75, 16.4/14.6, "
    "18.38/19.88, 16.1/19, 21.75/21.75, 20.25/21.75, 23.75/24.25, 24.75/24.25."
)

_STANDING = (
    (
        "himmelblau",
        "himmelblau: the row of GD comes out with every stable step length, normalised or not, on "
        "[-5, 5]^2 as on [-6, 6]^2, and so says nothing about the settings.",
    ),
    (
        "three-hump-camel",
        "three-hump-camel: the row of GD needs the box [-5, 5]^2 and a step length of at most "
        "about 0.001, or normalised gradients: the text has these, the listings raw ones.",
    ),
    (
        "six-hump-camel",
        "six-hump-camel: 4.25 % of the stated 500 restarts are 21.25 restarts. Most cells of the "
        "table are multiples of 0.25 %, which takes 400 or 800.",
    ),
    (
        "six-hump-camel",
        "six-hump-camel: the published row of GD has 20.5 % else, small steps have none. A box, "
        "or losses, on one side of x would also explain the unequal pairs (x in [0, 3], y in "
        "[-3, 2], step length 0.03 comes within 1.5 points of the row): a hypothesis too.",
    ),
    (
        "six-hump-camel",
        "six-hump-camel: f(-z) = f(z) and the box is symmetric, so the two members of a pair get "
        "equal shares within sampling error; the published 4.25 and 23.5 % (GD, GM1 and GM2) "
        "cannot both be global minima of one symmetric run.",
    ),
    (
        "six-hump-camel",
        "six-hump-camel: by either measure H is the flattest pair and M the sharpest; the least "
        "visited pair is H, the shallowest. Columns that get fewer visits are not sharper ones.",
    ),
    (
        "himmelblau",
        "himmelblau: the published rows of SAM and NiM-MBH are identical; by the largest "
        "eigenvalue D is the flattest minimum, by the trace it is A. Which minimum a published "
        "column means is not said; the order by the trace is assumed.",
    ),
    (
        "three-hump-camel",
        "three-hump-camel: the published rows of GD and NiG-BH are identical.",
    ),
    (
        "himmelblau",
        "himmelblau: SAM ends in a 2-cycle of half-amplitude rho lr l / (2 - lr l) at a minimum of "
        "largest eigenvalue l. Its else depends on rho, step length and tolerance, none of which "
        "is published: it tells of the tolerance and not of flatness.",
    ),
    (
        "himmelblau",
        "himmelblau: two published listings are not followed here. That of SAM never takes the "
        "perturbation back; that of NiM-MBH compares a candidate with the perturbed point, and so "
        "accepts all and is NiM-BH.",
    ),
)
