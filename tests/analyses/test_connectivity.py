"""Walls between minima: counted, held against paths by themselves, with intervals that cover."""

from pathlib import Path

import numpy as np
import pytest
import torch

from analyses import connectivity
from analyses.connectivity import Config, intervals, minima, study, units
from cnognp.cli.main import main
from cnognp.measuring import paths
from landscape.results import load
from landscape.topology import minimax


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, method in (("descent", "gd"), ("adam", "adam")):
        words = ["train", "wine", "--method", method, "--members", "3", "--iterations", "15"]
        assert main([*words, "--quiet", "--out", str(folder / name)]) == 0
    return [str(folder / name) for name in ("descent", "adam")]


@pytest.fixture(scope="module")
def walls(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("connect")
    assert main(["connect", *runs, "--points", "11", "--out", str(out)]) == 0
    return out


def test_every_pair_has_the_wall_of_its_path(runs, walls):
    found = load(walls / "analysis" / "connectivity.h5")
    assert found.names == tuple(f"{run}:{k}" for run in runs for k in range(3))
    assert len(list((walls / "units").glob("*.h5"))) == 15
    one, other = found.names[1], found.names[4]
    path = paths.found_path(
        paths.between(one, other), paths.Wanted("linear", options={"points": 11})
    )
    assert found.height[1, 4] == found.height[4, 1] == path.height
    assert found.barrier[1, 4] == path.barrier and found.distance[1, 4] == path.straight
    assert found.pairs == (runs[0], f"{runs[0]} and {runs[1]}", runs[1])
    np.testing.assert_array_equal(found.count, [3, 9, 3])
    between = found.barrier[:3, 3:]
    assert found.means[1] == pytest.approx(between.mean())
    assert (found.low < found.means).all() and (found.means < found.high).all()
    assert sorted(path.name for path in (walls / "figures").glob("*.png")) == [
        "connectivity-barriers.png", "minima-embedding.png", "valleys-barcode.png",
        "valleys-disconnectivity.png",
    ]  # fmt: skip


def test_the_valleys_are_those_of_the_lowest_walls(walls):
    found = load(walls / "analysis" / "connectivity.h5")
    tree = load(walls / "analysis" / "valleys.h5")
    order = [found.names.index(name) for name in tree.names]
    lowest = np.where(np.eye(6, dtype=bool), found.loss, found.height)
    for k in range(6):
        lowest = np.minimum(lowest, np.maximum(lowest[:, k, None], lowest[k]))
    np.testing.assert_allclose(minimax(tree), lowest[np.ix_(order, order)], rtol=1e-6)


def test_a_finished_pair_is_not_measured_again(runs, walls, monkeypatch):
    monkeypatch.setattr(connectivity, "path_of", None)
    config = Config(tuple(runs), points=11)
    assert {unit.work for unit in units(config)} == {None}
    again = ["connect", *runs, "--points", "11", "--out", str(walls), "--resume"]
    assert main(again) == 0


def test_a_tree_joins_all_minima_with_the_fewest_paths(runs):
    config = Config(tuple(runs), pairs="tree", points=5)
    pairs = connectivity._pairs(config, minima(config).points)
    assert len(pairs) == 5
    found = study(config)
    assert np.isfinite(found.barrier).sum() == 10
    reached = {0}
    for _ in range(5):
        reached |= {j for i, j in (*pairs, *((j, i) for i, j in pairs)) if i in reached}
    assert reached == set(range(6))


def test_units_in_order_make_the_straight_line_shorter(runs):
    one, other = f"{runs[0]}:0", f"{runs[1]}:2"
    plain, ordered = (study(Config((one, other), align=how, points=11)) for how in ("", "weights"))
    assert ordered.aligned_distance[0, 1] < plain.aligned_distance[0, 1] == plain.distance[0, 1]
    assert ordered.loss == pytest.approx(plain.loss, rel=1e-5)
    answered = study(Config((one, other), align="activations", points=11))
    assert answered.loss == pytest.approx(plain.loss, rel=1e-5)


def test_the_interval_of_a_mean_over_pairs_covers_it():
    """With walls 1 + a_i + a_j + noise, over minima drawn anew; 95 % of 400 is 380 +- 9."""
    source, hits = np.random.default_rng(0), np.zeros(2)
    for _ in range(400):
        effect = source.normal(size=12)
        noise = source.normal(scale=0.5, size=(12, 12))
        barrier = 1 + effect[:, None] + effect + noise + noise.T
        group = np.repeat([0, 1], 6)
        _, means, low, high, count = intervals(barrier, group, ("a", "b"), 0.95)
        assert count.tolist() == [15, 36, 15]
        hits += [low[0] <= 1 <= high[0], low[1] <= 1 <= high[1]]
    assert (hits >= 400 * 0.95 - 3 * (400 * 0.95 * 0.05) ** 0.5).all()


def test_few_minima_have_no_interval():
    barrier = np.array([[np.nan, 1.0], [1.0, np.nan]])
    names, means, low, high, count = intervals(barrier, np.zeros(2, int), ("a",), 0.95)
    assert names == ("a",) and means.tolist() == [1.0] and count.tolist() == [1]
    assert np.isnan(low).all() and np.isnan(high).all()


@pytest.mark.parametrize(("keywords", "message"), [
    ({"kind": "curved"}, "kind must be one of linear, fourier"),
    ({"pairs": "some"}, "pairs must be one of all, tree; got 'some'"),
    ({"align": "luck"}, "align must be one of"),
    ({"points": 2}, "points must be at least 3, got 2"),
    ({"gamma": -1.0}, "gamma must not be negative"),
])  # fmt: skip
def test_what_is_not_known_or_out_of_range_is_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        Config(**keywords)


def test_minima_of_different_tasks_are_refused_before_any_path(runs, tmp_path, capsys):
    words = ["train", "breast-cancer", "--members", "2", "--iterations", "1", "--quiet"]
    assert main([*words, "--out", str(tmp_path / "other")]) == 0
    capsys.readouterr()
    assert main(["connect", runs[0], str(tmp_path / "other"), "--out", str(tmp_path / "no")]) == 2
    assert "are of breast-cancer and wine with" in capsys.readouterr().err
    assert not (tmp_path / "no" / "units").exists()


def test_fewer_than_two_minima_are_refused(runs, capsys):
    assert main(["connect", f"{runs[0]}:best"]) == 2
    assert "at least two minima that differ are needed" in capsys.readouterr().err
    twice = f"{Path(runs[0]).parent}/./{Path(runs[0]).name}"
    assert main(["connect", f"{runs[0]}:0", f"{twice}:0"]) == 2
    assert "at least two minima that differ are needed" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="is no run, checkpoint or file of weights"):
        minima(Config(("nowhere:0", f"{runs[0]}:1")))
    assert main(["connect", "nowhere"]) == 2
    assert "nowhere is no run, checkpoint or file of weights" in capsys.readouterr().err
    assert torch.is_tensor(minima(Config((runs[0],))).points[0])
