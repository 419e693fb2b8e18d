"""Sums in a tree: the same bits whoever adds them up, and the sum that it is."""

import numpy as np
import pytest
import torch

from landscape.distributed.sums import Node, Tree, shape, spans


def terms(count):
    generator = torch.Generator("cpu").manual_seed(count)
    # So different in size that any other order has other bits.
    return torch.randn(count, 50, generator=generator).exp() * torch.logspace(-4, 4, 50)


def summed(parts, ranks):
    """The sum by several processes: each its own terms, whose nodes go onto one tree."""
    whole = Tree()
    for first, last in spans(len(parts), ranks):
        own = Tree(first)
        for part in parts[first:last].clone():
            own.add(part)
        assert [(node.level, node.place) for node in own.nodes] == shape(first, last)
        for level, place, part in own.nodes:
            whole.push(Node(level, place, part))
    return whole.total()


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 13, 64])
def test_a_sum_has_the_same_bits_on_any_number_of_ranks(count):
    parts = terms(count)
    alone = summed(parts, 1)
    for ranks in (2, 3, 5, count, count + 3):
        assert torch.equal(summed(parts, ranks), alone)
    np.testing.assert_allclose(alone, parts.double().sum(0), rtol=1e-6)


def test_one_after_the_other_has_other_bits():
    parts = terms(13)
    assert not torch.equal(summed(parts, 1), sum(parts[1:], parts[0]))


def test_ranks_have_all_terms_once_and_about_as_many_each():
    for count, ranks in ((8, 3), (2, 5), (64, 64), (10, 4)):
        found = spans(count, ranks)
        assert [i for first, last in found for i in range(first, last)] == list(range(count))
        sizes = [last - first for first, last in found]
        assert max(sizes) - min(sizes) <= 1


def test_no_terms_have_no_sum():
    assert Tree().total() is None
