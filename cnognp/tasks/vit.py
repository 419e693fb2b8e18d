"""Vision transformers for images of 32 x 32 pixels."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

_SIZE, _PATCH, _EPSILON = 32, 4, 1e-6


def vit(
    width: int,
    heads: int,
    num_classes: int = 10,
    depth: int = 12,
    generator: torch.Generator | None = None,
) -> "VisionTransformer":
    """The vision transformer on 64 patches of 4 x 4 pixels (Dosovitskiy et al. 2021).

    ViT-T has width 192 and 3 heads, ViT-S width 384 and 6 heads (Touvron et al. 2021). Without
    dropout. Weights are normal with deviation 0.02, cut at 2, those of the patches with variance
    1 / fan_in; biases are zero.

    Args:
        width: of a token.
        heads: of the attention; they share the width.
        num_classes: number of outputs.
        depth: number of blocks.
        generator: source of the weights, on the CPU; seed 0 where None.

    Raises:
        ValueError: if a number is below 1, or the heads cannot share the width.

    >>> sum(p.numel() for p in vit(192, 3).parameters())
    5362762
    """
    if min(width, heads, num_classes, depth) < 1 or width % heads:
        raise ValueError(
            "width must be a multiple of heads, and all numbers at least 1, got width "
            f"{width}, {heads} heads, depth {depth} and {num_classes} classes"
        )
    source = torch.Generator(device="cpu").manual_seed(0) if generator is None else generator
    model = VisionTransformer(width, heads, depth, num_classes)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02, generator=source)
            nn.init.zeros_(module.bias)
    patches = model.patch_embed.proj
    fan_in = patches.weight[0].numel()
    nn.init.trunc_normal_(patches.weight, std=fan_in**-0.5, a=-1, b=1, generator=source)
    nn.init.zeros_(patches.bias)  # type: ignore[arg-type]
    nn.init.trunc_normal_(model.pos_embed, std=0.02, generator=source)
    nn.init.normal_(model.cls_token, std=1e-6, generator=source)
    return model


class VisionTransformer(nn.Module):
    """Patches and a class token with learned places, blocks, a LayerNorm, a linear layer.

    The names of its tensors are those of timm. They are left uninitialised: `vit` fills them.
    """

    def __init__(self, width: int, heads: int, depth: int, num_classes: int):
        super().__init__()
        tokens = (_SIZE // _PATCH) ** 2 + 1
        self.cls_token = nn.Parameter(_empty(1, 1, width))
        self.pos_embed = nn.Parameter(_empty(1, tokens, width))
        self.patch_embed = Patches(width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = _norm(width)
        self.head = _linear(width, num_classes)

    def forward(self, x: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch classes"]:
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


class Patches(nn.Module):
    """A linear map of every patch."""

    def __init__(self, width: int):
        super().__init__()
        self.proj = skip_init(
            nn.Conv2d, 3, width, kernel_size=_PATCH, stride=_PATCH, device="cpu",
            dtype=torch.float32,
        )  # fmt: skip

    def forward(self, x: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch tokens width"]:
        return self.proj(x).flatten(2).transpose(1, 2)


class Block(nn.Module):
    """Attention and a perceptron, each behind a LayerNorm and beside a shortcut."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.attn = _norm(width), Attention(width, heads)
        self.norm2, self.mlp = _norm(width), Perceptron(width)

    def forward(
        self, x: Float[Tensor, "batch tokens width"]
    ) -> Float[Tensor, "batch tokens width"]:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Attention(nn.Module):
    """Every token looks at all of them, with several heads."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = _linear(width, 3 * width)
        self.proj = _linear(width, width)

    def forward(
        self, x: Float[Tensor, "batch tokens width"]
    ) -> Float[Tensor, "batch tokens width"]:
        parts = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        return self.proj(found.transpose(1, 2).flatten(2))


class Perceptron(nn.Module):
    """One hidden layer of four times the width."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = _linear(width, 4 * width)
        self.fc2 = _linear(4 * width, width)

    def forward(
        self, x: Float[Tensor, "batch tokens width"]
    ) -> Float[Tensor, "batch tokens width"]:
        return self.fc2(F.gelu(self.fc1(x)))


def _linear(width_in: int, width_out: int) -> nn.Linear:
    return skip_init(nn.Linear, width_in, width_out, device="cpu", dtype=torch.float32)


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=_EPSILON, device="cpu", dtype=torch.float32)


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, device="cpu", dtype=torch.float32)
