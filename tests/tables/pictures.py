"""A small CIFAR-10 folder of random images, and a task file that reads it as the published one."""

import pickle
from pathlib import Path

import numpy as np

# The task as it is, but for the MD5 of its files, and a network that is trained in no time.
TASK = """
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
from torch import nn
from torchvision import datasets

from cnognp.tasks import cifar


class CIFAR10(datasets.CIFAR10):
    def _check_integrity(self):
        return True

    def _load_meta(self):
        pass


def make(seed=0):
    known = SimpleNamespace(CIFAR10=CIFAR10)
    with mock.patch.object(cifar, "torchvision", lambda part: known):
        task = cifar.cifar10(seed, str(Path(__file__).parent), validation=20)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 5, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(196, 10),
    )
    for p in model.parameters():
        nn.init.normal_(p, std=0.1)
    return dataclasses.replace(task, model=model, initial=None)
"""


def folder(path, each=20):
    """The task file in a folder with six files of ``each`` images."""
    path = Path(path)
    inner = path / "cifar-10-batches-py"
    inner.mkdir(parents=True)
    source = np.random.default_rng(0)
    names = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]
    for name in names:
        data = source.integers(0, 256, (each, 3 * 32 * 32), dtype=np.uint8)
        labels = [k % 10 for k in range(each)]
        (inner / name).write_bytes(pickle.dumps({"data": data, "labels": labels}))
    (inner / "batches.meta").write_bytes(b"")
    file = path / "pictures.py"
    file.write_text(TASK)
    return file
