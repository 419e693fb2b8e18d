"""The caller's own modules as a function of named tensors that each call brings.

For the time of a call the given tensors stand in the modules in the place of parameters and
buffers; afterwards everything is as it was. No copy is made: a function that closes over the model,
a hook, a regulariser over ``model.parameters()`` see the same tensors as the forward pass. What
runs again later (activation checkpointing) gets them once more.
"""

import copy
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.weight_norm import WeightNorm

from landscape.networks.layout import Layout
from landscape.networks.recomputation import resumed

Statistics = Literal["frozen", "batch"]
Mode = Literal["given", "eval"]

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
_STOCHASTIC = (nn.modules.dropout._DropoutNd, nn.RReLU)
_ABSENT = object()
Container = dict[Any, Any] | list[Any]
Twin = TypeVar("Twin")


class Place(NamedTuple):
    """One entry of a dictionary: of a module's tensors, or of its attributes."""

    holder: dict[str, Any]
    key: str


class Network:
    """Modules whose tensors are given by each call.

    Args:
        model: the caller's module; shared, not copied.
        statistics: what BatchNorm normalises with. With ``"batch"`` its layers have no running
            statistics during a call, so that nothing can change them.
        mode: ``"given"``: all other modules in the mode in which they are now; ``"eval"``: all in
            evaluation mode.
        loss: the loss; where it is a module, its tensors belong to the network.
        prefix: what their names begin with.

    Attributes:
        names: of all tensors, each by its first name.
        prefix: of the loss's tensors.

    Raises:
        TypeError: if the module is compiled or spread over devices, or has parameters that do not
            exist yet.
    """

    def __init__(
        self,
        model: nn.Module,
        statistics: Statistics,
        mode: Mode = "given",
        loss: Any = None,
        prefix: str = "loss.",
    ):
        self.module = model
        self.loss = loss if isinstance(loss, nn.Module) else None
        self.mode: Mode = mode
        _check_plain(model)
        self.prefix = prefix
        while any(name.startswith(self.prefix) for name, _ in model.named_parameters()):
            self.prefix = f"_{self.prefix}"
        self._places: dict[str, list[Place]] = {}
        self.parameters: dict[str, nn.Parameter] = {}
        self.buffers: dict[str, Tensor] = {}
        self._read_tensors()
        self.names = frozenset(self._places)
        self._modes = [
            (module.__dict__, module.training and mode == "given") for module in self.modules()
        ]
        self._changing: list[tuple[Container, Any]] = []
        self.statistics: Statistics = statistics
        self._overrides = self._fixed(statistics)

    def modules(self) -> Iterator[nn.Module]:
        """All modules, those of the loss last."""
        yield from self.module.modules()
        if self.loss is not None:
            yield from self.loss.modules()

    def with_statistics(self, statistics: Statistics) -> "Network":
        """The same network with BatchNorm normalising with something else."""
        twin = twin_of(self)
        twin.statistics = statistics
        twin._overrides = twin._fixed(statistics)
        return twin

    def at_rest(self) -> "Network":
        """The same network in evaluation mode, its BatchNorm frozen."""
        twin = Network(self.module, "frozen", "eval", self.loss, self.prefix)
        twin._changing = self._changing
        return twin

    @contextmanager
    def given(self, tensors: dict[str, Tensor], *, again: Any = None) -> Iterator[None]:
        """Inside, the modules hold these tensors.

        Args:
            tensors: by name.
            again: makes the context in which a checkpoint runs its function again; this one where
                None.
        """
        saved: list[tuple[dict[str, Any], str, Any]] = []
        kept: list[tuple[Container, Any]] = []
        try:
            for holder, training in self._modes:
                if holder["training"] != training:
                    saved.append((holder, "training", holder["training"]))
                    holder["training"] = training
            for name, tensor in tensors.items():
                for holder, key in self._places.get(name, ()):
                    saved.append((holder, key, holder[key]))
                    holder[key] = tensor
            kept = [(container, copy.copy(container)) for container, _ in self._changing]
            for container, value in self._changing:
                _fill(container, value)
            for (holder, key), value in self._overrides:
                saved.append((holder, key, holder.get(key, _ABSENT)))
                _put(holder, key, value)
            with resumed(again or partial(self.given, tensors)):
                yield
        finally:
            for holder, key, value in reversed(saved):
                _put(holder, key, value)
            for container, value in kept:
                _fill(container, value)

    def __call__(self, inputs: Any) -> Any:
        """The model's output, inside `given`.

        Inputs go in as one argument; a plain tuple as ``*tuple``, a mapping as ``**dict``.
        """
        return called(self.module, inputs)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Notes what the modules keep between calls; every call begins from what it is now.

        Hidden states, caches and weights that a hook computes are attributes, or lie in lists,
        dictionaries and objects that are attributes.
        """
        before = [(c, copy.copy(c)) for module in self.modules() for c in _containers(module)]
        try:
            yield
        finally:
            known = {id(container) for container, _ in self._changing}
            for container, old in before:
                if not _same(container, old):
                    if id(container) not in known:
                        self._changing.append((container, old))
                    _fill(container, old)

    def settle(self, module: Any, dtype: torch.dtype, device: torch.device) -> None:
        """Gives a BatchNorm without running statistics means of 0 and variances of 1, in calls."""
        zeros = torch.zeros(module.num_features, dtype=dtype, device=device)
        self._overrides = [
            *self._overrides,
            (Place(module._buffers, "running_mean"), zeros),
            (Place(module._buffers, "running_var"), zeros + 1),
        ]

    def stochastic(self) -> list[str]:
        """The modules that draw random numbers as they are now, each with its kind."""
        found = []
        for name, module in self.named_modules():
            rate = getattr(module, "p", None) if isinstance(module, _STOCHASTIC) else None
            if isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
                rate = module.dropout
            training = module.training and self.mode == "given"
            if training and (isinstance(module, nn.RReLU) or rate):
                found.append(f"{name or 'the model'} ({type(module).__name__} in training mode)")
        return found

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """All modules by name, those of the loss behind its prefix."""
        yield from self.module.named_modules()
        for name, module in self.loss.named_modules() if self.loss is not None else ():
            yield f"{self.prefix}{name}".rstrip("."), module

    def still(self, layout: Layout) -> Tensor | None:
        """(p,) booleans: the padding rows of embeddings, to which torch gives no gradient."""
        found = None
        entries = {entry.name: entry for entry in layout.entries}
        owners = {id(p): name for name, p in self.parameters.items()}
        for module in self.modules():
            padding = getattr(module, "padding_idx", None)
            weight = getattr(module, "weight", None)
            if padding is None or not isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
                continue
            entry = entries.get(owners.get(id(weight), ""))
            if entry is not None:
                found = torch.zeros(layout.dim, dtype=torch.bool) if found is None else found
                found[entry.span].view(entry.shape)[padding] = True
        return found

    def name_of(self, tensor: Tensor) -> str:
        """The name of one of the network's own tensors; empty where it is none."""
        for name, own in chain(self.parameters.items(), self.buffers.items()):
            if own is tensor:
                return name
        return ""

    def _read_tensors(self) -> None:
        first: dict[int, str] = {}
        for prefix, root in (("", self.module), (self.prefix, self.loss)):
            if root is None:
                continue
            for name, parameter in root.named_parameters():
                if id(parameter) not in first:
                    first[id(parameter)] = prefix + name
                    self.parameters[prefix + name] = parameter
            for name, buffer in root.named_buffers():
                if id(buffer) not in first:
                    first[id(buffer)] = prefix + name
                    self.buffers[prefix + name] = buffer
        for module in self.modules():
            for holder in (module._parameters, module._buffers):
                for key, tensor in holder.items():
                    if tensor is not None:
                        place = Place(holder, key)  # type: ignore[arg-type]
                        self._places.setdefault(first[id(tensor)], []).append(place)

    def _fixed(self, statistics: Statistics) -> list[tuple[Place, Any]]:
        """What stands in the modules during a call beside the tensors."""
        found: list[tuple[Place, Any]] = []
        if any(parametrize.is_parametrized(module) for module in self.modules()):
            # Inside `cached` torch would keep what it computed from other tensors.
            found.append((Place(vars(parametrize), "_cache_enabled"), 0))
        for module in self.modules():
            own = module.__dict__
            if is_batchnorm(module):
                found.append((Place(own, "training"), statistics == "batch"))
                if statistics == "batch":
                    found.append((Place(own, "track_running_stats"), False))
                    found += [(Place(module._buffers, key), None) for key in _BUFFERS]  # type: ignore[arg-type]
            if isinstance(module, _WeightNorm):
                # The second derivative of torch's own kernel is wrong on a CPU (torch 2.13).
                found.append((Place(own, "forward"), partial(_weight_norm, module.dim)))
            for hook in module._forward_pre_hooks.values():
                if type(hook) is WeightNorm:
                    found.append((Place(hook.__dict__, "compute_weight"), partial(_computed, hook)))
            if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
                if module.sparse:
                    # The gradient of a vector is one vector, whatever part of it is zero.
                    found.append((Place(own, "sparse"), False))
                if module.max_norm is not None:
                    found += _renormalised(module)
        return found


def twin_of(item: Twin) -> Twin:
    """A shallow copy of an object of ours; `copy.copy` takes several times as long."""
    twin = object.__new__(type(item))
    twin.__dict__.update(item.__dict__)
    return twin


def called(module: nn.Module, inputs: Any) -> Any:
    """The module's output; a mapping goes in by names, a plain tuple as several arguments.

    A named tuple does where the module takes so many.
    """
    places, words = arguments(module, inputs)
    return module(*places, **words)


def arguments(module: nn.Module, inputs: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """How inputs go into the module: those by place, and those by name."""
    if isinstance(inputs, Mapping):
        return (), inputs
    if not isinstance(inputs, tuple) or isinstance(inputs, nn.utils.rnn.PackedSequence):
        return (inputs,), {}
    if hasattr(inputs, "_fields"):
        try:
            inspect.signature(module.forward).bind(*inputs)
        except TypeError:
            return (inputs,), {}
    return tuple(inputs), {}


def is_batchnorm(module: nn.Module) -> bool:
    """Whether ``statistics`` governs the module."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def constants(network: Network, layout: Layout) -> dict[str, Tensor]:
    """Frozen parameters as they are, and copies of the buffers."""
    trainable = set(layout.names)
    with torch.inference_mode(False):
        frozen = {n: p.detach() for n, p in network.parameters.items() if n not in trainable}
        return {**frozen, **{n: b.detach().clone() for n, b in network.buffers.items()}}


@contextmanager
def drawing(network: Network, device: torch.device) -> Iterator[list[str]]:
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
    for name, module in network.named_modules():
        handles.append(module.register_forward_pre_hook(enter))
        handles.append(
            module.register_forward_hook(lambda module, *_, name=name: leave(name, module))
        )
    outside = _random_state(device)
    try:
        yield found
        if not found and not all(map(torch.equal, outside, _random_state(device))):
            found.append("the loss (draws random numbers)")
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


def _containers(module: nn.Module) -> Iterator[Container]:
    """The attributes of a module as a dictionary, and the containers among them."""
    yield module.__dict__
    for key, value in module.__dict__.items():
        if not key.startswith("_") or key.startswith("__"):
            yield from _inner(value, 2)


def _inner(value: Any, depth: int) -> Iterator[Container]:
    if isinstance(value, (nn.Module, Tensor, type)) or callable(value) or depth == 0:
        return
    inside: Any = value if isinstance(value, (dict, list)) else getattr(value, "__dict__", None)
    if not isinstance(inside, (dict, list)):
        return
    yield inside
    for item in inside.values() if isinstance(inside, dict) else inside:
        yield from _inner(item, depth - 1)


def _same(container: Container, old: Container) -> bool:
    if len(container) != len(old):
        return False
    if isinstance(container, list):
        return all(a is b for a, b in zip(container, old, strict=True))
    return all(container.get(key, _ABSENT) is value for key, value in old.items())  # type: ignore[union-attr]


def _fill(container: Container, value: Container) -> None:
    if isinstance(container, list):
        container[:] = value
    elif not _same(container, value):
        container.clear()
        container.update(value)  # type: ignore[arg-type]


def _put(holder: dict[str, Any], key: str, value: Any) -> None:
    if value is _ABSENT:
        holder.pop(key, None)
    else:
        holder[key] = value


def _check_plain(model: nn.Module) -> None:
    """Nothing, if the module takes other tensors for a call.

    Raises:
        TypeError: if not.
    """
    kind = type(model).__name__
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise TypeError(f"{kind} spreads a module over devices: give that module, model.module")
    for name, module in model.named_modules():
        where = f"{name or 'the model'} ({type(module).__name__})"
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(
                f"{kind} is compiled by torch.jit, which allows no other weights in a call; give "
                "the plain module"
            )
        if "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None):
            raise TypeError(
                f"{where} is compiled by torch.compile, whose graphs have no second derivative; "
                "give the plain module, model._orig_mod, or do without model.compile()"
            )
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise TypeError(
                f"{name} has no shape yet (a lazy module): run one batch through the model first, "
                "model(inputs)"
            )
        if parameter.is_meta:
            raise TypeError(
                f"{name} has no numbers (it is on the meta device): give it some first, "
                "model.to_empty(device='cpu') and load_state_dict"
            )
        if parameter.is_complex() and parameter.requires_grad:
            raise TypeError(
                f"{name} is {parameter.dtype}, and a vector of real numbers is needed: make the "
                "parameter real, nn.Parameter(torch.view_as_real(w)), and use "
                "torch.view_as_complex(w) in forward"
            )


def _renormalised(module: Any) -> list[tuple[Place, Any]]:
    """An embedding with ``max_norm`` as a function of its weight, which torch would write over."""
    limit, kind = module.max_norm, module.norm_type
    plain = module.forward

    def scaled(weight: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(weight, ord=kind, dim=-1, keepdim=True)
        return torch.where(norm > limit, weight * (limit / (norm + 1e-7)), weight)

    def looked_up(indices: Tensor) -> Tensor:
        return scaled(F.embedding(indices, module.weight, module.padding_idx))

    def bagged(*args: Any, **kw: Any) -> Tensor:
        raw = module._parameters["weight"]
        module._parameters["weight"] = scaled(raw)
        try:
            return plain(*args, **kw)
        finally:
            module._parameters["weight"] = raw

    forward = looked_up if isinstance(module, nn.Embedding) else bagged
    own = module.__dict__
    return [(Place(own, "max_norm"), None), (Place(own, "forward"), forward)]


def _computed(hook: Any, module: Any) -> Tensor:
    length, direction = (getattr(module, f"{hook.name}{end}") for end in ("_g", "_v"))
    return _weight_norm(hook.dim, length, direction)


def _weight_norm(dim: int, length: Tensor, direction: Tensor) -> Tensor:
    axes = [axis for axis in range(direction.ndim) if axis != dim]
    norm = torch.linalg.vector_norm(direction, dim=axes, keepdim=dim != -1)
    return direction * (length / norm)


def _random_state(device: torch.device) -> list[Tensor]:
    state: Any = np.random.get_state()  # noqa: NPY002
    legacy = torch.from_numpy(state[1].astype(np.int64))
    # Not Python's own: whatever else runs in the process may draw from that.
    states = [torch.get_rng_state(), legacy]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states
