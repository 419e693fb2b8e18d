"""The diagonal of the Gauss-Newton matrix without noise, sample by sample and output by output."""

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from landscape.networks import Batch, EmpiricalRisk
from landscape.networks import batches as data_batches
from landscape.objective import second_order, widened
from landscape.operators.outputs import (
    Bend,
    Outputs,
    check_by_sample,
    fresh_leaf,
    loss_hessian,
    outputs_at,
)

_BYTES = 2**24


class Directions(NamedTuple):
    """The loss Hessian of each sample as signed squares: sum_k signs[n, k] r r', r = rows[n, k]."""

    rows: Tensor
    signs: Tensor


def gauss_newton_diagonal(risk: EmpiricalRisk, z: Tensor) -> tuple[Tensor, int]:
    r"""The diagonal (p,) in float64 on the CPU, and how many backward passes it took.

    With the loss Hessian of sample n as :math:`\sum_k s_{nk} r_{nk} r_{nk}^\top`, the diagonal is
    :math:`\sum_{n,k} s_{nk} (J_n^\top r_{nk})^2`: one backward pass for each sample and each
    direction in which the loss bends, at most as many as there are outputs (one less for softmax).
    The signs are all positive where the loss is convex in the outputs. Samples go together by vmap
    where the risk evaluates points so, else one by one.

    Raises:
        ValueError: if the samples of a batch do not stand apart, in the network or in the loss.
    """
    total = torch.zeros(risk.dim, dtype=torch.float64, device="cpu")
    passes = 0
    with second_order():
        for batch, share in risk.weighed():
            if share == 0.0:
                continue
            with torch.enable_grad():
                outputs = outputs_at(risk, fresh_leaf(z), batch, share)
                if not outputs.tensors:
                    continue
                check_by_sample(outputs, batch.samples, "the exact trace")
                if not data_batches.rowwise(batch):
                    raise ValueError(
                        "the exact trace needs a batch whose tensors count the samples along their "
                        "first axis; these cannot be taken one by one"
                    )
                directions = _directions(outputs, loss_hessian(risk, outputs))
            flat = _flat(outputs.tensors).detach()
            for squares in _squares(risk, z, batch, flat, directions):
                total += squares
            passes += directions.signs.numel()
    return total, passes


def _directions(outputs: Outputs, bend: Bend) -> Directions:
    """The loss Hessian of every sample by its eigenvectors, those without curvature left out.

    Raises:
        ValueError: if the loss mixes samples.
    """
    shapes = [t.shape for t in outputs.tensors]
    flat = _flat(outputs.tensors).detach()
    count, width = flat.shape

    def product(v: Tensor) -> Tensor:
        pieces = v.split([shape[1:].numel() for shape in shapes], dim=1)
        return _flat(bend([p.reshape(s) for p, s in zip(pieces, shapes, strict=True)])).detach()

    blocks = flat.new_empty((count, width, width))
    for place in range(width):
        unit = torch.zeros_like(flat)
        unit[:, place] = 1
        blocks[:, :, place] = product(unit)
    slant = torch.linspace(1, 2, width, dtype=flat.dtype, device=flat.device)
    turns = torch.ones_like(flat[:, :1])
    turns[::2] = -1
    alone, mixed = turns * (blocks @ slant), product(turns * slant)
    scale = float(blocks.abs().max())
    noise = torch.finfo(flat.dtype).eps
    if not bool(((alone - mixed).abs() <= noise**0.5 * width * scale).all()):
        raise ValueError(
            "the exact trace needs a loss that is a sum or mean over samples; this one mixes the "
            "samples of a batch, or is not finite"
        )
    values, vectors = torch.linalg.eigh((blocks + blocks.mT) / 2)
    kept = values.abs().amax(0) > width * noise * scale
    values, vectors = values[:, kept], vectors[:, :, kept]
    return Directions((vectors * values.abs().sqrt().unsqueeze(1)).mT, values.sign())


def _squares(
    risk: EmpiricalRisk, z: Tensor, batch: Batch, flat: Tensor, directions: Directions
) -> Iterator[Tensor]:
    """Sums over some samples at a time.

    Raises:
        ValueError: if the output of a sample depends on the others in its batch.
    """
    rows, signs = directions
    room = max(1, _BYTES // (z.element_size() * risk.dim * max(signs.shape[1], 1)))
    noise = torch.finfo(z.dtype).eps ** 0.5 * (1 + float(flat.abs().max()))
    for places in torch.arange(len(signs), device=z.device).split(room):
        given = risk, z, batch, places, Directions(rows[places], signs[places])
        again, squares = _tried_together(*given) or _one_by_one(*given)
        if not bool(((again - flat[places]).abs() <= noise).all()):
            raise ValueError(
                "the exact trace needs samples that go through the network independently of each "
                "other; here the output of a sample changes with the others in its batch"
            )
        yield squares


def _one_by_one(
    risk: EmpiricalRisk, z: Tensor, batch: Batch, places: Tensor, directions: Directions
) -> tuple[Tensor, Tensor]:
    """The outputs (n, d) of some samples, and their part of the diagonal."""
    total, found = torch.zeros(z.shape, dtype=torch.float64, device="cpu"), []
    for place, rows, signs in zip(places.split(1), *directions, strict=True):
        with torch.enable_grad():
            leaf = fresh_leaf(z)
            output = _flat(outputs_at(risk, leaf, data_batches.rows(batch, place)).tensors)
        found.append(output.detach())
        for row, sign in zip(rows, signs, strict=True):
            (back,) = torch.autograd.grad(
                output, leaf, row.unsqueeze(0), retain_graph=True, materialize_grads=True
            )
            total += widened(sign * back.square()).cpu()
    return torch.cat(found), total


def _together(
    risk: EmpiricalRisk, z: Tensor, batch: Batch, places: Tensor, directions: Directions
) -> tuple[Tensor, Tensor]:
    """The same by vmap. Gradients stay in pieces, since joining them would cost a copy."""
    samples = risk.prepared(batch, z.dtype)
    own = risk.layout.unflatten(z)

    def single(place: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        chosen = data_batches.rows(samples, place.unsqueeze(0))

        def output(tensors: dict[str, Tensor]) -> Tensor:
            with risk.given(z), risk.model.given(tensors):
                whole = risk.model(chosen.inputs)
            return torch.cat([t.reshape(-1) for t in data_batches.tensors_of(whole)])

        found, back = torch.func.vjp(output, own)
        return found, torch.func.vmap(back)(rows)[0]

    found, grads = torch.func.vmap(single)(places, directions.rows)
    factors = directions.signs.reshape(-1)
    sums = {name: factors @ g.flatten(0, 1).flatten(1).square_() for name, g in grads.items()}
    shaped = {entry.name: sums[entry.name].reshape(entry.shape) for entry in risk.layout.entries}
    return found, widened(risk.layout.flatten(shaped)).cpu()


def _tried_together(
    risk: EmpiricalRisk, z: Tensor, batch: Batch, places: Tensor, directions: Directions
) -> tuple[Tensor, Tensor] | None:
    """The same, or None where vmap cannot take the network or would not be faster."""
    if risk.evaluation in ("sequential", "grouped"):
        return None
    try:
        with warnings.catch_warnings():
            # An operation without a batching rule falls back to a loop, and warns of it.
            warnings.filterwarnings("error", message="There is a performance drop")
            return _together(risk, z, batch, places, directions)
    except (RuntimeError, TypeError, ValueError, UserWarning):
        return None


def _flat(tensors: list[Tensor]) -> Tensor:
    """(n, d): the entries of all outputs of each sample."""
    return torch.cat([t.flatten(1) if t.ndim > 1 else t.unsqueeze(1) for t in tensors], dim=1)
