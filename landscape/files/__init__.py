"""Files that are whole or absent, and HDF5 that is read with care. Needs numpy and h5py alone."""

from landscape.files.whole import (
    DamagedFile,
    PathLike,
    UnfitFile,
    check_writable,
    open_regular,
    replacing,
    sha256,
    sidecar,
    temporaries,
    verify,
)

__all__ = [
    "DamagedFile",
    "PathLike",
    "UnfitFile",
    "check_writable",
    "open_regular",
    "replacing",
    "sha256",
    "sidecar",
    "temporaries",
    "verify",
]
