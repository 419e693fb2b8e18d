"""Paths between two points: the loss along them, how high they are, and the saddle at their top."""

from landscape.paths.bezier import bezier
from landscape.paths.elastic_band import elastic_band
from landscape.paths.finder import find
from landscape.paths.fourier import fourier
from landscape.paths.linear import linear
from landscape.paths.polygon import polygon
from landscape.paths.profile import Options
from landscape.paths.registry import FINDERS
from landscape.paths.saddles import saddle
from landscape.paths.string import string

__all__ = [
    "FINDERS",
    "Options",
    "bezier",
    "elastic_band",
    "find",
    "fourier",
    "linear",
    "polygon",
    "saddle",
    "string",
]
