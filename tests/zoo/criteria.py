"""Losses with parameters, weights and penalties of their own, and data in several batches."""

import copy

import torch
import torch.nn.functional as F
from cases import CE, MSE, Case, case, labels, perceptron, rows
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


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
