"""Parameters as one flat vector, and a closure that calls ``backward`` as an objective over it."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from landscape.networks import Entry, Layout
from landscape.objective import Term


class Flat:
    """Parameters that are read and written as one vector, in their order.

    Args:
        tensors: real floating-point tensors on one device.

    Raises:
        ValueError: if there is none, or they are something else.
    """

    def __init__(self, tensors: Sequence[Tensor]):
        if not tensors:
            raise ValueError("no parameter is trainable: is requires_grad False everywhere?")
        kinds = {str(t.dtype) for t in tensors if not t.is_floating_point()}
        if kinds:
            raise ValueError(f"parameters must be real floating-point numbers, got {min(kinds)}")
        devices = sorted({str(t.device) for t in tensors})
        if len(devices) > 1:
            raise ValueError(f"parameters must be on one device, got {' and '.join(devices)}")
        self.tensors = list(tensors)
        # What `read` and the first gradient of a step were written to, to be used again: fresh
        # memory for vectors of a million bytes costs more than what is written to it.
        self._spare: list[Tensor | None] = [None, None]

    @cached_property
    def layout(self) -> Layout:
        """Roles as far as shapes tell: more than two axes is a convolution, two a linear layer."""
        entries, offset = [], 0
        for k, tensor in enumerate(self.tensors):
            role = {0: "other", 1: "bias", 2: "linear"}.get(tensor.ndim, "convolution")
            axis = 0 if tensor.ndim > 1 else None
            entries.append(Entry(f"parameter{k}", tuple(tensor.shape), offset, role, axis))
            offset += tensor.numel()
        return Layout(tuple(entries))

    def read(self) -> Tensor:
        """The vector (p,), a copy in memory that is used again after `reclaim`."""
        return self._joined(0, [tensor.detach().reshape(-1) for tensor in self.tensors])

    def read_gradients(self, again: bool) -> Tensor:
        """The gradients (p,), 0 where there is none, likewise unless it is done ``again``.

        Raises:
            RuntimeError: if one is sparse.
        """
        self.check_dense()
        pieces = [
            torch.zeros_like(t).reshape(-1) if t.grad is None else t.grad.detach().reshape(-1)
            for t in self.tensors
        ]
        return torch.cat(pieces) if again else self._joined(1, pieces)

    def check_dense(self) -> None:
        """Nothing, if no gradient is sparse.

        Raises:
            RuntimeError: if one is.
        """
        kinds = {t.grad.layout for t in self.tensors if t.grad is not None} - {torch.strided}
        if kinds:
            raise RuntimeError(
                f"dense gradients are needed, got one that is {kinds.pop()}: make an embedding "
                "with sparse=False"
            )

    def reclaim(self, kept: Iterable[Tensor]) -> None:
        """Lets go of the memory that tensors still use which somebody keeps."""
        used = {tensor.untyped_storage().data_ptr() for tensor in kept}
        for k, spare in enumerate(self._spare):
            if spare is not None and spare.untyped_storage().data_ptr() in used:
                self._spare[k] = None

    def write(self, z: Tensor, only: Sequence[bool] | None = None) -> None:
        """Copies ``z`` (p,) into the parameters, or into those alone that are marked."""
        pieces = z.split(self.layout.sizes)
        pairs = [
            (tensor.detach(), piece.view_as(tensor))
            for k, (tensor, piece) in enumerate(zip(self.tensors, pieces, strict=True))
            if only is None or only[k]
        ]
        if pairs:
            torch._foreach_copy_([t for t, _ in pairs], [piece for _, piece in pairs])

    def _joined(self, place: int, pieces: list[Tensor]) -> Tensor:
        spare = self._spare[place]
        if spare is None or {spare.dtype, spare.device} != {pieces[0].dtype, pieces[0].device}:
            self._spare[place] = torch.cat(pieces)
        else:
            torch.cat(pieces, out=spare)
        return self._spare[place]  # type: ignore[return-value]


class Closure:
    """A closure that calls ``backward`` as an objective over the flat vector of its parameters.

    It is made for one step. Where a value is enough, a closure with a parameter ``backward`` is
    called with ``backward=False``, without gradients; any other computes a gradient that is not
    used.

    Args:
        flat: the parameters.
        closure: evaluates and differentiates at the parameters as they are. Where None, the
            gradients that are there are those of the parameters as they are.
        name: of the optimiser, for messages.
    """

    chunk = 1

    def __init__(self, flat: Flat, closure: Callable[..., Any] | None, name: str):
        self._flat, self._closure, self._name = flat, closure, name
        self.layout = flat.layout
        self.dim = self.layout.dim
        self._here: Tensor | None = None
        self.first_loss: Any = None
        self.evaluations = 0
        # Which parameters had a gradient in some evaluation.
        self.reached = [False] * len(flat.tensors)

    @cached_property
    def position(self) -> Tensor:
        """Where the parameters are (p,); to be read before they move."""
        return self._flat.read()

    def terms(self) -> Iterator[Term]:
        """Nothing: a closure cannot be differentiated twice.

        Raises:
            TypeError: always.
        """
        raise self._no_more()

    def batched_terms(self) -> Iterator[Term]:
        """The closure as a function from (1, p) to (1,), for values alone."""
        yield self._value

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and gradient at the one row of z.

        Raises:
            RuntimeError: if there is no closure to ask, or it leaves no gradient.
        """
        loss, again = self._differentiated(z[0]), any(self.reached)
        has = [tensor.grad is not None for tensor in self._flat.tensors]
        self.reached = [one or other for one, other in zip(self.reached, has, strict=True)]
        slope = self._flat.read_gradients(again).to(z)
        return self._number(loss, z), slope.unsqueeze(0)

    def differentiate(self) -> None:
        """Evaluates where the parameters are, and leaves dense gradients in them.

        Raises:
            RuntimeError: if the closure leaves none, one is sparse, or it gives no scalar.
        """
        loss = self._differentiated(None)
        self._flat.check_dense()
        if isinstance(loss, Tensor):
            self._check_scalar(loss)

    def finish(self, z: Tensor, everywhere: bool = False) -> None:
        """Moves the parameters to ``z``, but for those that no evaluation has reached.

        Args:
            z: (p,).
            everywhere: move those too, for a method that has left them alone where it should.
        """
        reached = None if everywhere or all(self.reached) else self.reached
        if reached is not None:
            self.move(self.position)
        self._flat.write(z, reached)
        self._here = z

    def move(self, z: Tensor) -> None:
        """Writes z into the parameters, unless it is there."""
        here = self.position if self._here is None else self._here
        if z is not here and z.data_ptr() != here.data_ptr():
            self._flat.write(z)
            self._here = z

    def _value(self, rows: Tensor) -> Tensor:
        if rows.requires_grad:
            raise self._no_more()
        return self._number(self._evaluate(rows[0], backward=False), rows)

    def _differentiated(self, z: Tensor | None) -> Any:
        """The loss at z, as in `_evaluate`, with some gradient.

        Raises:
            RuntimeError: if there is none.
        """
        loss = self._evaluate(z)
        if all(tensor.grad is None for tensor in self._flat.tensors):
            raise RuntimeError(
                f"no parameter of {self._name} has a gradient: the closure must call "
                "loss.backward() and return the loss"
            )
        return loss

    def _evaluate(self, z: Tensor | None, backward: bool = True) -> Any:
        """The loss at z, as the closure gives it; gradients are where ``backward`` puts them.

        Where z is None, the parameters stay as they are.

        Raises:
            RuntimeError: if there is no closure to ask, or it gives no loss.
        """
        if self._closure is None:
            elsewhere = z is not None and z.data_ptr() != self.position.data_ptr()
            if elsewhere or not backward:
                raise RuntimeError(
                    f"{self._name} evaluates more than one point in a step and needs a closure: "
                    "optimiser.step(closure). GradScaler takes none; use bfloat16 autocast"
                )
            return float("nan")
        if z is not None:
            self.move(z)
        self.evaluations += 1
        for tensor in self._flat.tensors:
            tensor.grad = None
        if backward or not self._values_alone:
            with torch.enable_grad():
                loss = self._closure()
        else:
            loss = self._closure(backward=False)
        if loss is None:
            raise RuntimeError(f"the closure given to {self._name} must return the loss")
        if self.evaluations == 1:
            self.first_loss = loss
        return loss

    @cached_property
    def _values_alone(self) -> bool:
        """Whether the closure can do without ``backward``."""
        try:
            return "backward" in inspect.signature(self._closure).parameters  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return False

    def _number(self, loss: Any, z: Tensor) -> Tensor:
        number = loss.detach().to(z) if isinstance(loss, Tensor) else z.new_tensor(loss)
        self._check_scalar(number)
        return number.reshape(1)

    def _check_scalar(self, loss: Tensor) -> None:
        if loss.numel() != 1:
            raise RuntimeError(
                f"the closure given to {self._name} must return a scalar, got shape "
                f"{tuple(loss.shape)}"
            )

    def _no_more(self) -> TypeError:
        return TypeError(
            f"{self._name} needs more than values and gradients of its objective, and a closure "
            "gives no more; use the method on an EmpiricalRisk"
        )
