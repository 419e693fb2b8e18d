"""Other programs read what is exported, and files of theirs are read, cell for cell."""

import base64
import csv
import io
import json
import resource
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from figures.catalogue import figures_of
from landscape.exchange import FORMATS, classic, export, formats, table, vtk
from landscape.files import DamagedFile
from landscape.results import Line, Lines, Result, Spectrum, Surface, Trajectory, save
from landscape.results.record import axes

NAN = float("nan")
TYPES = {"Float64": "<f8", "Int64": "<i8", "UInt8": "|u1"}


def code(alpha, beta):
    """A number that tells every pair of coordinates from every other."""
    return 10 * alpha + beta + 100.0


def plane(rows=4, columns=6, holes=False, **entries):
    """A surface that is not square, whose loss is `code` of the coordinates."""
    alpha, beta = np.linspace(-1, 2, rows), np.linspace(0, 5, columns)
    loss = code(alpha[:, None], beta)
    if holes:
        loss[0, 0], loss[2, 3], loss[3, 5] = NAN, np.inf, -np.inf
    return Surface(alpha=alpha, beta=beta, loss=loss, **{"center": 1.5} | entries)


def measured(**entries):
    """A surface with every optional field."""
    bare = plane()
    values = np.stack([bare.loss / 1000, bare.loss**2])
    evaluated = bare.loss > 105
    numbers = {"metrics": ("accuracy", "gradient norm"), "metric_values": values}
    return plane(evaluated=evaluated, standard_error=bare.loss / 7, **numbers | entries)


def paths():
    numbers = {"alpha": np.arange(7.0), "beta": np.arange(7.0) ** 2, "distance": np.arange(7) / 3}
    return Trajectory(
        run=np.array([0, 0, 0, 1, 1, 1, 1]), step=np.array([0, 10, 20, 0, 1, 2, 3]),
        loss=np.array([3.0, 2, 1, 5, NAN, 4, 3]), relative=np.ones(7),
        explained=np.array([0.7, 0.2]), labels=("sgd", "adam"), **numbers,
    )  # fmt: skip


# --------------------------------------------------------------------------------------------- VTK


def parsed(source):
    """The root of a VTK file and its arrays by name, read without VTK and without our code."""
    root = ElementTree.parse(source).getroot()
    assert root.attrib["byte_order"] == "LittleEndian" and root.attrib["header_type"] == "UInt64"
    arrays = {}
    for element in root.iter("DataArray"):
        assert element.attrib["format"] == "binary"
        data = base64.b64decode(element.text, validate=True)
        (length,) = np.frombuffer(data[:8], "<u8")
        assert len(data) == 8 + length
        values = np.frombuffer(data[8:], TYPES[element.attrib["type"]])
        parts = int(element.attrib["NumberOfComponents"])
        values = values.reshape(-1, parts) if parts > 1 else values
        arrays.setdefault(element.attrib["Name"], []).append(values)
    return root, arrays


def test_image_data_hold_the_loss_with_alpha_running_fastest(tmp_path):
    surface = measured()
    export(surface, tmp_path / "a.vti")
    root, arrays = parsed(tmp_path / "a.vti")
    (grid,) = root.iter("ImageData")
    assert grid.attrib["WholeExtent"] == "0 3 0 5 0 0"
    origin, spacing = (np.array(grid.attrib[n].split(), float) for n in ("Origin", "Spacing"))
    number = np.arange(24)
    x, y = origin[0] + spacing[0] * (number % 4), origin[1] + spacing[1] * (number // 4)
    np.testing.assert_allclose(arrays["loss"][0], code(x, y), rtol=1e-14)
    np.testing.assert_allclose(arrays["accuracy"][0], code(x, y) / 1000, rtol=1e-14)
    np.testing.assert_allclose(arrays["gradient norm"][0], code(x, y) ** 2, rtol=1e-14)
    np.testing.assert_allclose(arrays["standard_error"][0], code(x, y) / 7, rtol=1e-14)
    assert np.array_equal(arrays["evaluated"][0], code(x, y) > 105)


def test_an_uneven_grid_goes_to_a_rectilinear_file_and_not_to_image_data(tmp_path):
    alpha, beta = np.array([-1.0, 0.0, 5.0]), np.array([0.0, 0.1, 0.5, 3.0])
    loss = code(alpha[:, None], beta)
    loss[1, 2] = NAN
    surface = Surface(alpha=alpha, beta=beta, loss=loss, center=0.0)
    with pytest.raises(ValueError, match="alpha is not evenly spaced.*export to .vtr"):
        export(surface, tmp_path / "a.vti")
    export(surface, tmp_path / "a.vtr")
    root, arrays = parsed(tmp_path / "a.vtr")
    assert next(root.iter("Piece")).attrib["Extent"] == "0 2 0 3 0 0"
    assert np.array_equal(arrays["alpha"][0], alpha) and np.array_equal(arrays["beta"][0], beta)
    assert np.array_equal(arrays["loss"][0].reshape(4, 3).T, loss, equal_nan=True)
    assert np.array_equal(arrays["finite"][0].reshape(4, 3).T, np.isfinite(loss))


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 7), columns=st.integers(1, 7), bad=st.integers(0, 2**49 - 1))
def test_triangles_cover_the_finite_cells_once_and_face_upwards(rows, columns, bad):
    finite = ~np.array([bad >> i & 1 for i in range(rows * columns)], bool).reshape(rows, columns)
    alpha, beta = np.arange(rows) ** 1.5, np.arange(columns) ** 1.5
    loss = np.where(finite, code(alpha[:, None], beta), NAN)
    surface = Surface(alpha=alpha, beta=beta, loss=loss, center=0.0)
    root, arrays = parsed(io.BytesIO(vtk.polygons(surface).encode()))
    points, triangles = arrays["Points"][0], arrays["connectivity"][1].reshape(-1, 3)
    assert next(root.iter("Piece")).attrib["NumberOfPolys"] == str(len(triangles))
    assert np.array_equal(arrays["offsets"][1], 3 * np.arange(1, len(triangles) + 1))
    assert np.isfinite(points).all()
    assert np.array_equal(arrays["loss"][0], loss.ravel(), equal_nan=True)
    here = finite.ravel()
    np.testing.assert_array_equal(points[here, 2], code(points[here, 0], points[here, 1]))
    p = points[triangles]
    first, second = p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]
    doubled = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    assert (doubled > 0).all() and here[triangles].all()
    whole = finite[1:, 1:] & finite[:-1, 1:] & finite[1:, :-1] & finite[:-1, :-1]
    covered = (whole * np.diff(alpha)[:, None] * np.diff(beta)).sum()
    if finite.all():
        assert doubled.sum() / 2 == pytest.approx(covered, rel=1e-12)
    assert doubled.sum() / 2 >= covered * (1 - 1e-12)
    assert len(np.unique(np.sort(triangles, axis=1), axis=0)) == len(triangles)


def test_paths_are_lines_at_the_true_loss_cut_where_it_is_not_finite(tmp_path):
    export(paths(), tmp_path / "a.vtp")
    root, arrays = parsed(tmp_path / "a.vtp")
    assert next(root.iter("Piece")).attrib["NumberOfLines"] == "2"
    cells = np.split(arrays["connectivity"][0], arrays["offsets"][0][:-1])
    assert [cell.tolist() for cell in cells] == [[0, 1, 2], [5, 6]]
    places = np.column_stack([np.arange(7.0), np.arange(7.0) ** 2, [3, 2, 1, 5, 1, 4, 3]])
    assert np.array_equal(arrays["Points"][0], places)
    assert np.array_equal(arrays["loss"][0], paths().loss, equal_nan=True)
    assert np.array_equal(arrays["step"][0], paths().step)
    assert len(arrays["connectivity"][1]) == 0


def test_lines_are_lines_and_heights_may_be_logarithms(tmp_path):
    alpha, loss = np.linspace(-1, 1, 3), np.array([[1.0, 10, 100], [NAN, 1, 1000]])
    sides = {"mean": loss.mean(0), "low": loss.min(0), "high": loss.max(0)}
    export(Lines(alpha=alpha, loss=loss, center=1.0, **sides), tmp_path / "a.vtp", log=True)
    _, arrays = parsed(tmp_path / "a.vtp")
    assert arrays["Points"][0][:, 2].tolist() == [0, 1, 2, 0, 0, 3]
    assert arrays["connectivity"][0].tolist() == [0, 1, 2, 4, 5]
    assert np.array_equal(arrays["loss"][0], loss.ravel(), equal_nan=True)
    line = Line(alpha=alpha, loss=loss[0], center=1.0)
    export(line, tmp_path / "b.vtp")
    assert parsed(tmp_path / "b.vtp")[1]["Points"][0][:, [0, 2]].tolist() == [
        [-1, 1], [0, 10], [1, 100]
    ]  # fmt: skip


def test_names_of_any_kind_leave_the_files_sound(tmp_path):
    names = ('a <&> "b" -- c --> d -', "\x00\x1b\n\u20ac-")
    surface = plane(directions=names, metrics=('<"&\x07>',), metric_values=plane().loss[None])
    for suffix in (".vti", ".vtr", ".vtp"):
        export(surface, tmp_path / f"a{suffix}")
        _, arrays = parsed(tmp_path / f"a{suffix}")
        assert '<"& >' in arrays


READ_BY_VTK = """
import sys, vtk
reader = {"vti": vtk.vtkXMLImageDataReader, "vtr": vtk.vtkXMLRectilinearGridReader,
          "vtp": vtk.vtkXMLPolyDataReader}[sys.argv[1][-3:]]()
errors = []
reader.AddObserver("ErrorEvent", lambda *_: errors.append(1))
reader.SetFileName(sys.argv[1])
reader.Update()
assert not errors
data = reader.GetOutput()
loss = data.GetPointData().GetScalars()
print(data.GetNumberOfPolys() if "vtp" in sys.argv[1] else data.GetNumberOfCells())
for i in range(data.GetNumberOfPoints()):
    print(*data.GetPoint(i), loss.GetTuple1(i))
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".vti", ".vtr", ".vtp"])
def test_vtk_itself_reads_the_same_numbers_at_the_same_places(tmp_path, suffix):
    pytest.importorskip("vtk", reason="VTK is large and needed for this check alone")
    surface = plane(holes=True)
    export(surface, tmp_path / f"a{suffix}")
    program = f"import sys; sys.path[:] = {sys.path!r}\n{READ_BY_VTK}"
    command = [sys.executable, "-c", program, str(tmp_path / f"a{suffix}")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, *lines = done.stdout.split("\n")[:-1]
    x, y, z, loss = np.array([line.split() for line in lines], float).T
    rows, columns = np.rint(x + 1).astype(int), np.rint(y).astype(int)
    assert len(set(zip(rows, columns, strict=True))) == 24
    assert np.array_equal(loss, surface.loss[rows, columns], equal_nan=True)
    if suffix == ".vtp":
        finite = np.isfinite(loss)
        assert np.array_equal(z[finite], loss[finite])
        assert np.isfinite(z).all() and int(count) == 2 * 15 - 2 - 6 - 2
    else:
        assert int(count) == 15


# ----------------------------------------------------------------------------------- CSV and NumPy


def test_a_table_has_one_row_for_each_cell_under_names_with_units(tmp_path):
    surface = measured(directions=("random, filter-normalised", ""))
    export(surface, tmp_path / "a.csv")
    head, *rows = csv.reader(io.StringIO((tmp_path / "a.csv").read_text()))
    assert head == ["alpha [multiples of random, filter-normalised]", "beta", "loss",
                    "standard_error", "accuracy", "gradient norm", "evaluated"]  # fmt: skip
    numbers = np.array([row[:6] for row in rows], dtype=float)
    i, j = np.divmod(np.arange(24), 6)
    assert np.array_equal(numbers[:, 0], surface.alpha[i])
    assert np.array_equal(numbers[:, 1], surface.beta[j])
    assert np.array_equal(numbers[:, 2], surface.loss[i, j])
    assert np.array_equal(numbers[:, 4], surface.metric_values[0, i, j])
    assert np.array_equal(numbers[:, 5], surface.metric_values[1, i, j])
    assert [row[6] for row in rows] == [str(v) for v in surface.evaluated[i, j]]


def test_a_metric_with_the_name_of_an_array_takes_the_place_of_none(tmp_path):
    names = ("loss", "evaluated", "finite", "alpha")
    values = np.stack([plane().loss * k for k in (2, 3, 4, 5)])
    surface = measured(metrics=names, metric_values=values)
    columns = table(surface)
    export(surface, tmp_path / "a.vti")
    _, arrays = parsed(tmp_path / "a.vti")
    assert np.array_equal(columns["loss"], surface.loss.ravel())
    assert np.array_equal(arrays["loss"][0], surface.loss.T.ravel())
    for k, name in enumerate(names, start=2):
        written = columns[f"metric {name}" if name != "finite" else name]
        assert np.array_equal(written, k * surface.loss.ravel())
        written = arrays[f"metric {name}" if name != "alpha" else name][0]
        assert np.array_equal(written, k * surface.loss.T.ravel())


def test_a_table_keeps_every_digit_and_what_is_not_finite(tmp_path):
    loss = np.array([0.1 + 0.2, NAN, np.inf, -np.inf, 5e-324])
    export(Line(alpha=np.arange(5.0), loss=loss, center=0.0), tmp_path / "a.csv")
    text = (tmp_path / "a.csv").read_text()
    assert text.startswith("alpha,loss\n0.0,0.30000000000000004\n1.0,nan\n2.0,inf\n3.0,-inf\n")
    read = np.genfromtxt(tmp_path / "a.csv", delimiter=",", names=True)
    assert np.array_equal(read["loss"], loss, equal_nan=True)


def test_arrays_over_a_short_further_axis_become_columns_and_long_ones_are_left_out():
    pair = np.arange(3.0)
    numbers = {"residuals": pair, "bounds": pair, "estimates": pair, "products": 3, "dim": 90}
    spectrum = Spectrum(eigenvalues=pair, converged=pair > 0, vectors=np.ones((3, 90)),
                        which="LM", tolerance=0.1, status="converged", **numbers)  # fmt: skip
    found = table(spectrum)
    assert list(found) == ["eigenvalues", "residuals", "bounds", "estimates", "converged"]
    loss = np.arange(6.0).reshape(2, 3)
    sides = {"mean": loss[0], "low": loss[0], "high": loss[1]}
    found = table(Lines(alpha=pair, loss=loss, center=0.0, **sides))
    assert list(found) == ["alpha", "loss[0]", "loss[1]", "mean", "low", "high"]
    assert np.array_equal(found["loss[1]"], loss[1])
    assert "explained" not in table(paths()) and list(table(paths()))[:2] == ["run", "step"]


@pytest.mark.parametrize("result", [measured(), plane(holes=True), paths()])
def test_an_archive_holds_every_array_without_pickle(tmp_path, result):
    export(result, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as read:
        attributes = json.loads(str(read["attributes"]))
        names = [name for name in vars(result) if isinstance(getattr(result, name), np.ndarray)]
        assert sorted(read) == sorted([*names, "attributes"])
        for name in names:
            assert np.array_equal(read[name], getattr(result, name), equal_nan=True)
    assert attributes["kind"] == type(result).__name__
    assert attributes["directions"] == ["u", "v"]
    export(result, tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


# --------------------------------------------------------------------------------------- bad input


def test_an_archive_takes_arrays_of_any_name(tmp_path):
    @dataclass(frozen=True, eq=False, kw_only=True)
    class Named(Result):
        file: np.ndarray = axes("n")
        attributes: np.ndarray = axes("n")
        kind: str = "mine"

    export(Named(file=np.arange(2), attributes=np.ones(2)), tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        assert found["file"].tolist() == [0, 1] and found["field attributes"].tolist() == [1, 1]
        texts = json.loads(str(found["attributes"]))
    assert (texts["kind"], texts["field kind"]) == ("Named", "mine")


def test_what_cannot_be_exported_is_refused_with_the_formats_there_are(tmp_path):
    known = r"the formats are \.vti, \.vtr, \.vtp, \.csv, \.npz, \.h5"
    for name in ("a.obj", "a.vti.gz"):
        with pytest.raises(ValueError, match=known):
            export(plane(), tmp_path / name)
    with pytest.raises(ValueError, match=f"'a name without suffix': {known}"):
        export(plane(), tmp_path / "a")
    with pytest.raises(ValueError, match=r"a \.vti file holds Surface, got Trajectory: .* \.npz"):
        export(paths(), tmp_path / "a.vti")
    with pytest.raises(ValueError, match=r"a \.h5 file holds Surface, Line, got Trajectory"):
        export(paths(), tmp_path / "a.h5")
    with pytest.raises(ValueError, match=r"log is the height of \.vtp files"):
        export(plane(), tmp_path / "a.vti", log=True)
    negative = Line(alpha=np.arange(2.0), loss=np.array([0.0, 1.0]), center=0.0)
    with pytest.raises(ValueError, match="the lowest loss is 0: a logarithm needs losses above 0"):
        export(negative, tmp_path / "a.vtp", log=True)
    with pytest.raises(OSError, match="could not write"):
        export(plane(), tmp_path / "missing" / "a.csv")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", FORMATS)
def test_suffixes_may_be_large_and_older_files_are_replaced_whole(tmp_path, suffix):
    path = tmp_path / f"a{suffix.upper()}"
    export(plane(5, 5), path)
    export(plane(), path)
    other = tmp_path / f"b{suffix}"
    export(plane(), other)
    assert path.read_bytes() == other.read_bytes() and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_surface_without_any_finite_loss_is_exported_too(tmp_path, suffix):
    export(plane(2, 3, center=NAN, metrics=("m",), metric_values=np.full((1, 2, 3), NAN)),
           tmp_path / f"a{suffix}")  # fmt: skip
    nothing = Surface(alpha=np.arange(2.0), beta=np.arange(3.0), loss=np.full((2, 3), NAN),
                      center=NAN)  # fmt: skip
    export(nothing, tmp_path / f"b{suffix}")
    assert (tmp_path / f"b{suffix}").stat().st_size > 100


@pytest.mark.parametrize("name", ["=1+1", "+a", "-b", "@c", "\td", "\re", "  =2"])
def test_a_name_that_a_spreadsheet_would_compute_is_marked_as_text(tmp_path, name):
    numbers = np.array([[[-1.5, 2.0], [-np.inf, np.nan]]])
    given = Surface(
        alpha=np.array([-1.0, 1.0]), beta=np.array([-2.0, 0.0]), loss=-numbers[0], center=0.0,
        metrics=(name,), metric_values=numbers,
    )  # fmt: skip
    export(given, tmp_path / "a.csv")
    with open(tmp_path / "a.csv", newline="") as file:
        head, *rows = csv.reader(file)
    assert head[-1] == f"'{name}".replace("\r", " ") and head[:2] == [
        "alpha [multiples of u]",
        "beta [multiples of v]",
    ]
    assert rows[0] == ["-1.0", "-2.0", "1.5", "-1.5"] and rows[2][-1] == "-inf"


def test_a_name_that_is_a_number_stays_one():
    assert [formats._cell(value) for value in ("-1.5", "+3", "-inf", -2.0, "a=b", "- 1")] == [
        "-1.5", "+3", "-inf", -2.0, "a=b", "'- 1"
    ]  # fmt: skip


# ------------------------------------------------------------------- the files of Li et al. (2018)


def original(path, x, y=None, cells=None, dir_file="weights_xignore=biasbn.h5"):
    """A surface file made as the original program makes one, step by step.

    It sets up the coordinates, fills loss and accuracy with -1, finds the coordinates of cell
    number k in a mesh of x and y, and puts loss and accuracy into entry k of the flattened arrays.
    """
    with h5py.File(path, "a") as file:
        file["dir_file"] = dir_file
        file["xcoordinates"] = x
        if y is not None:
            file["ycoordinates"] = y
        shape = x.shape if y is None else (len(x), len(y))
        losses, accuracies = -np.ones(shape=shape), -np.ones(shape=shape)
        file["train_loss"], file["train_acc"] = losses, accuracies
        if y is None:
            mesh = x, 0 * x
        else:
            mesh = np.meshgrid(x, y)
        for k in range(losses.size) if cells is None else cells:
            at = mesh[0].ravel()[k], mesh[1].ravel()[k]
            losses.ravel()[k], accuracies.ravel()[k] = code(*at), code(*at) / 10
        file["train_loss"][:], file["train_acc"][:] = losses, accuracies


@pytest.mark.parametrize(("rows", "columns"), [(5, 5), (3, 2), (4, 7), (2, 5)])
def test_a_surface_of_the_original_program_is_read_cell_for_cell(tmp_path, rows, columns):
    x, y = np.linspace(-1, 2, rows), np.linspace(0, 5, columns)
    original(tmp_path / "s.h5", x, y)
    found = classic.read_surface(tmp_path / "s.h5")
    assert isinstance(found, Surface)
    assert np.array_equal(found.alpha, x) and np.array_equal(found.beta, y)
    assert np.array_equal(found.loss, code(x[:, None], y))
    assert found.metrics == ("train_acc",)
    assert np.array_equal(found.metric_values[0], code(x[:, None], y) / 10)
    assert found.provenance["dir_file"] == "weights_xignore=biasbn.h5"
    assert found.provenance["undone"] == 0


def test_a_line_of_the_original_program_is_read_with_its_center(tmp_path):
    x = np.linspace(-1, 1, 5)
    original(tmp_path / "s.h5", x)
    found = classic.read_surface(tmp_path / "s.h5")
    assert isinstance(found, Line)
    assert np.array_equal(found.loss, code(x, 0)) and found.center == code(0, 0)
    accuracy = classic.read_surface(tmp_path / "s.h5", "train_acc")
    assert np.array_equal(accuracy.loss, code(x, 0) / 10)


def test_cells_that_were_not_computed_yet_are_not_finite(tmp_path):
    x, y = np.linspace(-1, 2, 3), np.linspace(0, 5, 4)
    original(tmp_path / "s.h5", x, y, cells=[0, 1, 2, 5])
    found = classic.read_surface(tmp_path / "s.h5")
    done = np.zeros((3, 4), bool)
    done[[0, 1, 2, 2], [0, 0, 0, 1]] = True
    assert np.array_equal(np.isfinite(found.loss), done)
    assert np.array_equal(np.isfinite(found.metric_values[0]), done)
    assert found.provenance["undone"] == 8 and np.isnan(found.center)


def test_a_computed_loss_of_minus_one_stays(tmp_path):
    x = np.array([0.0, 1.0])
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["xcoordinates"] = x
        file["train_loss"], file["train_acc"] = np.array([-1.0, -1.0]), np.array([50.0, -1.0])
        file["test_loss"] = np.array([2.0, -1.0])
    found = classic.read_surface(tmp_path / "s.h5")
    assert np.array_equal(found.loss, [-1, NAN], equal_nan=True)
    assert found.metrics == ("test_loss", "train_acc")
    assert np.array_equal(found.metric_values, [[2, NAN], [50, NAN]], equal_nan=True)


@pytest.mark.parametrize("surface", [measured(), plane(holes=True), plane(3, 3), plane(1, 4)])
def test_surfaces_survive_the_way_through_the_classic_layout(tmp_path, surface):
    export(surface, tmp_path / "s.h5")
    found = classic.read_surface(tmp_path / "s.h5")
    assert np.array_equal(found.alpha, surface.alpha) and np.array_equal(found.beta, surface.beta)
    assert np.array_equal(found.loss, surface.loss, equal_nan=True)
    if surface.metrics:
        assert found.metrics == ("gradient norm", "train_acc")
        assert np.array_equal(found.metric_values[0], surface.metric_values[1])
        np.testing.assert_allclose(found.metric_values[1], 100 * surface.metric_values[0])
    else:
        assert found.metrics == ()


def test_what_is_written_is_what_the_original_programs_expect(tmp_path):
    """Its drawing code meshes x and y as columns and rows; its resumption counts along the mesh."""
    surface = plane(metrics=("accuracy",), metric_values=plane().loss[None] / 200)
    classic.write_surface(surface, tmp_path / "s.h5", dir_file="d.h5")
    with h5py.File(tmp_path / "s.h5") as file:
        x, y = np.meshgrid(file["xcoordinates"][:], file["ycoordinates"][:])
        assert file["train_loss"].shape == x.shape
        assert np.array_equal(file["train_loss"][:], code(x, y))
        assert np.array_equal(file["train_loss"][:].ravel(), code(x.ravel(), y.ravel()))
        np.testing.assert_allclose(file["train_acc"][:], code(x, y) / 2)
        assert file["dir_file"][()] == b"d.h5"
    bare = Line(alpha=np.arange(3.0), loss=np.ones(3), center=1.0)
    classic.write_surface(bare, tmp_path / "l.h5")
    with h5py.File(tmp_path / "l.h5") as file:
        assert set(file) == {"dir_file", "xcoordinates", "train_loss", "train_acc"}
        assert (file["train_acc"][:] == -1).all()


def test_files_that_index_by_row_and_column_can_be_read_too(tmp_path):
    x, y = np.linspace(-1, 2, 3), np.linspace(0, 5, 4)
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["xcoordinates"], file["ycoordinates"] = x, y
        file["train_loss"] = code(x[:, None], y)
    found = classic.read_surface(tmp_path / "s.h5", order="ij")
    assert np.array_equal(found.loss, code(x[:, None], y))
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["xcoordinates"], file["ycoordinates"] = x, y
        file["train_loss"] = code(x[:, None], y).T
    with pytest.raises(DamagedFile, match=r"order='ij' needs \(3, 4\)"):
        classic.read_surface(tmp_path / "t.h5", order="ij")


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_order_of_cells_is_refused(tmp_path):
    with pytest.raises(ValueError, match="order must be classic or ij, got 'xy'"):
        classic.read_surface(tmp_path / "s.h5", order="xy")


def test_directions_are_lists_of_arrays_in_their_order(tmp_path):
    rng = np.random.default_rng(0)
    x = [rng.normal(size=shape).astype(np.float32) for shape in [(2, 3), (2,), (), *[(1,)] * 9]]
    with h5py.File(tmp_path / "d.h5", "w") as file:
        group = file.create_group("xdirection")
        for i, array in enumerate(x):
            group.create_dataset(str(i), data=array)
        file["explained_variance_ratio_"] = np.array([0.6, 0.3])
    found = classic.read_directions(tmp_path / "d.h5")
    assert list(found) == ["xdirection"]
    assert all(np.array_equal(a, b) for a, b in zip(found["xdirection"], x, strict=True))
    classic.write_directions(tmp_path / "e.h5", x, iter(x[::-1]))
    with h5py.File(tmp_path / "e.h5") as file:
        for name, wanted in (("xdirection", x), ("ydirection", x[::-1])):
            read = [file[name][str(i)][()] for i in range(len(file[name]))]
            assert all(np.array_equal(a, b) for a, b in zip(read, wanted, strict=True))
    again = classic.read_directions(tmp_path / "e.h5")
    assert list(again) == ["xdirection", "ydirection"] and len(again["ydirection"]) == 12


def test_a_direction_file_serves_the_network_that_it_was_made_for(tmp_path):
    torch = pytest.importorskip("torch")
    from landscape import directions
    from landscape.networks.layout import Layout

    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    layout = Layout.of(model)
    u = torch.arange(1.0, layout.dim + 1, device="cpu")
    classic.write_directions(tmp_path / "d.h5", layout.unflatten(u).values())
    (found,) = classic.read_directions(tmp_path / "d.h5").values()
    assert torch.equal(directions.given(layout, found), u)
    states = [t.numpy() for t in model.state_dict().values()]
    classic.write_directions(tmp_path / "s.h5", states)
    (found,) = classic.read_directions(tmp_path / "s.h5").values()
    with pytest.raises(ValueError, match="of a state dict with buffers"):
        directions.given(layout, found)
    named = dict(zip(model.state_dict(), found, strict=True))
    flat = directions.given(layout, named, drop=dict(model.named_buffers()))
    assert torch.equal(flat, layout.flatten(dict(model.named_parameters())))


def projected(path, x, y):
    """A projection file made as the original program makes one."""
    with h5py.File(path, "w") as file:
        file["proj_xcoord"], file["proj_ycoord"] = np.array(x), np.array(y)


def test_the_path_of_a_projection_file_is_read_and_what_it_does_not_say_is_unknown(tmp_path):
    x, y = [3.0, 1.5, 0.0], [-1.0, 2.0, 0.0]
    projected(tmp_path / "directions.h5_proj_cos.h5", x, y)
    found = classic.read_trajectory(tmp_path / "directions.h5_proj_cos.h5")
    assert found.alpha.tolist() == x and found.beta.tolist() == y
    assert found.step.tolist() == [0, 1, 2] and found.run.tolist() == [0, 0, 0]
    assert found.labels == ("directions.h5_proj_cos",)
    unknown = found.loss, found.distance, found.relative, found.explained
    assert all(np.isnan(values).all() for values in unknown)
    assert classic.read_trajectory(tmp_path / "directions.h5_proj_cos.h5", label="sgd").labels == (
        "sgd",
    )
    for suffix in (".csv", ".npz", ".vtp"):
        export(found, tmp_path / f"a{suffix}")
    assert figures_of(found)["paths"].axes


@pytest.mark.parametrize(
    ("x", "y"), [([1.0, 2.0], [1.0]), ([], []), (1.0, 2.0), ([[1.0]], [[1.0]])]
)
def test_a_file_without_a_path_is_refused(tmp_path, x, y):
    projected(tmp_path / "p.h5", x, y)
    with pytest.raises(DamagedFile, match="needs lists proj_xcoord and proj_ycoord of one length"):
        classic.read_trajectory(tmp_path / "p.h5")
    classic.write_directions(tmp_path / "d.h5", [np.ones(2)])
    with pytest.raises(DamagedFile, match=r"and it has \{'xdirection/0': \(2,\)\}"):
        classic.read_trajectory(tmp_path / "d.h5")


def hostile(kind, path, other):
    """A surface file with something in it that must not be followed or believed."""
    original(path, np.linspace(0, 1, 3), np.linspace(0, 1, 3))
    with h5py.File(path, "a") as file:
        del file["train_acc"]
        if kind == "external link":
            file["train_acc"] = h5py.ExternalLink(str(other), "/secret")
        elif kind == "soft link":
            file["train_acc"] = h5py.SoftLink("/train_loss")
        elif kind == "external storage":
            file.create_dataset("train_acc", (3, 3), "f8", external=[(str(other), 0, 72)])
        elif kind == "terabytes":
            file.create_dataset("train_acc", (1 << 20, 1 << 20), "f8")
        elif kind == "texts":
            del file["dir_file"]
            file["dir_file"] = np.array([b"a", b"b"])
        elif kind == "external text":
            del file["dir_file"]
            plan, text = h5py.h5p.create(h5py.h5p.DATASET_CREATE), h5py.h5t.C_S1.copy()
            plan.set_external(str(other).encode(), 0, 72)
            text.set_size(72)
            single = h5py.h5s.create(h5py.h5s.SCALAR)
            h5py.h5d.create(file.id, b"dir_file", text, single, dcpl=plan)
        elif kind == "object":
            file.create_dataset("train_acc", (3,), h5py.string_dtype())


@pytest.mark.parametrize(("kind", "reason"), [
    ("external link", "'train_acc' is a soft or external link"),
    ("soft link", "'train_acc' is a soft or external link"),
    ("external storage", "'train_acc' has external storage"),
    ("terabytes", "arrays declare|declares 8796093022208 bytes"),
    ("texts", "dir_file is not a single text"),
    ("external text", "dir_file is not a single text"),
    ("object", "'train_acc' has a type other than bool"),
])  # fmt: skip
def test_hostile_files_are_refused(tmp_path, kind, reason):
    (tmp_path / "other.h5").write_bytes(b"\x89HDF\r\n\x1a\nsecret" * 20)
    hostile(kind, tmp_path / "s.h5", tmp_path / "other.h5")
    for read in (classic.read_surface, classic.read_directions, classic.read_trajectory):
        with pytest.raises(DamagedFile, match=reason):
            read(tmp_path / "s.h5")


@pytest.mark.parametrize("length", [0xFFFFFFF0, 0x7FFFFFFF, 1 << 14, 1000])
def test_a_text_of_a_length_that_is_a_lie_is_refused_before_it_is_read(tmp_path, length):
    path = tmp_path / "s.h5"
    original(path, np.linspace(-1, 1, 3), np.linspace(-1, 1, 5), dir_file="D" * 37)
    assert classic.read_surface(path).provenance["dir_file"] == "D" * 37
    data = path.read_bytes()
    place = data.index(struct.pack("<I", 37))
    path.write_bytes(data[:place] + struct.pack("<I", length) + data[place + 4 :])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 29), limits[1]))
    try:
        with pytest.raises(DamagedFile, match="dir_file says that it has|global heap"):
            classic.read_surface(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize(("x", "said"), [
    (np.array([3, 2, 4], dtype=np.uint8), "increasing numbers, got \\[3, 2, 4\\]"),
    (np.array([-(2**63), 2**63 - 1, 0]), "increasing numbers"),
    (np.array([2**53, 2**53 + 1, 2**53 + 2]), "increasing numbers"),
    (np.array([0.0, np.nan, 1.0]), "finite numbers, got \\[0.0, nan, 1.0\\]"),
    (np.array([0.0, 1.0, np.inf]), "finite numbers"),
    (np.array([False, True]), "xcoordinates must be numbers, got true and false"),
    (np.zeros((2, 2)), "finite numbers, got the shape \\(2, 2\\)"),
    (np.zeros(0), "finite numbers, got \\[\\]"),
])  # fmt: skip
def test_coordinates_that_are_no_increasing_finite_numbers_are_refused(tmp_path, x, said):
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["xcoordinates"], file["train_loss"] = x, np.zeros(len(x))
    with pytest.raises(DamagedFile, match=said):
        classic.read_surface(tmp_path / "s.h5")


def test_coordinates_of_any_type_are_read_without_overflow(tmp_path):
    for dtype, x in (("int8", [-128, 127]), ("uint64", [0, 2**64 - 1]), ("int64", [-(2**63), 9])):
        with h5py.File(tmp_path / "s.h5", "w") as file:
            file["xcoordinates"] = np.array(x, dtype=dtype)
            file["train_loss"] = np.array([3, 255], dtype="uint8")
        found = classic.read_surface(tmp_path / "s.h5")
        assert found.alpha.tolist() == [float(x[0]), float(x[1])]
        assert found.loss.tolist() == [3.0, 255.0]


def test_a_path_that_is_not_finite_and_losses_that_are_no_numbers_are_refused(tmp_path):
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["proj_xcoord"], file["proj_ycoord"] = [0.0, np.inf], [0.0, 1.0]
        file["xcoordinates"], file["train_loss"] = [0.0, 1.0], [True, False]
    with pytest.raises(DamagedFile, match="proj_xcoord and proj_ycoord hold numbers that are not"):
        classic.read_trajectory(tmp_path / "p.h5")
    with pytest.raises(DamagedFile, match="train_loss must be numbers"):
        classic.read_surface(tmp_path / "p.h5")


def test_the_command_exports_what_the_original_programs_wrote(tmp_path, capsys):
    from cnognp.cli.main import main

    here = [str(tmp_path / name) for name in ("a.h5", "classic.h5", "again.vtp", "b.h5", "b.csv")]
    save(plane(), here[0])
    for source, target in ((0, 1), (1, 2), (1, 3), (3, 4)):
        assert main(["export", here[source], here[target]]) == 0, capsys.readouterr().err
    found = classic.read_surface(here[3])
    np.testing.assert_array_equal(found.loss, plane().loss)
    with h5py.File(here[1], "w") as file:
        file["proj_xcoord"], file["proj_ycoord"] = [0.0, 1.0], [0.0, 1.0]
    assert main(["export", here[1], here[2]]) == 0
    with h5py.File(here[1], "w") as file:
        file["xdirection/0"] = np.zeros(3)
    capsys.readouterr()
    assert main(["export", here[1], here[2]]) == 3
    assert "Traceback" not in capsys.readouterr().err


def test_damaged_files_and_those_of_another_kind_are_refused(tmp_path):
    original(tmp_path / "s.h5", np.linspace(0, 1, 3), np.linspace(0, 1, 4))
    whole = (tmp_path / "s.h5").read_bytes()
    for length in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "t.h5").write_bytes(whole[:length])
        with pytest.raises(DamagedFile):
            classic.read_surface(tmp_path / "t.h5")
    with pytest.raises(DamagedFile, match="it holds no xdirection, only .*train_acc"):
        classic.read_directions(tmp_path / "s.h5")
    with pytest.raises(DamagedFile, match="needs xcoordinates and test_loss, and it has"):
        classic.read_surface(tmp_path / "s.h5", "test_loss")
    classic.write_directions(tmp_path / "d.h5", [np.ones(2)])
    with pytest.raises(DamagedFile, match=r"needs xcoordinates and train_loss, and it has \[\]"):
        classic.read_surface(tmp_path / "d.h5")
    with h5py.File(tmp_path / "d.h5", "a") as file:
        file["xdirection"].move("0", "1")
    with pytest.raises(DamagedFile, match="the tensors of xdirection are not numbered from 0 on"):
        classic.read_directions(tmp_path / "d.h5")
    with h5py.File(tmp_path / "s.h5", "a") as file:
        file["xcoordinates"][:] = [0, 1, 1]
    with pytest.raises(DamagedFile, match="xcoordinates must be a list of increasing numbers"):
        classic.read_surface(tmp_path / "s.h5")
    with pytest.raises(FileNotFoundError, match="nothing.h5"):
        classic.read_surface(tmp_path / "nothing.h5")


def test_exchange_needs_no_torch():
    program = "import sys, landscape.exchange\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
