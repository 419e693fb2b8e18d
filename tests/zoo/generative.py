"""Generative and contrastive models: noise that a seed fixes, losses that couple a batch."""

import math

import pytest
import torch
import torch.nn.functional as F
from cases import MSE, Case, case, rows, whole
from torch import nn


class Variational(nn.Module):
    """A variational autoencoder."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4))
        self.decoder = nn.Linear(2, 4)

    def forward(self, x):
        mean, log_variance = self.encoder(x).chunk(2, -1)
        code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.decoder(code), mean, log_variance


def evidence(output, x):
    found, mean, log_variance = output
    return MSE(found, x) - 0.5 * (1 + log_variance - mean**2 - log_variance.exp()).mean()


@case
def variational_autoencoder():
    x, _ = rows()
    return Case(model=Variational(), data=(x, x), loss=evidence, options={"seed": 0})


@case
def variational_autoencoder_on_a_bare_tensor():
    x, _ = rows()
    return Case(model=Variational(), data=x, loss=evidence, own=whole, options={"seed": 3})


class Denoiser(nn.Module):
    """The noise in a sample, from the sample and the time."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 6), nn.SiLU(), nn.Linear(6, 4))

    def forward(self, x, time):
        return self.net(torch.cat([x, time.sin()[:, None], time.cos()[:, None]], 1))


def corrupted(net, x):
    """Denoising at random times: the loss draws times and noise."""
    step = torch.randint(1, 11, (len(x),))
    keep = torch.cos(step * math.pi / 22)[:, None]
    noise = torch.randn_like(x)
    return MSE(net(keep * x + (1 - keep**2).sqrt() * noise, step * 0.3), noise)


class Diffusion(nn.Module):
    """A diffusion model whose forward is its loss."""

    def __init__(self):
        super().__init__()
        self.net = Denoiser()

    def forward(self, x):
        return corrupted(self.net, x)


@case
def diffusion_inside_the_model():
    x, _ = rows()
    return Case(
        model=Diffusion(), data=x, loss=lambda output, batch: output, own=whole,
        options={"seed": 0},
    )  # fmt: skip


@case
def diffusion_inside_the_loss():
    x, _ = rows()
    return Case(
        model=Denoiser(), data=x, loss=corrupted, risk="ModelRisk", options={"seed": 1},
        own=lambda model, data, loss: loss(model, data),
    )  # fmt: skip


@case
def dropout_with_a_seed():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 3)).train()
    return Case(model=model, data=rows(), loss=F.cross_entropy, options={"seed": 2})


class Dropped(nn.Module):
    """A residual branch that is left out for some samples."""

    def __init__(self, drop):
        super().__init__()
        self.drop, self.inner, self.out = drop, nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(x + self.drop(torch.tanh(self.inner(x))))


@case
def stochastic_depth_with_a_seed():
    ops = pytest.importorskip("torchvision.ops")
    model = Dropped(ops.StochasticDepth(0.4, "row")).train()
    return Case(model=model, data=rows(), loss=F.cross_entropy, options={"seed": 4})


@case
def soft_choices_with_a_seed():
    class Choosing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.out = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x):
            return self.out(F.gumbel_softmax(self.inner(x), tau=0.7))

    return Case(model=Choosing(), data=rows(), loss=F.cross_entropy, options={"seed": 5})


def contrast(output, target):
    """InfoNCE: every sample against all others of its batch."""
    first, second = (F.normalize(part, dim=-1) for part in output)
    return F.cross_entropy(first @ second.T / 0.5, torch.arange(len(first)))


class Two(nn.Module):
    """One network on two views."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3))

    def forward(self, *views):
        return tuple(self.net(view) for view in views)


@case
def contrastive():
    x, y = rows()
    views = x + 0.1 * torch.randn_like(x), x + 0.1 * torch.randn_like(x)
    return Case(model=Two(), data=(views, y), loss=contrast)


@case
def siamese_triplets():
    x, _ = rows()

    class Three(Two):
        def forward(self, anchor, positive, negative):
            return super().forward(anchor, positive, negative)

    def own(model, data, loss):
        return loss(model(**data), data)

    data = {"anchor": x, "positive": x + 0.2 * torch.randn_like(x), "negative": x.flip(0)}
    return Case(
        model=Three(), data=data, own=own,
        loss=lambda output, batch: F.triplet_margin_loss(*output, margin=2.0),
    )  # fmt: skip


class Flow(nn.Module):
    """Affine couplings; the output is a log-likelihood for every sample."""

    def __init__(self, width=4, layers=2):
        super().__init__()
        self.maps = nn.ModuleList(
            nn.Sequential(nn.Linear(width // 2, 4), nn.Tanh(), nn.Linear(4, width))
            for _ in range(layers)
        )

    def forward(self, x):
        volume = x.new_zeros(len(x))
        for layer in self.maps:
            kept, moved = x.chunk(2, -1)
            scale, shift = layer(kept).chunk(2, -1)
            moved, volume = moved * scale.tanh().exp() + shift, volume + scale.tanh().sum(-1)
            x = torch.cat([moved, kept], -1)
        return volume - 0.5 * x.square().sum(-1)


@case
def normalising_flow():
    x, _ = rows()
    return Case(model=Flow(), data=x, loss=lambda output, batch: -output.mean(), own=whole)


class Energy(nn.Module):
    """An energy of a sample, and its slope, as score matching needs it."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Softplus(), nn.Linear(6, 1))

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return -torch.autograd.grad(self.net(x).sum(), x, create_graph=True)[0]


@case
def energy_by_denoising_score_matching():
    x, _ = rows()
    noise = 0.5 * torch.randn_like(x)
    return Case(model=Energy(), data=(x + noise, -noise / 0.25), loss=MSE)


class Sampling(nn.Module):
    """Contrastive divergence: samples of the model itself come from a few steps down its energy."""

    def __init__(self, detached):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Softplus(), nn.Linear(6, 1))
        self.detached = detached

    def forward(self, x):
        found = x.detach().requires_grad_()
        with torch.enable_grad():
            for _ in range(3):
                (slope,) = torch.autograd.grad(self.net(found).sum(), found, create_graph=True)
                found = found - 0.2 * slope + 0.1 * torch.randn_like(found)
        return self.net(x), self.net(found.detach() if self.detached else found)


def divergence(output, batch):
    real, sampled = output
    return real.mean() - sampled.mean() + 0.1 * (real.square() + sampled.square()).mean()


@case
def energy_by_unrolled_sampling():
    x, _ = rows()
    return Case(
        model=Sampling(detached=False), data=x, loss=divergence, own=whole, options={"seed": 0}
    )  # fmt: skip
