"""Test functions whose critical points are known to double precision."""

from landscape.functions.additive import f1, f2, f3
from landscape.functions.catalogue import (
    CATALOGUE,
    himmelblau,
    six_hump_camel,
    three_hump_camel,
    three_hump_camel_misprint,
    two_wells,
)

__all__ = [
    "CATALOGUE",
    "f1",
    "f2",
    "f3",
    "himmelblau",
    "six_hump_camel",
    "three_hump_camel",
    "three_hump_camel_misprint",
    "two_wells",
]
