"""Networks that compute the same with their units in another order: found, checked and undone."""

from landscape.alignment.matching import Alignment, align, align_by_activations
from landscape.alignment.symmetry import Group, Symmetry, symmetry
from landscape.alignment.tracing import Untraceable

__all__ = [
    "Alignment",
    "Group",
    "Symmetry",
    "Untraceable",
    "align",
    "align_by_activations",
    "symmetry",
]
