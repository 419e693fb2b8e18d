"""The one noun that everything else stands on: a finite sum of scalar terms over a flat vector.

The last axis of a point is parameters; every axis before it is batch (population, grid, probes).
Derivatives commute with finite sums, so `value`, `value_and_grad` and `hvp` serve every objective.
Norms of gradients and maxima do not commute with sums: they are functions of an objective's value
and gradient, never objectives.
"""

from landscape.objective.analytic import Analytic, Critical, Ridge
from landscape.objective.checks import check_deterministic, judged
from landscape.objective.composed import Derived, Sum
from landscape.objective.derivatives import (
    backward,
    batched_terms,
    difference,
    first_order,
    hvp,
    ordinary,
    second_order,
    slopes_by_term,
    value,
    value_and_grad,
    values_by_term,
    widened,
)  # fmt: skip
from landscape.objective.protocol import (
    Objective,
    Offer,
    Term,
    leaves,
    normalisation_of,
    offered,
    trait,
)  # fmt: skip

__all__ = [
    "Analytic", "Critical", "Derived", "Objective", "Offer", "Ridge", "Sum", "Term",
    "backward", "batched_terms", "check_deterministic", "difference", "first_order", "hvp",
    "judged", "leaves", "normalisation_of", "offered", "ordinary", "second_order",
    "slopes_by_term", "trait", "value", "value_and_grad", "values_by_term", "widened",
]  # fmt: skip
