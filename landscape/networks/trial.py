"""One evaluation of a risk at the model's own parameters, which shows of what kind it is."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from landscape.networks import batches as data_batches
from landscape.networks.batches import Batch
from landscape.networks.draws import kept_states
from landscape.networks.layout import Layout
from landscape.networks.network import drawing
from landscape.objective import ordinary

_TRIED = 128  # samples

if TYPE_CHECKING:
    from landscape.networks.risk import Risk


def begin(risk: "Risk") -> None:
    """Evaluates the first batch at the model's own parameters, and notes on the risk what it shows.

    Raises:
        ValueError: if the loss is neither a scalar nor (sum, weight).
        RuntimeError: whatever the model or the loss raises on the data.
        TypeError: likewise.
    """
    risk._pairs = False
    first = _few(risk.data.first)
    try:
        loss = tried(risk, first)
    except RuntimeError as error:
        if not _needs_graph(error):
            if advice := risk.data.advice:
                raise TypeError(f"{error}; {advice}") from error
            raise
        # Derivatives with respect to inputs, inside the model or the loss.
        risk._graphed = True
        try:
            loss = tried(risk, first)
        except RuntimeError as again:
            if not _needs_graph(again):
                raise
            risk._live = True
            loss = tried(risk, first)
    except (TypeError, ValueError) as error:
        if advice := risk.data.advice:
            raise type(error)(f"{error}; {advice}") from error
        raise
    risk._pairs = isinstance(loss, tuple) and len(loss) == 2
    scalar = loss[0] if risk._pairs else loss
    if not isinstance(scalar, Tensor) or scalar.ndim != 0:
        shape = tuple(scalar.shape) if isinstance(scalar, Tensor) else type(scalar).__name__
        raise ValueError(
            f"loss must return a scalar tensor or (sum, weight), got {shape}; "
            "take the mean over the batch"
        )
    kinds = {str(p.dtype) for p in risk.model.parameters.values() if p.requires_grad}
    if len(kinds) > 1:
        _in_one_type(risk, kinds)


def _few(batch: Batch) -> Batch:
    """Some samples of a large batch, which show what all would."""
    large = batch.samples > _TRIED and data_batches.rowwise(batch)
    return data_batches.spread(batch, _TRIED) if large else batch


def _in_one_type(risk: "Risk", kinds: set[str]) -> None:
    """Nothing, if a model of several types can be evaluated in one.

    Raises:
        TypeError: if not.
    """
    z = risk.point()
    try:
        with torch.inference_mode(False), torch.no_grad():
            risk._term(z, risk.data.first, 1.0)
    except RuntimeError as error:
        raise TypeError(
            f"the parameters are {' and '.join(sorted(kinds))}, and a vector has one type, "
            f"{z.dtype}, in which the model fails ({str(error).splitlines()[0]}): make all of "
            "it one type, model.float(), and leave out casts inside it"
        ) from error


def tried(risk: "Risk", batch: Batch) -> Any:
    """The loss at the model's own parameters; notes what the model draws and writes to."""
    fork = kept_states(risk.device)
    grad = torch.enable_grad() if risk._graphed else torch.no_grad()
    with torch.inference_mode(False), grad, fork:
        own = {n: ordinary(p).clone() for n, p in risk.model.parameters.items()}
        # The caller's data too are left as they are, whatever the model writes to.
        batch = data_batches.copied(risk.prepared(batch, risk.point_dtype))
        data = list(data_batches.tensors_of(batch[:2]))
        marks = [t._version for t in data]
        fixed = {name: t.clone() for name, t in risk._constants.items()}
        tensors = {**own, **fixed}
        versions = {name: t._version for name, t in tensors.items()}
        try:
            with (
                drawing(risk.model, risk.device) as drawn,
                risk.model.watched(),
                risk.model.given(tensors),
            ):
                loss = risk.batch_loss(risk.model, batch)
        finally:
            written = [n for n, t in tensors.items() if t._version != versions[n]]
            risk._overwrites |= marks != [t._version for t in data]
            _check_unwritten(written, risk.layout)
    risk._random = risk._random or drawn
    risk._written = sorted({*risk._written, *written})
    return loss


def _needs_graph(error: RuntimeError) -> bool:
    said = str(error)
    return "does not require grad" in said or "not to have been used in the graph" in said


def _check_unwritten(written: list[str], layout: Layout) -> None:
    """Nothing, if the model wrote to none of its trainable parameters.

    Raises:
        RuntimeError: if it did; a vector that changes while it is evaluated is no point.
    """
    changed = [name for name in written if name in layout.names]
    if changed:
        raise RuntimeError(
            f"the forward pass writes to the parameter {changed[0]}, so the loss is no function of "
            "it: do that outside of forward, or make the parameter a buffer"
        )
