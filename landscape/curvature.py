"""First and second derivatives at one point: gradient norms and Hessian-vector products."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from landscape.networks import dense_parts
from landscape.objective import (
    Objective,
    backward,
    check_deterministic,
    difference,
    first_order,
    judged,
    normalisation_of,
    offered,
    second_order,
    trait,
    value_and_grad,
)
from landscape.results import Gradients, provenance

Derivatives = Literal["exact", "differences"]

GRAPH_BYTES = 2**31
_BLOCK_DIM = 20_000
_BLOCK = 64
# A block holds about the graph of a term for each row, and pays only where graphs are small.
_BLOCK_BYTES = 2**26


class Hessian:
    r"""The Hessian of an objective at a point, as something that multiplies vectors.

    ``hessian @ u`` is exact to rounding (reverse over reverse). The first-order graph is built once
    and kept where it fits in ``memory``, else it is rebuilt for every term of every product.

    With ``derivatives="differences"`` a product is a central difference of gradients instead,
    :math:`(\nabla f(z + hu) - \nabla f(z - hu)) / 2h`, for a loss that has no second derivative
    (CTC, cuDNN's recurrent layers, fused attention, custom kernels). The step is
    :math:`h = \epsilon^{1/3} (1 + \|z\|_2) / \|u\|_2`; its error is of order :math:`h^2` and
    :math:`\epsilon \|\nabla f\| / h`, and `error` measures it.

    Args:
        objective: what is differentiated.
        z: (p,), the point.
        memory: bytes of graph that may be kept.
        blocks: whether several products may be taken in one vectorised pass. Where None, that is
            tried for small problems, and compared with a plain product once.
        derivatives: ``"exact"`` or ``"differences"``; what the objective says where None.

    Attributes:
        name: what results call it.
        products: how many products were asked for so far. The one with which the first block is
            compared is not among them.
        graph_bytes: bytes of the graphs built: of all terms, or until they outgrew ``memory``.
        cached: whether the graph is kept.
        blocks: what was found, once several products were taken: the next Hessian of the same
            objective need not try again.

    Raises:
        ValueError: if ``z`` is not one point of the objective's length.
    """

    def __init__(
        self,
        objective: Objective,
        z: Float[Tensor, " p"],
        *,
        memory: int = GRAPH_BYTES,
        blocks: bool | None = None,
        derivatives: str | None = None,
    ):
        derivatives = derivatives or trait(objective, "derivatives", "exact")
        if derivatives not in ("exact", "differences"):
            raise ValueError(f"derivatives must be exact or differences, got {derivatives!r}")
        if z.shape != (objective.dim,):
            raise ValueError(f"one point ({objective.dim},) is needed, got shape {tuple(z.shape)}")
        self.objective = objective
        self.point = z.detach()
        self.dim = objective.dim
        self.products = 0
        self.blocks: bool | None = False
        self.differences = derivatives == "differences"
        self._shared: Any = None
        self.name = "Hessian by differences" if self.differences else "Hessian"
        if self.differences:
            self.graph_bytes, self.cached = 0, False
            return
        if (shared := offered(objective, "products")) is not None:
            self._shared = shared(self.point, memory)
            self.graph_bytes, self.cached = self._shared.graph_bytes, self._shared.cached
            return
        with second_order(objective):
            self._graph, self.graph_bytes, largest, self.cached = graphs(self._built, memory)
        self._rows = min(_BLOCK, _BLOCK_BYTES // max(largest, 1))
        small = objective.dim <= _BLOCK_DIM and self._rows > 1
        self.blocks = blocks if small else False

    def __matmul__(self, u: Float[Tensor, "*batch p"]) -> Float[Tensor, "*batch p"]:
        if u.shape[-1] != self.dim:
            raise ValueError(f"vectors of length {self.dim} are needed, got {tuple(u.shape)}")
        probes = u.detach().reshape(-1, self.dim).to(self.point)
        self.products += len(probes)
        if self.differences:
            return torch.stack([self._difference(p) for p in probes]).reshape(u.shape)
        if self._shared is not None:
            return (self._shared @ probes).reshape(u.shape)
        if len(probes) == 1:
            return self._sum(_alone, probes[0]).reshape(u.shape)
        total = None if len(probes) == 0 or self.blocks is False else self._together(probes)
        if total is None:
            total = self._sum(_one_by_one, probes)
        return total.reshape(u.shape)

    @property
    def shared(self) -> bool:
        """Whether several processes multiply, each with its own part."""
        return self._shared is not None

    def value_and_grad(self) -> tuple[float, Float[Tensor, " p"]]:
        """The objective and its gradient at the point, which the first-order graph holds."""
        if self.differences or self._shared is not None:
            value, slope = value_and_grad(self.objective, self.point)
            return float(value), slope
        with second_order(self.objective):
            total, gradient = 0.0, torch.zeros_like(self.point)
            for _, value, slope in self._first_order():
                total += float(value)
                gradient += slope.detach()
        return total, gradient

    def each(self, u: Float[Tensor, "n p"]) -> Iterator[Float[Tensor, "n p"]]:
        """The products of one term after the other; they are counted by whoever adds them up."""
        with second_order(self.objective):
            for leaf, _, slope in self._first_order():
                part = torch.zeros_like(u)
                if slope.requires_grad:
                    _one_by_one(leaf, slope, u, part)
                del leaf, slope
                yield part

    def error(self, u: Float[Tensor, " p"]) -> float:
        r"""How far the product with u may be off, :math:`\|\cdot\|_2`; 0 for exact derivatives.

        The difference of the products with steps h and 2h: three times what is left out at h, and
        more than half of what rounding adds there.
        """
        if not self.differences:
            return 0.0
        near, far = self._difference(u), self._difference(u, 2.0)
        return float(torch.linalg.vector_norm((near - far).double()))

    def _difference(self, u: Tensor, factor: float = 1.0) -> Tensor:
        return difference(self.objective, self.point, u, factor)

    def dense(self) -> Float[Tensor, "p p"]:
        """The whole matrix, made symmetric; p products."""
        return dense(self)

    def _sum(self, multiply: Callable[..., None], probes: Tensor) -> Tensor:
        # Also for a graph that is kept: a checkpoint inside it runs the model again.
        with second_order(self.objective):
            total = torch.zeros_like(probes)
            for leaf, _, slope in self._first_order():
                if slope.requires_grad:
                    multiply(leaf, slope, probes, total)
                # One graph is gone when the next one is built.
                del leaf, slope
        return total

    def _together(self, probes: Tensor) -> Tensor | None:
        """The products by vectorised backward passes, or None where torch cannot take them.

        Small problems are bound by the cost of starting kernels, so that this pays; for large ones
        it does not. The first block is compared with one plain product with a mixture of its rows,
        since a wrong batching rule need not fail (group norm, torch 2.13).
        """
        try:
            blocks = [self._sum(_in_a_block, block) for block in probes.split(self._rows)]
        except (RuntimeError, UserWarning):
            self.blocks = False
            return None
        if self.blocks is None:
            # A single row could be the unit vector of a parameter without curvature.
            count = len(blocks[0])
            weights = torch.linspace(1, 2, count, dtype=probes.dtype, device=probes.device)
            alone = self._sum(_alone, weights @ probes[:count])
            tolerance = torch.finfo(alone.dtype).eps ** 0.5 * blocks[0].abs().max()
            if bool(((weights @ blocks[0] - alone).abs() > tolerance).any()):
                self.blocks = False
            elif bool(alone.any()):
                self.blocks = True
        return None if self.blocks is False else torch.cat(blocks)

    def _first_order(self) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
        return self._graph if self.cached else self._built()

    def _built(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        # Of one point: terms of several at once would put an axis of members before everything.
        for term in self.objective.terms():
            yield first_order(term, self.point)


def differentiated(operator: Any, derivatives: Derivatives | None) -> Any:
    """What makes the matrix, with the wanted derivatives; the operator itself where None.

    Raises:
        ValueError: if they do not exist, or are for another matrix than the Hessian.
    """
    if derivatives is None:
        return operator
    if derivatives not in ("exact", "differences"):
        raise ValueError(f"derivatives must be exact or differences, got {derivatives!r}")
    if operator is not Hessian:
        raise ValueError("derivatives are for the Hessian; leave them out for other operators")
    return partial(Hessian, derivatives=derivatives)


class Graphs(NamedTuple):
    """Graphs that are kept, or none where they outgrew the memory.

    Attributes:
        kept: what was built; empty where it did not fit.
        bytes: of all of them, or until they outgrew the memory.
        largest: bytes of the largest one.
        fit: whether they are kept.
    """

    kept: list[Any]
    bytes: int
    largest: int
    fit: bool


def graphs(again: Callable[[], Iterable[Any]], memory: int) -> Graphs:
    """What is built one after the other, kept as long as its graphs fit in ``memory`` bytes.

    Where a model uses `torch.func` inside, which takes no hooks on saved tensors, the graphs are
    read after they are built.

    Raises:
        RuntimeError: whatever the model raises.
    """
    storages: dict[int, int] = {}
    kept: list[Any] = []
    total = largest = 0

    def note(tensor: Tensor) -> Tensor:
        if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            raise RuntimeError("a saved tensor of torch.func has no storage of its own")
        for part in dense_parts(tensor):
            storage = part.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        # An output kept with its own history would keep itself alive for ever.
        return tensor.detach()

    source = iter(again())
    hooked = True
    while True:
        try:
            if hooked:
                with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                    graph = next(source, None)
            else:
                graph = next(source, None)
        except RuntimeError as error:
            if not hooked or kept or "saved tensor" not in str(error):
                raise
            # A generator that has raised is over.
            hooked, source = False, iter(again())
            continue
        if graph is None:
            return Graphs(kept, total, largest, True)
        kept.append(graph)
        if not hooked:
            for tensor in _saved(graph):
                # What a transform has left behind has no storage, and takes none.
                with suppress(RuntimeError):
                    note(tensor)
        before, total = total, sum(storages.values())
        largest = max(largest, total - before)
        if total > memory:
            return Graphs([], total, largest, False)


def _saved(graph: Any) -> Iterator[Tensor]:
    """The tensors that the nodes of a graph keep."""
    found = graph if isinstance(graph, tuple) else (graph,)
    roots = [t.grad_fn for t in found if isinstance(t, Tensor) and t.grad_fn is not None]
    seen: set[Any] = set()
    while roots:
        node = roots.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        roots += [following for following, _ in node.next_functions]
        for name in dir(node):
            if name.startswith("_saved_"):
                held = getattr(node, name, None)
                items = held if isinstance(held, (tuple, list)) else (held,)
                yield from (item for item in items if isinstance(item, Tensor))


def dense(operator: Any) -> Float[Tensor, "k k"]:
    """All entries of an operator, made symmetric; as many products as it has rows."""
    eye = torch.eye(operator.dim, dtype=operator.point.dtype, device=operator.point.device)
    entries = operator @ eye
    return (entries + entries.T) / 2


def arithmetic(z: Float[Tensor, "*batch p"]) -> tuple[Float[Tensor, "*batch p"], str]:
    """The point in the type in which it is measured, and words for that.

    One of 16 bits is measured in float32.
    """
    name = str(z.dtype).removeprefix("torch.")
    if z.dtype in (torch.float16, torch.bfloat16):
        return z.detach().float(), f"float32 (the point is {name})"
    return z.detach(), name


def gradients(objective: Objective, z: Float[Tensor, "n p"]) -> Gradients:
    r"""Loss and gradient norm of every member: :math:`f(z_i)`, :math:`\|\nabla f(z_i)\|_2`.

    Args:
        objective: what is measured; without random modules.
        z: (n, p), the members.

    Returns:
        ``member``, ``loss``, ``gradient_norm`` and ``gradient_max`` (n,).

    Raises:
        RuntimeError: if the objective is random.
        ValueError: if ``z`` does not have two axes, or no member.
    """
    if z.ndim != 2 or len(z) == 0:
        raise ValueError(
            f"points of shape (members, p), at least one, are needed, got {tuple(z.shape)}"
        )
    check_deterministic(objective, z[0])
    loss, grad = value_and_grad(objective, z)
    return Gradients(
        member=torch.arange(len(z), device="cpu").numpy(),
        loss=loss.double().cpu().numpy(),
        gradient_norm=torch.linalg.vector_norm(grad.double(), dim=-1).cpu().numpy(),
        gradient_max=grad.abs().amax(-1).double().cpu().numpy(),
        statistics=normalisation_of(objective),
        provenance=provenance(judged=judged(objective, z[0])),
    )


def _alone(leaf: Tensor, slope: Tensor, probe: Tensor, total: Tensor) -> None:
    """Adds the product to ``total``."""
    total += backward(slope, leaf, probe, retain=True)


def _one_by_one(leaf: Tensor, slope: Tensor, probes: Tensor, total: Tensor) -> None:
    """Adds the products to ``total`` row by row, so that no more than one is held beside it."""
    for row, probe in zip(total, probes, strict=True):
        _alone(leaf, slope, probe, row)


def _in_a_block(leaf: Tensor, slope: Tensor, probes: Tensor, total: Tensor) -> None:
    with warnings.catch_warnings():
        # An operation without a batching rule falls back to a loop, and warns of it.
        warnings.filterwarnings("error", message="There is a performance drop")
        (block,) = torch.autograd.grad(
            slope, leaf, probes, retain_graph=True, is_grads_batched=True, materialize_grads=True
        )
    total += block
