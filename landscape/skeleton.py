"""The modules of a network apart from its numbers, so that a call can bring its own.

A skeleton shares the parameters of the caller's model and never writes to them. Its BatchNorm
layers have a mode of their own.
"""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import _WeightNorm

from landscape import batches as data_batches
from landscape.batches import Batch
from landscape.layout import Layout

Statistics = Literal["frozen", "batch"]

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
_STOCHASTIC = (nn.modules.dropout._DropoutNd, nn.RReLU)


class Skeleton(NamedTuple):
    """A copy of a model's modules, and the names of the tensors that a call may bring."""

    module: nn.Module
    names: frozenset[str]

    @classmethod
    def of(
        cls, model: nn.Module, statistics: Statistics, buffers: dict[str, Tensor] | None = None
    ) -> "Skeleton":
        """The skeleton of ``model`` with its BatchNorm layers in the wanted mode.

        With ``"batch"`` they get no running statistics at all, so that nothing can change them.

        Args:
            model: parameters are shared, not copied.
            statistics: what BatchNorm normalises with.
            buffers: where the running statistics of a skeleton that has none come back from.

        Raises:
            TypeError: if the module cannot be copied, or was compiled by ``torch.jit``.
        """
        if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
            raise TypeError(
                f"{type(model).__name__} is compiled by torch.jit, which allows no other weights "
                "in a call; give the plain module"
            )
        shared = {id(t): t for t in chain(model.parameters(), model.buffers())}
        try:
            twin = copy.deepcopy(model, shared)
        except (RuntimeError, TypeError) as error:
            raise TypeError(
                f"{type(model).__name__} cannot be copied ({error}); a model must be a plain "
                "module whose tensors are parameters or buffers"
            ) from error
        for name, module in twin.named_modules():
            if is_batchnorm(module):
                _set_statistics(name, module, statistics, buffers)
            if isinstance(module, _WeightNorm):
                # The second derivative of torch's own kernel is wrong on a CPU (torch 2.13).
                module.forward = partial(_weight_norm, module.dim)  # type: ignore[method-assign]
        tensors = chain(twin.named_parameters(), twin.named_buffers())
        return cls(twin, frozenset(name for name, _ in tensors))

    def __call__(self, tensors: dict[str, Tensor], inputs: Any) -> Any:
        """The output at ``tensors``; inputs go in as a tensor, ``*tuple`` or ``**dict``."""
        known = {name: tensor for name, tensor in tensors.items() if name in self.names}
        if isinstance(inputs, dict):
            return functional_call(self.module, known, (), inputs)
        args = inputs if isinstance(inputs, tuple) else (inputs,)
        return functional_call(self.module, known, args)

    def stochastic(self) -> list[str]:
        """The modules that draw random numbers as they are now, each with its kind."""
        found = []
        for name, module in self.module.named_modules():
            rate = getattr(module, "p", None) if isinstance(module, _STOCHASTIC) else None
            if isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
                rate = module.dropout
            if module.training and (isinstance(module, nn.RReLU) or rate):
                found.append(f"{name or 'the model'} ({type(module).__name__} in training mode)")
        return found


def is_batchnorm(module: nn.Module) -> bool:
    """Whether ``statistics`` governs the module."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def constants(model: nn.Module, layout: Layout) -> dict[str, Tensor]:
    """Frozen parameters as they are, and copies of the buffers."""
    trainable = set(layout.names)
    with torch.inference_mode(False):
        frozen = {n: p.detach() for n, p in model.named_parameters() if n not in trainable}
        return {**frozen, **{n: b.detach().clone() for n, b in model.named_buffers()}}


@contextmanager
def drawing(model: nn.Module, device: torch.device) -> Iterator[list[str]]:
    """A list that gets the innermost modules that draw random numbers while they run inside."""
    found: list[str] = []
    entered: list[tuple[list[Tensor], int]] = []

    def enter(*_: Any) -> None:
        entered.append((_random_state(device), len(found)))

    def leave(name: str, module: nn.Module) -> None:
        before, known = entered.pop()
        same = all(map(torch.equal, before, _random_state(device)))
        if len(found) == known and not same:
            found.append(f"{name or 'the model'} ({type(module).__name__} draws random numbers)")

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(enter))
        handles.append(
            module.register_forward_hook(lambda module, *_, name=name: leave(name, module))
        )
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def state_keys(model: nn.Module) -> dict[str, str]:
    """Every key of the model's state dict with the first name of the tensor that it holds."""
    first: dict[int, str] = {}
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        first.setdefault(id(tensor), name)
    everything = chain(
        model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    )
    names = {name: first[id(tensor)] for name, tensor in everything}
    return {key: names[key] for key in model.state_dict() if key in names}


def measured_statistics(
    skeleton: Skeleton, tensors: dict[str, Tensor], source: Iterable[Batch], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Running mean and unbiased variance of every BatchNorm input, pooled over the batches.

    Each batch goes through with its own batch statistics, as in training; one of a single sample
    goes with its neighbour. Random modules draw from a fixed seed.
    """
    twin = Skeleton.of(skeleton.module, "batch")
    pools = {name: _Pool() for name, module in twin.module.named_modules() if is_batchnorm(module)}
    for name, module in twin.module.named_modules():
        if name in pools:
            module.register_forward_pre_hook(lambda _, args, pool=pools[name]: pool.add(args[0]))
    device = next(iter(tensors.values())).device
    with torch.no_grad(), seeded(0, device):
        for batch in data_batches.without_singles(source) if pools else ():
            twin(tensors, data_batches.cast(batch, dtype)[0])
    found = {}
    for name, pool in pools.items():
        found[f"{name}.running_mean"] = pool.mean
        found[f"{name}.running_var"] = pool.variance
    return {name: tensor for name, tensor in found.items() if name in tensors}


class seeded:
    """Random modules draw from ``seed`` inside, and the global generators come back untouched.

    Does nothing where ``seed`` is None.
    """

    def __init__(self, seed: int | None, device: torch.device):
        self._fork: Any = None
        if seed is not None:
            self._seed, self._device = seed, device
            self._fork = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])

    def __enter__(self) -> None:
        if self._fork is not None:
            self._fork.__enter__()
            torch.default_generator.manual_seed(self._seed)
            if self._device.type == "cuda":
                with torch.cuda.device(self._device):
                    torch.cuda.manual_seed(self._seed)

    def __exit__(self, *error: Any) -> None:
        if self._fork is not None:
            self._fork.__exit__(*error)


class _Pool:
    """Mean and variance per channel, pooled over batches (Chan, Golub & LeVeque 1983)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = None
        self._squares: Any = None

    def add(self, activations: Tensor) -> None:
        axes = [axis for axis in range(activations.ndim) if axis != 1]
        count = activations.numel() // activations.shape[1]
        mean = activations.mean(axes)
        squares = activations.var(axes, correction=0) * count
        if self.count == 0:
            self.count, self.mean, self._squares = count, mean, squares
            return
        delta, total = mean - self.mean, self.count + count
        self._squares = self._squares + squares + delta**2 * (self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.count = total

    @property
    def variance(self) -> Tensor:
        return self._squares / max(self.count - 1, 1)


def _weight_norm(dim: int, length: Tensor, direction: Tensor) -> Tensor:
    axes = [axis for axis in range(direction.ndim) if axis != dim]
    norm = torch.linalg.vector_norm(direction, dim=axes, keepdim=dim != -1)
    return direction * (length / norm)


def _random_state(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_statistics(
    name: str, module: Any, statistics: Statistics, buffers: dict[str, Tensor] | None
) -> None:
    module.training = statistics == "batch"
    if statistics == "batch":
        module.track_running_stats = False
        for buffer in _BUFFERS:
            module._buffers[buffer] = None
    elif buffers is not None and f"{name}.running_mean" in buffers:
        module.track_running_stats = True
        for buffer in _BUFFERS:
            module._buffers[buffer] = buffers.get(f"{name}.{buffer}")
