"""Networks whose parameters are shared, frozen, routed, generated, masked, or live in the loss."""

import copy

import torch
import torch.nn.functional as F
from cases import CE, MSE, Case, case, labels, rows
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.data import DataLoader, TensorDataset


def perceptron(width=5):
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))


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


class Weighted(nn.Module):
    """Two losses with learned weights (Kendall, Gal and Cipolla 2018)."""

    def __init__(self):
        super().__init__()
        self.log_variance = nn.Parameter(torch.tensor([0.2, -0.3]))

    def forward(self, output, target):
        heads = torch.stack([CE(output[0], target[0]), MSE(output[1], target[1])])
        return ((-self.log_variance).exp() * heads + self.log_variance).sum()


class Heads(nn.Module):
    """A trunk with two heads."""

    def __init__(self):
        super().__init__()
        self.trunk, self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x):
        hidden = torch.tanh(self.trunk(x))
        return self.first(hidden), self.second(hidden)


@case
def heads_with_learned_weights():
    x, y = rows()
    return Case(model=Heads(), data=(x, (y, torch.randn(12, 2))), loss=Weighted())


@case
def regulariser_over_the_parameters():
    model = perceptron()

    def loss(output, target):
        return CE(output, target) + 0.3 * sum(p.square().sum() for p in model.parameters())

    return Case(model=model, data=rows(), loss=loss)


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
def a_loader_with_an_uneven_last_batch():
    x, y = rows(10)
    loader = DataLoader(TensorDataset(x, y), batch_size=4)

    def own(model, data, loss):
        x, y = (torch.cat(parts) for parts in zip(*data.list, strict=True))
        return loss(model(x), y)

    return Case(model=perceptron(), data=Listed(loader), loss=CE, own=own)


class Listed(DataLoader):
    """A loader that also keeps its batches as a list, which the truth reads."""

    def __init__(self, loader):
        super().__init__(loader.dataset, loader.batch_size)
        self.__dict__["list"] = list(loader)


@case
def a_loader_of_dictionaries():
    x, y = rows(7)
    data = [{"x": row, "label": label} for row, label in zip(x, y, strict=True)]

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = perceptron()

        def forward(self, x, label):
            logits = self.net(x)
            return {"loss": CE(logits, label), "logits": logits}

    def own(model, data, loss):
        return sum(len(batch["x"]) * loss(model(**batch), batch) for batch in data.list) / 7

    return Case(
        model=Named(), data=Listed(DataLoader(data, batch_size=3)), own=own,
        loss=lambda output, batch: output["loss"],
    )  # fmt: skip


def over_all(model, data, loss):
    """The loss of all batches as if they were one."""
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    return loss(model(x), y)


# What a mean over one batch is to the mean over all is known for samples alone.
A_MEAN = "(?i:mean|sum)"


def parted(loss, y):
    x, _ = rows()
    data = [(x[:5], y[:5]), (x[5:], y[5:])]
    return Case(model=perceptron(), data=data, loss=loss, own=over_all, excused=A_MEAN)


@case
def classes_with_weights_in_two_batches():
    return parted(nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0, 6.0])), labels(12) // 2)


@case
def labels_that_do_not_count_in_two_batches():
    return parted(nn.CrossEntropyLoss(), torch.where(torch.arange(12) < 4, -100, labels(12)))


@case
def sums_in_two_batches():
    return parted(nn.CrossEntropyLoss(reduction="sum"), labels(12))


@case
def samples_with_weights():
    x, y = rows()

    def loss(output, target):
        label, weight = target
        return (weight * F.cross_entropy(output, label, reduction="none")).mean()

    def own(model, data, loss):
        x, y, weight = data
        return loss(model(x), (y, weight))

    def unpack(batch):
        x, y, weight = batch
        return x, (y, weight), len(x)

    options = {"unpack": unpack}
    data = x, y, torch.rand(12)
    return Case(model=perceptron(), data=[data], loss=loss, own=lambda m, d, f: own(m, d[0], f),
                options=options)  # fmt: skip


@case
def distilled_from_a_frozen_teacher():
    class Student(nn.Module):
        def __init__(self):
            super().__init__()
            self.student = perceptron()
            self.teacher = copy.deepcopy(self.student).requires_grad_(False)

        def forward(self, x):
            with torch.no_grad():
                wanted = self.teacher(x + 0.1)
            return self.student(x), wanted

    def loss(output, target):
        found, wanted = output
        soft = F.kl_div(found.log_softmax(-1), wanted.softmax(-1), reduction="batchmean")
        return CE(found, target) + soft

    return Case(model=Student(), data=rows(), loss=loss)


@case
def classes_with_weights():
    return Case(model=perceptron(), data=(torch.randn(12, 4), labels(12)),
                loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0, 6.0])))  # fmt: skip


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


@case
def sparse_weights_by_absolute_values():
    model = perceptron()
    for layer in (model[0], model[2]):
        nn.init.zeros_(layer.bias)

    def loss(output, target):
        # Its slope at 0 is 0 for torch, in the middle of a kink.
        return CE(output, target) + 0.1 * sum(p.abs().sum() for p in model.parameters())

    return Case(model=model, data=rows(), loss=loss)


@case
def perfect_fit():
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    x, _ = rows()
    # Loss and gradient are 0 at the model's own weights.
    return Case(model=model, data=(x, model(x).detach()), loss=MSE)


@case
def large_sum():
    def loss(output, target):
        return F.mse_loss(1e3 * output, target, reduction="sum")

    x, _ = rows()
    return Case(model=perceptron(), data=(x, 1e4 * torch.randn(12, 3)), loss=loss)


class Kernel(nn.Module):
    """Features for a Gaussian process, with the noise of its observations."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
        self.log_noise = nn.Parameter(torch.tensor(-1.0))

    def forward(self, x):
        features = self.features(x)
        apart = (features[:, None] - features).square().sum(-1)
        return (-0.5 * apart).exp() + self.log_noise.exp() * torch.eye(len(x), dtype=x.dtype)


@case
def gaussian_process_on_learned_features():
    def loss(covariance, target):
        root = torch.linalg.cholesky(covariance)
        white = torch.linalg.solve_triangular(root, target[:, None], upper=False)
        return 0.5 * white.square().mean() + root.diagonal().log().mean()

    x, _ = rows()
    return Case(model=Kernel(), data=(x, x.sum(1).sin()), loss=loss)


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


class Perceptual(nn.Module):
    """Compares the features that a frozen network sees."""

    def __init__(self):
        super().__init__()
        self.eye = perceptron().requires_grad_(False)

    def forward(self, output, target):
        return MSE(self.eye(output), self.eye(target))


@case
def loss_with_a_frozen_network():
    x, _ = rows()
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4))
    return Case(model=model, data=(x, x.flip(1)), loss=Perceptual())


class Penalised(nn.Module):
    """A loss that holds the model for its penalty, and a parameter of its own."""

    def __init__(self, model):
        super().__init__()
        self.model, self.log_weight = model, nn.Parameter(torch.tensor(-1.0))

    def forward(self, output, target):
        size = sum(p.square().sum() for p in self.model.parameters())
        return CE(output, target) + self.log_weight.exp() * size - 2 * self.log_weight


@case
def loss_that_holds_the_model():
    model = perceptron()
    return Case(model=model, data=rows(), loss=Penalised(model))
