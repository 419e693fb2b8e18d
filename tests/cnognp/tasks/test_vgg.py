"""VGG in its form for CIFAR against published counts."""

import pytest
import torch

from cnognp.tasks.vgg import vgg


@pytest.mark.parametrize(("depth", "count"), [(11, 9_231_114), (16, 14_728_266)])
def test_published_parameters(depth, count):
    model = vgg(depth)
    assert sum(p.numel() for p in model.parameters()) == count
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_unknown_depth():
    with pytest.raises(ValueError, match="depth must be 11 or 16"):
        vgg(13)
