"""Moves from a point to another of the same loss, or to other minima."""

from landscape.moves.deflation import Bumps, Restarts, restarts
from landscape.moves.shifting import Layer, Shift, shifted

__all__ = ["Bumps", "Layer", "Restarts", "Shift", "restarts", "shifted"]
