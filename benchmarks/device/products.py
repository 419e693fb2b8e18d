"""Hessian-vector products and eigenvalues of ResNet-18, ResNet-50 and GPT-2.

A product with a kept graph, as the project takes it, stands beside a fresh double backward as one
would write it, and beside the same through torch.compile: traced to plain operations first, since
what torch compiles has no second derivative.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import cross_entropy

from benchmarks.device import machine, networks
from landscape.curvature import Hessian
from landscape.networks import EmpiricalRisk
from landscape.spectrum import top_eigenpairs

TOP, TOLERANCE, PRODUCTS = 5, 1e-3, 80


class Work(NamedTuple):
    """A network, and the shape of a batch: (images, side), or (sequences, tokens)."""

    make: Callable[[], nn.Module]
    shape: tuple[int, int]


WORK = {
    "ResNet-18": Work(networks.resnet18, (64, 224)),
    "ResNet-50": Work(networks.resnet50, (32, 224)),
    "GPT-2": Work(networks.gpt2, (4, 512)),
}
SMALL = {
    "ResNet-18, narrow": Work(networks.narrow_resnet18, (2, 32)),
    "ResNet-50, narrow": Work(networks.narrow_resnet50, (2, 32)),
    "GPT-2, tiny": Work(networks.tiny_gpt2, (2, 8)),
}


class Mixed(nn.Module):
    """A network whose forward pass is in bfloat16 where torch thinks that it may be."""

    def __init__(self, inner: nn.Module, device: torch.device):
        super().__init__()
        self.inner, self.kind = inner, device.type

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.autocast(self.kind, dtype=torch.bfloat16):
            return self.inner(inputs).float()


class Products:
    """A network on a batch at its point, and a direction.

    Args:
        work: which.
        device: where.
        peak: of products in float32, in TFLOP/s.
    """

    def __init__(self, work: Work, device: torch.device, peak: float):
        self.device, self.peak = device, peak
        with torch.random.fork_rng(devices=[]), torch.device(device):
            torch.default_generator.manual_seed(0)
            self.model = work.make().eval()
            count, length = work.shape
            if isinstance(self.model, networks.GPT2):
                tokens = torch.randint(0, 800, (count, length + 1))
                self.x, self.y, self.loss = tokens[:, :-1], tokens[:, 1:], of_tokens
            else:
                self.x, self.y = torch.randn(count, 3, length, length), torch.arange(count)
                self.loss = cross_entropy
        self.risk = self._risk(self.model)
        self.z = self.risk.point()
        self.u = torch.randn(self.z.shape, generator=torch.Generator("cpu").manual_seed(1))
        self.u = (self.u / self.u.norm()).to(device)

    def _risk(self, model: nn.Module) -> EmpiricalRisk:
        data = self.x, self.y
        return EmpiricalRisk(model, data, self.loss, evaluation="sequential", check=False)

    def eager(self) -> dict[str, Any]:
        """With a kept graph, and as a plain double backward."""
        hessian = None

        def built() -> None:
            nonlocal hessian
            hessian = Hessian(self.risk, self.z, memory=machine.room(self.device))

        graph = machine.once(built, self.device)
        assert hessian is not None
        plainly = self.plain()
        far = relative(hessian @ self.u, plainly())
        taken = machine.seconds(lambda: hessian @ self.u, self.device)
        rate = machine.flops(lambda: hessian @ self.u) / taken / 1e12
        fresh = machine.seconds(plainly, self.device)
        return {
            "parameters": self.risk.dim, "s for the graph": graph, "graph kept": hessian.cached,
            "graph GiB": hessian.graph_bytes / 2**30, "ms a product": 1e3 * taken,
            "TFLOP/s": rate, "share of the peak": rate / self.peak,
            "ms of a plain double backward": 1e3 * fresh, "relative difference": far,
        }  # fmt: skip

    def plain(self) -> Callable[[], Tensor]:
        """A function that takes a product from the start, by torch alone."""
        tensors = dict(self.model.named_parameters())

        def product() -> Tensor:
            loss = self.loss(functional_call(self.model, tensors, (self.x,)), self.y)
            slopes = torch.autograd.grad(loss, list(tensors.values()), create_graph=True)
            flat = torch.cat([s.reshape(-1) for s in slopes])
            found = torch.autograd.grad(flat @ self.u, list(tensors.values()))
            return torch.cat([f.reshape(-1) for f in found])

        return product

    def compiled(self) -> dict[str, Any]:
        """Traced to plain operations, then compiled."""
        layout, model, x, y, loss = self.risk.layout, self.model, self.x, self.y, self.loss

        def value(z: Tensor) -> Tensor:
            return loss(functional_call(model, layout.unflatten(z), (x,)), y)

        def product(z: Tensor, u: Tensor) -> Tensor:
            return grad(lambda at: grad(value)(at) @ u)(z)

        fast: Any = None
        torch.compiler.reset()

        def first() -> None:
            nonlocal fast
            fast = torch.compile(make_fx(product)(self.z, self.u))
            fast(self.z, self.u)

        took = machine.once(first, self.device)
        far = relative(fast(self.z, self.u), self.plain()())
        taken = machine.seconds(lambda: fast(self.z, self.u), self.device)
        return {"s to compile": took, "ms a product": 1e3 * taken, "relative difference": far}

    def top(self) -> dict[str, Any]:
        """The largest eigenvalues, and what of their time products are."""
        found: Any = None
        graph = machine.room(self.device)

        def all_of_them() -> None:
            nonlocal found
            found = top_eigenpairs(
                self.risk, self.z, TOP, tolerance=TOLERANCE, max_products=PRODUCTS, check=False,
                double=False, vectors=False, operator=partial(Hessian, memory=graph),
            )  # fmt: skip

        taken = machine.once(all_of_them, self.device)
        return {
            "s in all": taken, "products": found.products + found.check_products,
            "converged": int(found.converged.sum()), "largest": float(found.eigenvalues[0]),
            "bound": float(found.bounds[0]), "ms for each product": 1e3 * taken / found.products,
        }  # fmt: skip

    def bfloat16(self) -> dict[str, Any]:
        """A product with a forward pass in bfloat16, and how far off it is."""
        exact = self.plain()()
        mixed = self._risk(Mixed(self.model, self.device))
        hessian = Hessian(mixed, self.z, memory=machine.room(self.device))
        far = relative(hessian @ self.u, exact)
        taken = machine.seconds(lambda: hessian @ self.u, self.device)
        return {"ms a product": 1e3 * taken, "relative error": far}


def of_tokens(output: Tensor, target: Tensor) -> Tensor:
    """The mean cross-entropy over tokens."""
    return cross_entropy(output.flatten(0, 1), target.flatten())


def relative(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference over the norm of what is expected."""
    return float((found - expected).norm() / expected.norm())
