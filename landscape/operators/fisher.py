"""Curvature matrices beside the Hessian, as things that multiply vectors.

All have the interface of `landscape.curvature.Hessian`: ``dim``, ``point``, ``products`` and ``@``
with leading axes, so that Lanczos, the trace and the density take them as they take the Hessian.
Jacobians go by reverse mode twice: forward mode is missing for some layers and wrong for others.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from landscape.curvature import GRAPH_BYTES, graphs
from landscape.networks import Batch, EmpiricalRisk
from landscape.objective import Objective, offered, second_order
from landscape.operators.outputs import (
    Bend,
    Outputs,
    check_by_sample,
    fresh_leaf,
    loss_hessian,
    outputs_at,
    ridge_diagonal,
    risks_of,
    sample_losses,
)

Likelihood = Literal["categorical", "gaussian"]


class _Bent(NamedTuple):
    """The graph of one batch: quantities q(z), J' w as a function of w, and the product with M."""

    leaf: Tensor
    quantities: list[Tensor]
    weights: list[Tensor]
    slope: Tensor
    bend: Bend

    def along(self, u: Tensor) -> list[Tensor]:
        """J u."""
        found = torch.autograd.grad(
            self.slope, self.weights, u, retain_graph=True, materialize_grads=True
        )
        return list(found)

    def form(self, u: Tensor) -> Tensor:
        """The form of u with J' M J, which needs no way back."""
        along = self.along(u)
        pairs = zip(along, self.bend(along), strict=True)
        return torch.stack([(a.double() * b.double()).sum() for a, b in pairs]).sum()

    def product(self, u: Tensor) -> Tensor:
        """J' M J u."""
        (back,) = torch.autograd.grad(
            self.quantities, self.leaf, self.bend(self.along(u)), retain_graph=True,
            materialize_grads=True,
        )  # fmt: skip
        return back


class Factored:
    r"""A matrix :math:`\sum_b J_b^\top M_b J_b` over batches, with Jacobians of some quantities.

    Subclasses say which quantities of a batch, and how M multiplies.

    Args:
        objective: the loss of a network, or a `Sum` of it and `Ridge` where the matrix allows that.
        z: (p,), the point.
        memory: bytes of graph that may be kept; where it is more, every product builds it anew.

    Attributes:
        name: what the matrix is called.
        products: how many products were taken so far.
        cached: whether the graph is kept.

    Raises:
        TypeError: if the objective is of another kind.
        ValueError: if ``z`` is not one point of the objective's length.
    """

    name = ""

    def __init__(self, objective: Objective, z: Float[Tensor, " p"], *, memory: int = GRAPH_BYTES):
        if z.shape != (objective.dim,):
            raise ValueError(f"one point ({objective.dim},) is needed, got shape {tuple(z.shape)}")
        if not z.is_floating_point():
            raise ValueError(f"the point must be floating point, got {z.dtype}")
        self.objective, self.point, self.dim = objective, z.detach(), objective.dim
        self.layout = offered(objective, "layout")
        self.products = 0
        self._risks, ridges = risks_of(objective, self.name)
        self._ridge = ridge_diagonal(ridges, self.point).to(self.point) if ridges else None
        with second_order(objective):
            self._graphs, self.graph_bytes, _, self.cached = graphs(self._built, memory)

    def __matmul__(self, u: Float[Tensor, "*batch p"]) -> Float[Tensor, "*batch p"]:
        probes = self._probes(u)
        with second_order(self.objective):
            total = torch.zeros_like(probes) if self._ridge is None else probes * self._ridge
            for graph in self._graphs if self.cached else self._built():
                for place, probe in enumerate(probes):
                    total[place] += graph.product(probe)
        return total.reshape(u.shape)

    def forms(self, u: Float[Tensor, "*batch p"]) -> Float[Tensor, "*batch"]:
        """The quadratic forms u'Au in float64, for about half the cost of a product."""
        probes = self._probes(u)
        with second_order(self.objective):
            ridge = probes.new_zeros(()) if self._ridge is None else self._ridge
            total = (probes.double().square() * ridge.double()).sum(-1)
            for graph in self._graphs if self.cached else self._built():
                for place, probe in enumerate(probes):
                    total[place] += graph.form(probe)
        return total.reshape(u.shape[:-1])

    def quantities(
        self, risk: EmpiricalRisk, outputs: Outputs, batch: Batch
    ) -> tuple[list[Tensor], Bend]:
        """What of a batch is differentiated, and the product with M."""
        raise NotImplementedError

    def _probes(self, u: Tensor) -> Tensor:
        """The vectors as rows.

        Raises:
            ValueError: if they have another length.
        """
        if u.shape[-1] != self.dim:
            raise ValueError(f"vectors of length {self.dim} are needed, got {tuple(u.shape)}")
        self.products += u.shape[:-1].numel()
        return u.detach().reshape(-1, self.dim).to(self.point)

    def _built(self) -> Iterator[_Bent]:
        for risk in self._risks:
            for batch, share in risk.weighed():
                if share == 0.0:
                    continue
                with torch.enable_grad():
                    leaf = fresh_leaf(self.point)
                    outputs = outputs_at(risk, leaf, batch, share)
                    if not outputs.tensors:
                        continue
                    quantities, bend = self.quantities(risk, outputs, batch)
                    weights = [torch.zeros_like(q).requires_grad_() for q in quantities]
                    (slope,) = torch.autograd.grad(
                        quantities, leaf, weights, create_graph=True, materialize_grads=True
                    )
                if slope.requires_grad:
                    yield _Bent(leaf, quantities, weights, slope, bend)


class GaussNewton(Factored):
    r"""The generalised Gauss-Newton matrix :math:`J^\top (\nabla^2_{output} \ell) J`.

    It is the Hessian without the curvature of the network itself. The Hessian of the loss with
    respect to the outputs comes from automatic differentiation, so that every twice differentiable
    loss will do; the matrix is positive semi-definite where the loss is convex in the outputs. The
    Hessian of a `Ridge` in a `Sum` is part of it.

    Arguments and errors as in `Factored`.

    Reference: Schraudolph (2002), Fast curvature matrix-vector products for second-order gradient
    descent.
    """

    name = "Gauss-Newton"

    def quantities(
        self, risk: EmpiricalRisk, outputs: Outputs, batch: Batch
    ) -> tuple[list[Tensor], Bend]:
        return outputs.tensors, loss_hessian(risk, outputs)


class Fisher(Factored):
    r"""The Fisher information of the model's own predictions, exactly.

    .. math:: F = \frac1N \sum_n E_{y \sim p(y | x_n, z)}[g g^\top], \quad
        g = \nabla_z \log p(y | x_n, z)

    The expectation is over the model's own predictions, not over the labels, which play no part.

    - ``"categorical"``: the output holds logits, (samples, classes, ...); all predictions count
      alike, but for those whose label torch's cross-entropy ignores. Equal to `GaussNewton` for the
      mean cross-entropy.
    - ``"gaussian"``: the output is the mean of a normal distribution with variance ``variance`` in
      each of its entries. For ``mse_loss`` with D outputs a sample, `GaussNewton` is the one with
      variance D / 2.

    Args:
        risk: its network and data; the loss plays no part.
        z: (p,), the point.
        likelihood: what the outputs mean.
        variance: of the normal distribution.
        memory: as in `Factored`.

    Raises:
        ValueError: if the likelihood is not one of the two, does not fit the output, or the loss
            weighs its samples, which a Fisher matrix cannot know.
    """

    def __init__(
        self,
        risk: EmpiricalRisk,
        z: Float[Tensor, " p"],
        likelihood: Likelihood,
        *,
        variance: float = 1.0,
        memory: int = GRAPH_BYTES,
    ):
        if likelihood not in ("categorical", "gaussian"):
            raise ValueError(f"likelihood must be categorical or gaussian, got {likelihood!r}")
        if not 0 < variance < float("inf"):
            raise ValueError(f"variance must be positive and finite, got {variance}")
        self.likelihood, self.variance = likelihood, variance
        self.name = f"Fisher ({likelihood})"
        super().__init__(_lone(risk, self.name), z, memory=memory)

    def quantities(
        self, risk: EmpiricalRisk, outputs: Outputs, batch: Batch
    ) -> tuple[list[Tensor], Bend]:
        if len(outputs.tensors) != 1:
            raise ValueError(
                f"{self.name} needs one output tensor, got {len(outputs.tensors)}: wrap the model"
            )
        known = risk.known
        given = isinstance(risk.loss_at(outputs.leaf, outputs.whole, outputs.target), tuple)
        if given or (known is not None and (known.weighs_classes or known.added)):
            how = "gives (sum, weight)" if given else "weighs classes, or adds up"
            raise ValueError(
                f"{self.name} counts all predictions alike, but the loss {how}; use GaussNewton, "
                "or a loss that is a mean"
            )
        if known is None and batch.samples > 1:
            reason = risk.gate.coupled(risk)
            if "it weighs them" in reason or "adds up" in reason:
                raise ValueError(f"{self.name} counts all predictions alike, but {reason}")
        output, share = outputs.tensors[0], outputs.share
        if self.likelihood == "gaussian":
            factor = share / (self.variance * batch.samples)
            return [output], lambda vectors: [factor * vectors[0]]
        if output.ndim < 2:
            raise ValueError(f"logits (samples, classes, ...) are needed, got {output.ndim} axis")
        chances = output.detach().softmax(1)
        kept = None if known is None else known.label_weights(outputs.target)
        scale: Any = share * output.shape[1] / output.numel()
        if kept is not None and kept.shape == output[:, 0].shape:
            scale = share * (kept / kept.sum()).unsqueeze(1).to(output)

        def covariance(vectors: list[Tensor]) -> list[Tensor]:
            weighted = chances * vectors[0]
            return [scale * (weighted - chances * weighted.sum(1, keepdim=True))]

        return [output], covariance


class EmpiricalFisher(Factored):
    r"""The mean outer product of the gradients of single samples, with the labels of the data.

    :math:`\sum_n w_n \nabla \ell_n \nabla \ell_n^\top / \sum_n w_n`; the weights are those of a
    loss that gives ``(sum, weight)``, else 1. It is neither the Fisher matrix nor an approximation
    of the Hessian (Kunstner, Balles & Hennig 2019); at an interpolating minimum it is zero.

    Args:
        risk: the loss of a network.
        z: (p,), the point.
        memory: as in `Factored`.

    Raises:
        ValueError: if the loss of a batch is not the mean of the losses of its samples.
    """

    name = "empirical Fisher"

    def __init__(self, risk: EmpiricalRisk, z: Float[Tensor, " p"], *, memory: int = GRAPH_BYTES):
        super().__init__(_lone(risk, self.name), z, memory=memory)

    def quantities(
        self, risk: EmpiricalRisk, outputs: Outputs, batch: Batch
    ) -> tuple[list[Tensor], Bend]:
        count = batch.samples
        check_by_sample(outputs, count, self.name)
        losses, weights = sample_losses(risk, outputs, count)
        whole = risk.loss_at(outputs.leaf, outputs.whole, outputs.target)
        whole = whole[0] / whole[1] if isinstance(whole, tuple) else whole
        if weights is None:
            mean, factors = losses.mean(), torch.full_like(losses, outputs.share / count)
        else:
            total = weights.sum()
            mean = losses.sum() / total
            factors = torch.where(weights > 0, outputs.share / (weights * total), 0.0).to(losses)
        if not torch.allclose(mean, whole, rtol=1e-4, atol=1e-6, equal_nan=False):
            raise ValueError(
                f"the loss of a batch ({float(whole.detach()):.6g}) is not the mean over its "
                f"samples ({float(mean.detach()):.6g}), so it has no gradients of single samples; "
                "let it return (sum, weight)"
            )
        return [losses], lambda vectors: [factors.detach() * vectors[0]]


def _lone(risk: Any, name: str) -> EmpiricalRisk:
    """The risk.

    Raises:
        TypeError: if it is not one.
    """
    if not isinstance(risk, EmpiricalRisk):
        raise TypeError(f"{name} needs an EmpiricalRisk, got {type(risk).__name__}")
    return risk
