"""Immutable checkpoints of a run: named arrays, and a description in JSON, each under a digest.

A checkpoint is whole if its file and the SHA-256 beside it agree. The digest is in place first, so
a checkpoint without one was not written here, or has lost it: it does not count as whole.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from landscape.files import DamagedFile, PathLike, hdf5, temporaries, verify

SCHEMA = 1
DIGITS = 8


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Everything that a run needs to go on.

    Args:
        iteration: rounds that are done, at least 0.
        arrays: by name, for instance ``"state/position"``.
        meta: what JSON can say: configuration, seed, hashes of model and data, status, versions.

    Raises:
        ValueError: if ``iteration`` is negative.
    """

    iteration: int
    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]

    def __post_init__(self):
        if self.iteration < 0:
            raise ValueError(f"iteration must be at least 0, got {self.iteration}")


def save(folder: PathLike, checkpoint: Checkpoint, *, instead: bool = False) -> Path:
    """The path of the checkpoint in ``folder``, where it now is, wholly or not at all.

    A whole checkpoint of that iteration is kept as it is; a damaged one is replaced.

    Args:
        folder: of all checkpoints of the run.
        checkpoint: what is saved.
        instead: replace a whole one, too. A kill in that moment leaves neither, but those before.

    Raises:
        TypeError: if an array or an entry of ``meta`` has a type that cannot be stored.
        ValueError: if ``meta`` has more than 1 MiB, or a name cannot be used.
        OSError: if the disk refuses, for instance because it is full. Older checkpoints stay.
    """
    path = _path(folder, checkpoint.iteration)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not instead:
        try:
            verify(path)
            return path
        except DamagedFile:
            pass
    attributes = {
        "kind": "Checkpoint",
        "schema": SCHEMA,
        "iteration": checkpoint.iteration,
        "meta": checkpoint.meta,
    }
    hdf5.write(path, checkpoint.arrays, attributes, digest=True)
    return path


def newest(folder: PathLike) -> tuple[Checkpoint | None, list[Path]]:
    """The newest whole checkpoint, and the paths of the damaged ones that are newer.

    None and an empty list where there is no checkpoint at all.

    Raises:
        DamagedFile: if there are checkpoints, but none of them is whole.
    """
    damaged: list[Path] = []
    reason = ""
    for iteration in reversed(steps(folder)):
        try:
            return load(folder, iteration), damaged
        except DamagedFile as error:
            damaged.append(_path(folder, iteration))
            reason = reason or error.args[1]
    if damaged:
        raise DamagedFile(folder, f"none of its {len(damaged)} checkpoints is whole ({reason})")
    return None, damaged


def load(folder: PathLike, iteration: int) -> Checkpoint:
    """The checkpoint of that iteration.

    Raises:
        DamagedFile: if it is not whole, or is something else.
        FileNotFoundError: if there is none.
    """
    path = _path(folder, iteration)
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint {path}; there are {steps(folder)}")
    arrays, attributes = hdf5.read(path, digest=True)
    schema, meta = attributes.get("schema"), attributes.get("meta")
    if attributes.get("kind") != "Checkpoint" or not isinstance(schema, int):
        raise DamagedFile(path, "it is not a checkpoint")
    if schema > SCHEMA:
        raise DamagedFile(
            path, f"it has schema {schema}, this version knows up to {SCHEMA}: update the package"
        )
    if attributes.get("iteration") != iteration:
        raise DamagedFile(path, f"it is of iteration {attributes.get('iteration')}")
    if not isinstance(meta, dict):
        raise DamagedFile(path, "it has no description of its run")
    return Checkpoint(iteration, arrays, meta)


def steps(folder: PathLike) -> list[int]:
    """The iterations that have a checkpoint file, whole or not, in ascending order.

    Raises:
        OSError: if the folder may not be read.
    """
    found = {int(path.stem) for path in _numbered(folder, ".h5")}
    return sorted(step for step in found if _path(folder, step).exists())


def clear_stale(folder: PathLike) -> list[Path]:
    """The files that a killed writer left in ``folder``, which are now removed.

    These are temporary files, and digests whose checkpoint did not get its name. Call it when a run
    starts: it would take the files of a writer that is at work.
    """
    digests = _numbered(folder, ".sha256")
    stale = temporaries(folder) + [p for p in digests if not p.with_suffix(".h5").exists()]
    for path in stale:
        path.unlink(missing_ok=True)
    return stale


def _numbered(folder: PathLike, suffix: str) -> list[Path]:
    name = re.compile(rf"\d{{{DIGITS},}}{re.escape(suffix)}", re.ASCII)
    try:
        # A folder that may not be read is an error here; to glob it would be an empty one.
        found = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(Path(folder) / entry for entry in found if name.fullmatch(entry))


def _path(folder: PathLike, iteration: int) -> Path:
    return Path(folder) / f"{iteration:0{DIGITS}d}.h5"
