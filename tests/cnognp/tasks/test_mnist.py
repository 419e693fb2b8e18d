"""Digits of 28 x 28 pixels: networks of the published sizes, whose units may change places."""

import numpy as np
import pytest
import torch

from cnognp.measuring.alignment import aligned
from cnognp.tasks.mnist import mnist
from cnognp.tasks.problem import Problem
from landscape.objective import value
from landscape.paths import linear

SIZES = {"fcp": 42_200, "lenet": 61_706, "autoencoder": 52_224, "lstm": 15_456}
CPU = torch.device("cpu")


def shuffled(network, tensors, source):
    """The tensors of the network with the units of its first layer in another order."""
    first, *_ = (name for name in tensors if tensors[name].ndim > 1)
    count = 48 if network == "lstm" else len(tensors[first])
    order = torch.as_tensor(source.permutation(count), device="cpu")
    if network == "lstm":
        gates = torch.cat([order + 48 * k for k in range(4)])
        moved = {name: t[gates] if name.startswith("rows.") else t for name, t in tensors.items()}
        moved["rows.weight_hh_l0"] = moved["rows.weight_hh_l0"][:, order]
        return {**moved, "head.weight": tensors["head.weight"][:, order]}
    into = {"lenet": "3.weight"}.get(network, "2.weight")
    moved = {name: t[order] if name.startswith("0.") else t for name, t in tensors.items()}
    return {**moved, into: tensors[into][:, order]}


@pytest.mark.parametrize(("network", "size"), SIZES.items())
def test_a_network_has_the_published_size_and_gets_back_the_order_of_its_units(network, size):
    problem = Problem(mnist(network=network, images=20), CPU)
    layout, z = problem.training.layout, problem.training.point()
    assert layout.dim == size
    other = layout.flatten(shuffled(network, layout.unflatten(z), np.random.default_rng(0)))
    assert not torch.equal(other, z)
    back, _ = aligned(problem, z, other, "weights")
    torch.testing.assert_close(back, z, rtol=0, atol=0)
    loss = value(problem.evaluation, torch.stack([z, other]))
    torch.testing.assert_close(loss[0], loss[1], rtol=1e-5, atol=1e-6)
    assert abs(linear(problem.evaluation, z, back, points=5).barrier) < 1e-6


def test_splits_are_stratified_and_the_lstm_reads_the_same_pixels_in_another_order():
    plain, ordered = (mnist(network=name, images=50) for name in ("fcp", "lstm"))
    assert [len(each[1]) for each in (plain.train, plain.validation, plain.test)] == [50, 359, 359]
    assert plain.train[1].bincount().tolist() == [5] * 10
    one, other = (task.train[0].flatten(1) for task in (plain, ordered))
    assert not torch.equal(one, other)
    torch.testing.assert_close(one.sort(1).values, other.sort(1).values, rtol=0, atol=0)
    assert 0 <= float(one.min()) and float(one.max()) <= 1


def test_files_of_mnist_are_read_as_torchvision_keeps_them(tmp_path):
    pytest.importorskip("torchvision")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    source = np.random.default_rng(0)
    written = {}
    for name, count in (("train", 60), ("t10k", 20)):
        pixels = source.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        target = (np.arange(count) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", pixels), ("labels-idx1", target)):
            head = np.array([0x0800 + array.ndim, *array.shape], ">i4").tobytes()
            (raw / f"{name}-{kind}-ubyte").write_bytes(head + array.tobytes())
        written[name] = pixels
    task = mnist(data=str(tmp_path), validation=20)
    assert [len(each[1]) for each in (task.train, task.validation, task.test)] == [40, 20, 20]
    expected = torch.as_tensor(written["t10k"].reshape(20, -1) / 255, dtype=torch.float32)
    torch.testing.assert_close(task.test[0], expected)


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="network must be one of fcp, lenet, autoencoder, lstm"):
        mnist(network="alexnet")
    with pytest.raises(ValueError, match="images must be from 10 to 1069, or 0 for all, got 5"):
        mnist(images=5)
    with pytest.raises(FileNotFoundError, match="no train-images-idx3-ubyte"):
        mnist(data=str(tmp_path))
