"""Steps of populations of small networks, in four ways: which of them is the fastest, and where.

A member is a perceptron 13-64-64-3 with tanh (5,251 parameters) on 178 samples, and moves by
momentum along the gradient of all of them. ``stacked`` is a step as the project takes it;
``captured`` is the same step inside a CUDA graph, of which the host starts one thing instead of
many; ``compiled`` is a mapped gradient through torch.compile; ``loop`` is one torch optimiser after
another, over a few members.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from benchmarks.device import machine
from cnognp import METHODS
from cnognp.tasks.networks import mlp
from landscape.networks import EmpiricalRisk
from landscape.randomness import derive

SAMPLES, LOOPED, LR, MOMENTUM = 178, 8, 0.05, 0.9


class Population:
    """Members on a device, and the ways in which they move.

    Args:
        members: how many.
        device: where.
        peak: of products in float32, in TFLOP/s.
    """

    def __init__(self, members: int, device: torch.device, peak: float):
        self.members, self.device, self.peak = members, device, peak
        draw = torch.Generator("cpu").manual_seed(0)
        x = torch.randn(SAMPLES, 13, generator=draw).to(device)
        y = torch.randint(0, 3, (SAMPLES,), generator=draw).to(device)
        self.x, self.y = x, y
        self.model = mlp(13, (64, 64), 3, nn.Tanh).to(device)
        self.risk = EmpiricalRisk(
            self.model, (x, y), cross_entropy, evaluation="stacked", check=False
        )
        rows = torch.randn(members, self.risk.dim, generator=draw) / 10
        self.start = self.risk.point() + rows.to(device)

    def stacked(self) -> dict[str, Any]:
        """A step as the project takes it."""
        step, state = stepping("sgd", self.risk, self.start, momentum=MOMENTUM, lr=LR)

        def call() -> None:
            nonlocal state
            state = step(state)

        return self._rates(machine.seconds(call, self.device), call)

    def swarm(self) -> dict[str, Any]:
        """A step of CNOGNP on all data, whose random numbers the host draws."""
        step, state = stepping("cnognp", self.risk, self.start)

        def call() -> None:
            nonlocal state
            state = step(state)

        return self._rates(machine.seconds(call, self.device), call)

    def captured(self) -> dict[str, Any]:
        """The stacked step inside a CUDA graph, and how far it ends from the plain one."""
        step, state = stepping("sgd", self.risk, self.start, momentum=MOMENTUM, lr=LR)
        replay, held = captured(step, state)
        plain = state
        for _ in range(10):
            replay()
            plain = step(plain)
        far = float((held.position - plain.position).abs().max())
        return self._rates(machine.seconds(replay, self.device)) | {"differs after 10 steps": far}

    def compiled(self) -> dict[str, Any]:
        """A mapped gradient and its step through torch.compile."""
        layout, model, x, y = self.risk.layout, self.model, self.x, self.y

        def loss(z: Tensor) -> Tensor:
            return cross_entropy(functional_call(model, layout.unflatten(z), (x,)), y)

        def moved(z: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor]:
            velocity = MOMENTUM * velocity + vmap(grad(loss))(z)
            return z - LR * velocity, velocity

        torch.compiler.reset()
        fast, z, v = torch.compile(moved), self.start, torch.zeros_like(self.start)
        first = machine.once(lambda: fast(z, v), self.device)
        step, state = stepping("sgd", self.risk, self.start, momentum=MOMENTUM, lr=LR)
        far = float((fast(z, v)[0] - step(state).position).abs().max())
        taken = machine.seconds(lambda: fast(z, v), self.device)
        return self._rates(taken) | {"s of the first call": first, "differs after a step": far}

    def loop(self) -> dict[str, Any]:
        """One torch optimiser after another."""
        count = min(LOOPED, self.members)
        models = [mlp(13, (64, 64), 3, nn.Tanh).to(self.device) for _ in range(count)]
        optimisers = [torch.optim.SGD(m.parameters(), lr=LR, momentum=MOMENTUM) for m in models]

        def call() -> None:
            for model, optimiser in zip(models, optimisers, strict=True):
                optimiser.zero_grad()
                cross_entropy(model(self.x), self.y).backward()
                optimiser.step()

        taken = machine.seconds(call, self.device)
        return {"member-steps/s": count / taken, "members in the loop": count}

    def _rates(self, taken: float, call: Callable[[], Any] | None = None) -> dict[str, Any]:
        found = {"us a step": 1e6 * taken, "member-steps/s": self.members / taken}
        if call is not None:
            rate = machine.flops(call) / taken / 1e12
            found |= {"TFLOP/s": rate, "share of the peak": rate / self.peak}
        return found


def stepping(name: str, risk: Any, start: Tensor, **options: Any) -> tuple[Callable, Any]:
    """A function from a state to the next one, and the first state."""
    whole = {} if name == "gd" else {"batch_size": 0}
    method: Any = METHODS[name](**whole, **options)
    generator = derive(torch.Generator("cpu").manual_seed(0), "round", 0)
    return lambda state: method.step(risk, state, generator)[0], method.init(risk, start)


def captured(step: Callable[[Any], Any], state: Any) -> tuple[Callable[[], None], Any]:
    """A step inside a CUDA graph: a function that takes one, and the state that it writes to.

    Args:
        step: from a named tuple of tensors on the device to the next one. It neither draws random
            numbers nor asks for numbers.
        state: the first.
    """
    held = type(state)(*(tensor.clone() for tensor in state))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        # What is made at the first call, and chosen by the libraries, is not part of a graph.
        for _ in range(3):
            step(held)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for tensor, new in zip(held, step(held), strict=True):
            tensor.copy_(new)
    return graph.replay, held
