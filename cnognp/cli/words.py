"""What results say in words and numbers, for standard output."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

Said = tuple[str, str]
Table = tuple[str, Sequence[str], list[Sequence[Any]]]

_HIDDEN = ("provenance", "vectors", "samples", "nodes", "weights")
# An error that changes no digit that is shown.
_SLIGHT = 1e-6
_GRIDS = ("Line", "Lines", "Surface")


def summary(result: Any) -> Said:
    """A result in words, and how it ended."""
    kind = type(result).__name__
    said = _SAID.get(kind, _plain)
    return said(result)


def numbers(result: Any) -> dict[str, Any]:
    """The fields of a result; a slice only by its extent, since it is in its file."""
    kind = type(result).__name__
    if kind in _GRIDS:
        finite = result.loss[(result.loss == result.loss) & (abs(result.loss) != float("inf"))]
        extent = {"min": finite.min(initial=float("inf")), "max": finite.max(initial=-float("inf"))}
        return {"kind": kind, "center": result.center, "shape": result.loss.shape, **extent}
    judged = getattr(result, "provenance", {}).get("judged")
    return (
        {"kind": kind}
        | {name: getattr(result, name) for name in vars(result) if name not in _HIDDEN}
        | ({"judged": judged} if judged else {})
    )


def tables(result: Any) -> Iterator[Table]:
    """The tables of a result that a line does not hold."""
    kind = type(result).__name__
    if kind == "Panel":
        columns: Sequence[str] = (
            "measure",
            "value",
            "how well it is known",
            "unit",
            "neighbourhood",
            "note",
        )
        rows: list[Sequence[Any]] = [
            (name, number, _known(result, i), result.units[i], result.radii[i], result.notes[i])
            for i, (name, number) in enumerate(zip(result.measures, result.value, strict=True))
        ]
        yield "flatness", columns, rows
    if kind == "FiniteScaleTrace":
        columns = ("σ", "curvature", "standard error", "rounding", "")
        rows = [
            (sigma, estimate, error, rounding, "" if resolved else "below rounding")
            for sigma, estimate, error, rounding, resolved in zip(
                result.sigma, result.estimate, result.standard_error, result.rounding,
                result.resolved, strict=True,
            )
        ]  # fmt: skip
        yield "curvature at a distance σ, summed over coordinates", columns, rows
    if kind == "Crosscheck":
        columns = ("quantity", "ours", "error", "PyHessian", "difference", "in errors")
        rows = [
            (name, float(ours), float(error), float(theirs), float(theirs - ours), float(ratio))
            for name, ours, error, theirs, ratio in zip(
                result.quantities, result.ours, result.error, result.theirs,
                result.difference_in_errors, strict=True,
            )
        ]  # fmt: skip
        yield "by two codes", columns, rows


def _known(panel: Any, i: int) -> str:
    kind, error, low, high = panel.kinds[i], panel.error[i], panel.low[i], panel.high[i]
    if kind == "none":
        return ""
    slight = kind in ("exact", "lower bound") and not error > _SLIGHT * abs(panel.value[i])
    if error == error and not slight:
        return f"{kind}, ± {error:.2g}"
    if kind == "estimate" and low == low:
        return f"95 % from {low:.3g} to {high:.3g}"
    return kind


def _part(result: Any) -> str:
    """Which matrix, where it is not the whole Hessian."""
    matrix = "Hessian" if result.operator == "Hessian" else f"{result.operator} matrix"
    where = f" in {result.where}" if result.where else ""
    return f"of the {matrix}{where}: " if where or matrix != "Hessian" else ""


def _spectrum(result: Any) -> Said:
    pairs = zip(result.eigenvalues, result.bounds, strict=True)
    values = ", ".join(f"{value:.5g} ± {bound:.1g}" for value, bound in pairs)
    checks = f" and {result.check_products} to check" if result.check_products else ""
    return (
        f"{_part(result)}eigenvalues {values}",
        f"{result.status}, {result.products} products{checks}",
    )


def _trace(result: Any) -> Said:
    said = f"{_part(result)}trace {result.estimate:.5g}"
    if result.standard_error:
        low, high = result.interval
        said += f" ± {result.standard_error:.2g}, 95 % from {low:.5g} to {high:.5g}"
    return said, f"{result.method}: {result.status}, {result.products} products"


def _finite_scale(result: Any) -> Said:
    said = f"mean curvature at {len(result.sigma)} distances"
    beside = f"{said}, trace at the point {result.trace:.5g}"
    cost = f"{result.probes} probes, {result.evaluations} evaluations"
    return beside if result.trace == result.trace else said, f"{result.status}, {cost}"


def _density(result: Any) -> Said:
    ends = f"nodes from {result.nodes.min():.5g} to {result.nodes.max():.5g}"
    outliers = f"{len(result.outliers)} eigenvalues found on their own"
    cost = f"{result.probes} probes of {result.steps} steps"
    return f"{_part(result)}{ends}; {outliers}", f"{result.status}, {cost}"


def _gradients(result: Any) -> Said:
    norms = result.gradient_norm
    return (
        f"gradient norms {norms.min():.4g} to {norms.max():.4g}",
        f"{len(norms)} member{'s' * (len(norms) != 1)}",
    )


def _panel(result: Any) -> Said:
    known = sum(value == value for value in result.value)
    cost = f"{int(result.evaluations.sum())} evaluations, {int(result.products.sum())} products"
    return f"{known} of {len(result.value)} measures defined", cost


def _crosscheck(result: Any) -> Said:
    most = abs(result.difference_in_errors).max()
    return f"largest difference {most:.2g} errors", result.status


def _slice(result: Any) -> Said:
    inside = result.loss[abs(result.loss) < float("inf")]
    extent = f"loss {inside.min():.5g} to {inside.max():.5g}" if inside.size else "no finite loss"
    measured = getattr(result, "evaluated", None)
    count = result.loss.size if measured is None else int(measured.sum())
    filled = "" if measured is None else f" measured of {result.loss.size}"
    return f"{extent}, {result.center:.5g} at the point", f"{count} points{filled}"


def _plain(result: Any) -> Said:
    return type(result).__name__, getattr(result, "status", "")


_SAID: Mapping[str, Callable[[Any], Said]] = MappingProxyType({
    "Spectrum": _spectrum,
    "Trace": _trace,
    "FiniteScaleTrace": _finite_scale,
    "Density": _density,
    "Gradients": _gradients,
    "Panel": _panel,
    "Crosscheck": _crosscheck,
    "Line": _slice,
    "Lines": _slice,
    "Surface": _slice,
})
