"""Paths of methods at equal evaluations and SAM's 2-cycle, against closed forms; their pictures."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from analyses import cycle, walks
from analyses.distribution import Config as Table
from analyses.distribution import maps, measured
from cnognp import METHODS
from figures import animation, catalogue, style
from figures import walks as drawing
from figures.background import maps as draw_maps
from figures.demo import moving
from landscape.functions import CATALOGUE, himmelblau
from landscape.objective import value, value_and_grad
from landscape.results import load, save

# Curvature of the sharpest minimum of Himmelblau's function, lr and rho.
L, LR, RHO = 133.7856152130671, 0.01, 0.05
PREDICTED = 0.1010245852


@pytest.fixture(scope="module")
def found():
    config = walks.Config(methods=("gd", "sam", "nim-bh", "cno"), members=3, evaluations=60)
    return walks.study(replace(config, times=31, grid=21))


@pytest.fixture(scope="module")
def circling():
    return cycle.study(cycle.Config(steps=80, grid=11))


# Paths


def test_gradient_descent_is_where_its_steps_have_put_it_at_every_moment(found):
    z = torch.tensor(found.position[0, 0])
    for step in range(61):
        at = np.flatnonzero(found.evaluations == step)
        if len(at):
            np.testing.assert_allclose(found.position[0, at[0]], z.numpy(), rtol=0, atol=1e-12)
        z = z - 0.001 * value_and_grad(himmelblau, z)[1]
    assert found.evaluations[[0, 1, 2, -1]].tolist() == [0, 1, 2, 60]


def test_a_step_of_two_evaluations_is_seen_when_both_are_spent(found):
    start, one, two = found.position[1, :3]
    assert found.evaluations[:3].tolist() == [0, 1, 2]
    assert np.array_equal(start, one)
    grad = value_and_grad(himmelblau, torch.tensor(start))[1]
    there = torch.tensor(start) + 0.5 * grad / grad.norm(dim=1, keepdim=True)
    step = start - 0.001 * value_and_grad(himmelblau, there)[1].numpy()
    np.testing.assert_allclose(two, step, rtol=0, atol=1e-9)


def test_all_methods_start_at_the_same_points_and_the_loss_is_that_along_the_paths(found):
    assert (found.position[:, 0] == found.position[0, 0]).all()
    drawn = np.random.default_rng(0).uniform(-5, 5, size=(3, 2))
    assert np.array_equal(found.position[0, 0], drawn)
    loss = value(himmelblau, torch.tensor(found.position)).numpy()
    assert np.array_equal(found.loss, loss)
    assert found.settings == "lr 0.001, rho 0.5"


def test_paths_do_not_depend_on_how_many_moments_are_kept(found):
    config = walks.Config(methods=("sam",), members=3, evaluations=60, times=4, grid=5)
    few = walks.study(config)
    assert np.array_equal(few.position[0, -1], found.position[1, -1])
    assert np.array_equal(few.label[0], found.label[1])


def test_a_member_that_is_lost_has_a_path_to_where_it_left():
    config = walks.Config(methods=("gd",), members=4, evaluations=30, lr=0.5, grid=5)
    lost = walks.study(config)
    assert not np.isfinite(lost.position[0, -1]).all()
    assert (lost.label == 4).all()
    assert sorted(catalogue.figures_of(lost)) == ["curves", "paths"]


def test_results_survive_a_file(found, circling, tmp_path):
    for result in (found, circling):
        save(result, tmp_path / "it.h5")
        again = load(tmp_path / "it.h5")
        assert type(again) is type(result)
        assert np.array_equal(again.position, result.position)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_leaves_a_path(method):
    config = walks.Config("six-hump-camel", (method,), members=3, evaluations=12, grid=5)
    path = walks.study(config)
    assert path.position.shape[2:] == (3, 2)
    assert np.isfinite(path.position).all()


@pytest.mark.parametrize(
    "given, message",
    [
        ({"function": "f2"}, "a function of 2 coordinates; f2 has 1"),
        ({"function": "himelblau"}, "function must be one of himmelblau, .*got 'himelblau'"),
        ({"methods": ()}, r"methods must be different names, at least one, got \[\]"),
        ({"methods": ("gd", "newton")}, "method must be one of gd, .*got 'newton'"),
        ({"members": 0}, "members must be at least 1, got 0"),
        ({"times": 1}, "times must be at least 2, got 1"),
        ({"evaluations": 0}, "evaluations must be at least 1, got 0"),
        ({"lr": -1.0}, "lr must be at least 0 and finite, got -1.0"),
    ],
)
def test_paths_that_cannot_be_walked_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        walks.Config(**given)


# The 2-cycle


def test_on_the_quadratic_the_half_amplitude_is_exactly_the_predicted_one(circling):
    assert circling.predicted == pytest.approx(RHO * LR * L / (2 - LR * L), rel=1e-9)
    assert circling.predicted == pytest.approx(PREDICTED, abs=1e-9)
    assert circling.amplitude[1] == pytest.approx(circling.predicted, rel=1e-9)
    assert circling.shift[1] == pytest.approx(0, abs=1e-12)
    assert (circling.returning < 1e-9).all()


def test_on_the_function_the_amplitude_differs_by_its_higher_derivatives_alone(circling):
    """They enter with the square of rho, so that half of rho quarters the relative error."""
    errors = []
    for rho in (RHO, RHO / 2, RHO / 4):
        found = cycle.study(cycle.Config(rho=rho, steps=80, grid=3))
        errors.append(found.amplitude[0] / found.predicted - 1)
        assert found.returning[0] < 1e-9
    assert errors[0] == pytest.approx(-0.0137, abs=2e-4)
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 4, atol=0.1)


def test_the_cycle_lies_along_the_top_eigenvector_and_its_last_steps_are_those_of_sam(circling):
    last, before = circling.position[1, -1], circling.position[1, -2]
    across = (last - before) / np.linalg.norm(last - before)
    assert abs(across @ circling.direction) == pytest.approx(1, abs=1e-9)
    assert circling.eigenvalues == pytest.approx([L, 70.7143547442], rel=1e-9)
    z = torch.tensor(circling.position[0, -2])
    grad = value_and_grad(himmelblau, z)[1]
    there = value_and_grad(himmelblau, z + RHO * grad / grad.norm())[1]
    np.testing.assert_allclose(z - LR * there, circling.position[0, -1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["three-hump-camel", "six-hump-camel"])
def test_the_sharpest_minimum_is_taken_and_its_quadratic_has_the_predicted_cycle(name):
    found = cycle.study(cycle.Config(name, steps=300, grid=3))
    sharpest = max(CATALOGUE[name].minima, key=lambda minimum: minimum.eigenvalues[0])
    assert found.minimum == sharpest.name
    assert found.amplitude[1] == pytest.approx(found.predicted, rel=1e-9)
    assert found.returning[1] < 1e-7


def test_a_member_that_does_not_come_back_after_two_steps_is_told_from_one_that_does():
    two = cycle.study(cycle.Config("six-hump-camel", grid=3))
    none = cycle.study(cycle.Config("three-hump-camel", grid=3))
    assert two.amplitude[0] == pytest.approx(two.predicted, rel=0.03)
    assert two.returning[0] < 1e-9
    assert none.returning[0] > 1e-4


@pytest.mark.parametrize(
    "given, message",
    [
        ({"function": "f1"}, "function must have 2 coordinates; f1 has 1"),
        ({"minimum": "E"}, "minimum must be one of A, B, C, D; got 'E'"),
        ({"lr": 0.015}, r"lr must be positive and below 2 / 133.786 = 0.01495.*got 0.015"),
        ({"lr": 0.0}, "lr must be positive and below"),
        ({"rho": 0.0}, "rho must be positive, got 0.0"),
        ({"steps": 1}, "steps and grid must be at least 2, got 1, 101"),
        ({"offset": (0.0, 0.0)}, "offset must not be zero in both directions"),
    ],
)
def test_a_cycle_that_cannot_be_run_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        cycle.Config(**given)


# Pictures


def fits(figure):
    box = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer())
    width, height = figure.get_size_inches()
    return box.x0 > 0 and box.y0 > 0 and box.x1 < width and box.y1 < height


def test_the_pictures_lie_within_their_pages_and_show_the_paths(found, circling):
    shown = catalogue.figures_of(found) | catalogue.figures_of(circling)
    assert sorted(shown) == ["amplitude", "curves", "paths"]
    assert all(fits(figure) for figure in shown.values())
    panels = shown["paths"].axes
    assert [ax.get_title() for ax in panels] == list(found.methods)
    lines = [line for line in panels[0].lines if len(line.get_xdata()) == len(found.evaluations)]
    for member, line in enumerate(lines):
        assert np.array_equal(line.get_xydata(), found.position[0, :, member])
    assert len(lines) == 3


def test_learning_curves_are_medians_of_the_height_by_evaluations(found):
    ax = style.new_figure().add_subplot()
    drawn = drawing.curves(found, ax)
    for i, line in enumerate(drawn["median"]):
        x, y = line.get_data()
        assert np.array_equal(x, found.evaluations)
        np.testing.assert_allclose(y, np.median(found.loss[i], axis=1), rtol=1e-12)


def test_the_amplitude_is_drawn_beside_the_prediction(circling):
    ax = catalogue.figures_of(circling)["amplitude"].axes[1]
    function, quadratic, predicted = ax.lines
    steps = len(function.get_ydata())
    assert 10 < steps < 40
    assert np.array_equal(function.get_ydata(), np.abs(circling.displacement[0])[:steps])
    assert predicted.get_ydata()[0] == pytest.approx(PREDICTED)
    assert "0.101025" in quadratic.get_label() and "0.099644" in function.get_label()


def test_the_animation_grows_the_paths_and_ends_with_the_whole_ones(found, tmp_path):
    frames = moving(found)
    changed = [(a != b).any() for a, b in zip(frames, frames[1:], strict=False)]
    assert len(frames) == len(found.evaluations) and all(changed)
    one, two = (animation.save(frames, tmp_path / name) for name in ("a.gif", "deep/b.gif"))
    assert one.read_bytes() == two.read_bytes()
    with Image.open(io.BytesIO(one.read_bytes())) as picture:
        assert (picture.n_frames, picture.info["loop"]) == (len(frames), 0)
        assert picture.size == frames[0].shape[1::-1]
        picture.seek(len(frames) - 1)
        last = np.asarray(picture.convert("RGB"), dtype=int)
    assert (last[frames[-1].min(axis=2) == 255] == 255).all()
    assert np.abs(last - frames[-1]).mean() < 1
    with pytest.raises(ValueError, match="at least one frame, got none"):
        animation.save([], tmp_path / "none.gif")


def test_maps_side_by_side_show_the_ends_and_shares_of_every_method():
    config = Table(("six-hump-camel",), ("gd", "sam"), restarts=40, budget=200)
    (result,) = maps(measured(config))
    axes = np.array(style.new_figure(6, 4).subplots(1, 2))
    drawn = draw_maps(result, axes)
    reached = result.label[0] < 6
    np.testing.assert_array_equal(drawn["population"][0].get_xydata(), result.position[0][reached])
    texts = [text.get_text() for text in drawn["names"][0]]
    share = (result.label[0] == 0).mean()
    assert texts[0] == f"G\N{MINUS SIGN}\n{100 * share:.0f} %"
    (whole,) = catalogue.figures_of(result).values()
    assert (
        fits(whole)
        and [ax.get_title()[:3] for ax in whole.axes] == ["GD", "SAM"]
        or (whole.axes[0].get_title().startswith("GD"))
    )


def test_maps_of_a_function_of_one_coordinate_have_their_ends_on_its_graph():
    (result,) = maps(measured(Table(("f2",), ("gd", "cno"), restarts=6, budget=300, members=4)))
    (whole,) = catalogue.figures_of(result).values()
    assert fits(whole)
    dots = next(line for line in whole.axes[0].lines if line.get_label().startswith("restarts"))
    curve = np.interp(dots.get_xdata(), result.alpha, result.surface[:, 0])
    np.testing.assert_allclose(dots.get_ydata(), curve)
