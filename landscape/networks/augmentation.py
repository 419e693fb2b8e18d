"""Random crops and flips of a batch of images, on their device, as functions of counters."""

from collections.abc import Sequence

import torch
from torch import Tensor

from landscape.randomness import derived_seed


def cropped_and_flipped(
    images: Tensor, seed: int, member: int, step: int, padding: int = 4
) -> Tensor:
    """The images (n, c, h, w), each moved by up to ``padding`` pixels and mirrored or not.

    What comes from outside the picture is zero. The type and the device stay. Every draw follows
    from (seed, member, step) and the place in the batch, and is made on the CPU: neither the
    number of members nor the device changes it.

    Args:
        images: of any type; bytes are cheapest.
        seed: of the run.
        member: whose batch it is.
        step: at which it is drawn.
        padding: the largest shift of a crop, in pixels.

    Raises:
        ValueError: if the images have not four axes, or ``padding`` is negative.
    """
    if images.ndim != 4 or padding < 0:
        raise ValueError(
            "images must have the shape (n, channels, height, width) and padding must be at least "
            f"0, got {tuple(images.shape)} and {padding}"
        )
    n, channels, height, width = images.shape
    source = torch.Generator(device="cpu").manual_seed(
        derived_seed(seed, "augmentation", member, step)
    )
    # One row for each image, so that a longer batch begins with the draws of a shorter one.
    drawn = torch.rand((n, 3), generator=source, dtype=torch.float64, device="cpu")
    shifts = (drawn[:, :2] * (2 * padding + 1)).long().to(images.device)
    mirrored = (drawn[:, 2:] < 0.5).to(images.device)
    across = torch.arange(width, device=images.device).expand(n, width)
    across = torch.where(mirrored, across.flip(1), across) + shifts[:, 1:]
    down = torch.arange(height, device=images.device) + shifts[:, :1]
    # Padding of bytes by torch.nn.functional.pad is slow on a CPU.
    padded = images.new_zeros(n, channels, height + 2 * padding, width + 2 * padding)
    padded[:, :, padding : padding + height, padding : padding + width] = images
    rows = padded.gather(2, down[:, None, :, None].expand(n, channels, height, padded.shape[3]))
    return rows.gather(3, across[:, None, None, :].expand(n, channels, height, width))


def normalised(images: Tensor, mean: Sequence[float], deviation: Sequence[float]) -> Tensor:
    """Bytes (n, c, h, w) as float32: divided by 255, minus the mean, divided by the deviation.

    Raises:
        ValueError: if there is not one mean and one deviation for each channel.
    """
    if not len(mean) == len(deviation) == images.shape[1]:
        raise ValueError(
            f"mean and deviation need one number for each of {images.shape[1]} channels, got "
            f"{len(mean)} and {len(deviation)}"
        )
    shift, scale = (
        torch.tensor(v, dtype=torch.float32, device=images.device).view(-1, 1, 1)
        for v in (mean, deviation)
    )
    return images.to(torch.float32).div_(255).sub_(shift).div_(scale)
