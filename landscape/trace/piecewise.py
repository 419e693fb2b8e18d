"""Whether a network is linear along every single weight, piece by piece, and what follows from it.

Then the second derivative of every output along a coordinate is zero wherever it exists, and the
diagonal of the Hessian is that of the Gauss-Newton matrix, which can be had without noise.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from landscape.curvature import Hessian
from landscape.networks import EmpiricalRisk
from landscape.networks import batches as data_batches
from landscape.objective import Objective, second_order
from landscape.operators import GaussNewton
from landscape.operators.gauss_newton import gauss_newton_diagonal

_DENSE_DIM = 32
_CHECKS = 2
_FEW = 4  # samples on which a coordinate of every tensor is checked

# What only gives an activation or a parameter another shape or type.
_SAME = frozenset(
    """alias as_strided clone contiguous detach expand flatten lift_fresh narrow permute reshape
    select slice split split_with_sizes squeeze t to_copy transpose unbind unflatten unfold
    unsqueeze view unsafe_view view_as reshape_alias unsafe_split chunk movedim swapaxes
    expand_copy diagonal""".split()
)
# Linear in all that depends on parameters, or linear on each of finitely many pieces.
_LINEAR = frozenset(
    """add sub rsub neg sum mean cat stack copy constant_pad_nd pad reflection_pad1d
    reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d
    embedding index index_select gather index_put index_copy index_add scatter
    scatter_add roll flip tril triu cumsum masked_fill where im2col col2im avg_pool1d avg_pool2d
    avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d upsample_nearest1d
    upsample_nearest2d upsample_nearest3d upsample_bilinear2d upsample_linear1d
    upsample_trilinear3d upsample_bicubic2d pixel_shuffle pixel_unshuffle channel_shuffle
    repeat trace diag_embed slice_scatter select_scatter
    relu leaky_relu threshold clamp clamp_min clamp_max hardtanh hardsigmoid hardshrink softshrink
    abs maximum minimum fmax fmin max min amax amin max_pool1d max_pool2d max_pool3d
    max_pool2d_with_indices max_pool3d_with_indices max_pool2d_with_indices_copy
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d fractional_max_pool2d sort topk
    median kthvalue""".split()
)
# Products, with the arguments that are multiplied with each other.
_PRODUCTS = {
    "mul": ("self", "other"),
    "mm": ("self", "mat2"),
    "bmm": ("self", "mat2"),
    "mv": ("self", "vec"),
    "dot": ("self", "tensor"),
    "matmul": ("self", "other"),
    "addmm": ("mat1", "mat2"),
    "baddbmm": ("batch1", "batch2"),
    "addbmm": ("batch1", "batch2"),
    "addmv": ("mat", "vec"),
    "addcmul": ("tensor1", "tensor2"),
    "linear": ("input", "weight"),
    "convolution": ("input", "weight"),
    "convolution_overrideable": ("input", "weight"),
    "prelu_kernel": ("self", "weight"),
    "prelu": ("self", "weight"),
}
# Derivatives of these are zero wherever they exist.
_STEPS = frozenset(
    """gt lt ge le eq ne isnan isinf isfinite argmax argmin argsort sign zeros_like ones_like
    full_like empty_like rand_like new_zeros new_ones new_full new_empty new_empty_strided
    logical_not logical_and logical_or is_nonzero""".split()
)


class ExactDiagonal(NamedTuple):
    """The diagonal of the Hessian (p,) in float64, and what it cost."""

    diagonal: Tensor
    products: int
    passes: int


def exact_diagonal(objective: Objective, z: Tensor, generator: torch.Generator) -> ExactDiagonal:
    """The diagonal of the almost-everywhere Hessian, where the Gauss-Newton identity holds.

    All of this is checked: every operation of the network on every batch is a builtin of torch on
    the list of piecewise linear ones; every parameter takes part in one operation only; no two
    activations are multiplied; BatchNorm is frozen; samples do not mix; and for a random coordinate
    e of every tensor the products e'He and e'Ge agree in float64, for a few samples together and
    alone. Other objectives are exact where all entries can be taken one by one, up to p = 32.

    Args:
        objective: the loss of a network, or another objective with p at most 32.
        z: (p,), the point.
        generator: source of the coordinates that are checked.

    Raises:
        ValueError: if any of that does not hold; the message names the operation.
    """
    if not isinstance(objective, EmpiricalRisk):
        if objective.dim > _DENSE_DIM:
            raise ValueError(
                f"the exact trace needs the loss of a network (EmpiricalRisk), or at most "
                f"{_DENSE_DIM} parameters, got {type(objective).__name__} with {objective.dim}; "
                "use method='hutchinson'"
            )
        hessian = Hessian(objective, z)
        return ExactDiagonal(hessian.dense().diagonal().double().cpu(), hessian.products, 0)
    _check_piecewise_linear(objective, z)
    diagonal, passes = gauss_newton_diagonal(objective, z)
    products = _check_coordinates(objective, z, diagonal, generator)
    return ExactDiagonal(diagonal, products, passes)


def _check_piecewise_linear(risk: EmpiricalRisk, z: Tensor) -> None:
    """Nothing, if every output is piecewise linear along every single parameter.

    Raises:
        ValueError: if an operation is not on the list, two activations are multiplied, a parameter
            is used twice, or BatchNorm normalises with the statistics of the batch.
    """
    if risk.normalisation == "batch":
        raise ValueError(
            "the exact trace needs frozen BatchNorm statistics: with those of the batch, "
            "native_batch_norm divides activations by each other"
        )
    if risk.gate.custom:
        raise ValueError(
            f"the exact trace does not hold: {risk.gate.custom[0]} is a custom operation, whose "
            "derivatives are whatever it says; use method='hutchinson'"
        )
    own = risk.layout.unflatten(z.detach())
    tensors = {name: t.clone() for name, t in own.items()}
    for batch in risk.data:
        prepared = risk.prepared(batch, z.dtype)
        watch = _Watch(tensors)
        with second_order(), torch.no_grad(), risk.given(z), risk.model.given(tensors), watch:
            risk.model(prepared.inputs)


class _Watch(TorchDispatchMode):
    """Judges every operation while the network runs.

    A tensor is a constant, a parameter or an activation (it depends on parameters). That goes by
    storage, so that views and writing in place need nothing of their own.
    """

    def __init__(self, parameters: dict[str, Tensor]):
        super().__init__()
        self._names = {_storage(t): name for name, t in parameters.items()}
        self._active: set[int] = set()
        self._used: dict[str, str] = {}
        # A storage that is freed could come back as another one at the same place.
        self._held: list[Any] = [parameters]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        depends = [t for t in _tensors((args, kwargs)) if self._depends(t)]
        if depends:
            self._judge(func, args, kwargs, depends, result)
        self._held.append(result)
        return result

    def _judge(self, func: Any, args: Any, kwargs: Any, depends: list[Tensor], result: Any) -> None:
        given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        space, _, name = func._schema.name.rpartition("::")
        if space not in ("aten", "prims"):
            raise ValueError(_refusal(func._schema.name, "is no operation of torch itself"))
        name = name.strip("_")
        if name in _STEPS:
            return
        if name in _SAME:
            own = self._names.get(_storage(depends[0]))
            for tensor in _tensors(result):
                if own is None:
                    self._active.add(_storage(tensor))
                else:
                    self._names[_storage(tensor)] = own
            return
        self._use(name, depends)
        if "batch_norm" in name:
            self._check_norm(name, given)
        elif name in _PRODUCTS:
            self._check_product(name, [given.get(key) for key in _PRODUCTS[name]])
        elif name == "div":
            if self._depends(given.get("other")):
                raise ValueError(_refusal(name, "divides by an activation or a parameter"))
        elif name == "grid_sampler_2d":
            # Bilinear weights are products of the two coordinates of a place.
            if self._depends(given.get("grid")):
                raise ValueError(_refusal(name, "samples at places that depend on parameters"))
        elif name not in _LINEAR:
            raise ValueError(_refusal(name, "is not on the list of piecewise linear operations"))
        for tensor in _tensors(result):
            if tensor.is_floating_point():
                self._active.add(_storage(tensor))

    def _use(self, name: str, depends: list[Tensor]) -> None:
        """Notes which parameters take part in an operation.

        Raises:
            ValueError: if one has taken part in an operation before.
        """
        known = [self._names[_storage(t)] for t in depends if _storage(t) in self._names]
        for own in dict.fromkeys(known):
            if own in self._used:
                raise ValueError(_refusal(name, f"uses {own!r} again, after {self._used[own]}"))
            self._used[own] = name

    def _check_product(self, name: str, factors: list[Any]) -> None:
        """Nothing, if at most one factor is an activation.

        Raises:
            ValueError: if two are, or a parameter is multiplied with itself.
        """
        if sum(isinstance(f, Tensor) and _storage(f) in self._active for f in factors) > 1:
            raise ValueError(_refusal(name, "multiplies two activations"))
        known = [_storage(f) for f in factors if self._depends(f)]
        owners = [self._names[key] for key in known if key in self._names]
        if len(set(owners)) < len(owners):
            raise ValueError(_refusal(name, f"multiplies {owners[0]!r} with itself"))

    def _check_norm(self, name: str, given: dict[str, Any]) -> None:
        """Nothing, if a normalisation uses given statistics.

        Raises:
            ValueError: if they depend on the activations or on parameters.
        """
        statistics = [given.get("running_mean"), given.get("running_var")]
        batch = given.get("training", "no_training" not in name and "no_stats" in name)
        if batch or None in [s if s is None else 0 for s in statistics]:
            raise ValueError(_refusal(name, "normalises with the statistics of the batch"))
        if any(self._depends(s) for s in statistics):
            raise ValueError(_refusal(name, "normalises with statistics that depend on parameters"))
        self._check_product(name, [given.get("input"), given.get("weight")])

    def _depends(self, item: Any) -> bool:
        if not isinstance(item, Tensor):
            return False
        return _storage(item) in self._active or _storage(item) in self._names


def _check_coordinates(
    risk: EmpiricalRisk, z: Tensor, diagonal: Tensor, generator: torch.Generator
) -> int:
    """The products taken, if e'He = e'Ge = the diagonal's entry for a coordinate of every tensor.

    A few samples will do for the first equation; the second is taken on them and sample by sample
    on each, since a sample that goes through alone can be another than in its batch where a gate
    is zero at this very point. Some coordinates are taken on the whole batches too.

    Raises:
        ValueError: if they differ by more than rounding.
    """
    spans = [(entry.offset, entry.size) for entry in risk.layout.entries]
    drawn = torch.rand(len(spans), generator=generator, device=generator.device).tolist()
    every = [offset + int(u * size) for u, (offset, size) in zip(drawn, spans, strict=True)]
    few = _few(risk)
    wide = _wide(few, z)
    places = torch.tensor(every, device=z.device)
    whole, gauss = _entries(few, wide, places)
    loose = torch.finfo(z.dtype).eps ** 0.5 * float(diagonal.abs().max())
    close = torch.finfo(wide.dtype).eps ** 0.5
    rough = loose if wide.dtype != torch.float64 else 0.0
    largest = float(torch.cat([whole, gauss]).abs().max())
    worst = float((whole - gauss).abs().max())
    if not worst <= max(close * largest, rough):
        raise ValueError(
            "the exact trace does not hold here: some diagonal entries of the Hessian and of the "
            f"Gauss-Newton matrix differ by {worst:.3g}; use method='hutchinson'"
        )
    off = float((gauss - gauss_newton_diagonal(few, wide)[0][places.cpu()]).abs().max())
    some = places[
        torch.randperm(len(places), generator=generator, device=generator.device)[:_CHECKS]
    ]
    batch = _entries(risk, wide, some, gauss_alone=True)[1]
    ours = diagonal[some.cpu()]
    # Elsewhere than in the few samples, and again in the type of the point.
    scale = max(float(batch.abs().max()), float(ours.abs().max()))
    far = float((batch - ours).abs().max())
    if not off <= max(close * largest, rough) or not far <= max(close * scale, 16 * loose):
        raise ValueError(
            "the exact trace does not hold here: sample by sample the diagonal of the Gauss-Newton "
            f"matrix is another than for whole batches (by {max(off, far):.3g}); use "
            "method='hutchinson'"
        )
    return len(places) + len(some)


def _few(risk: EmpiricalRisk) -> EmpiricalRisk:
    """The risk on a few samples of its first batch that have a weight."""
    batch, _ = next((b, s) for b, s in risk.weighed() if s > 0)
    for count in (min(_FEW, batch.samples), batch.samples):
        few: Any = risk.on([data_batches.spread(batch, count)], risk.seed)
        if few.weights[0] > 0:
            break
    return few


def _wide(risk: EmpiricalRisk, z: Tensor) -> Tensor:
    """The point in float64 if the model can be evaluated there."""
    try:
        with torch.no_grad():
            for term in risk.terms():
                term(z.double())
    except (RuntimeError, TypeError):
        # A device without float64, or a model that holds tensors of a fixed type.
        return z
    return z.double()


def _entries(
    risk: EmpiricalRisk, z: Tensor, places: Tensor, gauss_alone: bool = False
) -> tuple[Tensor, Tensor]:
    """The diagonal entries of the Hessian and of the Gauss-Newton matrix, in float64."""
    units = torch.zeros((len(places), risk.dim), dtype=z.dtype, device=z.device)
    units[torch.arange(len(places), device=z.device), places] = 1
    gauss = GaussNewton(risk, z).forms(units).cpu()
    if gauss_alone:
        return gauss, gauss
    hessian = Hessian(risk, z)
    products = hessian @ units
    whole = (units * products).sum(-1).double()
    return whole.cpu(), gauss


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _refusal(name: str, reason: str) -> str:
    return f"the exact trace does not hold: the operation {name} {reason}; use method='hutchinson'"
