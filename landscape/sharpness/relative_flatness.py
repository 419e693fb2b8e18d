"""Relative flatness of layers: curvature measured in units of the layer's own neurons."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.curvature import Hessian
from landscape.networks import Entry
from landscape.objective import Objective, check_deterministic, offered, widened
from landscape.rounding import in_float64

_BLOCK = 64


class RelativeFlatness(NamedTuple):
    """Relative flatness by layer.

    ``standard_error`` is 0 where the sum is exact; ``products`` are Hessian-vector products, shared
    by all layers where the sum is estimated. ``rounding`` says why an exact sum is not in float64.
    """

    layers: tuple[str, ...]
    value: np.ndarray
    standard_error: np.ndarray
    products: int
    exact: bool
    rounding: str = ""


class _Layer(NamedTuple):
    """A layer's tensor, and R (neurons, r) with R R^T = W W^T, inputs m."""

    entry: Entry
    root: Tensor
    inputs: int


def relative_flatness(
    objective: Objective,
    z: Float[Tensor, " p"],
    generator: torch.Generator,
    *,
    layers: Sequence[str] = (),
    probes: int = 100,
    budget: int = 512,
) -> RelativeFlatness:
    r"""Relative flatness of layers: curvature in units of the layer's own weights.

    :math:`\kappa = \sum_{s,s'} \langle w_s, w_{s'} \rangle \operatorname{tr} H_{s,s'}`, where
    :math:`w_s` is the row of the layer's weight that leads to neuron s, and :math:`H_{s,s'}` the
    block of the Hessian at rows s and s'. The sum equals the mean curvature
    :math:`E_A \langle WA, H\,WA \rangle` over random matrices A of independent entries with mean 0
    and variance 1. It is summed exactly from ``inputs * min(neurons, inputs)`` products for each
    layer where these together keep within ``budget``, in float64 where that can be. Otherwise it is
    estimated from Rademacher matrices; one product then serves all layers, since the curvature
    between two layers has mean 0.

    Invariant under permutations of neurons, under positive rescaling of whole layers of a ReLU
    network, and under any invertible map of the layer's outputs that the next layer undoes. Not so
    under a map of its inputs that is not orthogonal up to a factor: the value projection of
    attention is invariant under a change of basis, the output projection after it is not.

    Args:
        objective: a network's, with a layout; without random modules.
        z: (p,), the point.
        generator: source of the random matrices.
        layers: names of weights. For a convolution a neuron is a filter, which is a convention of
            ours. Every weight of a linear layer where empty.
        probes: random matrices, at least 2.
        budget: products that the exact sum may take; 0 for an estimate in any case.

    Raises:
        ValueError: if the objective has no layout, a layer does not exist or has no neurons, or a
            number is out of range.
        RuntimeError: if the objective is random.

    Reference: Petzka, Kamp, Adilova, Sminchisescu & Boley (2021), Relative Flatness and
    Generalization, NeurIPS.
    """
    if probes < 2 or budget < 0:
        raise ValueError(
            f"probes must be at least 2 and budget at least 0, got {probes} and {budget}"
        )
    chosen = [_rooted(entry, z) for entry in _weights(objective, layers)]
    check_deterministic(objective, z)
    names = tuple(layer.entry.name for layer in chosen)
    wanted = sum(layer.root.shape[1] * layer.inputs for layer in chosen)
    if wanted <= budget:

        def summed(point: Tensor) -> tuple[np.ndarray, int]:
            operator = Hessian(objective, point)
            rooted = [_rooted(layer.entry, point) for layer in chosen]
            return np.array([_summed(operator, layer) for layer in rooted]), operator.products

        (value, products), words = in_float64(summed, z)
        return RelativeFlatness(names, value, np.zeros(len(chosen)), products, True, words)
    operator = Hessian(objective, z)
    drawn = _drawn(operator, chosen, probes, generator)
    error = drawn.std(0, ddof=1) / probes**0.5
    return RelativeFlatness(names, drawn.mean(0), error, operator.products, False)


def _weights(objective: Objective, names: Sequence[str]) -> list[Entry]:
    layout = offered(objective, "layout")
    if layout is None:
        raise ValueError("the objective has no layers, so no neurons")
    known = {entry.name: entry for entry in layout.entries}
    if not names:
        found = [entry for entry in layout.entries if entry.role == "linear"]
        if not found:
            raise ValueError("the model has no linear layer; name the weights of other layers")
        return found
    for name in names:
        if name not in known or known[name].filter_axis != 0:
            able = [entry.name for entry in layout.entries if entry.filter_axis == 0]
            raise ValueError(f"layers must be among {able}, got {name!r}")
    return [known[name] for name in names]


def _rooted(entry: Entry, z: Tensor) -> _Layer:
    weight = z[entry.span].reshape(entry.shape[0], -1)
    neurons, inputs = weight.shape
    if inputs <= neurons:
        return _Layer(entry, weight, inputs)
    values, vectors = torch.linalg.eigh(widened(weight @ weight.T))
    return _Layer(entry, (vectors * values.clamp_min(0).sqrt()).to(z), inputs)


def _summed(operator: Hessian, layer: _Layer) -> float:
    """The sum over all products of a column of the root and a unit vector of the inputs."""
    total = 0.0
    for matrices in _unit_matrices(layer):
        u = matrices.new_zeros((len(matrices), operator.dim))
        u[:, layer.entry.span] = matrices
        total += float((widened(u) * widened(operator @ u)).sum())
    return total


def _unit_matrices(layer: _Layer) -> Iterator[Tensor]:
    """Blocks (k, neurons * inputs) of r e_i^T over the columns r of the root."""
    root, inputs = layer.root, layer.inputs
    places = torch.arange(root.shape[1] * inputs, device=root.device)
    for block in places.split(_BLOCK):
        matrices = root.new_zeros((len(block), len(root), inputs))
        rows = torch.arange(len(block), device=root.device)
        matrices[rows, :, block % inputs] = root.T[block // inputs]
        yield matrices.flatten(1)


def _drawn(
    operator: Hessian, layers: list[_Layer], probes: int, generator: torch.Generator
) -> np.ndarray:
    """(probes, layers): the curvature along W A within each layer, from one product a probe."""
    rows = []
    for _ in range(probes):
        u = torch.zeros_like(operator.point)
        for layer in layers:
            shape = (layer.root.shape[1], layer.inputs)
            signs = torch.randint(0, 2, shape, generator=generator, device=generator.device)
            u[layer.entry.span] = (layer.root @ (2 * signs - 1).to(u)).flatten()
        image = widened(operator @ u) * widened(u)
        rows.append([float(image[layer.entry.span].sum()) for layer in layers])
    return np.array(rows)
