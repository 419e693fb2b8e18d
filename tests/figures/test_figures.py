"""Figures draw the numbers of a result and nothing else, and no text of theirs is cut off."""

import os
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from matplotlib.backends.backend_agg import FigureCanvasAgg
from mpl_toolkits.mplot3d.proj3d import proj_transform

from figures import (
    catalogue,
    connectivity,
    line,
    minima,
    population,
    spectrum,
    style,
    surface,
    topology,
    trajectory,
)
from figures import embedding as embeddings
from figures.levels import levels
from landscape.embedding import embedding
from landscape.results import (
    FiniteScaleTrace,
    Gradients,
    History,
    Line,
    Spectrum,
    Stationary,
    Surface,
    Trajectory,
)
from landscape.results.connectivity import Connectivity
from landscape.topology import merge_tree, merge_tree_of_grid

NAN = float("nan")
LONG = "random, filter-normalised, orthogonal to the first"


def axes(**projection):
    return style.new_figure().add_subplot(**projection)


def himmelblau(x, y):
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


def plane(loss, alpha=None, beta=None, **entries):
    """A surface with loss(alpha, beta) on a grid that is not square and not centred."""
    alpha = np.linspace(-2, 3, 11) if alpha is None else alpha
    beta = np.linspace(-1, 7, 6) if beta is None else beta
    loss = np.broadcast_to(loss(alpha[:, None], beta[None, :]), (len(alpha), len(beta)))
    return Surface(alpha=alpha, beta=beta, loss=loss, **{"center": 1.5} | entries)


def with_holes(alpha, beta):
    loss = 0.02 + np.log1p(alpha**2 + beta**2 + 0.0 * beta)
    loss[:3, :2], loss[6, 3], loss[-1, -1] = np.nan, np.inf, -np.inf
    return loss


def slice_of(loss, **entries):
    loss = np.asarray(loss, dtype=float)
    alpha = np.linspace(-1, 1, len(loss)) if len(loss) > 1 else np.array([0.5])
    return Line(alpha=alpha, loss=loss, **{"center": 0.5, "direction": LONG} | entries)


def pairs(eigenvalues, **entries):
    values = np.asarray(eigenvalues, dtype=float)
    residuals = 10.0 ** -np.arange(len(values)) * 1e-2
    numbers = {"residuals": residuals, "bounds": 1.5 * residuals, "estimates": 0.5 * residuals}
    numbers |= {"converged": residuals < 5e-3, "products": 90, "dim": 269722, "which": "LM"}
    numbers |= {"tolerance": 1e-4, "status": "not converged: the budget of products is spent"}
    return Spectrum(eigenvalues=values, statistics="frozen", **numbers | entries)


def slopes(loss, norm):
    loss, norm = np.asarray(loss, dtype=float), np.asarray(norm, dtype=float)
    member = np.arange(len(loss))
    return Gradients(member=member, loss=loss, gradient_norm=norm, gradient_max=norm / 3)


def training(loss, diversity=None):
    loss = np.asarray(loss, dtype=float)
    steps = np.arange(len(loss))
    fitness = 2 * loss + 1
    best = np.where(np.isfinite(fitness), fitness, np.inf).min(axis=1, initial=np.inf)
    return History(
        iteration=10 * steps, evaluations=30 * (steps + 1), loss=loss, gradient_norm=3 * loss,
        fitness=fitness, best_fitness=np.minimum.accumulate(best), method="cnognp", task="wine",
        diversity=np.exp(-steps) if diversity is None else diversity, status="finished",
    )  # fmt: skip


def wandering(steps, members, seed=0):
    noise = np.random.default_rng(seed).normal(size=(steps, members))
    return np.exp(-np.arange(steps)[:, None] / 5 + 0.3 * noise)


def stationary(points, eigenvalues, label, position, **entries):
    """Restarts on a function with these minima; shares follow from the labels."""
    points = np.asarray(points, dtype=float)
    label = np.asarray(label)
    counts = np.bincount(label, minlength=len(points) + 1)
    share = counts / max(len(label), 1)
    numbers = {"function": "himmelblau", "method": "gd", "restarts": len(label)}
    numbers |= {"evaluations": 10**6, "tolerance": 0.1, "gradient_tolerance": 1e-3}
    numbers |= {"names": tuple("ABCDEFGHIJKLMNOP"[: len(points)]), "status": "385 unsettled"}
    numbers |= {"low": share * 0.9, "high": share * 0.9 + 0.1, "values": np.arange(len(points))}
    return Stationary(
        points=points, eigenvalues=np.asarray(eigenvalues, dtype=float), counts=counts,
        share=share, start=np.asarray(position), position=np.asarray(position), label=label,
        **numbers | entries,
    )  # fmt: skip


def four_minima(**entries):
    points = [(3, 2), (3.584, -1.848), (-3.779, -3.283), (-2.805, 3.131)]
    eigenvalues = [(82.3, 25.7), (105.4, 28.7), (133.8, 70.7), (82.3, 64.8)]
    label = np.array([0, 1, 1, 2, 3, 3, 3, 4, 4, 4])
    position = np.array([*points, (1, 1), (NAN, 0), (1e300, 0)])[[0, 1, 1, 2, 3, 3, 3, 4, 5, 6]]
    alpha, beta = np.linspace(-5, 5, 41), np.linspace(-4, 4, 31)
    grid = {"alpha": alpha, "beta": beta, "surface": himmelblau(alpha[:, None], beta)}
    grid |= {"basin": np.array([0.256, 0.247, 0.237, 0.26])}
    return stationary(points, eigenvalues, label, position, **grid | entries)


def two_wells(**entries):
    x = np.linspace(-1.5, 1.5, 61)
    grid = {"alpha": x, "beta": np.zeros(1), "surface": (x[:, None] ** 2 - 1) ** 2}
    values = {"values": np.zeros(2), "names": ("G-", "G+"), "function": "two-wells"}
    position = np.array([[-1.0], [1.0], [0.0]])
    return stationary([[-1], [1]], [[8], [8]], [0, 1, 2], position, **grid | values | entries)


def many_minima():
    side = np.linspace(-1, 1, 4)
    points = np.array([(x, y) for x in side for y in side])
    eigenvalues = np.repeat([[4.0, 1.0], [5.0, 1.0]], 8, axis=0)
    grid = {"alpha": np.linspace(-1, 1, 30), "beta": np.linspace(-1, 1, 20)}
    grid["surface"] = np.cos(9.42 * grid["alpha"])[:, None] + np.cos(9.42 * grid["beta"])
    return stationary(points, eigenvalues, np.arange(17), np.vstack([points, [[0, 0]]]), **grid)


def curves(runs, steps, **entries):
    """Paths of several runs in a plane that they leave further and further."""
    place = np.linspace(0, 5, runs * steps)
    numbers = {"alpha": np.cos(place), "beta": np.sin(place), "loss": np.exp(-place)}
    numbers |= {"distance": place, "relative": place / 5, "explained": np.array([0.8, 0.1])}
    numbers |= {"run": np.repeat(np.arange(runs), steps), "step": np.tile(np.arange(steps), runs)}
    labels = tuple(f"run {i}: {LONG}, batches of 128 samples" for i in range(runs))
    return Trajectory(**numbers | {"labels": labels} | entries)


def distances(estimate, **entries):
    estimate = np.asarray(estimate, dtype=float)
    numbers = {"sigma": 10.0 ** -np.arange(len(estimate)), "standard_error": estimate / 9}
    numbers |= {"rounding": estimate / 99, "resolved": estimate > 1, "samples": estimate[None]}
    numbers |= {"loss": 1.0, "probes": 1, "evaluations": 9, "dim": 5, "status": "2 above rounding"}
    return FiniteScaleTrace(estimate=estimate, **numbers | entries)


BOWL = plane(lambda a, b: a**2 + b**2 / 4, directions=(LONG, LONG), statistics="re-estimated")
SAMPLES = {
    "surface over decades": plane(
        lambda a, b: 50 + himmelblau(a, b), np.linspace(-5, 5, 41), np.linspace(-4, 5, 31)
    ),
    "bowl": BOWL,
    "surface with holes": plane(with_holes),
    "negative surface": plane(lambda a, b: -100.0 + 1e-4 * (a + b)),
    "constant surface": plane(lambda a, b: 0.5 + 0 * a),
    "zero surface": plane(lambda a, b: 0 * a),
    "surface of NaN": plane(lambda a, b: NAN * a, center=NAN),
    "one finite point": plane(lambda a, b: np.where((a == 0) & (b > 6), 1.0, NAN)),
    "one row": plane(himmelblau, alpha=np.zeros(1)),
    "one cell": plane(himmelblau, alpha=np.zeros(1), beta=np.ones(1)),
    "line": slice_of(np.linspace(-1, 1, 21) ** 2 + 0.01),
    "line with gaps": slice_of([1.0, NAN, 2.0, 3.0, np.inf, np.inf], center=1e-3),
    "one step": slice_of([3.0]),
    "line of NaN": slice_of([NAN, NAN], center=NAN),
    "spectrum of both signs": pairs([54.0, 20.0, -8.0, 1.0, -0.5, 0.0]),
    "positive spectrum": pairs([300.0, 3.0, 1e-3], which="LA"),
    "one eigenvalue": pairs([2.0], residuals=np.zeros(1), status="converged", dim=1),
    "spectrum of NaN": pairs([NAN, NAN], bounds=np.full(2, np.inf)),
    "gradients": slopes([1e-3, 1e-2, 0.5, NAN], [1e-2, 0.0, 3.0, 1.0]),
    "one member": slopes([0.1], [0.2]),
    "gradients of NaN": slopes([NAN], [NAN]),
    "history": training(wandering(40, 12)),
    "history of few": training([[1.0, 2.0, NAN], [NAN, 1.0, np.inf], [NAN, NAN, NAN]]),
    "history of one": training(wandering(20, 1) - 1, diversity=np.zeros(20)),
    "one iteration": training([[1.0, 2.0]]),
    "no iteration": training(np.empty((0, 3))),
    "four minima": four_minima(),
    "minima without a grid": four_minima(surface=None, beta=None, basin=None),
    "one coordinate": two_wells(),
    "one coordinate without a grid": two_wells(surface=None, beta=None),
    "many minima": many_minima(),
    "paths": curves(3, 9, directions=(LONG, LONG)),
    "paths of twenty runs": curves(20, 3),
    "path of one point": curves(1, 1, labels=("",)),
    "paths of NaN": curves(
        2,
        5,
        loss=np.full(10, NAN),
        distance=np.full(10, NAN),
        relative=np.full(10, NAN),
        explained=np.full(2, NAN),
    ),
    "distances": distances([3.0, 40.0, 0.5, np.inf], trace=4.0, trace_error=0.1),
    "distances of NaN": distances([NAN, NAN]),
    "spectrum of layers": pairs(
        [4.0, 3.0],
        operator="Fisher (categorical)",
        where=", ".join(["encoder.layers.11.self_attn.in_proj"] * 4),
    ),
    "valleys": merge_tree_of_grid(np.random.default_rng(0).normal(size=(6, 7))),
    "many valleys": merge_tree_of_grid(np.random.default_rng(0).normal(size=(30, 30)), least=0.1),
    "one valley": merge_tree_of_grid(np.zeros((1, 1))),
    "networks with long names": merge_tree(
        np.array([0.1, 0.2, 0.3]),
        np.array([[0, 1], [1, 2]]),
        np.array([1.0, np.inf]),
        names=(LONG, "runs/b", "c"),
    ),
    "embedding": embedding(
        np.random.default_rng(0).normal(size=(12, 40)),
        kind="rbf",
        groups=("sgd", LONG) * 6,
        new=np.zeros((2, 40)),
    ),
    "embedding of one group": embedding(np.eye(3)),
}


ORDINARY = {
    "line with gaps": ["line"],
    "surface with holes": ["contour", "heat", "relief"],
    "spectrum of both signs": ["spectrum"],
    "gradients": ["gradients"],
    "history": ["history"],
    "four minima": ["map", "shares"],
    "paths of twenty runs": ["paths"],
    "distances": ["ladder"],
    "valleys": ["barcode", "disconnectivity"],
    "embedding": ["embedding"],
}
RARE = [pytest.param(name, marks=pytest.mark.slow) for name in SAMPLES if name not in ORDINARY]


@pytest.mark.parametrize("name", [*ORDINARY, *RARE])
def test_every_figure_lies_within_its_page_and_says_what_its_axes_are(name):
    figures = catalogue.figures_of(SAMPLES[name])
    assert list(figures) == ORDINARY.get(name, list(figures)) != []
    for figure in figures.values():
        box = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer())
        width, height = figure.get_size_inches()
        assert box.x0 > 0 and box.y0 > 0 and box.x1 < width and box.y1 < height
        assert all(ax.get_ylabel() for ax in figure.axes)
        lowest = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"][-1]
        assert lowest.get_xlabel()


def test_a_tree_is_drawn_from_its_minima_to_where_they_meet_without_crossings():
    tree = SAMPLES["valleys"]
    bars = topology.barcode(tree, axes())["bar"]
    assert [bar.get_xdata()[0] for bar in bars] == list(tree.birth)
    assert [bar.get_xdata()[1] for bar in bars[1:]] == list(tree.death[1:])
    branches = topology.disconnectivity(tree, axes())["branch"]
    place = [branch.get_xdata()[0] for branch in branches]
    assert sorted(place) == list(range(len(tree.birth)))
    for k in range(1, len(tree.birth)):
        into = place[tree.into[k]]
        between = [j for j in range(len(place)) if into < place[j] < place[k]]
        assert all(tree.death[j] <= tree.death[k] for j in between) and into < place[k]


def test_walls_are_drawn_in_their_cells_and_by_groups():
    barrier = np.array([[np.nan, 1.0, 2.0], [1.0, np.nan, 4.0], [2.0, 4.0, np.nan]])
    columns = {name: np.array([1.0, 3.0]) for name in ("means", "low", "high", "count")}
    tables = ("height", "barrier", "chord_barrier", "distance", "aligned_distance")
    found = Connectivity(
        names=("a:0", "a:1", LONG), groups=("a", "b"), group=np.array([0, 0, 1]), loss=np.zeros(3),
        **dict.fromkeys(tables, barrier), **columns, pairs=("a", "a and b"), finder="linear",
        confidence=0.95,
    )  # fmt: skip
    artists = connectivity.matrix(found, axes())
    np.testing.assert_array_equal(artists["barrier"].get_array().filled(np.nan), barrier)
    assert [text.get_text() for text in artists["number"]] == ["1", "2", "1", "4", "2", "4"]
    drawn = connectivity.barriers(found, axes())
    assert [line.get_xdata().tolist() for line in drawn["pairs"]] == [[1.0], [2.0, 4.0]]
    (figure,) = catalogue.figures_of(found).values()
    box = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer())
    width, height = figure.get_size_inches()
    assert box.x0 > 0 and box.y0 > 0 and box.x1 < width and box.y1 < height


def test_points_are_drawn_where_they_are_with_those_of_a_group():
    found = SAMPLES["embedding"]
    artists = embeddings.scatter(found, axes())
    for k, drawn in enumerate(artists["group"]):
        np.testing.assert_array_equal(drawn.get_xydata(), found.coordinates[k::2])
    np.testing.assert_array_equal(artists["new"].get_xydata(), found.new)


def test_a_thing_without_pictures_has_no_figures():
    assert catalogue.figures_of(object()) == {}


def test_importing_the_figures_imports_neither_torch_nor_pyplot():
    program = (
        "import sys, figures.style\n"
        "from figures.picture import pictures\n"
        "assert not list(pictures(None)) and 'figures.surface' in sys.modules\n"
        "print([m for m in ('torch', 'matplotlib.pyplot') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_drawing_leaves_the_settings_of_matplotlib_as_they_were():
    before = dict(matplotlib.rcParams)
    catalogue.figures_of(SAMPLES["line"])
    assert dict(matplotlib.rcParams) == before


# Surfaces


def vertices(lines, i):
    return lines.get_paths()[i].vertices


@pytest.mark.parametrize("axis", [0, 1])
def test_contours_of_a_loss_that_varies_along_one_axis_are_straight_across_it(axis):
    result = plane((lambda a, b: 3 * a) if axis == 0 else (lambda a, b: 3 * b))
    lines = surface.contour(result, axes())["lines"]
    ends = [(-2, 3), (-1, 7)]
    for i, level in enumerate(lines.levels):
        along, across = vertices(lines, i)[:, axis], vertices(lines, i)[:, 1 - axis]
        assert along == pytest.approx(level / 3)
        assert (across.min(), across.max()) == pytest.approx(ends[1 - axis])
    assert len(lines.levels) > 4


def test_a_filled_contour_covers_the_whole_plane_and_knows_lowest_and_highest_loss():
    filled = surface.contour(BOWL, axes())["filled"]
    assert filled.levels[0] == BOWL.loss.min() and filled.levels[-1] == BOWL.loss.max()
    covered = sum(abs(area(polygon)) for p in filled.get_paths() for polygon in rings(p))
    assert covered == pytest.approx(5 * 8, rel=1e-9)


def rings(path):
    starts = np.flatnonzero(path.codes == path.MOVETO)
    return np.split(path.vertices, starts[1:])


def area(polygon):
    x, y = polygon.T
    return 0.5 * (x * np.roll(y, -1) - y * np.roll(x, -1)).sum()


def test_the_heat_map_shows_each_loss_in_the_cell_around_its_grid_point():
    result = SAMPLES["surface with holes"]
    cells = surface.heat(result, axes())["cells"]
    drawn, corners = cells.get_array(), cells.get_coordinates()
    assert np.array_equal(drawn.mask, ~np.isfinite(result.loss).T)
    assert np.array_equal(drawn.compressed(), result.loss.T[np.isfinite(result.loss.T)])
    middle = (corners[:-1, :-1] + corners[1:, 1:]) / 2
    assert np.allclose(middle[..., 0], result.alpha)
    assert np.allclose(middle[..., 1], result.beta[:, None])


@pytest.mark.parametrize("name", ["bowl", "surface over decades"])
def test_the_relief_stands_at_the_loss_above_each_grid_point(name):
    result = SAMPLES[name]
    ax = axes(projection="3d")
    drawn = surface.relief(result, ax)["surface"]
    FigureCanvasAgg(ax.figure).draw()
    corners = np.concatenate([path.vertices for path in drawn.get_paths()])
    found = levels(result.loss)
    if name == "bowl":
        height = result.loss
    else:
        height = np.log10(np.maximum(result.loss - result.loss.min(), found.floor))
    alpha, beta = np.meshgrid(result.alpha, result.beta, indexing="ij")
    x, y, _ = proj_transform(alpha.ravel(), beta.ravel(), height.ravel(), ax.get_proj())
    wanted = np.unique(np.round(np.column_stack([x, y]), 9), axis=0)
    assert np.array_equal(np.unique(np.round(corners, 9), axis=0), wanted)


def test_cells_with_a_corner_that_is_not_finite_are_holes_in_the_relief():
    result = SAMPLES["surface with holes"]
    ax = axes(projection="3d")
    drawn = surface.relief(result, ax)
    FigureCanvasAgg(ax.figure).draw()
    bad = ~np.isfinite(result.loss)
    touched = (bad[1:, 1:] | bad[:-1, 1:] | bad[1:, :-1] | bad[:-1, :-1]).sum()
    assert len(drawn["holes"].get_paths()) == touched
    assert len(drawn["surface"].get_paths()) == 10 * 5 - touched


def test_what_is_not_finite_is_hatched_and_never_filled_in():
    ax = axes()
    drawn = surface.contour(SAMPLES["surface with holes"], ax)
    assert ax.patch.get_hatch() and drawn["background"].get_label() == "not finite"
    points = np.concatenate([p.vertices for p in drawn["filled"].get_paths()])
    hole = SAMPLES["surface with holes"].alpha[6], SAMPLES["surface with holes"].beta[3]
    assert np.abs(points - hole).max(axis=1).min() > 0.2
    whole = axes()
    assert "background" not in surface.contour(BOWL, whole) and not whole.patch.get_hatch()


def test_levels_are_round_distances_from_the_lowest_loss_where_the_range_is_wide():
    radius = np.linspace(0, 1, 101)[:, None] ** np.ones(3)
    wide = levels(100 + 1e4 * radius**4)
    assert wide.floor > 0 and wide.base == 100
    assert {f"{step:.6e}"[:8] for step in wide.lines - 100} <= {f"{d}.000000" for d in (1, 2, 3, 5)}
    assert len(wide.lines) > 4
    assert wide.label() == "loss \N{MINUS SIGN} 100"
    narrow = levels(100 + radius)
    assert narrow.floor == 0 and narrow.base == 0
    assert np.ptp(np.diff(narrow.lines)) == pytest.approx(0, abs=1e-9)
    assert len(narrow.lines) > 4


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(
        np.float64,
        arrays.array_shapes(min_dims=1, max_dims=2, max_side=8),
        elements=st.floats(-1e30, 1e30) | st.just(NAN) | st.just(np.inf),
    )
)
def test_levels_ascend_from_the_lowest_to_the_highest_finite_loss(loss):
    found = levels(loss)
    finite = loss[np.isfinite(loss)]
    assert len(found.values) == 0 if not len(finite) else len(found.values) >= 1
    if len(finite):
        assert found.values[0] == finite.min() and found.values[-1] == finite.max()
        assert (np.diff(found.bands) > 0).all() and len(found.values) < 40
        assert np.isfinite(found.height(finite)).all()


def test_the_labels_of_a_narrow_range_can_be_told_apart():
    found = levels(100 + 1e-3 * np.linspace(0, 1, 50))
    texts = [found.text(value) for value in found.lines]
    assert len(set(texts)) == len(texts) > 4
    assert [float(text) for text in texts] == pytest.approx(found.lines, abs=1e-9)


# Lines, spectra, gradients


def test_a_line_shows_the_losses_as_they_are_and_hatches_the_gaps():
    result = SAMPLES["line with gaps"]
    drawn = line.draw(result, axes())
    x, y = drawn["loss"].get_data()
    assert np.array_equal(x, result.alpha)
    assert np.array_equal(y, np.where(np.isfinite(result.loss), result.loss, NAN), equal_nan=True)
    spans = [(g.get_x(), g.get_x() + g.get_width()) for g in drawn["gaps"]]
    assert np.array(spans) == pytest.approx(np.array([(-0.8, -0.4), (0.4, 1.2)]))
    assert drawn["center"].get_data() == ([0.0], [1e-3])


@pytest.mark.parametrize(
    ("values", "kind", "signed"),
    [
        ([1e-3, 1.0], "log", "symlog"),
        ([0.5, 1.0], "linear", "linear"),
        ([0.0, 1e-3, 1.0], "symlog", "linear"),
        ([-1.0, 1e-3, 1.0], "symlog", "symlog"),
        ([-1.0, 1e-3, 1.0], "linear", "linear"),
        ([-1.0, 0.9], "linear", "symlog"),
        ([0.0, 0.0], "linear", "linear"),
        ([NAN, np.inf], "linear", "linear"),
        ([0.0, 5e-324, 1.0], "symlog", "linear"),
    ],
)
def test_scales_are_logarithmic_only_where_values_allow_it_and_need_it(values, kind, signed):
    ax = axes()
    assert style.scale(ax, "y", values, signed=signed) == kind == ax.get_yscale()


@pytest.mark.parametrize("unit", [5.9e-5, 0.0059, 0.99, 1.0, 3.0, 50.0])
def test_the_ticks_of_a_signed_axis_stand_apart_and_zero_is_one_of_them(unit):
    ax = axes()
    style.signed(ax, unit, -0.05 * max(unit, 1.0), 20.0)
    ticks = ax.get_xticks()
    assert 0 in ticks and ticks.max() > 0
    places = ax.transData.transform(np.stack([ticks, 0 * ticks], axis=1))[:, 0]
    assert np.diff(places).min() > 0.05 * ax.bbox.width


@pytest.mark.parametrize(
    ("unit", "low", "high"),
    [(0.014, -0.01, 0.2), (1e-3, -1e-3, 2e-3), (5.9e-5, -1.0, 20.0), (1e5, -1e5, 3e5)],
)
def test_the_numbers_of_a_signed_axis_are_at_least_four_and_cover_no_other(unit, low, high):
    figure = style.new_figure(6.0, 2.0)
    ax = figure.add_subplot()
    style.signed(ax, unit, low, high)
    figure.set_layout_engine("none")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [t.get_window_extent(canvas.get_renderer()) for t in ax.get_xticklabels()]
    assert len(boxes) >= 4
    assert all(left.x1 < right.x0 for left, right in zip(boxes, boxes[1:], strict=False))


def test_a_spectrum_shows_values_bars_and_hollow_marks_for_what_did_not_converge():
    result = SAMPLES["spectrum of both signs"]
    drawn = spectrum.draw(result, axes())
    places = np.column_stack([np.arange(1, 7), result.eigenvalues])
    above = result.eigenvalues >= 0
    assert np.array_equal(drawn["positive"].get_offsets(), places[above])
    assert np.array_equal(drawn["negative"].get_offsets(), places[~above])
    hollow = (drawn["positive"].get_facecolors() == 1).all(axis=1)
    assert np.array_equal(hollow, ~result.converged[above])
    bars = np.array(drawn["bounds"].lines[2][0].get_segments())
    assert np.diff(bars[:, :, 1])[:, 0] == pytest.approx(2 * result.bounds)


def test_the_errors_of_a_spectrum_are_drawn_beside_the_tolerance_in_units_of_the_eigenvalues():
    result = SAMPLES["spectrum of both signs"]
    drawn = spectrum.errors(result, axes())
    for name in ("bounds", "residuals", "estimates"):
        assert np.array_equal(drawn[name].get_ydata(), getattr(result, name))
    assert drawn["tolerance"].get_ydata() == pytest.approx([54e-4, 54e-4])


def test_gradients_are_drawn_against_losses_with_the_members_numbers():
    result = SAMPLES["gradients"]
    drawn = spectrum.gradients(result, axes())
    wanted = np.column_stack([result.loss, result.gradient_norm])[:3]
    assert np.array_equal(drawn["norm"].get_offsets(), wanted)
    assert np.array_equal(drawn["largest"].get_offsets()[:, 1], result.gradient_max[:3])
    assert [text.get_text() for text in drawn["names"]] == ["0", "1", "2"]


def test_members_at_one_place_are_named_together_as_it_looks_on_the_axes():
    drawn = spectrum.gradients(slopes([0.5, 0.6, 0.5, 0.6], [1e-1, 1e-8, 1e-1, 1e-4]), axes())
    assert [text.get_text() for text in drawn["names"]] == ["0, 2", "1", "3"]


def test_the_residual_of_another_matrix_is_not_called_one_of_the_hessian():
    for operator, letter in (("Hessian", "H"), ("Gauss-Newton", "A")):
        drawn = spectrum.errors(pairs([2.0], operator=operator), axes())
        assert drawn["residuals"].get_label().startswith(f"residual ‖{letter}v")


def test_thirty_six_series_differ_in_colour_or_stroke():
    with style.context():
        ax = axes()
        lines = [ax.plot([0, 1])[0] for _ in range(36)]
    looks = {(line.get_color(), str(line._dash_pattern)) for line in lines}
    assert len(looks) == 36
    drawn = trajectory.draw(curves(36, 2), axes())["paths"]
    assert len({(line.get_color(), str(line._dash_pattern)) for line in drawn}) == 36


def test_the_legend_of_distances_is_in_percent_and_what_is_unknown_is_not_drawn():
    ax = axes()
    trajectory.distance(curves(2, 4, relative=np.array([0, 0.5, NAN, 1, *[NAN] * 4])), ax)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["100 %", "unknown"]
    (title,) = [
        t.get_text() for t in [catalogue.figures_of(SAMPLES["paths of NaN"])["paths"]._suptitle]
    ]
    assert title == "10\xa0points"


def test_the_mark_of_the_point_is_whole_on_the_edge_of_the_axes():
    grid = np.linspace(0, 1, 4)
    drawn = surface.contour(plane(lambda a, b: a + b, alpha=grid, beta=grid), axes())
    assert not drawn["center"].get_clip_on()


def test_a_note_breaks_between_its_parts_and_no_line_begins_with_the_dot():
    figure = style.new_figure(4.0, 2.0)
    for count in range(20, 40):
        parts = " ".join("x" * count), "another", " ".join(["word"] * 30)
        lines = style.note(figure, *parts).get_text().split("\n")
        assert len(lines) > 2 and not any(line.strip("\xa0 ").startswith("·") for line in lines)


# Populations


def test_a_history_shows_median_range_and_best_of_the_finite_members():
    result = SAMPLES["history of few"]
    drawn = population.history(result, style.new_figure().subplots(2, 2))
    loss = drawn[1]
    assert np.array_equal(loss["median"].get_data()[0], [0, 10, 20])
    assert np.array_equal(loss["median"].get_ydata(), [1.5, 1.0, NAN], equal_nan=True)
    assert np.array_equal(loss["best"].get_ydata(), [1.0, 1.0, NAN], equal_nan=True)
    band = loss["range"].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (1.0, 2.0)
    assert np.array_equal(drawn[0]["best"].get_ydata(), result.best_fitness)
    assert np.array_equal(drawn[3]["median"].get_ydata(), result.diversity)


def test_a_history_can_be_drawn_against_evaluations_and_wants_four_axes():
    panels = style.new_figure().subplots(2, 2)
    drawn = population.history(SAMPLES["history"], panels, against="evaluations")
    assert np.array_equal(drawn[2]["median"].get_xdata(), SAMPLES["history"].evaluations)
    assert panels[1, 1].get_xlabel() == "gradient evaluations of all members"
    shown = catalogue.figures_of(SAMPLES["history"])["history"].axes[0]
    assert shown.lines[0].get_xdata().max() == SAMPLES["history"].evaluations[-1]
    with pytest.raises(ValueError, match="four axes, got 2"):
        population.history(SAMPLES["history"], panels[0])


def test_runs_are_compared_on_one_axis_of_evaluations_with_the_lowest_so_far():
    few, many = SAMPLES["history of few"], SAMPLES["history"]
    drawn = population.compared({"few": few, "many": many}, style.new_figure().subplots(1, 2))
    loss = drawn[0]
    assert np.array_equal(loss["median"][0].get_data()[0], few.evaluations)
    assert np.array_equal(loss["median"][0].get_ydata(), [1.5, 1.0, NAN], equal_nan=True)
    assert np.array_equal(loss["best"][0].get_ydata(), [1.0, 1.0, 1.0])
    lowest = np.minimum.accumulate(many.loss.min(axis=1))
    assert np.array_equal(loss["best"][1].get_ydata(), lowest)
    assert drawn[1]["median"][1].axes.get_xlim() == (0, many.evaluations[-1])
    both = catalogue.compared({"few": few, "many": many})
    assert [text.get_text() for text in both.legends[0].get_texts()] == ["few", "many"]
    with pytest.raises(ValueError, match="at least one run is compared, in two axes; got 0 runs"):
        population.compared({}, style.new_figure().subplots(1, 2))


def test_many_runs_with_long_names_leave_the_panels_their_room():
    runs = {f"runs/cnognp-wine-lr-0.1-penalty-0.01-seed-{i}": training(wandering(3, 2, i))
            for i in range(14)}  # fmt: skip
    few, many = catalogue.compared(dict([*runs.items()][:2])), catalogue.compared(runs)
    for before, after in zip(few.axes, many.axes, strict=True):
        sizes = [ax.get_position().bounds[2:] * ax.figure.get_size_inches()
                 for ax in (before, after)]  # fmt: skip
        assert sizes[0] == pytest.approx(sizes[1], rel=0.12)
    assert len(many.legends[0].get_texts()) == 14


# Minima


def test_minima_of_equal_curvature_are_one_group_and_the_flattest_comes_first():
    groups = minima.flatness(np.array([5.0, 2.0, 5.0 + 1e-9, NAN, 2.5, 0.0]))
    assert [list(group) for group in groups] == [[5], [1], [4], [0, 2], [3]]


def test_a_map_marks_the_minima_by_flatness_with_the_population_on_top():
    result = four_minima()
    ax = axes()
    drawn = minima.map(result, ax)
    marked = [marks.get_xydata() for marks in drawn["minima"]]
    assert [m.tolist() for m in marked] == [
        result.points[[0, 3]].tolist(), result.points[[1]].tolist(), result.points[[2]].tolist()
    ]  # fmt: skip
    sizes = [marks.get_markersize() for marks in drawn["minima"]]
    shapes = {marks.get_marker() for marks in drawn["minima"]}
    assert sizes == sorted(sizes, reverse=True) and len(shapes) == len(sizes) == 3
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts[0] == "A  D:  λ₁ = 82.3"
    assert "7 restarts" in texts and "3 else (2 out of sight)" in texts
    assert np.array_equal(drawn["population"].get_xydata(), result.position[:7])
    assert drawn["else"].get_xydata().tolist() == [[1, 1]]
    top = min(drawn[name].get_zorder() for name in ("population", "else"))
    assert top > max(marks.get_zorder() for marks in drawn["minima"])
    assert [text.get_text() for text in drawn["names"]] == list("ABCD")


def test_the_contours_of_a_map_have_the_value_of_their_level():
    lines = minima.map(four_minima(), axes())["lines"]
    for i, level in enumerate(lines.levels):
        x, y = vertices(lines, i).T
        if len(x):
            assert himmelblau(x, y) == pytest.approx(level, rel=0.1, abs=1.5)
    assert len(lines.levels) > 4


def test_a_function_of_one_coordinate_is_a_curve_with_the_minima_on_it():
    result = two_wells()
    drawn = minima.map(result, axes())
    assert np.array_equal(drawn["curve"].get_xydata()[:, 1], result.surface[:, 0])
    assert drawn["minima"][0].get_xydata().tolist() == [[-1, 0], [1, 0]]
    assert drawn["population"].get_xydata() == pytest.approx(np.array([[-1, 0], [1, 0]]))
    assert drawn["else"].get_xydata() == pytest.approx(np.array([[0, 1]]))


def test_a_map_of_three_coordinates_is_refused():
    result = stationary(np.zeros((1, 3)), np.ones((1, 3)), [0], np.zeros((1, 3)), alpha=np.ones(2))
    with pytest.raises(ValueError, match="1 or 2 coordinates, got 3"):
        minima.map(result, axes())


def test_shares_are_bars_in_percent_with_intervals_and_exact_fractions_and_else_last():
    result = four_minima()
    ax = axes()
    drawn = minima.shares(result, ax)
    assert [bar.get_height() for bar in drawn["bars"]] == pytest.approx([10, 20, 10, 30, 30])
    bars = np.array(drawn["intervals"].lines[2][0].get_segments())[:, :, 1]
    assert bars == pytest.approx(100 * np.column_stack([result.low, result.high]))
    assert drawn["exact"].get_ydata() == pytest.approx(100 * result.basin)
    assert [label.get_text() for label in ax.get_xticklabels()] == [*"ABCD", "else"]
    assert "exact" not in minima.shares(SAMPLES["minima without a grid"], axes())


# Files


def test_equal_results_give_equal_files_without_a_date_whatever_the_users_settings(tmp_path):
    first = style.save(catalogue.figures_of(BOWL)["contour"], tmp_path / "a")
    with matplotlib.rc_context({"font.size": 20, "axes.grid": True, "savefig.dpi": 30}):
        second = style.save(catalogue.figures_of(BOWL)["contour"], tmp_path / "deep" / "b.0")
    assert [path.name for path in second] == ["b.0.png", "b.0.pdf"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    png, pdf = (path.read_bytes() for path in first)
    assert tuple(np.frombuffer(png[16:24], ">u4")) == (1080, 880)
    assert b"CreationDate" not in pdf and b"/Type3" not in pdf and b"FontFile2" in pdf


@pytest.mark.slow
def test_files_do_not_depend_on_the_hash_seed_of_the_process(tmp_path):
    program = (
        "import sys, numpy as np\n"
        "from figures import catalogue, style\n"
        "from landscape.results import Line\n"
        "x = np.linspace(-1, 1, 9)\n"
        "result = Line(alpha=x, loss=x**2, center=0.0)\n"
        "style.save(catalogue.figures_of(result)['line'], sys.argv[1])"
    )
    for seed in ("1", "2"):
        command = [sys.executable, "-c", program, str(tmp_path / seed)]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": seed})
    for suffix in (".png", ".pdf"):
        one, other = ((tmp_path / (seed + suffix)).read_bytes() for seed in ("1", "2"))
        assert one == other


def test_a_figure_that_cannot_be_drawn_leaves_the_older_files_and_nothing_else(tmp_path):
    figure = style.new_figure(2, 2)
    figure.add_subplot()
    style.save(figure, tmp_path / "f")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(before) == ["f.pdf", "f.png"]
    figure.text(0.5, 0.5, "$\\nonsense{$")
    with pytest.raises(ValueError, match="nonsense"):
        style.save(figure, tmp_path / "f")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
