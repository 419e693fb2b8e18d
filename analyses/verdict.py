"""What a study of flatness measures concludes, in words, or why it concludes nothing."""

import numpy as np

from analyses.rank_correlation import LEAST, counted
from analyses.trainings import NEAR
from landscape.results import Flatness


def decided(found: Flatness) -> bool:
    """Whether there are as many independent trainings, or runs, as a conclusion takes."""
    return _units(found) >= LEAST


def conclusion(found: Flatness, lost: int) -> str:
    """Which measure says anything here, in numbers, and what was not shown.

    Args:
        found: the study.
        lost: members that were left out because their numbers are not finite.
    """
    parts = [_verdict(found) if decided(found) else _refusal(found)]
    if decided(found):
        parts.append(
            f"Says something means: the {100 * found.confidence:g} % interval of tau excludes 0, "
            "and so does the test after correction for all measures. Not shown: that a measure "
            "causes the gap, or that it follows the gap on other tasks."
        )
    parts.append(_apart(found))
    if lost:
        parts.append(f"Members with numbers that are not finite, left out: {lost}.")
    return " ".join(filter(None, parts))


def _verdict(found: Flatness) -> str:
    spoken = [
        f"{name} {'rises' if found.tau[k] > 0 else 'falls'} with the gap (tau {found.tau[k]:.2f}, "
        f"{found.tau_low[k]:.2f} to {found.tau_high[k]:.2f}, p {found.p_holm[k]:.2g} after Holm)"
        for k, name in enumerate(found.measures)
        if found.says[k]
    ]
    rest = len(found.measures) - len(spoken)
    if not spoken:
        return f"Over {_where(found)}, no measure says anything about the gap."
    said = f"Over {_where(found)}, these measures say something: {'; '.join(spoken)}."
    return f"{said} The other {rest} do not." if rest else said


def _refusal(found: Flatness) -> str:
    """Why nothing is concluded, and what would do."""
    what = "run" if found.resampled == "runs" else "independent training"
    why = f"No conclusion: {counted(_units(found), what)} too few, {LEAST} are needed."
    if len(found.points) > _trainings(found):
        why += (
            f" The {len(found.points)} points are of {_where(found)}: members that learn from each "
            f"other are one training, and so are points nearer than {NEAR:g} of their norm."
        )
    if found.resampled == "runs":
        why += " Members of one run share data and hyper-parameters, so that whole runs count."
    return (
        f"{why} Train {LEAST} runs or more with other seeds or hyper-parameters, or take one run "
        "of a method whose members are on their own, such as sgd or adam."
    )


def _apart(found: Flatness) -> str:
    """How far apart the points are, and which measures differ by no more than their own error."""
    known = _of(found.nearest)[~np.isnan(_of(found.nearest))]
    said = ""
    if len(known):
        said = (
            f"The nearest other point is {np.median(known):.2g} of the norm away (median; "
            f"{known.min():.2g} to {known.max():.2g})."
        )
    with np.errstate(invalid="ignore"):
        blurred = _of(found.spread) <= _of(found.own_error)
    names = [name for name, yes in zip(found.measures, blurred, strict=True) if yes]
    if names:
        said += f" No wider apart than their own errors: {', '.join(names)}."
    return said.strip()


def _where(found: Flatness) -> str:
    runs = len(np.unique(found.run))
    one = _plural(_trainings(found), "independent training")
    return f"{one} in {_plural(runs, 'run')}"


def _units(found: Flatness) -> int:
    """What is drawn: trainings, or the runs that they are of."""
    first = np.unique(_of(found.training), return_index=True)[1]
    return len(np.unique(found.run[first])) if found.resampled == "runs" else len(first)


def _trainings(found: Flatness) -> int:
    return len(np.unique(_of(found.training)))


def _of(field: np.ndarray | None) -> np.ndarray:
    """A field that only studies of before trainings were counted lack.

    Raises:
        ValueError: if this is one.
    """
    if field is None:
        raise ValueError("this study is of before trainings were counted: compare once more")
    return field


def _plural(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
