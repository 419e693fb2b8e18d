"""The loss of a network on data, as a function of its parameters alone."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import count as counter
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from landscape.networks import batches as data_batches
from landscape.networks.batches import Batch, Unpack
from landscape.networks.data import RESIDENT_BYTES, Data, order_of
from landscape.networks.draws import drawn_in, seeded
from landscape.networks.evaluation import Evaluation, chosen
from landscape.networks.folding import InPlace
from landscape.networks.gate import Gate
from landscape.networks.layout import Entry, Layout
from landscape.networks.losses import Known, known
from landscape.networks.network import (
    Mode,
    Network,
    Statistics,
    constants,
    is_batchnorm,
    state_keys,
)
from landscape.networks.recomputation import unchecked
from landscape.networks.stacked import Affine, losses, members_together, outputs, stack_of
from landscape.networks.statistics import measured_statistics
from landscape.networks.trial import begin, tried
from landscape.networks.weighing import changed, changed_by_loss
from landscape.objective import Term
from landscape.randomness import derived_seed

Loss = Callable[[Any, Any], Any]
Derivatives = Literal["exact", "differences"]


class Risk:
    r"""The mean of a loss over data, :math:`\sum_b (w_b / W) \, \ell_b(z)`: what risks share.

    One term per batch, weighted by its share, so that an uneven last batch counts right. The
    caller's model is used as it is, and never left changed: its weights, buffers, modes,
    attributes, ``.grad`` and the random state are after a call what they were before. Buffers
    (BatchNorm statistics) are copied at construction.

    Args:
        model: any module.
        data: one batch, a list of batches, a ``Dataset``, a ``DataLoader`` (one pass counts its
            samples), or `landscape.networks.data.Data`.
        loss: see the classes.
        statistics: what BatchNorm normalises with. ``"frozen"``: the model's running statistics,
            also for a model in training mode. ``"batch"``: those of the batch, differentiated
            through. Other modules keep the mode in which the model came.
        evaluation: how several points are evaluated: ``"stacked"`` (chains of linear layers),
            ``"vmap"``, ``"sequential"``; ``"auto"`` chooses by model and device.
        seed: seed of the random modules (dropout) and of whatever the loss draws; they draw from
            the global generator where None.
        unpack: a function from a batch to (inputs, target, samples), where a batch is no pair.
        data_seed: a loader that draws its data anew in every pass (augmentation) is measured on the
            copy that belongs to this seed. Where None, measurements of such a loader are refused.
        derivatives: ``"exact"``, or ``"differences"``: products with the Hessian by central
            differences of gradients, for a loss that has no second derivative.
        mode: ``"given"``: the model in the mode in which it came; ``"eval"``: in evaluation mode.
        check: whether the first measurement checks that the loss is one function of the vector
            alone, see `landscape.networks.gate`; results say what was checked.

    Attributes:
        layout: names, shapes and roles inside the vector.
        data: the batches.
        samples: N.
        recurrent: whether the model has recurrent layers of torch.
        gate: what was found out about the risk; shared by what is derived from it.

    Raises:
        ValueError: if data is empty, the loss is no scalar, or an option does not fit.
        TypeError: if model, data or loss is of another kind.
    """

    whole = False

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        loss: Loss,
        *,
        statistics: Statistics = "frozen",
        evaluation: Evaluation = "auto",
        seed: int | None = None,
        unpack: Unpack | None = None,
        data_seed: int | None = None,
        derivatives: Derivatives = "exact",
        mode: Mode = "given",
        check: bool = True,
    ):
        _check_options(model, statistics=statistics, derivatives=derivatives, mode=mode)
        self.loss, self.statistics, self.seed = loss, statistics, seed
        self.derivatives: Derivatives = derivatives
        self.model = Network(model, statistics, mode, loss)
        self.layout = _layout_of(self.model)
        self.dim = self.layout.dim
        normalised = any(is_batchnorm(module) for module in self.model.modules())
        self.normalisation: str = statistics if normalised else ""
        self.recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
        self.device = next(iter(self.model.parameters.values())).device
        self.data = (
            data if isinstance(data, Data)
            else Data(data, self.device, unpack=unpack, whole=self.whole, seed=data_seed)
        )  # fmt: skip
        self._random = self.model.stochastic()
        self._constants = constants(self.model, self.layout)
        self._cast: dict[torch.dtype, dict[str, Tensor]] = {}
        self._written: list[str] = []
        self._keys = state_keys(model)
        self._features: dict[tuple[int, torch.dtype], Tensor] = {}
        self._graphed = self._live = self._overwrites = False
        self.known: Known | None = None if self.whole else known(loss)
        self._weights: list[float] | None = None
        self._total: float | None = None
        self._pairs = self._masked = False
        begin(self)
        self._weigh()
        self.gate = Gate(check)
        self._stack = None
        if not self.whole and not self._live and not self._graphed:
            self._stack = stack_of(self.model, self.layout, self.data.first.inputs)
        self.evaluation = chosen(self, evaluation)

    # ------------------------------------------------------------------ the point and the model

    def loss_state_dict(self, z: Float[Tensor, " p"]) -> dict[str, Tensor]:
        """What ``loss.load_state_dict`` needs to become the loss at ``z``; empty for a function."""
        if self.model.loss is None:
            return {}
        known, prefix = {**self._constants, **self.layout.unflatten(z)}, self.model.prefix
        return {
            key: known[prefix + key].detach().clone(memory_format=torch.contiguous_format)
            for key in self.model.loss.state_dict()
            if prefix + key in known
        }

    def point(self) -> Float[Tensor, " p"]:
        """A copy of the model's own trainable parameters, as one vector."""
        return self.layout.flatten({n: p.detach() for n, p in self.model.parameters.items()})

    @property
    def point_dtype(self) -> torch.dtype:
        """The type of the model's first parameter."""
        return next(iter(self.model.parameters.values())).dtype

    def state_dict(self, z: Float[Tensor, " p"]) -> dict[str, Tensor]:
        """What ``model.load_state_dict`` needs to become the network at ``z``.

        Tied parameters appear under each of their names, as copies; buffers are those of this risk.
        The parameters of a loss are left out.
        """
        known = {**self._constants, **self.layout.unflatten(z)}
        return {
            key: known[name].detach().clone(memory_format=torch.contiguous_format)
            for key, name in self._keys.items()
        }

    def network(self, z: Float[Tensor, " p"]) -> nn.Module:
        """A plain module of its own that is the network at ``z``, in evaluation mode.

        Raises:
            TypeError: if the model cannot be copied.
        """
        try:
            module = copy.deepcopy(self.model.module)
        except (RuntimeError, TypeError) as error:
            kind = type(self.model.module).__name__
            raise TypeError(f"{kind} cannot be copied: {error}") from error
        module.load_state_dict(self.state_dict(z))
        return module.eval()

    # ------------------------------------------------------------------------- as an objective

    @property
    def samples(self) -> int:
        return self.data.samples

    @property
    def batches(self) -> Any:
        """The batches as pairs (inputs, target): a list where they stay in memory."""
        return self.data.pairs

    @property
    def chunk(self) -> int | None:
        if self.evaluation == "sequential":
            return 1
        if self.evaluation == "vmap":
            return 64
        return members_together(self._stack, self._largest)  # type: ignore[arg-type]

    def stochastic_modules(self) -> list[str]:
        """What would draw random numbers, by name; none where a seed fixes it."""
        return self._random if self.seed is None else []

    def terms(self) -> Iterator[Term]:
        for batch, share in self.weighed():
            yield lambda z, batch=batch, share=share: self._term(z, batch, share)

    def batched_terms(self) -> Iterator[Term]:
        for index, (batch, share) in enumerate(self.weighed()):
            yield lambda rows, i=index, b=batch, s=share: self._rows(rows, i, b, s)

    def judge(self, z: Float[Tensor, " p"], curvature: bool = True) -> dict[str, Any]:
        """What was checked before a measurement at z, for its provenance.

        Args:
            z: the point.
            curvature: whether second derivatives will be needed.

        Raises:
            RuntimeError: if the loss is no function of the vector alone, or not of one function.
            ValueError: if the weights of batches are not known.
        """
        return self.gate.judged(self, z, curvature)

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
                self._stack, self.layout, origin, directions, self.weighed,  # type: ignore[arg-type]
                self._stacked_data,
                lambda output, target, share: self._stacked_share(output, target, share),
                chunk=max(1, (self.chunk or 2) // 2), 
                keep=self.data.resident and products <= RESIDENT_BYTES,
            )  # fmt: skip
        inside = self._random or self._written or self._graphed or self._live or self.whole
        if self.evaluation != "sequential" or inside:
            return None
        try:
            return InPlace(
                self.model, self._constants, self.layout, origin, directions, self.weighed,
                lambda output, target, share: self.scaled(self.loss(output, target), share),
                fold=fold, keep=self.data.resident,
            )  # fmt: skip
        except (RuntimeError, TypeError):
            # A module that cannot be copied has no working copy.
            return None

    # ------------------------------------------------------------------- what operators ask for

    def weighed(self) -> Iterator[tuple[Batch, float]]:
        """Every batch with its share of the risk: what its mean loss is multiplied by."""
        if self._weights is None:
            for batch in self.data:
                yield batch, self._lone_share(batch)
            return
        added = self.known is not None and self.known.added
        total = sum(self._weights)
        for batch, weight in zip(self.data, self._weights, strict=True):
            yield batch, 1.0 if added else weight / total

    @property
    def weights(self) -> list[float]:
        """What every batch weighs: its samples, its labels, or what the loss says."""
        if self._weights is not None:
            return self._weights
        return [self._weight(batch) for batch in self.data]

    @property
    def shares(self) -> list[float]:
        """What every batch weighs in the risk; they sum to 1."""
        return [weight / sum(self.weights) for weight in self.weights]

    def scaled(self, loss: Any, share: float) -> Tensor:
        """A batch's part of the risk, from its mean loss or from its (sum, weight)."""
        if isinstance(loss, tuple):
            total, weight = loss
            if self._total is not None:
                return total / self._total
            if isinstance(weight, Tensor):
                return total / weight.where(weight != 0, torch.ones_like(weight))
            return total / (weight or 1)
        return loss if share == 1.0 else loss * share

    @contextmanager
    def given(self, z: Tensor) -> Iterator[None]:
        """Inside, the caller's model is the network at z, and draws what the seed says."""
        tensors = self._tensors(z)
        wide = self._random and z.dtype == torch.float64 != self.point_dtype

        @contextmanager
        def again() -> Iterator[None]:
            with drawn_in(self._drawn(z)) if wide else nullcontext():
                with self.model.given(tensors, again=again):
                    yield

        drawn = self._drawn(z) if wide else None
        with seeded(self.seed if self._random else None, z.device, drawn):
            with self.model.given(tensors, again=again):
                yield

    def prepared(self, batch: Batch, dtype: torch.dtype) -> Batch:
        """The batch in the type of a point, inputs that are differentiated as fresh leaves."""
        batch = data_batches.cast(batch, dtype)
        if self._overwrites:
            batch = data_batches.copied(batch)
        return data_batches.live(batch, self._live)

    def batch_loss(self, network: Network, batch: Batch) -> Any:
        """The loss of one batch, inside `given`: a mean, or (sum, weight)."""
        raise NotImplementedError

    # ------------------------------------------------------------------------ risks made of it

    def minibatches(
        self, size: int, generator: torch.Generator, *, epochs: int | None = None
    ) -> Iterator["Risk"]:
        """An endless stream of one-batch risks, reshuffled in every epoch.

        A function of the generator's seed alone. Each mini-batch carries a seed for its random
        modules, so that it is a deterministic objective. What is random in the data is drawn anew
        in every epoch. Where the loss of a batch is not the mean over its samples (contrastive
        losses), batches come as the data have them.

        Args:
            size: samples in a mini-batch; the last one of an epoch may be smaller. With a loader
                that is too large to keep in memory it must be the loader's own batch size.
            generator: source of the order.
            epochs: ends the stream after so many epochs.

        Raises:
            ValueError: if ``size`` is not positive, or not that of batches that stay as they are.
        """
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        kept = ""
        if size < max(self.samples, 2):
            kept = self.gate.coupled(self)
        for epoch in counter() if epochs is None else range(epochs):
            order = order_of(generator, epoch)
            for k, batch in enumerate(self.data.epoch(size, order, kept=kept)):
                yield self._on([batch], seed=derived_seed(order.initial_seed(), "dropout", k))

    def seeded(self, seed: int) -> "Risk":
        """The same risk with what is random drawn from ``seed``: a deterministic objective.

        That is what the model and the loss draw, and data that are drawn anew in every pass.
        """
        twin = copy.copy(self)
        twin.seed = seed
        if self.data.random:
            twin.data = self.data.redrawn(seed)
            twin._features = {}
        return twin

    def sharded(self, count: int) -> "Risk":
        """The same risk with its data in ``count`` batches, in order and as equal as can be.

        Raises:
            ValueError: if there are fewer samples, the data are a loader too large to keep in
                memory, BatchNorm normalises with the batch, or the loss of a batch is not the mean
                over its samples.
        """
        if self.normalisation == "batch":
            raise ValueError("BatchNorm normalises with the batch: freeze its statistics first")
        data = self.data.cut(count)
        if coupled := self.gate.coupled(self):
            raise ValueError(f"the data cannot be cut into {count} batches, since {coupled}")
        twin = self._over(data)
        if different := changed(self, twin):
            raise ValueError(f"the data cannot be cut into {count} batches, since {different}")
        return twin

    def limited(self, most: int) -> "Risk":
        """The same risk with batches of at most ``most`` samples, where cutting changes nothing.

        Never where BatchNorm normalises with the batch, or the loss is of the whole model.
        """
        kept = self.whole or self.normalisation == "batch" or not self.data.resident
        if self._largest <= most or kept or self.gate.coupled(self):
            return self
        twin = self._over(self.data.limited(most))
        return self if self.known is None and changed_by_loss(self, twin) else twin

    def reestimated(self, z: Float[Tensor, " p"], samples: Any = None) -> "Risk":
        """The same risk with BatchNorm statistics frozen at those of the network at ``z``.

        Mean and variance of every BatchNorm input, pooled over batches, each of which is normalised
        by itself meanwhile, as in training; variances are unbiased, as in BatchNorm's own running
        statistics. Derivatives of the result hold them fixed.

        Args:
            z: (p,), one point.
            samples: how many of this risk's own samples, all where None; or other data to estimate
                on (one batch, a list of batches, a loader), for instance the training data where
                this is the risk on test data.

        Raises:
            ValueError: if ``samples`` is an integer below 2.
        """
        source: Any
        if samples is None:
            source = iter(self.data)
        elif isinstance(samples, int):
            if samples < 2:
                raise ValueError(f"samples must be at least 2, got {samples}")
            source = data_batches.first_samples(self.data, samples)
        else:
            source = samples if isinstance(samples, Data) else self._like(samples)
        measured = measured_statistics(
            self.model, self._tensors(z.detach()), source, z.dtype, self._through
        )
        twin = copy.copy(self)
        twin.model = self.model.with_statistics("frozen")
        twin.statistics = "frozen"
        if self.normalisation:
            twin.normalisation = "re-estimated at the point (batches by themselves), held fixed"
        twin._constants = {**self._constants, **measured}
        twin._cast, twin._weights = {}, self._weights
        return twin

    def measuring(self, loss: Loss, data: Any = None) -> "Risk":
        """Another loss of the same network, over the same vector, on the same data or on others.

        Parameters of this risk's loss have no influence there, unless it is the same loss. The gate
        is its own.

        Args:
            loss: of the same kind as this risk's, for instance an accuracy.
            data: as for the constructor; those of this risk where None.

        Raises:
            ValueError: as at construction.
        """
        twin = copy.copy(self)
        twin.loss, twin.known = loss, None if self.whole else known(loss)
        if loss is not self.loss:
            own = Network(self.model.module, self.statistics, self.model.mode, loss, "metric.")
            known_ones = constants(own, self.layout)
            twin._constants = {n: self._constants.get(n, t) for n, t in known_ones.items()}
            # The vector is that of this risk, whose loss may have numbers in it.
            own.parameters = {**self.model.parameters, **own.parameters}
            twin.model = own
        twin.gate, twin._cast, twin._features = Gate(self.gate.wanted), {}, {}
        twin._random, twin._written = twin.model.stochastic(), []
        if data is not None:
            twin.data = self._like(data)
        twin._weights = twin._total = None
        begin(twin)
        twin._weigh()
        twin.evaluation = chosen(twin, "auto")
        return twin

    # --------------------------------------------------------------------------------- within

    def _like(self, source: Any) -> Data:
        if isinstance(source, Data):
            return source
        return Data(
            source, self.device, unpack=self.data.unpack, whole=self.whole, seed=self.data.seed
        )

    def _through(self, network: Network, batch: Batch) -> Any:
        """The forward pass of a batch, for the statistics that it shows."""
        return network(batch.inputs)

    def _term(self, z: Tensor, batch: Batch, share: float) -> Tensor:
        if share == 0.0 and not self._summed(batch):
            return z.new_zeros(())
        if self._graphed and not torch.is_grad_enabled():
            with torch.enable_grad():
                return self._term(z, batch, share).detach()
        batch = self.prepared(batch, z.dtype)
        with self.given(z):
            return self.scaled(self.batch_loss(self.model, batch), share)

    def _summed(self, batch: Batch) -> bool:
        return self._total is not None

    def _tensors(self, z: Tensor) -> dict[str, Tensor]:
        """All that a call brings, in the type of z; what the model writes to is copied first."""
        fixed = self._fixed(z.dtype)
        fresh = {name: fixed[name].clone() for name in self._written}
        return {**fixed, **fresh, **self.layout.unflatten(z)}

    def _fixed(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Frozen parameters and buffers in a type."""
        if dtype not in self._cast:
            self._cast[dtype] = {
                name: t.to(dtype) if t.is_floating_point() else t
                for name, t in self._constants.items()
            }
        return self._cast[dtype]

    def _drawn(self, z: Tensor) -> torch.dtype:
        return torch.float32 if self.point_dtype != torch.float64 else torch.float64

    def _rows(self, rows: Tensor, index: int, batch: Batch, share: float) -> Tensor:
        if share == 0.0 and not self._summed(batch):
            return rows.new_zeros(len(rows))
        if self.evaluation == "sequential" or (self.evaluation == "vmap" and len(rows) == 1):
            return torch.stack([self._term(row, batch, share) for row in rows])
        if self.evaluation == "vmap":
            with unchecked():
                return torch.func.vmap(lambda row: self._term(row, batch, share))(rows)
        features, target = self._stacked_data(index, batch, rows.dtype)
        output = outputs(self._stack, self.layout.unflatten(rows), features)  # type: ignore[arg-type]
        return self._stacked_share(output, target, share)

    def _stacked_share(self, output: Tensor, target: Any, share: float) -> Tensor:
        if share == 0.0 and self._total is None:
            return output.new_zeros(len(output))
        if self.model.loss is None or not self._own_of_loss(output.dtype):
            return self.scaled(losses(self.loss, output, target), share)
        with self.model.given(self._own_of_loss(output.dtype)):
            return self.scaled(losses(self.loss, output, target), share)

    def _own_of_loss(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The tensors of a loss that is a module, in the type of the point."""
        prefix = self.model.prefix
        fixed = self._fixed(dtype)
        return {name: t for name, t in fixed.items() if name.startswith(prefix)}

    def _stacked_data(self, index: int, batch: Batch, dtype: torch.dtype) -> tuple[Tensor, Any]:
        """(inputs, samples) contiguous, and the target, kept for batches that stay in memory."""
        inputs, target, _ = data_batches.cast(batch, dtype)
        if not self.data.resident:
            return inputs.flatten(1).T.contiguous(), target
        if (index, dtype) not in self._features:
            self._features[index, dtype] = inputs.flatten(1).T.contiguous()
        return self._features[index, dtype], target

    @property
    def _largest(self) -> int:
        return max(batch.samples for batch in self.data)

    def _lone_share(self, batch: Batch) -> float:
        """1, or 0 for a mini-batch in which nothing has a weight."""
        return 0.0 if self._masked and self._weight(batch) == 0 else 1.0

    def _weight(self, batch: Batch) -> float:
        if self.known is not None:
            return self.known.weight(None, batch.target, batch.samples)
        if self._total is None and not self._pairs:
            return float(batch.samples)
        loss = tried(self, batch)
        return float(loss[1]) if isinstance(loss, tuple) else float(batch.samples)

    def _weigh(self) -> None:
        """Weighs every batch; the sum of the weights is kept where the loss gives (sum, weight).

        Raises:
            ValueError: if nothing has a weight.
        """
        self._weights = [self._weight(batch) for batch in self.data]
        total = sum(self._weights)
        if self.known is not None and not total > 0:
            # Every label is ignored: the loss is what torch makes of that, not a number.
            self._weights = [float(batch.samples) for batch in self.data]
            total = float(self.samples)
        if not (total > 0 and all(weight >= 0 for weight in self._weights)):
            raise ValueError(f"the loss's weights must have a positive sum, got {total}")
        # The quotient of a single batch is taken as it is, whatever its weight depends on.
        self._total = total if self._pairs and len(self._weights) > 1 else None
        self._masked = self.known is not None and any(map(self.known.masks, self.data))

    def _on(self, batches: list[Batch], seed: int | None) -> "Risk":
        """The same risk on other batches, its weights normalised over those."""
        twin = copy.copy(self)
        twin.data, twin.seed = self.data.of(batches), seed
        twin._features, twin._total, twin._weights = {}, None, None
        return twin

    def _over(self, data: Data) -> "Risk":
        """The same risk with the same samples in other batches."""
        twin = copy.copy(self)
        twin.data, twin._features = data, {}
        twin._weigh()
        return twin


class EmpiricalRisk(Risk):
    r"""The mean loss of the outputs of ``model`` on ``data``.

    Arguments, attributes and errors as in `Risk`. A batch is ``(inputs, target)``; inputs go in as
    one argument, ``*tuple`` or ``**dict``. A dictionary, a tensor or another object alone goes in
    whole, and the loss gets it as the target.

    ``loss(output, target)`` gives the mean over the batch, or ``(sum, weight)``, in which case the
    risk is the sum of the sums over the sum of the weights. An accuracy will do. Torch's own losses
    are weighed by what their mean is over: labels that are not ignored, class weights, entries;
    with ``reduction="sum"`` batches add up. The trainable parameters of a loss that is a module
    belong to the vector, behind those of the model.
    """

    def batch_loss(self, network: Network, batch: Batch) -> Any:
        output = network(batch.inputs)
        return self.loss(output, batch.target)

    def outputs(self, z: Tensor, batch: Batch) -> Any:
        """What the network gives for a `prepared` batch at z."""
        with self.given(z):
            return self.model(batch.inputs)

    def loss_at(self, z: Tensor, output: Any, target: Any) -> Any:
        """The loss of an output, its own tensors in the type of z."""
        with self.given(z):
            return self.loss(output, target)


class ModelRisk(Risk):
    """The mean of a loss that is a function of the whole model: ``loss(model, batch)``.

    Arguments, attributes and errors as in `Risk`. ``loss(model, batch)`` gives the mean over the
    batch, or ``(sum, weight)``; ``batch`` is what the data hold, on the model's device: a pair, a
    dictionary, a tensor, a graph. Regularisers, several heads, energies, contrastive losses and
    losses with derivatives by inputs are written as in a training loop.

    Measurements that need outputs (Gauss-Newton, Fisher, the exact trace) do not take it.
    """

    whole = True

    def batch_loss(self, network: Network, batch: Batch) -> Any:
        return self.loss(network.module, batch.inputs)

    def _through(self, network: Network, batch: Batch) -> Any:
        return self.loss(network.module, batch.inputs)


def _layout_of(network: Network) -> Layout:
    """The layout of the model's trainable parameters, and of those of the loss behind them."""
    trainable = any(p.requires_grad for p in network.module.parameters())
    names = [n for n, p in network.parameters.items() if p.requires_grad]
    own = Layout.of(network.module).entries if trainable or not names else ()
    known = {entry.name for entry in own}
    offset = sum(entry.size for entry in own)
    entries = list(own)
    for name in names:
        if name not in known:
            shape = tuple(network.parameters[name].shape)
            entries.append(Entry(name, shape, offset, "other", None))
            offset += entries[-1].size
    return Layout(tuple(entries))


def _check_options(model: Any, **options: str) -> None:
    """Nothing, if the options exist.

    Raises:
        ValueError: if one does not.
        TypeError: if the model is no module.
    """
    choices = {
        "statistics": ("frozen", "batch"), "derivatives": ("exact", "differences"),
        "mode": ("given", "eval"),
    }  # fmt: skip
    for name, given in options.items():
        if given not in choices[name]:
            one, other = choices[name]
            raise ValueError(f"{name} must be {one!r} or {other!r}, got {given!r}")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
