"""Plain networks of known initialisation: perceptrons, a small convolution network, CIFAR ResNets.

Every function draws its starting weights from the generator that it is given, or from a generator
of seed 0, and never from torch's global one. Weights are float32 on the CPU.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init


def mlp(
    inputs: int,
    hidden: Sequence[int],
    outputs: int,
    activation: Callable[[], nn.Module] = nn.ReLU,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """A multilayer perceptron: linear layers with an activation between each two of them.

    Weights are Xavier-uniform, U(-a, a) with a = sqrt(6 / (fan_in + fan_out)), and biases zero.
    It has ``sum((m + 1) * n)`` parameters over its layers from m to n units.

    Args:
        inputs: length of an input vector.
        hidden: units of each hidden layer; none makes an affine map.
        outputs: length of an output vector.
        activation: gives a fresh activation module, for instance a module class.
        generator: source of the weights, on the CPU; seed 0 where None.

    Raises:
        ValueError: if a width is below 1.

    >>> sum(p.numel() for p in mlp(13, (10,), 3).parameters())
    173
    """
    if hidden is None:
        raise ValueError("hidden must be the units of each layer, such as [10], or [], got null")
    widths = (inputs, *hidden, outputs)
    if min(widths) < 1:
        raise ValueError(f"every layer needs at least 1 unit, got widths {widths}")
    generator = _source(generator)
    layers: list[nn.Module] = []
    for m, n in zip(widths[:-1], widths[1:], strict=True):
        linear = skip_init(nn.Linear, m, n, device="cpu", dtype=torch.float32)
        nn.init.xavier_uniform_(linear.weight, generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear, activation()]
    return nn.Sequential(*layers[:-1])


def small_conv(
    num_classes: int = 10,
    channels: tuple[int, int] = (16, 24),
    in_channels: int = 1,
    size: int = 8,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """A small convolution network with BatchNorm for square images (4,650 parameters as it is).

    Twice convolution (3 x 3, without bias), BatchNorm and ReLU; then the mean over each quarter of
    the picture, so that coarse position survives; then a linear layer. Initialised as `resnet20`.

    Args:
        num_classes: number of outputs.
        channels: of the two convolutions.
        in_channels: of the images.
        size: height and width of the images in pixels, an even number.
        generator: as in `mlp`.

    Raises:
        ValueError: if a number of channels or classes is below 1, or ``size`` is odd or below 2.
    """
    first, second = channels
    if min(num_classes, first, second, in_channels) < 1:
        raise ValueError(
            "channels and classes must be at least 1, got "
            f"{in_channels} -> {first} -> {second} -> {num_classes}"
        )
    if size < 2 or size % 2:
        raise ValueError(f"size must be an even number of pixels, at least 2, got {size}")
    model = nn.Sequential(
        _conv(in_channels, first),
        _norm(first),
        nn.ReLU(),
        _conv(first, second),
        _norm(second),
        nn.ReLU(),
        nn.AvgPool2d(size // 2),
        nn.Flatten(),
        skip_init(nn.Linear, 4 * second, num_classes, device="cpu", dtype=torch.float32),
    )
    return _he_normal(model, _source(generator))


def resnet20(num_classes: int = 10, generator: torch.Generator | None = None) -> "ResNet":
    """The ResNet-20 of CIFAR (269,722 parameters with 10 classes), for images of 32 x 32 pixels.

    Weights are normal with variance 2 / fan_in (He et al. 2015, section 2.2), biases zero.

    Args:
        num_classes: number of outputs.
        generator: as in `mlp`.

    Raises:
        ValueError: if ``num_classes`` is below 1.
    """
    return resnet(20, num_classes, generator)


def resnet32(num_classes: int = 10, generator: torch.Generator | None = None) -> "ResNet":
    """The ResNet-32 of CIFAR (464,154 parameters with 10 classes); else as `resnet20`.

    Raises:
        ValueError: if ``num_classes`` is below 1.
    """
    return resnet(32, num_classes, generator)


def resnet(
    depth: int,
    num_classes: int = 10,
    generator: torch.Generator | None = None,
    channels: int = 16,
) -> "ResNet":
    """The ResNet of CIFAR with ``depth`` layers, 6 n + 2: 20, 32, 44, 56 or 110 in the paper.

    Args:
        depth: number of layers.
        num_classes: number of outputs.
        generator: as in `mlp`.
        channels: of the first stage, an even number, 16 in the paper.

    Raises:
        ValueError: if there is no such depth, ``num_classes`` is below 1, or channels are odd.

    >>> sum(p.numel() for p in resnet(56).parameters())
    853018
    """
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"depth must be 6 n + 2, for instance 20, 32, 44, 56 or 110, got {depth}")
    return _he_normal(ResNet(depth // 6, num_classes, channels), _source(generator))


class ResNet(nn.Module):
    """A residual network in the form for CIFAR (He et al. 2016, section 4.2).

    A convolution to 16 channels, three stages of 16, 32 and 64 channels with ``blocks`` basic
    blocks each, the mean over the picture, and a linear layer: 6 * blocks + 2 layers. Its tensors
    are left uninitialised: `resnet20` and `resnet32` fill them.

    Raises:
        ValueError: if ``blocks`` or ``num_classes`` is below 1, or ``channels`` no even number.
    """

    def __init__(self, blocks: int, num_classes: int, channels: int = 16):
        super().__init__()
        if channels < 2 or channels % 2:
            raise ValueError(f"channels must be an even number, at least 2, got {channels}")
        if min(blocks, num_classes) < 1:
            raise ValueError(
                f"blocks and num_classes must be at least 1, got {blocks} and {num_classes}"
            )
        self.conv1 = _conv(3, channels)
        self.bn1 = _norm(channels)
        self.layer1 = _stage(blocks, channels, channels)
        self.layer2 = _stage(blocks, channels, 2 * channels)
        self.layer3 = _stage(blocks, 2 * channels, 4 * channels)
        self.linear = skip_init(
            nn.Linear, 4 * channels, num_classes, device="cpu", dtype=torch.float32
        )

    def forward(self, x: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch classes"]:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((-2, -1)))


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut without parameters.

    Where the block has stride 2 and twice the channels, the shortcut takes every second row and
    column and pads the channels with zeros, as many before as after (option A of He et al. 2016).
    """

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.stride = 1 if channels_in == channels_out else 2
        self.padding = (channels_out - channels_in) // 2
        self.conv1 = _conv(channels_in, channels_out, self.stride)
        self.bn1 = _norm(channels_out)
        self.conv2 = _conv(channels_out, channels_out)
        self.bn2 = _norm(channels_out)

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch d i j"]:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = F.pad(x[..., :: self.stride, :: self.stride], (0, 0, 0, 0, *2 * (self.padding,)))
        return F.relu(y + x)


def _stage(blocks: int, channels_in: int, channels_out: int) -> nn.Sequential:
    first = BasicBlock(channels_in, channels_out)
    return nn.Sequential(
        first, *(BasicBlock(channels_out, channels_out) for _ in range(blocks - 1))
    )


def _conv(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return skip_init(
        nn.Conv2d, channels_in, channels_out, kernel_size=3, stride=stride, padding=1, bias=False,
        device="cpu", dtype=torch.float32,
    )  # fmt: skip


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, device="cpu", dtype=torch.float32)


def _he_normal(model, generator: torch.Generator):
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    return model


def _source(generator: torch.Generator | None) -> torch.Generator:
    return torch.Generator(device="cpu").manual_seed(0) if generator is None else generator
