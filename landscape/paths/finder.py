"""What path finders share: the straight line beside each path, and the result that is made."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.objective import Objective, judged, widened
from landscape.paths.curves import Curve, straight
from landscape.paths.ground import Ground
from landscape.paths.profile import Options, Profile, by_term, errors, kept, metrics, profile
from landscape.results import Path, provenance

Told = Callable[[int, int], None]
_MEASURED = frozenset(entry.name for entry in fields(Options))


class Found(NamedTuple):
    """The curve that a finder has come to, and how it ended."""

    curve: Curve
    status: str


@dataclass(frozen=True)
class Finder:
    """How a path is found: a frozen dataclass of its settings, with `search`."""

    name: ClassVar[str]

    def search(self, ground: Ground, line: Profile, told: Told) -> Found:
        """A curve between the ends of the ground, which was no higher at the points that it saw.

        Args:
            ground: the objective and the two ends.
            line: the loss along the straight line.
            told: called with the number of steps done and of all.
        """
        raise NotImplementedError


def find(
    kind: type[Finder],
    objective: Objective,
    a: Float[Tensor, " p"],
    b: Float[Tensor, " p"],
    settings: dict[str, Any],
) -> Path:
    """The path that a finder of this kind finds, measured on a dense grid.

    The straight line is measured first. Where an end is its highest point no path is lower, so that
    the line is the result; so it is where the finder comes to nothing lower.

    Args:
        kind: the class of the finder.
        objective: what is evaluated; without random modules.
        a: (p,), one end.
        b: (p,), the other.
        settings: fields of the finder and of `Options` by name.

    Raises:
        TypeError: if a setting is no field of either.
        ValueError: if the ends are no two points of the objective, or a setting is out of range.
        RuntimeError: if the objective is random.
    """
    own = {entry.name for entry in fields(kind)}
    if unknown := settings.keys() - own - _MEASURED:
        raise TypeError(
            f"{kind.name} has no setting {', '.join(sorted(unknown))}; there are "
            f"{', '.join([*own, *sorted(_MEASURED)])}"
        )
    finder = kind(**{name: value for name, value in settings.items() if name in own})
    options = Options(**{name: value for name, value in settings.items() if name in _MEASURED})
    ground = Ground(objective, a, b, statistics=options.statistics, chunk=options.chunk)
    told = options.progress or (lambda done, total: None)
    with torch.inference_mode(False), torch.no_grad():
        line = profile(ground, straight(ground.a, ground.b), options)
        best, status, measured = straight(ground.a, ground.b), "", line
        if kind.name == "linear":
            status = "the straight line"
        elif not line.height > float(ground.losses.max()):
            status = "the straight line: its highest point is an end, so that no path is lower"
        else:
            found = finder.search(ground, line, told)
            along = profile(ground, found.curve, options)
            if _lower(along.height, line.height, ground):
                best, status, measured = found.curve, found.status, along
            else:
                status = f"the straight line: nothing lower was found ({found.status})"
        if not np.isfinite(measured.height):
            status = f"{status}; the loss is not finite on it"
        return _result(finder, ground, options, line, best, measured, status)


def _result(
    finder: Finder,
    ground: Ground,
    options: Options,
    line: Profile,
    curve: Curve,
    measured: Profile,
    status: str,
) -> Path:
    summit = curve.at(np.array([measured.top]))
    grid = measured.share
    more: dict[str, Any] = {}
    if options.standard_errors:
        # Once more, term by term, of the path that it has come to alone.
        terms = by_term(ground, curve, np.append(grid, measured.top))
        named = errors(terms[:, :-1], terms[:, -1], ground.objective)
        more |= dict(zip(("standard_error", "height_error", "barrier_error"), named, strict=True))
    evaluations, gradients = ground.evaluations, ground.gradients
    if options.metrics:
        more["metrics"] = tuple(options.metrics)
        more["metric_values"] = metrics(ground, curve, options, grid)
    if kept(options, ground.objective.dim):
        more["points"] = curve.at(grid).cpu().numpy()
    if options.progress is not None:
        options.progress(1, 1)
    return Path(
        share=grid,
        loss=measured.loss,
        summit=summit[0].cpu().numpy(),
        height=measured.height,
        top=measured.top,
        barrier=measured.barrier,
        chord_barrier=measured.chord_barrier,
        length=curve.length,
        straight=float(torch.linalg.vector_norm(widened(ground.b) - widened(ground.a))),
        line_loss=line.loss,
        line_height=line.height,
        finder=finder.name,
        status=status,
        statistics=ground.statistics,
        evaluations=evaluations,
        gradients=gradients,
        provenance=provenance(
            settings=asdict(finder),
            heights=f"the largest of {options.points} points at equal arc length, refined by "
            f"{options.refinement} rounds around the maximum: a lower bound of the maximum",
            judged=judged(ground.objective, ground.tried, curvature=False),
        ),
        **more,
    )


def _lower(height: float, line: float, ground: Ground) -> bool:
    """Whether a path is lower than the line, and by more than rounding."""
    if not np.isfinite(line):
        return bool(np.isfinite(height))
    return height < line - 8 * torch.finfo(ground.a.dtype).eps * abs(line)


def require(condition: bool, name: str, expected: str, got: object) -> None:
    """Nothing, if a setting is in range.

    Raises:
        ValueError: if it is not; names what was expected and what came.
    """
    if not condition:
        raise ValueError(f"{name} must be {expected}, got {got}")
