"""``cnognp analyze`` under torchrun: the bits of one process, one line where something fails."""

import json
import os
from textwrap import dedent

import pytest
import ranks
import runs

ONLY = ("--only", "gradient,spectrum,trace", "--probes", "20", "--json")
# On rank WHO the loss fails after so many calls, as HOW says.
FAILING = """
import os, signal, torch
from cnognp.tasks import Task

def make_task():
    g = torch.Generator("cpu").manual_seed(0)
    x, y = torch.randn(80, 5, generator=g), torch.randint(0, 2, (80,), generator=g)
    calls = []

    def loss(output, target):
        calls.append(1)
        if os.environ["RANK"] == os.environ["WHO"] and len(calls) > 40:
            if os.environ["HOW"] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("no more of this")
        summed = torch.nn.functional.cross_entropy(output, target, reduction="sum")
        return summed, len(target)

    model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    return Task(model=model, loss=loss, train=(x, y))
"""


def numbers(document):
    """The results without who has added up, and without names of folders."""
    found = document["results"]
    for result in found.values():
        result.get("judged", {}).pop("sums", None)
    return found


@pytest.mark.slow
def test_two_ranks_have_the_bits_of_one_with_as_many_shards(tmp_path):
    task = f"{runs.task_file(tmp_path)}:plain"
    one = runs.command(["analyze", task, *ONLY, "--shards", "8", "--out", "one"], tmp_path)
    done = ranks.torchrun(["analyze", task, *ONLY, "--out", "two"], 2, tmp_path)
    assert done.returncode == 0, done.stderr
    document = runs.strict_json(done.stdout)
    said = document["results"]["spectrum"]["judged"]["sums"]
    assert said == "8 shards added in a tree, by 2 ranks with 1 thread each"
    assert numbers(document) == numbers(one.document)
    names = [sorted(os.listdir(tmp_path / out / "analysis")) for out in ("one", "two")]
    assert names[0] == names[1] == ["gradient.h5", "spectrum.h5", "trace.h5"]


def test_shards_in_one_process_change_nothing_but_the_order_of_sums(tmp_path, capsys):
    call = runs.calls(capsys)
    task = f"{runs.task_file(tmp_path)}:plain"
    plain, cut = (
        call("analyze", task, "--only", "spectrum", "--json", *more, "--out", tmp_path / "out")
        for more in ((), ("--shards", "5"))
    )
    found = [o.document["results"]["spectrum"]["eigenvalues"] for o in (plain, cut)]
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    assert "sums" not in plain.document["results"]["spectrum"]["judged"]
    refused = call("analyze", task, "--shards", "-1")
    assert refused.code == 2 and "--shards must not be negative" in refused.err


def test_a_rank_that_follows_leaves_what_all_would_say_to_the_first(tmp_path, capsys, monkeypatch):
    call = runs.calls(capsys)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    outcome = call("analyze", "nowhere", "--nothing")
    assert (outcome.code, outcome.out, outcome.err) == (2, "", "")
    monkeypatch.setenv("RANK", "0")
    assert "--nothing" in call("analyze", "nowhere", "--nothing").err
    assert "train is not shared among ranks" in call("train", "wine").err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "line"),
    [("raise", "no more of this"), ("kill", "has ended before its part was there")],
)
def test_a_rank_that_fails_ends_all_with_one_line(tmp_path, how, line):
    (tmp_path / "failing.py").write_text(dedent(FAILING))
    argv = ["analyze", "failing.py:make_task", "--only", "trace", "--probes", "2000"]
    done = ranks.torchrun(argv, 2, tmp_path, HOW=how, WHO="1")
    lines = [said for said in done.stderr.splitlines() if said.startswith("cnognp analyze: ")]
    assert done.returncode != 0 and len(lines) == 1
    assert line in lines[0] or "a signal, which torchrun sends" in lines[0]
    assert json.dumps(done.stdout) == '""'
