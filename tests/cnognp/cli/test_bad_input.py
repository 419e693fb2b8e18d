"""Bad input: one clear line on standard error, the right exit code, and nothing is overwritten."""

import errno
import os
import pickle
import struct
import zipfile
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import runs
import torch
from safetensors.torch import load_file, save_file

from cnognp import METHODS
from cnognp.cli import arguments
from cnognp.tasks import TASKS
from cnognp.training import checkpoint
from cnognp.training.config import RunFolder
from landscape.files import hdf5

METHOD_NAMES = ", ".join(METHODS)


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = runs.calls(capsys)

    def call(*argv):
        # The project's own words, and not those of the checks that only tests have.
        with runs.annotations_unchecked():
            return run(*argv)

    return call


@pytest.fixture(scope="module")
def forks():
    return runs.forks()


@pytest.fixture
def run(forks, tmp_path):
    assert forks(runs.train(tmp_path / "run", members=2, iterations=2))[0].code == 0
    return tmp_path / "run"


def refused(call, folder, argv, code, *said):
    """Asserts that a command ends with ``code`` and one line that says all of ``said``."""
    before = runs.contents(folder)
    outcome = call(*argv)
    assert outcome.code == code, outcome
    assert outcome.out == ""
    (line,) = outcome.err.splitlines()
    assert line.startswith("cnognp") and "Traceback" not in line
    for words in said:
        assert words in line, line
    after = runs.contents(folder)
    assert {p.name for p in after} == {p.name for p in before}
    assert {p: b for p, b in after.items() if p.is_file()} == {
        p: b for p, b in before.items() if p.is_file()
    }


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("trian wine", ["unknown verb 'trian'", "did you mean train?"]),
        ("nonsense", ["unknown verb 'nonsense'", "there are train, analyze, plot"]),
        ("--jsn", ["unknown option --jsn"]),
        ("train", ["which task?", "wine", "my_task.py:make_task"]),
        ("train wine --method gd --base adam", ["method gd has no --base", "cnognp methods gd"]),
        ("train wine --method pso --batch-size=3", ["method pso has no --batch-size"]),
        ("train wien", ["'wien'", "Did you mean 'wine'?"]),
        ("train nothing-like-it", ["'nothing-like-it'", ", ".join(TASKS)]),
        ("train wine --method sam --rho 1", ["--rho", "key of the method: --method.rho"]),
        ("train wine --weight-decay 1", ["--weight-decay", "method: --method.weight_decay"]),
        ("train wine --hidden=[3]", ["--hidden", "key of the task: --task.hidden"]),
        ("train wine extra", ["unexpected word 'extra'", "comma-separated"]),
        ("train wine --method cnogpn", ["'cnogpn'", "did you mean cnognp?"]),
        ("train wine --method x", ["unknown method 'x'", METHOD_NAMES]),
        ("train wine --method", ["--method", "expected one argument"]),
        ("train wine --method.penalti 1", ["--method.penalti", "did you mean --method.penalty?"]),
        ("train wine --method gd --method.penalty 1", ["--method.penalty", "there are lr"]),
        ("train wine --task.hiden [3]", ["--task.hiden", "did you mean --task.hidden?"]),
        ("train wine --epochs 3", ["unknown option --epochs; say --iterations, which are epochs"]),
        ("train wine --population=3", ["unknown option --population; say --members"]),
        ("train wine --membrs 3", ["--membrs", "did you mean --members?"]),
        ("train wine --member 3", ["--member;", "did you mean --members?"]),
        ("train wine --members", ["--members", "expected one argument"]),
        ("train wine --members -3", ["members must be", "at least 1, got -3"]),
        ("train wine --members 0", ["members must be", "got 0"]),
        ("train wine --members many", ["--members", "expected int, got many"]),
        ("train wine --members 2.5", ["--members", "expected int, got 2.5"]),
        ("train wine --iterations 0", ["iterations must be", "at least 1, got 0"]),
        ("train wine --seed -1", ["seed must be", "at least 0, got -1"]),
        ("train wine --threads -1", ["threads must be", "got -1"]),
        ("train wine --checkpoint_every -1", ["checkpoint_every must be", "got -1"]),
        ("train wine --members-live nowhere", ["--members_live", "device", "host", "nowhere"]),
        ("train wine --device cudda", ["device 'cudda'", "try auto or cpu"]),
        ("train wine --device meta", ["device 'meta'", "try auto or cpu"]),
        ("train wine --method.lr -1", ["lr must be", "got -1.0"]),
        ("train wine --method.lr nan", ["lr", "nan"]),
        ("train wine --method.lr much", ["--method.lr", "expected float, got much"]),
        ("train wine --method.power cubed", ["--method.power", "squared", "norm", "cubed"]),
        ("train wine --method.box [3]", ["--method.box", "tuple[float, float]", "[3]"]),
        ("train wine --method.box [2,1]", ["box must be", "low below high"]),
        ("train wine --task.hidden [0]", ["every layer needs at least 1 unit"]),
        ("train wine --task.norm x", ["--task.norm"]),
        ("train digits --task.network x", ["--task.network: expected one of mlp, conv, got x"]),
        ("train wine --task.hidden 3", ["--task.hidden", "expected tuple, got 3"]),
        ("train wine --data .", ["task wine brings its own data"]),
        ("train adult --data nowhere", ["nowhere/adult.data", "adult.test"]),
        ("train own.py", ["own.py names a file but no function", "own.py:make_task"]),
        ("train missing.py:make", ["no file missing.py"]),
        ("train --config", ["--config", "expected one argument"]),
        ("train --config missing.yaml", ["no file missing.yaml"]),
        ("train --config .", ["no file ."]),
        ("demo himmelblu", ["'himmelblu'", "himmelblau"]),
        ("demo himmelblau --method x", ["unknown method 'x'", METHOD_NAMES]),
        ("demo himmelblau --restarts 0", ["restarts must be at least 1, got 0"]),
        ("methods cnogpn", ["'cnogpn'", "did you mean cnognp?"]),
        ("methods gd sgd", ["unexpected word 'sgd'"]),
        ("tasks wine", ["unexpected word 'wine'"]),
        ("show", ["required: run"]),
        ("show missing", ["missing is no run", "run.yaml"]),
        ("show .", ["is no run"]),
        ("analyze missing", ["missing is no run"]),
        ("plot missing", ["missing/analysis holds no results", "cnognp analyze missing"]),
    ],
)
def test_bad_usage_is_exit_code_2_and_leaves_no_trace(call, tmp_path, argv, said):
    refused(call, tmp_path, argv.split(), 2, *said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: b: c", ["is no YAML"]),
        ("- 1\n- 2", ["must hold keys and values"]),
        ("", ["must hold keys and values"]),
        ("7: seven", ["must hold keys and values"]),
        ("!!python/object/apply:os.system ['touch hacked']", ["is no YAML"]),
        ("task: wine\nmembrs: 3", ["--membrs", "did you mean --members?"]),
        ("task: wine\nmethod: {name: gd, lrr: 3}", ["--method.lrr", "did you mean --method.lr?"]),
        ("task: wine\nmethod: {name: gd, penalty: 3}", ["--method.penalty", "there are lr"]),
        ("task: wine\nmethod: 3", ["method must be a name"]),
        ("task: wine\nmethod: {name: [gd]}", ["method must be a name"]),
        ("task: wine\nmethod: gdd", ["unknown method 'gdd'", "did you mean gd?"]),
        ("task: wien", ["'wien'", "Did you mean 'wine'?"]),
        ("task: wine\nmembers: three", ["--members", "expected int, got three"]),
        ("task: wine\nmembers: -3", ["members must be", "got -3"]),
        ("task: wine\nmethod: {name: gd, lr: slow}", ["--method.lr", "expected float, got slow"]),
        ("task: wine\nmethod: {name: gd, lr: -1}", ["lr must be at least 0", "got -1"]),
        ("task: {name: wine, hidden: null}", ["hidden must be", "such as [10]", "got null"]),
        ("task: {name: wine, hidden: ten}", ["--task.hidden", "ten"]),
        ("task: wine\nmethod: " + "[" * 5000 + "]" * 5000, ["is no YAML", "nested too deep"]),
        ("task: wine\nseed: 2020-13-45", ["f.yaml is no YAML", "month"]),
        ("task: &a {name: wine, hidden: *a}", ["f.yaml cannot be used", "references"]),
        ("#" * 2**20 + "\ntask: wine", ["f.yaml cannot be used", "more than 1048576 bytes"]),
    ],
)
def test_a_bad_configuration_file_is_exit_code_2(call, tmp_path, text, said):
    (tmp_path / "f.yaml").write_text(text)
    refused(call, tmp_path, ["train", "--config", "f.yaml"], 2, *said)


# Each line has nine of the one before it: 9 ** 10 words in all, in a file of 400 characters.
BOMB = "\n".join(
    f"{key}: &{key} [{', '.join([f'*{before}' if before else 'x'] * 9)}]"
    for before, key in zip(["", *"abcdefghi"], "abcdefghij", strict=True)
)


def test_references_that_unfold_without_end_are_refused_at_once(call, run, tmp_path):
    (tmp_path / "f.yaml").write_text(f"{BOMB}\ntask: {{name: wine, hidden: *j}}\nmethod: gd\n")
    refused(call, tmp_path, ["train", "--config", "f.yaml"], 2, "f.yaml cannot be used", "10000")
    (tmp_path / "f.yaml").rename(run / "run.yaml")
    refused(call, tmp_path, ["show", "run"], 2, "run/run.yaml cannot be used", "10000")


def test_references_of_the_size_of_a_configuration_are_welcome(tmp_path):
    (tmp_path / "f.yaml").write_text("task: wine\nmembers: &n 2\niterations: *n\n")
    tree = arguments.tree_of(tmp_path / "f.yaml")
    assert tree == {"task": {"name": "wine"}, "members": 2, "iterations": 2}


@pytest.mark.parametrize("left", [["run"], ["run", "run/checkpoints"], []])
def test_a_run_that_was_killed_before_it_began_says_what_to_do(call, tmp_path, left):
    for folder in left:
        (tmp_path / folder).mkdir()
    said = ["run holds no run.yaml", "cnognp train TASK ... --resume --out run"]
    refused(call, tmp_path, ["train", "--resume", "--out", "run"], 2, *said)


def test_a_folder_of_checkpoints_that_may_not_be_read_is_not_an_empty_one(
    call, run, tmp_path, monkeypatch
):
    listed = os.listdir

    def refuse(folder="."):
        # Of this folder alone: what is not imported yet lists its own.
        if Path(folder).name == "checkpoints":
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr("cnognp.training.checkpoint.os.listdir", refuse)
    for argv in (["show", "run"], ["analyze", "run"], ["train", "--resume", "--out", "run"]):
        refused(call, tmp_path, argv, 1, "run/checkpoints: Permission denied")


@pytest.mark.parametrize(
    ("argv", "folder"),
    [
        ("analyze run --only trace", "run/analysis"),
        ("plot run", "run/figures"),
        ("demo himmelblau --restarts 20", "runs/demo/analysis"),
        ("compare run", "runs/comparison/figures"),
    ],
)
def test_a_folder_that_cannot_be_written_to_is_found_out_before_the_work(
    call, run, tmp_path, monkeypatch, argv, folder
):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    works = []
    monkeypatch.setattr(Path, "touch", lambda path: (_ for _ in ()).throw(
        PermissionError(errno.EACCES, "Permission denied", str(path))))  # fmt: skip
    monkeypatch.setattr("landscape.files.hdf5._fill", lambda *args: works.append(args))
    refused(call, tmp_path, argv.split(), 1, f"could not write into {folder}", "--out")
    assert works == []


def test_a_run_that_cannot_be_written_to_is_found_out_before_it_goes_on(
    call, tmp_path, monkeypatch
):
    runs.task_file(tmp_path)
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(Path, "touch", lambda path: (_ for _ in ()).throw(
        PermissionError(errno.EACCES, "Permission denied", str(path))))  # fmt: skip
    outcome = call(*runs.train("run", "--resume", members=2, iterations=2))
    assert outcome.code == 1 and "could not write into run/checkpoints" in outcome.err
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == []


def test_a_configuration_file_that_is_no_text_is_exit_code_2(call, tmp_path):
    (tmp_path / "f.yaml").write_bytes(b"\xff\xfe\x00\x01")
    refused(call, tmp_path, ["train", "--config", "f.yaml"], 2, "f.yaml is no YAML")


def test_two_configuration_files_are_one_too_many(call, tmp_path):
    (tmp_path / "f.yaml").write_text("task: wine\n")
    argv = ["train", "--config", "f.yaml", "--config=f.yaml"]
    refused(call, tmp_path, argv, 2, "--config was given twice")


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        ("analyze run --only spektrum", 2, ["unknown measurement 'spektrum'", "spectrum"]),
        ("analyze run --only ,", 2, ["no measurement is named"]),
        (
            "analyze run --member 2",
            2,
            ["member must be best, all, 0 to 1, or a point that was kept"],
        ),
        (
            "analyze run --member worst",
            2,
            ["member must be best, all, 0 to 1, or a point that was kept"],
        ),
        ("analyze run --checkpoint 99", 2, ["checkpoint must be last or one of [2], got 99"]),
        ("analyze run --checkpoint first", 2, ["checkpoint must be last", "got first"]),
        ("analyze run --which XX", 2, ["which must be one of LM, LA, SA, BE, got XX"]),
        ("analyze run --k 0", 2, ["k must be at least 1, got 0"]),
        ("analyze run --grid 1", 2, ["grid must be at least 2, got 1"]),
        ("analyze run --points 1", 2, ["points must be at least 2, got 1"]),
        ("analyze run --span 0", 2, ["span must be positive and finite, got 0"]),
        ("analyze run --tolerance 2", 2, ["tolerance must be", "got 2"]),
        ("analyze run --device cudda", 2, ["device 'cudda'", "try auto or cpu"]),
        ("analyze run --point best.safetensors", 2, ["--point goes with my_task.py"]),
        ("analyze run --data folder", 2, ["task wine brings its own data"]),
        ("train wine --out run", 2, ["run exists; go on with --resume"]),
        ("train --resume --out run --members 3", 2, ["begun with members 2, not 3"]),
    ],
)
def test_what_does_not_fit_a_run_is_refused_and_the_run_left_alone(
    call, run, tmp_path, argv, code, said
):
    refused(call, tmp_path, argv.split(), code, *said)


def test_a_run_without_checkpoints_cannot_be_measured(call, run, tmp_path):
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    refused(call, tmp_path, ["analyze", "run"], 2, "has no checkpoint yet", "train it first")


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("{name: sam, lr: 0.2, base: {lr: 0.1}}", "lr is there twice, in its group and beside it"),
        ("{name: adam, base: {lr: 0.1}}", "unknown option --method.base; there are lr, beta1"),
        ("{name: sgd, clip: null}", "clip must be float, got null"),
    ],
)
def test_a_configuration_whose_method_does_not_fit_is_one_clear_line(call, tmp_path, method, said):
    Path("own.yaml").write_text(f"task: wine\nmethod: {method}\n")
    refused(call, tmp_path, ["train", "--config", "own.yaml"], 2, said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: b: c", "not YAML"),
        ("task: wine", "keys task and method"),
        ("task: wine\nmethod: cnognp\nmembers: two", "members must be a whole number"),
        ("task: wine\nmethod: cnognp\ncolour: red", "unknown key 'colour'"),
    ],
)
def test_a_run_yaml_that_cannot_be_used_is_named(call, run, tmp_path, text, said):
    (run / "run.yaml").write_text(text)
    refused(call, tmp_path, ["show", "run"], 2, "run/run.yaml", said)
    refused(call, tmp_path, ["analyze", "run"], 2, "run/run.yaml", said)


def changed(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("checkpoints", ["with", "without"])
def test_a_run_yaml_that_has_changed_is_exit_code_3(call, run, tmp_path, checkpoints):
    path = run / "run.yaml"
    if checkpoints == "without":
        for file in (run / "checkpoints").iterdir():
            file.unlink()
    text = path.read_text()
    path.write_text(text.replace("seed: 0", "seed: 4"))
    said = ["run/run.yaml cannot be read", "SHA-256", "take its first line away"]
    for argv in (["show", "run"], ["analyze", "run"], ["train", "--resume", "--out", "run"]):
        refused(call, tmp_path, argv, 3, *said)
    # As a configuration for another run it may be changed, and so may one without a digest.
    assert call("train", "--config", "run/run.yaml", "--out", "other", "--seed", "0").code == 0
    path.write_text(text.partition("\n")[2])
    assert call("show", "run").code == 0
    path.write_text(text.replace("\n", "\r\n"))
    assert call("show", "run").code == 0


def test_every_changed_character_of_a_run_yaml_is_found(run):
    path = run / "run.yaml"
    data, config = path.read_bytes(), RunFolder(run).config()
    for place in range(len(data)):
        changed(path, place)
        try:
            found = RunFolder(run).config()
        except ValueError:
            pass
        else:
            assert found == config
        path.write_bytes(data)


def test_a_best_member_that_has_changed_is_exit_code_3(call, run, tmp_path):
    task(tmp_path, "from cnognp.tasks import load\ndef make(): return load('wine')")
    argv = ["analyze", "mine.py:make", "--only", "gradient", "--out", "out", "--point"]
    path = run / "best.safetensors"
    assert call(*argv, path).code == 0
    changed(path, -3)
    refused(call, tmp_path, [*argv, path], 3, "SHA-256", "cnognp analyze RUN measures it")
    save_file(load_file(path), tmp_path / "old.safetensors")
    assert call(*argv, "old.safetensors").code == 0


def task(tmp_path, text):
    (tmp_path / "mine.py").write_text(dedent(text))


BODY = """
    import torch
    from cnognp.tasks import Task
    x, y = torch.ones(4, 2), torch.zeros(4, 1)
    def mse(output, target): return ((output - target) ** 2).mean()
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def make(:\n    pass", ["mine.py, line 1", "SyntaxError"]),
        ("import nowhere_to_be_found", ["mine.py, line 1", "nowhere_to_be_found"]),
        ("def other(): pass", ["mine.py has no function 'make'", "other"]),
        ("make = 3", ["mine.py has no function 'make'"]),
        ("def make(): return 3", ["returned int", "cnognp.tasks.Task was expected"]),
        ("def make():\n    return 1 / 0", ["mine.py, line 2", "ZeroDivisionError"]),
        ("def make(size): pass", ["needs a value for size"]),
        (BODY + "    x[2, 1] = float('nan')\n"
         "    def make(): return Task(torch.nn.Linear(2, 1), mse, (x, y))",
         ["train: inputs hold nan at row 2, column 1"]),
        (BODY + "    x[2, 1] = float('nan')\n    from torch.utils.data import *\n    def make(): "
         "return Task(torch.nn.Linear(2, 1), mse, DataLoader(TensorDataset(x, y), 2))",
         ["train batch 1 holds a number that is not finite"]),
        (BODY + "    def make(): return Task(torch.nn.Linear(2, 1), mse, (x, y[:3]))",
         ["one number of rows", "inputs 4, target 3"]),
        (BODY + "    def make(): return Task('model', mse, (x, y))", ["model must be a torch.nn"]),
        (BODY + "    def make(): return Task(torch.nn.Linear(2, 1), lambda o, t: o, (x, y))",
         ["loss must return a scalar"]),
        (BODY + "    def make(): return Task(torch.nn.Linear(2, 1).requires_grad_(False), mse, "
         "(x, y))", ["no trainable parameter"]),
    ],
)  # fmt: skip
def test_a_bad_task_file_is_exit_code_2(call, tmp_path, text, said):
    task(tmp_path, text)
    refused(call, tmp_path, ["train", "mine.py:make"], 2, *said)
    if "train batch" not in said[0]:  # a measurement of such data is a result like any other
        refused(call, tmp_path, ["analyze", "mine.py:make"], 2, *said)


def test_a_loss_that_is_finite_nowhere_is_no_divergence_but_a_failure(call, tmp_path):
    task(tmp_path, BODY + """
    def make(): return Task(torch.nn.Linear(2, 1), lambda o, t: (o - t).mean().log() * 0 / 0,
                            (x, y))
    """)  # fmt: skip
    outcome = call(*runs.train("run", task="mine.py:make", members=2))
    assert (outcome.code, outcome.out) == (1, "")
    (line,) = outcome.err.splitlines()
    assert "the loss is finite at no member's start" in line
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == []


def test_a_failure_of_the_users_code_in_training_is_one_line(call, tmp_path):
    task(tmp_path, BODY + """
    calls = []
    def loss(output, target):
        calls.append(0)
        if len(calls) > 50: raise RuntimeError('out of\\npaper')
        return mse(output, target)
    def make(): return Task(torch.nn.Linear(2, 1), loss, (x, y))
    """)  # fmt: skip
    outcome = call(
        *runs.train("run", "--method", "gd", task="mine.py:make", members=1, every=1, iterations=60)
    )
    assert (outcome.code, outcome.out) == (1, "")
    (line,) = outcome.err.splitlines()
    assert "out of paper" in line
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") != []


@pytest.mark.parametrize("end", ["import sys; sys.exit(0)", "exit('enough')", "raise SystemExit"])
def test_a_task_that_ends_the_program_is_a_failure(call, tmp_path, end):
    task(tmp_path, f"def make(size=3): {end}")
    for argv in ("train mine.py:make", "train mine.py:make --task.size 4", "analyze mine.py:make"):
        refused(call, tmp_path, argv.split(), 1, "called exit(")


WORDS = (
    BODY
    + """
    class Worded(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(2, 1)
        def forward(self, pixels, labels): return {"loss": None, "logits": self.head(pixels)}
    batch = {"pixels": x, "labels": y}
"""
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (WORDS + "    def make(): return Task(Worded(), mse, batch)",
         ["dict with the keys loss, logits", "the whole batch", "loss=lambda output, batch:"]),
        (WORDS + "    def make(): return Task(Worded(), lambda o, b: o.loss, [batch])",
         ["has no attribute 'loss'", "dict with the keys loss, logits"]),
        (BODY + "    def make(): return Task(torch.nn.Linear(2, 1), torch.nn.MSELoss, (x, y))",
         ["the loss is the class MSELoss: give an object, MSELoss()"]),
    ],
)  # fmt: skip
def test_a_loss_that_cannot_take_what_the_model_returns_is_told_what_that_is(
    call, tmp_path, text, said
):
    task(tmp_path, text)
    refused(call, tmp_path, ["train", "mine.py:make"], 2, *said)
    refused(call, tmp_path, ["analyze", "mine.py:make"], 2, *said)


@pytest.mark.parametrize("loss", ["mse(o.detach(), t)", "mse(o, t).detach()", "mse(t, t)"])
def test_a_loss_that_cannot_be_differentiated_is_not_trained_on(call, tmp_path, loss):
    task(tmp_path, BODY + f"""
    def make(): return Task(torch.nn.Linear(2, 1), lambda o, t: {loss}, (x, y))
    """)  # fmt: skip
    refused(call, tmp_path, ["train", "mine.py:make"], 2, "does not depend on the parameters")


@pytest.mark.parametrize(
    ("metric", "said"),
    [("'many'", "got str"), ("o", "got (4, 1)"), ("1 / 0", "ZeroDivisionError")],
)
def test_a_metric_that_fails_is_found_out_before_the_training(call, tmp_path, metric, said):
    task(tmp_path, BODY + f"""
    def make(): return Task(torch.nn.Linear(2, 1), mse, (x, y),
                            metrics={{"how": lambda o, t: {metric}}})
    """)  # fmt: skip
    refused(call, tmp_path, ["train", "mine.py:make"], 2, "metric 'how' fails", said)


def test_parameters_that_no_checkpoint_holds_are_refused_before_the_training(call, tmp_path):
    task(tmp_path, BODY + "    def make(): return Task(torch.nn.Linear(2, 1).bfloat16(), mse, "
         "(x, y))")  # fmt: skip
    refused(call, tmp_path, ["train", "mine.py:make"], 2, "torch.bfloat16", "model.float()")


def test_a_failure_in_the_users_file_is_told_with_its_line(call, tmp_path):
    task(tmp_path, BODY + """
    class Rows(torch.utils.data.Dataset):
        def __len__(self): return 4
        def __getitem__(self, i): return {"a": 1}["b"]
    def make(): return Task(torch.nn.Linear(2, 1), mse, Rows())
    """)  # fmt: skip
    refused(call, tmp_path, ["train", "mine.py:make"], 1, "mine.py, line 9: KeyError: 'b'")


def weights(tmp_path, kind):
    path = tmp_path / "weights"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"weight": [1.0]}))
    elif kind == "torch":
        torch.save({"weight": torch.ones(1, 2), "bias": torch.ones(1)}, path)
        assert zipfile.is_zipfile(path)
    elif kind == "cut":
        save_file({"weight": torch.ones(1, 2), "bias": torch.ones(1)}, path)
        path.write_bytes(path.read_bytes()[:-2])
    elif kind == "long header":
        path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    elif kind == "other model":
        save_file({"weight": torch.ones(5, 5)}, path)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [
        ("pickle", 3, "no safetensors file"),
        ("torch", 3, "no safetensors file"),
        ("cut", 3, "no safetensors file"),
        ("long header", 3, "no safetensors file"),
        ("empty", 3, "no safetensors file"),
        ("other model", 3, "another model's weights"),
        ("missing", 2, "no file"),
        ("folder", 2, "no file"),
    ],
)
def test_a_weights_file_that_is_something_else_is_refused_unread(call, tmp_path, kind, code, said):
    task(tmp_path, BODY + "    def make(): return Task(torch.nn.Linear(2, 1), mse, (x, y))")
    weights(tmp_path, kind)
    argv = ["analyze", "mine.py:make", "--point", "weights", "--out", "out"]
    refused(call, tmp_path, argv, code, said, "weights")


def test_weights_that_are_not_finite_are_refused(call, tmp_path):
    task(tmp_path, BODY + "    def make(): return Task(torch.nn.Linear(2, 1), mse, (x, y))")
    tensors = {"weight": torch.full((1, 2), float("nan")), "bias": torch.ones(1)}
    save_file(tensors, tmp_path / "weights")
    argv = ["analyze", "mine.py:make", "--point", "weights", "--out", "out"]
    refused(call, tmp_path, argv, 3, "weights", "weight", "not finite")


def test_a_pickle_in_place_of_a_checkpoint_is_never_loaded(call, run, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    for path in (run / "checkpoints").glob("*.h5"):
        path.write_bytes(pickle.dumps(Trap()))
    for argv in (["show", "run"], ["analyze", "run"], ["train", "--resume", "--out", "run"]):
        refused(call, tmp_path, argv, 3, "none of its 1 checkpoints is whole")
    assert not (tmp_path / "sprung").exists()


def test_a_result_that_is_damaged_is_not_drawn(call, run, tmp_path):
    history = run / "analysis" / "history.h5"
    history.write_bytes(history.read_bytes()[:-100])
    outcome = call("plot", "run")
    assert (outcome.code, outcome.out) == (3, "")
    (line,) = outcome.err.splitlines()
    assert "history.h5 cannot be read" in line


def test_a_result_with_numbers_that_cannot_be_drawn_is_named(call, run, tmp_path):
    assert call("analyze", "run", "--only", "line", "--points", "3").code == 0
    arrays, attributes = hdf5.read(run / "analysis" / "line.h5")
    arrays["alpha"] = np.array([-np.inf, 0.0, np.inf])
    for path in (run / "analysis").iterdir():
        path.unlink()
    hdf5.write(run / "analysis" / "line.h5", arrays, attributes)
    outcome = call("plot", "run")
    assert (outcome.code, outcome.out) == (3, "")
    (line,) = outcome.err.splitlines()
    assert "run/analysis/line.h5 cannot be read" in line


def test_weights_of_a_run_are_those_of_its_export(run):
    tensors = load_file(run / "best.safetensors")
    flat = np.concatenate([t.numpy().ravel() for t in tensors.values()])
    assert np.sort(flat).tobytes() == np.sort(runs.final(run).arrays["best/position"]).tobytes()


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["train", "wien"], 2, "Did you mean 'wine'?"),
        (["train", "wine", "--membrs", "3"], 2, "did you mean --members?"),
        (["show", "missing"], 2, "is no run"),
        (["analyze", "damaged"], 3, "none of its 1 checkpoints is whole"),
    ],
)
def test_the_real_command_says_the_same(tmp_path, argv, code, said):
    folder = tmp_path / "damaged"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "run.yaml").write_text("task: wine\nmethod: cnognp\n")
    (folder / "checkpoints" / "00000001.h5").write_bytes(b"nothing")
    refused(lambda *words: runs.command(words, tmp_path), tmp_path, argv, code, said)
