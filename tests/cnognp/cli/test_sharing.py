"""``--workers`` and ``--engine``: the same results from every command, and what is refused."""

import numpy as np
import pytest
import runs

from landscape.results import load


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return runs.calls(capsys)


def test_train_and_analyze_say_the_same_with_two_workers(call):
    more = ["--together", "2", "--quiet"]
    assert call(*runs.train("one", *more, members=4, iterations=3)).code == 0
    assert call(*runs.train("two", *more, "--workers", 2, members=4, iterations=3)).code == 0
    runs.assert_same_run("two", "one")
    found = ["analyze", "one", "--only", "plane,gradient,spectrum", "--grid", "5", "--k", "2"]
    alone = call(*found, "--metrics", "trace", "--threads", "1", "--out", "alone", "--json")
    both = call(
        *found, "--metrics", "trace", "--workers", "2", "--threads", "1", "--out", "both", "--json"
    )
    assert alone.code == both.code == 0, both.err
    assert alone.document["results"] == both.document["results"]
    for name in ("plane", "gradient", "spectrum"):
        one, two = (load(f"{folder}/analysis/{name}.h5") for folder in ("alone", "both"))
        for field, entry in vars(one).items():
            if field != "provenance":
                np.testing.assert_array_equal(getattr(two, field), entry)
        assert one.provenance["threads"] == two.provenance["threads"] == 1


@pytest.mark.parametrize(
    "words",
    [
        "train wine --out run",
        "analyze own.py:plain",
        "study distribution --functions himmelblau --restarts 2 --budget 40 --out study",
    ],
)
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--workers 0", "workers must be at least 1, got 0"),
        ("--threads -1", "at least 0, got -1"),
        ("--engine dask", "engine must be pool, ray or ray://HOST:PORT, got 'dask'"),
    ],
)
def test_what_no_engine_is_is_refused_before_anything_is_written(
    call, tmp_path, words, flags, said
):
    runs.task_file(tmp_path)
    done = call(*words.split(), *flags.split())
    assert done.code == 2 and said in done.err and len(done.err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["own.py"]


def test_every_command_that_shares_work_says_so_in_its_help(call):
    for words in ("train", "analyze", "compare", "study distribution"):
        shown = call(*words.split(), "--help").out
        for flag in ("--workers", "--threads", "--engine"):
            assert flag in shown
