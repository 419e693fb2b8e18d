"""Paths between two points: the loss along them, how high they are, and the saddle at their top."""

from landscape.paths.linear import linear
from landscape.paths.profile import Options

__all__ = ["Options", "linear"]
