"""Populations trained to find flat minima. Importing this package does not import torch."""

from cnognp.methods import METHODS

__all__ = ["METHODS"]
__version__ = "0.1.0"
