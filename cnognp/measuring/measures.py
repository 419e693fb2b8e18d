"""The measurements of one point by name, each a function of where it is taken and how finely."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cnognp.method import require
from cnognp.training.weights import SUFFIXES
from landscape import directions, slices
from landscape import sharpness as flatness
from landscape import trace as traces
from landscape.crosscheck import crosscheck as by_pyhessian
from landscape.curvature import Hessian
from landscape.directions import sources
from landscape.operators import EmpiricalFisher, Fisher, GaussNewton
from landscape.operators.selection import selected
from landscape.results import Result
from landscape.sharpness import Options
from landscape.slices import adaptive_plane
from landscape.spectrum import density as spectral_density
from landscape.spectrum import top_eigenpairs

ENDS = ("LM", "LA", "SA", "BE")
DIRECTIONS = ("random", "eigenvectors", "gradient", "pca")
NORMALISED = ("", "filter", "layer", "model", "none")
METHODS = ("auto", "hutchinson", "exact")
PRECISIONS = ("same", "bfloat16")
STATISTICS = ("as given", "reestimated")
OPERATORS: Mapping[str, Callable[[Any, Tensor], Any]] = MappingProxyType({
    "hessian": Hessian,
    "gauss-newton": GaussNewton,
    "fisher-categorical": partial(Fisher, likelihood="categorical"),
    "fisher-gaussian": partial(Fisher, likelihood="gaussian"),
    "empirical-fisher": EmpiricalFisher,
})


class Place(NamedTuple):
    """Where a measurement is taken.

    Attributes:
        objective: what is measured, its statistics those of the point.
        z: (p,), the point.
        population: (n, p), all members.
        metrics: further objectives of the task by name, such as its accuracy.
        store: where a slice keeps the cells that are done, until it is saved.
        progress: called with the number of points done and of all.
        towards: (p,), the other point that slices go to, where they do.
    """

    objective: Any
    z: Tensor
    population: Tensor
    metrics: Mapping[str, Any] = MappingProxyType({})
    store: Path | None = None
    progress: Callable[[int, int], None] | None = None
    towards: Tensor | None = None


Measure = Callable[[Place, "Settings"], Result]


@dataclass(frozen=True)
class Settings:
    """How fine a measurement is.

    Args:
        operator: the matrix whose spectrum, trace and density are measured, one of `OPERATORS`.
        where: names of layers, modules or tensors that the matrix is restricted to; all if empty.
        k: eigenvalues, at least 1; a network with fewer parameters has fewer.
        which: the end of the spectrum, as in `landscape.spectrum.top_eigenpairs`.
        tolerance: of the eigenvalues, relative to the largest.
        trace_method: as in `landscape.trace.trace`.
        probes: random vectors of the trace and of the curvature at a distance, at least 2.
        scales: the distances of the curvature at a distance, positive.
        density_steps: of Lanczos for each probe of the density, at least 1.
        density_probes: random vectors of the density, at least 1.
        points: points along a line, at least 2.
        grid: points along each side of a plane, at least 2, or along one and the other.
        span: a slice reaches from -span to span, in units of its directions, or from one number to
            another.
        direction: of slices: random, eigenvectors, gradient, pca (of the population), or a file of
            weights, which are at 1 on the first axis.
        by: what directions are normalised by; filter for random ones and none for others if empty.
        seeds: random directions of a line, at least 1; from two on a band is drawn.
        metrics: further numbers at each cell of a slice: metrics of the task by their names,
            gradient_norm, lambda_max, trace.
        standard_errors: of the loss at each cell over batches of data.
        adaptive: measure a plane only where it bends, and interpolate the rest.
        precision: of slices: that of the model, or bfloat16.
        statistics: of BatchNorm in slices: as given, or reestimated at every point.
        measures: of flatness, by name; all if empty.
        sharpness: radii and budgets of the flatness measures.
        seed: of the random directions and starting vectors.

    Raises:
        ValueError: if one is out of range.
    """

    operator: str = "hessian"
    where: Sequence[str] = ()
    k: int = 5
    which: str = "LM"
    tolerance: float = 1e-3
    trace_method: str = "auto"
    probes: int = 100
    scales: Sequence[float] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    density_steps: int = 100
    density_probes: int = 10
    points: int = 101
    grid: int | tuple[int, int] = 41
    span: float | tuple[float, float] = 1.0
    direction: str = "random"
    by: str = ""
    seeds: int = 1
    metrics: Sequence[str] = ()
    standard_errors: bool = False
    adaptive: bool = False
    precision: str = "same"
    statistics: str = "as given"
    measures: Sequence[str] = ()
    sharpness: Options = field(default_factory=Options)
    seed: int = 0

    def __post_init__(self):
        choices = {
            "operator": tuple(OPERATORS), "which": ENDS, "by": NORMALISED,
            "trace_method": METHODS, "precision": PRECISIONS, "statistics": STATISTICS,
        }  # fmt: skip
        known = f"one of {', '.join(DIRECTIONS)}, or a file of weights ({', '.join(SUFFIXES)})"
        fits = self.direction in DIRECTIONS or self.file is not None
        require(fits, "direction", known, self.direction)
        for name, words in choices.items():
            given = getattr(self, name)
            require(given in words, name, f"one of {', '.join(filter(None, words))}", given)
        least = {"k": 1, "probes": 2, "density_steps": 1, "density_probes": 1, "points": 2}
        least |= {"seeds": 1}
        for name, number in least.items():
            given = getattr(self, name)
            require(given >= number, name, f"at least {number}", given)
        require(all(n >= 2 for n in self.grids), "grid", "at least 2", self.grid)
        low, high = self.reach
        pair = "a lower and a higher number" if isinstance(self.span, tuple) else ""
        fits = -float("inf") < low < high < float("inf")
        require(fits, "span", pair or "positive and finite", self.span)
        require(0 < self.tolerance < 1, "tolerance", "between 0 and 1", self.tolerance)
        for scale in self.scales:
            require(0 < scale < float("inf"), "scales", "positive and finite", scale)
        require(len(self.scales) > 0, "scales", "at least one distance", "none")
        for name in self.measures:
            known = f"some of {', '.join(flatness.MEASURES)}"
            require(name in flatness.MEASURES, "measures", known, name)
        together = self.direction == "random" and not self.metrics and not self.standard_errors
        if self.seeds > 1 and not together:
            raise ValueError(
                "seeds make a band of random directions, without metrics or standard errors; "
                "measure those along one direction"
            )

    @property
    def grids(self) -> tuple[int, int]:
        """The points along the two sides of a plane."""
        return self.grid if isinstance(self.grid, tuple) else (self.grid, self.grid)

    @property
    def reach(self) -> tuple[float, float]:
        """From where to where a slice goes."""
        return self.span if isinstance(self.span, tuple) else (-self.span, self.span)

    @property
    def file(self) -> Path | None:
        """The file of the weights that slices go to, if they do."""
        path = Path(self.direction)
        return path if path.suffix.lower() in SUFFIXES else None

    @property
    def generator(self) -> torch.Generator:
        """A fresh generator."""
        return torch.Generator(device="cpu").manual_seed(self.seed)


def check(objective: Any, kinds: Sequence[str], settings: Settings) -> None:
    """Nothing, if the matrix that the settings ask for fits the objective and what is measured.

    Raises:
        ValueError: if a layer does not exist, or a measurement is of the whole Hessian alone.
    """
    if settings.where:
        selected(objective, list(settings.where), torch.device("cpu"))
    alone = [kind for kind in kinds if kind in ("finite-scale", "crosscheck")]
    if alone and (settings.operator != "hessian" or settings.where):
        raise ValueError(f"{alone[0]} is of the whole Hessian: leave out operator and where")


def check_apart(z: Tensor, towards: Tensor, file: Any) -> None:
    """Nothing, if the weights of a file are others than those of the point.

    Raises:
        ValueError: if they are the same.
    """
    if torch.equal(z, towards):
        raise ValueError(
            f"direction: the weights in {file} are those of the point itself, so there is no way "
            "from one to the other; name another file"
        )


def spectrum(place: Place, settings: Settings) -> Result:
    """The eigenvalues at one end of the matrix's spectrum, with bounds."""
    part = _matrix(place, settings)
    return top_eigenpairs(
        place.objective, place.z, min(settings.k, _size(place, part["where"])), settings.which,  # type: ignore[arg-type]
        settings.tolerance, generator=settings.generator, vectors=False, **part,
    )  # fmt: skip


def trace(place: Place, settings: Settings) -> Result:
    """The trace of the matrix: exact where that holds, else with its standard error."""
    return traces.trace(
        place.objective, place.z, settings.trace_method,  # type: ignore[arg-type]
        probes=settings.probes, generator=settings.generator, **_matrix(place, settings),
    )  # fmt: skip


def finite_scale(place: Place, settings: Settings) -> Result:
    """The mean curvature at a ladder of distances, beside the trace at the point itself."""
    return traces.finite_scale(
        place.objective, place.z, settings.scales, probes=settings.probes,
        beside=trace(place, settings), generator=settings.generator,  # type: ignore[arg-type]
    )  # fmt: skip


def density(place: Place, settings: Settings) -> Result:
    """The density of the matrix's eigenvalues, with bands."""
    return spectral_density(
        place.objective, place.z, steps=settings.density_steps, probes=settings.density_probes,
        generator=settings.generator, **_matrix(place, settings),
    )  # fmt: skip


def crosscheck(place: Place, settings: Settings) -> Result:
    """Eigenvalues and trace by PyHessian beside ours."""
    return by_pyhessian(
        place.objective, place.z, min(settings.k, place.objective.dim),
        tolerance=settings.tolerance, probes=settings.probes, seed=settings.seed,
    )  # fmt: skip


def sharpness(place: Place, settings: Settings) -> Result:
    """Every flatness measure, or those that are named."""
    return flatness.panel(
        place.objective, place.z, options=settings.sharpness, only=settings.measures,
        generator=settings.generator,
    )  # fmt: skip


def line(place: Place, settings: Settings) -> Result:
    """The loss along one direction, or along several random ones."""
    alpha = slices.span(*settings.reach, settings.points)
    u, (name, *_) = chosen(place, settings, settings.seeds)
    if settings.seeds > 1:
        options = {key: value for key, value in _options(place, settings).items()
                   if key not in ("metrics", "standard_errors")}  # fmt: skip
        return slices.lines(place.objective, place.z, list(u), alpha=alpha, name=name, **options)
    options = _options(place, settings)
    return slices.line(place.objective, place.z, u[0], alpha=alpha, name=name, **options)


def plane(place: Place, settings: Settings) -> Result:
    """The loss over the plane of two directions."""
    (u, v), (first, second) = chosen(place, settings, 2)
    if settings.adaptive:
        return adaptive_plane(
            place.objective, place.z, u, v, alpha=settings.reach, beta=settings.reach,
            count=settings.grids,
            names=(first, second), scale="log", **_options(place, settings),
        )  # fmt: skip
    alpha, beta = (slices.span(*settings.reach, count) for count in settings.grids)
    return slices.plane(
        place.objective, place.z, u, v, alpha=alpha, beta=beta, names=(first, second),
        **_options(place, settings),
    )  # fmt: skip


def chosen(place: Place, settings: Settings, count: int) -> tuple[Tensor, tuple[str, ...]]:
    """The directions (count, p) that the settings ask for, and what each is.

    A gradient makes one direction, and so does a file of weights; a second beside it is random.

    Raises:
        ValueError: if the population has too few different members for its principal directions,
            or the gradient is zero, or the weights in the file are those of the point.
    """
    z, layout = place.z, getattr(place.objective, "layout", None)
    by: Any = settings.by or ("filter" if settings.direction == "random" else "none")
    suffix = "" if by == "none" else f", {by}-normalised"
    names = [f"random{suffix}"] * count
    if settings.direction == "random":
        u = directions.random(layout, z, settings.generator, count=count, by=by)
        return u, tuple(names)
    if settings.direction == "eigenvectors":
        u = sources.eigenvectors(place.objective, z, count)
        names = [f"eigenvector {i + 1}{suffix}" for i in range(count)]
    elif settings.direction == "pca":
        u, share = directions.pca(place.population, count)
        names = [f"principal direction {i + 1} ({s:.0%}){suffix}" for i, s in enumerate(share)]
    elif settings.file is not None:
        return _towards(place, settings, count)
    else:
        slope = sources.gradient(place.objective, z)
        slope = slope / torch.linalg.vector_norm(slope)
        others = directions.random(
            layout, z, settings.generator, count=count - 1, by=by, beside=slope.unsqueeze(0)
        )
        u = torch.cat([slope.unsqueeze(0), others])
        names[0] = f"gradient{suffix}"
    return (u if by == "none" else directions.normalise(layout, z, u, by)), tuple(names)


def _towards(place: Place, settings: Settings, count: int) -> tuple[Tensor, tuple[str, ...]]:
    """The difference of the other weights and the point, and random directions beside it.

    Those are as the point's filters are, or all normalised alike where that is asked for.

    Raises:
        ValueError: if there is no other point, or it is the point itself.
    """
    z, layout = place.z, getattr(place.objective, "layout", None)
    if place.towards is None:
        raise ValueError(f"no weights of {settings.direction} were given with the place")
    check_apart(z, place.towards, settings.direction)
    u = (place.towards - z).unsqueeze(0)
    name = f"to {settings.direction}"
    by: Any = settings.by or "filter"
    if settings.by not in ("", "none"):
        u = directions.normalise(layout, z, u, by)
        name = f"{name}, {by}-normalised"
    if count == 1:
        return u, (name,)
    others = directions.random(layout, z, settings.generator, count=count - 1, by=by, beside=u)
    suffix = "" if by == "none" else f", {by}-normalised"
    return torch.cat([u, others]), (name, *[f"random{suffix}"] * (count - 1))


def _matrix(place: Place, settings: Settings) -> dict[str, Any]:
    """The arguments that say which matrix, and which part of it."""
    where = list(settings.where) or None
    return {"operator": OPERATORS[settings.operator], "where": where}


def _size(place: Place, where: Any) -> int:
    """The number of coordinates of the part."""
    objective = place.objective
    return objective.dim if where is None else len(selected(objective, where, place.z.device))


def _options(place: Place, settings: Settings) -> dict[str, Any]:
    metrics = {name: place.metrics.get(name, name) for name in settings.metrics}
    return {
        "metrics": metrics,
        "standard_errors": settings.standard_errors,
        "precision": settings.precision,
        "statistics": settings.statistics,
        "store": place.store,
        "progress": place.progress,
    }


MEASURES: Mapping[str, Measure] = MappingProxyType({
    "spectrum": spectrum,
    "trace": trace,
    "finite-scale": finite_scale,
    "density": density,
    "crosscheck": crosscheck,
    "sharpness": sharpness,
    "line": line,
    "plane": plane,
})
