"""Pictures of paths: what is drawn where, and in which words."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from figures import catalogue, paths
from landscape.results import Path


def path(finder="fourier", **changes):
    share = np.linspace(0, 1, 5)
    loss = np.array([1.0, 2.0, 4.0, 3.0, 0.5])
    points = np.column_stack([share, share**2])
    entries = {
        "share": share, "loss": loss, "points": points, "summit": points[2], "height": 4.25,
        "top": 0.55, "barrier": 3.5, "chord_barrier": 3.4, "length": 1.5, "straight": 1.4,
        "line_loss": loss + 1, "line_height": 5.25, "finder": finder, "status": "done",
    }  # fmt: skip
    return Path(**{**entries, **changes})


def flat(**changes):
    alpha, beta = np.linspace(-1, 2, 4), np.linspace(-1, 2, 3)
    surface = alpha[:, None] ** 2 + beta**2
    return path(alpha=alpha, beta=beta, surface=surface, **changes)


def test_the_loss_is_drawn_with_the_line_the_summit_and_the_band():
    result = path(standard_error=np.full(5, 0.1), height_error=0.1)
    artists = paths.along({"fourier": result}, Figure().add_subplot())
    (curve,), (band,), (summit,) = artists["curves"], artists["bands"], artists["summits"]
    np.testing.assert_array_equal(curve.get_xydata(), np.column_stack([result.share, result.loss]))
    np.testing.assert_array_equal(artists["line"].get_ydata(), result.line_loss)
    np.testing.assert_allclose(summit.get_xydata(), [[0.55, 4.25]])
    height = band.get_paths()[0].vertices[:, 1]
    assert (height.min(), height.max()) == pytest.approx((0.3, 4.2))
    assert curve.get_label() == "fourier: height 4.25 ± 0.1"
    assert "from A to B" in curve.axes.get_xlabel()


def test_several_paths_differ_by_colour_and_stroke_and_the_line_is_drawn_once():
    results = {name: path(name) for name in ("linear", "fourier", "string", "bezier")}
    artists = paths.along(results, Figure().add_subplot())
    assert "line" not in artists
    looks = {(curve.get_color(), str(curve.get_linestyle())) for curve in artists["curves"]}
    assert len(looks) == len({color for color, _ in looks}) == 4


@pytest.mark.parametrize(
    ("loss", "scale"),
    [([1, 2, 4, 3, 2], "linear"), ([1e-3, 1, 5, 1, 1e-2], "log"), ([0, 1, 5, 1, 1e-20], "linear")],
)
def test_the_scale_is_logarithmic_where_no_end_is_zero(loss, scale):
    loss = np.array(loss, dtype=float)
    ax = Figure().add_subplot()
    paths.along({"a": path(loss=loss, line_loss=loss)}, ax)
    assert ax.get_yscale() == scale


def test_a_path_on_the_contour_is_where_its_points_are():
    result = flat()
    artists = paths.on_contour({"fourier": result}, Figure().add_subplot())
    (curve,), (summit,) = artists["curves"], artists["summits"]
    np.testing.assert_array_equal(curve.get_xydata(), result.points)
    np.testing.assert_array_equal(summit.get_xydata(), result.summit[None])
    np.testing.assert_array_equal(artists["ends"].get_xydata(), result.points[[0, -1]])
    np.testing.assert_array_equal(artists["line"].get_xydata(), result.points[[0, -1]])
    with pytest.raises(ValueError, match="need their points"):
        paths.on_contour({"a": replace(result, points=None)}, Figure().add_subplot())


def test_the_figures_of_a_result_and_of_several_together():
    metrics = {"metrics": ("accuracy",), "metric_values": np.ones((1, 5))}
    assert set(catalogue.figures_of(path(**metrics))) == {"along"}
    assert set(catalogue.figures_of(flat())) == {"along", "contour"}
    several = {"path-fourier": flat(), "path-linear": flat(finder="linear"), "other": None}
    assert set(catalogue.together(several)) == {"paths-along", "paths-contour"}
    assert not catalogue.together({"path-fourier": flat()})
    apart = {"path-fourier": flat(), "path-linear": flat(finder="linear", names=("C", "D"))}
    assert not catalogue.together(apart)


def test_losses_that_are_not_finite_are_said():
    nothing = np.full(5, np.nan)
    lost = path(loss=nothing, line_loss=nothing, height=np.inf, barrier=np.inf)
    artists = paths.along({"a": lost}, Figure().add_subplot())
    assert artists["message"].get_text() == "no finite loss" and not artists["summits"]
    assert set(catalogue.figures_of(lost)) == {"along"}
