"""The loss of a network on data, as a function of its parameters alone."""

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import count as counter
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from landscape import batches as data_batches
from landscape.batches import Batch, LoaderBatches
from landscape.folding import InPlace
from landscape.layout import Layout
from landscape.objective import Term
from landscape.randomness import derive, derived_seed
from landscape.skeleton import (
    Skeleton,
    Statistics,
    constants,
    drawing,
    is_batchnorm,
    measured_statistics,
    seeded,
    state_keys,
)
from landscape.stacked import Affine, losses, members_together, outputs, stack_of

Loss = Callable[[Any, Any], Any]
Evaluation = Literal["auto", "stacked", "vmap", "sequential"]

_SEQUENTIAL_ON_CPU = (
    nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention,
)  # fmt: skip
_LARGE = 1_000_000


class EmpiricalRisk:
    r"""The mean loss of ``model`` over ``data``, :math:`\sum_b (n_b / N) \, \ell_b(z)`.

    One term per batch, weighted by its share of the samples, so that an uneven last batch counts
    right. The caller's model is never written to: its weights, buffers, modes, ``.grad`` and the
    random state stay as they were. Buffers (BatchNorm statistics) are copied at construction.

    Args:
        model: any module.
        data: one batch, a list of batches or a ``DataLoader`` (one pass counts its samples). A
            batch is ``(inputs, target)``; inputs go in as a tensor, ``*tuple`` or ``**dict``. A
            dictionary alone goes in whole, and the loss gets it as the target.
        loss: ``loss(output, target)`` gives the mean over the batch, or ``(sum, weight)``, in which
            case the risk is the sum of the sums over the sum of the weights. An accuracy will do.
        statistics: what BatchNorm normalises with. ``"frozen"``: the model's running statistics,
            also for a model in training mode. ``"batch"``: those of the batch, differentiated
            through. Other modules keep the mode in which the model came.
        evaluation: how several points are evaluated: ``"stacked"`` (chains of linear layers),
            ``"vmap"``, ``"sequential"``; ``"auto"`` chooses by model and device.
        seed: seed of the random modules (dropout); they draw from the global generator where None.

    Attributes:
        layout: names, shapes and roles inside the vector.
        samples: N.
        recurrent: whether the model has recurrent layers of torch.

    Raises:
        ValueError: if data is empty, the loss is no scalar, or ``evaluation`` does not fit.
        TypeError: if data or loss is of another kind.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        loss: Loss,
        *,
        statistics: Statistics = "frozen",
        evaluation: Evaluation = "auto",
        seed: int | None = None,
    ):
        if statistics not in ("frozen", "batch"):
            raise ValueError(f"statistics must be 'frozen' or 'batch', got {statistics!r}")
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        self.layout = Layout.of(model)
        self.dim = self.layout.dim
        self.loss = loss
        self.statistics = statistics
        self.seed = seed
        self._skeleton = Skeleton.of(model, statistics)
        normalised = any(is_batchnorm(module) for module in model.modules())
        self.normalisation: str = statistics if normalised else ""
        self.recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
        self._stochastic = self._skeleton.stochastic()
        self._parameters = dict(model.named_parameters())
        self._constants = constants(model, self.layout)
        self._written: list[str] = []
        self._keys = state_keys(model)
        device = next(iter(self._parameters.values())).device
        self.batches = data_batches.as_batches(data, device)
        self._features: dict[tuple[int, torch.dtype], Tensor] = {}
        self._joined: Batch | None = None
        self.samples = sum(data_batches.count(batch) for batch in self.batches)
        self._weights: list[float] = []
        self._total = self._total_weight()
        first = next(iter(self.batches))
        self._stack = stack_of(self._skeleton.module, self.layout, first[0])
        self.evaluation = self._choose(evaluation, device)

    def point(self) -> Float[Tensor, " p"]:
        """A copy of the model's own trainable parameters, as one vector."""
        return self.layout.flatten({name: p.detach() for name, p in self._parameters.items()})

    def state_dict(self, z: Float[Tensor, " p"]) -> dict[str, Tensor]:
        """What ``model.load_state_dict`` needs to become the network at ``z``.

        Tied parameters appear under each of their names, as copies; buffers are those of this risk.
        """
        known = {**self._constants, **self.layout.unflatten(z)}
        return {
            key: known[name].detach().clone(memory_format=torch.contiguous_format)
            for key, name in self._keys.items()
        }

    def network(self, z: Float[Tensor, " p"]) -> nn.Module:
        """A plain module of its own that is the network at ``z``, in evaluation mode."""
        module = copy.deepcopy(self._skeleton.module)
        module.load_state_dict(self.state_dict(z))
        return module.eval()

    @property
    def chunk(self) -> int | None:
        if self.evaluation == "sequential":
            return 1
        if self.evaluation == "vmap":
            return 64
        return members_together(self._stack, self._largest_batch)  # type: ignore[arg-type]

    def stochastic_modules(self) -> list[str]:
        """The modules that would draw random numbers, by name; none where a seed fixes them."""
        return self._stochastic if self.seed is None else []

    def terms(self) -> Iterator[Term]:
        for batch in self.batches:
            yield lambda z, batch=batch: self._term(z, batch)

    def batched_terms(self) -> Iterator[Term]:
        for index, batch in enumerate(self.batches):
            yield lambda rows, index=index, batch=batch: self._rows(rows, index, batch)

    def along(
        self, origin: Float[Tensor, " p"], directions: Sequence[Tensor], *, fold: bool = True
    ) -> Affine | InPlace | None:
        """The same risk as a function of coordinates along a few directions, or None.

        For many points of a line or a plane this is faster than `batched_terms`. There is none
        where points go through vmap, where random modules are seeded, or where the model writes to
        its own tensors.

        Args:
            origin: the point at which all coordinates are 0.
            directions: vectors (p,); neither they nor the origin are copied for large networks.
            fold: whether BatchNorm may be folded into convolutions.
        """
        if self.evaluation == "stacked":
            stays = isinstance(self.batches, list)
            width = self.layout.entries[0].shape[0]
            products = 4 * width * self.samples * (1 + len(directions))
            return Affine(
                self._stack, self.layout, origin, directions, self.batches,  # type: ignore[arg-type]
                self._stacked_data,
                lambda output, target, b: self._weighted(losses(self.loss, output, target), b),
                chunk=max(1, (self.chunk or 2) // 2), 
                keep=stays and products <= data_batches.RESIDENT_BYTES,
            )  # fmt: skip
        if self.evaluation != "sequential" or self._stochastic or self._written:
            return None
        return InPlace(
            self._skeleton.module, self._constants, self.layout, origin, directions, self.batches,
            lambda output, target, batch: self._weighted(self.loss(output, target), batch),
            fold=fold,
        )  # fmt: skip

    def minibatches(
        self, size: int, generator: torch.Generator, *, epochs: int | None = None
    ) -> Iterator["EmpiricalRisk"]:
        """An endless stream of one-batch risks, reshuffled in every epoch.

        A function of the generator's seed alone. Each mini-batch carries a seed for its random
        modules, so that it is a deterministic objective.

        Args:
            size: samples in a mini-batch; the last one of an epoch may be smaller. With a loader
                that is too large to keep in memory it must be the loader's own batch size.
            generator: source of the order.
            epochs: ends the stream after so many epochs.

        Raises:
            ValueError: if ``size`` is not positive, or not that of the loader.
        """
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        for epoch in counter() if epochs is None else range(epochs):
            order = derive(generator, "mini-batches", epoch)
            for k, batch in enumerate(self._shuffled(size, order)):
                yield self._on([batch], seed=derived_seed(order.initial_seed(), "dropout", k))

    def seeded(self, seed: int) -> "EmpiricalRisk":
        """The same risk with its random modules drawn from ``seed``: a deterministic objective."""
        return self._on(self.batches, seed=seed)

    def sharded(self, count: int) -> "EmpiricalRisk":
        """The same risk with its data in ``count`` batches, in order and as equal as can be.

        Raises:
            ValueError: if there are fewer samples, the data are a loader too large to keep in
                memory, or BatchNorm normalises with the batch, whose statistics would change.
        """
        if not 1 <= count <= self.samples:
            raise ValueError(f"count must be from 1 to the {self.samples} samples, got {count}")
        if not isinstance(self.batches, list):
            raise ValueError("the data are a loader that is too large to keep in memory")
        if self.normalisation == "batch":
            raise ValueError("BatchNorm normalises with the batch: freeze its statistics first")
        whole = data_batches.joined(self.batches)
        device = next(data_batches.tensors_of(whole)).device
        order = torch.arange(self.samples, device=device)
        parts = [data_batches.rows(whole, index) for index in order.tensor_split(count)]
        twin = self._on(parts, self.seed)
        twin._total = self._total
        if self._weights:
            twin._weights = [float(twin._tried(part)[1]) for part in parts]
        return twin

    def reestimated(self, z: Float[Tensor, " p"], samples: Any = None) -> "EmpiricalRisk":
        """The same risk with BatchNorm statistics frozen at those of the network at ``z``.

        Mean and variance of every BatchNorm input, pooled over batches; variances are unbiased, as
        in BatchNorm's own running statistics. Derivatives of the result hold them fixed.

        Args:
            z: (p,), one point.
            samples: how many of this risk's own samples, all where None; or other data to estimate
                on (one batch, a list of batches, a loader), for instance the training data where
                this is the risk on test data.

        Raises:
            ValueError: if ``samples`` is an integer below 2.
        """
        if samples is None:
            source = iter(self.batches)
        elif isinstance(samples, int):
            if samples < 2:
                raise ValueError(f"samples must be at least 2, got {samples}")
            source = data_batches.first_samples(self.batches, samples)
        else:
            source = iter(data_batches.as_batches(samples, z.device))
        measured = measured_statistics(self._skeleton, self._tensors(z.detach()), source, z.dtype)
        twin = copy.copy(self)
        twin._skeleton = Skeleton.of(self._skeleton.module, "frozen", self._constants)
        twin.statistics = "frozen"
        twin.normalisation = "re-estimated at the point, held fixed" if self.normalisation else ""
        twin._constants = {**self._constants, **measured}
        return twin

    def _term(self, z: Tensor, batch: Batch) -> Tensor:
        inputs, target = data_batches.cast(batch, z.dtype)
        with seeded(self.seed if self._stochastic else None, z.device):
            output = self._skeleton(self._tensors(z), inputs)
            return self._weighted(self.loss(output, target), batch)

    def _tensors(self, z: Tensor) -> dict[str, Tensor]:
        """All that a call brings, in the type of z; what the model writes to is copied first."""
        constants = {
            name: t.to(z.dtype) if t.is_floating_point() else t
            for name, t in self._constants.items()
        }
        constants.update({name: constants[name].clone() for name in self._written})
        return {**constants, **self.layout.unflatten(z)}

    def _rows(self, rows: Tensor, index: int, batch: Batch) -> Tensor:
        if self.evaluation == "sequential" or (self.evaluation == "vmap" and len(rows) == 1):
            return torch.stack([self._term(row, batch) for row in rows])
        if self.evaluation == "vmap":
            return torch.func.vmap(lambda row: self._term(row, batch))(rows)
        features, target = self._stacked_data(index, batch, rows.dtype)
        output = outputs(self._stack, self.layout.unflatten(rows), features)  # type: ignore[arg-type]
        return self._weighted(losses(self.loss, output, target), batch)

    def _stacked_data(self, index: int, batch: Batch, dtype: torch.dtype) -> tuple[Tensor, Any]:
        """(inputs, samples) contiguous, and the target, kept for batches that stay in memory."""
        inputs, target = data_batches.cast(batch, dtype)
        if not isinstance(self.batches, list):
            return inputs.flatten(1).T.contiguous(), target
        if (index, dtype) not in self._features:
            self._features[index, dtype] = inputs.flatten(1).T.contiguous()
        return self._features[index, dtype], target

    def _weighted(self, loss: Any, batch: Batch) -> Tensor:
        """The batch's share of the risk, from a batch mean or from (sum, weight)."""
        if isinstance(loss, tuple):
            total, weight = loss
            return total / (weight if self._total is None else self._total)
        share = 1.0 if self._total is None else data_batches.count(batch) / self._total
        return loss if share == 1.0 else loss * share

    @property
    def shares(self) -> list[float]:
        """What every batch weighs in the risk; they sum to 1."""
        weights = self._weights or [data_batches.count(batch) for batch in self.batches]
        return [weight / sum(weights) for weight in weights]

    @property
    def _largest_batch(self) -> int:
        if not hasattr(self, "_largest"):
            self._largest = max(data_batches.count(batch) for batch in self.batches)
        return self._largest

    def _total_weight(self) -> float:
        """N for a loss that is a mean; the sum of the weights for one that gives (sum, weight).

        Raises:
            ValueError: if the loss is neither a scalar nor such a pair.
        """
        for batch in self.batches:
            loss = self._tried(batch)
            if isinstance(loss, tuple):
                self._weights.append(float(loss[1]))
                continue
            if not isinstance(loss, Tensor) or loss.ndim != 0:
                shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
                raise ValueError(
                    f"loss must return a scalar tensor or (sum, weight), got {shape}; "
                    "take the mean over the batch"
                )
            return float(self.samples)
        total = sum(self._weights)
        if not total > 0:
            raise ValueError(f"the loss's weights must have a positive sum, got {total}")
        return total

    def _tried(self, batch: Batch) -> Any:
        """The loss at the model's own parameters; notes what the model draws and writes to."""
        inputs, target = data_batches.cast(batch, self.point_dtype)
        device = next(iter(self._parameters.values())).device
        fork = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
        with torch.inference_mode(False), torch.no_grad(), fork:
            known = {name: t.clone() for name, t in self._constants.items()}
            versions = {name: t._version for name, t in known.items()}
            own = {name: p.detach() for name, p in self._parameters.items()}
            with drawing(self._skeleton.module, device) as drawn:
                loss = self.loss(self._skeleton({**own, **known}, inputs), target)
        self._stochastic = self._stochastic or drawn
        self._written = [name for name, t in known.items() if t._version != versions[name]]
        return loss

    @property
    def point_dtype(self) -> torch.dtype:
        """The type of the model's first parameter."""
        return next(iter(self._parameters.values())).dtype

    def _shuffled(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        if isinstance(self.batches, LoaderBatches):
            if size != self.batches.loader.batch_size:
                raise ValueError(
                    f"mini-batches of {size} are asked for, but the data is a loader with batches "
                    f"of {self.batches.loader.batch_size} that is too large to keep in memory"
                )
            seed = generator.initial_seed()
            yield from LoaderBatches(self.batches.loader, self.batches.device, seed)
            return
        if self._joined is None:
            self._joined = data_batches.joined(self.batches)
        order = torch.randperm(self.samples, generator=generator, device=generator.device)
        device = next(data_batches.tensors_of(self._joined)).device
        for index in order.to(device).split(size):
            yield data_batches.rows(self._joined, index)

    def _on(self, batches: Any, seed: int | None) -> "EmpiricalRisk":
        """The same risk on other batches, its weights normalised over those."""
        twin = copy.copy(self)
        twin.batches = batches
        twin.seed = seed
        if batches is not self.batches:
            twin._features = {}
            twin.samples = sum(data_batches.count(batch) for batch in batches)
            twin._total = None  # type: ignore[assignment]
            twin._weights = []
            twin._joined = None
            twin.__dict__.pop("_largest", None)
        return twin

    def _choose(self, wanted: Evaluation, device: torch.device) -> Evaluation:
        """The way to evaluate several points. On a CPU, vmapped convolutions lose to a loop.

        Raises:
            ValueError: if the wanted way does not exist or does not fit the model.
        """
        if wanted not in ("auto", "stacked", "vmap", "sequential"):
            raise ValueError(
                f"evaluation must be auto, stacked, vmap or sequential, got {wanted!r}"
            )
        if wanted == "stacked" and self._stack is None:
            raise ValueError(
                "evaluation='stacked' needs a chain of linear layers and activations, and inputs "
                "(samples, features)"
            )
        if wanted != "auto":
            return wanted
        heavy = self.dim > _LARGE or any(
            isinstance(module, _SEQUENTIAL_ON_CPU) for module in self._skeleton.module.modules()
        )
        if self._stochastic or (heavy and device.type == "cpu"):
            return "sequential"
        for choice in ("stacked", "vmap"):
            if (choice == "vmap" or self._stack is not None) and self._works(choice):
                return choice  # type: ignore[return-value]
        return "sequential"

    def _works(self, evaluation: Evaluation) -> bool:
        """Whether two points go through at once: a loss that calls .item() does not, for one."""
        self.evaluation = evaluation
        batch = next(iter(self.batches))
        try:
            with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
                # An operation without a batching rule falls back to a loop, and warns of it.
                warnings.filterwarnings("error", message="There is a performance drop")
                self._rows(self.point().expand(2, self.dim), 0, batch)
        except (RuntimeError, TypeError, ValueError, UserWarning):
            return False
        finally:
            self._features.clear()
        return True
