"""The forward pass of a network as graphs that ``torch.compile`` makes, for first derivatives."""

import warnings
from types import FunctionType
from typing import Any

import torch
from torch import nn

from landscape.networks.network import arguments

_SAID = 240  # letters of a reason
_MAKERS = ("torch._dynamo", "torch._inductor", "torch._functorch")


class NotCompiled(RuntimeError):
    """A network of which ``torch.compile`` makes nothing, or nothing that is the same."""


class Compiled:
    """The output of a network by one graph for each shape of its inputs.

    No graph has a break, and none serves several shapes: what a batch gives does not depend on
    which came before it. Random modules draw what they draw without it. A graph has first
    derivatives and no second ones.
    """

    def __init__(self):
        # Torch keeps graphs with the code of a function, eight at most: one code for each network.
        code = (lambda module, places, words: module(*places, **words)).__code__.replace()
        own = FunctionType(code, globals())
        self._call = torch.compile(own, fullgraph=True, dynamic=False, options=_options())

    def __call__(self, module: nn.Module, inputs: Any) -> Any:
        with warnings.catch_warnings():
            # While it traces, torch looks for gradients of weights, which are parts of a vector.
            warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not")
            return self._call(module, *arguments(module, inputs))


def failure(error: BaseException) -> str:
    """Why ``torch.compile`` has failed, in one line; empty if the error is of something else."""
    while error is not None and not _of_compiling(error):
        error = error.__cause__  # type: ignore[assignment]
    if error is None:
        return ""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # What follows are advice on switches of torch, and traces.
    said = " ".join(lines[:2]) if lines else ""
    return f"{type(error).__name__}: {said[:_SAID]}"


def _of_compiling(error: BaseException) -> bool:
    return any(kind.__module__.startswith(_MAKERS) for kind in type(error).__mro__)


def _options() -> dict[str, Any]:
    """Settings by which equal graphs give equal numbers, in any process; those that torch has."""
    # It takes a second to import.
    from torch._inductor import list_options

    wanted: dict[str, Any] = {"fallback_random": True, "deterministic": True}
    known = set(list_options())
    return {name: value for name, value in wanted.items() if name in known}
