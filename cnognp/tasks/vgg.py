"""VGG networks with BatchNorm for images of 32 x 32 pixels."""

import torch
from torch import nn

_CHANNELS: dict[int, tuple[tuple[int, ...], ...]] = {
    11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    16: ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3),
}


def vgg(
    depth: int, num_classes: int = 10, generator: torch.Generator | None = None
) -> nn.Sequential:
    """The VGG of 11 or 16 layers, BatchNorm behind every convolution and one linear layer.

    Args:
        depth: 11 or 16, the name of the original.
        num_classes: number of outputs.
        generator: source of the weights (He-normal, biases zero); seed 0 where None.

    Raises:
        ValueError: if there is no such depth, or ``num_classes`` is below 1.
    """
    if depth not in _CHANNELS or num_classes < 1:
        raise ValueError(
            f"depth must be 11 or 16 and num_classes at least 1, got {depth} and {num_classes}"
        )
    source = torch.Generator(device="cpu").manual_seed(0) if generator is None else generator
    layers: list[nn.Module] = []
    before = 3
    for stage in _CHANNELS[depth]:
        for channels in stage:
            conv = nn.utils.skip_init(nn.Conv2d, before, channels, 3, padding=1, device="cpu")
            layers += [conv, nn.BatchNorm2d(channels, device="cpu"), nn.ReLU()]
            before = channels
        layers.append(nn.MaxPool2d(2))
    linear = nn.utils.skip_init(nn.Linear, before, num_classes, device="cpu")
    for layer in [*layers, linear]:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=source)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers, nn.Flatten(), linear)
