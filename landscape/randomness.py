"""Generators derived from counters, so that no random state is ever stored or shared.

Every draw in this project is a function of (seed, tags): the round, the purpose, the member.
A run that is cut and resumed, or split over workers, therefore draws the same numbers.
"""

import hashlib
import math
import struct
from collections.abc import Iterator
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from landscape.devices import sent

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
    first = getattr(generator, "first", 0)
    fresh = _FromMember(generator.device) if first else torch.Generator(device=generator.device)
    if first:
        fresh.first = first  # type: ignore[attr-defined]
    return fresh.manual_seed(seed)


class _FromMember(torch.Generator):
    """A generator for some members of a population: row 0 of `draw_rows` is that of ``first``."""

    first = 0


def from_member(generator: torch.Generator, first: int) -> torch.Generator:
    """A generator of the same seed, from which members ``first`` and after draw their own rows."""
    fresh = _FromMember(generator.device)
    fresh.first = first
    fresh.manual_seed(generator.initial_seed())
    return fresh


def draw_rows(
    law: Literal["normal", "uniform"],
    shape: tuple[int, ...],
    generator: torch.Generator,
    like: Tensor,
) -> Tensor:
    """Random numbers of the given shape, of which row i is the same however many rows there are.

    They are standard normal, or uniform in [0, 1), and a function of the seed of ``generator``, the
    law, i and the shape of a row. They are drawn in double precision on the CPU: neither the type
    nor the device of ``like`` changes them, but for rounding. ``generator`` is not advanced, so
    give every purpose one of its own, see `derive`.

    Args:
        law: of each number.
        shape: (N, ...), N rows.
        generator: only its seed is used.
        like: has the type and the device of what is returned.

    >>> g, like = torch.Generator("cpu").manual_seed(3), torch.zeros(1, device="cpu")
    >>> few, many = (draw_rows("normal", (n, 5), g, like) for n in (3, 4))
    >>> bool((few == many[:3]).all())
    True
    """
    seed = generator.initial_seed()
    # The rows of members before these are passed over a few at a time: a row can be large.
    first, row = getattr(generator, "first", 0), shape[1:]
    if law == "normal":
        # torch.randn fills blocks of 16 numbers and the last 16 anew, so that a row depends on how
        # many there are; NumPy draws one after the other.
        source = np.random.Generator(np.random.SFC64(seed & _MASK))
        for count in _passes(first, row):
            source.standard_normal((count, *row))
        drawn = torch.from_numpy(source.standard_normal(shape))
    else:
        # On the CPU uniform numbers come one after the other; on accelerators they do not.
        uniform = torch.Generator(device="cpu").manual_seed(seed)
        how: dict[str, Any] = {"generator": uniform, "dtype": torch.float64, "device": "cpu"}
        for count in _passes(first, row):
            torch.rand((count, *row), **how)
        drawn = torch.rand(shape, **how)
    return sent(drawn, like.device, like.dtype)


def _passes(rows: int, row: tuple[int, ...]) -> Iterator[int]:
    """How many rows to pass over in one call, in all ``rows``."""
    most = max(1, (1 << 16) // max(1, math.prod(row)))
    return (min(most, rows - done) for done in range(0, rows, most))


@cache
def _number(word: str) -> int:
    return struct.unpack("<Q", hashlib.blake2b(word.encode(), digest_size=8).digest())[0]


def _mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)
