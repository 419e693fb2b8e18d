"""Units of a study with a result file each, resumed one by one."""

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from cnognp.workers.units import outcomes
from landscape.files import DamagedFile, check_writable, temporaries
from landscape.results import Result, load, save


class Unit(NamedTuple):
    """One piece of a study.

    Attributes:
        name: differs from that of every other unit, in letters and digits.
        work: a function at the top of a module, of the argument and of nothing else.
        argument: can be sent to another process, and its ``repr`` says everything about it.
    """

    name: str
    work: Callable[[Any], Result]
    argument: Any


class UnitError(RuntimeError):
    """Units that failed; the results of the others are kept."""


def results_of(
    units: Sequence[Unit],
    folder: Path | None = None,
    *,
    executor: Executor | None = None,
    resume: bool = False,
    progress: Callable[[str], None] | None = None,
) -> list[Result]:
    """The results of the units, in their order.

    Args:
        units: what is done.
        folder: where each leaves its file; nowhere where None. Workers elsewhere have it too.
        executor: does the work; this process where None.
        resume: take the files of units that were finished with the same argument.
        progress: called with the name of a unit when it is done.

    Raises:
        ValueError: if two units have one name.
        UnitError: if units fail, after all the others are done; names them.
        Exception: what the only unit raises.
    """
    names = [re.sub(r"\W+", "-", unit.name).strip("-") for unit in units]
    if len(set(names)) < len(names):
        raise ValueError(f"units must have names that differ, got {', '.join(names)}")
    folder = None if folder is None else check_writable(folder).resolve()
    paths = [None if folder is None else folder / f"{name}.h5" for name in names]
    for left in temporaries(folder) if folder is not None else ():
        left.unlink(missing_ok=True)
    found: dict[int, Result] = {}
    if resume:
        finished = ((i, _finished(unit, paths[i])) for i, unit in enumerate(units))
        found = {i: result for i, result in finished if result is not None}
    for i in found:
        _tell(progress, units[i].name)
    missing = [i for i in range(len(units)) if i not in found]
    failed: dict[int, Exception] = {}
    for k, outcome in outcomes(_done, [(units[i], paths[i]) for i in missing], executor):
        i = missing[k]
        if isinstance(outcome, BaseException):
            failed[i] = outcome  # type: ignore[assignment]
            continue
        path = paths[i]
        found[i] = outcome if path is None else load(path)
        _tell(progress, units[i].name)
    if failed:
        first = failed[min(failed)]
        if len(units) == 1:
            raise first
        others = ", the others are done" if len(failed) < len(units) else ""
        count = f"{len(failed)} of {len(units)} units failed{others}"
        raise UnitError(f"{count}: {_reasons(units, failed)}") from first
    return [found[i] for i in range(len(units))]


def _reasons(units: Sequence[Unit], failed: Mapping[int, Exception]) -> str:
    """What the errors say, each thing once, behind the names of its units."""
    names: dict[str, list[str]] = {}
    for i in sorted(failed):
        names.setdefault(_said(failed[i]), []).append(units[i].name)
    parts = []
    for said, of in names.items():
        more = f" and {len(of) - 2} more" if len(of) > 2 else ""
        parts.append(f"{', '.join(of[:2])}{more}: {said}")
    return "; ".join(parts)


def _said(error: Exception) -> str:
    """What an error says; one that another process could not send says its own name already."""
    return str(error) if type(error) is RuntimeError else f"{type(error).__name__}: {error}"


def _tell(progress: Callable[[str], None] | None, name: str) -> None:
    if progress is not None:
        progress(name)


def _done(unit: Unit, path: Path | None) -> Result | None:
    """The result of a unit; None where it is in a file."""
    result = unit.work(unit.argument)
    if path is None:
        return result
    save(replace(result, provenance={**result.provenance, "unit": repr(unit.argument)}), path)
    return None


def _finished(unit: Unit, path: Path | None) -> Result | None:
    """What the file of a unit holds, if it is whole and of this argument."""
    if path is None or not path.is_file():
        return None
    try:
        found = load(path)
    except DamagedFile:
        return None
    return found if found.provenance.get("unit") == repr(unit.argument) else None
