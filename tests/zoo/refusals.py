"""Models without a right answer: the gradient is not that of the value, or no function is there."""

import random

import torch
import torch.nn.functional as F
from cases import CE, MSE, Case, refused, rows, whole
from generative import Sampling, divergence
from physics import equilibrium
from sequences import SPOKEN, Listener, connectionist
from torch import nn

NOT_THE_SLOPE = "(?i:gradient|derivative)"
NOT_THE_SAME = "(?i:twice|two evaluations|random)"
NO_SECOND = "(?i:second|product|differences)"


class Rounded(nn.Linear):
    """Weights on a grid, with the gradient straight through."""

    def forward(self, x):
        weight = self.weight + (torch.round(self.weight * 4) / 4 - self.weight).detach()
        return F.linear(x, weight, self.bias)


@refused
def quantised_straight_through():
    model = nn.Sequential(Rounded(4, 6), nn.Tanh(), Rounded(6, 3))
    return Case(model=model, data=rows(), loss=CE, refused=NOT_THE_SLOPE)


class Spike(torch.autograd.Function):
    """A step with the derivative of a soft one."""

    @staticmethod
    def forward(ctx, potential):
        ctx.save_for_backward(potential)
        return (potential > 0).to(potential.dtype)

    @staticmethod
    def backward(ctx, slope):
        (potential,) = ctx.saved_tensors
        return slope / (1 + 5 * potential.abs()).square()


class Spiking(nn.Module):
    """Leaky neurons that fire."""

    def __init__(self):
        super().__init__()
        self.inner, self.out = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        potential = torch.zeros(len(x), 8, dtype=x.dtype)
        total = 0.0
        for _ in range(4):
            potential = 0.8 * potential + self.inner(x)
            spikes = Spike.apply(potential - 0.5)
            potential = potential - spikes
            total = total + self.out(spikes)
        return total / 4


@refused
def spiking_with_a_surrogate():
    return Case(model=Spiking(), data=rows(), loss=CE, refused=NOT_THE_SLOPE)


class Reversal(torch.autograd.Function):
    """The identity, whose gradient changes sign."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, slope):
        return -slope


class Adversarial(nn.Module):
    """Features whose domain a second head must not find (DANN)."""

    def __init__(self):
        super().__init__()
        self.trunk, self.label, self.domain = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(5, 2)

    def forward(self, x):
        hidden = torch.tanh(self.trunk(x))
        return self.label(hidden), self.domain(Reversal.apply(hidden))


@refused
def gradient_reversal():
    def loss(output, target):
        return CE(output[0], target[0]) + CE(output[1], target[1])

    x, y = rows()
    data = x, (y, (x[:, 0] > 0).long())
    return Case(model=Adversarial(), data=data, loss=loss, refused=NOT_THE_SLOPE)


class Siamese(nn.Module):
    """Two views, of which one is held still (SimSiam)."""

    def __init__(self):
        super().__init__()
        self.net, self.predictor = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, first, second):
        first, second = torch.tanh(self.net(first)), torch.tanh(self.net(second))
        return self.predictor(first), second.detach()


@refused
def stopped_gradient():
    x, y = rows()

    def loss(output, target):
        return MSE(*output)

    data = (x, x + 0.1 * torch.randn_like(x)), y
    return Case(model=Siamese(), data=data, loss=loss, refused=NOT_THE_SLOPE)


@refused
def energy_with_detached_samples():
    x, _ = rows()
    return Case(
        model=Sampling(detached=True), data=x, loss=divergence, own=whole, options={"seed": 0},
        refused=NOT_THE_SLOPE,
    )  # fmt: skip


@refused
def ctc_with_exact_derivatives():
    return Case(
        model=Listener(), data=(torch.randn(3, 5, 3), SPOKEN), loss=connectionist,
        refused="differences",
    )  # fmt: skip


@refused
def equilibrium_hooked():
    case = equilibrium("hooked")
    return Case(model=case.model, data=case.data, loss=CE, refused=NO_SECOND)


@refused
def dropout_without_a_seed():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 3)).train()
    return Case(model=model, data=rows(), loss=CE, refused="random")


@refused
def noise_without_a_seed():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(4, 3)

        def forward(self, x):
            return self.out(x + torch.randn_like(x))

    return Case(model=Noisy(), data=rows(), loss=CE, refused="random")


@refused
def counting_its_calls_outside():
    calls = []

    def loss(output, target):
        calls.append(len(target))
        return CE(output, target) * (1 + 0.1 * len(calls))

    return Case(model=nn.Linear(4, 3), data=rows(), loss=loss, refused=NOT_THE_SAME)


@refused
def noise_from_another_generator():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(4, 3)

        def forward(self, x):
            return self.out(x * (1 + random.random()))

    return Case(model=Noisy(), data=rows(), loss=CE, refused=NOT_THE_SAME)


@refused
def hard_choices_with_soft_gradients():
    class Choosing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.out = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x):
            return self.out(F.gumbel_softmax(self.inner(x), hard=True))

    return Case(
        model=Choosing(), data=rows(), loss=CE, options={"seed": 0}, refused=NOT_THE_SLOPE
    )  # fmt: skip


@refused
def compiled_by_torch_jit():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    return Case(
        model=torch.jit.trace(model, torch.randn(2, 4)), data=rows(), loss=CE, refused="torch.jit"
    )  # fmt: skip


@refused
def nothing_trainable():
    model = nn.Linear(4, 3).requires_grad_(False)
    return Case(model=model, data=rows(), loss=CE, refused="no trainable parameter")


@refused
def loss_that_is_not_finite():
    def loss(output, target):
        return (output.sum() - output.sum() - 1).log() + CE(output, target)

    return Case(model=nn.Linear(4, 3), data=rows(), loss=loss, refused="(?i:not finite|infinite)")


@refused
def complex_parameters():
    class Spectral(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, dtype=torch.cfloat))
            self.out = nn.Linear(4, 3)

        def forward(self, x):
            return self.out(torch.fft.irfft(torch.fft.rfft(x) * self.weight, n=4))

    return Case(model=Spectral(), data=rows(), loss=CE, refused="complex")


@refused
def parameters_that_wait_for_a_first_batch():
    model = nn.Sequential(nn.LazyLinear(6), nn.Tanh(), nn.Linear(6, 3))
    return Case(model=model, data=rows(), loss=CE, refused="(?i:uninitiali[sz]ed|lazy)")
