"""The density of the Hessian's eigenvalues, with what is proved and what is a matter of probes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.curvature import Derivatives, Hessian, arithmetic, differentiated
from landscape.imports import betainc, eigh_tridiagonal
from landscape.objective import Objective, check_deterministic, judged, normalisation_of
from landscape.operators.blocks import Operator, graph_of, matrix, name_of
from landscape.operators.selection import Where, describe
from landscape.randomness import derive
from landscape.results import Density, provenance

_CONFIDENCE = 0.95
# A node is an eigenvalue of its own if its residual is this small beside its gap.
_APART = 0.1
_BLOCK_BYTES = 2**26
# Bisections of a share, which leave 1e-9 of it.
_HALVINGS = 30


class Quadrature(NamedTuple):
    """Gauss quadrature of the spectral measure of each probe: nodes, weights, residuals (n, m)."""

    nodes: np.ndarray
    weights: np.ndarray
    residuals: np.ndarray


Elsewhere = Callable[[int, int, Iterable[list[int]]], Iterator[tuple[Quadrature, int]]]


def density(
    objective: Objective,
    z: Float[Tensor, " p"],
    *,
    steps: int = 100,
    probes: int = 10,
    points: int = 400,
    width: float | None = None,
    unit: float | None = None,
    memory: int = 2**32,
    where: Where | None = None,
    operator: Operator = Hessian,
    derivatives: Derivatives | None = None,
    generator: torch.Generator | None = None,
    elsewhere: Elsewhere | None = None,
) -> Density:
    r"""The spectral density of the Hessian and its distribution function, with bands.

    Or of another curvature matrix, or of its block for a layer.

    Stochastic Lanczos quadrature (Ubaru, Chen and Saad 2017): for a random unit vector v, m steps
    of Lanczos with full reorthogonalisation give the nodes :math:`\theta_j` and weights
    :math:`\omega_j` of a Gauss rule for the measure :math:`\mu_v = \sum_i (v^\top q_i)^2
    \delta_{\lambda_i}`, whose mean over v is :math:`\frac1p \sum_i \delta_{\lambda_i}`.

    ``density`` smooths the rules with a Gaussian kernel. Its width is constant in the coordinate
    :math:`\operatorname{asinh}(\lambda / \text{unit})`, which is linear in the bulk and logarithmic
    beyond, so that both the bulk and eigenvalues far from it are resolved. Its band is a 95 %
    interval of what random directions see, see `interval`: it says how far other probes would
    differ, not how far smoothing has blurred, nor what the quadrature leaves out where its nodes
    lie further apart than the kernel is wide.

    ``distribution`` is the share of eigenvalues up to a value. Its ends take in both errors: for
    every probe :math:`\sum_{j<k} \omega_j \le \mu_v((-\infty, \theta_k))` and
    :math:`\mu_v((-\infty, \theta_k]) \le \sum_{j\le k} \omega_j` hold for certain
    (Chebyshev-Markov-Stieltjes; apart from rounding, for which values are moved by
    16 eps times the largest node), and a random unit vector sees k of p eigenvalues with a weight
    that follows Beta(k/2, (p - k)/2), whatever the matrix. The ends are the shares that a two-sided
    test at 5 % does not reject by the means of these bounds over probes, see `interval`.

    Args:
        objective: what is differentiated twice; without random modules.
        z: (p,), the point. One of 16 bits is taken in float32.
        steps: of Lanczos, one product each; at most p are taken.
        probes: random vectors. The bands hold for one too.
        points: where the functions are given.
        width: of the kernel, in the coordinate above; a hundredth of its range where None.
        unit: eigenvalue up to which the coordinate is about linear; where None the largest node by
            magnitude divided by the steps, since nodes in the bulk lie about so far apart; 0 for a
            linear coordinate.
        memory: bytes that the Lanczos bases may take.
        where: restricts the matrix to a layer, a module or other coordinates, as in
            `landscape.operators.selection.selected`.
        operator: makes the matrix from (objective, z), for instance
            `landscape.operators.GaussNewton`.
        derivatives: ``"exact"`` or ``"differences"`` (of gradients), for the Hessian; what the
            objective says where None. The error of differences is not part of the bands.
        generator: source of the probes; seed 0 where None.
        elsewhere: gives for steps, a seed and blocks of numbers of probes what `rules` gives for
            each block, in their order; other processes may do that.

    Returns:
        ``nodes`` and ``weights`` (probes, steps), ``eigenvalue``, ``density`` and
        ``distribution`` (points,) with their bands, and ``outliers``, eigenvalues found on
        their own at the ends.

    Raises:
        ValueError: if a number is out of range, or ``memory`` holds fewer than ``steps`` vectors.
        RuntimeError: if the objective is random.
    """
    for name, number, least in (("steps", steps, 1), ("probes", probes, 1), ("points", points, 2)):
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}")
    for name, size in (("width", width), ("unit", unit)):
        if size is not None and not (size > 0 or (name == "unit" and size == 0)):
            raise ValueError(f"{name} must be positive, got {size}")
    z, kind = arithmetic(z)
    check_deterministic(objective, z)
    whole = matrix(objective, z, differentiated(operator, derivatives), where)
    steps = min(steps, whole.dim)
    one = steps * whole.dim * z.element_size()
    if one > memory:
        raise ValueError(
            f"{steps} steps need {one} bytes for a basis of {whole.dim}-vectors, and memory is "
            f"{memory}: take fewer steps or allow more"
        )
    generator = generator or torch.Generator(device="cpu").manual_seed(0)
    together = max(1, min(probes, min(memory, _BLOCK_BYTES) // one))
    draws = [block.tolist() for block in torch.arange(probes, device="cpu").split(together)]
    seed = generator.initial_seed()
    if elsewhere is None or len(draws) < 2:
        found = [rules(whole, steps, seed, block, generator.device) for block in draws]
    else:
        found = list(elsewhere(steps, seed, draws))
    parts, products = [part for part, _ in found], sum(cost for _, cost in found)
    rule = Quadrature(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    eps = torch.finfo(z.dtype).eps
    described = _described(rule, whole, products, points, width, unit, eps)
    return replace(
        described,
        where=describe(where),
        statistics=normalisation_of(objective),
        provenance=described.provenance | {"arithmetic": kind, "judged": judged(objective, z)},
    )


def _described(
    rule: Quadrature,
    operator: Any,
    products: int,
    points: int,
    width: float | None,
    unit: float | None,
    eps: float,
) -> Density:
    finite, probes = bool(np.isfinite(rule.nodes).all()), len(rule.nodes)
    largest = float(np.abs(rule.nodes).max()) if finite else 1.0
    unit = largest / rule.nodes.shape[1] if unit is None else unit
    low, high = (float(rule.nodes.min()), float(rule.nodes.max())) if finite else (0.0, 1.0)
    ends = _coordinate(np.array([low, high]), unit)
    margin = 0.05 * (ends[1] - ends[0]) or max(1e-3 * abs(ends[0]), 1e-3)
    width = (ends[1] - ends[0] + 2 * margin) / 100 if width is None else width
    place = np.linspace(ends[0] - margin, ends[1] + margin, points)
    eigenvalue = unit * np.sinh(place) if unit else place
    stretch = np.hypot(eigenvalue, unit) if unit else np.ones_like(place)
    below, between, above = _distributions(rule, eigenvalue, 16 * eps * largest)
    mean, low_end, high_end = (
        end / stretch for end in _band(*_smoothed(rule, place, width, unit), probes, operator.dim)
    )
    bottom, _ = interval(below.mean(0), probes, operator.dim)
    _, top = interval(above.mean(0), probes, operator.dim)
    outliers = _outliers(rule, operator.dim) if finite else np.empty((4, 0))
    status = "finite" if finite else "not finite: the matrix has NaN or infinite entries here"
    return Density(
        nodes=rule.nodes,
        weights=rule.weights,
        eigenvalue=eigenvalue,
        density=mean,
        density_low=low_end,
        density_high=high_end,
        distribution=between.mean(0),
        distribution_low=bottom,
        distribution_high=top,
        outliers=outliers[0],
        outlier_bounds=outliers[1],
        outlier_count=outliers[2],
        outlier_count_error=outliers[3],
        width=float(width),
        unit=float(unit),
        steps=rule.nodes.shape[1],
        probes=probes,
        products=products,
        dim=operator.dim,
        operator=name_of(operator),
        status=status,
        provenance=provenance(**graph_of(operator)),
    )


def rules(
    operator: Any,
    steps: int,
    seed: int,
    numbers: list[int],
    device: torch.device | str = "cpu",
) -> tuple[Quadrature, int]:
    """The Gauss rules of the probes with these numbers, and how many products they took.

    Args:
        operator: the matrix, as `landscape.trace.matrix_at` makes it.
        steps: of Lanczos.
        seed: of all probes.
        numbers: of these.
        device: where probes are drawn.
    """
    before = operator.products
    generator = torch.Generator(device=device).manual_seed(seed)
    found = _quadrature(operator, steps, generator, numbers)
    return found, operator.products - before


def _quadrature(
    operator: Any, steps: int, generator: torch.Generator, numbers: list[int]
) -> Quadrature:
    """The Gauss rules of the probes with these numbers, which advance together.

    Where a Krylov space closes early, the recurrence goes on from a fresh vector with a zero beside
    the diagonal: what comes after has weight zero, so the rule is exact and keeps its length.
    """
    like, dim = operator.point, operator.dim
    streams = [derive(generator, "probe", number) for number in numbers]
    basis = like.new_zeros((len(numbers), steps, dim))
    diagonal = np.zeros((len(numbers), steps))
    off = np.zeros((len(numbers), steps))
    vector = torch.stack([_unit(like, basis[i, :0], s) for i, s in enumerate(streams)])
    for step in range(steps):
        basis[:, step] = vector
        image = operator @ vector
        known = basis[:, : step + 1]
        for _ in range(2):
            parts = torch.bmm(known, image.unsqueeze(2))
            image = image - torch.bmm(parts.mT, known).squeeze(1)
            diagonal[:, step] += parts[:, -1, 0].double().cpu().numpy()
        beta = torch.linalg.vector_norm(image.double(), dim=1).cpu().numpy()
        if not np.isfinite(diagonal[:, step] + beta).all():
            lost = np.full((len(numbers), steps), np.nan)
            return Quadrature(lost, lost, lost)
        scale = np.maximum(np.abs(diagonal[:, : step + 1]).max(1), np.abs(off).max(1))
        closed = beta <= 8 * torch.finfo(like.dtype).eps * np.maximum(scale, beta)
        off[:, step] = np.where(closed, 0.0, beta)
        if step + 1 == steps:
            break
        safe = torch.as_tensor(np.where(beta > 0, beta, 1.0), device=like.device)
        vector = image / safe.to(like.dtype).unsqueeze(1)
        for row in np.flatnonzero(closed):
            vector[row] = _unit(like, known[row], streams[row])
    slack = 8 * torch.finfo(like.dtype).eps
    rules = [_rule(a, b, slack) for a, b in zip(diagonal, off, strict=True)]
    return Quadrature(*map(np.stack, zip(*rules, strict=True)))


def _rule(
    diagonal: np.ndarray, off: np.ndarray, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes, weights and residuals; nodes closer than rounding give their weight to one of them.

    Rounding lets a tied eigenvalue appear twice, with its weight split at random.
    """
    nodes, columns = eigh_tridiagonal(diagonal, off[:-1])
    weights = columns[0] ** 2
    slack, first = eps * np.abs(nodes).max(), nodes[0]
    for j in range(1, len(nodes)):
        if nodes[j] - first <= slack:
            weights[j], weights[j - 1] = weights[j] + weights[j - 1], 0.0
        else:
            first = nodes[j]
    return nodes, weights, np.maximum(np.abs(off[-1] * columns[-1]), slack)


def _unit(like: Tensor, basis: Tensor, generator: torch.Generator) -> Tensor:
    """A random direction in the orthogonal complement of the basis, uniform there."""
    vector = torch.randn(
        like.numel(), generator=generator, dtype=torch.float64, device=generator.device
    ).to(like)
    for _ in range(2):
        vector = vector - (basis @ vector) @ basis
        vector = vector / torch.linalg.vector_norm(vector)
    return vector


def _coordinate(eigenvalue: np.ndarray, unit: float) -> np.ndarray:
    return np.arcsinh(eigenvalue / unit) if unit else eigenvalue


def _smoothed(
    rule: Quadrature, place: np.ndarray, width: float, unit: float
) -> tuple[np.ndarray, np.ndarray]:
    """Means over probes of the kernel estimate in the coordinate, and of its squared kernel's."""
    once, twice = np.zeros(len(place)), np.zeros(len(place))
    for nodes, weights in zip(rule.nodes, rule.weights, strict=True):
        distance = (place[:, None] - _coordinate(nodes, unit)) / width
        kernel = np.exp(-0.5 * distance**2) / (width * np.sqrt(2 * np.pi))
        once += kernel @ weights / len(rule.nodes)
        twice += kernel**2 @ weights / len(rule.nodes)
    return once, twice


def _band(
    mean: np.ndarray, square: np.ndarray, probes: int, dim: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean of a kernel estimate with its ends, from the means of kernel and squared kernel.

    A sum of weights times kernel heights varies as the weight of so many eigenvalues of one height
    does, the quotient of the two. For an eigenvalue alone that is its own height, exactly.
    """
    # The squared kernel underflows first; what is left there is nothing to be seen.
    height = np.divide(square, mean, out=np.where(mean > 0, mean, 1.0), where=square > 0)
    low, high = interval(mean / height, probes, dim)
    return mean, low * height, high * height


def _distributions(
    rule: Quadrature, eigenvalue: np.ndarray, slack: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower bound, quadrature and upper bound of each probe's distribution function."""
    below, between, above = [], [], []
    for nodes, weights in zip(rule.nodes, rule.weights, strict=True):
        sums = np.concatenate([[0.0], np.cumsum(weights)])
        # The largest node up to x has only those before it for certain below x ...
        before = np.searchsorted(nodes, eigenvalue - slack, side="right") - 1
        below.append(sums[np.maximum(before, 0)])
        between.append(sums[np.searchsorted(nodes, eigenvalue, side="right")])
        # ... and the smallest node from x on may be wholly below it.
        after = np.searchsorted(nodes, eigenvalue + slack, side="left")
        # A node that gave its weight to a later one is there with that.
        filled = np.flatnonzero(weights)
        whole = np.append(filled + 1, len(nodes))
        above.append(sums[whole[np.searchsorted(filled, after)]])
    return np.stack(below), np.stack(between), np.stack(above)


def interval(
    mean: Float[np.ndarray, " n"], probes: int, dim: int
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    r"""The ends of a 95 % interval of the share of eigenvalues that has this mean weight.

    For a random unit vector the weight of k of p eigenvalues,
    :math:`\sum_{i \le k} (v^\top q_i)^2`, follows Beta(k/2, (p - k)/2) for every matrix, as a ratio
    of sums of squared normals. The mean over n of them is taken for the Beta variable of the same
    mean :math:`\kappa = k/p` and variance
    :math:`\kappa (1 - \kappa) / (n (p/2 + 1))`: exact for one probe, and for many coordinates both
    where k is 1, :math:`\chi^2_n`, and where it is large. The ends are the :math:`\kappa` at which
    the mean lies on the 97.5 % and on the 2.5 % quantile.

    Args:
        mean: (n,), weights between 0 and 1; NaN gives NaN.
        probes: that they are means of, at least 1.
        dim: p, the number of eigenvalues.
    """
    tail = (1 - _CONFIDENCE) / 2
    low, high = (_share_at(mean, probes, dim, quantile) for quantile in (1 - tail, tail))
    # Less weight than one eigenvalue is likely to have must not put the mean outside.
    return np.minimum(low, mean), np.maximum(high, mean)


def _share_at(mean: np.ndarray, probes: int, dim: int, quantile: float) -> np.ndarray:
    """The share of eigenvalues at which the mean weight lies on this quantile, by bisection."""
    weight, back = np.unique(np.clip(mean, 0.0, 1.0), return_inverse=True)
    total = probes * (dim / 2 + 1) - 1
    low, high = np.zeros_like(weight), np.ones_like(weight)
    for _ in range(_HALVINGS):
        share = (low + high) / 2
        # The more eigenvalues there are, the less likely is a weight as small as this.
        more = betainc(total * share, total * (1 - share), weight) > quantile
        low, high = np.where(more, share, low), np.where(more, high, share)
    certain = np.isnan(weight) | ((weight <= 0) if quantile > 0.5 else (weight >= 1))
    return np.where(certain, weight, (low + high) / 2)[back]


def _outliers(rule: Quadrature, dim: int) -> np.ndarray:
    """Eigenvalues that every probe finds apart from all others: value, bound, count, its error.

    From either end inwards, as long as the node's residual is small beside its gap in each probe
    and the probes agree within their residuals.
    """
    found = [*_end(rule, dim, 1), *_end(rule, dim, -1)]
    return np.array(sorted(found, key=lambda row: -row[0])).reshape(-1, 4).T


def _end(rule: Quadrature, dim: int, step: int) -> list[tuple[float, float, float, float]]:
    found: list[tuple[float, float, float, float]] = []
    nodes, weights, residuals = (part[:, ::step] for part in rule)
    seen = weights > 1e-12 / dim
    rows = []
    for i in range(len(nodes)):
        rows.append(tuple(part[i][seen[i]] for part in (nodes, weights, residuals)))
    depth = min(len(row[0]) for row in rows)
    for j in range(depth // 2):
        values = np.array([row[0][j] for row in rows])
        errors = np.array([row[2][j] for row in rows])
        gaps = np.array([abs(row[0][j + 1] - row[0][j]) for row in rows])
        apart = (errors <= _APART * gaps).all()
        if not apart or np.ptp(values) > 2 * errors.max() + 1e-4 * np.abs(nodes).max():
            break
        share = np.array([row[1][j] for row in rows]) * dim
        error = share.std(ddof=1) / np.sqrt(len(share)) if len(share) > 1 else np.nan
        best = int(errors.argmin())
        found.append((values[best], errors[best], share.mean(), error))
    return found
