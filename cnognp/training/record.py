"""What a training run remembers: its learning curves and the best point so far."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnognp.method import Info
from landscape.results import History, provenance

_CURVES = ("evaluations", "loss", "gradient_norm", "fitness", "best_fitness", "diversity")
# A loss beyond this multiple of the first round's largest one counts as divergence: at once, or
# where a run ends with it.
_EXPLODED = 1e8
_WORSE = 1e2
# Numbers of all members from which on these are measured one by one.
_ROWS = 1 << 24


@dataclass
class Record:
    """Learning curves, one row per round, and the best point with the numbers measured there.

    ``loss``, ``gradient_norm`` and ``fitness`` of a round belong to the points that the method
    evaluated in it; NaN where it evaluated none. Of a swarm that ranks by epochs they are means
    over the mini-batches of the epoch, but ``best_fitness`` and the best point are those of points
    judged on the whole data. ``diversity`` is the mean distance of the members
    to the best point so far. ``judgement``, empty until the end, is what a finished training is
    compared with; see `cnognp.training.baseline`.
    """

    rows: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in _CURVES})
    best: np.ndarray | None = None
    best_member: int = -1
    best_fitness: float = math.inf
    judgement: dict[str, Any] = field(default_factory=dict)

    def update(self, state: Any, info: Info) -> None:
        """Adds a round."""
        members = len(state.position)
        self._offer(state, info)
        before = self.rows["evaluations"][-1] if self.rows["evaluations"] else 0.0
        self.rows["evaluations"].append(before + members * info.evaluations)
        for name in ("loss", "gradient_norm", "fitness"):
            tensor = getattr(info, name)
            empty = np.full(members, np.nan)
            row = empty if tensor is None else tensor.double().cpu().numpy()
            self.rows[name].append(row)
        self.rows["best_fitness"].append(self.best_fitness)
        self.rows["diversity"].append(self._diversity(state.position))

    def exploded(self, state: Any, info: Info) -> bool:
        """Whether no member is finite, or the loss of every one has grown beyond all bounds."""
        if not bool(_finite(state.position).any()):
            return True
        if info.loss is None:
            return False
        loss = info.loss.double()
        return not bool((torch.isfinite(loss) & (loss.abs() <= self._limit(_EXPLODED))).any())

    def ended_worse(self) -> bool:
        """Whether every member ended far above where the worst began."""
        last = self.rows["loss"][-1]
        seen = not np.isnan(last).all()
        return seen and not bool((last <= self._limit(_WORSE)).any())

    def offer(self, position: Tensor, fitness: Tensor) -> None:
        """Takes the best of ``position`` (N, p) if its fitness is below the best so far."""
        fitness = torch.where(fitness.isnan(), math.inf, fitness.double())
        member = int(fitness.argmin())
        if float(fitness[member]) < self.best_fitness:
            self.best_fitness = float(fitness[member])
            self.best_member = member
            self.best = position[member].detach().cpu().numpy().copy()

    def not_finite(self, position: Tensor) -> list[int]:
        """The members whose place, or whose loss in the last round, is not a finite number."""
        sound = _finite(position).cpu().numpy()
        last = self.rows["loss"][-1] if self.rows["loss"] else np.full(len(sound), np.nan)
        # Where no loss is known, that says nothing of a member.
        sound &= np.isfinite(last) | np.isnan(last).all()
        return np.flatnonzero(~sound).tolist()

    def history(self, method: str, task: str, status: str) -> History:
        """The learning curves as a result."""
        rounds = len(self.rows["evaluations"])
        arrays = {name: np.array(self.rows[name], dtype=np.float64) for name in _CURVES}
        for name in ("loss", "gradient_norm", "fitness"):
            if rounds == 0:
                arrays[name] = np.empty((0, 0))
        return History(
            iteration=np.arange(1, rounds + 1),
            method=method,
            task=task,
            status=status,
            provenance=provenance(**({"judgement": self.judgement} if self.judgement else {})),
            **arrays,
        )

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything, for a checkpoint."""
        arrays = {f"history/{n}": np.array(rows, np.float64) for n, rows in self.rows.items()}
        arrays["best/member"] = np.array(self.best_member)
        arrays["best/fitness"] = np.array(self.best_fitness)
        return arrays if self.best is None else {**arrays, "best/position": self.best}

    @classmethod
    def from_arrays(
        cls, arrays: dict[str, np.ndarray], rounds: int, shape: tuple[int, int]
    ) -> "Record":
        """The record in a checkpoint after so many rounds of so many members and parameters.

        Raises:
            ValueError: if something is missing or does not fit.
        """
        members, dim = shape
        wide = ("loss", "gradient_norm", "fitness")
        known: dict[str, tuple[int, ...]] = {"best/member": (), "best/fitness": ()}
        for name in _CURVES:
            known[f"history/{name}"] = (rounds, members) if name in wide else (rounds,)
        if "best/position" in arrays:
            known["best/position"] = (dim,)
        for name, expected in known.items():
            if name not in arrays or arrays[name].shape != expected:
                got = arrays[name].shape if name in arrays else "nothing"
                raise ValueError(f"{name} must have shape {expected} in the checkpoint, got {got}")
        return cls(
            rows={name: list(arrays[f"history/{name}"]) for name in _CURVES},
            best=arrays.get("best/position"),
            best_member=int(arrays["best/member"]),
            best_fitness=float(arrays["best/fitness"]),
        )

    def _limit(self, multiple: float) -> float:
        """A multiple of the first round's largest finite loss."""
        if not self.rows["loss"]:
            return math.inf
        first = np.abs(self.rows["loss"][0])
        return multiple * (1 + first[np.isfinite(first)].max(initial=0.0))

    def _offer(self, state: Any, info: Info) -> None:
        if hasattr(state, "best_fitness"):
            self.offer(state.best, state.best_fitness)
        elif info.fitness is not None and info.position is not None:
            self.offer(info.position, info.fitness)
        elif info.fitness is not None and info.leading is not None:
            self.offer(info.leading.expand(len(info.fitness), -1), info.fitness)

    def _diversity(self, position: Tensor) -> float:
        if self.best is None:
            return math.nan
        best = torch.as_tensor(self.best, device=position.device)
        if position.numel() > _ROWS:
            # One after another, for there may be no room for the differences of all.
            norm = torch.linalg.vector_norm
            distances = torch.stack([norm(row - best) for row in position])
            return float(distances[distances.isfinite()].double().mean())
        distances = torch.linalg.vector_norm(position - best, dim=-1)
        return float(distances[distances.isfinite()].double().mean())


def _finite(position: Tensor) -> Tensor:
    """Which members (N,) are somewhere; large ones are looked at one after another."""
    pieces = position.split(1 if position.numel() > _ROWS else len(position))
    return torch.cat([piece.isfinite().all(-1) for piece in pieces])
