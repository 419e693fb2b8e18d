"""Small training runs that the tests of runs and commands share: in this process, in children that
are forked once torch is there, and as real commands.

Run as a program, this module is the parent of those children: one job a line, in JSON.
"""

import atexit
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    # Threads of a device would not survive a fork.
    "CUDA_VISIBLE_DEVICES": "",
}

# Tasks of a user's own: a file that a test writes into its folder.
TASKS = '''
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, TensorDataset
from cnognp.tasks import Task


def data(n=48, shape=(5,)):
    g = torch.Generator("cpu").manual_seed(1)
    x = torch.randn(n, *shape, generator=g)
    return x, (x.flatten(1).sum(1) > 0).long()


def network(*between, inputs=5):
    g = torch.Generator("cpu").manual_seed(2)
    model = nn.Sequential(nn.Linear(inputs, 6), *between, nn.ReLU(), nn.Linear(6, 2))
    for p in model.parameters():
        nn.init.normal_(p, std=0.5, generator=g)
    return model


def task(model, train, **more):
    return Task(model=model, loss=cross_entropy, train=train, **more)


def plain(): return task(network(), data())
def dropout(): return task(network(nn.Dropout(0.4)), data())
def loader(): return task(network(), DataLoader(TensorDataset(*data()), batch_size=20))
def shuffled(): return task(network(), DataLoader(TensorDataset(*data()), 20, shuffle=True))
def dataset(): return task(network(), TensorDataset(*data()), validation=data(9))


def conv():
    g = torch.Generator("cpu").manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)
    )
    for p in model.parameters():
        nn.init.normal_(p, std=0.3, generator=g)
    return task(model, data(48, (1, 6, 6)), test=data(10, (1, 6, 6)))


class Tied(nn.Module):
    """Encoder and decoder share one weight."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(5, 5, bias=False), nn.Linear(5, 5)
        self.decoder.weight = self.encoder.weight

    def forward(self, x):
        return self.decoder(torch.tanh(self.encoder(x)))


def tied():
    g = torch.Generator("cpu").manual_seed(2)
    model = Tied()
    for p in model.parameters():
        nn.init.normal_(p, std=0.4, generator=g)
    return task(model, data())


def frozen():
    model = network()
    model[0].bias.requires_grad_(False)
    return task(model, data())


class Worded(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = network()

    def forward(self, inputs, scale, labels=None):
        return self.body(inputs * scale)


def worded():
    x, y = data()
    batch = {"inputs": x, "scale": torch.ones(len(x), 1), "labels": y}
    loss = lambda output, batch: cross_entropy(output, batch["labels"])
    return Task(model=Worded(), loss=loss, train=[batch])
'''


class Outcome(NamedTuple):
    """How a command ended: its exit code, or minus the signal that killed it, and what it said."""

    code: int
    out: str
    err: str

    @property
    def document(self):
        """The one JSON object on standard output, with the numbers that JSON allows alone."""
        return strict_json(self.out)


def strict_json(text):
    def refuse(name):
        raise ValueError(f"JSON has no {name}")

    return json.loads(text, parse_constant=refuse)


def train(folder, *more, task="wine", members=6, iterations=12, every=2):
    """The arguments of a small run into ``folder``."""
    return [
        "train", task, "--members", str(members), "--iterations", str(iterations),
        "--checkpoint_every", str(every), "--threads", "1", "--out", str(folder), *map(str, more),
    ]  # fmt: skip


def task_file(folder):
    """A file with `TASKS` in ``folder``."""
    path = Path(folder) / "own.py"
    path.write_text(TASKS)
    return path


def command(argv, folder=None):
    """The outcome of the real command."""
    done = subprocess.run(
        [sys.executable, "-m", "cnognp", *map(str, argv)],
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip
    return Outcome(done.returncode, done.stdout, done.stderr)


def calls(capsys):
    """A function that runs the command in this process and gives its outcome."""
    from cnognp.cli.main import main

    def call(*argv):
        capsys.readouterr()
        code = main([str(word) for word in argv])
        return Outcome(code, *capsys.readouterr())

    return call


def final(folder):
    """The newest whole checkpoint of a run."""
    from cnognp.training import checkpoint

    found, damaged = checkpoint.newest(Path(folder) / "checkpoints")
    assert found is not None and damaged == []
    return found


def assert_same_run(folder, reference):
    """Equal to the last bit: final state, history so far, best member, configuration."""
    ours, theirs = final(folder), final(reference)
    assert ours.iteration == theirs.iteration
    assert ours.meta == theirs.meta, (ours.meta, theirs.meta)
    assert ours.arrays.keys() == theirs.arrays.keys()
    for name, array in theirs.arrays.items():
        assert array.dtype == ours.arrays[name].dtype
        assert array.tobytes() == ours.arrays[name].tobytes(), name
    for name in ("best.safetensors", "run.yaml"):
        assert (Path(folder) / name).read_bytes() == (Path(reference) / name).read_bytes()


def contents(folder):
    """Bytes and time of every file and folder, to see that nothing has changed."""
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in [Path(folder), *sorted(Path(folder).rglob("*"))]
    }


@contextmanager
def annotations_unchecked():
    """Without the run-time type checks, which would refuse what the project itself refuses."""
    import jaxtyping

    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


class Forks:
    """A process with torch and the commands loaded, which forks a child for each command.

    A child may be killed, signalled or kept from the disk; see `job` for how.
    """

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp())
        self.server = subprocess.Popen(
            [sys.executable, __file__], env=ENVIRONMENT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def __call__(self, argv, **job):
        """The outcome of a command in a child, and how often it came by each point.

        Args:
            argv: the arguments of the command.
            job: ``die=(point, call, when)``: SIGKILL at the call of that number of a point in
                `points`, ``"before"`` it, ``"half"`` through what it writes, or ``"after"`` it.
                ``after=seconds``: SIGKILL then. ``signal=(number, round)``: sent after that round.
                ``limit=bytes``: no file may grow beyond.
        """
        log = self.folder / f"log-{time.monotonic_ns()}"
        job |= {"argv": [str(word) for word in argv], "log": str(log)}
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        code = json.loads(self.server.stdout.readline())
        texts = [log.with_suffix(end).read_text() for end in (".out", ".err")]
        counts = log.with_suffix(".counts")
        # A child that was killed may have been about to write them.
        whole = code >= 0 and counts.exists()
        return Outcome(code, *texts), json.loads(counts.read_text()) if whole else {}

    def close(self):
        self.server.stdin.close()
        self.server.stdout.close()
        self.server.wait()
        shutil.rmtree(self.folder)


@cache
def forks():
    """The one such process that all tests share; it takes seconds to start."""
    server = Forks()
    atexit.register(server.close)
    return server


def points():
    """The steps of writing a file: where they are, and which argument is what they write."""
    return {
        "mkdir": (Path, "mkdir", None),
        "fsync": (os, "fsync", None),
        "replace": (os, "replace", None),
        "unlink": (Path, "unlink", None),
        "text": (Path, "write_text", 1),
        "bytes": (Path, "write_bytes", 1),
    }


def job(argv, log, die=None, after=None, signal=None, limit=None):
    """Runs a command in this process, which is a child, and leaves it."""
    from cnognp.cli.main import main
    from cnognp.training.record import Record

    for descriptor, end in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(log + end, os.O_WRONLY | os.O_CREAT, 0o600), descriptor)
    counts = dict.fromkeys(points(), 0)
    for name, (owner, function, data) in points().items():
        setattr(owner, function, _fatal(getattr(owner, function), name, data, counts, die))
    if signal is not None:
        Record.update = _signalling(Record.update, *signal)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    code = main(argv)
    sys.stdout.flush()
    sys.stderr.flush()
    if limit is None:
        Path(log + ".counts").open("w").write(json.dumps(counts))
    os._exit(code)


def _fatal(function, name, data, counts, die):
    def counted(*args, **keywords):
        counts[name] += 1
        point, call, when = die or (None, 0, None)
        if (point, call) != (name, counts[name]):
            return function(*args, **keywords)
        if when == "half":
            written = list(args)
            written[data] = written[data][: len(written[data]) // 2]
            function(*written, **keywords)
        elif when == "after":
            function(*args, **keywords)
        os.kill(os.getpid(), signal.SIGKILL)

    return counted


def _signalling(function, number, last):
    def update(record, *args):
        function(record, *args)
        if len(record.rows["loss"]) == last:
            os.kill(os.getpid(), number)

    return update


def serve():
    """Forks a child for every job on standard input, and answers how it ended."""
    from cnognp.cli.main import main

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    # What is imported on the way need not be imported by every child.
    with tempfile.TemporaryDirectory() as folder:
        main(train(f"{folder}/run", iterations=1))
    for line in sys.stdin:
        given = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                job(**given)
            finally:
                os._exit(99)
        if given.get("after") is not None:
            time.sleep(given["after"])
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
        answers.flush()


if __name__ == "__main__":
    serve()
