"""How populations move: one module for a family of methods, and `METHODS`, which names them."""

from cnognp.methods.registry import BATCH, METHODS

__all__ = ["BATCH", "METHODS"]
