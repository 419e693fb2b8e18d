"""What transformers are made of: blocks of attention and perceptrons on tokens."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

_EPSILON, _DEVIATION = 1e-6, 0.02


class Block(nn.Module):
    """Attention and a perceptron, each behind a LayerNorm and beside a shortcut."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.attn = norm(width), Attention(width, heads)
        self.norm2, self.mlp = norm(width), Perceptron(width)

    def forward(
        self,
        x: Float[Tensor, "batch tokens width"],
        mask: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        x = x + self.attn(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class Attention(nn.Module):
    """Every token looks at all of them, or at those that a mask leaves, with several heads."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = linear(width, 3 * width)
        self.proj = linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "batch tokens width"],
        mask: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        parts = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = None if mask is None else mask[:, None, None]
        found = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], seen)
        return self.proj(found.transpose(1, 2).flatten(2))


class Perceptron(nn.Module):
    """One hidden layer of four times the width."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = linear(width, 4 * width)
        self.fc2 = linear(4 * width, width)

    def forward(
        self, x: Float[Tensor, "batch tokens width"]
    ) -> Float[Tensor, "batch tokens width"]:
        return self.fc2(F.gelu(self.fc1(x)))


def linear(width_in: int, width_out: int) -> nn.Linear:
    """A linear layer that nothing has filled yet."""
    return skip_init(nn.Linear, width_in, width_out, device="cpu", dtype=torch.float32)


def norm(width: int) -> nn.LayerNorm:
    """A LayerNorm of tokens."""
    return nn.LayerNorm(width, eps=_EPSILON, device="cpu", dtype=torch.float32)


def empty(*shape: int) -> Tensor:
    """Numbers of this shape that nothing has filled yet."""
    return torch.empty(shape, device="cpu", dtype=torch.float32)


def check_sizes(width: int, heads: int, depth: int, num_classes: int) -> None:
    """Nothing, if a transformer can have these sizes.

    Raises:
        ValueError: if a number is below 1, or the heads cannot share the width.
    """
    if min(width, heads, num_classes, depth) < 1 or width % heads:
        raise ValueError(
            "width must be a multiple of heads, and all numbers at least 1, got width "
            f"{width}, {heads} heads, depth {depth} and {num_classes} classes"
        )


def fill_linear(model: nn.Module, source: torch.Generator) -> None:
    """Draws the weights of all linear layers, normal with deviation 0.02; biases are zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            fill(module.weight, source)
            nn.init.zeros_(module.bias)


def fill(weight: Tensor, source: torch.Generator) -> None:
    """Draws numbers that are normal with deviation 0.02, cut at 2."""
    nn.init.trunc_normal_(weight, std=_DEVIATION, generator=source)
