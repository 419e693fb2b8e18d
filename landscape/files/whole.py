"""Whole files: each is written beside its final name, flushed to disk and renamed.

A name therefore stands for a whole file at every moment, also after a kill. A digest in a file of
its own tells whether the bytes are still those that were written.
"""

import hashlib
import io
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PathLike = str | os.PathLike


_RESTORE = "restore a copy, or delete it and compute it again"


class DamagedFile(ValueError):
    """A file that is damaged, hostile, or not what it should be; nothing was taken from it."""

    def __init__(self, path: PathLike, reason: str, advice: str = _RESTORE):
        super().__init__(str(path), reason, advice)

    def __str__(self) -> str:
        path, reason, advice = self.args
        return f"{path} cannot be read: {reason}. Nothing was taken from it: {advice}"


class UnfitFile(DamagedFile):
    """A file that is sound, and not of what it is wanted for: nothing is wrong with keeping it."""

    def __str__(self) -> str:
        path, reason, advice = self.args
        return f"{path} cannot be used: {reason}. {advice}"


@contextmanager
def replacing(path: PathLike, *, digest: bool = False) -> Iterator[Path]:
    """A free path beside ``path``; what is written there is flushed and gets the name ``path``.

    On an error, or a kill, ``path`` stays as it was; on an error the temporary file goes too.

    Args:
        path: the final name; its folder must exist.
        digest: put the SHA-256 into ``<stem>.sha256`` before ``path`` gets its name. Give each such
            file a new name: between the two renames, an older file of that name has no digest.

    Raises:
        OSError: if the disk refuses, for instance because it is full; the message names ``path``.
    """
    path = Path(path)
    try:
        with _beside(path) as temporary:
            yield temporary
            if digest:
                with _beside(sidecar(path)) as text:
                    text.write_text(f"{sha256(temporary)}  {path.name}\n", encoding="ascii")
    except OSError as error:
        raise OSError(
            error.errno,
            f"could not write {path}: {error.strerror or error}. Nothing that was there before "
            f"has changed. See that the folder exists, is writable and has space, and try again",
        ) from error


def check_writable(folder: PathLike) -> Path:
    """The folder, made where it is missing, if a file can be written into it.

    For what takes long to compute: the disk may still fill up later, but a folder that belongs to
    somebody else is found out before.

    Raises:
        OSError: if not; the message names ``folder``.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Named as what a killed writer leaves, so that it is cleared away like that.
        trial = folder / f".writable.{os.getpid()}-{secrets.token_hex(4)}.tmp"
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise OSError(
            error.errno,
            f"could not write into {folder}: {error.strerror or error}. Nothing was computed: make "
            "the folder writable, or choose another with --out",
        ) from error
    return folder


def sidecar(path: PathLike) -> Path:
    """Where the digest of ``path`` lies: ``<stem>.sha256``, in the format of ``sha256sum``."""
    return Path(path).with_suffix(".sha256")


def verify(path: PathLike) -> None:
    """Nothing, if the SHA-256 of the file is the one that lies beside it.

    Raises:
        DamagedFile: if it is not, or there is none.
        FileNotFoundError: if there is no such file.
    """
    found = sha256(Path(path))
    try:
        with open_regular(sidecar(path)) as file:
            expected = file.read(256).split()[:1]
    except FileNotFoundError:
        raise DamagedFile(path, f"its digest {sidecar(path).name} is missing") from None
    if expected != [found.encode("ascii")]:
        raise DamagedFile(path, f"its SHA-256 is not the one in {sidecar(path).name}")


def sha256(path: PathLike) -> str:
    """The SHA-256 of a file in hexadecimal digits.

    Raises:
        DamagedFile: if it is a folder, a pipe or a device.
    """
    found = hashlib.sha256()
    with open_regular(path) as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def open_regular(path: PathLike) -> io.FileIO:
    """The file, opened for reading without a buffer; what could block the reader is refused.

    Raises:
        DamagedFile: if it is a folder, a pipe or a device.
        FileNotFoundError: if there is no such file.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise DamagedFile(path, "it is not a regular file")
    return open(path, "rb", buffering=0)


def temporaries(folder: PathLike) -> list[Path]:
    """The temporary files in ``folder``, which only a killed or a running writer leaves."""
    return sorted(Path(folder).glob(".*.tmp"))


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
