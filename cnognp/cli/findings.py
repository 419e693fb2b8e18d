"""What studies found, by the kind of the result: one object, tables, and remarks."""

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from cnognp.cli import console

if TYPE_CHECKING:
    from landscape.results import Cycle, Distribution, Flatness, Result, Stationary, Walks

Table = tuple[str, Sequence[str], Sequence[Sequence[Any]]]


def document(found: "Result") -> dict[str, Any]:
    """What a study found as one object; what is not at hand is null."""
    return _KINDS.get(type(found).__name__, _PLAIN)[0](found)


def tell(found: "Result") -> None:
    """Prints the tables of what a study found, and its remarks and conclusion."""
    for table in _tables(found):
        console.table(*table)
    for remark in _remarks(found):
        console.note(remark)


def summary(results: Mapping[str, "Result"]) -> str:
    """What `tell` prints of several results, in Markdown."""
    parts = []
    for name, found in results.items():
        parts += [f"# {name}", *(console.markdown(*table) for table in _tables(found))]
        parts += [f"{remark}\n" for remark in _remarks(found)]
    return "\n".join(parts)


def _tables(found: "Result") -> Iterator[Table]:
    yield from _KINDS.get(type(found).__name__, _PLAIN)[1](found)


def _remarks(found: "Result") -> Iterator[str]:
    """Each once; those of a measure are in its row."""
    notes = () if type(found).__name__ == "Flatness" else getattr(found, "notes", ())
    remarks = (*notes, getattr(found, "conclusion", ""))
    yield from dict.fromkeys(filter(None, remarks))


def _stationary(result: "Stationary") -> dict[str, Any]:
    ends = (*result.names, "else")
    return {
        "function": result.function,
        "method": result.method,
        "restarts": result.restarts,
        "status": result.status,
        "shares": dict(zip(ends, result.share.tolist(), strict=True)),
        "counts": dict(zip(ends, result.counts.tolist(), strict=True)),
        "intervals": {
            end: [float(low), float(high)]
            for end, low, high in zip(ends, result.low, result.high, strict=True)
        },
    }


def _stationary_tables(result: "Stationary") -> Iterator[Table]:
    rows = [
        (end, share, f"{low:.4f} to {high:.4f}")
        for end, share, low, high in zip(
            (*result.names, "else"), result.share.tolist(), result.low, result.high, strict=True
        )
    ]
    title = f"{result.function}, {result.method}, {result.restarts} restarts: {result.status}"
    yield title, ("end", "share", "95 % interval"), rows


def _distribution(found: "Distribution") -> dict[str, Any]:
    """The table as one object; what is not at hand is null."""
    names = [
        f"{found.functions[k]} {n}" for k, n in zip(found.function, found.outcomes, strict=True)
    ]
    by_outcome = ("counts", "share", "low", "high", "published", "relabelled", "deviation",
                  "deviation_relabelled")  # fmt: skip
    by_function = ("p_value", "mirror_p", "published_sum", "moved", "evaluations", "unsettled",
                   "diverged")  # fmt: skip
    rows: dict[str, dict[str, Any]] = {}
    for i, method in enumerate(found.methods):
        rows[method] = {}
        for keys, labels in ((by_outcome, names), (by_function, found.functions)):
            for key in keys:
                if (table := getattr(found, key)) is not None:
                    rows[method][key] = dict(zip(labels, table[i].tolist(), strict=True))
        rows[method]["flattest"] = {
            function: {
                measure: {
                    "share": float(found.flattest[i, k, j]),
                    "low": float(found.flattest_low[i, k, j]),
                    "high": float(found.flattest_high[i, k, j]),
                }
                for j, measure in enumerate(found.measures)
            }
            for k, function in enumerate(found.functions)
        }
    once = ("basin", "order_largest", "order_trace")
    return {
        "functions": found.functions,
        "restarts": found.restarts,
        "tolerance": found.tolerance,
        "gradient_tolerance": found.gradient_tolerance,
        **{key: dict(zip(names, getattr(found, key).tolist(), strict=True)) for key in once},
        "methods": rows,
        "notes": found.notes,
        "conclusion": found.conclusion,
    }


def _distribution_tables(found: "Distribution") -> Iterator[Table]:
    # The rows of the other study are fitnesses, which no table publishes.
    flat = found.published is None
    for k, function in enumerate(found.functions):
        if flat:
            title = (
                f"{function}, {found.restarts} runs: share in % that ends at the flattest of the "
                "tied minima, with its 95 % interval, and at none. cost: evaluations for each run"
            )
            yield title, _flat_columns(found, k), list(_flat_rows(found, k))
            continue
        title = (
            f"{function}, {found.restarts} restarts: share in % with its 95 % interval, and under "
            "it the published share (relabel.: under other labels, a hypothesis). λ₁ and tr: place "
            "from flat to sharp by largest eigenvalue and by trace. p: chi-square against the "
            "basins; p ±: mirror images against each other. cost: gradient evaluations for each "
            "restart"
        )
        yield title, _columns(found, k), list(_rows(found, k))


def _columns(found: "Distribution", k: int) -> list[str]:
    here = found.function == k
    heads = [
        name if place < 0 else f"{name}\nλ₁ {place + 1}\ntr {other + 1}"
        for name, place, other in zip(
            [n for n, inside in zip(found.outcomes, here, strict=True) if inside],
            found.order_largest[here],
            found.order_trace[here],
            strict=True,
        )
    ]
    return ["method", *heads, "p", "p ±", "cost"]


def _rows(found: "Distribution", k: int) -> Iterator[list[str]]:
    here = found.function == k
    areas = [_percent(area) for area in found.basin[here]]
    yield ["basins", *areas, "", "", ""]
    for i, method in enumerate(found.methods):
        shares = [
            f"{100 * share:.1f}\n{100 * low:.0f}–{100 * high:.0f}"
            for share, low, high in zip(
                found.share[i, here], found.low[i, here], found.high[i, here], strict=True
            )
        ]
        mirror = math.nan if found.mirror_p is None else found.mirror_p[i, k]
        tail = [_number(found.p_value[i, k]), _number(mirror), f"{found.evaluations[i, k]:.0f}"]
        yield [method, *shares, *tail]
        yield from _published(found, i, here)


def _flat_columns(found: "Distribution", k: int) -> list[str]:
    here = found.function == k
    names = np.array(found.outcomes)[here]
    places = _flattest_places(found, k)
    by = ("λ₁", "trace") if len(places) == 2 else ("λ₁ and trace",)
    heads = [
        f"at {' '.join(names[order[here] == 0])}, flattest\nby {measure}"
        for order, measure in zip(places, by, strict=True)
    ]
    return ["method", *heads, "else", "cost"]


def _flat_rows(found: "Distribution", k: int) -> Iterator[list[str]]:
    inside = np.flatnonzero(found.function == k)
    for i, method in enumerate(found.methods):
        shares = [
            f"{100 * found.flattest[i, k, j]:.1f}  ({100 * found.flattest_low[i, k, j]:.0f}–"
            f"{100 * found.flattest_high[i, k, j]:.0f})"
            for j in range(len(_flattest_places(found, k)))
        ]
        missed = _percent(float(found.share[i, inside[-1]]))
        yield [method, *shares, missed, f"{found.evaluations[i, k]:.0f}"]


def _flattest_places(found: "Distribution", k: int) -> list[np.ndarray]:
    """The orders of the minima by both measures; one of them where both have one flattest."""
    here = found.function == k
    first, second = found.order_largest, found.order_trace
    return [first] if np.array_equal(first[here] == 0, second[here] == 0) else [first, second]


def _published(found: "Distribution", i: int, here: Any) -> Iterator[list[str]]:
    first, second = found.published, found.relabelled
    if first is None or second is None:
        return
    given, other = first[i, here].tolist(), second[i, here].tolist()
    if any(map(math.isfinite, given)):
        yield [" Table 1", *map(_percent, given), "", "", ""]
    # NaN differs from itself, so the texts are compared.
    if list(map(_percent, given)) != list(map(_percent, other)):
        yield [" relabel.", *map(_percent, other), "", "", ""]


def _percent(share: float) -> str:
    return f"{100 * share:.4g}" if math.isfinite(share) else "–"


def _number(value: float) -> str:
    return f"{value:.2g}" if math.isfinite(value) else "–"


def _walks(result: "Walks") -> dict[str, Any]:
    """The ends of the paths as one object."""
    ends = (*result.names, "else")
    height = result.loss[:, -1] - result.values.min()
    counts = [np.bincount(row, minlength=len(ends)) for row in result.label]
    return {
        "function": result.function,
        "members": result.position.shape[2],
        "evaluations": int(result.evaluations[-1]),
        "settings": result.settings,
        "methods": {
            name: {
                "median_height": float(np.median(height[i])),
                "ends": {end: int(n) for end, n in zip(ends, counts[i], strict=True) if n},
            }
            for i, name in enumerate(result.methods)
        },
    }


def _walks_tables(result: "Walks") -> Iterator[Table]:
    told = _walks(result)
    rows = [
        (name, entry["median_height"], ", ".join(f"{k} {n}" for k, n in entry["ends"].items()))
        for name, entry in told["methods"].items()
    ]
    title = f"{result.function}, {told['members']} members of each method after "
    title += f"{told['evaluations']:,} evaluations each ({result.settings})"
    yield title, ("method", "median of f above its lowest minimum", "ends"), rows


def _cycle(result: "Cycle") -> dict[str, Any]:
    """The cycle as one object."""
    measured = zip(result.surfaces, result.amplitude.tolist(), strict=True)
    return {
        "function": result.function,
        "minimum": result.minimum,
        "lr": result.lr,
        "rho": result.rho,
        "eigenvalue": float(result.eigenvalues[0]),
        "predicted": result.predicted,
        "measured": dict(measured),
        "shift": dict(zip(result.surfaces, result.shift.tolist(), strict=True)),
        "returning": dict(zip(result.surfaces, result.returning.tolist(), strict=True)),
    }


def _cycle_tables(result: "Cycle") -> Iterator[Table]:
    told = _cycle(result)
    rows = [("predicted on the quadratic", f"{told['predicted']:.10f}", "", "")]
    rows += [
        (
            f"measured on {name}",
            f"{size:.10f}",
            f"{told['shift'][name]:.3g}",
            f"{told['returning'][name]:.2g}",
        )
        for name, size in told["measured"].items()
    ]
    title = (
        f"SAM at minimum {told['minimum']} of {told['function']}: lr {told['lr']:g}, rho "
        f"{told['rho']:g}, λ₁ = {told['eigenvalue']:.10g}"
    )
    yield title, ("2-cycle", "half-amplitude", "middle from minimum", "two steps apart"), rows


def _flatness(study: Any) -> dict[str, Any]:
    from analyses.verdict import decided
    from landscape.results import table

    return {
        "measures": table(study),
        "trainings": dict(zip(study.points, study.training.tolist(), strict=True)),
        "nearest": dict(zip(study.points, study.nearest.tolist(), strict=True)),
        "concluded": decided(study),
        "conclusion": study.conclusion,
    }


def _flatness_tables(study: "Flatness") -> Iterator[Table]:
    yield "flatness against the gap", *_correlations(study)


def _correlations(study: "Flatness") -> tuple[tuple[str, ...], list[list[Any]]]:
    """The columns that have something to say, and a row for each measure.

    A dash is what too few trainings or runs do not give; n is the number of trainings.
    """
    from analyses.verdict import decided
    from landscape.results import table

    no = "no" if decided(study) else "-"
    told: dict[str, Any] = {
        "measure": lambda row: row["measure"],
        "tau-b": lambda row: _said(row["tau"]),
        "95 %": lambda row: _range(row["low"], row["high"]),
        "p (Holm)": lambda row: _said(row["p (Holm)"]),
        "in groups": lambda row: _said(row["tau within groups"]),
        "n": lambda row: row["trainings"],
        "spread": lambda row: _short(row["spread"]),
        "own error": lambda row: _short(row["own error"]),
        "says": lambda row: "yes" if row["says something"] else no,
    }
    rows = table(study)
    if all(row["tau"] != row["tau"] for row in rows):
        told = {name: told[name] for name in ("measure", "n", "spread", "own error", "says")}
    elif len(set(study.group.tolist())) == 1:
        del told["in groups"]
    return tuple(told), [[cell(row) for cell in told.values()] for row in rows]


def _range(low: float, high: float) -> str:
    return "-" if low != low else f"{low:.2f} to {high:.2f}"


def _said(number: Any) -> str:
    return f"{number:.2f}" if number == number else "-"


def _short(number: Any) -> str:
    return f"{number:.2g}" if number == number else "-"


def _own_tables(found: "Result") -> Iterator[Table]:
    yield type(found).__name__, ("result", "status"), [found.said()]
    yield from found.tables()


_KINDS: Mapping[str, tuple[Any, Any]] = MappingProxyType({
    "Stationary": (_stationary, _stationary_tables),
    "Distribution": (_distribution, _distribution_tables),
    "Walks": (_walks, _walks_tables),
    "Cycle": (_cycle, _cycle_tables),
    "Flatness": (_flatness, _flatness_tables),
})
# What a result says of itself, where a study says nothing else.
_PLAIN = (lambda found: found.numbers(), _own_tables)
