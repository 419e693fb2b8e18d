"""The networks that benchmarks measure on: each a trained risk and its point, the same every time.

A and Ar are networks of 5,251 parameters on the 178 rows of Wine, B is ResNet-20 on 16 digits, C a
transformer of two layers on 8 sequences of 64 tokens. `WORKLOADS` has them by name.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from sklearn.datasets import load_digits, load_wine
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from cnognp.tasks.networks import resnet20
from landscape.networks import EmpiricalRisk

TOKENS, VOCABULARY, WIDTH = 64, 500, 128


def a(seed: int = 0) -> tuple[EmpiricalRisk, Tensor]:
    """A: 13-64-64-3 with tanh, trained by SGD to a loss of 0.03."""
    return _perceptron(nn.Tanh, seed)


def ar(seed: int = 0) -> tuple[EmpiricalRisk, Tensor]:
    """Ar: the same with ReLU."""
    return _perceptron(nn.ReLU, seed)


def b(seed: int = 0, images: int = 16, steps: int = 30) -> tuple[EmpiricalRisk, Tensor]:
    """B: ResNet-20 after ``steps`` mini-batches of 64, frozen statistics, the first ``images``."""
    x, y = digits()
    with _seeded(seed):
        model = resnet20(10)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for _ in range(steps):
            chosen = torch.randint(len(x), (64,))
            _step(optimiser, cross_entropy(model(x[chosen]), y[chosen]))
    risk = EmpiricalRisk(model.eval(), (x[:images], y[:images]), cross_entropy)
    return risk, risk.point()


def c(seed: int = 0, sequences: int = 8, steps: int = 30) -> tuple[EmpiricalRisk, Tensor]:
    """C: a transformer after ``steps`` of Adam on sequences that count up by a fixed stride."""
    with _seeded(seed):
        model = Transformer()
        first = torch.randint(VOCABULARY, (sequences, 1))
        stride = torch.randint(1, 8, (sequences, 1))
        x = (first + stride * torch.arange(TOKENS + 1)) % VOCABULARY
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _ in range(steps):
            _step(optimiser, token_loss(model(x[:, :-1]), x[:, 1:]))
    risk = EmpiricalRisk(model.eval(), (x[:, :-1], x[:, 1:]), token_loss)
    return risk, risk.point()


WORKLOADS: dict[str, Callable[[], tuple[EmpiricalRisk, Tensor]]] = {
    "A": a,
    "Ar": ar,
    "B": b,
    "C": c,
}


class Transformer(nn.Module):
    """Two causal layers over 64 tokens."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.places = nn.Parameter(0.02 * torch.randn(TOKENS, WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.tokens(x) + self.places
        length = x.shape[-1]
        mask = torch.full((length, length), float("-inf"), device=x.device).triu(1).to(hidden)
        return self.out(self.layers(hidden, mask=mask))


def token_loss(output: Tensor, target: Tensor) -> Tensor:
    """The mean cross-entropy over tokens."""
    return cross_entropy(output.flatten(0, 1), target.flatten())


def wine() -> tuple[Tensor, Tensor]:
    """Standardised inputs (178, 13) and classes."""
    data = load_wine()
    inputs = (data.data - data.data.mean(0)) / data.data.std(0)
    return torch.tensor(inputs, dtype=torch.float32), torch.tensor(data.target)


def digits() -> tuple[Tensor, Tensor]:
    """Images (1797, 3, 32, 32) between -1 and 1, and classes."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    images = interpolate(images, size=(32, 32), mode="bilinear", align_corners=False)
    return images.expand(-1, 3, -1, -1).contiguous(), torch.tensor(data.target)


def _perceptron(activation: type[nn.Module], seed: int) -> tuple[EmpiricalRisk, Tensor]:
    x, y = wine()
    with _seeded(seed):
        model = nn.Sequential(
            nn.Linear(13, 64), activation(), nn.Linear(64, 64), activation(), nn.Linear(64, 3)
        )
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loss = torch.tensor(1.0)
    while float(loss.detach()) > 0.03:
        loss = _step(optimiser, cross_entropy(model(x), y))
    risk = EmpiricalRisk(model, (x, y), cross_entropy)
    return risk, risk.point()


def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> Tensor:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
