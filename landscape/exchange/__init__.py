"""Results for other programs, and theirs for us."""

from landscape.exchange.classic import (
    read_directions,
    read_surface,
    read_trajectory,
    write_directions,
    write_surface,
)
from landscape.exchange.formats import FORMATS, export, table

__all__ = [
    "FORMATS",
    "export",
    "read_directions",
    "read_surface",
    "read_trajectory",
    "table",
    "write_directions",
    "write_surface",
]
