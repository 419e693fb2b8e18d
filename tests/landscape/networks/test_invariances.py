"""What leaves each flatness measure as it is, and how it changes where nothing does.

A symmetry of a network is a linear map w' = M w of its weights that leaves the function alone.
There g' = M^-T g and H' = M^-T H M^-1, which says how every measure must change.
"""

import math
from functools import cache

import numpy as np
import pytest
import torch
from objectives import CE, built, classes, normal
from torch import nn

from landscape.networks.risk import EmpiricalRisk
from landscape.objective import Analytic, value
from landscape.results import table
from landscape.sharpness import MEASURES, Options, panel

OPTIONS = Options(rho_linf=0.05, epsilon=0.05, rho_adaptive=0.1, steps=80, batch_size=20, pairs=400)
NAMES = tuple(name for name in MEASURES if not name.startswith("interval"))
ALWAYS = {"fisher-rao-empirical", "fisher-rao"}


def eye(n):
    return torch.eye(n, dtype=torch.float64, device="cpu")


class Network(nn.Module):
    """3-4-3 with ReLU and biases."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


class Attention(nn.Module):
    """One head without biases: queries, keys, values, output."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(3, 2, bias=False) for _ in range(3))
        self.out = nn.Linear(2, 3, bias=False)

    def forward(self, x):
        scores = self.query(x) @ self.key(x).transpose(-1, -2)
        return self.out(scores.softmax(-1) @ self.value(x)).mean(1)


def network():
    return EmpiricalRisk(built(Network), (normal(20, 3), classes(20)), CE)


def attention():
    return EmpiricalRisk(built(Attention), (normal(20, 4, 3), classes(20)), CE)


def mapped(risk, change):
    """The matrix M of a map of named tensors, column by column."""
    columns = [
        risk.layout.flatten(change(dict(risk.layout.unflatten(column)))) for column in eye(risk.dim)
    ]
    return torch.stack(columns, dim=1)


def rescaled(alpha):
    def change(w):
        return w | {
            "first.weight": alpha * w["first.weight"],
            "first.bias": alpha * w["first.bias"],
            "second.weight": w["second.weight"] / alpha,
        }

    return change


def neuron_rescaled(alphas):
    def change(w):
        return w | {
            "first.weight": alphas[:, None] * w["first.weight"],
            "first.bias": alphas * w["first.bias"],
            "second.weight": w["second.weight"] / alphas,
        }

    return change


def permuted(order):
    def change(w):
        return w | {
            "first.weight": w["first.weight"][order],
            "first.bias": w["first.bias"][order],
            "second.weight": w["second.weight"][:, order],
        }

    return change


def query_key(a):
    """q -> A q and k -> A^-T k leave every score alone."""

    def change(w):
        other = torch.linalg.inv(a).T
        return w | {"query.weight": a @ w["query.weight"], "key.weight": other @ w["key.weight"]}

    return change


def value_output(a):
    """v -> A v and o -> o A^-1 leave every output alone."""

    def change(w):
        inverse = torch.linalg.inv(a)
        return w | {"value.weight": a @ w["value.weight"], "out.weight": w["out.weight"] @ inverse}

    return change


SQUARE = torch.tensor([[1.5, 0.4], [-0.3, 0.8]], dtype=torch.float64, device="cpu")
ALPHAS = torch.tensor([0.5, 2.0, 1.3, 0.8], dtype=torch.float64, device="cpu")

SYMMETRIES = {
    "rescaling of layers": (network, rescaled(6.0)),
    "rescaling of neurons": (network, neuron_rescaled(ALPHAS)),
    "permutation": (network, permuted([2, 0, 3, 1])),
    "query-key basis": (attention, query_key(SQUARE)),
    "value-output basis": (attention, value_output(SQUARE)),
}
ORTHOGONAL = {"lambda-max", "trace", "frobenius", "gradient-norm", "worst-l2", "m-sharpness", "sam"}
RELATIVE = {f"relative-flatness {layer}.weight" for layer in ("first", "second")}
HEADS = {f"relative-flatness {layer}.weight" for layer in ("query", "key", "value")}

# Everything that each symmetry leaves as it is; what is not named has to change.
INVARIANT = {
    "rescaling of layers": ALWAYS | RELATIVE | {"adaptive", "basin-width"},
    "rescaling of neurons": ALWAYS | {"relative-flatness first.weight", "adaptive"},
    "permutation": ALWAYS | RELATIVE | ORTHOGONAL | {"adaptive", "worst-linf", "keskar"},
    "query-key basis": ALWAYS | HEADS | {"relative-flatness out.weight"},
    "value-output basis": ALWAYS | HEADS,
}
# Draws at random: invariant in distribution only, and compared as such.
RANDOM = {"average", "basin-width"}
BOXES = {"worst-linf", "keskar"}


@cache
def both(symmetry):
    """The risk, its point, M, and the panels at the point and at its image."""
    make, change = SYMMETRIES[symmetry]
    risk = make()
    z, m = risk.point(), mapped(risk, change)
    image = m @ z
    assert float(value(risk, image)) == pytest.approx(float(value(risk, z)), rel=1e-12)
    here, there = (
        {row["measure"]: row for row in table(panel(risk, w, only=NAMES, options=OPTIONS))}
        for w in (z, image)
    )
    return risk, z, m, here, there


@pytest.mark.parametrize("symmetry", SYMMETRIES)
def test_measures_are_invariant_exactly_where_they_are_said_to_be(symmetry):
    _, _, _, here, there = both(symmetry)
    for name in here.keys() - RANDOM:
        a, b = here[name]["value"], there[name]["value"]
        # Signs of slopes end in different corners; the rest finds the same maximum.
        tolerance = 0.05 if name in BOXES and symmetry == "permutation" else 1e-4
        same = math.isclose(a, b, rel_tol=tolerance)
        assert same == (name in INVARIANT[symmetry]), (name, a, b)
    assert INVARIANT[symmetry] - RANDOM <= here.keys()


@pytest.mark.parametrize("symmetry", ["rescaling of layers", "permutation"])
def test_random_measures_are_invariant_within_their_errors(symmetry):
    _, _, _, here, there = both(symmetry)
    if symmetry == "rescaling of layers":
        # The same draws are normalised to the image's filters: equal to bisection's last digit.
        a, b = here["basin-width"]["value"], there["basin-width"]["value"]
        assert a == pytest.approx(b, rel=1e-6)
        predicted = OPTIONS.sigma**2 / 2 * there["trace"]["value"]
        assert abs(there["average"]["value"] - predicted) < 4 * there["average"]["error"]
        assert abs(here["average"]["value"] - predicted) > 4 * here["average"]["error"]
        return
    difference = here["average"]["value"] - there["average"]["value"]
    assert abs(difference) < 4 * math.hypot(here["average"]["error"], there["average"]["error"])
    assert here["basin-width"]["low"] < there["basin-width"]["high"]
    assert there["basin-width"]["low"] < here["basin-width"]["high"]


@pytest.mark.parametrize("symmetry", SYMMETRIES)
def test_derivatives_change_by_the_inverse_of_the_map(symmetry):
    risk, z, m, _, there = both(symmetry)
    inverse = torch.linalg.inv(m)

    def truth(w):
        return sum(term(w) for term in risk.terms())

    hessian = inverse.T @ torch.func.hessian(truth)(z) @ inverse
    slope = inverse.T @ torch.func.grad(truth)(z)
    step = OPTIONS.rho * slope / slope.norm()
    predicted = {
        "lambda-max": float(torch.linalg.eigvalsh(hessian)[-1]),
        "trace": float(hessian.trace()),
        "frobenius": float(hessian.norm()),
        "gradient-norm": float(slope.norm()),
        "sam": float(truth(z + inverse @ step) - truth(z)),
    }
    for name, number in predicted.items():
        assert there[name]["value"] == pytest.approx(number, rel=1e-5), name


def test_a_rescaled_layers_part_of_the_trace_goes_with_the_inverse_square():
    """With alpha on the first and 1 / alpha on the second: tr_1 / alpha^2 + alpha^2 tr_2 + tr_b."""
    risk = network()
    z = risk.point()
    hessian = torch.func.hessian(lambda w: sum(term(w) for term in risk.terms()))(z).diagonal()
    parts = risk.layout.unflatten(hessian)
    for alpha in (0.1, 3.0, 10.0):
        image = mapped(risk, rescaled(alpha)) @ z
        first = float(parts["first.weight"].sum() + parts["first.bias"].sum())
        second, bias = float(parts["second.weight"].sum()), float(parts["second.bias"].sum())
        found = panel(risk, image, only=("trace",)).value[0]
        assert found == pytest.approx(first / alpha**2 + alpha**2 * second + bias, rel=1e-9)


def test_with_eta_above_zero_the_adaptive_ball_is_not_invariant():
    risk = network()
    z, m = risk.point(), mapped(risk, rescaled(4.0))
    for eta, same in ((0.0, True), (0.1, False)):
        options = Options(rho_adaptive=0.1, eta=eta, steps=80)
        a, b = (
            panel(risk, w, only=("adaptive",), options=options).value[0] for w in (z, m @ z)
        )  # fmt: skip
        assert math.isclose(a, b, rel_tol=1e-4) == same


def turned(z, angle):
    c, s = math.cos(angle), math.sin(angle)
    return torch.stack((c * z[..., 0] - s * z[..., 1], s * z[..., 0] + c * z[..., 1]), -1)


def test_a_rotation_leaves_what_sees_lengths_alone_and_changes_what_sees_coordinates():
    def bowl(z):
        return 2 * z[..., 0] ** 2 + 0.5 * z[..., 1] ** 2 + 0.1 * z[..., 0] ** 4

    here = Analytic(bowl, 2)
    there = Analytic(lambda z: bowl(turned(z, -0.5)), 2)
    z = torch.tensor([0.7, 0.4], dtype=torch.float64, device="cpu")
    a, b = (
        {row["measure"]: row for row in table(panel(f, w, options=OPTIONS))}
        for f, w in ((here, z), (there, turned(z, 0.5)))
    )
    same = (ORTHOGONAL - {"m-sharpness"}) | {"average", "basin-width"}
    other = {"worst-linf", "adaptive", "keskar", "interval-mean", "interval-max"}
    assert same | other == {name for name, row in a.items() if row["kind"] != "none"}
    for name in same - {"average", "basin-width"}:
        assert a[name]["value"] == pytest.approx(b[name]["value"], rel=1e-6), name
    difference = a["average"]["value"] - b["average"]["value"]
    assert abs(difference) < 4 * math.hypot(a["average"]["error"], b["average"]["error"])
    assert a["basin-width"]["low"] < b["basin-width"]["high"]
    assert b["basin-width"]["low"] < a["basin-width"]["high"]
    for name in other:
        assert not math.isclose(a[name]["value"], b[name]["value"], rel_tol=1e-3), name


def test_the_box_changes_under_a_rotation_as_its_corners_do():
    """Of (z_0^2 + 9 z_1^2) / 2 turned by 45 degrees, the maximum over the box is at its corners."""
    z = torch.zeros(2, dtype=torch.float64, device="cpu")
    plainly = Analytic(lambda z: (z[..., 0] ** 2 + 9 * z[..., 1] ** 2) / 2, 2)
    askew = Analytic(lambda z: plainly.formula(turned(z, math.pi / 4)), 2)
    options = Options(rho_linf=0.1)
    found = [panel(f, z, only=("worst-linf",), options=options).value[0] for f in (plainly, askew)]
    np.testing.assert_allclose(found, [0.01 * (1 + 9) / 2, 0.01 * 2 * 9 / 2], rtol=1e-9)


def test_what_a_panel_says_of_its_invariances_is_what_is_tested_here():
    risk = network()
    found = panel(risk, risk.point(), only=NAMES, options=Options(starts=1, steps=1))
    claims = dict(zip(found.measures, found.invariant, strict=True))
    assert all("permutation" in claim for claim in claims.values())
    for name, claim in claims.items():
        scaled = name in INVARIANT["rescaling of layers"]
        assert ("rescaling" in claim) == scaled, name
        assert ("attention basis" in claim) == (name in ALWAYS or name.startswith("relative")), name
