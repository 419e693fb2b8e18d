"""What a module of one's own class calls, where that is a straight chain of modules."""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

Leaf = tuple[str, nn.Module]

_SAMPLES = 16
_CALLS: dict[Any, type[nn.Module]] = {
    torch.relu: nn.ReLU, F.relu: nn.ReLU, "relu": nn.ReLU,
    torch.tanh: nn.Tanh, F.tanh: nn.Tanh, "tanh": nn.Tanh,
    torch.sigmoid: nn.Sigmoid, F.sigmoid: nn.Sigmoid, "sigmoid": nn.Sigmoid,
    F.softplus: nn.Softplus, F.silu: nn.SiLU, F.gelu: nn.GELU, F.elu: nn.ELU,
}  # fmt: skip


def chain(model: nn.Module) -> list[Leaf] | None:
    """The modules that the model calls one after the other, by prefix; None if it does more.

    The caller's model is not called, only a copy of it. It must call the same in training and in
    evaluation mode.
    """
    modules = list(model.modules())
    plain = all(
        type(m).__call__ is nn.Module.__call__ and "forward" not in vars(m) and not m._buffers
        for m in modules
    )
    own = sum(len(m._parameters) for m in modules if type(m) is not nn.Linear)
    if not plain or own:
        return None
    try:
        found = [_traced(copy.deepcopy(model).train(mode)) for mode in (True, False)]
    except Exception:
        # Code that depends on its data, or whatever else a user's class does.
        return None
    calls = [None if f is None else [(prefix, repr(m)) for prefix, m in f] for f in found]
    if found[0] is None or calls[0] != calls[1]:
        return None
    known = dict(model.named_modules())
    return [(prefix, known[prefix[:-1]] if prefix else m) for prefix, m in found[0]]


def agrees(
    model: nn.Module,
    inputs: Tensor,
    outputs: Callable[[dict[str, Tensor], Tensor], Tensor],
    evaluated: bool,
) -> bool:
    """Whether ``outputs`` of the parameters and of (inputs, samples) are those of the model."""
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            twin, x = copy.deepcopy(model).double(), inputs[:_SAMPLES].double()
            if evaluated:
                twin.eval()
            # Not where every activation may have died.
            x = torch.cat([x, -x])
            truth = twin(x)
            tensors = {name: p.detach()[None] for name, p in twin.named_parameters()}
            ours = outputs(tensors, x.flatten(1).T.contiguous())[0].T
        return truth.shape == ours.shape and torch.allclose(truth, ours, rtol=1e-9, atol=1e-12)
    except Exception:
        return False


def _traced(model: nn.Module) -> list[Leaf] | None:
    """The chain of one graph, each node fed by the one before and by nothing else."""
    known = dict(model.named_modules())
    read: set[str] = set()
    _watch(model, read)
    leaves: list[Leaf] = []
    last: fx.Node | None = None
    for node in fx.Tracer().trace(model).nodes:
        if node.op == "placeholder" and last is None:
            last = node
            continue
        straight = bool(node.args) and node.args[0] is last and len(node.all_input_nodes) == 1
        if not straight or last is None or len(last.users) != 1:
            return None
        if node.op == "output":
            return None if read else leaves
        last = node
        if node.op == "call_module" and not node.kwargs and len(node.args) == 1:
            leaves.append((f"{node.target}.", known[str(node.target)]))
        elif node.target in (torch.flatten, "flatten") and node.args[1:] == (1,):
            leaves.append(("", nn.Flatten()))
        elif node.target in _CALLS and len(node.args) == 1 and _plain(node):
            leaves.append(("", _CALLS[node.target]()))
        else:
            return None
    return None


def _watch(model: nn.Module, read: set[str]) -> None:
    """Notes which attributes a class's code reads: they may be changed later, and another path run.

    Modules and modes are no such attributes.
    """
    for module in model.modules():
        kind: Any = type(module)
        names = set(vars(module)) - set(vars(nn.Module()))

        def get(self: Any, name: str, kind: Any = kind, names: set[str] = names) -> Any:
            if name in names:
                read.add(name)
            return kind.__getattribute__(self, name)

        if not kind.__module__.startswith("torch.nn."):
            module.__class__ = type(kind.__name__, (kind,), {"__getattribute__": get})


def _plain(node: fx.Node) -> bool:
    """Whether a function is called as its module calls it by default."""
    defaults = {
        "inplace": False, "approximate": "none", "alpha": 1.0, "beta": 1, "threshold": 20
    }  # fmt: skip
    return all(name in defaults and defaults[name] == got for name, got in node.kwargs.items())
