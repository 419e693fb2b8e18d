"""Hostile HDF5 files: each claims something that it does not store, or points elsewhere."""

import itertools
import zlib

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t

from landscape.files import DamagedFile, declarations, hdf5


def external_link(file):
    file["x"] = h5py.ExternalLink("secret.h5", "/x")


def soft_link(file):
    file["real"] = np.zeros(3)
    file["x"] = h5py.SoftLink("/real")


def soft_link_in_the_middle(file):
    file["real/best"] = np.zeros(3)
    file["state"] = h5py.SoftLink("/real")


def external_link_in_the_middle(file):
    file.create_group("state")["deep"] = h5py.ExternalLink("secret.h5", "/")


def external_storage(file):
    file.create_dataset("x", (8,), "u1", external=[("secret.h5", 0, 8)])


def virtual(file):
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource("secret.h5", "x", (3,))
    file.create_virtual_dataset("x", layout)


def terabytes(file):
    file.create_dataset("x", (250, 10**9), "f8")


def nothing_stored(file):
    file.create_dataset("x", (1000,), "f8")


def no_chunk_stored(file):
    file.create_dataset("x", (1000,), "f8", chunks=(100,), fletcher32=True)


def one_chunk_missing(file):
    file.create_dataset("x", (1000,), "f8", chunks=(100,))[:900] = 1


def resizable_and_never_filled(file):
    file.create_dataset("x", (10,), "f8", maxshape=(None,), chunks=(10,))[:] = 1
    file["x"].resize((10**7,))


def huge_chunk(file):
    file.create_dataset("x", (10,), "f8", maxshape=(None,), chunks=(5 * 10**8,), compression=1)


def bomb(file):
    shape = (declarations.COMPRESSED_BYTES + 1,)
    file.create_dataset("x", shape, "u1", chunks=(2**22,), compression="gzip")[:] = 0


def many_small_bombs(file):
    zeros = np.zeros(2**20, "u1")
    for index in range(65):
        file.create_dataset(f"x{index}", data=zeros, compression="gzip", chunks=zeros.shape)


def chunk_of(length, mask=0, **options):
    def build(file):
        file.create_dataset("x", (10,), "u1", chunks=(10,), **options)
        content = b"\1" * length
        content = zlib.compress(content) if "compression" in options else content
        file["x"].id.write_direct_chunk((0,), content, filter_mask=mask)

    return build


def chunk_that_is_not_deflated(file):
    file.create_dataset("x", (10,), "u1", chunks=(10,), compression="gzip")
    file["x"].id.write_direct_chunk((0,), b"not deflated")


def deflated_twice(file):
    plan = h5p.create(h5p.DATASET_CREATE)
    plan.set_chunk((10,))
    plan.set_deflate(9)
    plan.set_deflate(9)
    h5d.create(file.id, b"x", h5t.NATIVE_DOUBLE, h5s.create_simple((10,)), dcpl=plan)


def one_array_under_many_names(file):
    file["x"] = np.zeros(10**5)
    for index in range(9):
        file[f"x{index}"] = file["x"]


def a_group_within_itself(file):
    file["g/g"] = file.create_group("g")


def deep_groups(file):
    file["/".join("abcdefghi")] = 1.0


def many_members(file):
    file.create_dataset("x", (0,), "f8")
    for index in range(declarations.MEMBERS):
        file.id.links.create_hard(str(index).encode(), file.id, b"x")


def named_type(file):
    file["x"] = np.dtype("f8")


def no_extent(file):
    file["x"] = h5py.Empty("f8")


def array_of(dtype):
    def build(file):
        file.create_dataset("x", (3,), dtype)

    return build


def many_attributes(file):
    for index in range(declarations.ATTRIBUTES + 1):
        file.attrs[str(index)] = np.bytes_(b"1")


def attribute(value):
    def build(file):
        file.attrs["a"] = value

    return build


HALF = np.bytes_(b'"' + b"x" * (declarations.ATTRIBUTE_BYTES // 2) + b'"')
FILES = [
    (external_link, "'x' is a soft or external link"),
    (soft_link, "'x' is a soft or external link"),
    (soft_link_in_the_middle, "'state' is a soft or external link"),
    (external_link_in_the_middle, "'state/deep' is a soft or external link"),
    (external_storage, "'x' has external storage"),
    (virtual, "'x' is virtual"),
    (terabytes, "declare 2000000000000 bytes and the budget is 4294967296"),
    (nothing_stored, "'x' declares 8000 bytes and has 0"),
    (no_chunk_stored, "'x' declares 10 chunks and stores 0"),
    (one_chunk_missing, "'x' declares 10 chunks and stores 9"),
    (resizable_and_never_filled, "'x' declares 1000000 chunks and stores 1"),
    (huge_chunk, "'x' declares 1 chunks and stores 0|declare 4000000000 bytes|100-fold"),
    (bomb, "swell more than 100-fold to"),
    (many_small_bombs, "swell more than 100-fold to 68157440"),
    (chunk_of(10**7, compression="gzip"), "a chunk of 'x' does not hold the declared 10"),
    (chunk_of(11, compression="gzip"), "a chunk of 'x' does not hold the declared 10"),
    (chunk_of(9, compression="gzip"), "a chunk of 'x' does not hold the declared 10"),
    (chunk_of(10, mask=1, compression="gzip"), "a chunk of 'x' does not hold the declared 10"),
    (chunk_of(10, fletcher32=True), "a chunk of 'x' does not hold the declared 10"),
    (chunk_of(14, fletcher32=True), "the data of 'x' are damaged"),
    (chunk_that_is_not_deflated, "a chunk of 'x' does not hold the declared 10"),
    (deflated_twice, r"'x' has filters \[1, 1\]"),
    (
        lambda file: file.create_dataset("x", (9,), "f8", compression="lzf"),
        r"'x' has filters \[32000\]",
    ),
    (lambda file: file.create_dataset("x", (9,), "i4", scaleoffset=3), r"'x' has filters \[6\]"),
    (one_array_under_many_names, "claims 8000000 stored bytes, but has only"),
    (a_group_within_itself, "more than 4096 members or 8 levels"),
    (deep_groups, "more than 4096 members or 8 levels"),
    (many_members, "more than 4096 members or 8 levels"),
    (named_type, "'x' is neither an array nor a group"),
    (no_extent, "'x' has no extent"),
    (array_of(h5py.string_dtype()), "'x' has a type other than"),
    (array_of(h5py.vlen_dtype(np.float64)), "'x' has a type other than"),
    (array_of(h5py.ref_dtype), "'x' has a type other than"),
    (array_of([("a", "f8"), ("b", "i4")]), "'x' has a type other than"),
    (array_of(("f8", (2,))), "'x' has a type other than|'x' declares"),
    (array_of("S8"), "'x' has a type other than"),
    (array_of("c16"), "'x' has a type other than"),
    (array_of(np.longdouble), "'x' has a type other than"),
    (array_of(h5py.enum_dtype({"A": 0, "B": 1})), "'x' has a type other than"),
    (array_of(h5py.opaque_dtype(np.dtype("M8[s]"))), "'x' has a type other than"),
    (many_attributes, "257 attributes, at most 256"),
    (attribute("variable"), "'a' is not text of fixed length"),
    (attribute(1.5), "'a' is not text of fixed length"),
    (attribute(np.array([b"1", b"2"])), "'a' is not a single text"),
    (attribute(np.bytes_(b"{'a': 1}")), "'a' is not JSON"),
    (attribute(np.bytes_("é".encode())), "'a' is not JSON"),
    (attribute(np.bytes_(b"[" * 200_000)), "'a' is not JSON"),
    (
        attribute(np.bytes_(b"1" * (declarations.ATTRIBUTE_BYTES + 1))),
        "attributes have more than 1048576",
    ),
    (lambda file: file.attrs.update(a=HALF, b=HALF), "attributes have more than 1048576"),
]


def label(build):
    return build.__name__ if callable(build) else None


@pytest.mark.parametrize("libver", ["earliest", "v110"])
@pytest.mark.parametrize(("build", "message"), FILES, ids=label)
def test_a_hostile_file_is_refused_with_the_reason(tmp_path, monkeypatch, build, message, libver):
    hdf5.write(tmp_path / "secret.h5", {"x": np.arange(3.0)}, {})
    monkeypatch.chdir(tmp_path)
    try:
        with h5py.File("a.h5", "w", libver=(libver, "v110")) as file:
            build(file)
    except (RuntimeError, OSError) as error:
        if "message is too large" not in str(error):
            raise
        pytest.skip("the old format has no attributes of this size")
    with pytest.raises(DamagedFile, match=f"a.h5 cannot be read: .*({message})"):
        hdf5.read("a.h5")


def test_a_chunk_counts_in_full_even_where_it_is_larger_than_its_array(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        options = {"maxshape": (None,), "chunks": (10**6,), "compression": "gzip"}
        file.create_dataset("x", (10,), "u1", **options)[:] = 1
    assert hdf5.read(tmp_path / "a.h5", budget=10**6)[0]["x"].sum() == 10
    with pytest.raises(DamagedFile, match="declare 1000000 bytes and the budget is 999999"):
        hdf5.read(tmp_path / "a.h5", budget=10**6 - 1)


def test_the_same_files_without_malice_are_read(tmp_path):
    """The hostile ones are refused for what they do, not for being written by h5py itself."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.arange(3.0)
        file["g/y"] = np.arange(4, dtype=">i4")
        file["b"] = np.array([True, False])
        file.create_dataset("z", data=np.zeros(1000), compression="gzip", fletcher32=True)
        file.create_dataset("w", data=np.ones((5, 7)), chunks=(2, 2), shuffle=True)
        file.attrs["a"] = np.bytes_(b"[1, 2]")
    arrays, attributes = hdf5.read(tmp_path / "a.h5")
    assert attributes == {"a": [1, 2]}
    assert {name: array.dtype.str[1:] for name, array in arrays.items()} == {
        "x": "f8", "g/y": "i4", "b": "b1", "z": "f8", "w": "f8",
    }  # fmt: skip
    assert arrays["g/y"].tolist() == [0, 1, 2, 3]
    assert arrays["w"].sum() == 35


def test_a_checksum_before_or_after_the_deflation_is_understood(tmp_path):
    for first, checksum in itertools.product([True, False], [True, False]):
        plan = h5p.create(h5p.DATASET_CREATE)
        plan.set_chunk((10,))
        for name in ["fletcher32", "shuffle"] if first else ["shuffle"]:
            getattr(plan, f"set_{name}")()
        plan.set_deflate(6)
        if checksum and not first:
            plan.set_fletcher32()
        with h5py.File(tmp_path / "a.h5", "w") as file:
            space = h5s.create_simple((25,))
            made = h5d.create(file.id, b"x", h5t.NATIVE_DOUBLE, space, dcpl=plan)
            made.write(h5s.ALL, h5s.ALL, np.arange(25.0))
        assert hdf5.read(tmp_path / "a.h5")[0]["x"].tolist() == list(range(25))
