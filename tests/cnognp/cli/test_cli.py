"""The command line: what it prints where, what wins over what, and that help comes at once."""

import io
import os
import pty
import signal
import subprocess
import sys
import time
from textwrap import dedent

import numpy as np
import pytest
import runs
import torch
import yaml
from jsonargparse import ArgumentParser

from cnognp import METHODS
from cnognp.cli import arguments, console
from cnognp.cli.main import VERBS, main
from cnognp.methods.registry import bases
from cnognp.tasks import TASKS

OBJECTS = {
    "train": ["train", "wine", "--members", "2", "--iterations", "2", "--out", "new", "--json"],
    "analyze": ["analyze", "run", "--only", "gradient,line", "--points", "3", "--json"],
    "plot": ["plot", "run", "--json"],
    "show": ["show", "run", "--json"],
    "demo": ["demo", "six-hump-camel", "--restarts", "50", "--iterations", "300", "--out", "demo",
             "--json"],
    "study": ["study", "--json"],
    "study NAME": ["study", "cycle", "--out", "cycle", "--json"],
    "tasks": ["tasks", "--json"],
    "methods": ["methods", "--json"],
    "methods NAME": ["methods", "cnognp", "--json"],
}  # fmt: skip


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return runs.calls(capsys)


@pytest.fixture
def run(call):
    """A finished run in the folder ``run``."""
    outcome = call(*runs.train("run", "--json", members=3, iterations=4))
    assert outcome.code == 0
    return outcome.document


def config(call, *argv):
    """The configuration that a command resolves to, from the run that it makes."""
    sizes = [] if "--iterations" in argv else ["--iterations", "1"]
    outcome = call("train", *argv, *sizes, "--out", "resolved", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    with open("resolved/run.yaml") as file:
        return yaml.safe_load(file)


@pytest.mark.parametrize("verb", OBJECTS)
def test_json_is_one_object_on_standard_output_and_nothing_else(call, run, verb):
    outcome = call(*OBJECTS[verb])
    assert (outcome.code, outcome.err) == (0, "")
    assert isinstance(outcome.document, dict) and outcome.document


@pytest.mark.parametrize("verb", OBJECTS)
def test_without_json_every_verb_prints_a_table(call, run, verb):
    outcome = call(*[word for word in OBJECTS[verb] if word != "--json"])
    assert outcome.code == 0 and "─" in outcome.out + outcome.err
    assert "Traceback" not in outcome.err


def test_show_has_the_promised_fields_and_says_what_train_said(call, run):
    document = call("show", "run", "--json").document
    assert document == run
    assert {"status", "iterations", "method", "best"} <= set(document)
    assert {"member", "loss", "gradient_norm", "fitness", "metrics"} <= set(document["best"])
    assert list(document["best"]["metrics"]) == ["train", "validation", "test"]
    for measured in document["best"]["metrics"].values():
        assert 0 <= measured["accuracy"] <= 1 and measured["loss"] > 0


def test_show_of_a_run_that_has_only_begun_has_the_same_fields(call, run):
    for path in (runs.Path("run") / "checkpoints").iterdir():
        path.unlink()
    document = call("show", "run", "--json").document
    assert (document["status"], document["iterations"]) == ("not begun", 0)
    assert set(document["best"]) == set(run["best"]) and document["best"]["loss"] is None
    assert set(document["best"]["metrics"]) == {"train", "validation", "test"}


def test_demo_has_the_promised_fields(call):
    document = call(*OBJECTS["demo"]).document
    assert (document["function"], document["method"]) == ("six-hump-camel", "gd")
    assert "G-" in document["shares"] and "else" in document["shares"]
    assert sum(document["shares"].values()) == pytest.approx(1.0)


def test_methods_and_tasks_are_listed_with_a_line_each(call):
    methods = call("methods", "--json").document["methods"]
    tasks = call("tasks", "--json").document["tasks"]
    assert list(methods) == list(METHODS) and list(tasks) == list(TASKS)
    assert all(line.endswith(".") for line in [*methods.values(), *tasks.values()])
    keys = call("methods", "cnognp", "--json").document["keys"]
    assert keys["penalty"]["default"] == 0.01 and "lambda" in keys["penalty"]["help"]


@pytest.mark.parametrize("name", METHODS)
def test_every_key_of_every_method_is_explained(call, name):
    keys = call("methods", name, "--json").document["keys"]
    assert keys and all(entry["help"] for entry in keys.values())


def test_what_a_users_task_prints_does_not_spoil_the_object(call):
    with open("loud.py", "w") as file:
        file.write(
            dedent("""
            import torch
            from cnognp.tasks import Task
            print("loading")
            def loss(output, target):
                print("evaluating")
                return ((output - target) ** 2).mean()
            def make(width: int = 1):
                print("making")
                return Task(model=torch.nn.Linear(2, width), loss=loss,
                            train=(torch.ones(4, 2), torch.zeros(4, width)))
        """)
        )
    outcome = call(*runs.train("loud", "--json", "--task.width", "2", task="loud.py:make",
                               members=2, iterations=2))  # fmt: skip
    assert outcome.code == 0 and outcome.document["status"] == "finished"
    assert {"loading", "making", "evaluating"} <= set(outcome.err.split())


def test_defaults_lose_to_the_file_and_the_file_to_flags_wherever_they_stand(call):
    with open("f.yaml", "w") as file:
        file.write("task: wine\nmethod: {name: sgd, lr: 1e-3, batch_size: 16}\nmembers: 3\n")
    found = config(call, "--config", "f.yaml")
    assert found["members"] == 3 and found["seed"] == 0
    assert found["method"]["lr"] == 0.001 and found["method"]["momentum"] == 0.0
    for argv in (
        ["--members", "2", "--method.lr", "0.5", "--config", "f.yaml"],
        ["--config", "f.yaml", "--members", "2", "--method.lr", "0.5"],
        ["--config=f.yaml", "--members=2", "--method.lr=0.5", "wine"],
        ["wine", "--members", "2", "--config", "f.yaml", "--method.lr", "5e-1"],
    ):
        subprocess.run(["rm", "-r", "resolved"], check=True)
        found = config(call, *argv)
        assert (found["members"], found["method"]["lr"]) == (2, 0.5)
        assert found["method"]["name"] == "sgd" and found["method"]["data"]["batch_size"] == 16


def test_what_a_method_is_composed_with_is_said_as_flags_of_their_own(call):
    said = "--method sam --base adam --schedule=cosine --batch-size 32 wine --horizon 7 --warmup 2"
    found = config(call, *said.split())["method"]
    assert (found["name"], found["base"]["name"]) == ("sam", "adam")
    assert found["schedule"] == {"name": "cosine", "horizon": 7, "warmup": 2, "per": "epoch"}
    assert found["data"]["batch_size"] == 32
    for more, horizon in (([], 2), (["--horizon", "5"], 5)):
        subprocess.run(["rm", "-r", "resolved"], check=True)
        words = ["wine", "--method", "gd", "--iterations", "2", *more]
        assert config(call, *words)["method"]["schedule"]["horizon"] == horizon
    with open("f.yaml", "w") as file:
        file.write("task: wine\nmethod: {name: sam, base: {name: adam}, batch_size: 16, "
                   "average: {name: ema, decay: 0.5}}\n")  # fmt: skip
    subprocess.run(["rm", "-r", "resolved"], check=True)
    found = config(call, "--batch-size", "8", "--average-start", "3", "--config", "f.yaml")[
        "method"
    ]
    assert (found["base"]["name"], found["data"]["batch_size"]) == ("adam", 8)
    assert found["average"] == {"name": "ema", "start": 3, "every": 1, "decay": 0.5}
    with open("f.yaml", "w") as file:
        file.write("task: wine\nmethod: {name: sam, base: {nam: adam}}\n")
    outcome = call("train", "--config", "f.yaml")
    assert outcome.code == 2 and "unknown key 'nam' in base; there are lr, name" in outcome.err
    shown = call("train", "wine", "--method", "sam", "--help").out
    assert f"--base {{{','.join(bases())}}}, --method.base" in shown


def test_several_values_need_no_brackets(call):
    for words in (["--task.hidden", "4,3"], ["--task.hidden=4,3"], ["--task.hidden", "[4, 3]"]):
        found = config(call, "wine", "--method", "cno", "--method.box", "-2,2", *words)
        assert found["task"]["hidden"] == [4, 3] and found["method"]["box"] == [-2, 2]
        subprocess.run(["rm", "-r", "resolved"], check=True)
    assert config(call, "wine", "--method", "cno", "--method.box", "null")["method"]["box"] is None
    outcome = call("train", "wine", "--task.hidden", "4,x")
    assert outcome.code == 2 and "--task.hidden" in outcome.err


def test_colours_are_written_as_one_thinks():
    parser = ArgumentParser()
    arguments.add_group(parser, "task", "cifar10", TASKS, "")
    words = arguments.listed(["--task.mean", "0.4,0.5,0.6", "--task.images", "20"], parser)
    found = parser.parse_args(words).task
    assert found.mean == (0.4, 0.5, 0.6) and found.images == 20


def test_another_method_or_task_on_the_command_line_leaves_the_keys_of_the_file_behind(call):
    with open("f.yaml", "w") as file:
        file.write("task: {name: wine, hidden: [4]}\nmethod: {name: cnognp, penalty: 0.5}\n"
                   "members: 2\niterations: 1\n")  # fmt: skip
    found = config(call, "breast-cancer", "--config", "f.yaml", "--method", "gd")
    assert found["task"] == {"name": "breast-cancer", "hidden": [10]}
    assert found["method"]["name"] == "gd" and found["members"] == 2
    assert found["method"]["lr"] == 0.1 and "penalty" not in found["method"]


def test_keys_of_a_file_without_a_name_belong_to_the_name_on_the_command_line(call):
    with open("f.yaml", "w") as file:
        file.write("method: {lr: 0.25}\nmembers: 2\n")
    found = config(call, "wine", "--config", "f.yaml", "--method", "sgd")
    assert (found["method"]["name"], found["method"]["lr"]) == ("sgd", 0.25)


def test_the_task_may_stand_anywhere_and_a_file_may_name_it_alone(call):
    with open("f.yaml", "w") as file:
        file.write("task: wine\nmethod: gd\n")
    ways = (
        ["--config", "f.yaml"],
        ["--members", "2", "--method", "gd", "wine"],
        ["--task", "wine", "--method=gd"],
        ["--task=wine", "--method.name", "gd"],
    )
    for argv in ways:
        found = config(call, *argv)
        assert (found["task"]["name"], found["method"]["name"]) == ("wine", "gd")
        subprocess.run(["rm", "-r", "resolved"], check=True)


def test_keys_of_a_users_task_come_from_its_signature(call, tmp_path):
    own = runs.task_file(tmp_path)
    own.write_text(own.read_text() + "\n\ndef sized(n: int = 20, seed: int = 0): "
                   "return task(network(), data(n))\n")  # fmt: skip
    found = config(call, "own.py:sized", "--task.n", "30", "--method", "gd")
    assert found["task"] == {"name": "own.py:sized", "n": 30}
    shown = call("train", "own.py:sized", "--help")
    assert shown.code == 0 and "--task.n" in shown.out and "--task.seed" not in shown.out


def test_the_folder_of_a_run_is_named_after_its_task_where_none_is_given(call, tmp_path):
    runs.task_file(tmp_path)
    for argv, name in ((["wine"], "wine"), (["own.py:plain"], "own")):
        assert call("train", *argv, "--members", "2", "--iterations", "1").code == 0
        assert (tmp_path / "runs" / name / "run.yaml").is_file()


HELP = [
    [], ["--help"], *([verb, "--help"] for verb in VERBS),
    *(["train", "--method", name, "--help"] for name in METHODS),
    *(["train", name, "--help"] for name in TASKS),
    *(["demo", "--method", name, "--help"] for name in ("gd", "cno")),
    ["tasks"], ["methods"], ["study"], ["--version"], ["--print_completion", "bash"],
]  # fmt: skip


def test_help_of_everything_comes_without_torch():
    script = dedent(f"""
        import contextlib, io, sys
        from cnognp.cli.main import main
        for argv in {HELP!r}:
            with contextlib.redirect_stdout(io.StringIO()) as out:
                assert main(argv) == 0, argv
            assert out.getvalue().strip(), argv
            heavy = {{"torch", "sklearn", "scipy", "matplotlib", "h5py"}} & set(sys.modules)
            assert not heavy, (argv, heavy)
    """)
    done = subprocess.run(
        [sys.executable, "-c", script], env=runs.ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_help_lists_the_verbs_the_methods_and_the_keys_of_the_one_that_is_named(call):
    assert all(verb in call("--help").out for verb in VERBS)
    shown = call("train", "--help").out
    assert all(name in " ".join(shown.split()) for name in METHODS)
    assert "<function" not in shown
    shown = call("train", "--method", "sgd", "--help").out
    assert "--method.nesterov" in shown and "--method.penalty" not in shown
    assert "--method.penalty" in call("train", "--method=cnognp", "--help").out
    assert "--task.network" in call("train", "digits", "--help").out
    assert "--task.network" not in call("train", "wine", "--help").out
    with open("f.yaml", "w") as file:
        file.write("task: digits\nmethod: sgd\n")
    shown = call("train", "--config", "f.yaml", "--help").out
    assert "--method.nesterov" in shown and "--task.network" in shown


def test_help_hides_how_a_name_is_spelled_inside(call):
    for argv in (["train", "wine"], ["demo"]):
        shown = call(*argv, "--help").out
        assert "--method NAME" in shown and "method.name" not in shown
        assert "print_shtab" not in shown and "==SUPPRESS==" not in shown
    assert "--task NAME" in call("train", "wine", "--help").out


@pytest.mark.parametrize("argv", [["--help"], ["train", "--json", "--help"], ["--version"]])
def test_python_m_cnognp_is_the_same_command(argv):
    outcome = runs.command(argv)
    assert (outcome.code, outcome.err) == (0, "")
    assert "usage" in outcome.out or outcome.out.startswith("cnognp 0")


def test_no_arguments_at_all_print_the_help(call):
    assert call() == call("--help")


def completed(script, *words):
    """What bash offers for the last of the words."""
    line = " ".join(f"'{word}'" for word in words)
    program = (
        f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; "
        '_shtab_cnognp; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_bash_completes_verbs_tasks_methods_and_options(call, tmp_path):
    outcome = call("--print_completion", "bash")
    assert (outcome.code, outcome.err) == (0, "")
    (tmp_path / "completion").write_text(outcome.out)
    script = tmp_path / "completion"
    assert set(completed(script, "cnognp", "")) >= set(VERBS)
    assert completed(script, "cnognp", "tr") == ["train"]
    assert completed(script, "cnognp", "train", "wi") == ["wine"]
    assert completed(script, "cnognp", "train", "--method", "cnog") == ["cnognp"]
    assert "--method.penalty" in completed(script, "cnognp", "train", "--method.p")
    assert completed(script, "cnognp", "analyze", "--eval") == ["--eval-mode"]
    assert completed(script, "cnognp", "demo", "--batch") == ["--batch-size"]
    assert completed(script, "cnognp", "study", "flat") == ["flat-minima", "flatness"]
    assert completed(script, "cnognp", "study", "walks", "--eval") == ["--evaluations"]
    assert completed(script, "cnognp", "study", "cycle", "--off") == ["--offset"]
    assert completed(script, "cnognp", "compare", "--work") == ["--workers"]
    for verb in VERBS:
        shown = call(verb, "--help").out
        offered = completed(script, "cnognp", verb, "--")
        assert {word for word in offered if word in shown} >= {"--help", "--json"}


def test_completion_for_a_shell_that_is_not_known_names_those_that_are(call):
    outcome = call("--print_completion", "cmd")
    assert (outcome.code, outcome.out) == (2, "")
    assert "bash" in outcome.err and "'cmd'" in outcome.err and outcome.err.count("\n") == 1


def terminal(argv, folder):
    """What a command prints to standard output, and to a terminal on standard error."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "cnognp", *argv], cwd=folder, stdout=subprocess.PIPE, stderr=theirs,
        env={**runs.ENVIRONMENT, "TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    out = process.stdout.read().decode()
    process.stdout.close()
    os.close(ours)
    assert process.wait() == 0
    return out, shown.decode()


def test_the_bar_is_drawn_on_a_terminal_alone_and_never_on_standard_output(tmp_path):
    argv = runs.train("run", "--json", members=2, iterations=30, every=10)
    out, shown = terminal(argv, tmp_path)
    assert runs.strict_json(out)["status"] == "finished"
    assert "cnognp" in shown and "samples/s" in shown and "loss" in shown
    piped, _ = runs.forks()(runs.train(tmp_path / "other", "--json", members=2, iterations=30))
    assert (piped.code, piped.err) == (0, "") and piped.document["status"] == "finished"


# A buffer that is written when the interpreter leaves is the case that is hard.
BUFFERED = {**runs.ENVIRONMENT, "PYTHONUNBUFFERED": ""}


@pytest.mark.parametrize("argv", [["methods", "--json"], ["tasks"], ["train", "--help"]])
def test_a_reader_that_leaves_early_is_no_reason_for_a_traceback(argv):
    theirs, ours = os.pipe()
    os.close(theirs)
    done = subprocess.run(
        [sys.executable, "-m", "cnognp", *argv], env=BUFFERED, stdout=ours, stderr=subprocess.PIPE
    )
    os.close(ours)
    told = done.stderr.replace(b"A task of your own: cnognp train my_task.py:make_task\n", b"")
    assert (done.returncode, told) == (1, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has /dev/full")
@pytest.mark.parametrize("argv", [["tasks", "--json"], ["--help"]])
def test_output_that_finds_no_space_is_a_failure_of_one_line(argv):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cnognp", *argv],
            env=BUFFERED, stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "No space left on device" in done.stderr


@pytest.mark.parametrize(("argv", "code"), [("tasks --json", 0), ("show missing", 2)])
def test_closed_streams_change_no_exit_code_and_are_lent_to_no_file(tmp_path, argv, code):
    shell = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh"]
    look = (
        "import os, sys; from cnognp.cli.main import main; code = main(sys.argv[1:]);"
        "open('says', 'w').write(' '.join(os.path.realpath(f'/proc/self/fd/{k}') for k in (1, 2)));"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [*shell, sys.executable, "-c", look, *argv.split()], cwd=tmp_path, env=BUFFERED
    )
    assert done.returncode == code
    if os.path.exists("/proc/self/fd"):
        assert (tmp_path / "says").read_text() == f"{os.devnull} {os.devnull}"


def test_what_a_terminal_cannot_show_is_spelled_out(monkeypatch):
    plain = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", plain)
    monkeypatch.setattr("cnognp.cli.tasks.command", lambda options: plain.write("1 ±\n") * 0)
    assert main(["tasks"]) == 0
    assert plain.buffer.getvalue() == b"1 \\xb1\n"


def test_ctrl_c_is_understood_before_anything_large_is_imported():
    code = "import sys, cnognp.cli.main; print({'jsonargparse', 'yaml', 'rich'} & {*sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], env=runs.ENVIRONMENT, capture_output=True, text=True
    )
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_any_verb_in_order(call, monkeypatch, number, code):
    ended = []

    def command(options):
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        finally:
            ended.append("in order")

    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # A shell that started the tests in the background may have told them to ignore it.
    keyboard = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        monkeypatch.setattr("cnognp.cli.tasks.command", command)
        assert call("tasks") == (code, "", "")
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, keyboard)
    assert ended == ["in order"]


IMPORTS = """
import builtins, os, signal, sys
from cnognp.cli import main
given, {number} = builtins.__import__, signal.{number}
def importing(name, *more):
    if name == "{name}":
        builtins.__import__ = given
        try:
            os.kill(os.getpid(), {number})
        except BaseException as error:
            if {swallowed}:
                raise {swallowed} from None
            if {swallowed} is None:
                raise
    return given(name, *more)
builtins.__import__ = importing
sys.exit(main.main(sys.argv[1:]))
"""


def heeding(argv):
    """The process, which does not ignore Ctrl-C although the one that tests it may."""
    return subprocess.run(
        argv, env=runs.ENVIRONMENT, capture_output=True, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGUSR1", 138)])
@pytest.mark.parametrize("swallowed", ["None", "RecursionError('too deep')", "()"])
def test_a_signal_while_torch_is_imported_ends_a_training_in_order(
    tmp_path, number, code, swallowed
):
    # What an import makes of an interrupt: it comes out, as another error, or not at all.
    text = IMPORTS.format(name="torch", number=number, swallowed=swallowed)
    argv = [sys.executable, "-c", text, *map(str, runs.train(tmp_path / "run", iterations=3))]
    done = heeding(argv)
    assert done.returncode == code, done.stderr
    begun = number == "SIGUSR1" or swallowed == "()"
    assert (tmp_path / "run").exists() == begun
    assert ("left after a signal" in done.stderr) == begun and "Traceback" not in done.stderr
    if begun:
        assert runs.final(tmp_path / "run").iteration == 1


def test_a_signal_to_leave_does_not_end_other_verbs(tmp_path):
    text = IMPORTS.format(name="torch", number="SIGUSR1", swallowed="None")
    argv = [sys.executable, "-c", text, "demo", "himmelblau", "--restarts", "4", "--json"]
    done = subprocess.run(argv, env=runs.ENVIRONMENT, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and runs.strict_json(done.stdout)


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_in_code_that_is_executed_keeps_its_exit_code(number, code):
    text = f"""
import os, signal, sys
from cnognp.cli import main, tasks
tasks.command = lambda options: exec("import os; os.kill(os.getpid(), signal.{number})")
sys.exit(main.main(["tasks"]))
"""
    done = heeding([sys.executable, "-c", text])
    assert (done.returncode, done.stderr) == (code, "")


@pytest.mark.parametrize(("number", "code"), [("SIGUSR1", 0), ("SIGINT", 130)])
def test_python_m_is_ready_for_a_signal_before_the_command_is_imported(number, code):
    text = f"""
import os, runpy, signal, sys
class Finder:
    def find_spec(self, name, *more):
        if name == "cnognp.cli.main":
            os.kill(os.getpid(), signal.{number})
sys.meta_path.insert(0, Finder())
sys.argv = ["cnognp", "tasks"]
runpy.run_module("cnognp", run_name="__main__", alter_sys=True)
"""
    done = heeding([sys.executable, "-c", text])
    assert done.returncode == code and "Traceback" not in done.stderr


def test_what_was_saved_before_a_failure_is_said(call, run, tmp_path):
    (tmp_path / "out" / "analysis").mkdir(parents=True)
    (tmp_path / "out" / "analysis" / "line.part").write_text("something else\n")
    outcome = call("analyze", "run", "--only", "gradient,trace,line", "--out", "out")
    assert (outcome.code, outcome.out) == (3, "")
    saved, failed = outcome.err.splitlines()
    assert saved == "saved before that, in out/analysis: gradient, trace"
    assert "line.part" in failed
    assert {path.stem for path in (tmp_path / "out").rglob("*.h5")} == {"gradient", "trace"}


def test_numbers_that_json_does_not_know_become_null(capsys):
    nan, inf = float("nan"), float("inf")
    console.emit({"a": [nan, 1.0, (inf, -inf)], "b": np.array([[nan, 2.0]]), "c": np.float32(3)})
    document = runs.strict_json(capsys.readouterr().out)
    assert document == {"a": [None, 1.0, [None, None]], "b": [[None, 2.0]], "c": 3.0}


@pytest.mark.parametrize(
    ("lower", "upper", "merged"),
    [
        ({"a": 1, "b": 2}, {"b": 3}, {"a": 1, "b": 3}),
        ({"method": {"name": "gd", "lr": 1}}, {"method": {"lr": 2}},
         {"method": {"name": "gd", "lr": 2}}),
        ({"method": {"name": "gd", "lr": 1}}, {"method": {"name": "gd"}},
         {"method": {"name": "gd", "lr": 1}}),
        ({"method": {"name": "gd", "lr": 1}}, {"method": {"name": "sgd"}},
         {"method": {"name": "sgd"}}),
        ({"method": {"lr": 1}}, {"method": {"name": "sgd"}}, {"method": {"name": "sgd", "lr": 1}}),
        ({}, {"task": {"name": "wine"}}, {"task": {"name": "wine"}}),
    ],
)  # fmt: skip
def test_one_configuration_over_another(lower, upper, merged):
    assert arguments.over(lower, upper) == merged


def test_options_of_a_run_are_refused_for_a_file_and_a_file_needs_its_function(call, tmp_path):
    (tmp_path / "tasks.py").write_text(runs.TASKS)
    for flag in ("--member", "--checkpoint"):
        outcome = call("analyze", "tasks.py:plain", flag, "all")
        assert (outcome.code, outcome.out) == (2, "")
        assert "--member and --checkpoint go with a run" in outcome.err
    outcome = call("analyze", "tasks.py")
    assert (outcome.code, outcome.out) == (2, "")
    assert "tasks.py names no function: write tasks.py:make_task" in outcome.err


def test_a_run_is_measured_where_its_data_were_moved_to(call, tmp_path):
    (tmp_path / "own.py").write_text(
        "import torch\nfrom cnognp.tasks import Task\n\n\n"
        "def make_task(seed: int = 0, data: str = 'here') -> Task:\n"
        "    x = torch.load(data, weights_only=True)\n"
        "    return Task(torch.nn.Linear(2, 1), torch.nn.functional.mse_loss, (x, x[:, :1]))\n"
    )
    torch.save(torch.randn(8, 2), tmp_path / "first.pt")
    torch.save(torch.zeros(8, 2), tmp_path / "other.pt")
    train = "train own.py:make_task --data first.pt --method gd --iterations 1 --out run"
    assert call(*train.split()).code == 0
    (tmp_path / "first.pt").rename(tmp_path / "second.pt")
    measure = "analyze run --only spectrum --k 1"
    assert call(*measure.split()).code != 0
    assert call(*measure.split(), "--data", "second.pt").code == 0
    outcome = call(*measure.split(), "--data", "other.pt")
    assert outcome.code == 3 and "other data" in outcome.err


def test_numbers_in_a_table_stay_in_one_line(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    words = "a note of several words that is long enough to need a second line"
    console.table("", ("value", *"abcdef"), [(3.837051e-05, *[words] * 6)])
    assert "3.83705e-05" in capsys.readouterr().out


def test_words_in_a_table_stay_whole_where_they_have_room(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    heads = ("run", "method", "status", "best fitness", "loss", "gradient norm", "test loss")
    numbers = (0.0600851, 0.0600083, 0.0876398, 0.108447)
    console.table("", heads, [("runs/wine", "cnognp", "finished", *numbers)])
    shown = capsys.readouterr().out
    assert "│ runs/wine │ cnognp │ finished │" in shown
    assert {"method", "status", "gradient"} <= set(shown.split())
    assert max(map(len, shown.splitlines())) <= 80


def test_what_goes_to_another_program_has_a_line_for_each_row(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    words = "a note of several words that is long enough to need a second line, or a third " * 2
    console.table("", ("name", "note"), [("one", words), ("two", words)])
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 6 and sum(words.strip() in line for line in shown) == 2


def test_the_bar_of_a_comparison_counts_the_points_that_are_measured(tmp_path):
    terminal(runs.train("run", "--json", "--method", "sgd", members=6, iterations=2), tmp_path)
    words = "compare run --flatness --measures worst-l2 --resamples 100 --json"
    out, shown = terminal(words.split(), tmp_path)
    assert runs.strict_json(out)["concluded"] is True
    assert "flatness" in shown and "run member" in shown and "/6" in shown
