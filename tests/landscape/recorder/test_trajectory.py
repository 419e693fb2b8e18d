"""Paths are kept within their memory, and projected to where least squares puts them."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import mse_loss

from figures import style, trajectory
from figures.catalogue import figures_of
from landscape import results
from landscape.functions import himmelblau
from landscape.networks.layout import Layout
from landscape.networks.risk import EmpiricalRisk
from landscape.objective import Analytic, value
from landscape.recorder import TrajectoryRecorder, plane_of, project
from landscape.slices import plane

F64 = torch.float64


def bowl(dim):
    return Analytic(lambda z: (z**2).sum(-1), dim=dim)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed), dtype=F64)


@settings(max_examples=30, deadline=None)
@given(calls=st.integers(1, 90), room=st.integers(2, 9), every=st.integers(1, 3))
def test_the_budget_is_kept_and_so_are_the_first_and_the_latest_point(calls, room, every):
    memory = room * 3 * 8 + 23
    recorder = TrajectoryRecorder(3, every=every, memory=memory)
    for step in range(calls):
        recorder(step, torch.full((3,), float(step), dtype=F64), loss=2.0 * step)
        assert recorder.bytes <= memory
        assert recorder.steps[0] == 0 and recorder.steps[-1] == step // every * every
    steps = recorder.steps
    assert (recorder.points()[:, 0].numpy() == steps).all()
    assert (recorder.losses == 2.0 * steps).all()
    # All but the latest are evenly spaced, as far apart as they must be and no further.
    given_points = -(-calls // every)
    assert (steps[:-1] == np.arange(len(steps) - 1) * every * recorder.stride).all()
    assert recorder.stride == 1 or given_points > (room - 1) * recorder.stride // 2


def test_a_recorder_of_a_model_keeps_copies_and_leaves_it_alone():
    model = nn.Linear(2, 1)
    risk = EmpiricalRisk(model, (torch.ones(3, 2), torch.zeros(3, 1)), mse_loss)
    recorder = TrajectoryRecorder(risk.layout, dtype=F64)
    before = risk.point()
    recorder(0, model)
    with torch.no_grad():
        model.weight.add_(1.0)
    recorder(1, list(model.parameters()))
    points = recorder.points()
    assert points.dtype == F64 and torch.equal(points[0], before.double())
    assert torch.equal(points[1], risk.layout.flatten(dict(model.named_parameters())).double())
    assert model.weight.grad is None and model.training


class Compiled(nn.Module):
    """Holds a module under the name that torch.compile gives it."""

    def __init__(self, module):
        super().__init__()
        self._orig_mod = module


def test_a_model_is_found_in_whatever_wraps_it():
    model = nn.Linear(2, 1)
    wrapped = [
        Compiled(model),
        nn.DataParallel(model),
        nn.DataParallel(Compiled(model)),
        Compiled(nn.DataParallel(model)),
    ]
    layout = Layout.of(model)
    wanted = layout.flatten(dict(model.named_parameters()))
    for outer in wrapped:
        recorder = TrajectoryRecorder(layout)
        assert recorder(0, outer) and torch.equal(recorder.points()[0], wanted)


def test_a_call_costs_the_same_however_many_there_were():
    recorder = TrajectoryRecorder(2, memory=2**30)
    z = torch.zeros(2)
    seconds = []
    for start in (0, 300, 20_000):
        for step in range(len(recorder._kept), start):
            recorder._kept.append((step, 0.0, z))
            recorder._seen += 1
        began = time.process_time()
        for step in range(start, start + 200):
            recorder(step, z)
        seconds.append(time.process_time() - began)
    assert seconds[2] < 5 * seconds[1] + 0.05


def test_points_in_the_plane_come_back_exactly_also_with_oblique_directions():
    u, v, origin = drawn(7), drawn(7, seed=1), drawn(7, seed=2)
    v = 0.3 * v + 2.0 * u
    coordinates = drawn(5, 2, seed=3)
    points = origin + coordinates @ torch.stack([u, v])
    found = project(bowl(7), {"a": points}, origin, u, v)
    np.testing.assert_allclose(found.alpha, coordinates[:, 0], rtol=1e-10)
    np.testing.assert_allclose(found.beta, coordinates[:, 1], rtol=1e-10)
    assert found.distance.max() < 1e-12 and found.explained.sum() == pytest.approx(1)
    np.testing.assert_allclose(found.loss, (points**2).sum(-1))


def test_coordinates_and_distance_are_those_of_least_squares():
    u, v, origin = drawn(9), drawn(9, seed=1), drawn(9, seed=2)
    runs = {"a": drawn(4, 9, seed=3), "b": drawn(6, 9, seed=4)}
    found = project(bowl(9), runs, origin, u, v)
    basis = np.stack([u, v], axis=1)
    everything = np.concatenate([points.numpy() for points in runs.values()])
    for i, point in enumerate(everything):
        solution, *_ = np.linalg.lstsq(basis, point - origin.numpy(), rcond=None)
        np.testing.assert_allclose([found.alpha[i], found.beta[i]], solution, rtol=1e-9)
        left = np.linalg.norm(point - origin.numpy() - basis @ solution)
        assert found.distance[i] == pytest.approx(left)
    assert found.run.tolist() == [0] * 4 + [1] * 6 and found.labels == ("a", "b")
    extents = [np.linalg.norm(points - points[0], axis=1).max() for points in runs.values()]
    np.testing.assert_allclose(found.relative, found.distance / np.repeat(extents, [4, 6]))
    np.testing.assert_allclose(found.loss, (everything**2).sum(1))


def test_a_helix_is_off_its_plane_by_its_height():
    t = torch.linspace(0, 4 * torch.pi, 50, dtype=F64)
    points = torch.stack([3 * torch.cos(t), 3 * torch.sin(t), 0.1 * t], dim=1)
    e = torch.eye(3, dtype=F64)
    found = project(bowl(3), {"helix": points}, torch.zeros(3, dtype=F64), e[0], e[1])
    np.testing.assert_allclose(found.distance, 0.1 * t)
    np.testing.assert_allclose(found.loss, 9 + 0.01 * t**2)
    height = float((0.1 * t).var(correction=0))
    total = float(points.var(dim=0, correction=0).sum())
    assert 1 - found.explained.sum() == pytest.approx(height / total)


def test_the_principal_plane_of_all_runs_together_explains_most():
    runs = {"a": drawn(8, 12), "b": TrajectoryRecorder(12)}
    for step, point in enumerate(drawn(6, 12, seed=1) * torch.linspace(0.1, 3, 12, dtype=F64)):
        runs["b"](10 * step, point)
    found = project(bowl(12), runs)
    everything = np.concatenate([runs["a"].numpy(), runs["b"].points().numpy()])
    values = np.linalg.svd(everything - everything.mean(0), compute_uv=False) ** 2
    np.testing.assert_allclose(found.explained, values[:2] / values.sum())
    assert found.step.tolist() == [*range(8), *range(0, 60, 10)]
    own = plane_of(runs, origin=runs["a"][-1])
    ends = project(bowl(12), runs, own.origin, own.u, own.v)
    assert abs(ends.alpha[7]) + abs(ends.beta[7]) + ends.distance[7] < 1e-12


def test_the_plane_of_a_function_of_two_variables_is_its_whole_space():
    recorder = TrajectoryRecorder(2)
    z = torch.tensor([-0.5, -0.8], dtype=F64, requires_grad=True)
    optimiser = torch.optim.SGD([z], lr=0.005)
    for step in range(30):
        recorder(step, z)
        optimiser.zero_grad()
        himmelblau.formula(z).backward()
        optimiser.step()
    e, zero = torch.eye(2, dtype=F64), torch.zeros(2, dtype=F64)
    found = project(himmelblau, {"gd": recorder}, zero, e[0], e[1])
    points = recorder.points()
    np.testing.assert_allclose(np.stack([found.alpha, found.beta], axis=1), points, atol=1e-14)
    np.testing.assert_allclose(found.loss, value(himmelblau, points))
    assert found.distance.max() < 1e-14 and (np.diff(found.loss) < 0).all()


def test_points_that_are_not_finite_stay_what_they_are():
    points = drawn(6, 4)
    points[5] = torch.nan
    found = project(bowl(4), {"diverged": points})
    assert np.isnan(found.alpha[5]) and np.isnan(found.loss[5]) and np.isnan(found.distance[5])
    assert np.isfinite(found.alpha[:5]).all() and 0 < found.explained.sum() <= 1
    assert figures_of(found)["paths"].axes


def test_the_picture_draws_the_projected_points_over_the_surface(tmp_path):
    runs = {"one": drawn(9, 5).cumsum(0), "two": drawn(7, 5, seed=1).cumsum(0)}
    own = plane_of(runs)
    found = project(bowl(5), runs)
    grid = np.linspace(-4, 4, 9)
    surface = plane(bowl(5), own.origin, own.u, own.v, alpha=grid, beta=grid)
    ax = style.new_figure().add_subplot()
    artists = trajectory.draw(found, ax, surface)
    for run, line in enumerate(artists["paths"]):
        np.testing.assert_array_equal(line.get_xdata(), found.alpha[found.run == run])
        np.testing.assert_array_equal(line.get_ydata(), found.beta[found.run == run])
    assert "filled" in artists and len(artists["starts"]) == len(artists["ends"]) == 2
    low, high = ax.get_xlim()
    assert low <= found.alpha.min() and high >= found.alpha.max()
    panels = figures_of(found)["paths"]
    assert any("off the plane" in ax.get_ylabel() for ax in panels.axes)
    results.save(found, tmp_path / "t.h5")
    again = results.load(tmp_path / "t.h5")
    assert again.labels == ("one", "two") and again.alpha.tobytes() == found.alpha.tobytes()


def test_bad_arguments_are_named(unchecked):
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        TrajectoryRecorder(2, every=0)
    with pytest.raises(ValueError, match="memory must hold at least two points of 16 bytes"):
        TrajectoryRecorder(2, memory=31, dtype=F64)
    with pytest.raises(ValueError, match="memory must hold at least two points of 16 bytes"):
        TrajectoryRecorder(2, memory=31)(0, torch.ones(2, dtype=F64))
    with pytest.raises(ValueError, match="coordinates must be at least 1, got 0"):
        TrajectoryRecorder(0)
    recorder = TrajectoryRecorder(2)
    with pytest.raises(ValueError, match="no point was recorded"):
        recorder.points()
    recorder(3, torch.ones(2))
    with pytest.raises(ValueError, match="steps must increase, got 3 after 3"):
        recorder(3, torch.ones(2))
    with pytest.raises(ValueError, match="a point of length 2 is needed"):
        recorder(4, torch.ones(3))


def test_planes_that_are_none_are_refused(unchecked):
    points, zero = drawn(5, 3), torch.zeros(3, dtype=F64)
    e = torch.eye(3, dtype=F64)
    bad = {
        "parallel": (zero, e[0], -2 * e[0]),
        "zero or not finite": (zero, e[0], zero),
        "give all of them": (zero, e[0], None),
        "of length 3 are needed": (e[0, :2], e[0], e[1]),
    }
    for message, (origin, u, v) in bad.items():
        with pytest.raises(ValueError, match=message):
            project(bowl(3), {"a": points}, origin, u, v)
    with pytest.raises(ValueError, match="no trajectory was given"):
        project(bowl(3), {})
    with pytest.raises(ValueError, match="no trajectory was given"):
        plane_of({})
    with pytest.raises(ValueError, match=r"one length, got \{'a': 3, 'b': 4\}"):
        project(bowl(3), {"a": points, "b": drawn(5, 4)})
    with pytest.raises(ValueError, match="b must have points of length 3, got 4: .* another model"):
        project(bowl(3), {"a": points, "b": drawn(5, 4)}, zero, e[0], e[1])
    with pytest.raises(ValueError, match="three finite points"):
        project(bowl(3), {"a": points[:2]})
    with pytest.raises(ValueError, match="must have points"):
        project(bowl(3), {"a": points[0]})
