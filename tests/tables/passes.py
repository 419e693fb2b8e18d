"""Test functions with what is known of paths between their minima, and an objective that counts."""

import torch

from landscape.functions import himmelblau, six_hump_camel, three_hump_camel
from landscape.objective import Analytic, Derived, value, value_and_grad

FUNCTIONS = {"himmelblau": himmelblau, "three-hump": three_hump_camel, "six-hump": six_hump_camel}
# Largest values on straight lines, to ten digits.
LINES = {
    ("himmelblau", "A", "B"): 13.71223925, ("himmelblau", "A", "C"): 180.70730118,
    ("himmelblau", "A", "D"): 71.08045957, ("himmelblau", "B", "C"): 184.03458454,
    ("himmelblau", "B", "D"): 142.59811395, ("himmelblau", "C", "D"): 105.86730151,
    ("three-hump", "O", "L+"): 0.87736156, ("three-hump", "L-", "L+"): 0.87736156,
}  # fmt: skip


def minima(function):
    """The minima of a function by name, (2,) each."""
    return {m.name: torch.tensor(m.point, dtype=torch.float64) for m in function.minima}


def mountain_pass(function, one, other):
    """The lowest height of all paths between two minima, by the table of the saddles."""
    known = {saddle.name.strip("+-"): saddle.value for saddle in function.saddles}
    if function is himmelblau:
        names = {one, other}
        return known["CD" if "C" in names else "AD" if "D" in names else "AB"]
    if function is three_hump_camel:
        return known["OL"]
    kinds = {one[0], other[0]}
    return known["HM" if "H" in kinds else "GG" if kinds == {"G"} else "MG"]


# The landscape on which the Fourier path finder was published, its ends, and its lowest pass.
_OFFSET = 1.0190055296306975
_WELLS, _HILLS = ((-0.5, -0.5), (0.5, 0.0)), ((-0.2, -0.4), (0.0, 0.3))


def _published(z):
    def bump(rate, centre):
        x, y = z[..., 0] - centre[0], z[..., 1] - centre[1]
        return torch.exp(-rate * (x * x + y * y))

    wells = sum(bump(3.0, centre) for centre in _WELLS)
    return _OFFSET - wells + sum(bump(15.0, centre) for centre in _HILLS)


toy = Analytic(_published, dim=2, name="toy", box=((-1.2, 1.2), (-1.2, 1.0)))
TOY_ENDS = torch.tensor([[-0.62, -0.54], [0.49, -0.02]], dtype=torch.float64)
TOY_LINE, TOY_PASS, TOY_DETOUR = 1.1023460027, 0.6243933472, 0.6372572377
TOY_SADDLE = (-0.1647265485, -0.0699171821)


class Counting(Derived):
    """An objective that counts the points at which it is asked for its value or its gradient."""

    def __init__(self, objective):
        self.parts, self.dim = (objective,), objective.dim
        self.values = self.gradients = 0

    @property
    def value(self):
        def counted(z):
            self.values += len(z)
            return value(self.parts[0], z)

        return counted

    def value_and_grad(self, z):
        self.gradients += len(z)
        return value_and_grad(self.parts[0], z)
