"""The truth: dense autograd in float64 on the user's own module; no code of the project."""

import copy
from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class Truth:
    """Value, gradient and Hessian of a case, at any vector of its trainable parameters.

    Args:
        case: a case of its own, since its module is turned into float64 and written to.
    """

    def __init__(self, case):
        self.case = case
        self.model = case.model.double()
        self.loss = case.loss.double() if isinstance(case.loss, nn.Module) else case.loss
        self.data = doubled(case.data)
        learned = self.loss.parameters() if isinstance(self.loss, nn.Module) else ()
        # Each once, also where the loss holds the model.
        everything = {id(p): p for p in (*self.model.parameters(), *learned)}
        self.parameters = [p for p in everything.values() if p.requires_grad]
        self.dim = sum(p.numel() for p in self.parameters)
        self.seed = case.options.get("seed")
        self.initial = flat(self.parameters).detach()

    def value(self, z: Tensor) -> float:
        with self._at(z):
            return float(self._scalar().detach())

    def gradient(self, z: Tensor) -> Tensor:
        with self._at(z):
            return self._slope(graph=False).detach()

    def hessian(self, z: Tensor) -> Tensor:
        """Row by row, each by a backward pass of its own."""
        with self._at(z):
            slope = self._slope(graph=True)
            if not slope.requires_grad:
                return slope.new_zeros(self.dim, self.dim)
            return torch.stack([self._derivative(entry, retain_graph=True) for entry in slope])

    def _slope(self, graph: bool) -> Tensor:
        return self._derivative(self._scalar(), create_graph=graph)

    def _derivative(self, scalar: Tensor, **options) -> Tensor:
        found = torch.autograd.grad(scalar, self.parameters, materialize_grads=True, **options)
        return flat(found)

    def _scalar(self) -> Tensor:
        return self.case.own(self.model, self.data, self.loss)

    @contextmanager
    def _at(self, z: Tensor):
        with torch.no_grad():
            for parameter, piece in zip(self.parameters, self._pieces(z), strict=True):
                parameter.copy_(piece.reshape(parameter.shape))
        with ExitStack() as stack:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            stack.enter_context(TwiceDifferentiable())
            if self.seed is not None:
                stack.enter_context(torch.random.fork_rng(devices=[]))
                stack.enter_context(DrawnInSingle())
                torch.default_generator.manual_seed(self.seed)
            yield

    def _pieces(self, z: Tensor):
        return z.split([p.numel() for p in self.parameters])


class Known:
    """The numbers of a case at one point, each computed once."""

    def __init__(self, truth: Truth, z: Tensor):
        self.truth = truth
        self.z = z

    @cached_property
    def value(self) -> float:
        return self.truth.value(self.z)

    @cached_property
    def gradient(self) -> Tensor:
        return self.truth.gradient(self.z)

    @cached_property
    def hessian(self) -> Tensor:
        return self.truth.hessian(self.z)

    @cached_property
    def eigenvalues(self) -> Tensor:
        """In descending order."""
        return torch.linalg.eigvalsh((self.hessian + self.hessian.T) / 2).flip(0)

    @cached_property
    def trace(self) -> float:
        return float(self.hessian.trace())


class TwiceDifferentiable(TorchFunctionMode):
    """Weight normalisation by its formula: the second derivative of torch's kernel is wrong."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch._weight_norm:
            direction, length, dim = args
            axes = [axis for axis in range(direction.ndim) if axis != dim]
            return direction * (length / direction.square().sum(axes, keepdim=True).sqrt())
        return function(*args, **(kwargs or {}))


class DrawnInSingle(TorchDispatchMode):
    """Random numbers as a model in float32 draws them: drawn in float32 and widened."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = function.overloadpacket.__name__
        if name in ("randn_like", "rand_like"):
            kwargs.pop("dtype", None)
            return function(args[0].float(), *args[1:], **kwargs).to(args[0].dtype)
        if name in ("bernoulli_", "normal_", "uniform_", "exponential_"):
            return args[0].copy_(function(args[0].float(), *args[1:], **kwargs))
        if name in ("randn", "rand", "normal") and kwargs.get("dtype") == torch.float64:
            return function(*args, **{**kwargs, "dtype": torch.float32}).double()
        return function(*args, **kwargs)


def flat(tensors) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def doubled(data):
    """The data with all floating-point tensors in float64; those that need derivatives still do."""
    if isinstance(data, Tensor):
        wide = data.detach().double() if data.is_floating_point() else data
        return wide.requires_grad_(data.requires_grad)
    if isinstance(data, Mapping):
        return {key: doubled(item) for key, item in data.items()}
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(doubled(item) for item in data))
    if isinstance(data, (tuple, list)):
        return type(data)(doubled(item) for item in data)
    if hasattr(data, "__dict__"):
        twin = copy.copy(data)
        twin.__dict__ = {key: doubled(item) for key, item in vars(data).items()}
        return twin
    return data
