"""Augmentation against torchvision, and as a function of (seed, member, step) alone."""

import pytest
import torch

from landscape.networks.augmentation import cropped_and_flipped, normalised
from landscape.randomness import derived_seed

IMAGES = torch.randint(
    0, 256, (24, 3, 10, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def test_torchvision_cuts_the_same():
    functional = pytest.importorskip("torchvision.transforms.functional")
    found = cropped_and_flipped(IMAGES, 5, 2, 7)
    source = torch.Generator().manual_seed(derived_seed(5, "augmentation", 2, 7))
    drawn = torch.rand((24, 3), generator=source, dtype=torch.float64)
    for image, own, (top, left, mirror) in zip(IMAGES, found, drawn.tolist(), strict=True):
        truth = functional.crop(functional.pad(image, 4), int(9 * top), int(9 * left), 10, 12)
        truth = functional.hflip(truth) if mirror < 0.5 else truth
        assert torch.equal(own, truth)


def test_members_steps_and_shorter_batches_have_draws_of_their_own():
    eight = [cropped_and_flipped(IMAGES, 0, member, 3) for member in range(8)]
    assert torch.equal(eight[0], cropped_and_flipped(IMAGES, 0, 0, 3))
    assert torch.equal(eight[0][:5], cropped_and_flipped(IMAGES[:5], 0, 0, 3))
    others = [
        *eight[1:],
        cropped_and_flipped(IMAGES, 0, 0, 4),
        cropped_and_flipped(IMAGES, 1, 0, 3),
    ]
    assert not any(torch.equal(eight[0], other) for other in others)


def test_every_shift_and_both_sides_are_drawn():
    dot = torch.zeros(4000, 1, 9, 9, dtype=torch.uint8)
    dot[:, :, 4, 4] = 1
    counts = cropped_and_flipped(dot, 0, 0, 0).long().sum((0, 1))
    assert int(counts.sum()) == 4000
    assert counts.min() > 20 and counts.max() < 90


def test_normalised_as_torchvision_does():
    functional = pytest.importorskip("torchvision.transforms.functional")
    mean, deviation = [0.5, 0.4, 0.3], [0.2, 0.3, 0.25]
    truth = functional.normalize(IMAGES.float() / 255, mean, deviation)
    torch.testing.assert_close(normalised(IMAGES, mean, deviation), truth)


def test_wrong_shapes_say_what_was_expected():
    with pytest.raises(ValueError, match=r"shape \(n, channels, height, width\)"):
        cropped_and_flipped(IMAGES[0], 0, 0, 0)
    with pytest.raises(ValueError, match="each of 3 channels, got 1 and 3"):
        normalised(IMAGES, [0.5], [0.2, 0.2, 0.2])
