"""PneumoniaMNIST as MedMNIST packs it, from strips of lossless WebP.

The packed file holds ``train_images_000.webp`` and so on, each up to 500 grey images of 28 x 28
pixels one below the other, and ``train_labels.npy``; ``val`` and ``test`` likewise. What comes out
is read by ``cnognp train pneumoniamnist --data FOLDER --task.verify false``: it is not the
published file, even where all images are the same. Pillow with WebP is needed.

    python benchmarks/medmnist_strips.py pneumoniamnist.zip FOLDER
"""

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

SPLITS, SIDE = ("train", "val", "test"), 28


def converted(path: Path) -> dict[str, np.ndarray]:
    """Images (n, 28, 28) and labels (n, 1), bytes, of every split under MedMNIST's names."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for split in SPLITS:
            strips = sorted(n for n in archive.namelist() if n.startswith(f"{split}_images"))
            images = [_images(archive.read(strip)) for strip in strips]
            labels = np.load(io.BytesIO(archive.read(f"{split}_labels.npy")), allow_pickle=False)
            found[f"{split}_images"] = np.concatenate(images)
            found[f"{split}_labels"] = labels.astype(np.uint8).reshape(-1, 1)
    return found


def _images(strip: bytes) -> np.ndarray:
    pixels = np.asarray(Image.open(io.BytesIO(strip)).convert("RGB"))
    # The three channels of a grey image are equal.
    return pixels[..., 0].reshape(-1, SIDE, SIDE)


def main() -> None:
    """Writes the archive into a folder, and says what is in it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("strips", type=Path, help="packed file, for instance pneumoniamnist.zip")
    parser.add_argument("folder", type=Path, help="where the archive goes; made where missing")
    options = parser.parse_args()
    arrays = converted(options.strips)
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / f"{options.strips.stem}.npz"
    np.savez_compressed(path, **arrays)
    counts = ", ".join(f"{split} {len(arrays[f'{split}_labels'])}" for split in SPLITS)
    print(f"{path}: {counts} images")


if __name__ == "__main__":
    main()
