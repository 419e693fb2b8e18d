"""Curvature matrices beside the Hessian, as something that multiplies vectors."""

from landscape.operators.blocks import block
from landscape.operators.fisher import EmpiricalFisher, Fisher, GaussNewton
from landscape.operators.selection import Selection

__all__ = [
    "EmpiricalFisher",
    "Fisher",
    "GaussNewton",
    "Selection",
    "block",
]
