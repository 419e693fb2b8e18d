"""Networks for handwritten digits of 28 x 28 pixels, those of Yu & Morozov (2026), by name.

Weights are as torch draws them. Hidden units are softplus, as in the published code, where the
paper says ReLU of two of them: their losses are smooth.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

SIDE, CLASSES = 28, 10
_PIXELS = SIDE * SIDE


class LastState(nn.Module):
    """An LSTM over the rows of an image, and a linear layer of its last output.

    Args:
        inputs: pixels in a row.
        hidden: units.
        outputs: how many.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int):
        super().__init__()
        self.rows = nn.LSTM(inputs, hidden, batch_first=True, device="cpu", dtype=torch.float32)
        self.head = nn.Linear(hidden, outputs, bias=False, device="cpu", dtype=torch.float32)

    def forward(self, images: Tensor) -> Tensor:
        """Outputs (n, outputs) of images (n, rows, inputs)."""
        return self.head(self.rows(images)[0][:, -1])


def fcp() -> nn.Module:
    """Three linear layers without bias, 784-50-50-10: 42,200 parameters."""
    return _chain(_PIXELS, 50, 50, CLASSES)


def lenet() -> nn.Module:
    """LeNet-5 with means over 2 x 2 pixels: 61,706 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2, device="cpu", dtype=torch.float32), nn.Softplus(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5, device="cpu", dtype=torch.float32), nn.Softplus(), nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120, device="cpu", dtype=torch.float32), nn.Softplus(),
        nn.Linear(120, 84, device="cpu", dtype=torch.float32), nn.Softplus(),
        nn.Linear(84, CLASSES, device="cpu", dtype=torch.float32),
    )  # fmt: skip


def autoencoder() -> nn.Module:
    """Four linear layers without bias, 784-32-32-32-784, then sigmoids: 52,224 parameters."""
    return nn.Sequential(*_chain(_PIXELS, 32, 32, 32, _PIXELS), nn.Sigmoid())


def lstm() -> nn.Module:
    """48 units over 28 rows, and a linear layer without bias: 15,456 parameters."""
    return LastState(SIDE, 48, CLASSES)


STROKES: Mapping[str, Callable[[], nn.Module]] = MappingProxyType({
    "fcp": fcp, "lenet": lenet, "autoencoder": autoencoder, "lstm": lstm,
})  # fmt: skip
"""The networks by name."""


def drawn(build: Callable[[], nn.Module], generator: torch.Generator) -> nn.Module:
    """The network with the weights that torch draws for a seed from the generator."""
    seed = torch.randint(2**62, (), generator=generator, device="cpu")
    with torch.random.fork_rng(devices=[]):
        # Modules draw from nothing but the default generator.
        torch.default_generator.manual_seed(int(seed))
        return build()


def _chain(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for m, n in zip(widths[:-1], widths[1:], strict=True):
        linear = nn.Linear(m, n, bias=False, device="cpu", dtype=torch.float32)
        layers += [linear, nn.Softplus()]
    return nn.Sequential(*layers[:-1])
