"""Derivatives by inputs, fixed points, and dynamics inside a network."""

import math

import torch
from cases import CE, MSE, Case, by_name, case, labels, rows
from torch import nn


def field(inputs=1, width=6):
    return nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, 1))


class Equation(nn.Module):
    """The residual u'' + u, by two derivatives inside forward."""

    def __init__(self):
        super().__init__()
        self.net = field(1, 12)

    def forward(self, x):
        x = x.detach().requires_grad_()
        u = self.net(x)
        slope = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
        return torch.autograd.grad(slope.sum(), x, create_graph=True)[0] + u


class EquationByTransforms(nn.Module):
    """The same residual by torch.func."""

    def __init__(self):
        super().__init__()
        self.net = field(1, 12)

    def forward(self, x):
        def u(t):
            return self.net(t[None])[0, 0]

        return torch.func.vmap(torch.func.hessian(u))(x)[:, 0] + self.net(x)


def collocation(samples=12):
    x = torch.linspace(0, 3, samples)[:, None]
    return x, 0.1 * x.cos()


@case
def physics_inside_forward():
    return Case(model=Equation(), data=collocation(), loss=MSE)


@case
def physics_by_torch_func():
    return Case(model=EquationByTransforms(), data=collocation(), loss=MSE)


class Convected(nn.Module):
    """The field on groups of points of several sizes."""

    def __init__(self):
        super().__init__()
        self.net = field(2, 8)

    def forward(self, inside, start, upper, lower):
        return [self.net(points) for points in (inside, start, upper, lower)]


def points():
    t = torch.rand(4, 1)
    turn = 2 * math.pi
    inside = torch.rand(16, 2) * torch.tensor([turn, 1.0])
    return {
        "inside": inside.requires_grad_(),
        "start": torch.cat([torch.rand(6, 1) * turn, torch.zeros(6, 1)], 1),
        "upper": torch.cat([torch.full((4, 1), turn), t], 1),
        "lower": torch.cat([torch.zeros(4, 1), t], 1),
    }


def convection(output, points):
    """The equation, the start and the periodic boundary."""
    slope = torch.autograd.grad(output[0].sum(), points["inside"], create_graph=True)[0]
    start = output[1][:, 0] - points["start"][:, 0].sin()
    periodic = output[2] - output[3]
    equation = slope[:, 1] + 5 * slope[:, 0]
    return equation.square().mean() + start.square().mean() + periodic.square().mean()


@case
def physics_inside_the_loss():
    return Case(model=Convected(), data=points(), loss=convection, own=by_name)


@case
def physics_by_a_loss_on_model_and_batch():
    def loss(model, batch):
        return convection(model(**batch), batch)

    return Case(
        model=Convected(), data=points(), loss=loss, risk="ModelRisk",
        own=lambda model, data, loss: loss(model, data),
    )  # fmt: skip


class Hamiltonian(nn.Module):
    """Time derivatives of positions and momenta from a learned energy."""

    def __init__(self):
        super().__init__()
        self.energy = field(4, 6)

    def forward(self, state):
        with torch.enable_grad():
            state = state.requires_grad_() if state.is_leaf else state
            slope = torch.autograd.grad(self.energy(state).sum(), state, create_graph=True)[0]
        position, momentum = slope.chunk(2, -1)
        return torch.cat([momentum, -position], -1)


@case
def hamiltonian():
    x, _ = rows()
    return Case(model=Hamiltonian(), data=(x, x.roll(2, 1)), loss=MSE)


class Forces(nn.Module):
    """Energy of a molecule and the forces on its atoms, trained together."""

    def __init__(self):
        super().__init__()
        self.pair = field(1, 12)

    def forward(self, positions):
        with torch.enable_grad():
            positions = positions.detach().requires_grad_()
            apart = positions[:, :, None] - positions[:, None]
            distance = (apart.square().sum(-1, keepdim=True) + 0.1).sqrt()
            energy = self.pair(distance).sum((1, 2, 3))
            force = -torch.autograd.grad(energy.sum(), positions, create_graph=True)[0]
        return energy, force


@case
def energies_and_forces():
    def loss(output, target):
        return MSE(output[0], target[0]) + 10 * MSE(output[1], target[1])

    target = torch.randn(5), torch.randn(5, 3, 3)
    return Case(model=Forces(), data=(torch.randn(5, 3, 3), target), loss=loss)


class Flowing(nn.Module):
    """A neural ordinary differential equation by ten steps of Euler's method."""

    def __init__(self):
        super().__init__()
        self.speed = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4))
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        for step in range(10):
            time = torch.full_like(x[:, :1], step / 10)
            x = x + 0.1 * self.speed(torch.cat([x, time], 1))
        return self.out(x)


@case
def neural_ode():
    return Case(model=Flowing(), data=rows(), loss=CE)


class Equilibrium(nn.Module):
    """The fixed point of h = tanh(W h + x) for a map that contracts, and a classifier.

    Args:
        way: "unrolled", "implicit" (a backward of its own, which has a derivative too) or "hooked"
            (the gradient corrected by a hook, which has none).
    """

    def __init__(self, way):
        super().__init__()
        self.inner, self.outer, self.way = nn.Linear(5, 5, bias=False), nn.Linear(5, 3), way
        nn.init.uniform_(self.inner.weight, -0.2, 0.2)

    def step(self, h, x):
        return torch.tanh(self.inner(h) + x)

    def forward(self, x):
        if self.way == "implicit":
            return self.outer(Fixed.apply(self.inner.weight, x))
        h = torch.zeros_like(x)
        with torch.set_grad_enabled(self.way == "unrolled" and torch.is_grad_enabled()):
            for _ in range(40):
                h = self.step(h, x)
        return self.outer(h if self.way == "unrolled" else self.hooked(h, x))

    def hooked(self, h, x):
        found = self.step(h, x)
        if not found.requires_grad:
            return found
        start = h.detach().requires_grad_()
        image = self.step(start, x)

        def correct(slope):
            answer = slope
            for _ in range(40):
                answer = torch.autograd.grad(image, start, answer, retain_graph=True)[0] + slope
            return answer

        found.register_hook(correct)
        return found


class Fixed(torch.autograd.Function):
    """The fixed point itself; the backward solves the linear equation by differentiable steps."""

    @staticmethod
    def forward(ctx, weight, x):
        h = torch.zeros_like(x)
        for _ in range(40):
            h = torch.tanh(h @ weight.T + x)
        ctx.save_for_backward(weight, x, h)
        return h

    @staticmethod
    def backward(ctx, slope):
        weight, _, h = ctx.saved_tensors
        bend = 1 - h.square()
        matrix = torch.eye(h.shape[-1], dtype=h.dtype) - bend[:, :, None] * weight
        inner = torch.linalg.solve(matrix.mT, slope[..., None])[..., 0] * bend
        return inner.T @ h, inner


def unrolled(model, data, loss):
    """The same fixed point by plain steps, which autograd differentiates as often as one likes."""
    model.way = "unrolled"
    return loss(model(data[0]), data[1])


def equilibrium(way, **options):
    x = torch.randn(8, 5)
    return Case(
        model=Equilibrium(way), data=(x, labels(8)), loss=CE, own=unrolled, options=options
    )  # fmt: skip


@case
def equilibrium_unrolled():
    return equilibrium("unrolled")


@case
def equilibrium_implicit():
    return equilibrium("implicit")


@case
def equilibrium_hooked_by_differences():
    return equilibrium("hooked", derivatives="differences")
