"""``cnognp demo --table``: the published methods side by side, beside the published numbers."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from cnognp.cli import console
from cnognp.cli.plot import draw

if TYPE_CHECKING:
    from landscape.results import Distribution


def tabulate(options: Namespace) -> None:
    """Runs the study of all methods, draws it, and prints the table.

    Raises:
        ValueError: if options contradict each other.
    """
    from analyses.distribution import FUNCTIONS, Config, study
    from landscape import results

    _refuse(options)
    config = Config(
        functions=tuple(options.functions) or FUNCTIONS,
        restarts=options.restarts,
        seed=options.seed,
        tolerance=options.tolerance,
    )
    folder = Path(options.out)
    (folder / "analysis").mkdir(parents=True, exist_ok=True)
    with console.bar() as bar:
        rows = len(config.functions) * len(config.methods)
        line = bar.add_task("table", total=rows, note="")
        found = study(config, lambda row: bar.update(line, advance=1, note=row))
    file = folder / "analysis" / "distribution.h5"
    results.save(found, file)
    draw([file], folder / "figures")
    if options.json:
        console.emit(document(found))
        return
    for k, function in enumerate(found.functions):
        title = (
            f"{function}, {found.restarts} restarts: share in % with its 95 % interval, and under "
            "it the published share (relabel.: under other labels, a hypothesis). λ₁ and tr: place "
            "from flat to sharp by largest eigenvalue and by trace. p: chi-square against the "
            "basins. cost: gradient evaluations for each restart"
        )
        console.table(title, _columns(found, k), _rows(found, k))
    for remark in (*found.notes, found.conclusion, f"pictures in {folder / 'figures'}"):
        console.note(remark)


def document(found: "Distribution") -> dict[str, Any]:
    """The table as one object; what is not at hand is null."""
    names = [
        f"{found.functions[k]} {n}" for k, n in zip(found.function, found.outcomes, strict=True)
    ]
    by_outcome = ("counts", "share", "low", "high", "published", "relabelled", "deviation",
                  "deviation_relabelled")  # fmt: skip
    by_function = ("p_value", "published_sum", "moved", "evaluations", "unsettled", "diverged")
    rows: dict[str, dict[str, Any]] = {}
    for i, method in enumerate(found.methods):
        rows[method] = {}
        for keys, labels in ((by_outcome, names), (by_function, found.functions)):
            for key in keys:
                values = getattr(found, key)[i].tolist()
                rows[method][key] = dict(zip(labels, values, strict=True))
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


def _refuse(options: Namespace) -> None:
    given = options.method.as_dict()
    if given["name"] != "gd" or options.iterations is not None:
        raise ValueError(
            "--table runs all published methods with the steps that settle them: leave out "
            "--method and --iterations"
        )


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
    return ["method", *heads, "p", "cost"]


def _rows(found: "Distribution", k: int) -> Iterator[list[str]]:
    here = found.function == k
    areas = [_percent(area) for area in found.basin[here]]
    yield ["basins", *areas, "", ""]
    for i, method in enumerate(found.methods):
        shares = [
            f"{100 * share:.1f}\n{100 * low:.0f}–{100 * high:.0f}"
            for share, low, high in zip(
                found.share[i, here], found.low[i, here], found.high[i, here], strict=True
            )
        ]
        tail = [_number(found.p_value[i, k]), f"{found.evaluations[i, k]:.0f}"]
        yield [method, *shares, *tail]
        yield from _published(found, i, here)


def _published(found: "Distribution", i: int, here: Any) -> Iterator[list[str]]:
    first, second = found.published, found.relabelled
    if first is None or second is None:
        return
    given, other = first[i, here].tolist(), second[i, here].tolist()
    if any(map(math.isfinite, given)):
        yield [" Table 1", *map(_percent, given), "", ""]
    # NaN differs from itself, so the texts are compared.
    if list(map(_percent, given)) != list(map(_percent, other)):
        yield [" relabel.", *map(_percent, other), "", ""]


def _percent(share: float) -> str:
    return f"{100 * share:.4g}" if math.isfinite(share) else "–"


def _number(value: float) -> str:
    return f"{value:.2g}" if math.isfinite(value) else "–"
