"""Wide residual networks for images of 32 x 32 pixels."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init


def wide_resnet(
    depth: int, width: int, num_classes: int = 10, generator: torch.Generator | None = None
) -> "WideResNet":
    """WRN-depth-width without dropout (Zagoruyko & Komodakis 2016, table 1).

    Weights are normal with variance 2 / fan_out, the biases of the linear layer zero, as published.

    Args:
        depth: number of layers, 6 n + 4: 16, 22, 28 or 40 in the paper.
        width: factor on the channels 16, 32, 64 of the three groups.
        num_classes: number of outputs.
        generator: source of the weights, on the CPU; seed 0 where None.

    Raises:
        ValueError: if there is no such depth, or ``width`` or ``num_classes`` is below 1.

    >>> sum(p.numel() for p in wide_resnet(16, 4).parameters())
    2748890
    """
    if depth < 10 or depth % 6 != 4:
        raise ValueError(f"depth must be 6 n + 4, for instance 16, 22, 28 or 40, got {depth}")
    if min(width, num_classes) < 1:
        raise ValueError(f"width and num_classes must be at least 1, got {width} and {num_classes}")
    source = torch.Generator(device="cpu").manual_seed(0) if generator is None else generator
    model = WideResNet(depth // 6, width, num_classes)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(
                module.weight, mode="fan_out", nonlinearity="relu", generator=source
            )
    bound = model.fc.in_features**-0.5
    nn.init.uniform_(model.fc.weight, -bound, bound, generator=source)
    nn.init.zeros_(model.fc.bias)
    return model


class WideResNet(nn.Module):
    """A convolution to 16 channels, three groups of ``blocks`` blocks, the mean, a linear layer.

    The names of its tensors are those of the implementation that is copied most, so that weights
    trained elsewhere fit. Its tensors are left uninitialised: `wide_resnet` fills them.
    """

    def __init__(self, blocks: int, width: int, num_classes: int):
        super().__init__()
        self.conv1 = _conv(3, 16, 3)
        self.block1 = Group(blocks, 16, 16 * width, 1)
        self.block2 = Group(blocks, 16 * width, 32 * width, 2)
        self.block3 = Group(blocks, 32 * width, 64 * width, 2)
        self.bn1 = nn.BatchNorm2d(64 * width, device="cpu", dtype=torch.float32)
        self.fc = skip_init(nn.Linear, 64 * width, num_classes, device="cpu", dtype=torch.float32)

    def forward(self, x: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch classes"]:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.relu(self.bn1(x)).mean((-2, -1)))


class Group(nn.Module):
    """Blocks of equal width, of which the first one may halve the picture."""

    def __init__(self, blocks: int, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        first = WideBlock(channels_in, channels_out, stride)
        rest = (WideBlock(channels_out, channels_out, 1) for _ in range(blocks - 1))
        self.layer = nn.Sequential(first, *rest)

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch d i j"]:
        return self.layer(x)


class WideBlock(nn.Module):
    """Twice BatchNorm, ReLU, convolution, and a shortcut.

    Where the width changes, the shortcut is a convolution of 1 x 1 of what the first BatchNorm and
    ReLU give; else the input as it is.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in, device="cpu", dtype=torch.float32)
        self.conv1 = _conv(channels_in, channels_out, 3, stride)
        self.bn2 = nn.BatchNorm2d(channels_out, device="cpu", dtype=torch.float32)
        self.conv2 = _conv(channels_out, channels_out, 3)
        self.convShortcut = (
            None if channels_in == channels_out else _conv(channels_in, channels_out, 1, stride)
        )

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch d i j"]:
        y = F.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(y)
        return shortcut + self.conv2(F.relu(self.bn2(self.conv1(y))))


def _conv(channels_in: int, channels_out: int, size: int, stride: int = 1) -> nn.Conv2d:
    return skip_init(
        nn.Conv2d, channels_in, channels_out, kernel_size=size, stride=stride, padding=size // 2,
        bias=False, device="cpu", dtype=torch.float32,
    )  # fmt: skip
