"""A task on a device: what is trained on, what is judged by, and what is reported."""

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cnognp.method import Method
from cnognp.methods import METHODS
from cnognp.methods.descent import Epoch
from cnognp.tasks import fit, memory, outputs
from cnognp.tasks.memory import exhausted
from cnognp.tasks.registry import defaults, load
from cnognp.tasks.starts import begun_at
from cnognp.tasks.task import Task
from landscape.networks import (
    Data,
    Derivatives,
    EmpiricalRisk,
    ModelRisk,
    Reestimated,
    Risk,
    Stochastic,
    called,
    dense_parts,
    is_batchnorm,
    tensors_of,
)
from landscape.networks import batches as data_batches
from landscape.networks.data import Augment
from landscape.objective import Objective, value
from landscape.randomness import derived_seed
from landscape.slices.metrics import MEASURED

if TYPE_CHECKING:
    from cnognp.training.config import Config

SPLITS = ("train", "validation", "test")
# What NumPy and HDF5 know.
_KEPT = (torch.float16, torch.float32, torch.float64)


class Problem:
    """A task's objectives on a device.

    Training sees batch statistics in BatchNorm and dropout as the model has it. Judging sees the
    model in evaluation mode, with BatchNorm statistics that belong to the point: re-estimated at
    every point on the training data, augmented as in training. What is judged is the loss of the
    data as they are.

    Args:
        task: the model, its loss and its data; not written to.
        device: where everything is evaluated.
        data_seed: data that a loader draws anew in every pass are judged and measured on the copy
            that belongs to this seed; where None, measurements of them are refused.
        noise_seed: what the model or the loss draws at random is measured for this seed; where
            None, measurements of it are refused.
        derivatives: how products with the Hessian are taken, as in `landscape.networks.risk.Risk`.
        check: whether the first measurement checks the loss, see `landscape.networks.gate`.
        precision: ``"bfloat16"`` lets the network compute in that where training sees it.
        compiled: steps on mini-batches see the network through ``torch.compile``.
    """

    def __init__(
        self,
        task: Task,
        device: torch.device,
        *,
        data_seed: int | None = None,
        noise_seed: int | None = None,
        derivatives: Derivatives = "exact",
        check: bool = True,
        precision: str = "float32",
        compiled: bool = False,
    ):
        self.task, self._precision, self._compiled = task, precision, compiled
        self.device = device
        self.model = _on(device, task.model)
        self._loss = _on(device, task.loss) if isinstance(task.loss, nn.Module) else task.loss
        self.normalised = any(is_batchnorm(module) for module in self.model.modules())
        self._seed = data_seed
        self._options: dict[str, Any] = {"derivatives": derivatives, "check": check}
        self.options: dict[str, Any] = {
            "data_seed": data_seed,
            "noise_seed": noise_seed,
            **self._options,
        }
        self._splits: dict[str, Data | None] = {}
        self._together: int | None = None
        self._measures: dict[tuple[str, str], Risk] = {}

    @cached_property
    def training(self) -> Risk:
        """The loss on the training data, as training sees it."""
        own = self.task.training_loss
        loss = own if own is None or not isinstance(own, nn.Module) else _on(self.device, own)
        exact = self._on_training(loss, statistics="batch")
        return exact.mixed(torch.bfloat16) if self._precision == "bfloat16" else exact

    @cached_property
    def stepped(self) -> Risk:
        """What mini-batches are drawn from: `training`, its network compiled where that is asked.

        Raises:
            ValueError: if that is a loss of the whole model, which is not compiled.
        """
        return self.training.compiled() if self._compiled else self.training

    @property
    def trained_apart(self) -> str:
        """Why training minimises something else than what members are judged by; empty if not."""
        if self.task.training_loss is not None:
            return "a loss of training of its own (label_smoothing)"
        if self._precision != "float32":
            return f"precision {self._precision}"
        return "a compiled network (--compile)" if self._compiled else ""

    @cached_property
    def evaluation(self) -> Risk | Reestimated:
        """The loss on the training data, as it is judged."""
        return Reestimated(self._judged) if self.normalised else self._judged

    @cached_property
    def as_given(self) -> Risk:
        """The loss on the training data of the model in the mode in which it came."""
        return self._on_training(seed=self.options["noise_seed"])

    @cached_property
    def _judged(self) -> Risk:
        """The loss on the training data of the model in evaluation mode, its statistics its own."""
        return self._on_training(mode="eval", seed=self.options["noise_seed"])

    def data(self, split: str) -> Data | None:
        """The data of a split on the device; None where the task has none."""
        source = getattr(self.task, split)
        if split not in self._splits:
            augment = self.task.augment if split == "train" else None
            self._splits[split] = None if source is None else self._read(source, augment)
        return self._splits[split]

    def at(self, z: Tensor) -> Risk:
        """The risk that the point ``z`` is measured on, its BatchNorm statistics frozen there."""
        evaluation = self.evaluation
        return evaluation.at(z) if isinstance(evaluation, Reestimated) else evaluation

    def stream(self, method: Method, seed: int, start: int = 0) -> Iterator[Objective]:
        """One objective per step, endless, from step ``start``.

        A method of mini-batches draws them from the training risk and is judged by the evaluation;
        any other takes steps on the whole training risk, its dropout drawn anew in every step.
        """
        random = bool(self.training.stochastic_modules() or self.training.data.random)
        plain = not (random or self.normalised or self.trained_apart)
        fixed: Objective = self.training
        if takes_minibatches(method) and not plain:
            fixed, random = Stochastic(self.evaluation, self.stepped), False
        for k in count(start):
            yield self.training.seeded(derived_seed(seed, "dropout", k)) if random else fixed

    def metrics(
        self, z: Tensor, splits: Sequence[str] = SPLITS, only: Sequence[str] | None = None
    ) -> dict[str, dict[str, float]]:
        """Loss and metrics of the point ``z`` on every split that the task has.

        Args:
            z: (p,), the point.
            splits: which of them.
            only: ``"loss"`` and names of metrics; all where None.
        """
        frozen = self.at(z)
        return {split: self.measured(z, frozen, split, only) for split in splits}

    def measured(
        self, z: Tensor, frozen: Risk, split: str, only: Sequence[str] | None = None
    ) -> dict[str, float]:
        """Loss and metrics of the point ``z`` on a split; empty where the task has none.

        They come from one pass of the network where that will do.

        Args:
            z: (p,), the point.
            frozen: what is measured there, as `at` gives it.
            split: of the data.
            only: as in `metrics`.
        """
        data = self.data(split)
        if data is None:
            return {}
        names = ("loss", *self.task.metrics) if only is None else only
        metrics = {name: self.task.metrics[name] for name in names if name != "loss"}
        loss = self._measuring(split, "loss", self._loss, frozen)
        found = outputs.measured(loss, data, metrics, z)
        if found is None:
            return {name: self._number(split, name, frozen, z) for name in names}
        numbers = {"loss": found[0], **found[1]}
        return {name: numbers[name] for name in names}

    def metric(self, name: str, z: Tensor, *, own_statistics: bool = False) -> Risk:
        """A metric of the task as a function of the point.

        ``"accuracy"`` is on the training data, ``"test_loss"`` and ``"test_accuracy"`` on others.

        Args:
            name: of a metric, of a loss or metric behind the name of its split.
            z: the point, at which BatchNorm statistics are re-estimated.
            own_statistics: keep those of the model instead.

        Raises:
            ValueError: if there is none of this name.
        """
        split, measure = self.located(name)
        data = self.data(split)
        if hasattr(measure, "counts") and not (data.resident and len(data.batches) == 1):  # type: ignore[union-attr]
            raise ValueError(
                f"{name} is no mean over batches, of which the data have several, and is known of "
                "single points alone: leave it out of --metrics"
            )
        if own_statistics:
            return self.as_given.measuring(measure, data)
        return self._risk(data, measure, self.at(z))

    def located(self, name: str) -> tuple[str, Any]:
        """The split and the function of a metric of the task.

        Raises:
            ValueError: if there is none of this name.
        """
        measures = {"loss": self._loss, **self.task.metrics}
        known = {
            f"{split}_{key}": (split, measure)
            for split in SPLITS if getattr(self.task, split) is not None
            for key, measure in measures.items()
        } | {key: ("train", measure) for key, measure in self.task.metrics.items()}  # fmt: skip
        if name not in known:
            raise ValueError(
                f"the task has no metric {name!r}; there are {', '.join(known)}, and for every "
                f"task {', '.join(MEASURED)}"
            )
        return known[name]

    def state_dict(self, z: Tensor) -> dict[str, Tensor]:
        """What the plain module loads to become the network at ``z``, on the CPU."""
        return {name: tensor.cpu() for name, tensor in self.at(z).state_dict(z).items()}

    @cached_property
    def data_digest(self) -> str:
        """SHA-256 of the training data's first batches, to recognise another task's data."""
        digest = hashlib.sha256()
        data: Any = self.data("train")
        for batch in data:
            for tensor in tensors_of(batch[:2]):
                digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
                for part in dense_parts(tensor.detach().cpu()):
                    array = part.contiguous()
                    digest.update(array.view(torch.uint8).numpy().tobytes() if array.ndim else b"")
            if not data.resident:
                break
        return digest.hexdigest()

    def check_finite(self) -> None:
        """Nothing, if the training data that are kept in memory are finite numbers.

        Raises:
            ValueError: if they are not; a `Task` does not see what a loader gives.
        """
        data = self.training.data
        for number, batch in enumerate(data if data.resident else ()):
            tensors = [dense_parts(t)[-1] for t in tensors_of(batch[:2]) if t.is_floating_point()]
            for tensor in tensors:
                finite = tensor.isfinite()
                if len(tensors) > 1:
                    # A mask beside other inputs.
                    finite |= tensor == -torch.inf
                if not finite.all():
                    raise ValueError(
                        f"train batch {number} holds a number that is not finite; fill the gap or "
                        "drop the row"
                    )

    def check_metrics(self) -> None:
        """Nothing, if every metric gives a number on the first training batch.

        Metrics are first needed when all of the training is done.

        Raises:
            ValueError: if one does not.
        """
        first = self.training.data.of([self.training.data.first])
        for name, metric in self.task.metrics.items():
            try:
                self._judged.measuring(metric, first)
            except Exception as error:
                reason = str(error).replace("loss must return", "it must return")
                raise ValueError(
                    f"metric {name!r} fails on the first training batch: {type(error).__name__}: "
                    f"{reason}"
                ) from error

    def check_means(self) -> None:
        """Nothing, if it is known what the batches of every split weigh in the loss.

        Raises:
            ValueError: if not.
            RuntimeError: if a parameter reaches the training loss past the model.
        """
        self._judged.gate.admit(self._judged)
        for split in SPLITS[1:]:
            data = self.data(split)
            if data is not None:
                try:
                    self._judged.measuring(self._loss, data).weighed_by()
                except ValueError as error:
                    raise ValueError(f"{split} data: {error}") from None

    def check_slope(self) -> None:
        """Nothing, if the training loss can be differentiated.

        Raises:
            ValueError: if it does not depend on the parameters at all.
        """
        risk = self.training
        z, first = risk.point().requires_grad_(), risk.data.first
        # A few samples say it as well, in less memory, where the loss takes them.
        with suppress(Exception):
            if memory.slope(risk, data_batches.few(first, memory.LEAST), z).requires_grad:
                return
        if not memory.slope(risk, first, z).requires_grad:
            raise ValueError(
                "the training loss does not depend on the parameters: was the output or the loss "
                "detached, or computed under no_grad?"
            )

    def _on_training(self, loss: Any = None, **options: Any) -> Risk:
        """The loss, or another one, on the training data.

        Raises:
            ValueError: if the loss cannot take what the model returns; says what that is.
        """
        kind = ModelRisk if self.task.loss_of == "model" else EmpiricalRisk
        try:
            # Large batches are cut only where that leaves the loss what it is.
            loss = self._loss if loss is None else loss
            risk = kind(self.model, self.data("train"), loss, **self._options, **options)
            if self._together is None:
                self._together = memory.judged_together(risk)
            return risk.limited(self._together)
        except Exception as error:
            if advice := self._advice():
                raise ValueError(f"{type(error).__name__}: {error}; {advice}") from error
            raise

    def _read(self, source: Any, augment: Augment | None = None) -> Data:
        if isinstance(source, Data):
            return source
        return Data(
            source, self.device, unpack=self.task.unpack, whole=self.task.loss_of == "model",
            seed=self._seed, prepare=self.task.prepare, augment=augment,
        )  # fmt: skip

    def _advice(self) -> str:
        """What to change where the loss gets what it cannot take; empty where that is not known."""
        if isinstance(self.task.loss, type):
            name = self.task.loss.__name__
            return f"the loss is the class {name}: give an object, {name}()"
        if self.task.loss_of == "model":
            return ""
        try:
            data = self._read(self.task.train)
            inputs = data.first.inputs
            words = isinstance(inputs, Mapping)
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                output = called(self.model, inputs)
        except Exception:
            return ""
        if isinstance(output, Tensor):
            return ""
        keys = (
            f" with the keys {', '.join(map(str, output))}" if isinstance(output, Mapping) else ""
        )
        behind = "the whole batch, a dictionary," if words else "the target"
        return (
            f"the model returned no tensor but {type(output).__name__}{keys}, and the loss gets "
            f"that and {behind} behind it: choose there, for instance loss=lambda output, batch: "
            "output['loss']"
        )

    def _number(self, split: str, name: str, frozen: Risk, z: Tensor) -> float:
        """The loss or a metric of one point on a split."""
        measure: Any = self._loss if name == "loss" else self.task.metrics[name]
        if hasattr(measure, "counts") and self.task.loss_of == "output":
            risk = self._measuring(split, "loss", self._loss, frozen)
            with torch.no_grad():
                batches = (risk.prepared(batch, z.dtype) for batch in risk.data)
                counts = [measure.counts(risk.outputs(z, b), b.target) for b in batches]
            return float(measure.score(sum(counts[1:], counts[0])))
        return float(value(self._measuring(split, name, measure, frozen), z))

    def _measuring(self, split: str, name: str, measure: Any, frozen: Risk) -> Any:
        """The risk of a measure on a split; kept where its statistics do not belong to a point."""
        if frozen is not self.__dict__.get("_judged"):
            return self._risk(self.data(split), measure, frozen)
        if (split, name) not in self._measures:
            self._measures[split, name] = self._risk(self.data(split), measure, frozen)
        return self._measures[split, name]

    def _risk(self, data: Any, measure: Any, frozen: Risk) -> Risk:
        risk = frozen.measuring(measure, data)
        return risk if self._together is None else risk.limited(self._together)


def _on(device: torch.device, module: nn.Module) -> nn.Module:
    """The module itself if it is on the device, else a copy there."""
    tensors = [*module.parameters(), *module.buffers()]
    if all(tensor.device == device for tensor in tensors):
        return module
    try:
        return copy.deepcopy(module).to(device)
    except (RuntimeError, TypeError):
        # What cannot be copied is moved: a task is made for one problem.
        return module.to(device)


def problem_of(config: "Config", weights: str | None = None, **options: Any) -> Problem:
    """The task of a configuration on its device.

    Args:
        config: says which.
        weights: where those are that member 0 starts at; as the configuration says where None.
        options: of `Problem`.

    Raises:
        ValueError: if the task, the method or the device does not exist, the loss or a metric does
            not fit the model, the loss does not depend on the parameters, its batches are weighed
            by something that is not known, parameters have a type that checkpoints do not hold, or
            a target is no class of the model's outputs.
        RuntimeError: if a parameter reaches the loss past the model.
        IndexError: if the loss raises that and it is not known of which split.
    """
    if config.method not in METHODS:
        raise ValueError(f"unknown method {config.method!r}; there are {', '.join(METHODS)}")
    task = task_of(config.task, config.seed, config.task_options)
    network = {**defaults(config.task), **config.task_options}.get("network", "")
    weights = config.weights if weights is None else weights
    task = begun_at(task, weights, config.spread, str(network))
    problem = Problem(task, choose_device(config.device), **options)
    fit.check_classes(problem)
    try:
        _check(problem)
    except (RuntimeError, IndexError, ValueError) as error:
        if exhausted(error) or not (reason := fit.explained(problem, error)):
            raise
        # Where in a user's file it came from is told as well.
        raise ValueError(reason).with_traceback(error.__traceback__) from error
    return problem


def _check(problem: Problem) -> None:
    """Nothing, if what is needed at the end of a training is there at its beginning.

    Raises:
        ValueError: if parameters have a type that checkpoints do not hold, or see `problem_of`.
    """
    if problem.training.point_dtype not in _KEPT:
        raise ValueError(
            f"the model's parameters are {problem.training.point_dtype}, which a checkpoint cannot "
            "hold: give a model in float32 (model.float()); cnognp analyze measures it as it is"
        )
    problem.check_metrics()
    problem.check_slope()
    problem.check_means()


def task_of(name: str, seed: int, options: Mapping[str, Any]) -> Task:
    """The task called ``name``; what it draws from torch's default generator follows from the seed.

    Modules draw their first weights there, and many a user's file its data: a run that goes on and
    a measurement must find the same.

    Raises:
        ValueError: if there is no such task, or it does not take the options.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derived_seed(seed, "task"))
        return load(name, **{"seed": seed, **options})


def takes_minibatches(method: Method) -> bool:
    """Whether a step of the method, or of one that moves inside it, is made of mini-batches."""
    inside = (getattr(method, name, None) for name in ("local", "method", "base"))
    return isinstance(method, Epoch) or any(takes_minibatches(m) for m in inside if m is not None)


def choose_device(name: str) -> torch.device:
    """The device called ``name``; ``"auto"`` is the first accelerator there is, else the CPU.

    Raises:
        ValueError: if the device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        float(torch.zeros((), device=device, dtype=torch.float32))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device {name!r} cannot be used here: {reason}; try auto or cpu"
        ) from None
    return device
