r"""What is checked before anything of a risk is measured, once.

- *Substitution*: no tensor but the vector and the data reaches the loss through the graph.
- *One function*: along a direction v at a shifted point w, differences of the values agree with the
  gradient, :math:`(f(w + hv) - f(w)) / h = g \cdot v`, and those of the gradients with the product,
  :math:`(g(w + hv) - g(w)) / h = Hv`; central ones where the step is not tiny. They are taken
  in float64 where the model can be evaluated so, at so small a step that kinks are rarely crossed.
  The value without a graph, as measurements take it, and what the type of the point gives in the
  way in which the risk evaluates many points are compared with that.
- *Mean*: where there are several batches and the loss is not known, batches joined have the mean of
  their losses by samples, see `landscape.networks.weighing`.
- *Data*: a loader gives the same data in every pass.

A few samples of the first batch will do for all but the mean.
"""

import warnings
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from landscape.networks import batches as data_batches
from landscape.networks.difference_quotients import (
    LARGE_DIM,
    SKIP,
    Quotient,
    based,
    check_held,
    check_types,
)
from landscape.networks.draws import seeded
from landscape.networks.mean import Mean
from landscape.networks.weighing import coupling, shifted, weighing
from landscape.objective import second_order

_FAR = 0.5  # relative distance from where a risk was judged, beyond which it is judged again


class Gate:
    """What was found out about a risk; risks that are derived from it share it.

    Args:
        wanted: whether anything is checked.

    Attributes:
        custom: operations in the graph that are no builtins of torch.
    """

    def __init__(self, wanted: bool = True):
        self.wanted = wanted
        self.custom: list[str] = []
        self._found: dict[str, Any] | None = None
        self._at: Tensor | None = None
        self._curved = False
        self._error: Exception | None = None
        self._refused: Tensor | None = None
        self._coupled: dict[bool, str] = {}

    def judged(self, risk: Mean, z: Tensor, curvature: bool = True) -> dict[str, Any]:
        """What was checked, in words, by the name of the check.

        Args:
            risk: what is judged.
            z: the point that is to be measured.
            curvature: whether products are needed. Those of a very large network cost memory, and
                are compared only then.

        Raises:
            RuntimeError: if the loss is no function of the vector alone, values, gradients and
                products belong to different functions, or the data are random.
            ValueError: if batches are weighed by something that is not known.
        """
        if not self.wanted:
            return {"nothing": "check=False"}
        if self._error is not None and not _is_far(self._refused, z):
            raise self._error
        curvature = curvature or risk.dim <= LARGE_DIM
        known = self._found is not None and (self._curved or not curvature)
        if not (known and not _is_far(self._at, z)) and bool(torch.isfinite(z).all()):
            # Whoever moves the point in place is judged again.
            place = z.detach().clone() if risk.dim <= LARGE_DIM else z.detach()
            try:
                found = self._found or {"data": _data(risk), "mean": weighing(risk)}
                self._found = {**found, **self._derivatives(risk, z, curvature)}
                self._at, self._curved = place, curvature
            except (RuntimeError, ValueError) as error:
                self._error, self._refused = error.with_traceback(None), place
                raise
        return self._found or {"nothing": "the point is not finite"}

    def of_other_data(self) -> "Gate":
        """A gate for the same network and a loss of torch's own on other data.

        Such a loss couples no samples, and whether the network does is not found out again.
        """
        twin = Gate(self.wanted)
        twin._coupled = self._coupled
        return twin

    def admit(self, risk: Mean) -> None:
        """Nothing, if a risk may be trained: its batches have a weight, and no parameter hides.

        A gradient that is meant to be another function's is allowed.

        Raises:
            ValueError: if batches are weighed by something that is not known.
            RuntimeError: if a parameter reaches the loss past the vector.
        """
        if not self.wanted:
            return
        weighing(risk)
        z = risk.point()
        with _quiet(z):
            base = based(risk, shifted(z), exact=False)
            strange, _ = _foreign(base.value, base.leaf, base.risk)
            if strange:
                raise RuntimeError(_unsubstituted(strange, risk))
            if risk.dim <= LARGE_DIM:
                check_held(base)

    def coupled(self, risk: Mean) -> str:
        """Why batches are neither cut nor joined; empty where the loss is the mean over samples.

        Checked on cuts of the first batch. BatchNorm is left out where it normalises with the
        batch, since that is how it trains.
        """
        training = risk.statistics == "batch"
        if training not in self._coupled:
            self._coupled[training] = coupling(risk, training)
        return self._coupled[training]

    def _derivatives(self, risk: Mean, z: Tensor, curvature: bool) -> dict[str, Any]:
        """What was found beside the point, and beside it elsewhere where that does not agree.

        A kink may lie within the smallest step by chance; it does not lie beside both places.

        Raises:
            RuntimeError: if neither agrees; says what did not at the first.
        """
        with _quiet(z), second_order(risk):
            try:
                return self._agreement(risk, shifted(z), curvature)
            except RuntimeError as error:
                with suppress(RuntimeError):
                    return self._agreement(risk, shifted(z, 1), curvature)
                raise error.with_traceback(None) from None

    def _agreement(self, risk: Mean, w: Tensor, curvature: bool) -> dict[str, Any]:
        """What was found at a place.

        Raises:
            RuntimeError: if values, gradients and products do not agree there.
        """
        base = based(risk, w, curvature and risk.derivatives == "exact")
        strange, self.custom = _foreign(base.value, base.leaf, base.risk)
        base.risk.custom = self.custom
        if strange:
            raise RuntimeError(_unsubstituted(strange, risk))
        if not base.value.requires_grad:
            return {"derivatives": "the loss has none"}
        if not bool(torch.isfinite(base.value)):
            return {"derivatives": "not checked: the loss is not finite beside the point"}
        quotient = Quotient(base)
        v, product = quotient.check()
        if base.leaf.dtype != w.dtype:
            check_types(base, w, v, product)
        if risk.dim <= LARGE_DIM:
            check_held(base)
        said = "values, gradients and products" if base.exact else "values and gradients"
        kind = str(base.leaf.dtype).removeprefix("torch.")
        return {
            "substitution": "the loss depends on the vector alone",
            "derivatives": f"{said} agree by differences in {kind}{base.reason}{quotient.remark}",
        }


def _is_far(judged: Tensor | None, z: Tensor) -> bool:
    """Whether a point is so far from where a risk was judged that more may happen there."""
    if judged is None or judged.shape != z.shape:
        return True
    if judged.data_ptr() == z.data_ptr():
        return False
    size = max(float(torch.linalg.vector_norm(judged)), float(torch.linalg.vector_norm(z)))
    return float(torch.linalg.vector_norm(judged.to(z) - z)) > _FAR * size


def _data(risk: Mean) -> str:
    data = risk.data
    if data.random and data.seed is None:
        raise RuntimeError(
            f"the data are random, so that every pass measures another loss: {data.random}. Switch "
            "that off for measuring, or give data_seed=0 (--data-seed 0) to measure one frozen copy"
        )
    return f"a frozen copy of random data, seed {data.seed}" if data.random else "the same twice"


class _quiet:
    """No random state is moved by the checks, and no warning of the model is heard twice."""

    def __init__(self, z: Tensor):
        self._fork = seeded(0, z.device)
        self._inference = torch.inference_mode(False)
        self._warnings = warnings.catch_warnings()

    def __enter__(self) -> None:
        self._warnings.__enter__()
        warnings.simplefilter("ignore")
        self._inference.__enter__()
        self._fork.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._fork.__exit__(*error)
        self._inference.__exit__(*error)
        self._warnings.__exit__(*error)


def _foreign(value: Tensor, leaf: Tensor, risk: Mean) -> tuple[list[Tensor], list[str]]:
    """The leaves of a graph that are neither the vector nor data, and custom operations in it."""
    inputs = {id(t) for batch in risk.data.batches for t in data_batches.tensors_of(batch[:2])}
    strange: dict[int, Tensor] = {}
    custom: dict[str, None] = {}
    for node in _nodes(value):
        tensor = getattr(node, "variable", None)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            custom[type(node).__name__.removesuffix("Backward")] = None
        if tensor is None or tensor is leaf or id(tensor) in inputs:
            continue
        if not _is_input(tensor, risk):
            strange[id(tensor)] = tensor
    return list(strange.values()), list(custom)


def _is_input(tensor: Tensor, risk: Mean) -> bool:
    """Whether a leaf is made of the data: inputs that are differentiated are fresh in a call."""
    known = risk.model.name_of(tensor)
    return not known and not isinstance(tensor, torch.nn.Parameter)


def _nodes(value: Tensor) -> Iterator[Any]:
    stack, seen = [value.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        stack += [following for following, _ in node.next_functions]


def _unsubstituted(strange: list[Tensor], risk: Mean) -> str:
    names = [risk.model.name_of(tensor) for tensor in strange]
    known = next(filter(None, names), "")
    if known:
        return (
            f"the parameter {known} reaches the loss past the vector: the model or the loss holds "
            "the tensor itself or something that was computed from it before. Compute it in "
            "forward, and write model.parameters() inside the loss instead of a list made before"
            + SKIP
        )
    shape = tuple(strange[0].shape)
    return (
        f"a parameter of shape {shape} that is no part of the model reaches the loss, so that it "
        "is no part of the vector: give the module that owns it as the loss itself or make it part "
        "of the model, or freeze it with requires_grad_(False)" + SKIP
    )
