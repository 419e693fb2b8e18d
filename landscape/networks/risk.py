"""The loss of a network on data, as a function of its parameters alone."""

import copy
from collections.abc import Iterator
from itertools import count as counter
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from landscape.networks import batches as data_batches
from landscape.networks.batches import Batch, Unpack
from landscape.networks.data import Data, order_of
from landscape.networks.evaluation import Evaluation, Together, chosen
from landscape.networks.forward import Forward, Loss
from landscape.networks.gate import Gate
from landscape.networks.layout import Entry, Layout
from landscape.networks.losses import known
from landscape.networks.mean import Derivatives, Mean
from landscape.networks.network import (
    Mode,
    Network,
    Statistics,
    constants,
    is_batchnorm,
    state_keys,
    twin_of,
)
from landscape.networks.statistics import measured_statistics
from landscape.networks.weighing import changed, changed_by_loss, weighing
from landscape.networks.weights import Weights
from landscape.randomness import derived_seed


class Risk(Mean):
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
            ``"grouped"`` (chains of convolutions), ``"vmap"``, ``"sequential"``; ``"auto"`` chooses
            by model and device.
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
        self.statistics, self.derivatives = statistics, derivatives
        network = Network(model, statistics, mode, loss)
        forward = Forward(network, loss, _layout_of(network), whole=self.whole, seed=seed)
        normalised = any(is_batchnorm(module) for module in network.modules())
        self.normalisation: str = statistics if normalised else ""
        self.recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
        self._keys = state_keys(model)
        if not isinstance(data, Data):
            data = Data(data, forward.device, unpack=unpack, whole=self.whole, seed=data_seed)
        super().__init__(forward, data, evaluation)
        self.gate = Gate(check)

    @property
    def device(self) -> torch.device:
        return self.forward.device

    def loss_state_dict(self, z: Float[Tensor, " p"]) -> dict[str, Tensor]:
        """What ``loss.load_state_dict`` needs to become the loss at ``z``; empty for a function."""
        if self.model.loss is None:
            return {}
        known, prefix = {**self.forward.constants, **self.layout.unflatten(z)}, self.model.prefix
        return {
            key: known[prefix + key].detach().clone(memory_format=torch.contiguous_format)
            for key in self.model.loss.state_dict()
            if prefix + key in known
        }

    def state_dict(self, z: Float[Tensor, " p"]) -> dict[str, Tensor]:
        """What ``model.load_state_dict`` needs to become the network at ``z``.

        Tied parameters appear under each of their names, as copies; buffers are those of this risk.
        The parameters of a loss are left out.

        Returns:
            tensors by the names of the model's own ``state_dict``, in its shapes.
        """
        known = {**self.forward.constants, **self.layout.unflatten(z)}
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

    def judge(self, z: Float[Tensor, " p"], curvature: bool = True) -> dict[str, Any]:
        """What was checked before a measurement at z, for its provenance.

        Args:
            z: the point.
            curvature: whether second derivatives will be needed.

        Returns:
            what results store: entries by name, plain numbers and words.

        Raises:
            RuntimeError: if the loss is no function of the vector alone, or not of one function.
            ValueError: if the weights of batches are not known.
        """
        return self.gate.judged(self, z, curvature)

    def weighed_by(self) -> str:
        """How batches are weighed, in words.

        Raises:
            ValueError: if they are weighed by their samples and the loss weighs otherwise.
        """
        return weighing(self)

    def minibatches(
        self, size: int, generator: torch.Generator, *, epochs: int | None = None, parts: int = 1
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
            parts: batches that each mini-batch is cut into, for gradients that are accumulated.
                BatchNorm that normalises with the batch does so with each part.

        Returns:
            each risk is of one mini-batch, and of the same vector as this one.

        Raises:
            ValueError: if ``size`` or ``parts`` is not positive, ``size`` is not that of batches
                that stay as they are, or ``parts`` is given where batches cannot be cut.
        """
        for name, count in {"size": size, "parts": parts}.items():
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        kept = ""
        if size < max(self.samples, 2) or parts > 1:
            kept = self.gate.coupled(self)
        if kept and parts > 1:
            raise ValueError(
                f"a mini-batch cannot be cut into {parts} parts, since {kept}: accumulation 1"
            )
        for epoch in counter() if epochs is None else range(epochs):
            order = order_of(generator, epoch)
            for k, batch in enumerate(self.data.epoch(size, order, kept=kept)):
                yield self._of_batch(batch, parts, derived_seed(order.initial_seed(), "dropout", k))

    def steps(self, size: int) -> int:
        """How many `minibatches` of that size there are in an epoch."""
        kept = self.gate.coupled(self) if size < max(self.samples, 2) else ""
        return self.data.steps(size, kept=kept)

    def _of_batch(self, batch: Batch, parts: int, seed: int) -> "Risk":
        """The risk on one batch alone, evaluated in so many parts."""
        if parts == 1:
            return self.on([batch], seed)
        twin = self.on(self.data.pieces(batch, parts), seed)
        if sum(twin.weights) > 0:
            twin.weighting = twin.weighting.weigh(twin.data)
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
        twin = self.over(data)
        if different := changed(self, twin):
            raise ValueError(f"the data cannot be cut into {count} batches, since {different}")
        return twin

    def limited(self, most: int) -> "Risk":
        """The same risk with batches of at most ``most`` samples, where cutting changes nothing.

        Never where BatchNorm normalises with the batch, or the loss is of the whole model.
        """
        kept = self.whole or self.normalisation == "batch" or not self.data.resident
        if self.largest <= most or kept or self.gate.coupled(self):
            return self
        twin = self.over(self.data.limited(most))
        return self if self.known is None and changed_by_loss(self, twin) else twin

    def reestimated(self, z: Float[Tensor, " p"], samples: Any = None) -> "Risk":
        """The same risk with BatchNorm statistics frozen at those of the network at ``z``.

        Mean and variance of every BatchNorm input, pooled over batches, each of which is normalised
        by itself meanwhile, as in training; variances are unbiased, as in BatchNorm's own running
        statistics. Data that training augments are augmented here as well, always in the same way:
        the statistics of CIFAR images without their shifts cost a trained ResNet-20 2.8 points of
        accuracy. Derivatives of the result hold the statistics fixed.

        Args:
            z: (p,), one point.
            samples: how many of this risk's own samples, all where None; or other data to estimate
                on (one batch, a list of batches, a loader), for instance the training data where
                this is the risk on test data.

        Returns:
            a risk with the same layout; this one stays as it is.

        Raises:
            ValueError: if ``samples`` is an integer below 2.
        """
        source: Any
        if samples is None:
            source = self.data.as_trained()
        elif isinstance(samples, int):
            if samples < 2:
                raise ValueError(f"samples must be at least 2, got {samples}")
            source = data_batches.first_samples(self.data.as_trained(), samples)
        else:
            source = self._like(samples).as_trained()
        measured = measured_statistics(
            self.model, self.forward.tensors(z.detach()), source, z.dtype, self.forward.through
        )
        frozen = self.forward.changed(
            model=self.model.with_statistics("frozen"),
            constants={**self.forward.constants, **measured},
        )
        twin = self.of(frozen)
        twin.statistics = "frozen"
        if self.normalisation:
            twin.normalisation = "re-estimated at the point (batches by themselves), held fixed"
        return twin

    def normalised_by_batch(self) -> "Risk":
        """The same risk with BatchNorm normalising with the batch, differentiated through."""
        batch: Statistics = "batch"
        twin = self.of(self.forward.changed(model=self.model.with_statistics(batch)))
        twin.statistics = batch
        twin.normalisation = batch if self.normalisation else ""
        return twin

    def measuring(self, loss: Loss, data: Any = None) -> "Risk":
        """Another loss of the same network, over the same vector, on the same data or on others.

        Parameters of this risk's loss have no influence there, unless it is the same loss. The gate
        is its own.

        Args:
            loss: of the same kind as this risk's, for instance an accuracy.
            data: as for the constructor; those of this risk where None.

        Returns:
            a risk with the same layout, whose value is the mean of ``loss``.

        Raises:
            ValueError: as at construction.
        """
        twin, forward = twin_of(self), self.forward
        network, fixed = self.model, forward.constants
        if loss is not self.loss:
            network = Network(network.module, self.statistics, network.mode, loss, "metric.")
            fixed = {n: fixed.get(n, t) for n, t in constants(network, self.layout).items()}
            # The vector is that of this risk, whose loss may have numbers in it.
            network.parameters = {**self.model.parameters, **network.parameters}
        twin.forward = forward.changed(
            model=network, loss=loss, constants=fixed, random=network.stochastic(), written=[]
        )
        known_still = loss is self.loss and self.known is not None
        twin.gate = self.gate.of_other_data() if known_still else Gate(self.gate.wanted)
        if data is not None:
            twin.data = self._like(data)
        twin.forward.begin(twin.data.first, twin.data.advice)
        twin.weighting = Weights(twin.forward, None if self.whole else known(loss)).weigh(twin.data)
        chain = self.together.chain
        way = chosen(twin.weighting, twin.data, chain, "auto")
        twin.together = Together(chain, twin.data.resident, way)
        return twin

    def _like(self, source: Any) -> Data:
        if isinstance(source, Data):
            return source
        own = self.data
        return Data(source, self.device, unpack=own.unpack, whole=self.whole, seed=own.seed)


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

    def outputs(self, z: Tensor, batch: Batch) -> Any:
        """What the network gives for a `prepared` batch at z."""
        return self.forward.outputs(z, batch)

    def loss_at(self, z: Tensor, output: Any, target: Any) -> Any:
        """The loss of an output, its own tensors in the type of z."""
        return self.forward.loss_at(z, output, target)


class ModelRisk(Risk):
    """The mean of a loss that is a function of the whole model: ``loss(model, batch)``.

    Arguments, attributes and errors as in `Risk`. ``loss(model, batch)`` gives the mean over the
    batch, or ``(sum, weight)``; ``batch`` is what the data hold, on the model's device: a pair, a
    dictionary, a tensor, a graph. Regularisers, several heads, energies, contrastive losses and
    losses with derivatives by inputs are written as in a training loop.

    Measurements that need outputs (Gauss-Newton, Fisher, the exact trace) do not take it.
    """

    whole = True


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
    for name, parameter in model.named_parameters():
        # What FSDP2 reduces in its backward pass is no part of a graph: gradients taken with
        # create_graph have none, in torch 2.14, and products by differences need a vector.
        if hasattr(parameter, "device_mesh"):
            raise TypeError(
                f"the parameter {name} is sharded over devices (fully_shard, or another DTensor), "
                "and a gradient through that cannot be differentiated again: give the model before "
                "it is sharded, and share the data instead (landscape.distributed)"
            )
