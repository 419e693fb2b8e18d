"""The mean of a network's loss over batches, as an objective."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from landscape.networks.batches import Batch
from landscape.networks.compiled import Compiled
from landscape.networks.data import RESIDENT_BYTES, Data
from landscape.networks.evaluation import Evaluation, Together, chosen, stacked_share
from landscape.networks.folding import InPlace
from landscape.networks.forward import Forward, Loss
from landscape.networks.grouped import groups_of
from landscape.networks.layout import Layout
from landscape.networks.losses import Known, known
from landscape.networks.network import Network, Statistics, twin_of
from landscape.networks.spanned import Spanned
from landscape.networks.stacked import Affine, stack_of
from landscape.networks.weights import Weights
from landscape.objective import Term

Derivatives = Literal["exact", "differences"]


class _BatchTerm(NamedTuple):
    """A batch's part of a mean, at points (n, p)."""

    together: Together
    weighting: Weights
    number: int
    batch: Batch
    share: float

    def __call__(self, z: Tensor) -> Tensor:
        return self.together.rows(self.weighting, z, self.number, self.batch, self.share)

    def slopes(self, z: Tensor) -> tuple[Tensor, Tensor] | None:
        """Values (n,) and gradients (n, p) without a graph; None where there is no such way."""
        return self.together.slopes(self.weighting, z, self.number, self.batch, self.share)


class Mean:
    """The mean of a loss over data: a forward pass, the weights of batches, points together.

    Args:
        forward: the loss of a batch.
        data: the batches.
        evaluation: how several points are evaluated.

    Attributes:
        weighting: what batches weigh.
        together: how several points are evaluated.
        statistics: what BatchNorm normalises with.
        derivatives: of second order, ``"exact"`` or by ``"differences"``.
        custom: operations in the graph that are no builtins of torch, once they are known.
    """

    statistics: Statistics = "frozen"
    derivatives: Derivatives = "exact"
    custom: Sequence[str] = ()

    def __init__(self, forward: Forward, data: Data, evaluation: Evaluation):
        self.forward, self.data = forward, data
        forward.begin(data.first, data.advice)
        self.weighting = Weights(forward, None if forward.whole else known(forward.loss))
        self.weighting.weigh(data)
        chain = None
        if not (forward.whole or forward.live or forward.graphed):
            known_as = forward.model, forward.layout, data.first.inputs
            chain = stack_of(*known_as) or groups_of(*known_as)
        way = chosen(self.weighting, data, chain, evaluation)
        self.together = Together(chain, data.resident, way)

    @property
    def model(self) -> Network:
        return self.forward.model

    @property
    def layout(self) -> Layout:
        return self.forward.layout

    @property
    def loss(self) -> Loss:
        return self.forward.loss

    @property
    def seed(self) -> int | None:
        return self.forward.seed

    @property
    def known(self) -> Known | None:
        """The loss, where it is one of torch's own."""
        return self.weighting.known

    @property
    def evaluation(self) -> Evaluation:
        return self.together.way

    @property
    def dim(self) -> int:
        return self.forward.layout.dim

    @property
    def point_dtype(self) -> torch.dtype:
        """The type of the model's first parameter."""
        return self.forward.point_dtype

    def point(self) -> Float[Tensor, " p"]:
        """A copy of the model's own trainable parameters, as one vector."""
        return self.forward.point()

    @property
    def samples(self) -> int:
        return self.data.samples

    @property
    def batches(self) -> Any:
        """The batches as pairs (inputs, target): a list where they stay in memory."""
        return self.data.pairs

    @property
    def largest(self) -> int:
        """The samples in the largest batch."""
        return max(batch.samples for batch in self.data.batches)

    @property
    def chunk(self) -> int:
        return self.together.members(self.largest)

    @property
    def product_chunk(self) -> int:
        return self.together.members(self.largest, twice=True)

    def stochastic_modules(self) -> list[str]:
        """What would draw random numbers, by name; none where a seed fixes it."""
        return self.forward.random if self.seed is None else []

    def terms(self) -> Iterator[Term]:
        term = self.weighting.term
        for batch, share in self.weighed():
            yield lambda z, batch=batch, share=share: term(z, batch, share)

    def batched_terms(self) -> Iterator[Term]:
        for index, (batch, share) in enumerate(self.weighed()):
            yield _BatchTerm(self.together, self.weighting, index, batch, share)

    def weighed(self) -> Iterator[tuple[Batch, float]]:
        """Every batch with its share of the risk: what its mean loss is multiplied by."""
        return self.weighting.shared(self.data)

    @property
    def weights(self) -> list[float]:
        """What every batch weighs: its samples, its labels, or what the loss says."""
        each = self.weighting.each
        return self.weighting.weights_of(self.data) if each is None else each

    @property
    def shares(self) -> list[float]:
        """What every batch weighs in the risk; they sum to 1."""
        return [weight / sum(self.weights) for weight in self.weights]

    def scaled(self, loss: Any, share: float) -> Tensor:
        """A batch's part of the risk, from its mean loss or from its (sum, weight)."""
        return self.weighting.scaled(loss, share)

    def given(self, z: Tensor) -> AbstractContextManager[None]:
        """Inside, the caller's model is the network at z, and draws what the seed says."""
        return self.forward.given(z)

    def prepared(self, batch: Batch, dtype: torch.dtype) -> Batch:
        """The batch in the type of a point, inputs that are differentiated as fresh leaves."""
        return self.forward.prepared(batch, dtype)

    def along(
        self, origin: Float[Tensor, " p"], directions: Sequence[Tensor], *, fold: bool = True
    ) -> Affine | InPlace | None:
        """The same risk as a function of coordinates along a few directions, or None.

        For many points of a line or a plane this is faster than `batched_terms`. There is none
        where points go through vmap, where anything is drawn at random, or where the model writes
        to its own tensors.

        Args:
            origin: the point at which all coordinates are 0.
            directions: vectors (p,); neither they nor the origin are copied for large networks.
            fold: whether BatchNorm may be folded into convolutions.
        """
        if self.evaluation == "stacked":
            width = self.layout.entries[0].shape[0]
            products = 4 * width * self.samples * (1 + len(directions))
            return Affine(
                self.together.chain, self.layout, origin, directions, self.weighed,  # type: ignore[arg-type]
                self.together.features,
                lambda output, target, share: stacked_share(self.weighting, output, target, share),
                chunk=max(1, self.chunk // 2),
                keep=self.data.resident and products <= RESIDENT_BYTES,
            )  # fmt: skip
        forward = self.forward
        inside = forward.random or forward.written or forward.graphed or forward.live
        inside = inside or forward.whole
        if self.evaluation not in ("sequential", "grouped") or inside:
            return None
        try:
            return InPlace(
                self.model, forward.constants, self.layout, origin, directions, self.weighed,
                lambda output, target, share: self.scaled(self.loss(output, target), share),
                fold=fold, keep=self.data.resident,
            )  # fmt: skip
        except (RuntimeError, TypeError):
            # A module that cannot be copied has no working copy.
            return None

    @property
    def spanned(self) -> Callable[..., tuple[Tensor, Tensor]] | None:
        """Values and slopes at points in the span of a few vectors, as `Spanned.slopes` has them.

        None where that is no faster: where points do not go through stacked layers, or the data do
        not stay in memory.
        """
        chain, exact = self.together.chain, self.forward.autocast is None
        if self.evaluation != "stacked" or not (exact and self.data.resident):
            return None

        def slopes(basis: Tensor, coefficients: Tensor, weigh: Any) -> tuple[Tensor, Tensor]:
            batches = [
                (*self.together.features(index, batch, basis.dtype), share)
                for index, (batch, share) in enumerate(self.weighed())
            ]
            found = Spanned(
                chain, self.layout, batches,  # type: ignore[arg-type]
                lambda output, target, share: stacked_share(self.weighting, output, target, share),
            )  # fmt: skip
            return found.slopes(basis, coefficients, weigh)

        return slopes

    def of(self, forward: Forward) -> Any:
        """The same mean with another forward pass of the same network."""
        twin = twin_of(self)
        twin.forward, twin.weighting = forward, self.weighting.changed(forward)
        return twin

    @property
    def autocast(self) -> torch.dtype | None:
        """The type in which autocast lets the network compute; None for that of the point."""
        return self.forward.autocast

    def mixed(self, narrow: torch.dtype) -> Any:
        """The same in mixed precision: the forward pass under autocast to a narrower type.

        Points, gradients and the loss of an output stay in float32. There are no products with the
        Hessian.

        Raises:
            ValueError: if points are of another type.
        """
        if self.point_dtype != torch.float32:
            raise ValueError(
                f"{narrow} is for networks in float32, and the parameters are {self.point_dtype}"
            )
        return self.of(self.forward.changed(autocast=narrow))

    @property
    def once(self) -> bool:
        """Whether it is differentiated once and not again, since its network is compiled."""
        return self.forward.compiled is not None

    def compiled(self) -> Any:
        """The same through ``torch.compile``, for gradients alone; points one after another.

        What is made of it with another network inside (re-estimated statistics, another loss) is
        not compiled.

        Raises:
            ValueError: if the loss is one of the whole model.
        """
        if self.forward.whole:
            raise ValueError(
                "a loss of the whole model (loss_of='model') is not compiled: what is compiled is "
                "a model whose output the loss takes"
            )
        twin = self.of(self.forward.changed(compiled=Compiled()))
        twin.together = Together(None, self.data.resident, "sequential")
        return twin

    def seeded(self, seed: int) -> Any:
        """The same with what is random drawn from ``seed``: a deterministic objective.

        That is what the model and the loss draw, and data that are drawn anew in every pass.
        """
        twin = self.of(self.forward.changed(seed=seed))
        if self.data.random:
            twin.data = self.data.redrawn(seed)
            twin.together = self.together.emptied(twin.data.resident)
        return twin

    def on(self, batches: list[Batch], seed: int | None) -> Any:
        """The same on other batches, its weights normalised over those."""
        twin = twin_of(self)
        twin.data = self.data.of(batches)
        twin.forward = self.forward.changed(seed=seed)
        twin.weighting = self.weighting.unweighed(twin.forward)
        twin.together = self.together.emptied(twin.data.resident)
        return twin

    def over(self, data: Data) -> Any:
        """The same with the same samples in other batches."""
        twin = twin_of(self)
        twin.data, twin.together = data, self.together.emptied(data.resident)
        twin.weighting = self.weighting.changed(self.forward).weigh(data)
        return twin
