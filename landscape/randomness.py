"""Generators derived from counters, so that no random state is ever stored or shared.

Every draw in this project is a function of (seed, tags): the round, the purpose, the member.
A run that is cut and resumed, or split over workers, therefore draws the same numbers.
"""

import hashlib
import struct
from functools import cache

import torch

_MASK = (1 << 64) - 1


def derived_seed(seed: int, *tags: int | str) -> int:
    """The 63-bit seed that belongs to ``seed`` and ``tags``.

    Tags of different type or order give unrelated seeds. Integers are mixed by SplitMix64
    (Steele, Lea & Flood 2014, OOPSLA, figure 15), words by BLAKE2b.

    Args:
        seed: any integer; only its low 64 bits count.
        tags: what the draw is for, for instance ``(17, "mini-batches")``.

    >>> derived_seed(0, "step", 1) == derived_seed(0, "step", 1)
    True
    >>> len({derived_seed(0, "step", k) for k in range(1000)})
    1000
    """
    state = _mix(seed & _MASK)
    for tag in tags:
        if isinstance(tag, str):
            tag = _number(tag)
        state = _mix(state ^ _mix((tag + 0x9E3779B97F4A7C15) & _MASK))
    return state >> 1


def derive(generator: torch.Generator, *tags: int | str) -> torch.Generator:
    """A fresh generator that depends on the initial seed of ``generator`` and on ``tags`` alone.

    ``generator`` itself is not advanced, and how much was drawn from it does not matter.

    >>> g = torch.Generator("cpu").manual_seed(3)
    >>> a = torch.rand(1, generator=derive(g, "noise", 5))
    >>> _ = torch.rand(100, generator=g)
    >>> bool(a == torch.rand(1, generator=derive(g, "noise", 5)))
    True
    """
    seed = derived_seed(generator.initial_seed(), *tags)
    return torch.Generator(device=generator.device).manual_seed(seed)


@cache
def _number(word: str) -> int:
    return struct.unpack("<Q", hashlib.blake2b(word.encode(), digest_size=8).digest())[0]


def _mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)
