"""The one noun that everything else stands on: a finite sum of scalar terms over a flat vector.

The last axis of a point is parameters; every axis before it is batch (population, grid, probes).
Derivatives commute with finite sums, so `value`, `value_and_grad` and `hvp` serve every objective.
Norms of gradients and maxima do not commute with sums: they are functions of an objective's value
and gradient, never objectives.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import repeat
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

with warnings.catch_warnings():
    # Torch imports it at the first gradient, and it leaves filters of warnings behind.
    import_module("sympy")

Term = Callable[[Tensor], Tensor]


@runtime_checkable
class Objective(Protocol):
    """A finite sum of scalar terms over one flat vector of length ``dim``.

    ``terms()`` yields functions from a vector (p,) to a scalar. Nothing else is required. An
    objective may also offer

    - ``batched_terms()``: the same terms from (n, p) to (n,), where it is faster than vmap;
    - ``value_and_grad(z)``: from (n, p) to (n,) and (n, p), where it is faster than autograd;
    - ``chunk``: how many points are best evaluated together;
    - ``layout``: the names and shapes inside the vector;
    - ``minibatches(size, generator, epochs)``: a stream of one-term objectives;
    - ``parts``: the objectives that it is made of, or that it wraps: what they say of themselves
      (``recurrent``, ``normalisation``, ``stochastic_modules()``, ``derivatives``, ``samples``,
      ``batches``, ``shares``, ``judge(z)``) is asked for there too.
    """

    @property
    def dim(self) -> int: ...

    def terms(self) -> Iterator[Term]: ...


class Critical(NamedTuple):
    """A critical point of a test function: its place, its value, its Hessian eigenvalues."""

    name: str
    point: tuple[float, ...]
    value: float
    eigenvalues: tuple[float, ...]


@dataclass(frozen=True)
class Analytic:
    """A formula as an objective of one term.

    Args:
        formula: maps (..., dim) to (...); it indexes ``z[..., i]``.
        dim: number of coordinates.
        gradient: maps (..., dim) to (..., dim); automatic differentiation where it is None.
        name: how the catalogue and the pictures call it.
        box: (low, high) for each coordinate, the region that one draws and starts in.
        minima: the local minima that are known, flattest first where that is unambiguous.
        saddles: the saddle points that are known.
        maxima: the local maxima that are known.

    >>> parabola = Analytic(lambda z: 3 * z[..., 0] ** 2, dim=1)
    >>> value_and_grad(parabola, torch.tensor([2.0], device="cpu"))[1]
    tensor([12.])
    """

    formula: Callable[[Tensor], Tensor]
    dim: int
    gradient: Callable[[Tensor], Tensor] | None = None
    name: str = ""
    box: tuple[tuple[float, float], ...] = ()
    minima: tuple[Critical, ...] = ()
    saddles: tuple[Critical, ...] = ()
    maxima: tuple[Critical, ...] = ()

    def terms(self) -> Iterator[Term]:
        yield self.formula

    def batched_terms(self) -> Iterator[Term]:
        yield self.formula

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        if self.gradient is None:
            return _differentiate(self.formula, z)
        return self.formula(z), self.gradient(z)


@dataclass(frozen=True, eq=False)
class Ridge:
    """Weight decay as an objective: ``weight / 2 * sum_i mask_i z_i^2``.

    Args:
        weight: non-negative strength.
        mask: (p,), 1 for the coordinates that are decayed and 0 for the others; all where None.
        dim: number of coordinates, needed only where ``mask`` is None.

    Raises:
        ValueError: if ``weight`` is negative, or neither ``mask`` nor ``dim`` says how long z is.
    """

    weight: float
    mask: Tensor | None = None
    dim: int = 0

    def __post_init__(self):
        if not self.weight >= 0:
            raise ValueError(f"weight must be at least 0, got {self.weight}")
        if self.mask is not None:
            if self.dim not in (0, self.mask.numel()):
                raise ValueError(f"dim is {self.dim} but mask has {self.mask.numel()} entries")
            object.__setattr__(self, "mask", ordinary(self.mask))
            object.__setattr__(self, "dim", self.mask.numel())
        if self.dim < 1:
            raise ValueError("Ridge needs a mask, or dim, to know how long the vector is")

    def terms(self) -> Iterator[Term]:
        yield self._value

    def batched_terms(self) -> Iterator[Term]:
        yield self._value

    def _value(self, z: Tensor) -> Tensor:
        weighted = z if self.mask is None else z * self.mask.to(z)
        return self.weight / 2 * (weighted * z).sum(-1)


class Derived:
    """What objectives that are made of others, or wrap another, have in common.

    Whoever asks for what a risk knows of itself (see `Objective`) finds it through ``parts``, so
    that a wrapper passes nothing on by hand. What is not said here of the whole, is said by the
    first part that says it.

    Attributes:
        parts: the objectives inside, at least one.
        dim: the length of the whole's own vector.
    """

    parts: tuple[Any, ...]
    dim: int

    def inside(self, z: Tensor) -> Tensor:
        """The points (..., p) of the parts at points (..., dim) of the whole."""
        return z

    @property
    def chunk(self) -> int | None:
        chunks = [c for c in (getattr(part, "chunk", None) for part in self.parts) if c]
        return min(chunks) if chunks else None

    @property
    def layout(self) -> Any:
        found = (getattr(part, "layout", None) for part in self.parts)
        return next((layout for layout in found if layout is not None), None)

    def terms(self) -> Iterator[Term]:
        for part in self.parts:
            for term in part.terms():
                yield lambda z, term=term: term(self.inside(z))

    def batched_terms(self) -> Iterator[Term]:
        for part in self.parts:
            for term in batched_terms(part):
                yield lambda z, term=term: term(self.inside(z))


class Sum(Derived):
    """The sum of objectives over the same vector, for instance a risk and a `Ridge`.

    Raises:
        ValueError: if the objectives do not have the same length, or none is given.
    """

    def __init__(self, *parts: Objective):
        dims = {part.dim for part in parts}
        if len(dims) != 1:
            raise ValueError(f"objectives of one length are needed, got lengths {sorted(dims)}")
        self.parts = parts
        self.dim = parts[0].dim

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        values, grads = zip(*(value_and_grad(part, z) for part in self.parts), strict=True)
        return sum(values[1:], values[0]), sum(grads[1:], grads[0])

    def minibatches(
        self, size: int, generator: torch.Generator, *, epochs: int | None = None
    ) -> Iterator["Sum"]:
        """The first part that has mini-batches in them, each with the other parts whole.

        A sum of which no part has any is its own only mini-batch.
        """
        for place, part in enumerate(self.parts):
            if hasattr(part, "minibatches"):
                others = (*self.parts[:place], *self.parts[place + 1 :])
                for batch in part.minibatches(size, generator, epochs=epochs):
                    yield Sum(batch, *others)
                return
        yield from repeat(self) if epochs is None else repeat(self, epochs)


def value(
    objective: Objective, z: Float[Tensor, "*batch p"], *, chunk: int | None = None
) -> Float[Tensor, "*batch"]:
    """The objective at every point of ``z``.

    Args:
        objective: what is evaluated.
        z: points; the last axis is parameters.
        chunk: number of points evaluated together, which bounds memory; the objective's own
            choice where None.

    Raises:
        ValueError: if the points do not have the objective's length, or are not floating point.
    """
    rows = _rows(objective, z)
    if len(rows) == 0:
        return rows.new_zeros(z.shape[:-1])
    # A term may keep tensors for later, which would be useless if made in inference mode.
    with torch.inference_mode(False), torch.no_grad():
        total = None
        for term in batched_terms(objective):
            part = torch.cat([term(piece) for piece in _pieces(objective, rows, chunk)])
            total = part if total is None else total + part
    return _some(total, objective).reshape(z.shape[:-1])


def value_and_grad(
    objective: Objective, z: Float[Tensor, "*batch p"], *, chunk: int | None = None
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch p"]]:
    """The objective and its gradient at every point of ``z``.

    Arguments and errors as in `value`.
    """
    rows = _rows(objective, z)
    if len(rows) == 0:
        return rows.new_zeros(z.shape[:-1]), torch.zeros_like(z)
    own = getattr(objective, "value_and_grad", None)
    if own is not None:
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):
                return value_and_grad(objective, z, chunk=chunk)
        parts = [own(piece) for piece in _pieces(objective, rows, chunk)]
        values, grads = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))
        if z.ndim == 2:
            return values.detach(), grads.detach()
        return values.detach().reshape(z.shape[:-1]), grads.detach().reshape(z.shape)
    total, gradient = None, torch.zeros_like(rows)
    for term in batched_terms(objective):
        pieces = [_differentiate(term, piece) for piece in _pieces(objective, rows, chunk)]
        values, grads = map(torch.cat, zip(*pieces, strict=True))
        total = values if total is None else total + values
        gradient += grads
    return _some(total, objective).reshape(z.shape[:-1]), gradient.reshape(z.shape)


def hvp(
    objective: Objective,
    z: Float[Tensor, "*batch p"],
    u: Float[Tensor, "*probes p"],
    *,
    chunk: int | None = None,
) -> Float[Tensor, "*all p"]:
    """The Hessian at ``z`` times ``u``, by reverse over reverse differentiation.

    By differences of gradients, where the objective says ``derivatives="differences"``.

    The leading axes of ``z`` and ``u`` are broadcast. For many products at one point,
    `landscape.curvature.Hessian` builds the first-order graph only once.

    Arguments and errors as in `value`.
    """
    _check(objective, z)
    _check(objective, u)
    shape = torch.broadcast_shapes(z.shape, u.shape)
    rows = _rows(objective, z.expand(shape))
    probes = _rows(objective, u.expand(shape)).to(rows)
    if len(rows) == 0:
        return rows.new_zeros(shape)
    if trait(objective, "derivatives") == "differences":
        pairs = zip(rows, probes, strict=True)
        return torch.stack([difference(objective, *pair) for pair in pairs]).reshape(shape)
    with second_order(objective):
        total = torch.zeros_like(rows)
        for term in batched_terms(objective):
            start = 0
            for piece in _pieces(objective, rows, chunk):
                stop = start + len(piece)
                point, _, slope = first_order(term, piece)
                total[start:stop] += backward(slope, point, probes[start:stop])
                start = stop
    return total.reshape(shape)


def difference(
    objective: Objective, z: Float[Tensor, " p"], u: Float[Tensor, " p"], factor: float = 1.0
) -> Float[Tensor, " p"]:
    r"""The Hessian at z times u, by a central difference of gradients.

    The step is ``factor`` times :math:`\epsilon^{1/3} (1 + \|z\|_2) / \|u\|_2`.
    """
    length = torch.linalg.vector_norm(u)
    if not float(length) > 0:
        return torch.zeros_like(u)
    eps = torch.finfo(u.dtype).eps
    step = factor * eps ** (1 / 3) * (1 + torch.linalg.vector_norm(z)) / length
    ends = torch.stack([z + step * u, z - step * u])
    _, slopes = value_and_grad(objective, ends)
    return (slopes[0] - slopes[1]) / torch.linalg.vector_norm(ends[0] - ends[1]) * length


def batched_terms(objective: Objective) -> Iterator[Term]:
    """The objective's terms as functions from (n, p) to (n,)."""
    own = getattr(objective, "batched_terms", None)
    if own is not None:
        yield from own()
        return
    for term in objective.terms():
        yield (
            lambda rows, term=term: (
                term(rows[0]).unsqueeze(0) if len(rows) == 1 else torch.func.vmap(term)(rows)
            )
        )


def first_order(term: Term, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The points as a leaf of a graph, the values, and the gradients as functions in that graph."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = ordinary(points).requires_grad_()
        values = term(leaf)
        if not values.requires_grad:
            return leaf, values, torch.zeros_like(leaf)
        (slope,) = torch.autograd.grad(
            values, leaf, torch.ones_like(values), create_graph=True, materialize_grads=True
        )
    return leaf, values.detach(), slope


def backward(slope: Tensor, leaf: Tensor, u: Tensor, *, retain: bool = False) -> Tensor:
    """The derivative of ``slope . u`` with respect to ``leaf``: a Hessian-vector product."""
    if not slope.requires_grad:
        return torch.zeros_like(leaf)
    (product,) = torch.autograd.grad(slope, leaf, u, retain_graph=retain, materialize_grads=True)
    return product


def ordinary(tensor: Tensor) -> Tensor:
    """The tensor's numbers for any graph: one made in inference mode must be copied for that."""
    with torch.inference_mode(False):
        return tensor.clone() if tensor.is_inference() else tensor.detach()


def widened(tensor: Tensor) -> Tensor:
    """The tensor in float64; on the CPU where its own device has no float64."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


@contextmanager
def second_order(objective: Any = None) -> Iterator[None]:
    """Kernels that can be differentiated twice: the fused attention kernels cannot.

    Nor can cuDNN's recurrent layers, which are off where ``objective`` or a part of it says that it
    is ``recurrent``. Products in float32 are in float32 on CUDA too, not in TF32. All settings are
    restored.

    Args:
        objective: what will be differentiated.
    """
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.inference_mode(False))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        # Before anything runs on CUDA these settings concern nothing.
        if torch.cuda.is_initialized():
            for place, name, value in _precise_kernels(_recurrent(objective)):
                stack.callback(setattr, place, name, getattr(place, name))
                setattr(place, name, value)
        yield


def _precise_kernels(recurrent: bool) -> list[tuple[Any, str, Any]]:
    """Settings of torch by which CUDA computes float32 in float32, and can do so twice."""
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    if hasattr(cudnn, "conv"):
        # Since torch 2.9; to read the older settings after these were used is an error.
        places, name, value = [matmul, cudnn.conv, cudnn.rnn], "fp32_precision", "ieee"
        settings: list[tuple[Any, str, Any]] = [(place, name, value) for place in places]
    else:
        settings = [(matmul, "allow_tf32", False), (cudnn, "allow_tf32", False)]
    return [*settings, (cudnn, "enabled", False)] if recurrent else settings


def _recurrent(objective: Any) -> bool:
    return any(getattr(part, "recurrent", False) for part in leaves(objective))


def leaves(objective: Any) -> Iterator[Any]:
    """The objective, and whatever it is made of or wraps, however deep; the whole first."""
    yield objective
    for part in getattr(objective, "parts", ()):
        yield from leaves(part)


def trait(objective: Any, name: str, default: Any = None) -> Any:
    """What the first of an objective and its parts says of itself under a name."""
    found = (getattr(part, name, None) for part in leaves(objective))
    return next((value for value in found if value), default)


def judged(objective: Any, z: Tensor, curvature: bool = True) -> dict[str, Any]:
    """What was checked of an objective and its parts before it is measured at z.

    Raises:
        RuntimeError: if it is no function of the vector, or not one function.
        ValueError: if its batches are weighed by something that is not known.
    """
    found: dict[str, Any] = {}
    for part, place in _located(objective, z):
        if hasattr(part, "judge"):
            found |= part.judge(place, curvature)
    return found


def _located(objective: Any, z: Tensor) -> Iterator[tuple[Any, Tensor]]:
    """As `leaves`, each with the point in its own coordinates."""
    yield objective, z
    place = objective.inside(z) if isinstance(objective, Derived) else z
    for part in getattr(objective, "parts", ()):
        yield from _located(part, place)


def check_deterministic(
    objective: Objective, z: Float[Tensor, " p"], *, curvature: bool = True
) -> Tensor:
    """The objective at ``z``, a scalar, if it may be measured.

    It has the same value twice, though the second evaluation sees other random numbers than the
    first; it is finite where it is the loss of a network; and it passed its own gate, see
    `landscape.networks.gate`, for values and gradients alone where no ``curvature`` is wanted of a
    very large network. The caller's random state is left as it was.

    Raises:
        RuntimeError: if the two values differ or a module draws random numbers; the message names
            the module where it is known. If the gate is not passed, or under ``torch.autocast``.
        ValueError: if the loss of a network is not finite; the message names the batch.
    """
    if torch.is_autocast_enabled(z.device.type):
        raise RuntimeError(
            "measurements are taken in the type of the point: call this outside of torch.autocast; "
            "mixed precision inside the model's own forward is part of the loss"
        )
    suspects = list(_stochastic_modules(objective))
    if not suspects:
        with torch.random.fork_rng(devices=[z.device] if z.device.type == "cuda" else []):
            first, second = value(objective, z), value(objective, z)
        if torch.allclose(first, second, rtol=1e-5, atol=0.0, equal_nan=True):
            if not bool(torch.isfinite(first).all()) and bool(torch.isfinite(z).all()):
                _check_finite(objective, z)
            judged(objective, z, curvature)
            return first
        suspects = [f"unknown: two evaluations gave {float(first):.9g} and {float(second):.9g}"]
    raise RuntimeError(
        "the objective is random, so no measurement of it means anything; found "
        + ", ".join(suspects)
        + _advice(suspects)
    )


def normalisation_of(objective: Any) -> str:
    """What BatchNorm normalises with in an objective or its parts; empty where there is none."""
    return trait(objective, "normalisation", "")


def _advice(suspects: list[str]) -> str:
    """What to do about randomness: evaluation mode where that helps, else a seed."""
    calm = any("in training mode" in suspect for suspect in suspects)
    if calm:
        return (
            ". Put these modules in evaluation mode (module.eval()) before building the objective, "
            "or measure one draw of them with seed=0 (--noise-seed 0)"
        )
    if any("draws random" in suspect for suspect in suspects):
        return ". No mode switches that off: measure one draw of it with seed=0 (--noise-seed 0)"
    return (
        ". Is a state kept between calls, or a random number drawn by something else than torch? "
        "Give seed=0 if torch draws it"
    )


def _check_finite(objective: Objective, z: Tensor) -> None:
    """Nothing, unless a network among the parts has a loss that is not finite.

    Raises:
        ValueError: if one has, naming the first batch.
    """
    for part, place in _located(objective, z):
        if not hasattr(part, "judge"):
            continue
        for number, term in enumerate(part.terms()):
            with torch.inference_mode(False), torch.no_grad():
                found = float(term(place))
            if not abs(found) < float("inf"):
                raise ValueError(
                    f"the loss is {found} on batch {number}, at a point whose numbers are finite: "
                    "look at that batch (no label, a mask over everything, a number that is not "
                    "finite, a logarithm of 0), or let the loss return (sum, weight)"
                )


def _stochastic_modules(objective: Any) -> Iterator[str]:
    for part in leaves(objective):
        yield from getattr(part, "stochastic_modules", lambda: ())()


def _differentiate(term: Term, points: Tensor) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False), torch.enable_grad():
        leaf = ordinary(points).requires_grad_()
        values = term(leaf)
        if not values.requires_grad:
            return values, torch.zeros_like(leaf)
        (grad,) = torch.autograd.grad(values, leaf, torch.ones_like(values), materialize_grads=True)
    return values.detach(), grad


def _check(objective: Objective, z: Tensor) -> None:
    if z.ndim < 1 or z.shape[-1] != objective.dim:
        raise ValueError(
            f"points of length {objective.dim} are needed (the last axis), got shape "
            f"{tuple(z.shape)}"
        )
    if not z.is_floating_point():
        raise ValueError(f"points must be floating point, got {z.dtype}")


def _rows(objective: Objective, z: Tensor) -> Tensor:
    _check(objective, z)
    return z.detach() if z.ndim == 2 else z.detach().reshape(-1, objective.dim)


def _pieces(objective: Objective, rows: Tensor, chunk: int | None) -> tuple[Tensor, ...]:
    chunk = getattr(objective, "chunk", None) if chunk is None else chunk
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    return rows.split(chunk) if chunk is not None and chunk < len(rows) else (rows,)


def _some(total: Tensor | None, objective: Objective) -> Tensor:
    if total is None:
        raise ValueError(f"{type(objective).__name__} has no terms: is its data empty?")
    return total
