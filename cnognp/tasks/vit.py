"""Vision transformers for images of 32 x 32 pixels."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import skip_init

from cnognp.tasks.transformer import Block, check_sizes, empty, fill, fill_linear, linear, norm

_SIZE, _PATCH = 32, 4


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
    check_sizes(width, heads, depth, num_classes)
    source = torch.Generator(device="cpu").manual_seed(0) if generator is None else generator
    model = VisionTransformer(width, heads, depth, num_classes)
    fill_linear(model, source)
    patches = model.patch_embed.proj
    fan_in = patches.weight[0].numel()
    nn.init.trunc_normal_(patches.weight, std=fan_in**-0.5, a=-1, b=1, generator=source)
    nn.init.zeros_(patches.bias)  # type: ignore[arg-type]
    fill(model.pos_embed, source)
    nn.init.normal_(model.cls_token, std=1e-6, generator=source)
    return model


class VisionTransformer(nn.Module):
    """Patches and a class token with learned places, blocks, a LayerNorm, a linear layer.

    The names of its tensors are those of timm. They are left uninitialised: `vit` fills them.
    """

    def __init__(self, width: int, heads: int, depth: int, num_classes: int):
        super().__init__()
        tokens = (_SIZE // _PATCH) ** 2 + 1
        self.cls_token = nn.Parameter(empty(1, 1, width))
        self.pos_embed = nn.Parameter(empty(1, tokens, width))
        self.patch_embed = Patches(width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = norm(width)
        self.head = linear(width, num_classes)

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
