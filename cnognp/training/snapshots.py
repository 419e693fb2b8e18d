"""Points of each trajectory that are kept: of lowest training loss, and best on validation data.

A member's trajectory is where it stands after each round that is judged. Which points are kept
follows from numbers on whole splits alone, never from what an epoch saw on its way, and never from
the test split, which is measured and told. Files are named once and for all: one that a checkpoint
knows of stays until two later ones do without it, so that a run goes on from either.
"""

import hashlib
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnognp.tasks.problem import SPLITS, Problem
from cnognp.training.checkpoint import Checkpoint
from landscape.files import DamagedFile, hdf5, temporaries

TRAIN, VALIDATION = "train", "validation"
KINDS = (TRAIN, VALIDATION)
"""What points are kept for: the lowest loss on the one, the best on the other."""
_PREFIX = "snapshots/"
_FILE = re.compile(r"member(\d{3,})-(\d{8,})\.h5", re.ASCII)


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A point of a trajectory that was kept.

    Args:
        member: whose trajectory it is.
        round: after which round the member stood there.
        measured: loss and metrics by split and name; empty for a split that the task does not have.
        digest: SHA-256 of the point's bytes.
        path: of the file.
    """

    member: int
    round: int
    measured: Mapping[str, Mapping[str, float]]
    digest: str
    path: Path

    def point(self) -> Tensor:
        """The point (p,), on the CPU.

        Raises:
            DamagedFile: if the file is gone, not whole, or of another point.
        """
        try:
            arrays, _ = hdf5.read(self.path)
        except FileNotFoundError:
            raise DamagedFile(
                self.path, "it is gone, since better points were found", "go on with train --resume"
            ) from None
        position = arrays.get("position")
        if position is None or _digest(position) != self.digest:
            raise DamagedFile(self.path, "its point is not the one that was kept")
        return torch.from_numpy(position)


Kept = dict[int, list[Snapshot]]
"""Points by the member whose trajectory they are of, the best first."""


def score_of(measured: Sequence[str] | Mapping[str, Any]) -> str:
    """What decides on the validation split: accuracy where it is measured, else the loss."""
    return "accuracy" if "accuracy" in measured else "loss"


def rank(kind: str, snapshot: Snapshot) -> tuple[float | int, ...]:
    """What orders the points that are kept for a kind; lower is better, and no two are equal.

    That is the training loss; or the share of errors on the validation split, then the loss
    there, or this alone where no accuracy is known. Of equal points the earliest round is better,
    then the lowest member.
    """
    found = snapshot.measured[kind]
    loss = found["loss"] if math.isfinite(found["loss"]) else math.inf
    by = (loss,) if kind == TRAIN or score_of(found) == "loss" else (-found["accuracy"], loss)
    return (*by, snapshot.round, snapshot.member)


@dataclass
class Snapshots:
    """The points that a run keeps, and their files.

    Args:
        most: points of each kind along a trajectory, at least 1.
        folder: of the files.
        problem: measures them.
    """

    most: int
    folder: Path
    problem: Problem
    kept: dict[str, Kept] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    _known: list[set[str]] = field(default_factory=lambda: [set(), set()])

    def offer(self, round: int, positions: Tensor) -> None:
        """Keeps what is good enough of where the members (n, p) stand after a round.

        Args:
            round: counted from 1.
            positions: on any device.

        Raises:
            OSError: if the disk refuses.
        """
        for member, z in enumerate(positions):
            if bool(z.isfinite().all()):
                self._offer(member, round, z.to(self.problem.device))

    def saved(self, last: bool = False) -> None:
        """Says that a checkpoint with these points is in place; removes what nobody needs now.

        Args:
            last: whether the run has ended with it, so that no older one is gone back to.
        """
        now = self._names()
        self._known = [now, now] if last else [self._known[1], now]
        self.clear()

    def clear(self) -> None:
        """Removes the files of points that are not kept, and what a killed writer left."""
        tidy(self.folder, self._names().union(*self._known))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything but the points, for a checkpoint."""
        points = self._points()
        places = [[_place(self.kept[kind].get(p.member, []), p) for p in points] for kind in KINDS]
        names = self._measures()
        arrays: dict[str, Any] = {
            "member": np.array([p.member for p in points], np.int64),
            "round": np.array([p.round for p in points], np.int64),
            "place": np.array(places, np.int64).reshape(len(KINDS), len(points)),
            "digest": np.array([list(bytes.fromhex(p.digest)) for p in points], np.uint8),
            "measured": np.array([
                [[p.measured[split].get(name, math.nan) for name in names] for split in SPLITS]
                for p in points
            ], np.float64),
        }  # fmt: skip
        arrays["digest"] = arrays["digest"].reshape(len(points), 32)
        arrays["measured"] = arrays["measured"].reshape(len(points), len(SPLITS), len(names))
        return {_PREFIX + name: array for name, array in arrays.items()}

    def described(self) -> dict[str, Any]:
        """What a checkpoint says of them: names of measures and splits."""
        has = [split for split in SPLITS if self.problem.data(split) is not None]
        return {"most": self.most, "measures": self._measures(), "splits": has}

    def restore(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        """Goes to the points of a checkpoint.

        Raises:
            ValueError: if it says nothing of them.
        """
        self.kept = in_checkpoint(self.folder, arrays, meta)
        self._known = [set(), self._names()]

    def _offer(self, member: int, round: int, z: Tensor) -> None:
        measured = self.problem.metrics(z, (TRAIN,), ("loss",))
        if self.problem.data(VALIDATION) is not None:
            names = ("loss", score_of(self._measures()))
            measured |= self.problem.metrics(z, (VALIDATION,), tuple(dict.fromkeys(names)))
        new = Snapshot(
            member, round, measured, "", self.folder / f"member{member:03d}-{round:08d}.h5"
        )
        kinds = [kind for kind in KINDS if kind in measured and self._enters(kind, new)]
        if not kinds:
            return
        position = z.cpu().numpy()
        new = Snapshot(member, round, self.problem.metrics(z), _digest(position), new.path)
        self.folder.mkdir(exist_ok=True)
        attributes = {"kind": "Snapshot", "member": member, "round": round}
        hdf5.write(new.path, {"position": position}, attributes)
        gone: list[Snapshot] = []
        for kind in kinds:
            own = sorted([*self.kept[kind].get(member, []), new], key=lambda p: rank(kind, p))
            self.kept[kind][member], gone = own[: self.most], [*gone, *own[self.most :]]
        wanted = self._names().union(*self._known)
        for old in gone:
            if old.path.name not in wanted:
                old.path.unlink(missing_ok=True)

    def _enters(self, kind: str, new: Snapshot) -> bool:
        first, own = rank(kind, new), self.kept[kind].get(new.member, [])
        if not math.isfinite(first[0]):
            return False
        return len(own) < self.most or first < rank(kind, own[-1])

    def _points(self) -> list[Snapshot]:
        """Every point once, by member and round."""
        found = {
            p.path.name: p for kept in self.kept.values() for own in kept.values() for p in own
        }
        return sorted(found.values(), key=lambda p: (p.member, p.round))

    def _names(self) -> set[str]:
        return names_of(self.kept)

    def _measures(self) -> list[str]:
        return ["loss", *self.problem.task.metrics]


def in_checkpoint(
    folder: Path, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]
) -> dict[str, Kept]:
    """The points that a checkpoint knows of, by kind and member, the best first.

    Args:
        folder: of their files.
        arrays: of the checkpoint.
        meta: of it.

    Raises:
        ValueError: if they do not fit together.
    """
    found: dict[str, Kept] = {kind: {} for kind in KINDS}
    try:
        said = meta["snapshots"]
        names, splits = said["measures"], said["splits"]
        members, rounds, places, digests, numbers = (
            arrays[_PREFIX + key] for key in ("member", "round", "place", "digest", "measured")
        )
        for i, (member, round) in enumerate(zip(members.tolist(), rounds.tolist(), strict=True)):
            measured = {
                split: dict(zip(names, numbers[i, k].tolist(), strict=True))
                if split in splits
                else {}
                for k, split in enumerate(SPLITS)
            }
            path = folder / f"member{member:03d}-{round:08d}.h5"
            point = Snapshot(member, round, measured, bytes(digests[i].tolist()).hex(), path)
            for kind, place in zip(KINDS, places[:, i].tolist(), strict=True):
                if place >= 0:
                    found[kind].setdefault(member, []).append(point)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise ValueError("what it says of snapshots does not fit together") from None
    for kind, kept in found.items():
        for own in kept.values():
            own.sort(key=lambda point: rank(kind, point))
    return found


def of_checkpoint(folder: Path, found: Checkpoint | None) -> dict[str, Kept]:
    """As `in_checkpoint`; nothing of a run that keeps no points, or has no checkpoint yet.

    Raises:
        ValueError: if they do not fit together.
    """
    if found is None or "snapshots" not in found.meta:
        return {kind: {} for kind in KINDS}
    return in_checkpoint(folder, found.arrays, found.meta)


def tidy(folder: Path, wanted: Collection[str]) -> None:
    """Removes all files of points but the wanted ones, and what a killed writer left."""
    for path in temporaries(folder):
        path.unlink(missing_ok=True)
    for path in folder.glob("member*.h5"):
        if _FILE.fullmatch(path.name) and path.name not in wanted:
            path.unlink(missing_ok=True)


def names_of(kept: Mapping[str, Kept]) -> set[str]:
    """The names of the files."""
    return {point.path.name for own in kept.values() for one in own.values() for point in one}


def pooled(kind: str, kept: Kept) -> list[Snapshot]:
    """The points of all trajectories, the best first."""
    return sorted((p for own in kept.values() for p in own), key=lambda point: rank(kind, point))


def _place(own: Sequence[Snapshot], point: Snapshot) -> int:
    """The place of a point among those that are kept, from 0; -1 where it is not."""
    return next((i for i, one in enumerate(own) if one.path == point.path), -1)


def _digest(position: np.ndarray) -> str:
    data: Any = np.ascontiguousarray(position)
    return hashlib.sha256(data).hexdigest()
