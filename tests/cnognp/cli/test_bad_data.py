"""Data, weights and machines that do not fit: one clear line, the exit code, and nothing lost."""

from textwrap import dedent

import pytest
import runs
import torch

from cnognp.tasks.architectures import architecture
from cnognp.tasks.memory import exhausted
from cnognp.training import checkpoint

OWN = """
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from cnognp.tasks import Task
from cnognp.tasks.architectures import architecture


def data(n=40, shape=(3, 8, 8), classes=10):
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, *shape, generator=g), torch.arange(n) % classes


def changed(row, label):
    x, y = data()
    y[row] = label
    return x, y


def make(train=None, **more):
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10))
    return Task(model, cross_entropy, data() if train is None else train, **more)


def plain(): return make()
def trained(): return Task(architecture("resnet20", 10), cross_entropy, data(8, (3, 32, 32)))
"""


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    run = runs.calls(capsys)

    def call(*argv):
        with runs.annotations_unchecked():
            return run(*argv)

    return call


def refused(outcome, code, *said):
    """Asserts that a command ended with ``code`` and one line that says all of ``said``."""
    assert (outcome.code, outcome.out) == (code, ""), outcome
    (line,) = outcome.err.splitlines()
    assert line.startswith("cnognp train: ") and "Traceback" not in line
    for words in said:
        assert words in line, line


def trained(name, *more):
    return runs.train("run", "--method", "sgd", *more, task=f"own.py:{name}", members=1)


# ------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize(("made", "said"), [
    ("make(data(shape=(3, 9, 9)))", ["train: the model does not take inputs", "(n, 3, 9, 9)"]),
    ("make(data(shape=(1, 8, 8)))", ["(n, 1, 8, 8)", "to have 3 channels"]),
    ("make(test=data(shape=(3, 9, 9)))",
     ["test: the model", "(n, 3, 9, 9), those of train are float32 (n, 3, 8, 8)"]),
    ("make(validation=data(shape=(1, 8, 8)))", ["validation: the model", "(n, 1, 8, 8)"]),
    ("make(changed(7, 10))",
     ["train: the target holds the class 10 at row 7", "10 outputs, for the classes 0 to 9"]),
    ("make(changed(7, -1))", ["train: the target holds the class -1 at row 7"]),
    ("make(test=data(classes=12))", ["test: the target holds the class 10", "(6 such rows"]),
    ("make(test=DataLoader(TensorDataset(*data(classes=11)), 8))", ["test: the target holds"]),
    ("make((data()[0], data()[1].float()))",
     ["train: the loss does not take outputs", "(n, 10) with a target of the form float32 (n,)"]),
    ("make((data()[0][:0], data()[1][:0]))", ["train holds no sample"]),
])  # fmt: skip
def test_data_that_do_not_fit_are_refused_before_there_is_a_folder(call, tmp_path, made, said):
    with open(tmp_path / "own.py", "a") as file:
        file.write(f"\ndef bad(): return {made}\n")
    refused(call(*trained("bad")), 2, *said)
    assert not (tmp_path / "run").exists()


def test_a_label_that_the_loss_leaves_out_is_no_bad_one(call, tmp_path):
    with open(tmp_path / "own.py", "a") as file:
        file.write("\ndef good(): return make(changed(7, -100))\n")
    outcome = call(*trained("good"))
    assert (outcome.code, outcome.err) == (0, "")


@pytest.mark.parametrize(("made", "said"), [
    ("make(validation=data(classes=8))", "validation has no sample of class 8, 9, which another"),
    ("make(data(classes=9), test=data())", "train has no sample of class 9, which another split"),
    ("make(validation=data(classes=2))", "no sample of class 2, 3, 4, 5 and 4 more"),
])  # fmt: skip
def test_a_class_that_is_empty_in_a_split_is_told_once_and_trained_all_the_same(
    call, tmp_path, made, said
):
    with open(tmp_path / "own.py", "a") as file:
        file.write(f"\ndef odd(): return {made}\n")
    outcome = call(*trained("odd"))
    assert outcome.code == 0
    (line,) = outcome.err.splitlines()
    assert said in line


def test_mini_batches_larger_than_the_data_are_told_where_somebody_asked_for_them(call):
    outcome = call(*trained("plain", "--batch-size", "60"))
    assert outcome.code == 0
    assert "batch_size 60 is more than the 40 samples of train" in outcome.err
    assert call(*runs.train("wine", "--method", "sgd", members=1)).err == ""


# ---------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize(("kind", "said"), [
    ("depth", ["unexpected: layer1.3.conv1.weight", "and 68 more", "network that it is of"]),
    ("classes", ["linear.weight has the shape (100, 64), in the model (10, 64)",
                 "a network with 100 outputs, and this one has 10"]),
    ("extra", ["unexpected: head.weight", "save it without the rest"]),
    ("lacking", ["missing: linear.bias"]),
    ("other", ["missing: conv1.weight, bn1.weight", "unexpected: cls_token"]),
])  # fmt: skip
def test_weights_of_another_network_are_refused_with_what_differs(call, tmp_path, kind, said):
    own = architecture("resnet20", 10).state_dict()
    tensors = {
        "depth": lambda: architecture("resnet32", 10).state_dict(),
        "classes": lambda: architecture("resnet20", 100).state_dict(),
        "extra": lambda: {**own, "head.weight": torch.ones(3)},
        "lacking": lambda: {name: t for name, t in own.items() if name != "linear.bias"},
        "other": lambda: architecture("vit-t", 10).state_dict(),
    }[kind]()
    torch.save(tensors, tmp_path / "w.pt")
    refused(call(*trained("trained", "--weights", "w.pt")), 3, *said)
    assert not (tmp_path / "run").exists()


# ----------------------------------------------------------------------------------------- memory

FULL = {
    "torch.OutOfMemoryError": "CUDA out of memory. Tried to allocate 20.00 MiB",
    "RuntimeError": "[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: can't allocate "
    "memory: you tried to allocate 9 bytes",
    "MemoryError": "",
}


@pytest.mark.parametrize("kind", FULL)
def test_a_device_that_is_full_says_what_to_lower_and_keeps_what_was_saved(call, tmp_path, kind):
    with open(tmp_path / "own.py", "a") as file:
        file.write(
            dedent(f"""
        calls = []

        def loss(output, target):
            calls.append(0)
            if len(calls) > 60: raise {kind}({FULL[kind]!r})
            return cross_entropy(output, target)

        def full(): return Task(make().model, loss, data())
        """)
        )
    argv = runs.train("run", "--batch-size", "20", task="own.py:full", members=3, every=1)
    outcome = call(*argv, "--method", "sgd", "--judge-every", "1")
    said = ["the host has no memory left", "lower --batch-size (20 now)", "--accumulation"]
    refused(outcome, 1, *said, "lower --members (3 now)", "Its checkpoint of round")
    assert checkpoint.steps(tmp_path / "run" / "checkpoints")


def test_other_errors_are_no_lack_of_memory():
    assert exhausted(torch.OutOfMemoryError("CUDA out of memory"))
    assert not any(exhausted(e) for e in (RuntimeError("out of paper"), ValueError("memory")))
