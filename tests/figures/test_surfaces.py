"""Pictures of slices: bands, interpolated cells, and several surfaces on one scale."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg

from figures import catalogue, line, style, surface
from figures.levels import levels
from landscape.results import Line, Lines, Surface

NAN = float("nan")


def axes(**projection):
    return style.new_figure().add_subplot(**projection)


def plane(loss, rows=11, columns=6, **entries):
    alpha, beta = np.linspace(-2, 3, rows), np.linspace(-1, 7, columns)
    values = np.broadcast_to(loss(alpha[:, None], beta[None, :]), (rows, columns))
    return Surface(alpha=alpha, beta=beta, loss=values, **{"center": 1.5} | entries)


def bowl(a, b):
    return a**2 + b**2 / 4


def several(loss, **entries):
    loss = np.asarray(loss, float)
    sides = {"mean": loss.mean(0), "low": loss.min(0), "high": loss.max(0)}
    alpha = np.linspace(-1, 1, loss.shape[1])
    return Lines(alpha=alpha, loss=loss, center=0.5, direction="random", **sides | entries)


def corners(band):
    """The outline of a band as (x, y) pairs without repetitions."""
    return {tuple(np.round(v, 12)) for path in band.get_paths() for v in path.vertices}


# --------------------------------------------------------------------------------------- contours


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(2, 9), columns=st.integers(2, 9), axis=st.integers(0, 1),
    slope=st.sampled_from([-4.0, 0.5, 30.0]), curved=st.booleans(),
)  # fmt: skip
def test_contours_lie_where_the_loss_has_their_level(rows, columns, axis, slope, curved):
    """A plane function: every vertex is exact, neither shifted by a cell nor transposed."""
    alpha = np.linspace(-2, 3, rows) ** (3 if curved else 1)
    beta = np.linspace(-1, 7, columns)
    loss = slope * np.broadcast_to((alpha[:, None], beta)[axis], (rows, columns))
    result = Surface(alpha=alpha, beta=beta, loss=loss, center=0.0)
    drawn = surface.contour(result, axes())
    lines, found = drawn["lines"], levels(result.loss)
    assert np.array_equal(lines.levels, found.lines) and len(found.lines) > 2
    extent = [(alpha[0], alpha[-1]), (beta[0], beta[-1])]
    for level, path in zip(lines.levels, lines.get_paths(), strict=True):
        along, across = path.vertices[:, axis], path.vertices[:, 1 - axis]
        assert along == pytest.approx(level / slope, abs=1e-9 * np.ptp(extent[axis]))
        assert (across.min(), across.max()) == pytest.approx(extent[1 - axis])


def test_the_cells_of_a_heat_map_are_not_transposed_on_any_grid():
    alpha, beta = np.array([-1.0, 0.0, 5.0]), np.array([0.0, 0.1, 0.5, 3.0])
    loss = 10 * alpha[:, None] + beta
    result = Surface(alpha=alpha, beta=beta, loss=loss, center=0.0)
    cells = surface.heat(result, axes())["cells"]
    drawn, borders = cells.get_array(), cells.get_coordinates()
    for i, a in enumerate(alpha):
        for j, b in enumerate(beta):
            assert drawn[j, i] == 10 * a + b
            assert borders[j, i, 0] < a < borders[j, i + 1, 0]
            assert borders[j, i, 1] < b < borders[j + 1, i, 1]


def test_the_mask_of_a_heat_map_is_named_in_the_legend():
    ax = axes()
    surface.heat(plane(lambda a, b: np.where(a > 2, np.inf, bowl(a, b))), ax)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert "not finite" in names and ax.patch.get_hatch()


# ------------------------------------------------------------------------------ interpolated cells


@pytest.mark.parametrize("draw", [surface.contour, surface.heat])
def test_interpolated_cells_carry_a_dot_and_the_legend_says_how_many(draw):
    evaluated = np.ones((11, 6), bool)
    evaluated[3, 4] = evaluated[10, 0] = evaluated[5, 5] = False
    result = plane(bowl, evaluated=evaluated, interpolation_error=0.0071)
    ax = axes()
    dots = draw(result, ax)["interpolated"]
    wanted = {(result.alpha[i], result.beta[j]) for i, j in [(3, 4), (10, 0), (5, 5)]}
    assert {tuple(at) for at in dots.get_xydata()} == wanted
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert "interpolated: 5 % of the grid" in names
    for whole in (None, np.ones((11, 6), bool)):
        assert "interpolated" not in draw(plane(bowl, evaluated=whole), axes())
    for scale, span in (("linear", "range"), ("log", "range of log loss")):
        found = replace(result, provenance={"scale": scale, "checked": 12})
        noted = " ".join(catalogue.figures_of(found)["relief"]._suptitle.get_text().split())
        error = f"largest error of 12 checked cells: 0.71 % of the {span}"
        assert f"63 measured · others interpolated ({error})" in noted


# ----------------------------------------------------------------------------- what else is known


def test_metrics_and_standard_errors_of_a_plane_have_panels_of_their_own():
    plain = plane(bowl)
    assert "metrics" not in catalogue.figures_of(plain)
    accuracy, largest = np.full(plain.loss.shape, 0.5), np.exp(plain.loss)
    accuracy[0, 1] = NAN
    found = replace(
        plain, standard_error=0.1 * plain.loss + 0.1, metrics=("accuracy", "lambda_max"),
        metric_values=np.stack([accuracy, largest]),
    )  # fmt: skip
    figure = catalogue.figures_of(found)["metrics"]
    bars = [ax.get_ylabel() for ax in figure.axes if ax.get_label() == "<colorbar>"]
    assert bars[:2] == ["standard error of the loss", "accuracy"]
    assert bars[2].startswith("lambda max")
    shown = [ax.collections[0].get_array() for ax in figure.axes if ax.get_label() != "<colorbar>"]
    for cells, values in zip(shown, (found.standard_error, accuracy, largest), strict=True):
        np.testing.assert_array_equal(np.ma.filled(cells.reshape(values.T.shape), NAN), values.T)


def test_metrics_of_a_line_have_panels_of_their_own():
    alpha = np.linspace(-1, 1, 5)
    found = Line(
        alpha=alpha, loss=alpha**2, center=0.0, metrics=("accuracy", "trace"),
        metric_values=np.stack([1 - alpha**2, np.full(5, NAN)]),
    )  # fmt: skip
    first, second = catalogue.figures_of(found)["metrics"].axes
    assert (first.get_ylabel(), second.get_ylabel()) == ("accuracy", "trace")
    np.testing.assert_array_equal(first.lines[0].get_ydata(), 1 - alpha**2)
    assert "no finite trace" in [text.get_text() for text in second.texts]


# -------------------------------------------------------------------------------------- one scale


@pytest.mark.parametrize("cells", [False, True])
def test_surfaces_on_one_scale_share_levels_colours_and_limits_whatever_their_grids(cells):
    wide = plane(lambda a, b: 50 * bowl(a, b), 5, 9)
    holes = plane(lambda a, b: np.where(b > 5, NAN, 2 + bowl(a, b)), 8, 8)
    small = Surface(alpha=np.linspace(-1, 1, 4), beta=np.linspace(-1, 1, 3), loss=np.eye(4, 3),
                    center=0.2)  # fmt: skip
    panels = list(style.new_figure(8, 3).subplots(1, 3))
    drawn = surface.compare([wide, holes, small], panels, labels="abc", cells=cells)
    pictures = [panel["cells" if cells else "filled"] for panel in drawn["panels"]]
    together = levels(np.concatenate([r.loss.ravel() for r in (wide, holes, small)]))
    assert len({(p.norm.vmin, p.norm.vmax, p.get_cmap().name) for p in pictures}) == 1
    for value in (0.1, 3.0, 40.0, 300.0):
        assert len({p.cmap(p.norm(value)) for p in pictures}) == 1
    if not cells:
        assert all(np.array_equal(p.levels, together.bands) for p in pictures)
    for panel, ax, name in zip(drawn["panels"], panels, "abc", strict=True):
        assert ax.get_xlim() == panels[0].get_xlim() and ax.get_ylim() == panels[0].get_ylim()
        assert ax.get_title("left").startswith(name) and ax.get_legend() is None
        assert ("background" in panel) == (name == "b")
    assert panels[0].get_xlim()[0] <= -2 and panels[0].get_ylim()[1] >= 7
    assert len(drawn["colorbar"].ax.get_yticks()) == len(together.ticks)
    assert panels[2].get_title("left") == "c\nloss 0.2 at the point"


def test_a_comparison_is_a_figure_in_rows_that_names_what_is_not_finite():
    results = [plane(bowl), plane(lambda a, b: np.where(b > 5, NAN, bowl(a, b)))] * 2
    figure = surface.comparison([*results, results[0]], columns=3)
    FigureCanvasAgg(figure).draw()
    panels = figure.axes[:5]
    assert [ax.get_xlabel() for ax in panels] == ["", "", "α", "α", "α"]
    assert [ax.get_ylabel() for ax in panels] == ["β", "", "", "β", ""]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["not finite"]
    assert not surface.comparison([plane(bowl)]).legends


@pytest.mark.usefixtures("unchecked")
def test_long_names_in_a_comparison_stay_above_their_panels():
    names = [f"SGD, learning rate 0.{i}, batches of 128, weight decay 5e-4" for i in range(3)]
    figure = surface.comparison([plane(bowl)] * 3, labels=names)
    renderer = FigureCanvasAgg(figure).get_renderer()
    panels = figure.axes[:3]
    titles = [ax.get_title(loc="left") for ax in panels]
    assert [" ".join(title.split("\n")[:-1]) for title in titles] == names
    for ax, following in zip(panels, panels[1:], strict=False):
        title = ax._left_title.get_window_extent(renderer)
        assert title.x1 < following.get_window_extent(renderer).x0


def test_a_comparison_without_surfaces_or_with_too_few_labels_is_refused():
    two = list(style.new_figure().subplots(1, 2))
    for results, panels, labels in (
        ([], [], ()), ([plane(bowl)], two, ()), ([plane(bowl)] * 2, two, ("a",))
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"got {len(results)} surfaces, {len(panels)} axes"):
            surface.compare(results, panels, labels=labels)
    with pytest.raises(ValueError, match="got 0 surfaces"):
        surface.comparison([])


def test_a_surface_without_finite_loss_is_an_empty_panel_among_others():
    panels = list(style.new_figure().subplots(1, 2))
    nothing = plane(lambda a, b: NAN * a, center=NAN)
    drawn = surface.compare([nothing, plane(bowl)], panels)
    assert drawn["panels"][0]["message"].get_text() == "no finite loss"
    assert "colorbar" in drawn
    alone = surface.compare([nothing], panels[:1])
    assert "colorbar" not in alone


# ------------------------------------------------------------------------------------------ bands


def test_the_band_of_a_line_reaches_two_standard_errors_up_and_down():
    alpha, loss, error = np.arange(4.0), np.array([3.0, 2, NAN, 4]), np.array([0.1, 0.2, 0.3, NAN])
    result = Line(alpha=alpha, loss=loss, center=3.0, standard_error=error)
    drawn = line.draw(result, axes())
    found = corners(drawn["band"])
    assert {(0, 2.8), (0, 3.2), (1, 1.6), (1, 2.4)} <= found and max(x for x, _ in found) == 1
    assert "2 standard errors" in drawn["band"].get_label()
    assert "band" not in line.draw(Line(alpha=alpha, loss=loss, center=3.0), axes())


def test_several_directions_are_a_mean_in_a_band_with_gaps_where_any_is_not_finite():
    loss = np.array([[4.0, 1, 2, 9], [2, 1, 6, np.inf], [3, 1, 4, 5]])
    ax = axes()
    drawn = line.spread(several(loss), ax)
    assert np.array_equal(drawn["mean"].get_ydata(), [3, 1, 4, NAN], equal_nan=True)
    found = corners(drawn["band"])
    assert {(-1, 2), (-1, 4), (round(1 / 3, 12), 2), (round(1 / 3, 12), 6)} <= found
    assert max(x for x, _ in found) < 0.5
    curves = [curve.get_ydata() for curve in drawn["curves"]]
    assert np.array_equal(curves, np.where(np.isfinite(loss), loss, NAN), equal_nan=True)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert {"mean", "range of 3 directions", "not finite"} <= set(names)
    assert len(drawn["gaps"]) == 1
    assert "curves" not in line.spread(several(np.ones((13, 4))), axes())
    assert line.spread(several(np.full((2, 4), NAN)), axes())["message"]


def test_pages_of_slices_are_drawn_for_any_of_them():
    assert list(catalogue.figures_of(several(np.ones((2, 4))))) == ["lines"]
    assert list(catalogue.figures_of(several(np.full((2, 1), NAN)))) == ["lines"]
