"""Ray's own cluster on one machine, a head and two nodes: the same bits, whatever is lost."""

import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import runs

if find_spec("ray") is None:
    pytest.skip("Ray is not installed", allow_module_level=True)
pytestmark = [
    pytest.mark.slow,
    # Of its own modules, and of the sockets of its processes.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
# Nodes of one machine need the loopback interface alone.
HERE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", **TOKEN}
NODE = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 100 << 20}


def found_pid(seconds):
    time.sleep(seconds)
    return os.getpid()


def summed(array, number):
    from cnognp.workers import taken

    return float(taken(array).sum()) + number


def visible():
    time.sleep(0.5)
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def refusing(number):
    raise ValueError(f"no such surface: {number}")


@pytest.fixture(scope="module")
def machines():
    """A head without processors, and what adds nodes to it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in HERE.items():
            patch.setenv(name, value)
        patch.setenv(
            "PYTHONPATH", os.pathsep.join([str(runs.ROOT), str(runs.ROOT / "tests/tables")])
        )
        patch.setenv("RAY_DISABLE_IMPORT_WARNING", "1")
        # Tokens are asked for or not when Ray is imported.
        import ray
        from ray.cluster_utils import Cluster as Machines

        made = Machines(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0})
        made.add_node(**NODE)
        made.add_node(**NODE)
        made.wait_for_nodes()
        patch.setenv("RAY_ADDRESS", made.address)
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture(scope="module")
def cluster(machines):
    from cnognp.workers.cluster import Cluster

    before = signal.getsignal(signal.SIGTERM)
    with Cluster() as made:
        assert signal.getsignal(signal.SIGTERM) is before
        yield made


def perishing(losses, work, given):
    """What a call returns, once it has been lost at the moments that are left to it, in seconds.

    Each is a file, which is away before the process is killed: in its work, at the end of it or
    between that and the answer.
    """
    for loss in sorted(losses.iterdir()):
        seconds = float(loss.read_text())
        loss.unlink()
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
        work(*given)
        time.sleep(60)
    return work(*given)


class Perishing(Executor):
    """An executor whose first calls are lost, each as often as it is told."""

    def __init__(self, executor, folder, often):
        self.executor, self.folder, self.calls = executor, folder, 0
        draw = random.Random(0)
        for call, times in enumerate(often):
            (folder / str(call)).mkdir(parents=True)
            for number in range(times):
                (folder / f"{call}/{number}").write_text(str(draw.uniform(0, 0.3)))

    def __getattr__(self, name):
        return getattr(self.executor, name)

    def submit(self, work, *given):
        losses = self.folder / str(self.calls)
        self.calls += 1
        if not losses.exists():
            return self.executor.submit(work, *given)
        return self.executor.submit(perishing, losses, work, given)

    def left(self):
        return list(self.folder.glob("*/*"))


@pytest.fixture
def trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from cnognp.training.config import Config, RunFolder
    from cnognp.training.session import train

    config = Config(
        "wine", members=6, iterations=6, checkpoint_every=3, threads=1, together=2,
        method_options={"batch_size": 48, "fitness_from": "epoch"},
    )  # fmt: skip

    def run(name, executor, **more):
        train(replace(config, **more), RunFolder(Path(name)), executor=executor)
        return name

    return run


def test_a_run_a_plane_and_a_study_are_those_of_one_process(cluster, trained, tmp_path):
    from analyses import distribution
    from cnognp.measuring import subjects
    from cnognp.measuring.kinds import KINDS
    from cnognp.measuring.spread import Spread
    from cnognp.training.config import RunFolder
    from cnognp.workers import results_of, threaded

    trained("alone", None)
    runs.assert_same_run(trained("shared", cluster), "alone")
    subject = subjects.of_run(RunFolder(Path("alone")), "best", "last", "cpu", False)
    kinds = [KINDS["plane"](grid=9, metrics=("gradient_norm",)), KINDS["trace"](probes=120)]
    with threaded(1):
        one = dict(subjects.measured(subject, tmp_path / "one", kinds))
        spread = Spread(cluster, subject.source, 1)
        two = dict(subjects.measured(subject, tmp_path / "two", kinds, spread=spread))
    assert one["plane"].loss.tobytes() == two["plane"].loss.tobytes()
    assert one["trace"].samples.tobytes() == two["trace"].samples.tobytes()
    config = distribution.Config(("himmelblau",), ("gd", "nim"), restarts=4, budget=40)
    units = distribution.units(config)
    for a, b in zip(results_of(units), results_of(units, executor=cluster), strict=True):
        assert a.position.tobytes() == b.position.tobytes()


def test_twenty_workers_that_are_killed_change_nothing(cluster, trained, tmp_path):
    trained("alone", None, iterations=60, checkpoint_every=30)
    # A unit may be lost five times.
    perishing = Perishing(cluster, tmp_path / "losses", (1, 2, 1, 3, 1, 2, 1, 5, 1, 3))
    assert len(perishing.left()) == 20
    shared = trained("shared", perishing, iterations=60, checkpoint_every=30)
    assert perishing.left() == []
    runs.assert_same_run(shared, "alone")


def test_a_unit_that_is_lost_six_times_is_an_error(cluster, tmp_path):
    from cnognp.workers.cluster import ClusterError

    perishing = Perishing(cluster, tmp_path / "losses", (6,))
    with pytest.raises(ClusterError, match="has lost a unit 6 times.*--resume$"):
        perishing.submit(abs, -1).result()
    assert perishing.left() == []


def test_a_node_that_is_removed_in_mid_run_changes_nothing(machines, cluster, trained, capsys):
    from cnognp.cli.console import only_objects

    trained("alone", None, iterations=60)
    node = next(iter(machines.worker_nodes))
    seen, over = [], threading.Event()

    def remove():
        while not list(Path("shared/checkpoints").glob("*.sha256")):
            if over.wait(0.05):
                return
        machines.remove_node(node, False)
        seen.extend(Path("shared/checkpoints").glob("*.sha256"))

    removal = threading.Thread(target=remove)
    removal.start()
    try:
        # Ray says what the node logged last.
        with only_objects():
            shared = trained("shared", cluster, iterations=60)
    finally:
        over.set()
        removal.join()
        machines.add_node(**NODE)
        machines.wait_for_nodes()
    assert 0 < len(seen) < 20
    said = capsys.readouterr()
    assert said.out == "" and "node" in said.err
    runs.assert_same_run(shared, "alone")


def test_arrays_are_put_once_and_errors_are_those_of_the_unit(cluster):
    from cnognp.workers import in_order, put

    array = np.arange(1 << 18, dtype=np.float64)
    lent = put(cluster, array)
    assert type(lent).__name__ == "Stored" and put(cluster, array[:9]) is not lent
    found = list(in_order(summed, [(lent, k) for k in range(5)], cluster))
    assert found == [array.sum() + k for k in range(5)]
    with pytest.raises(ValueError, match="^no such surface: 3$"):
        cluster.submit(refusing, 3).result()
    call = cluster.submit(found_pid, 60)
    time.sleep(1)
    assert call.cancel()


def test_every_unit_has_a_gpu_of_its_own(machines):
    from cnognp.workers.cluster import Cluster

    with Cluster(gpus=1) as made:
        seen = [made.submit(visible) for _ in range(4)]
        assert {call.result() for call in seen} == {"0"}  # one on each node


def test_what_ray_raises_itself_is_one_line_with_what_to_do(cluster):
    """Ray spills to the disk before its store is full, so that the errors are made here."""
    import ray

    from cnognp.workers.cluster import ClusterError, _explained

    for error, said in (
        (ray.exceptions.ObjectStoreFullError("no room\nfor 3 objects"), "object store of the cl"),
        (ray.exceptions.OutOfDiskError("no room"), "object store of the cluster is full"),
        (ray.exceptions.WorkerCrashedError(), "--resume"),
        (ray.exceptions.OwnerDiedError("ab", None, "here"), "or its head"),
        (ray.exceptions.RpcError("Timed out"), "no cluster of Ray can be used .* \\(Timed out\\)"),
        (RuntimeError("no version of it"), "no cluster of Ray can be used .* \\(no version of it"),
    ):
        with pytest.raises(ClusterError, match=said) as raised, _explained(ray):
            raise error
        assert "\n" not in str(raised.value)


def run_here(script, **environment):
    """What a process of its own says."""
    return subprocess.run(
        [sys.executable, "-c", script], env={**runs.ENVIRONMENT, **environment},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def test_a_cluster_that_is_not_there_is_one_line():
    script = "from cnognp.cli.main import main; raise SystemExit(main({}))"
    words = ["train", "wine", "--iterations", "1", "--engine", "ray"]
    for address in ("127.0.0.1:9", "ray://127.0.0.1:9"):
        gone = run_here(script.format(words), RAY_ADDRESS=address, **TOKEN)
        (line,) = gone.stderr.splitlines()
        assert gone.returncode == 1 and f"no cluster of Ray can be used at {address}" in line


ENTERS = """
import sys
import ray
from cnognp.workers.cluster import Cluster, ClusterError

{}
try:
    Cluster()
except ClusterError as error:
    print(error)
"""


def refused(change="", **environment):
    """The line that a process says which may not enter the cluster, and its seconds."""
    began = time.monotonic()
    said = run_here(ENTERS.format(change), **environment).stdout
    assert said.endswith("\n") and said.count("\n") == 1
    return said, time.monotonic() - began


def test_a_wrong_token_is_one_line_at_once(machines):
    here = {"RAY_ADDRESS": machines.address, **HERE}
    for wrong in ({"RAY_AUTH_TOKEN": "0" * 64}, {"RAY_AUTH_MODE": "disabled"}):
        said, seconds = refused(**{**here, **wrong})
        assert seconds < 30
        assert f"the cluster at {machines.address} has another token" in said
        assert "RAY_AUTH_TOKEN_PATH" in said


def test_another_version_of_ray_or_python_is_one_line_that_says_both(machines):
    import ray

    python = ".".join(map(str, sys.version_info[:3]))
    there = f"the cluster has Ray {ray.__version__} and Python {python}, this process "
    for change, here in (
        ("ray.__version__ = '2.1.0'", f"Ray 2.1.0 and Python {python}: "),
        ("sys.version_info = (3, 9, 4)", f"Ray {ray.__version__} and Python 3.9.4: "),
    ):
        said, _ = refused(change, RAY_ADDRESS=machines.address, **HERE)
        assert said.startswith(there + here)
        assert said.endswith(f"with Python {python} and pip install 'ray=={ray.__version__}'\n")


PORTS = """
import glob, os
from cnognp.workers.cluster import Cluster

def inodes(process):
    for path in glob.glob(f"/proc/{process}/fd/*"):
        try:
            yield os.readlink(path)
        except OSError:
            pass

if __name__ == "__main__":
    BEFORE = set(os.listdir("/proc"))
    with Cluster("", 2) as cluster:
        cluster.submit(abs, -1).result()
        processes, ours = {entry for entry in os.listdir("/proc") if entry.isdigit()}, set()
        for process in processes - BEFORE:
            ours |= set(inodes(process))
        ours |= set(inodes("self"))
        for table in ("tcp", "tcp6"):
            with open(f"/proc/net/{table}") as file:
                for line in list(file)[1:]:
                    _, local, _, state, *rest = line.split()
                    if state == "0A" and f"socket:[{rest[5]}]" in ours:
                        print(local.partition(":")[0])
"""


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="ports are read from Linux's /proc")
def test_a_cluster_that_is_started_here_listens_on_the_loopback_interface_alone():
    done = run_here(PORTS, RAY_ADDRESS="")
    assert done.returncode == 0, done.stderr
    heard = done.stdout.split()
    assert len(heard) > 4 and {address[-8:] for address in heard} == {"0100007F"}


def test_a_head_that_goes_away_is_one_line_and_other_workers_go_on(machines, trained):
    from ray.cluster_utils import Cluster as Machines

    from cnognp.cli.main import main

    alone, words = (
        runs.train(name, "--together", "2", members=6, iterations=300, every=20)
        for name in ("alone", "cut")
    )
    assert main(alone) == 0
    lone = Machines(initialize_head=True, head_node_args=NODE)
    command = subprocess.Popen(
        [sys.executable, "-m", "cnognp", *words, "--engine", "ray", "--quiet"], text=True,
        env={**runs.ENVIRONMENT, **os.environ, "RAY_ADDRESS": lone.address},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        while command.poll() is None and not list(Path("cut/checkpoints").glob("*.sha256")):
            time.sleep(0.05)
        lone.remove_node(lone.head_node, False)
        error = command.communicate(timeout=120)[1]
    finally:
        command.kill()
    assert command.returncode == 1
    (line,) = [said for said in error.splitlines() if said.startswith("cnognp train: ")]
    assert "head" in line and line.endswith("start it anew and go on with --resume")
    assert 0 < runs.final("cut").iteration < 300
    assert main([*words, "--workers", "2", "--resume"]) == 0
    runs.assert_same_run("cut", "alone")


def test_a_run_through_the_client_server_is_that_of_one_process(machines, trained, monkeypatch):
    from ray.cluster_utils import Cluster as Machines

    from cnognp.cli.main import main
    from cnognp.workers.cluster import _answers

    alone, through = (runs.train(name, "--together", "2") for name in ("alone", "through"))
    assert main(alone) == 0
    # The server forks among threads of gRPC, which heed it by default, and the child hangs.
    monkeypatch.setenv("GRPC_ENABLE_FORK_SUPPORT", "0")
    monkeypatch.delenv("RAY_ADDRESS")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    port = {"ray_client_server_port": int(address.rpartition(":")[2])}
    lone = Machines(initialize_head=True, head_node_args=NODE | port)
    try:
        while not _answers(address):
            time.sleep(0.1)
        done = subprocess.run(
            [sys.executable, "-m", "cnognp", *through, "--engine", f"ray://{address}"], text=True,
            env={**runs.ENVIRONMENT, **os.environ}, capture_output=True, timeout=120,
        )  # fmt: skip
    finally:
        lone.remove_node(lone.head_node, False)
    assert done.returncode == 0, done.stderr
    runs.assert_same_run("through", "alone")
