"""Values, gradients and products of any objective; derivatives commute with finite sums."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.backends import cuda as backends

from landscape.objective.protocol import Objective, Term, leaves, offered, trait

with warnings.catch_warnings():
    # Torch imports it at the first gradient, and it leaves filters of warnings behind.
    import_module("sympy")

# Kinds of attention: whether one is allowed, what allows it, and whether it has two derivatives.
_ATTENTION = (
    (backends.math_sdp_enabled, backends.enable_math_sdp, True),
    (backends.flash_sdp_enabled, backends.enable_flash_sdp, False),
    (backends.mem_efficient_sdp_enabled, backends.enable_mem_efficient_sdp, False),
    (backends.cudnn_sdp_enabled, backends.enable_cudnn_sdp, False),
)


def value(
    objective: Objective, z: Float[Tensor, "*batch p"], *, chunk: int | None = None
) -> Float[Tensor, "*batch"]:
    """The objective at every point of ``z``.

    Args:
        objective: what is evaluated.
        z: points; the last axis is parameters.
        chunk: number of points evaluated together, which bounds memory; the objective's own
            choice where None.

    Returns:
        one number for each point: the shape of z without its last axis.

    Raises:
        ValueError: if the points do not have the objective's length, or are not floating point.
    """
    rows = _rows(objective, z)
    if len(rows) == 0:
        return rows.new_zeros(z.shape[:-1])
    # A term may keep tensors for later, which would be useless if made in inference mode.
    with torch.inference_mode(False), torch.no_grad():
        if (own := offered(objective, "value")) is not None:
            pieces = tuple(own(piece) for piece in _pieces(objective, rows, chunk))
            return _joined(pieces).reshape(z.shape[:-1])
        total = None
        for part in values_by_term(objective, rows, chunk):
            total = part if total is None else total + part
    return _some(total, objective).reshape(z.shape[:-1])


def values_by_term(
    objective: Objective, rows: Float[Tensor, "n p"], chunk: int | None = None
) -> Iterator[Float[Tensor, " n"]]:
    """The values of one term after the other."""
    for term in batched_terms(objective):
        with torch.inference_mode(False), torch.no_grad():
            part = torch.cat([term(piece) for piece in _pieces(objective, rows, chunk)])
        yield part


def value_and_grad(
    objective: Objective, z: Float[Tensor, "*batch p"], *, chunk: int | None = None
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch p"]]:
    """The objective and its gradient at every point of ``z``.

    Arguments and errors as in `value`.

    Returns:
        values, the shape of z without its last axis, and gradients, the shape of z.
    """
    rows = _rows(objective, z)
    if len(rows) == 0:
        return rows.new_zeros(z.shape[:-1]), torch.zeros_like(z)
    own = offered(objective, "value_and_grad")
    if own is not None:
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):
                return value_and_grad(objective, z, chunk=chunk)
        parts = [own(piece) for piece in _pieces(objective, rows, chunk)]
        values, grads = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))
        if z.ndim == 2:
            return values.detach(), grads.detach()
        return values.detach().reshape(z.shape[:-1]), grads.detach().reshape(z.shape)
    total: Any = None
    gradient: Any = None
    for values, grads in slopes_by_term(objective, rows, chunk):
        first = total is None
        total, gradient = (values, grads) if first else (total + values, gradient + grads)
    values = _some(total, objective)
    return values.reshape(z.shape[:-1]), gradient.reshape(z.shape)


def slopes_by_term(
    objective: Objective, rows: Float[Tensor, "n p"], chunk: int | None = None
) -> Iterator[tuple[Float[Tensor, " n"], Float[Tensor, "n p"]]]:
    """The values and the gradients of one term after the other."""
    for term in batched_terms(objective):
        pieces = _pieces(objective, rows, chunk)
        if len(pieces) == 1:
            yield differentiated(term, pieces[0])
            continue
        values, grads, start = [], torch.empty_like(rows), 0
        for piece in pieces:
            own, grads[start : start + len(piece)] = differentiated(term, piece)
            values.append(own)
            start += len(piece)
        yield torch.cat(values), grads


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

    Returns:
        products in the broadcast shape of z and u.
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
    chunk = offered(objective, "product_chunk") if chunk is None else chunk
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
    own = offered(objective, "batched_terms")
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


class second_order:
    """Kernels that can be differentiated twice: the fused attention kernels cannot.

    Nor can cuDNN's recurrent layers, which are off where ``objective`` or a part of it says that it
    is ``recurrent``. Products in float32 are in float32 on CUDA too, not in TF32. All settings are
    restored.

    Args:
        objective: what will be differentiated.

    Raises:
        ValueError: if it is computed in a narrower type than that of its points, or compiled.
    """

    def __init__(self, objective: Any = None):
        if (narrow := trait(objective, "autocast")) is not None:
            raise ValueError(
                f"products with the Hessian are not taken in {narrow}, in which their rounding is "
                "as large as they are: use precision float32"
            )
        if trait(objective, "once"):
            raise ValueError(
                "products with the Hessian are not taken of a compiled network, whose graphs have "
                "no second derivative: use the risk that it was made from"
            )
        self._objective = objective

    def __enter__(self) -> None:
        self._stack = ExitStack()
        # What is as it should be is left alone: a product of a small network is no longer than
        # entering a few contexts.
        for allowed, allow, wanted in _ATTENTION:
            if allowed() != wanted:
                self._stack.callback(allow, not wanted)
                allow(wanted)
        if torch.is_inference_mode_enabled():
            self._stack.enter_context(torch.inference_mode(False))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                self._stack.enter_context(torch.autocast(kind, enabled=False))
        # Before anything runs on CUDA these settings concern nothing.
        if torch.cuda.is_initialized():
            for place, name, value in _precise_kernels(_recurrent(self._objective)):
                self._stack.callback(setattr, place, name, getattr(place, name))
                setattr(place, name, value)

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


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
    return any(offered(part, "recurrent") for part in leaves(objective))


def differentiated(term: Term, points: Tensor) -> tuple[Tensor, Tensor]:
    """The values of a batched term and their gradients, by its own ``slopes`` if it has some."""
    if (own := getattr(term, "slopes", None)) is not None:
        with torch.inference_mode(False), torch.no_grad():
            found = own(ordinary(points))
        if found is not None:
            return found
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
    chunk = offered(objective, "chunk") if chunk is None else chunk
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    return rows.split(chunk) if chunk is not None and chunk < len(rows) else (rows,)


def _joined(pieces: tuple[Tensor, ...]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _some(total: Tensor | None, objective: Objective) -> Tensor:
    if total is None:
        raise ValueError(f"{type(objective).__name__} has no terms: is its data empty?")
    return total
