"""A network with its loss at any vector: what a batch gives, and what the model does in a call."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from landscape.networks import batches as data_batches
from landscape.networks.batches import Batch
from landscape.networks.compiled import Compiled
from landscape.networks.draws import drawn_in, kept_states, seeded
from landscape.networks.layout import Layout
from landscape.networks.network import Network, constants, drawing, twin_of
from landscape.objective import ordinary

Loss = Callable[[Any, Any], Any]
_TRIED = 128  # samples


class Forward:
    """The loss of a network on one batch, as a function of the vector.

    Args:
        model: the network.
        loss: of an output and a target; of the module and a batch where ``whole``.
        layout: of the vector.
        whole: whether the loss is a function of the whole model.
        seed: of whatever is drawn.

    Attributes:
        constants: frozen parameters and buffers by name.
        random: what draws random numbers, by name.
        written: the tensors that the model writes to.
        graphed: whether the loss needs a graph for its value.
        live: whether it differentiates by its inputs.
        paired: whether the loss is (sum, weight).
        point_dtype: the type of the model's first parameter.
        autocast: the type in which autocast lets the network compute; None for that of the point.
            The loss of an output is in the latter anyway.
        compiled: what gives the output of the network in its place; None if nothing.
    """

    def __init__(
        self, model: Network, loss: Loss, layout: Layout, *, whole: bool, seed: int | None
    ):
        self.model, self.loss, self.layout = model, loss, layout
        self.whole, self.seed = whole, seed
        first = next(iter(model.parameters.values()))
        self.device, self.point_dtype = first.device, first.dtype
        self.constants = constants(model, layout)
        self.random, self.written = model.stochastic(), list[str]()
        self.graphed = self.live = self.paired = self._overwrites = False
        self.autocast: torch.dtype | None = None
        self.compiled: Compiled | None = None
        self._cast: dict[torch.dtype, dict[str, Tensor]] = {}

    def changed(self, **changes: Any) -> "Forward":
        """The same with other attributes."""
        twin = twin_of(self)
        twin.__dict__.update(changes)
        if "constants" in changes:
            twin._cast = {}
        if "model" in changes:
            twin.compiled = None
        return twin

    def point(self) -> Tensor:
        """A copy of the model's own trainable parameters, as one vector."""
        return self.layout.flatten({n: p.detach() for n, p in self.model.parameters.items()})

    @contextmanager
    def given(self, z: Tensor) -> Iterator[None]:
        """Inside, the caller's model is the network at z, and draws what the seed says."""
        tensors = self.tensors(z)
        wide = self.random and z.dtype == torch.float64 != self.point_dtype

        again = _Again(self, tensors, self._drawn if wide else None)
        drawn = self._drawn if wide else None
        with seeded(self.seed if self.random else None, z.device, drawn):
            with self.model.given(tensors, again=again):
                yield

    def prepared(self, batch: Batch, dtype: torch.dtype) -> Batch:
        """The batch in the type of a point, inputs that are differentiated as fresh leaves."""
        batch = data_batches.cast(batch, dtype)
        if self._overwrites:
            batch = data_batches.copied(batch)
        return data_batches.live(batch, self.live)

    def batch_loss(self, batch: Batch) -> Any:
        """The loss of a `prepared` batch, inside `given`: a mean, or (sum, weight)."""
        if self.whole:
            with self.mixed():
                return self.loss(self.model.module, batch.inputs)
        with self.mixed():
            output = self._called(batch.inputs)
        return self.loss(self.widened(output), batch.target)

    def _called(self, inputs: Any) -> Any:
        if self.compiled is None:
            return self.model(inputs)
        return self.compiled(self.model.module, inputs)

    def mixed(self) -> AbstractContextManager[Any]:
        """Inside, the network computes in the type of ``autocast``."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.autocast)

    def widened(self, output: Any) -> Any:
        """An output of the network as the loss gets it, in the type of parameters."""
        if self.autocast is None:
            return output
        narrow, wide = self.autocast, self.point_dtype
        return data_batches.mapped(output, lambda t: t.to(wide) if t.dtype == narrow else t)

    def through(self, network: Network, batch: Batch) -> Any:
        """The forward pass of a batch, for the statistics that it shows."""
        return self.loss(network.module, batch.inputs) if self.whole else network(batch.inputs)

    def outputs(self, z: Tensor, batch: Batch) -> Any:
        """What the network gives for a `prepared` batch at z."""
        with self.given(z):
            return self.model(batch.inputs)

    def loss_at(self, z: Tensor, output: Any, target: Any) -> Any:
        """The loss of an output, its own tensors in the type of z."""
        with self.given(z):
            return self.loss(output, target)

    def tensors(self, z: Tensor) -> dict[str, Tensor]:
        """All that a call brings, in the type of z; what the model writes to is copied first."""
        fixed = self.fixed(z.dtype)
        fresh = {name: fixed[name].clone() for name in self.written}
        return {**fixed, **fresh, **self.layout.unflatten(z)}

    def fixed(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Frozen parameters and buffers in a type."""
        if dtype not in self._cast:
            self._cast[dtype] = {
                name: t.to(dtype) if t.is_floating_point() else t
                for name, t in self.constants.items()
            }
        return self._cast[dtype]

    def own_of_loss(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The tensors of a loss that is a module, in the type of the point."""
        prefix = self.model.prefix
        fixed = self.fixed(dtype)
        return {name: t for name, t in fixed.items() if name.startswith(prefix)}

    @property
    def _drawn(self) -> torch.dtype:
        return torch.float32 if self.point_dtype != torch.float64 else torch.float64

    def begin(self, batch: Batch, advice: str) -> None:
        """Evaluates a batch at the model's own parameters, and notes what that shows.

        Raises:
            ValueError: if the loss is neither a scalar nor (sum, weight).
            RuntimeError: whatever the model or the loss raises on the data.
            TypeError: likewise.
        """
        self.paired = False
        first = data_batches.few(batch, _TRIED)
        try:
            loss = self.tried(first)
        except RuntimeError as error:
            if not _needs_graph(error):
                if advice:
                    raise TypeError(f"{error}; {advice}") from error
                raise
            # Derivatives with respect to inputs, inside the model or the loss.
            self.graphed = True
            try:
                loss = self.tried(first)
            except RuntimeError as again:
                if not _needs_graph(again):
                    raise
                self.live = True
                loss = self.tried(first)
        except (TypeError, ValueError) as error:
            if advice:
                raise type(error)(f"{error}; {advice}") from error
            raise
        self.paired = isinstance(loss, tuple) and len(loss) == 2
        scalar = loss[0] if self.paired else loss
        if not isinstance(scalar, Tensor) or scalar.ndim != 0:
            shape = tuple(scalar.shape) if isinstance(scalar, Tensor) else type(scalar).__name__
            raise ValueError(
                f"loss must return a scalar tensor or (sum, weight), got {shape}; "
                "take the mean over the batch"
            )
        kinds = {str(p.dtype) for p in self.model.parameters.values() if p.requires_grad}
        if len(kinds) > 1:
            self._check_one_type(kinds, batch)

    def tried(self, batch: Batch) -> Any:
        """The loss at the model's own parameters; notes what the model draws and writes to."""
        fork = kept_states(self.device)
        grad = torch.enable_grad() if self.graphed else torch.no_grad()
        with torch.inference_mode(False), grad, fork:
            own = {n: ordinary(p).clone() for n, p in self.model.parameters.items()}
            # The caller's data too are left as they are, whatever the model writes to.
            batch = data_batches.copied(self.prepared(batch, self.point_dtype))
            data = list(data_batches.tensors_of(batch[:2]))
            marks = [t._version for t in data]
            fixed = {name: t.clone() for name, t in self.constants.items()}
            tensors = {**own, **fixed}
            versions = {name: t._version for name, t in tensors.items()}
            try:
                with (
                    drawing(self.model, self.device) as drawn,
                    self.model.watched(),
                    self.model.given(tensors),
                ):
                    loss = self.changed(compiled=None).batch_loss(batch)
            finally:
                written = [n for n, t in tensors.items() if t._version != versions[n]]
                self._overwrites |= marks != [t._version for t in data]
                _check_unwritten(written, self.layout)
        self.random = self.random or drawn
        self.written = sorted({*self.written, *written})
        return loss

    def _check_one_type(self, kinds: set[str], batch: Batch) -> None:
        """Nothing, if a model of several types can be evaluated in one.

        Raises:
            TypeError: if not.
        """
        z = self.point()
        try:
            with torch.inference_mode(False), torch.no_grad():
                prepared = self.prepared(batch, z.dtype)
                with torch.set_grad_enabled(self.graphed), self.given(z):
                    self.batch_loss(prepared)
        except RuntimeError as error:
            raise TypeError(
                f"the parameters are {' and '.join(sorted(kinds))}, and a vector has one type, "
                f"{z.dtype}, in which the model fails ({str(error).splitlines()[0]}): make all of "
                "it one type, model.float(), and leave out casts inside it"
            ) from error


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


class _Again:
    """Opens the same network anew, for layers that are recomputed.

    An object, since a function that hands itself on is a cycle, which keeps the point alive until
    garbage is collected.
    """

    def __init__(self, forward: Forward, tensors: dict[str, Tensor], drawn: Any):
        self.forward, self.tensors, self.drawn = forward, tensors, drawn

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with nullcontext() if self.drawn is None else drawn_in(self.drawn):
            with self.forward.model.given(self.tensors, again=self):
                yield
