"""Plain definitions of ResNet-18, ResNet-50 and GPT-2, so that nothing has to be installed.

They have the parameters and the operations of the published networks, and random weights: the time
of a product does not depend on what the weights are.
"""

import math

import torch
from torch import Tensor, nn


def conv(channels_in: int, channels_out: int, size: int, stride: int = 1) -> nn.Sequential:
    """A convolution without bias, and BatchNorm."""
    layer = nn.Conv2d(channels_in, channels_out, size, stride, size // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(channels_out))


class Block(nn.Module):
    """Two convolutions of 3 x 3, or three of 1, 3 and 1 with four times as many channels out."""

    def __init__(self, channels_in: int, width: int, stride: int, bottleneck: bool):
        super().__init__()
        out = 4 * width if bottleneck else width
        if bottleneck:
            shapes = [(channels_in, width, 1, 1), (width, width, 3, stride), (width, out, 1, 1)]
        else:
            shapes = [(channels_in, width, 3, stride), (width, width, 3, 1)]
        self.convolutions = nn.ModuleList([conv(*shape) for shape in shapes])
        same = stride == 1 and channels_in == out
        self.shortcut = nn.Identity() if same else conv(channels_in, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x
        for number, layer in enumerate(self.convolutions):
            hidden = layer(hidden if number == 0 else hidden.relu())
        return (hidden + self.shortcut(x)).relu()


class ResNet(nn.Module):
    """He et al. (2016), for images of 3 channels.

    Args:
        blocks: in each of the four stages.
        bottleneck: whether blocks have three convolutions.
        first: channels of the first stage.
        classes: outputs.
    """

    def __init__(
        self, blocks: tuple[int, ...], bottleneck: bool, first: int = 64, classes: int = 1000
    ):
        super().__init__()
        self.stem = nn.Sequential(*conv(3, first, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        layers, channels = [], first
        for stage, count in enumerate(blocks):
            for number in range(count):
                width, stride = first * 2**stage, 2 if stage and not number else 1
                layers.append(Block(channels, width, stride, bottleneck))
                channels = 4 * width if bottleneck else width
        self.blocks = nn.Sequential(*layers)
        self.out = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.out(self.blocks(self.stem(images)).mean((2, 3)))


def resnet18() -> ResNet:
    """11,689,512 parameters."""
    return ResNet((2, 2, 2, 2), bottleneck=False)


def resnet50() -> ResNet:
    """25,557,032 parameters."""
    return ResNet((3, 4, 6, 3), bottleneck=True)


def narrow_resnet18() -> ResNet:
    """An eighth of the channels, and 10 classes."""
    return ResNet((2, 2, 2, 2), bottleneck=False, first=8, classes=10)


def narrow_resnet50() -> ResNet:
    """An eighth of the channels, and 10 classes."""
    return ResNet((3, 4, 6, 3), bottleneck=True, first=8, classes=10)


class Layer(nn.Module):
    """Masked attention of several heads and two linear layers, each after a LayerNorm."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.activation = nn.GELU(approximate="tanh")

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.before(x), mask)
        return x + self.down(self.activation(self.up(self.between(x))))

    def attention(self, x: Tensor, mask: Tensor) -> Tensor:
        """In plain products, which can be differentiated as often as one likes."""
        q, k, v = self.project(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-1, -2)) / math.sqrt(q.shape[-1])
        return self.join((torch.softmax(scores + mask, -1) @ v).transpose(1, 2).flatten(2))


class GPT2(nn.Module):
    """Radford et al. (2019); the embedding of the tokens is the output layer too.

    Args:
        layers: how many.
        width: of the hidden states.
        heads: of the attention.
        vocabulary: tokens.
        length: the longest sequence.
    """

    def __init__(self, layers: int, width: int, heads: int, vocabulary: int, length: int):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.layers = nn.ModuleList([Layer(width, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.register_buffer("mask", torch.full((length, length), -math.inf).triu(1))
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[-1]
        hidden = self.tokens(tokens) + self.places.weight[:length]
        for layer in self.layers:
            hidden = layer(hidden, self.mask[:length, :length])
        return self.norm(hidden) @ self.tokens.weight.T


def gpt2() -> GPT2:
    """124,439,808 parameters."""
    return GPT2(12, 768, 12, 50257, 1024)


def tiny_gpt2() -> GPT2:
    """The same in small: 57,216 parameters."""
    return GPT2(2, 32, 4, 800, 192)
