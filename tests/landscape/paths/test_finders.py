"""Path finders against mountain-pass heights that are known, and what all of them keep to."""

import time
from itertools import combinations

import numpy as np
import passes
import pytest
import torch
from objectives import CE, IMAGES, X, Y, built, chain, normal, uneven
from torch import nn

from landscape import paths
from landscape.functions import himmelblau, six_hump_camel
from landscape.networks import EmpiricalRisk
from landscape.objective import Analytic, Ridge, Sum, value, value_and_grad
from landscape.paths import FINDERS, find
from landscape.paths.curves import sines
from landscape.paths.drawn import drawn, scheduled
from landscape.paths.fourier import Fourier, _Descent
from landscape.paths.ground import Ground
from landscape.paths.pivots import between, spread, tangents
from landscape.paths.profile import Options, profile
from landscape.paths.steps import Adam, Adaptive, Momentum
from landscape.results import load, save

SEARCHING = [name for name in FINDERS if name != "linear"]
# Those that minimise the height, and not a mean.
LOWEST = ["fourier", "elastic-band", "string"]
QUICK = {
    "linear": {}, "fourier": {"steps": 60}, "elastic-band": {"steps": 25}, "string": {"steps": 40},
    "bezier": {"steps": 40}, "polygon": {"steps": 40},
}  # fmt: skip
A, B, C, D = (passes.minima(himmelblau)[name] for name in "ABCD")


def found(name, objective, a, b, **settings):
    return find(FINDERS[name], objective, a, b, settings)


@pytest.mark.parametrize("name", LOWEST)
def test_the_published_landscape_is_crossed_at_its_lowest_pass(name):
    began = time.process_time()
    path = found(name, passes.toy, *passes.TOY_ENDS)
    assert time.process_time() - began < 5
    assert passes.TOY_PASS - 1e-9 <= path.height < passes.TOY_PASS + 1e-3
    assert path.line_height == pytest.approx(passes.TOY_LINE, abs=1e-8)
    dense = value(passes.toy, torch.tensor(path.points))
    np.testing.assert_allclose(path.loss, dense, rtol=1e-12)
    assert path.top == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize(("penalty", "height"), [(10, 0.684553), (100, 0.698047), (1000, 0.719729)])
def test_equation_4_of_the_paper_has_the_heights_that_were_found_of_it(penalty, height):
    settings = {"power": "1", "grid": 100, "penalty": float(penalty), "lr": 0.01, "steps": 300}
    path = paths.fourier(passes.toy, *passes.TOY_ENDS, **settings, points=2001)
    assert path.height == pytest.approx(height, abs=3e-6)


@pytest.mark.parametrize(("penalty", "published"), [(10, 0.646), (100, 0.640), (1000, 0.652)])
def test_the_squared_sum_has_the_heights_that_were_published(penalty, published):
    settings = {"power": "2", "grid": 100, "penalty": float(penalty), "lr": 0.01, "steps": 300}
    path = paths.fourier(passes.toy, *passes.TOY_ENDS, **settings, points=2001)
    assert path.height == pytest.approx(published, abs=4e-3)


@pytest.mark.parametrize("function", passes.FUNCTIONS)
@pytest.mark.parametrize("name", SEARCHING)
def test_no_path_is_below_the_pass_or_above_the_line(name, function):
    function = passes.FUNCTIONS[function]
    ends = passes.minima(function)
    direct = {}
    mirrored = str.maketrans("+-", "-+")
    for one, other in combinations(ends, 2):
        twin = one.translate(mirrored), other.translate(mirrored)
        if (known := direct.get(twin, direct.get(twin[::-1]))) is not None:
            direct[one, other] = known
            continue
        path = found(name, function, ends[one], ends[other], **QUICK[name])
        lowest = passes.mountain_pass(function, one, other)
        assert lowest - 1e-6 * (1 + abs(lowest)) <= path.height <= path.line_height
        assert path.barrier <= path.line_height - float(path.loss[[0, -1]].mean()) + 1e-12
        direct[one, other] = path.height
    if name in LOWEST:
        # The way from B to C leads over A and D: the passes are those of the network of minima.
        for step in ends:
            for one, other in direct:
                if step not in (one, other):
                    legs = [direct[min(one, step, key=list(ends).index),
                                   max(one, step, key=list(ends).index)],
                            direct[min(other, step, key=list(ends).index),
                                   max(other, step, key=list(ends).index)]]  # fmt: skip
                    direct[one, other] = min(direct[one, other], max(legs))
        for pair, height in direct.items():
            assert height == pytest.approx(passes.mountain_pass(function, *pair), abs=1e-3), pair


@pytest.mark.parametrize("name", FINDERS)
def test_ends_are_kept_bit_for_bit_and_evaluations_counted(name):
    counting = passes.Counting(six_hump_camel)
    ends = passes.minima(six_hump_camel)
    a, b = ends["G-"], ends["M+"]
    path = found(name, counting, a, b)
    assert np.array_equal(path.points[0], a.numpy()) and np.array_equal(path.points[-1], b.numpy())
    assert (path.evaluations, path.gradients) == (counting.values, counting.gradients)
    assert (path.gradients > 0) == (name != "linear")
    steps = np.linalg.norm(np.diff(path.points, axis=0), axis=1)
    assert np.median(steps) == pytest.approx(path.length / 100, rel=1e-2)


@pytest.mark.parametrize("name", FINDERS)
def test_the_way_back_is_the_way_there(name):
    # Off the lines of symmetry, where a band may turn to either side.
    there = found(name, himmelblau, A, D, **QUICK[name])
    back = found(name, himmelblau, D, A, **QUICK[name])
    assert back.height == pytest.approx(there.height, rel=1e-5)
    assert back.top == pytest.approx(1 - there.top, abs=5e-3)
    np.testing.assert_allclose(back.points[::-1], there.points, atol=2e-2)


@pytest.mark.parametrize("name", FINDERS)
def test_a_bowl_gives_the_line(name):
    bowl = Analytic(lambda z: (z * z * torch.tensor([1.0, 9.0], dtype=z.dtype)).sum(-1), 2)
    a, b = torch.tensor([[1.0, 1.0], [2.0, -1.5]], dtype=torch.float64)
    path = found(name, bowl, a, b)
    assert path.status.startswith("the straight line") and path.gradients == 0
    assert path.height == max(path.loss[0], path.loss[-1])
    np.testing.assert_allclose(path.points, between(a, b, 99), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", FINDERS)
def test_identical_ends_give_a_path_of_length_zero(name):
    path = found(name, himmelblau, A + 1, A + 1)
    assert (path.length, path.barrier) == (0, 0) and path.height == path.loss[0]


@pytest.mark.parametrize("name", SEARCHING)
def test_a_hole_in_the_landscape_is_gone_around_or_told(name):
    def holed(z):
        x, y = z[..., 0], z[..., 1]
        square = x * x + (y - 0.05) ** 2
        return torch.where(square < 0.01, torch.nan, torch.exp(-8 * square))

    a, b = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    path = found(name, Analytic(holed, 2), a, b)
    if np.isfinite(path.height):
        assert np.isfinite(path.loss).all() and path.line_height == np.inf
    else:
        assert "not finite" in path.status and path.status.startswith("the straight line")
    if name == "fourier":
        assert path.height < 1


@pytest.mark.parametrize("name", FINDERS)
def test_a_path_in_one_coordinate_is_the_line(name):
    wave = Analytic(lambda z: torch.sin(3 * z[..., 0]) ** 2, 1)
    path = found(name, wave, *torch.tensor([[0.0], [2.0]], dtype=torch.float64))
    assert path.height == pytest.approx(1, abs=1e-8)
    assert path.height <= path.line_height


@pytest.mark.parametrize("optimiser", ["adam", "lbfgs"])
def test_both_optimisers_and_functionals_go_down(optimiser):
    for power in ("1", "2", "maximum"):
        path = paths.fourier(himmelblau, A, B, optimiser=optimiser, power=power, steps=30)
        assert path.height < path.line_height - 0.3, (optimiser, power)
        assert f"steps of {optimiser}" in path.status


@pytest.mark.parametrize("power", ["1", "2", "maximum"])
@pytest.mark.parametrize("chunk", [None, 7])
def test_the_gradient_of_the_functional_is_that_of_differences(power, chunk):
    ground = Ground(himmelblau, A, D, chunk=chunk)
    line = profile(ground, paths.curves.straight(A, D), Options())
    settings = Fourier(sines=3, grid=20, penalty=0.7, power=power, beta=0.03)
    amplitudes = 0.3 * normal(3, 2)
    descent = _Descent(settings, ground, line)
    total, slope = descent(amplitudes, himmelblau)

    rows = sines(A, D, amplitudes)._rows(np.linspace(0, 1, 20))
    losses = value(himmelblau, rows)[1:-1]
    summed = {
        "1": losses.sum(), "2": (losses**2).sum(), "maximum": (0.03 * losses).logsumexp(0) / 0.03
    }[power]  # fmt: skip
    squares = rows.diff(dim=0).square().sum() - (D - A).square().sum() / 19
    assert float(total) == pytest.approx(float(summed + 0.7 * squares), rel=1e-10)
    for place in np.ndindex(3, 2):
        up, down = amplitudes.clone(), amplitudes.clone()
        up[place] += 1e-5
        down[place] -= 1e-5
        quotient = (descent(up, himmelblau)[0] - descent(down, himmelblau)[0]) / 2e-5
        assert float(slope[place]) == pytest.approx(float(quotient), rel=1e-5, abs=1e-5)


def test_no_amplitude_is_the_line():
    curve = sines(A, B, torch.zeros(4, 2, dtype=torch.float64))
    torch.testing.assert_close(curve.at(np.linspace(0, 1, 9)), between(A, B, 7))


@pytest.mark.parametrize("name", SEARCHING)
def test_networks_have_paths_on_the_full_batch_and_on_mini_batches(name):
    risk = Sum(EmpiricalRisk(built(chain), uneven(X, Y), CE), Ridge(0.01, dim=len(_start())))
    a, b = _start(), _start(5)
    few = {"points": 41, "steps": 15} | ({"cycles": 2} if name == "elastic-band" else {})
    whole = found(name, risk, a, b, **few)
    assert whole.height < whole.line_height
    small = found(name, risk, a, b, batch_size=4, lr=0.05, **few)
    assert small.height <= small.line_height
    again = found(name, risk, a, b, batch_size=4, lr=0.05, **few)
    assert again.height == small.height


def _start(seed=0):
    """A trained chain's point."""
    risk = EmpiricalRisk(built(chain, seed), uneven(X, Y), CE)
    return _descended(risk, risk.point())


def _descended(objective, z, lr=0.5):
    for _ in range(60):
        z = z - lr * value_and_grad(objective, z)[1]
    return z


def test_batchnorm_takes_the_batch_in_training_and_the_point_in_measuring():
    model = built(
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)
        )
    )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    risk = EmpiricalRisk(model, (IMAGES, Y), CE)
    training = risk.normalised_by_batch()
    a, b = (_descended(training, z) for z in (risk.point(), normal(risk.dim, seed=3)))
    for settings in ({}, {"batch_size": 5, "lr": 0.02}):
        path = paths.bezier(risk, a, b, steps=10, points=7, refinement=1, **settings)
        assert path.height < path.line_height
        assert "re-estimated at every point" in path.statistics
        expected = [float(value(risk.reestimated(z), z)) for z in torch.tensor(path.points)]
        np.testing.assert_allclose(path.loss, expected, rtol=1e-9)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    truth = EmpiricalRisk(model, (IMAGES, Y), CE, statistics="batch")
    torch.testing.assert_close(value_and_grad(training, a), value_and_grad(truth, a))
    assert (risk.statistics, training.normalisation) == ("frozen", "batch")


def test_pivots_are_spread_evenly_and_a_fixed_one_stays():
    rows = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [4.0, 1.0]], dtype=torch.float64)
    expected = torch.tensor([[0.0, 0.0], [1.0, 2 / 3], [7 / 3, 1.0], [4.0, 1.0]]).double()
    torch.testing.assert_close(spread(rows), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(spread(rows, 2)[2], rows[2])
    torch.testing.assert_close(spread(rows, 2)[1], rows[1])


def test_tangents_point_to_the_higher_neighbour():
    rows = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    for losses, expected in (
        ([0.0, 1.0, 2.0], [0.0, 1.0]), ([2.0, 1.0, 0.0], [1.0, 0.0]),
        ([0.0, 3.0, 1.0], [2.0, 3.0]), ([1.0, 1.0, 1.0], [1.0, 1.0]),
    ):  # fmt: skip
        expected = torch.tensor([expected]).double()
        along = tangents(rows, torch.tensor(losses).double())
        torch.testing.assert_close(along, expected / expected.norm())


def test_steps_are_those_of_torch():
    leaf = normal(3, 4).requires_grad_()
    slopes = [normal(3, 4, seed=k) for k in range(4)]
    for mine, theirs, arguments in (
        (Adam(0.1), torch.optim.Adam([leaf], lr=0.1), ()),
        (Momentum(0.9), torch.optim.SGD([leaf], lr=0.1, momentum=0.9), (0.1,)),
    ):
        rows = leaf.detach().clone()
        for slope in slopes:
            rows, leaf.grad = mine.step(rows, slope, *arguments), slope
            theirs.step()
        torch.testing.assert_close(rows, leaf.detach())


def test_adaptive_steps_reach_the_minimum_of_bowls_of_any_curvature():
    rates = torch.tensor([[1e-3], [1.0], [1e4]], dtype=torch.float64)
    rows, adaptive = torch.ones(3, 2, dtype=torch.float64), Adaptive()
    for _ in range(100):
        rows = adaptive.step(rows, rates * rows, 0.5)
    assert float(rows.abs().max()) < 1e-6


def test_drawn_points_are_even_and_mirrored_and_rates_fall_as_published():
    t = drawn(np.random.default_rng(0), 20)
    np.testing.assert_allclose(np.sort(1 - t), np.sort(t))
    assert (np.histogram(t, bins=20, range=(0, 1))[0] == 1).all()
    assert len(drawn(np.random.default_rng(0), 1)) == 1
    rates = [scheduled(done) for done in (0.0, 0.5, 0.7, 0.9, 1.0)]
    np.testing.assert_allclose(rates, [1, 1, 0.505, 0.01, 0.01])


def test_the_result_of_a_finder_is_saved_with_its_settings(tmp_path):
    path = paths.fourier(himmelblau, A, B, sines=4)
    save(path, tmp_path / "path.h5")
    again = load(tmp_path / "path.h5")
    assert again.provenance["settings"]["sines"] == 4
    assert "lower bound" in again.provenance["heights"]
    assert "line: 13.712" in again.said()[0]


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("fourier", {"grid": 12, "sines": 11}, r"sines must be 1 to 10 \(grid - 2\), got 11"),
        ("fourier", {"grid": 2}, "grid must be at least 3"),
        ("fourier", {"power": "3"}, "power must be 1, 2 or maximum"),
        ("fourier", {"optimiser": "newton"}, "adam or lbfgs"),
        ("fourier", {"penalty": -1.0}, "penalty must be not negative"),
        ("fourier", {"batch_size": 4}, "has no mini-batches"),
        ("fourier", {"batch_size": 4, "optimiser": "lbfgs"}, "needs the full batch"),
        ("elastic-band", {"pivots": 0}, "pivots must be at least 1"),
        ("elastic-band", {"batch_size": 4}, "lr must be given with mini-batches"),
        ("elastic-band", {"momentum": 1.0}, "momentum must be from 0"),
        ("string", {"steps": 0}, "steps must be at least 1"),
        ("bezier", {"bends": 0}, "bends must be at least 1"),
        ("polygon", {"draws": 0}, "draws must be at least 1"),
    ],
)
def test_bad_settings_are_named(unchecked, name, settings, said):
    with pytest.raises(ValueError, match=said):
        found(name, himmelblau, A, B, **settings)


@pytest.mark.parametrize("power", ["1", "2", "maximum"])
def test_a_network_in_the_span_of_its_sines_has_the_gradient_of_its_points(power):
    risk = EmpiricalRisk(built(chain), uneven(X, Y), CE)
    a, b = risk.point(), normal(risk.dim)
    ground = Ground(risk, a, b)
    line = profile(ground, paths.curves.straight(a, b), Options(points=11))
    settings = Fourier(sines=2, grid=12, power=power, beta=0.5)
    amplitudes = 0.2 * normal(2, risk.dim)
    within = _Descent(settings, ground, line)(amplitudes, risk)
    # A sum has no way of its own through a span.
    whole = Sum(risk, Ridge(0.0, dim=risk.dim))
    by_points = _Descent(settings, Ground(whole, a, b), line)(amplitudes, whole)
    assert risk.spanned is not None
    torch.testing.assert_close(within, by_points, rtol=1e-9, atol=1e-10)
