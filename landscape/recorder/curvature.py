"""Curvature along anybody's training loop, and the path that it takes."""

import math
from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.curvature import Hessian
from landscape.objective import (
    Objective,
    check_deterministic,
    judged,
    normalisation_of,
    offered,
    ordinary,
    widened,
)
from landscape.randomness import derive
from landscape.recorder.points import point_of
from landscape.recorder.stability import Preconditioned, Stability, descent, of_optimiser
from landscape.recorder.tracking import GUARD, Pairs, top_pairs
from landscape.results import Recording, provenance

_NUMBERS = (
    "loss", "gradient_norm", "trace", "trace_error", "minibatch_sharpness", "minibatch_error", "lr",
    "threshold", "preconditioned", "preconditioned_bound", "preconditioned_threshold",
)  # fmt: skip
_TYPES = {
    "step": np.int64, "products": np.int64, "eigenvalues": np.float64, "bounds": np.float64,
    "converged": np.bool_, **dict.fromkeys(_NUMBERS, np.float64),
}  # fmt: skip
_WIDE = ("eigenvalues", "bounds", "converged")


class CurvatureRecorder:
    r"""Curvature every so many steps of a training loop: ``recorder(step, model, optimiser)``.

    Each record has the loss, the gradient norm, the k largest eigenvalues of the Hessian with
    bounds :math:`\|Hx - \theta x\|`, its trace, the sharpness of mini-batches, and where the
    optimiser's step length puts the edge of stability. The eigenvectors of one record are where the
    search of the next begins, together with one vector more that is partly random, so that an
    eigenvalue which overtakes the others is found. What is proved is that some eigenvalue lies
    within each bound, not that none was missed; and it is proved but for the rounding of the
    products, which each bound allows for with 512 eps of the largest eigenvalue, and which is not
    measured.

    The caller's model, gradients, modes and random numbers stay as they were. Random numbers are
    functions of the generator's seed and the step.

    Args:
        objective: the loss whose curvature is recorded; not random. One that has ``at(z)``, such as
            `landscape.networks.Reestimated`, is asked once per record for what belongs to z.
        every: steps between records; a call at any other step returns at once.
        k: how many eigenvalues.
        tolerance: of the eigenvalues, relative to the largest.
        trace_probes: random vectors for each trace, beside the eigenvectors; 0 leaves it out, 1 has
            no standard error.
        minibatch: samples in a mini-batch; 0 leaves their sharpness out.
        minibatches: how many of them each record looks at.
        lr: step length of gradient descent, for the line 2 / lr; the optimiser's where it is given
            to the call.
        momentum: of a heavy ball, for 2 (1 + momentum) / lr.
        generator: only its seed is used; seed 0 where None.
        max_products: bound on the products of each record's eigenvalues.
        label: whose run it is, for the picture.

    Raises:
        ValueError: if a number is out of range, or the objective has no mini-batches.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        every: int = 50,
        k: int = 1,
        tolerance: float = 1e-2,
        trace_probes: int = 4,
        minibatch: int = 0,
        minibatches: int = 4,
        lr: float | None = None,
        momentum: float = 0.0,
        generator: torch.Generator | None = None,
        max_products: int = 100,
        label: str = "",
    ):
        least = {"every": 1, "k": 1, "trace_probes": 0, "minibatch": 0, "minibatches": 1}
        given = locals()
        for name, bound in least.items():
            if given[name] < bound:
                raise ValueError(f"{name} must be at least {bound}, got {given[name]}")
        if k > objective.dim:
            raise ValueError(f"k must be at most the number of parameters {objective.dim}, got {k}")
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance must lie between 0 and 1, got {tolerance}")
        cut = (offered(objective, name) is not None for name in ("minibatches", "at"))
        if minibatch and not any(cut):
            raise ValueError(
                f"minibatch is {minibatch}, but {type(objective).__name__} has no mini-batches"
            )
        if max_products <= k:
            raise ValueError(f"max_products must be above k = {k}, got {max_products}")
        if momentum and lr is None:
            raise ValueError(f"momentum of {momentum} needs lr, to know where stability ends")
        self.objective, self.every, self.k, self.tolerance = objective, every, k, tolerance
        self.trace_probes, self.minibatch, self.minibatches = trace_probes, minibatch, minibatches
        self.max_products, self.label = max_products, label
        self._stability = None if lr is None else descent(lr, momentum)
        self._generator = generator or torch.Generator(device="cpu").manual_seed(0)
        self._rows: dict[str, list[Any]] = {name: [] for name in _TYPES}
        self._rule = ""
        self._vectors: Tensor | None = None
        self._scaled: Tensor | None = None
        self._checked: dict[str, Any] = {}
        self._blocks: bool | None = None

    def __call__(
        self, step: int, point: Any, optimiser: Any = None, *, stability: Stability | None = None
    ) -> bool:
        """Whether this step was recorded.

        Args:
            step: number of steps done; 0 at the start.
            point: where the loop is: a vector (p,), the model, or its parameters.
            optimiser: a ``torch.optim`` optimiser; SGD, Adam and AdamW are read for step length,
                momentum and second moments, any other has no line of stability.
            stability: what is known of any other optimiser, instead of ``optimiser``.

        Raises:
            ValueError: if the step was recorded before, or the point does not fit.
            RuntimeError: if the objective is random.
        """
        if step % self.every:
            return False
        if self._rows["step"] and step <= self._rows["step"][-1]:
            raise ValueError(
                f"steps must increase, got {step} after {self._rows['step'][-1]}; a loop that "
                "starts anew needs a recorder of its own"
            )
        with torch.inference_mode(False), torch.no_grad():
            layout = offered(self.objective, "layout")
            z, tensors = point_of(point, self.objective.dim, layout)
            z = ordinary(z.float() if z.element_size() < 4 else z)
            if optimiser is not None:
                stability = of_optimiser(optimiser, tensors)
            # A loop's mixed precision is not for derivatives of derivatives.
            with torch.autocast(z.device.type, enabled=False):
                self._record(step, z, self._stability if stability is None else stability)
        return True

    def result(self) -> Recording:
        """All records so far."""
        arrays = self._arrays()
        finite = np.isfinite(arrays["loss"])
        good = int(arrays["converged"].all(axis=1).sum())
        status = "converged" if good == len(finite) else f"{good} of {len(finite)} converged"
        return Recording(
            **arrays,
            rule=self._rule,
            dim=self.objective.dim,
            tolerance=self.tolerance,
            probes=self.trace_probes,
            minibatch=self.minibatch,
            minibatches=self.minibatches if self.minibatch else 0,
            label=self.label,
            status=status if finite.all() else f"{status}, {int((~finite).sum())} not finite",
            statistics=normalisation_of(self.objective),
            provenance=provenance(seed=self._generator.initial_seed(), judged=self._checked),
        )

    def state_dict(self) -> dict[str, np.ndarray]:
        """Everything that a recorder needs to go on as if it had never stopped, as arrays."""
        state = {f"rows/{name}": array for name, array in self._arrays().items()}
        state["rule"] = np.frombuffer(self._rule.encode(), dtype=np.uint8).copy()
        for name, vectors in (("vectors", self._vectors), ("scaled", self._scaled)):
            if vectors is not None:
                state[name] = vectors.cpu().numpy().copy()
        return state

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Goes to where `state_dict` was taken from a recorder of the same arguments.

        Raises:
            ValueError: if something is missing or does not fit.
        """
        records = len(state.get("rows/step", ()))
        for name in _TYPES:
            shape = (records, self.k) if name in _WIDE else (records,)
            found = state.get(f"rows/{name}")
            if found is None or found.shape != shape:
                got = "nothing" if found is None else found.shape
                raise ValueError(f"rows/{name} must have shape {shape}, got {got}")
        for name in ("vectors", "scaled"):
            if name in state and state[name].shape[1:] != (self.objective.dim,):
                raise ValueError(
                    f"{name} must have rows of length {self.objective.dim}, got "
                    f"{state[name].shape}: they belong to another model"
                )
        self._rows = {name: list(state[f"rows/{name}"]) for name in _TYPES}
        self._rule = state["rule"].tobytes().decode() if "rule" in state else ""
        self._vectors, self._scaled = (
            torch.from_numpy(state[name].copy()) if name in state else None
            for name in ("vectors", "scaled")
        )

    def _arrays(self) -> dict[str, np.ndarray]:
        records = len(self._rows["step"])
        return {
            name: np.array(self._rows[name], dtype=kind).reshape(
                (records, self.k) if name in _WIDE else (records,)
            )
            for name, kind in _TYPES.items()
        }

    def _record(self, step: int, z: Tensor, stability: Stability | None) -> None:
        at = offered(self.objective, "at")
        objective = self.objective if at is None else at(z)
        if not self._checked:
            check_deterministic(objective, z)
            self._checked = judged(objective, z) or {"nothing": "no network"}
        operator = Hessian(objective, z, blocks=self._blocks)
        loss, gradient = operator.value_and_grad()
        norm = torch.linalg.vector_norm(widened(gradient))
        row: dict[str, Any] = dict.fromkeys(_NUMBERS, math.nan)
        row |= {"step": step, "loss": loss, "gradient_norm": float(norm)}
        row["products"] = 0
        row |= dict(zip(_WIDE, (np.full(self.k, x) for x in (np.nan, np.inf, False)), strict=True))
        if stability is not None:
            row |= self._line(stability)
        if math.isfinite(row["loss"]) and math.isfinite(row["gradient_norm"]):
            row |= self._measured(step, z, operator, stability)
        for name in _TYPES:
            self._rows[name].append(row[name])

    def _line(self, stability: Stability) -> dict[str, float]:
        self._rule = stability.rule
        if stability.preconditioned:
            return {"lr": stability.lr, "preconditioned_threshold": stability.threshold}
        if stability.decay:
            self._rule += " − δ"
        return {"lr": stability.lr, "threshold": stability.threshold - float(stability.decay)}

    def _measured(
        self, step: int, z: Tensor, operator: Hessian, stability: Stability | None
    ) -> dict[str, Any]:
        probes = self._signs(z, step)
        found = self._tracked(operator, z, self._vectors, self.k, "eigenvalues", step, probes)
        row: dict[str, Any] = {
            "eigenvalues": found.values[: self.k],
            "bounds": found.bounds[: self.k],
            "converged": found.converged[: self.k],
            "products": found.products,
        }
        if not np.isfinite(found.values).all():
            return row
        self._vectors = found.vectors
        if stability is not None and stability.preconditioned:
            scaled = self._tracked(
                Preconditioned(operator, stability), z, self._scaled, 1, "preconditioned", step
            )
            if np.isfinite(scaled.values).all():
                self._scaled = scaled.vectors
            row |= {"preconditioned": scaled.values[0], "preconditioned_bound": scaled.bounds[0]}
            row["products"] += scaled.products
        if self.trace_probes:
            row["trace"], row["trace_error"] = _trace(found, probes)
        self._blocks = operator.blocks
        if self.minibatch:
            row |= self._minibatch_sharpness(step, z, operator.objective, found.vectors)
        return row

    def _tracked(
        self,
        operator: Any,
        z: Tensor,
        vectors: Tensor | None,
        k: int,
        purpose: str,
        step: int,
        beside: Tensor | None = None,
    ) -> Pairs:
        """The top of the spectrum from the vectors of the last record, or from a random one."""
        drawn = self._random(z, min(k + 1, len(z)), purpose, step)
        drawn = drawn / torch.linalg.vector_norm(drawn, dim=-1, keepdim=True)
        starts = drawn[:k]
        if vectors is not None:
            starts = vectors.to(z, copy=True)
            if len(starts) > k:
                starts[k] += GUARD / 2 * self.tolerance * drawn[0]
        return top_pairs(
            operator, starts, k, self.tolerance,
            spare=drawn, most=self.max_products, beside=beside,
        )  # fmt: skip

    def _minibatch_sharpness(
        self, step: int, z: Tensor, objective: Any, vectors: Tensor
    ) -> dict[str, float]:
        source = derive(self._generator, "mini-batches", step)
        batches = islice(objective.minibatches(self.minibatch, source), self.minibatches)
        largest = [
            top_pairs(
                Hessian(batch, z, blocks=self._blocks),
                vectors,
                1,
                self.tolerance,
                most=self.max_products,
            )
            for batch in batches
        ]
        values = torch.tensor(
            [found.values[0] for found in largest], dtype=torch.float64, device="cpu"
        )
        mean, error = _mean(values)
        return {"minibatch_sharpness": mean, "minibatch_error": error}

    def _signs(self, z: Tensor, step: int) -> Tensor:
        """The random vectors of the trace, (probes, p)."""
        source = derive(self._generator, "trace", step)
        shape = self.trace_probes, len(z)
        signs = torch.randint(2, shape, generator=source, device=source.device)
        return signs.to(z).mul_(2).sub_(1)

    def _random(self, z: Tensor, count: int, purpose: str, step: int) -> Tensor:
        source = derive(self._generator, purpose, step)
        shape = count, len(z)
        return torch.randn(shape, generator=source, dtype=torch.float64, device=source.device).to(z)


def _trace(found: Pairs, probes: Tensor) -> tuple[float, float]:
    r"""The sum of the Ritz values, and Hutchinson's estimate of the trace on the complement.

    With orthonormal X and random signs s, :math:`\mathrm{tr}(X H X^\top) + t^\top H t` with
    :math:`t = s - X^\top X s` is the trace on average, whatever X. What is left to chance is what
    the top of the spectrum does not hold. Since X are Ritz vectors, products with s are enough:
    :math:`t^\top H t = s^\top H s - 2 c^\top X H s + \sum_i \theta_i c_i^2`, c = X s.
    """
    inside, images = (rows @ found.vectors.T for rows in (probes, found.beside))
    theta = torch.as_tensor(found.values[: len(found.vectors)], device="cpu").to(inside)
    whole = widened((probes * found.beside).sum(-1))
    mean, error = _mean(whole + widened((inside * (theta * inside - 2 * images)).sum(-1)))
    return mean + float(found.values.sum()), error


def _mean(values: Tensor) -> tuple[float, float]:
    """The mean and its standard error, which one value alone does not have."""
    error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else math.nan
    return float(values.mean()), error
