"""Random crops and flips of a batch of images, on their device, as functions of counters."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from landscape.devices import sent
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
    drawn = _drawn(seed, member, step, n, 3)
    shifts = sent((drawn[:, :2] * (2 * padding + 1)).long(), images.device)
    mirrored = sent(drawn[:, 2:] < 0.5, images.device)
    across = torch.arange(width, device=images.device).expand(n, width)
    across = torch.where(mirrored, across.flip(1), across) + shifts[:, 1:]
    down = torch.arange(height, device=images.device) + shifts[:, :1]
    # Padding of bytes by torch.nn.functional.pad is slow on a CPU.
    padded = images.new_zeros(n, channels, height + 2 * padding, width + 2 * padding)
    padded[:, :, padding : padding + height, padding : padding + width] = images
    rows = padded.gather(2, down[:, None, :, None].expand(n, channels, height, padded.shape[3]))
    return rows.gather(3, across[:, None, None, :].expand(n, channels, height, width))


def resized_and_flipped(images: Tensor, seed: int, member: int, step: int, side: int) -> Tensor:
    """Parts (n, c, side, side) of the images (n, c, h, w), each of its own size, mirrored or not.

    A part has 8 to 100 percent of the area and a ratio of sides from 3/4 to 4/3, uniform in its
    logarithm, as that of ``torchvision.transforms.RandomResizedCrop``; where it would be larger
    than the image it is cut to its sides, and not drawn again. Pixels are interpolated linearly,
    without antialiasing, as float32. Every draw follows from (seed, member, step) and the place in
    the batch, as in `cropped_and_flipped`.

    Args:
        images: of any type.
        seed: of the run.
        member: whose batch it is.
        step: at which it is drawn.
        side: of the result, in pixels.

    Raises:
        ValueError: if the images have not four axes, or ``side`` is not positive.
    """
    if images.ndim != 4 or side < 1:
        raise ValueError(
            "images must have the shape (n, channels, height, width) and side must be positive, "
            f"got {tuple(images.shape)} and {side}"
        )
    n, channels, height, width = images.shape
    area, ratio, down, across, mirror = _drawn(seed, member, step, n, 5).unbind(1)
    aspect = torch.exp((2 * ratio - 1) * math.log(4 / 3))
    part = (0.08 + 0.92 * area) * height * width
    # Shares of the image's own sides, at most the whole of them.
    wide = ((part * aspect).sqrt() / width).clamp(max=1.0)
    high = ((part / aspect).sqrt() / height).clamp(max=1.0)
    turn = torch.zeros(n, 2, 3, dtype=torch.float64, device="cpu")
    turn[:, 0, 0], turn[:, 1, 1] = torch.where(mirror < 0.5, -wide, wide), high
    turn[:, 0, 2], turn[:, 1, 2] = (2 * across - 1) * (1 - wide), (2 * down - 1) * (1 - high)
    grid = affine_grid(
        sent(turn, images.device, torch.float32),
        [n, channels, side, side],
        align_corners=False,
    )
    return grid_sample(images.to(torch.float32), grid, padding_mode="border", align_corners=False)


def _drawn(seed: int, member: int, step: int, images: int, count: int) -> Tensor:
    """Uniform numbers (images, count) in float64 on the CPU.

    One row for each image, so that a longer batch begins with the draws of a shorter one.
    """
    source = torch.Generator(device="cpu").manual_seed(
        derived_seed(seed, "augmentation", member, step)
    )
    return torch.rand((images, count), generator=source, dtype=torch.float64, device="cpu")


def normalised(
    images: Tensor,
    mean: Sequence[float],
    deviation: Sequence[float],
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Bytes (n, c, h, w) as float32: divided by 255, minus the mean, divided by the deviation.

    Args:
        images: bytes.
        mean: of each channel, from 0 to 1.
        deviation: of each channel.
        memory_format: how the result lies in the memory of a CPU; elsewhere as the images lie.

    Raises:
        ValueError: if there is not one mean and one deviation for each channel.
    """
    if not len(mean) == len(deviation) == images.shape[1]:
        raise ValueError(
            f"mean and deviation need one number for each of {images.shape[1]} channels, got "
            f"{len(mean)} and {len(deviation)}"
        )
    shift, scale = (
        sent(torch.tensor(v, dtype=torch.float32, device="cpu"), images.device).view(-1, 1, 1)
        for v in (mean, deviation)
    )
    lies = memory_format if images.device.type == "cpu" else torch.preserve_format
    return images.to(torch.float32, memory_format=lies).div_(255).sub_(shift).div_(scale)
