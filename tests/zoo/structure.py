"""Networks whose parameters are shared, routed, generated, masked or stacked, and odd forwards."""

import torch
import torch.nn.functional as F
from cases import CE, MSE, Case, case, perceptron, rows
from torch import nn
from torch.nn.utils import parametrizations, prune


class Mixture(nn.Module):
    """A mixture of experts: two of four work on a sample, and some have no sample at all."""

    def __init__(self, experts=4):
        super().__init__()
        self.gate = nn.Linear(4, experts)
        self.experts = nn.ModuleList(perceptron(3) for _ in range(experts))

    def forward(self, x):
        weight, chosen = self.gate(x).topk(2, -1)
        weight, found = weight.softmax(-1), x.new_zeros(len(x), 3)
        for index, expert in enumerate(self.experts):
            row, place = (chosen == index).nonzero(as_tuple=True)
            if len(row):
                found = found.index_add(0, row, weight[row, place, None] * expert(x[row]))
        return found


@case
def mixture_of_experts():
    model = Mixture()
    with torch.no_grad():
        # Far from every change of the choice, and never the last expert.
        model.gate.bias.copy_(torch.tensor([3.0, 1.0, -1.0, -9.0]))
    x, y = rows()
    return Case(model=model, data=(0.3 * x, y), loss=CE)


class Adapted(nn.Module):
    """A frozen linear layer and a correction of low rank."""

    def __init__(self, base, rank=2):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, base.in_features))
        self.up = nn.Parameter(0.1 * torch.randn(base.out_features, rank))

    def forward(self, x):
        return self.base(x) + x @ self.down.T @ self.up.T


@case
def low_rank_adaptation():
    model = nn.Sequential(Adapted(nn.Linear(4, 8)), nn.Tanh(), Adapted(nn.Linear(8, 3)))
    return Case(model=model, data=rows(), loss=CE)


class Hyper(nn.Module):
    """A network whose weights another network gives."""

    def __init__(self):
        super().__init__()
        self.hyper = nn.Linear(2, 15)
        self.out = nn.Linear(3, 3)

    def forward(self, x, task):
        weight, bias = self.hyper(task).split([12, 3], -1)
        parameters = {"weight": weight.reshape(3, 4), "bias": bias}
        inner = torch.func.functional_call(nn.Linear(4, 3, device="meta"), parameters, x)
        return self.out(torch.tanh(inner))


@case
def hypernetwork():
    x, y = rows()
    return Case(model=Hyper(), data=((x, torch.randn(2)), y), loss=CE)


@case
def function_that_closes_over_the_module():
    class Closing(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)
            self.body = lambda t: torch.tanh(self.first(t))

        def forward(self, x):
            return self.second(self.body(x))

    return Case(model=Closing(), data=rows(), loss=CE)


@case
def pruned():
    model = perceptron()
    prune.l1_unstructured(model[0], "weight", 0.4)
    prune.random_structured(model[2], "weight", 1, dim=1)
    model(torch.randn(2, 4))
    return Case(model=model, data=rows(), loss=CE)


class Tied(nn.Module):
    """An autoencoder that decodes with the transposed weights, twice over."""

    def __init__(self):
        super().__init__()
        self.encoder, self.again = nn.Linear(4, 6), nn.Linear(4, 6)
        self.again.weight = self.encoder.weight
        self.bias = nn.Parameter(torch.zeros(4))

    def forward(self, x):
        found = torch.tanh(self.encoder(x)) @ self.encoder.weight + self.bias
        return torch.tanh(self.again(found)) @ self.encoder.weight + self.bias


@case
def tied_autoencoder():
    x, _ = rows()
    return Case(model=Tied(), data=(x, x), loss=MSE)


class Splines(nn.Module):
    """A layer of learned splines on its edges, as in Kolmogorov-Arnold networks."""

    def __init__(self, inputs, outputs, cells=3, degree=3):
        super().__init__()
        step = 4.0 / cells
        knots = torch.arange(-degree, cells + degree + 1) * step - 2.0
        self.register_buffer("knots", knots)
        self.degree = degree
        self.weight = nn.Parameter(0.5 * torch.randn(outputs, inputs, cells + degree))
        self.base = nn.Parameter(torch.randn(outputs, inputs))

    def forward(self, x):
        t, knots = x[..., None], self.knots
        basis = ((t >= knots[:-1]) & (t < knots[1:])).to(x.dtype)
        for k in range(1, self.degree + 1):
            left = (t - knots[: -k - 1]) / (knots[k:-1] - knots[: -k - 1]) * basis[..., :-1]
            right = (knots[k + 1 :] - t) / (knots[k + 1 :] - knots[1:-k]) * basis[..., 1:]
            basis = left + right
        return torch.einsum("nik,oik->no", basis, self.weight) + F.silu(x) @ self.base.T


@case
def splines_on_edges():
    model = nn.Sequential(Splines(4, 2), nn.Tanh(), Splines(2, 3))
    return Case(model=model, data=rows(), loss=CE)


@case
def parallel_wrapper():
    model = nn.DataParallel(perceptron())
    return Case(model=model, data=rows(), loss=CE, excused="DataParallel")


@case
def first_layer_in_place():
    model = nn.Sequential(nn.SiLU(inplace=True), *perceptron())

    def own(model, data, loss):
        return loss(model(data[0].clone()), data[1])

    return Case(model=model, data=rows(), loss=CE, own=own, excused="in place")


class Fourier(nn.Module):
    """A layer of a Fourier neural operator; its complex weights are kept as pairs."""

    def __init__(self, width=3, modes=2):
        super().__init__()
        self.lift, self.out = nn.Linear(1, width), nn.Linear(width, 1)
        self.weight = nn.Parameter(0.5 * torch.randn(width, width, modes, 2))

    def forward(self, x):
        lifted = self.lift(x)
        weight = torch.view_as_complex(self.weight)
        waves = torch.fft.rfft(lifted, dim=1)[:, : weight.shape[-1]]
        mixed = torch.einsum("nki,iok->nko", waves, weight)
        return self.out(torch.fft.irfft(mixed, n=x.shape[1], dim=1) + torch.tanh(lifted))


@case
def fourier_neural_operator():
    x = torch.randn(6, 8, 1)
    return Case(model=Fourier(), data=(x, x.cumsum(1)), loss=MSE)


@case
def orthogonal_weights():
    inner = parametrizations.orthogonal(nn.Linear(4, 4), orthogonal_map="matrix_exp")
    return Case(model=nn.Sequential(inner, nn.Tanh(), nn.Linear(4, 3)), data=rows(), loss=CE)


class Ensemble(nn.Module):
    """Members with stacked weights, evaluated together by torch.func."""

    def __init__(self, members=3):
        super().__init__()
        nets = [perceptron(2) for _ in range(members)]
        stacked, _ = torch.func.stack_module_state(nets)
        self.weights = nn.ParameterList(nn.Parameter(part.detach()) for part in stacked.values())
        self.names, self.base = list(stacked), [nets[0].to("meta")]

    def forward(self, x):
        def member(weights):
            return torch.func.functional_call(self.base[0], weights, (x,))

        stacked = dict(zip(self.names, self.weights, strict=True))
        return torch.func.vmap(member)(stacked).mean(0)


@case
def ensemble_by_vmap():
    return Case(model=Ensemble(), data=rows(), loss=CE)


class Watching(nn.Module):
    """Keeps statistics of what it has seen, and never reads them."""

    def __init__(self):
        super().__init__()
        self.net = perceptron()
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        self.seen += len(x)
        self.mean = self.mean + 0.1 * (x.mean(0) - self.mean)
        return self.net(x)


@case
def buffers_that_watch():
    return Case(model=Watching(), data=rows(), loss=CE)


class Counting(nn.Module):
    """An output that depends on how often it was asked, which an attribute keeps."""

    def __init__(self):
        super().__init__()
        self.net, self.calls = perceptron(), 0

    def forward(self, x):
        self.calls += 1
        return self.net(x) * (1 + 0.1 * self.calls)


@case
def attribute_that_counts():
    def own(model, data, loss):
        model.calls = 0
        return loss(model(data[0]), data[1])

    pattern = "(?i:twice|two evaluations|random)"
    return Case(model=Counting(), data=rows(), loss=CE, own=own, excused=pattern)


@case
def weights_of_16_bits():
    x, y = rows()
    return Case(model=perceptron().bfloat16(), data=(x.bfloat16(), y), loss=CE)
