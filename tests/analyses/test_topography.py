"""Stops against their definition, and the study on a few digits against its own parts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from jsonargparse import Namespace
from sklearn.decomposition import KernelPCA

from analyses import topography
from analyses.published import TOPOGRAPHY
from analyses.stops import EQUAL, STOPS, stopped, trained
from cnognp.cli import findings, study
from cnognp.tasks.task import initial_population
from cnognp.workers import results_of
from figures import catalogue
from landscape.objective import value
from landscape.results import load, save

SMALL = topography.Config(
    networks=("fcp",), starts=4, neighbours=1, images=40, epochs=12, iterations=8, grid=12, steps=3,
    points=9,
)  # fmt: skip


@pytest.fixture(scope="module")
def units():
    return results_of(topography.units(SMALL))


@pytest.fixture(scope="module")
def found(units):
    return results_of(topography.further(SMALL, units))


@pytest.mark.parametrize("seed", range(5))
def test_stops_are_the_lowest_losses_and_the_nearest_to_the_common_level(seed):
    source = np.random.default_rng(seed)
    losses = [np.exp(source.normal(size=(rounds, 3))) for rounds in (20, 31)]
    losses[0][3, 1] = np.nan
    rounds = stopped(losses)
    level = max(each[:, 0].min() for each in losses)
    for each, at in zip(losses, rounds, strict=True):
        for split in range(3):
            assert each[at[split], split] == np.nanmin(each[:, split])
        gaps = np.abs(np.log(each[:, 0] / level))
        assert gaps[at[3]] == gaps.min()
    # The method whose lowest loss is the level stops there.
    k = int(np.argmax([each[:, 0].min() for each in losses]))
    assert rounds[k, 3] == rounds[k, 0]


def test_a_loss_of_zero_and_one_that_is_no_number_are_stops_all_the_same():
    zero = np.array([[1.0, 1, 1], [0.0, 2, 2]])
    broken = np.array([[1.0, 1, 1], [np.nan, np.nan, np.inf]])
    assert stopped([zero, zero]).tolist() == [[1, 0, 0, 1]] * 2
    assert stopped([zero, broken]).tolist() == [[1, 0, 0, 0], [0, 0, 0, 0]]


def test_the_points_have_the_losses_that_are_said(units):
    problem, _ = topography._problem(SMALL, "fcp")
    start = initial_population(problem.task, problem.training.layout, 4, 0)
    for each in units:
        assert each.stops == STOPS
        for method, stop in np.ndindex(2, 4):
            z = torch.tensor(each.points[method, stop], device="cpu")
            assert float(value(problem.evaluation, z)) == pytest.approx(
                each.loss[method, stop, 0], rel=1e-5
            )
            if each.round[method, stop] == 0:
                torch.testing.assert_close(z, start[each.start])
    assert not np.array_equal(units[0].points, units[1].points)


def test_a_training_begins_at_its_start_and_counts_what_it_took():
    problem, _ = topography._problem(SMALL, "fcp")
    start = initial_population(problem.task, problem.training.layout, 2, 0)[1]
    method, _ = SMALL.methods["sgd"]
    run = trained(problem, method, start, 3, seed=1)
    assert run.points.shape == (4, len(start)) and run.loss.shape == (4, 3)
    assert torch.equal(run.points[0], start) and run.evaluations == 3
    again = trained(problem, method, start, 2, seed=1)
    assert torch.equal(again.points, run.points[:3])


def test_how_points_lie_is_what_numpy_and_scikit_learn_say(units, found):
    lie = found[0]
    points = np.stack([each.points for each in units]).astype(np.float64)
    np.testing.assert_allclose(lie.sigma, points.std(-1))
    for k in range(4):
        here = points[:, :, k]
        centre = (here[:, 0].mean(0) + here[:, 1].mean(0)) / 2
        np.testing.assert_allclose(lie.radius[:, :, k], np.linalg.norm(here - centre, axis=-1))
        pca = KernelPCA(2, kernel="rbf", gamma=1 / here.shape[-1], eigen_solver="dense")
        own = pca.fit_transform(here.reshape(8, -1))
        np.testing.assert_allclose(np.abs(lie.component[:, :, k].reshape(8, 2)), np.abs(own))


def test_walls_are_no_lower_than_their_ends_and_paths_no_higher_than_lines(units, found):
    problem, _ = topography._problem(SMALL, "fcp")
    height = topography.QUANTITIES.index("height")
    places = {way: k for k, way in enumerate(topography.WAYS)}
    for (i, j), each in zip(SMALL.pairs, found[1:], strict=True):
        high = each.value[height]
        ends = np.stack([units[i].loss[..., 0], units[j].loss[..., 0]])
        assert (high >= ends.max(0)[..., None] * (1 - 1e-5)).all()
        for way in topography.FINDERS:
            assert (high[..., places[way]] <= high[..., places["line"]]).all()
        assert (high[..., places["lowest"]] == high[..., [0, 2, 3]].min(-1)).all()
        np.testing.assert_allclose(
            each.value[0], high - ends.mean(0)[..., None], rtol=1e-4, atol=1e-6
        )
        a, b = (torch.tensor(units[k].points[1, 0], device="cpu") for k in (i, j))
        share = torch.linspace(0, 1, 9, device="cpu")[:, None]
        line = value(problem.evaluation, (1 - share) * a + share * b)
        assert high[1, 0, 0] >= float(line.max()) * (1 - 1e-5)
        assert (each.aligned <= each.distance * (1 + 1e-6)).all()


def test_the_difference_and_its_interval_are_those_of_the_jackknife(found):
    result = topography.joined(SMALL, found)["topography-fcp"]
    apart = result.value[:, :, 0] - result.value[:, :, 1]
    np.testing.assert_allclose(result.difference, apart.mean(1))
    left = np.stack([apart[:, [i not in pair for pair in SMALL.pairs]].mean(1) for i in range(4)])
    error = (3 / 4 * ((left - left.mean(0)) ** 2).sum(0)) ** 0.5
    np.testing.assert_allclose(result.high - result.low, 2 * 3.182446 * error, rtol=1e-5)
    assert result.published_loss[0, 0, 0] == TOPOGRAPHY["fcp", "sgd"]["train_loss"] == 6.21e-4
    assert result.published_sigma[1, STOPS.index("test")] == 0.122
    assert np.isnan(result.published_sigma[:, STOPS.index(EQUAL)]).all()


def test_the_conclusion_is_that_of_the_interval(found):
    result = topography.joined(SMALL, found)["topography-fcp"]
    at = (0, STOPS.index(EQUAL), topography.WAYS.index("lowest"))
    for low, high, word in ((-2, -1, "are lower"), (1, 2, "are higher"), (-1, 1, "neither")):
        changed = {name: getattr(result, name).copy() for name in ("low", "high")}
        changed["low"][at], changed["high"][at] = low, high
        assert word in topography._conclusion(replace(result, **changed))
    assert "not asked" in topography._conclusion(replace(
        result, stops=("train", "validation", "test", "else")
    ))  # fmt: skip


def test_the_study_is_saved_drawn_and_resumed(tmp_path, units, found):
    options = Namespace(
        out=str(tmp_path), resume=True, workers=1, engine="pool", threads=1, json=False
    )  # fmt: skip
    (tmp_path / "units").mkdir()
    listed = [*topography.units(SMALL), *topography.further(SMALL, units)]
    for unit, result in zip(listed[:-1], [*units, *found][:-1], strict=True):
        name = unit.name.replace(" ", "-")
        save(
            replace(result, provenance={**result.provenance, "unit": repr(unit.argument)}),
            tmp_path / "units" / f"{name}.h5",
        )
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "units").iterdir()}
    made = study.studied("topography", SMALL, options)
    after = {file: file.stat().st_mtime_ns for file in (tmp_path / "units").iterdir()}
    assert len(after) == len(before) + 1 and all(after[file] == before[file] for file in before)
    kept = load(tmp_path / "analysis" / "topography-fcp.h5")
    np.testing.assert_array_equal(kept.value, made["topography-fcp"].value)
    assert set(catalogue.figures_of(kept)) == {"walls", "differences", "components"}
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert kept.conclusion in text and "aligned line" in findings.summary(made)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"networks": ("resnet20",)}, "networks"),
        ({"networks": ()}, "networks must differ"),
        ({"stops": ("train", "train")}, "stops must differ"),
        ({"starts": 3}, "starts must be at least 4"),
        ({"starts": 4, "neighbours": 2}, "fewer than half"),
        ({"grid": 5}, "grid must be at least 12"),
        ({"confidence": 0.4}, "confidence"),
    ],
)
def test_what_cannot_be_run_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        replace(SMALL, **given)
