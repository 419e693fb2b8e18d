"""What kinds of measurements share: how a kind is written, and settings that several have."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch

from cnognp.measuring.place import Place
from cnognp.ranges import require
from cnognp.tasks.weights import SUFFIXES
from landscape import operators
from landscape.curvature import Hessian
from landscape.operators.selection import selected
from landscape.results import Result

ENDS = ("LM", "LA", "SA", "BE")
_DIRECTIONS = ("random", "eigenvectors", "gradient", "pca")
_NORMALISED = ("", "filter", "layer", "model", "none")
_PRECISIONS = ("same", "bfloat16")
_STATISTICS = ("as given", "reestimated")
_OPERATORS = (
    "hessian", "gauss-newton", "fisher-categorical", "fisher-gaussian", "empirical-fisher"
)  # fmt: skip


def one_of(name: str, words: Sequence[str], given: str) -> None:
    """Nothing, if a word is among those that are known.

    Raises:
        ValueError: if it is not.
    """
    require(given in words, name, f"one of {', '.join(filter(None, words))}", given)


def names(text: str) -> tuple[str, ...]:
    """The names in a text, comma-separated."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def written(shown: str, metavar: str | None, read: Callable[[str], Any]) -> Any:
    """A field that the command line writes as one word; both words are read from the source.

    Args:
        shown: the default as a word.
        metavar: how help writes the word, where it is not by the name of the field.
        read: from the word to the field's value.
    """
    return field(default=read(shown), metadata={"read": read})


class Settings:
    """A kind of measurement: a frozen dataclass of how fine it is, with `measure`.

    A kind is the subclass that a module of `cnognp.measuring.kinds` is called after. Each field is
    a flag of ``cnognp analyze``, and its line under Args the help; a field that several kinds have
    stands in a class that they share.
    """

    whole: ClassVar[bool] = False
    """Whether it is of all members at once, and not of each point."""
    pieces: ClassVar[bool] = False
    """Whether it falls into pieces that `Place.spread` has done elsewhere."""

    @property
    def summed(self) -> bool:
        """Whether it takes sums over the data alone, which several processes can share."""
        return False

    def __post_init__(self):
        """Nothing: classes with ranges check theirs, and call this one."""

    @property
    def kind(self) -> str:
        """The name of the measurement."""
        return type(self).__module__.rpartition(".")[2].replace("_", "-")

    def check(self, objective: Any) -> None:
        """Nothing, if the objective can be measured like this; called before any measurement.

        Raises:
            ValueError: if it cannot.
        """

    def measure(self, place: Place) -> Result:
        """The result at a place."""
        raise NotImplementedError


@dataclass(frozen=True)
class Seeded(Settings):
    """What draws at random.

    Args:
        seed: of directions, starting vectors and random vectors.
    """

    seed: int = 0

    @property
    def generator(self) -> torch.Generator:
        """A fresh generator."""
        return torch.Generator(device="cpu").manual_seed(self.seed)


@dataclass(frozen=True)
class Matrix(Seeded):
    """What is measured of a matrix, or of some of its rows and columns.

    Args:
        operator: the matrix: hessian, gauss-newton, fisher-categorical, fisher-gaussian or
            empirical-fisher.
        where: only its rows and columns of these layers or tensors, comma-separated, * and ?
            allowed; all if not given.
    """

    operator: str = "hessian"
    where: Sequence[str] = written("", None, names)

    def __post_init__(self):
        super().__post_init__()
        one_of("operator", _OPERATORS, self.operator)

    def check(self, objective: Any) -> None:
        """Nothing, if the layers exist.

        Raises:
            ValueError: if one does not.
        """
        if self.where:
            selected(objective, list(self.where), torch.device("cpu"))

    @property
    def summed(self) -> bool:
        return self.operator == "hessian"

    @property
    def matrix(self) -> dict[str, Any]:
        """The arguments that say which matrix, and which part of it."""
        classes = {
            "hessian": Hessian,
            "gauss-newton": operators.GaussNewton,
            "fisher-categorical": partial(operators.Fisher, likelihood="categorical"),
            "fisher-gaussian": partial(operators.Fisher, likelihood="gaussian"),
            "empirical-fisher": operators.EmpiricalFisher,
        }
        return {"operator": classes[self.operator], "where": list(self.where) or None}


class WholeHessian(Matrix):
    """What is measured of the whole Hessian alone."""

    def check(self, objective: Any) -> None:
        """Nothing, if no other matrix and no part of it is asked for.

        Raises:
            ValueError: if one is.
        """
        if self.operator != "hessian" or self.where:
            raise ValueError(f"{self.kind} is of the whole Hessian: leave out operator and where")


@dataclass(frozen=True)
class Eigenvalues(Matrix):
    """How many eigenvalues, and how well.

    Args:
        k: number of eigenvalues, at least 1; a network with fewer parameters has fewer.
        tolerance: of the eigenvalues, relative to the largest.
    """

    k: int = 5
    tolerance: float = 1e-3

    def __post_init__(self):
        super().__post_init__()
        require(self.k >= 1, "k", "at least 1", self.k)
        require(0 < self.tolerance < 1, "tolerance", "between 0 and 1", self.tolerance)


@dataclass(frozen=True)
class Probed(Matrix):
    """What averages over random vectors.

    Args:
        probes: random vectors of a trace and of the curvature at a distance, at least 2.
    """

    probes: int = 100

    def __post_init__(self):
        super().__post_init__()
        require(self.probes >= 2, "probes", "at least 2", self.probes)


def _reach(text: str) -> float | tuple[float, float]:
    """How far slices reach, or from where to where.

    Raises:
        ValueError: if the text says neither.
    """
    try:
        ends = [float(word) for word in text.split(":")]
    except ValueError:
        ends = []
    if len(ends) not in (1, 2):
        raise ValueError(
            f"--span: expected a number such as 0.5, or two such as -0.5:1, got {text}"
        )
    return ends[0] if len(ends) == 1 else (ends[0], ends[1])


@dataclass(frozen=True)
class Slice(Seeded):
    """Where slices go, and what is measured at their points.

    Args:
        span: slices reach from -S to S in units of their directions, or from A to B
            (--span=-0.5:1).
        direction: random, eigenvectors, gradient, pca of the population, or a file of other weights
            (.safetensors, .pt), which are then at 1 on the first axis.
        by: directions are normalised by filter, layer, model or none; filter for random ones and
            none for others if not given.
        metrics: further numbers at each point: gradient_norm, lambda_max, trace, metrics of the
            task, test_loss and the like.
        standard_errors: of the loss, over batches of data (16 of them where it is one).
        statistics: of BatchNorm: as given, or reestimated at every point of a slice.
        precision: that of the model (same), or bfloat16.
    """

    span: float | tuple[float, float] = written("1.0", "S | A:B", _reach)
    pieces = True
    direction: str = "random"
    by: str = ""
    metrics: Sequence[str] = written("", None, names)
    standard_errors: bool = False
    statistics: str = "as given"
    precision: str = "same"

    def __post_init__(self):
        super().__post_init__()
        if self.direction not in _DIRECTIONS:
            known = f"one of {', '.join(_DIRECTIONS)}, or a file of weights ({', '.join(SUFFIXES)})"
            require(self.file is not None, "direction", known, self.direction)
        one_of("by", _NORMALISED, self.by)
        one_of("precision", _PRECISIONS, self.precision)
        one_of("statistics", _STATISTICS, self.statistics)
        low, high = self.reach
        pair = "a lower and a higher number" if isinstance(self.span, tuple) else ""
        fits = -float("inf") < low < high < float("inf")
        require(fits, "span", pair or "positive and finite", self.span)

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
    def keeps_cells(self) -> bool:
        """Whether the points that are done can be kept until the slice is."""
        return True

    def options(self, place: Place) -> dict[str, Any]:
        """What is measured at each point, as arguments of `landscape.slices`."""
        return {
            "metrics": {name: place.metrics.get(name, name) for name in self.metrics},
            "standard_errors": self.standard_errors,
            "precision": self.precision,
            "statistics": self.statistics,
            "store": place.store,
            "progress": place.progress,
            "elsewhere": None if place.spread is None else place.spread.columns(self, place.z),
        }
