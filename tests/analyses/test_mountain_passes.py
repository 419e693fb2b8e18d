"""Paths beside known passes: exact heights by the saddles, what was published, and refusals."""

from itertools import combinations

import numpy as np
import passes
import pytest

from analyses import mountain_passes
from analyses.mountain_passes import Config, exact, joined, units
from cnognp.workers import results_of
from figures.catalogue import figures_of
from landscape.functions import CATALOGUE, himmelblau, two_wells
from landscape.results import load, save
from landscape.topology import merge_tree_of_grid, minimax


@pytest.mark.parametrize("name", passes.FUNCTIONS)
def test_heights_by_the_saddles_are_the_known_ones(name):
    function = passes.FUNCTIONS[name]
    tree = exact(function)
    heights = minimax(tree)
    for i, j in combinations(range(len(tree.names)), 2):
        known = passes.mountain_pass(function, tree.names[i], tree.names[j])
        assert heights[i, j] == pytest.approx(known, abs=1e-9)


def test_the_two_wells_meet_at_the_lower_of_two_passes_and_the_rim_joins_nothing():
    tree = exact(two_wells)
    assert minimax(tree)[0, 1] == pytest.approx(passes.TOY_PASS, abs=1e-9)


def test_bars_by_the_saddles_are_those_of_a_fine_grid():
    x, y = (np.linspace(*side, 1201) for side in himmelblau.box)
    a, b = np.meshgrid(x, y, indexing="ij")
    loss = (a**2 + b - 11) ** 2 + (a + b**2 - 7) ** 2
    grid = merge_tree_of_grid(loss, least=1.0)
    np.testing.assert_allclose(np.sort(grid.death), np.sort(exact(himmelblau).death), rtol=1e-4)


@pytest.fixture(scope="module")
def crossed():
    config = Config(functions=("two-wells", "himmelblau"), finders=("fourier", "string"))
    return joined(config, results_of(units(config)))


def test_paths_lie_between_pass_and_line(crossed):
    for name in ("two-wells", "himmelblau"):
        found = crossed[f"passes-{name}"]
        # Between two points of the grid the loss can be a little higher.
        assert (found.above > -1e-8).all() and (found.height <= found.line).all()
        assert np.abs(found.chained - found.lowest).max() < 1e-3
        assert (found.gradients > 0).all()
    assert crossed["valleys-himmelblau"].death[1:] == pytest.approx(
        exact(CATALOGUE["himmelblau"]).death[1:], abs=1e-3
    )


def test_the_published_heights_are_those_of_the_squared_sum(crossed):
    found = crossed["passes-two-wells"]
    assert found.published.tolist() == [0.646, 0.640, 0.652]
    np.testing.assert_allclose(found.repeated[1], found.published, atol=4e-3)
    np.testing.assert_allclose(found.repeated[0], [0.684553, 0.698047, 0.719729], atol=3e-6)
    titles = [title for title, *_ in found.tables()]
    assert titles == ["Heights on two-wells", "Sines as published"]


def test_results_go_to_files_and_into_pictures(crossed, tmp_path):
    for name, result in crossed.items():
        save(result, tmp_path / f"{name}.h5")
        assert figures_of(load(tmp_path / f"{name}.h5"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"functions": ("mars",)}, "functions must be one of"),
        ({"finders": ("linear",)}, "finders must be one of"),
        ({"finders": ("string", "string")}, "finders must differ"),
        ({"points": 2}, "points must be at least 3"),
    ],
)
def test_what_makes_no_sense_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        mountain_passes.Config(**given)
