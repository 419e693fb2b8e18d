"""Whole files: replaced at once or not at all, and known again by their digest."""

import errno
import hashlib
import os
import pickle
from pathlib import Path

import pytest

from landscape.files import DamagedFile, check_writable, replacing, sidecar, temporaries, verify


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_replaced_file_has_the_new_content_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["run.yaml"]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_while_writing_leaves_the_older_file_and_no_other(tmp_path, error):
    path = tmp_path / "run.yaml"
    path.write_text("old")
    with pytest.raises(error, match="halfway"):
        with replacing(path) as temporary:
            temporary.write_text("new")
            raise error("halfway")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["run.yaml"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_refuses_is_named_with_the_file_and_what_to_do(tmp_path, monkeypatch, step):
    path = tmp_path / "run.yaml"
    path.write_text("old")

    def refuse(*args):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, step, refuse)
    with pytest.raises(OSError, match=r"could not write .*run\.yaml: Input/output .* try again"):
        with replacing(path) as temporary:
            temporary.write_text("new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["run.yaml"]


def test_a_missing_folder_is_an_error_that_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="could not write .*No such file.*folder exists"):
        with replacing(tmp_path / "nowhere" / "a.txt") as temporary:
            temporary.write_text("new")


def test_the_file_and_then_its_folder_are_flushed_and_the_digest_comes_first(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(descriptor):
        target = os.readlink(f"/proc/self/fd/{descriptor}")
        done.append("folder" if target == str(tmp_path) else os.path.basename(target)[1:9])
        fsync(descriptor)

    def spy_replace(source, target):
        done.append(f"rename {os.path.basename(target)}")
        replace(source, target)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc to tell which file is flushed")
    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    with replacing(tmp_path / "data.bin", digest=True) as temporary:
        temporary.write_bytes(b"123")
    digest = ["data.sha", "rename data.sha256", "folder"]
    assert done == [*digest, "data.bin", "rename data.bin", "folder"]


def test_a_digest_is_that_of_the_bytes_in_the_format_of_sha256sum(tmp_path):
    path = tmp_path / "data.bin"
    with replacing(path, digest=True) as temporary:
        temporary.write_bytes(b"123" * 1_000_000)
    text = sidecar(path).read_text()
    assert text == f"{hashlib.sha256(b'123' * 1_000_000).hexdigest()}  data.bin\n"
    verify(path)


def test_a_file_is_refused_where_its_digest_differs_or_is_missing(tmp_path):
    path = tmp_path / "data.bin"
    with replacing(path, digest=True) as temporary:
        temporary.write_bytes(b"123")
    path.write_bytes(b"124")
    with pytest.raises(DamagedFile, match=r"data\.bin .*SHA-256 is not the one in data\.sha256"):
        verify(path)
    for text in ("", "\n", "0" * 64, "\x00" * 64):
        sidecar(path).write_text(text)
        with pytest.raises(DamagedFile, match="SHA-256"):
            verify(path)
    sidecar(path).unlink()
    with pytest.raises(DamagedFile, match=r"digest data\.sha256 is missing.*restore a copy"):
        verify(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="data.bin"):
        verify(path)


def test_a_pipe_is_refused_at_once_and_not_waited_for(tmp_path):
    path = tmp_path / "data.bin"
    os.mkfifo(path)
    with pytest.raises(DamagedFile, match="not a regular file"):
        verify(path)


def test_only_temporary_files_are_listed_as_such(tmp_path):
    (tmp_path / "a.h5").write_text("")
    (tmp_path / ".hidden").write_text("")
    with pytest.raises(ZeroDivisionError, match="look"):
        with replacing(tmp_path / "a.h5") as temporary:
            temporary.write_text("")
            assert temporaries(tmp_path) == [temporary]
            raise ZeroDivisionError("look")
    assert temporaries(tmp_path) == []


def test_a_folder_that_can_be_written_to_is_made_and_left_empty(tmp_path):
    assert check_writable(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert [*(tmp_path / "a" / "b").iterdir()] == []


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="could not write into .*file/x.*Not a directory"):
        check_writable(tmp_path / "file" / "x")

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(PermissionError, match="could not write into .*Permission denied.*--out"):
        check_writable(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_error_survives_the_way_from_a_worker_process():
    error = DamagedFile("a.h5", "it is empty")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
