"""Objectives in float64 beside the same functions written in plain torch: the tests' truth."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, TensorDataset

from landscape.functions import CATALOGUE
from landscape.networks.risk import EmpiricalRisk
from landscape.objective import Analytic, Ridge, Sum
from landscape.restriction import Restriction

DEVICES = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]


class Case(NamedTuple):
    """An objective, the same function from (p,) to a scalar in plain torch, and a point (p,)."""

    objective: Any
    truth: Callable[[torch.Tensor], torch.Tensor]
    point: torch.Tensor


def seeded(seed, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype, device="cpu")


def classes(samples, count=3, seed=0):
    return torch.randint(0, count, (samples,), generator=seeded(seed), device="cpu")


def built(make, seed=0, dtype=torch.float64):
    """The module that ``make`` builds, initialised from ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return make().to(device="cpu", dtype=dtype)


def own_point(model):
    """The trainable parameters one after another, without any code of the project."""
    trainable = [p.detach().reshape(-1) for p in model.parameters() if p.requires_grad]
    return torch.cat(trainable)


def plain(model, inputs, target, loss):
    """The loss of ``model`` as a function of its trainable parameters, by functional_call alone."""
    args = () if isinstance(inputs, dict) else inputs if isinstance(inputs, tuple) else (inputs,)
    keywords = inputs if isinstance(inputs, dict) else {}

    def truth(z):
        tensors, start = {}, 0
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                stop = start + parameter.numel()
                tensors[name] = z[start:stop].reshape(parameter.shape)
                start = stop
        with sdpa_kernel(SDPBackend.MATH):
            return loss(functional_call(model, tensors, args, keywords), target)

    return truth


class Sentences(nn.Module):
    """An embedding, a recurrent layer and a linear one."""

    def __init__(self, kind):
        super().__init__()
        self.embedding = nn.Embedding(6, 3)
        self.recurrent = kind(3, 2, batch_first=True)
        self.out = nn.Linear(2, 3)

    def forward(self, tokens):
        return self.out(self.recurrent(self.embedding(tokens))[0][:, -1])


class SelfAttention(nn.Module):
    """Multi-head attention over a short sequence."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.attention(x, x, x)[0].mean(1))


class DotProduct(nn.Module):
    """Attention by the functional interface, as most transformers of today call it."""

    def __init__(self):
        super().__init__()
        self.project, self.out = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x):
        q, k, v = self.project(x).unflatten(-1, (2, 6)).transpose(1, 2).chunk(3, -1)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).mean(1))


class Encoder(nn.Module):
    """A transformer layer in evaluation mode, which has a fused path of its own."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 5, batch_first=True, activation="gelu")
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.layer(x).mean(1))


class Tied(nn.Module):
    """Two linear layers that share their weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.out(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Named(nn.Module):
    """Two inputs by name or by position, a scalar parameter, an integer buffer, a dict output."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(2, 3)
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.register_buffer("order", torch.tensor([2, 0, 1]))

    def forward(self, x, extra):
        return {"logits": self.scale * torch.tanh(self.left(x) + self.right(extra))[:, self.order]}


class Labelled(nn.Module):
    """Computes its own loss when it gets labels, and returns a tuple."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 3)

    def forward(self, x, labels):
        logits = self.body(x).sin()
        return F.cross_entropy(logits, labels), logits


class Coin(nn.Module):
    """Adds noise that no mode switches off."""

    def forward(self, x):
        return x + 0.1 * torch.rand(x.shape[-1], dtype=x.dtype, device=x.device)


def chain():
    inner = nn.Sequential(nn.Linear(5, 4), nn.GELU(), nn.Identity())
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), inner, nn.Linear(4, 3, bias=False))


def flattened():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 2), nn.Tanh(), nn.Linear(2, 3))


def convolution():
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, stride=2), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
    )


def transposed():
    return nn.Sequential(
        nn.ConvTranspose2d(1, 4, 2, groups=1), nn.GroupNorm(2, 4), nn.SiLU(), nn.Flatten(1),
        nn.Linear(16, 3),
    )  # fmt: skip


def normalised():
    return nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 3))


def batch_normalised():
    layers = (nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
    return settled(nn.Sequential(*layers), normal(16, 4, seed=8, dtype=torch.float32))


def settled(model, x):
    """The model after a few batches in training mode: its statistics are no longer 0 and 1."""
    with torch.no_grad():
        for _ in range(3):
            model(x)
    return model


def frozen_first():
    model = chain()
    model[0].weight.requires_grad_(False)
    model[2][0].bias.requires_grad_(False)
    return model


def padded(output, target):
    """(sum, weight) over what is not padding, as for token losses."""
    kept = target >= 0
    losses = F.cross_entropy(output, target.clamp_min(0), reduction="none")
    return (losses * kept).sum(), kept.sum()


def divided(loss):
    def mean(output, target):
        total, weight = loss(output, target)
        return total / weight

    return mean


def accuracy(output, target):
    return (output.argmax(-1) == target).to(output.dtype).mean()


def stubborn(output, target):
    """A loss that vmap cannot map, since it looks at a number."""
    loss = F.cross_entropy(output, target)
    return loss if loss.item() > -1.0 else -loss


def mean_square(output, target):
    return F.mse_loss(output, target)


def logits(loss):
    return lambda output, target: loss(output["logits"], target)


def own_loss(output, batch):
    return output[0]


def uneven(inputs, target, sizes=(4, 4, 2)):
    return list(zip(inputs.split(sizes), target.split(sizes), strict=True))


def whole(inputs, target):
    """A dictionary that is inputs and target at once."""
    return inputs


X, Y = normal(10, 4), classes(10)
IMAGES, SEQUENCES = normal(10, 1, 6, 6, seed=1), normal(10, 3, 4, seed=2)
SMALL, TOKENS = normal(10, 1, 1, 1, seed=3), classes(30, 6, seed=4).reshape(10, 3)
EXTRA, VALUES, MASKED = normal(10, 2, seed=5), normal(10, 3, seed=6), Y.clone()
MASKED[torch.tensor([0, 5, 6, 9])] = -1
IGNORED = torch.where(MASKED < 0, -100, MASKED)


def loaded(inputs, target, **options):
    return DataLoader(TensorDataset(inputs, target), batch_size=4, **options)


def shuffled(inputs, target):
    return loaded(inputs, target, shuffle=True)


def evaluating(make):
    return lambda: make().eval()


def moved(part, device):
    if isinstance(part, dict):
        return {name: tensor.to(device) for name, tensor in part.items()}
    if isinstance(part, tuple):
        return tuple(tensor.to(device) for tensor in part)
    return part.to(device)


CE = F.cross_entropy
LABELLED = {"x": X, "labels": Y}

# model, inputs, target, loss; then how the data comes, the loss of the truth, options of the risk.
RISKS = {
    "stacked": (chain, X, Y, CE),
    "stacked-mean-square": (chain, X, VALUES, mean_square),
    "stacked-uneven": (chain, X, Y, CE, uneven),
    "stacked-ignored": (chain, X, IGNORED, CE),
    "stacked-smoothed": (chain, X, Y, nn.CrossEntropyLoss(label_smoothing=0.1)),
    "stacked-padded": (chain, X, MASKED, padded, uneven, divided(padded)),
    "flattened": (flattened, IMAGES, Y, CE),
    "vmapped": (chain, X, Y, CE, uneven, CE, {"evaluation": "vmap"}),
    "sequential": (chain, X, Y, CE, uneven, CE, {"evaluation": "sequential"}),
    "stubborn-loss": (chain, X, Y, stubborn),
    "loader": (chain, X, Y, CE, loaded),
    "shuffled-loader": (chain, X, Y, CE, shuffled),
    "tied": (Tied, X, Y, CE),
    "frozen": (frozen_first, X, Y, CE),
    "linear-on-sequences": (lambda: nn.Linear(4, 3), SEQUENCES, SEQUENCES[..., :3], mean_square),
    "named": (Named, {"x": X, "extra": EXTRA}, Y, logits(CE)),
    "positional": (Named, (X, EXTRA), Y, logits(CE)),
    "labelled": (Labelled, LABELLED, LABELLED, own_loss, whole),
    "convolution": (convolution, IMAGES, Y, CE, uneven),
    "transposed": (transposed, SMALL, Y, CE),
    "layer-norm": (normalised, X, Y, CE),
    "batch-norm-frozen": (batch_normalised, X, Y, CE, uneven),
    "attention": (evaluating(SelfAttention), SEQUENCES, Y, CE),
    "dot-product": (DotProduct, SEQUENCES, Y, CE),
    "encoder": (evaluating(Encoder), SEQUENCES, Y, CE),
    "lstm": (lambda: Sentences(nn.LSTM), TOKENS, Y, CE),
    "gru": (lambda: Sentences(nn.GRU), TOKENS, Y, CE),
    "accuracy": (chain, X, Y, accuracy, uneven),
}


def risk(device, make, inputs, target, loss, data=None, truth_loss=None, options=None):
    """A risk beside its truth, which sees all samples at once and a model in evaluation mode."""
    model, reference = built(make).to(device), built(make).to(device).eval()
    given = (inputs, target) if data is None else data(inputs, target)
    objective = EmpiricalRisk(model, given, loss, **(options or {}))
    truth = plain(reference, moved(inputs, device), moved(target, device), truth_loss or loss)
    return Case(objective, truth, own_point(model))


class Minimal:
    """The least that an objective can be: a length and terms over one vector."""

    dim = 3

    def terms(self):
        yield lambda z: (z**2).prod()
        yield lambda z: torch.cos(z[0] * z[1]) + z[2]
        yield lambda z: torch.ones((), dtype=z.dtype, device=z.device)


def minimal(device):
    def truth(z):
        return z[0] ** 2 * z[1] ** 2 * z[2] ** 2 + torch.cos(z[0] * z[1]) + z[2] + 1

    return Case(Minimal(), truth, normal(3).to(device))


def catalogued(function):
    def make(device):
        low, high = torch.tensor(function.box, dtype=torch.float64, device=device).T
        inside = torch.rand(function.dim, generator=seeded(3), dtype=torch.float64, device="cpu")
        return Case(function, function.formula, low + (high - low) * inside.to(device))

    return make


def formula(function, dim):
    """A function of (..., dim) as an objective and as its own truth."""
    return lambda device: Case(Analytic(function, dim), function, normal(dim).to(device))


def ridge(device):
    return Case(Ridge(0.7, dim=5), lambda z: 0.35 * (z**2).sum(), normal(5).to(device))


def decayed(device):
    plainly = risk(device, *RISKS["stacked-uneven"])
    mask = normal(len(plainly.point), seed=9).to(device) > 0
    objective = Sum(plainly.objective, Ridge(0.3, mask), Ridge(0.1, dim=len(mask)))

    def truth(z):
        return plainly.truth(z) + 0.15 * (z[mask] ** 2).sum() + 0.05 * (z**2).sum()

    return Case(objective, truth, plainly.point)


def sliced(make, directions):
    def slice_of(device):
        whole = make(device)
        basis = normal(directions, len(whole.point), seed=7).to(device)
        objective = Restriction(whole.objective, whole.point, basis)

        def truth(t):
            return whole.truth(whole.point + sum(t[i] * basis[i] for i in range(directions)))

        return Case(objective, truth, normal(directions, seed=8).to(device) / 4)

    return slice_of


MAKERS = {
    **{name: catalogued(function) for name, function in CATALOGUE.items()},
    **{name: partial(lambda spec, device: risk(device, *spec), RISKS[name]) for name in RISKS},
    "minimal": minimal,
    "one-coordinate": formula(lambda z: z[..., 0].exp(), 1),
    "linear": formula(lambda z: 3 * z[..., 1], 4),
    "constant": formula(lambda z: torch.full_like(z[..., 0], 2.0) + 0 * z.sum(-1), 4),
    "independent": formula(lambda z: torch.full_like(z[..., 0], 2.0, requires_grad=False), 4),
    "ridge": ridge,
    "sum": decayed,
    "restriction": sliced(partial(lambda spec, d: risk(d, *spec), RISKS["stacked-uneven"]), 2),
    "restricted-sum": sliced(decayed, 3),
    "twice-restricted": sliced(sliced(decayed, 3), 1),
    "restricted-function": sliced(catalogued(CATALOGUE["himmelblau"]), 1),
}
NAMES = list(MAKERS)


@cache
def case(name, device="cpu"):
    """The case of that name."""
    return MAKERS[name](device)


@cache
def hessian(name, device="cpu"):
    """The dense Hessian of the truth at the case's point."""
    _, truth, point = case(name, device)
    return torch.autograd.functional.hessian(truth, point)
