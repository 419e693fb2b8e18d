"""A small transformer that reads texts."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils import skip_init

from cnognp.tasks.transformer import Block, check_sizes, empty, fill, fill_linear, linear, norm


def encoder(
    pieces: int,
    length: int,
    num_classes: int,
    width: int = 64,
    heads: int = 4,
    depth: int = 1,
    generator: torch.Generator | None = None,
) -> "Encoder":
    """A transformer on the pieces of a text, without dropout; what it reads is averaged.

    Weights are normal with deviation 0.02, cut at 2, embeddings with variance 1 / width; biases are
    zero.

    Args:
        pieces: of the vocabulary.
        length: pieces that a text has at most.
        num_classes: number of outputs.
        width: of a token.
        heads: of the attention; they share the width.
        depth: number of blocks.
        generator: source of the weights, on the CPU; seed 0 where None.

    Raises:
        ValueError: if a number is below 1, or the heads cannot share the width.

    >>> sum(p.numel() for p in encoder(4000, 64, 4).parameters())
    310532
    """
    check_sizes(width, heads, depth, num_classes)
    source = torch.Generator(device="cpu").manual_seed(0) if generator is None else generator
    model = Encoder(pieces, length, width, heads, depth, num_classes)
    fill_linear(model, source)
    for weight in (model.token_embed.weight, model.pos_embed, model.cls_token):
        nn.init.normal_(weight, std=width**-0.5, generator=source)
    fill(model.head.weight, source)
    return model


class Encoder(nn.Module):
    """Embedded pieces behind a token of no text, blocks, a LayerNorm, their mean, a linear layer.

    The first token is always seen, so that a text without a piece has an output too. Tensors are
    left uninitialised: `encoder` fills them.
    """

    def __init__(
        self, pieces: int, length: int, width: int, heads: int, depth: int, num_classes: int
    ):
        super().__init__()
        self.token_embed = skip_init(nn.Embedding, pieces, width, device="cpu", dtype=torch.float32)
        self.cls_token = nn.Parameter(empty(1, 1, width))
        self.pos_embed = nn.Parameter(empty(1, length, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = norm(width)
        self.head = linear(width, num_classes)

    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Bool[Tensor, "batch tokens"],
    ) -> Float[Tensor, "batch classes"]:
        x = self.token_embed(input_ids) + self.pos_embed[:, : input_ids.shape[1]]
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        mask = torch.cat([attention_mask.new_ones(len(x), 1), attention_mask], 1)
        for block in self.blocks:
            x = block(x, mask)
        seen = mask[..., None].to(x.dtype)
        return self.head((self.norm(x) * seen).sum(1) / seen.sum(1))
