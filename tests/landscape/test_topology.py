"""Merge trees against a flood sample by sample, exact saddles, and heights over all paths."""

import numpy as np
import pytest

from landscape.results import Surface, load, save
from landscape.topology import merge_tree, merge_tree_of_grid, merge_tree_of_plane, minimax

MINIMA = np.array([0.0, 0.5, 0.2, 1.0])
EDGES = np.array([[0, 1], [1, 2], [0, 2], [2, 3], [0, 3]])
HEIGHTS = np.array([2.0, 1.5, 3.0, 4.0, np.inf])


def flooded(loss, neighbours):
    """The bars of a grid, by adding one sample after the other."""
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    steps += [(1, 1), (-1, -1), (1, -1), (-1, 1)] if neighbours == 8 else []
    above, born, bars = {}, {}, []

    def root(cell):
        while above[cell] != cell:
            cell = above[cell]
        return cell

    cells = [cell for cell in np.ndindex(loss.shape) if np.isfinite(loss[cell])]
    for time, cell in enumerate(sorted(cells, key=lambda cell: (loss[cell], cell))):
        above[cell], born[cell] = cell, (loss[cell], time)
        for down, right in steps:
            other = cell[0] + down, cell[1] + right
            if other in above and root(other) != root(cell):
                low, high = sorted((root(cell), root(other)), key=born.get)
                if loss[cell] > loss[high]:
                    bars.append((loss[high], loss[cell]))
                above[high] = low
    return sorted(bars + [(loss[c], np.inf) for c in {root(cell) for cell in above}])


def grids():
    source = np.random.default_rng(0)
    for number in range(30):
        loss = source.normal(size=source.integers(1, 13, 2))
        if number % 2:  # ties
            loss = np.round(2 * loss) / 2
        if number % 3 == 0:  # walls
            loss[source.random(loss.shape) < 0.15] = (np.nan, np.inf)[number % 2]
        if np.isfinite(loss).any():
            yield loss


@pytest.mark.parametrize("neighbours", [4, 8])
def test_bars_of_a_grid_are_those_of_a_flood(neighbours):
    for loss in grids():
        tree = merge_tree_of_grid(loss, neighbours=neighbours)
        assert sorted(zip(tree.birth, tree.death, strict=True)) == flooded(loss, neighbours)
        for k, (cell, pass_) in enumerate(zip(tree.place, tree.saddle, strict=True)):
            assert loss[tuple(cell.astype(int))] == tree.birth[k]
            if np.isfinite(tree.death[k]):
                assert loss[tuple(pass_.astype(int))] == tree.death[k]
                assert tree.birth[tree.into[k]] <= tree.birth[k]


def test_bars_of_himmelblau_are_those_of_its_saddles():
    axis = np.linspace(-5, 5, 1001)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    loss = (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2
    tree = merge_tree_of_plane(Surface(alpha=axis, beta=axis, loss=loss, center=float(loss[0, 0])))
    # Of the grid: each is above the function's own by at most half the curvature times h^2.
    np.testing.assert_allclose(tree.birth, 0, atol=2e-3)
    known = [13.3119262704, 67.7191500875, 104.0151629176, np.inf]
    np.testing.assert_allclose(np.sort(tree.death), known, atol=2e-3)
    lowest = tree.death.argmin()
    np.testing.assert_allclose(tree.saddle[lowest], [3.3852, 0.0739], atol=0.02)
    assert tree.coordinates == ("alpha", "beta")


def test_a_network_of_minima_is_joined_by_its_lowest_paths():
    tree = merge_tree(MINIMA, EDGES, HEIGHTS, names="abcd")
    assert tree.names == ("a", "c", "b", "d")
    np.testing.assert_array_equal(tree.birth, [0, 0.2, 0.5, 1])
    np.testing.assert_array_equal(tree.death, [np.inf, 2, 1.5, 4])
    np.testing.assert_array_equal(tree.into, [-1, 0, 1, 0])


def lowest(loss, edges, heights):
    """The minimax heights by the recursion of Floyd and Warshall."""
    found = np.full((len(loss), len(loss)), np.inf)
    np.fill_diagonal(found, loss)
    for (one, other), height in zip(edges, heights, strict=True):
        found[one, other] = found[other, one] = min(found[one, other], height)
    for k in range(len(loss)):
        found = np.minimum(found, np.maximum(found[:, k, None], found[k]))
    return found


@pytest.mark.parametrize("ties", [False, True])
def test_minimax_heights_are_those_of_all_paths(ties):
    source = np.random.default_rng(1)
    for _ in range(30):
        count = int(source.integers(2, 9))
        loss = source.random(count)
        edges = source.integers(0, count, (2 * count, 2))
        edges = edges[edges[:, 0] != edges[:, 1]]
        heights = 1 + source.random(len(edges))
        if ties:
            heights = np.ceil(2 * heights) / 2
        tree = merge_tree(loss, edges, heights)
        order = [int(name) for name in tree.names]
        expected = lowest(loss, edges, heights)[np.ix_(order, order)]
        np.testing.assert_array_equal(minimax(tree), expected)


def test_short_bars_are_left_out_and_counted():
    tree = merge_tree(MINIMA, EDGES, HEIGHTS, names="abcd", least=1.0)
    assert tree.names == ("a", "c", "d") and tree.dropped == 1
    np.testing.assert_array_equal(tree.into, [-1, 0, 0])


def test_minima_that_nothing_joins_stay_apart():
    tree = merge_tree(MINIMA, EDGES[:1], HEIGHTS[:1])
    assert np.isinf(tree.death).sum() == 3
    assert np.isinf(minimax(tree)[0, 1]) and minimax(tree)[0, 2] == 2


def test_a_tree_goes_to_a_file_and_back(tmp_path):
    tree = merge_tree_of_grid(np.array([[0.0, 2.0, 1.0, 3.0, 0.5]]))
    save(tree, tmp_path / "tree.h5")
    found = load(tmp_path / "tree.h5")
    assert found.names == tree.names == ("(0, 0)", "(0, 4)", "(0, 2)")
    np.testing.assert_array_equal(found.death, [np.inf, 3, 2])
    np.testing.assert_array_equal(found.saddle, [[np.nan, np.nan], [0, 3], [0, 1]])
    assert found.said()[0] == "3 minima, walls 1 to 2.5 high"


@pytest.mark.parametrize(("given", "message"), [
    ((MINIMA, EDGES, HEIGHTS[:2]), "5 edges and 2 heights"),
    ((MINIMA, EDGES + 1, HEIGHTS), "edges must name minima from 0 to 3, got 4"),
    ((MINIMA, EDGES + 0.0, HEIGHTS), "edges must be indices of minima, whole numbers"),
    ((MINIMA, EDGES, HEIGHTS - 1.2), "no path is lower than its ends: from 1 to 2"),
    ((MINIMA, EDGES, HEIGHTS * np.nan), "no path is lower"),
    ((MINIMA + np.inf, EDGES, HEIGHTS), "finite loss, got inf"),
    (([], [], []), "got 0 minima"),
])  # fmt: skip
def test_networks_that_are_none_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        merge_tree(*map(np.asarray, given))


def test_grids_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        merge_tree_of_grid(np.zeros(3))
    with pytest.raises(ValueError, match="0 finite samples"):
        merge_tree_of_grid(np.full((3, 3), np.nan))
    with pytest.raises(ValueError, match="neighbours must be 4 or 8, got 6"):
        merge_tree_of_grid(np.zeros((3, 3)), neighbours=6)
    with pytest.raises(ValueError, match="least must not be negative"):
        merge_tree_of_grid(np.eye(3), least=-1.0)


def test_a_plateau_is_one_minimum():
    tree = merge_tree_of_grid(np.zeros((4, 5)))
    assert len(tree.birth) == 1 and tree.dropped == 0
