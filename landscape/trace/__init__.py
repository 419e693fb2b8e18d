"""Sums over the diagonal of curvature, the diagonal itself and the Frobenius norm."""

from landscape.trace.entries import diagonal, frobenius
from landscape.trace.estimators import finite_scale, matrix_at, trace
from landscape.trace.hutchinson import forms

__all__ = [
    "diagonal",
    "finite_scale",
    "forms",
    "frobenius",
    "matrix_at",
    "trace",
]
