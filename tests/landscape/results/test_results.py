"""Results: what they refuse at construction, and that a file gives back what went into it."""

import dataclasses
import importlib
import json
import pkgutil
import sys
from dataclasses import dataclass

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from landscape import results
from landscape.files import DamagedFile, hdf5
from landscape.results import (
    Gradients,
    History,
    Line,
    Result,
    Spectrum,
    Stationary,
    Surface,
    axes,
    load,
    provenance,
    save,
)

KINDS = [Line, Surface, Spectrum, Gradients, History, Stationary]
real = st.one_of(st.floats(), st.sampled_from([float("nan"), float("inf"), -0.0]))
text = st.text(max_size=6)
jsonable = st.dictionaries(text, st.one_of(st.none(), st.integers(), real, text, st.lists(real)))
SCALARS = {int: st.integers(), float: real, str: text, bool: st.booleans(), dict: jsonable}

TUPLES = {
    tuple[str, str]: st.tuples(text, text),
    tuple[str, ...]: st.lists(text).map(tuple),
}


@st.composite
def contents(draw, kinds=KINDS):
    """A kind of result and fields for it, with any lengths of its axes, zero included."""
    cls = draw(st.sampled_from(kinds))
    lengths, entries = {}, {}
    for entry in dataclasses.fields(cls):
        if "axes" not in entry.metadata:
            entries[entry.name] = draw({**SCALARS, **TUPLES}[entry.type])
            continue
        shape = []
        for name in entry.metadata["axes"]:
            if name not in lengths:
                lengths[name] = draw(st.integers(0, 3))
            shape.append(lengths[name])
        if entry.default is None and draw(st.booleans()):
            continue
        dtype = draw(st.sampled_from(["f8", "f4", "f2", "i8", "u1", "?"]))
        entries[entry.name] = draw(hnp.arrays(dtype, tuple(shape)))
    return cls, entries


def assert_same(ours, theirs):
    assert type(ours) is type(theirs)
    for entry in dataclasses.fields(ours):
        one, two = getattr(ours, entry.name), getattr(theirs, entry.name)
        if "axes" not in entry.metadata or one is None:
            assert type(one) is type(two)
            # Unlike ==, text takes NaN for equal and tells 0.0 from -0.0.
            sort = isinstance(one, dict)
            assert json.dumps(one, sort_keys=sort) == json.dumps(two, sort_keys=sort)
        else:
            assert (one.dtype, one.shape, one.tobytes()) == (two.dtype, two.shape, two.tobytes())


def surface(kind=Surface, **changes):
    entries = {"alpha": np.zeros(2), "beta": np.zeros(3), "loss": np.zeros((2, 3)), "center": 0.5}
    return kind(**{**entries, **changes})


@dataclass(frozen=True, eq=False, kw_only=True)
class Sheet(Result):
    """A surface of our own: the types of its arguments are checked by `Result` alone."""

    alpha: np.ndarray = axes("alpha")
    beta: np.ndarray = axes("beta")
    loss: np.ndarray = axes("alpha", "beta")
    center: float
    count: int = 1
    whole: bool = True
    directions: tuple[str, str] = ("u", "v")
    names: tuple[str, ...] = ()
    statistics: str = ""


@settings(max_examples=80, deadline=None)
@given(contents())
def test_what_is_saved_is_loaded_field_by_field(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "a.h5"
    kind, entries = content
    result = kind(**entries)
    save(result, path)
    assert_same(result, load(path))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_each_kind_is_saved_and_loaded(tmp_path_factory, kind, data):
    path = tmp_path_factory.mktemp("each") / "a.h5"
    _, entries = data.draw(contents([kind]))
    result = kind(**entries)
    save(result, path)
    assert_same(result, load(path))


def test_a_file_says_its_kind_schema_and_axes_to_any_reader(tmp_path):
    save(surface(provenance={"seed": 3}), tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        told = {name: json.loads(file.attrs[name]) for name in file.attrs}
        assert file["loss"].shape == (2, 3)
    assert told == {
        "kind": "Surface",
        "schema": 1,
        "axes": {"alpha": ["alpha"], "beta": ["beta"], "loss": ["alpha", "beta"]},
        "center": 0.5,
        "directions": ["u", "v"],
        "statistics": "",
        "metrics": [],
        "interpolation_error": 0.0,
        "provenance": {"seed": 3},
    }


@pytest.mark.parametrize("loaded", [False, True])
def test_nobody_can_change_a_result(tmp_path, loaded):
    loss = np.zeros((2, 3))
    result = surface(loss=loss)
    loss[0, 0] = 7
    if loaded:
        save(result, tmp_path / "a.h5")
        result = load(tmp_path / "a.h5")
    assert result.loss[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        result.loss[0, 0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError, match="center"):
        result.center = 1.0


def test_a_view_of_an_array_that_can_change_is_copied():
    base = np.zeros((2, 3))
    view = base[:]
    view.setflags(write=False)
    result = surface(loss=view)
    base[0, 0] = 7
    assert result.loss[0, 0] == 0


def test_a_read_only_array_of_its_own_is_not_copied():
    loss = np.zeros((2, 3))
    loss.setflags(write=False)
    assert surface(loss=loss).loss is loss


def test_the_caller_keeps_arrays_and_dictionaries_that_can_be_written():
    loss, notes = np.zeros((2, 3)), {"steps": (1, np.int64(2))}
    result = surface(loss=loss, provenance=notes)
    notes["steps"] = None
    loss[0, 0] = 1
    assert result.provenance == {"steps": [1, 2]}


def test_lists_and_numpy_scalars_become_what_the_fields_declare():
    result = surface(
        Sheet, alpha=[0, 1], center=np.float32(0.5), count=np.int64(2), whole=np.bool_(False),
        directions=["a", "b"], names=("a",),
    )  # fmt: skip
    assert result.alpha.tolist() == [0, 1]
    assert repr((result.center, result.count, result.whole)) == "(0.5, 2, False)"
    assert (result.directions, result.names) == (("a", "b"), ("a",))
    assert type(surface(Sheet, center=1).center) is float


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"loss": np.zeros(2)}, ValueError, r"loss must have the axes \('alpha', 'beta'\), got"),
        ({"loss": np.zeros((3, 2))}, ValueError, "axis 'alpha' has length 2 in Sheet.alpha and 3"),
        ({"beta": np.zeros(4)}, ValueError, "length 4 in Sheet.beta and 3 in Sheet.loss"),
        ({"loss": np.array([["a"] * 3] * 2)}, TypeError, "'Sheet.loss' must be bool"),
        ({"loss": None}, TypeError, "'Sheet.loss' must be bool"),
        ({"loss": np.zeros((2, 3), complex)}, TypeError, "'Sheet.loss' .* got complex128"),
        ({"center": "low"}, TypeError, "Sheet.center must be float, got 'low'"),
        ({"center": True}, TypeError, "Sheet.center must be float, got True"),
        ({"count": 1.0}, TypeError, "Sheet.count must be int, got 1.0"),
        ({"count": True}, TypeError, "Sheet.count must be int, got True"),
        ({"whole": 1}, TypeError, "Sheet.whole must be bool, got 1"),
        ({"statistics": 1}, TypeError, "Sheet.statistics must be str, got 1"),
        ({"directions": ("u",)}, TypeError, r"directions must be tuple\[str, str\], got \('u',\)"),
        ({"directions": "uv"}, TypeError, r"directions must be tuple\[str, str\], got 'uv'"),
        ({"names": (1, 2)}, TypeError, r"names must be tuple\[str, \.\.\.\], got \(1, 2\)"),
        ({"provenance": {"a": object()}}, TypeError, "'Sheet.provenance' must be .*got object"),
        ({"provenance": [1]}, TypeError, "Sheet.provenance must be dict, got"),
        ({"gamma": 1}, TypeError, "gamma"),
    ],
)
def test_a_result_that_contradicts_its_declaration_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        surface(Sheet, **changes)


def rewritten(path, change):
    """The saved surface, with its arrays and attributes changed and written anew."""
    save(surface(), path)
    arrays, attributes = hdf5.read(path)
    change(arrays, attributes)
    hdf5.write(path, arrays, attributes)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, t: t.update(schema=2), "schema 2 and this version knows up to 1: update"),
        (
            lambda a, t: t.update(kind="Torus"),
            "holds a 'Torus', and the kinds known here are .*Line",
        ),
        (lambda a, t: t.pop("kind"), "holds no result"),
        (lambda a, t: t.update(kind=["Line"]), "holds no result"),
        (lambda a, t: t.pop("schema"), "holds no result"),
        (lambda a, t: t.pop("axes"), "a Surface has the axes"),
        (lambda a, t: t["axes"].update(loss=["beta", "alpha"]), "a Surface has the axes"),
        (lambda a, t: (a.pop("beta"), t["axes"].pop("beta")), r"are missing: \['beta'\]"),
        (lambda a, t: t.pop("center"), r"fields of Surface are missing: \['center'\]"),
        (lambda a, t: t.update(gamma=1), r"Surface does not have, or twice: \['gamma'\]"),
        (lambda a, t: t.update(loss=1), r"Surface does not have, or twice: \['loss'\]"),
        (lambda a, t: a.update(loss=np.zeros(2)), "loss must have the axes"),
        (lambda a, t: a.update(alpha=np.zeros(4)), "axis 'alpha' has length 4"),
        (lambda a, t: t.update(center="low"), "Surface.center must be float"),
        (lambda a, t: t.update(kind="Result"), "holds a 'Result'"),
    ],
)
def test_a_file_that_holds_something_else_is_refused_with_the_reason(tmp_path, change, message):
    path = rewritten(tmp_path / "a.h5", change)
    with pytest.raises(DamagedFile, match=rf"a\.h5 cannot be read: .*{message}"):
        load(path)


def test_a_flipped_bit_in_the_data_is_refused(tmp_path):
    path = tmp_path / "a.h5"
    loss = np.full((2, 3), 1.5)
    save(surface(loss=loss), path)
    content = path.read_bytes()
    place = content.index(loss.tobytes())
    path.write_bytes(content[:place] + b"\1" + content[place + 1 :])
    with pytest.raises(DamagedFile, match="the data of 'loss' are damaged"):
        load(path)


def test_a_result_of_somebody_elses_is_saved_and_loaded_too(tmp_path):
    @dataclass(frozen=True, eq=False, kw_only=True)
    class Barrier(Result):
        height: np.ndarray = axes("pair")

    save(Barrier(height=np.arange(3.0)), tmp_path / "a.h5")
    assert load(tmp_path / "a.h5").height.tolist() == [0, 1, 2]


def test_fields_with_the_names_of_what_a_file_says_of_itself_come_back(tmp_path):
    @dataclass(frozen=True, eq=False, kw_only=True)
    class Worded(Result):
        height: np.ndarray = axes("pair")
        kind: str = "steep"
        schema: int = 7
        axes: tuple[str, ...] = ("a", "b")

    save(Worded(height=np.arange(3.0)), tmp_path / "a.h5")
    found = load(tmp_path / "a.h5")
    assert (found.kind, found.schema, found.axes) == ("steep", 7, ("a", "b"))
    assert found.height.tolist() == [0, 1, 2]
    _, attributes = hdf5.read(tmp_path / "a.h5")
    assert (attributes["kind"], attributes["schema"]) == ("Worded", 1)


def test_arrays_of_such_names_come_back_from_files_of_any_age(tmp_path):
    @dataclass(frozen=True, eq=False, kw_only=True)
    class Arrayed(Result):
        kind: np.ndarray = axes("n")
        schema: np.ndarray = axes("n")

    arrays = {"kind": np.arange(2), "schema": np.ones(2)}
    save(Arrayed(**arrays), tmp_path / "new.h5")
    before = {
        "kind": "Arrayed", "schema": 1, "axes": {"kind": ["n"], "schema": ["n"]}, "provenance": {},
    }  # fmt: skip
    hdf5.write(tmp_path / "old.h5", arrays, before)
    for name in ("new.h5", "old.h5"):
        found = load(tmp_path / name)
        assert found.kind.tolist() == [0, 1] and found.schema.tolist() == [1.0, 1.0]


def test_provenance_names_the_versions_and_the_time_and_knows_torch_only_if_it_is_there(
    monkeypatch,
):
    entries = provenance(seed=3, data="abc")
    assert (entries["seed"], entries["data"]) == (3, "abc")
    assert entries["versions"]["numpy"] == np.__version__
    assert entries["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert entries["created"].endswith("+00:00")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert "torch" not in provenance()["versions"]


def test_the_module_offers_every_kind():
    assert {kind.__name__ for kind in KINDS} < set(results.__all__)
    assert results.load is load


def test_no_two_kinds_have_one_name():
    """A file names its kind by its class alone."""
    found = []
    for module in pkgutil.iter_modules(results.__path__, "landscape.results."):
        own = vars(importlib.import_module(module.name)).values()
        found += [
            cls.__name__ for cls in own
            if isinstance(cls, type) and issubclass(cls, Result) and cls.__module__ == module.name
        ]  # fmt: skip
    assert len(found) > 30 and len(set(found)) == len(found)
