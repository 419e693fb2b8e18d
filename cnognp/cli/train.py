"""``cnognp train``: a population on a task, into a folder."""

import inspect
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

from cnognp.cli import arguments, console, signals
from cnognp.methods import METHODS
from cnognp.tasks.registry import TASKS, builder
from cnognp.training.config import HOMES, LOGS, PRECISIONS, Config, RunFolder

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def prepare(parser: ArgumentParser, argv: list[str]) -> list[str]:
    """Adds the arguments that ``argv`` calls for, and returns it spelled out.

    Raises:
        ValueError: if a task or a method does not exist.
    """
    argv = arguments.spelled_out(argv, "task")
    file, argv = arguments.read_config(argv)
    if "--resume" in argv:
        file = arguments.over(_begun(argv, file), file)
    task = arguments.name_in(argv, "task", file, "")
    method = arguments.name_in(argv, "method", file, "cnognp")
    parser.usage = (
        "cnognp train TASK [--method NAME] [--method.KEY VALUE]... [--task.KEY VALUE]... [options]"
    )
    parser.add_argument("--config", action="config", help="YAML file, for instance a run.yaml")
    parser.add_argument("--members", type=int, default=20, help="size of the population")
    parser.add_argument("--iterations", type=int, default=100, help="rounds")
    parser.add_argument("--seed", type=int, default=0, help="of every random draw")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")
    arguments.add_engine(parser, "the members")
    parser.add_argument(
        "--checkpoint-every", "--checkpoint_every", type=int, default=0,
        help="rounds between checkpoints; 0: ten in a run",
    )  # fmt: skip
    parser.add_argument(
        "--record-curvature", "--record_curvature", type=int, default=0,
        help="rounds between records of sharpness and trace; 0: none",
    )  # fmt: skip
    parser.add_argument(
        "--judge-every", "--judge_every", type=int, default=0,
        help="epochs between judgements on the whole data; 0: 1 for small tasks, 10 for large",
    )  # fmt: skip
    parser.add_argument(
        "--members-live", "--members_live", type=Literal[HOMES], default="auto",  # type: ignore[valid-type]
        help="where members live; elsewhere than on the device, they visit it one at a time",
    )  # fmt: skip
    parser.add_argument(
        "--together", type=int, default=0,
        help="members that are evaluated together at most, and moved by one worker; 0: as many as "
        "are fastest. The last bits may depend on it, but not on the number of workers",
    )  # fmt: skip
    parser.add_argument(
        "--snapshots", type=int, default=0,
        help="points kept along each trajectory: lowest in training loss, best on validation data",
    )  # fmt: skip
    parser.add_argument(
        "--precision", type=Literal[PRECISIONS], default="float32",  # type: ignore[valid-type]
        help="in which networks compute in training; all else is float32",
    )  # fmt: skip
    parser.add_argument(
        "--compile", action="store_true",
        help="train through torch.compile; judging and measuring do without",
    )  # fmt: skip
    parser.add_argument("--data", type=str, default=None, help="folder of the task's data")
    parser.add_argument(
        "--weights",
        type=str,
        default="",
        help="at which member 0 starts: a file, a run's folder, or a name such as IMAGENET1K_V1",
    )
    parser.add_argument(
        "--spread", type=float, default=0.0,
        help="deviation of the others' starts beside member 0; 0: the task's own, 1e-4 by weights",
    )  # fmt: skip
    parser.add_argument("--out", type=str, default=None, help="the run's folder; runs/TASK if none")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    parser.add_argument(
        "--log", type=Literal[("", *LOGS)], default="",  # type: ignore[valid-type]
        help=f"curves for {' or '.join(LOGS)}, under OUT/log",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="say nothing while it is trained")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    hint = f"one of {', '.join(METHODS)}; the keys shown are those of {method}"
    arguments.add_group(parser, "method", method, METHODS, hint)
    _span(parser, arguments.value_of(argv, "--iterations") or file.get("iterations"))
    given = any(word.startswith("--task.") and "--task.name" not in word for word in argv)
    add_task(
        parser,
        task,
        keys=given or "-h" in argv or "--help" in argv or len(file.get("task", {})) > 1,
    )
    return arguments.before(arguments.listed(argv, parser), file)


def add_task(parser: ArgumentParser, task: str, *, keys: bool = True) -> None:
    """Adds the keys of a task: of a built-in one, or of a function in a file.

    Args:
        parser: gets them.
        task: name of the task; empty where none was given.
        keys: whether the keys of a function in a file are called for, which runs the file.

    Raises:
        ValueError: if there is no such task.
    """
    hint = f"TASK: one of {', '.join(TASKS)}, or my_task.py:make_task"
    if task and (keys or ":" not in task):
        known = TASKS if task in TASKS else {task: builder(task)}
        arguments.add_group(parser, "task", task, known, hint)
    else:
        parser.add_argument("--task.name", type=str, default=task, help=hint)


def _config_of(options: Namespace) -> Config:
    """The configuration in the parsed options.

    Raises:
        ValueError: if no task is named, or a number is out of range.
    """
    task, method = options.task.as_dict(), options.method.as_dict()
    name = task.pop("name", "")
    if not name:
        out = options.out if options.resume else None
        if out and not RunFolder(Path(out)).config_path.exists():
            raise ValueError(
                f"{out} holds no run.yaml, so no run was begun there that could go on: give the "
                f"whole command once more, cnognp train TASK ... --resume --out {out}"
            )
        raise ValueError(f"which task? One of {', '.join(TASKS)}, or my_task.py:make_task")
    if options.data is not None:
        task |= folder_for(name, options.data)
    return Config(
        task=name,
        method=method.pop("name"),
        members=options.members,
        iterations=options.iterations,
        seed=options.seed,
        device=options.device,
        threads=options.threads,
        checkpoint_every=options.checkpoint_every,
        record_curvature=options.record_curvature,
        judge_every=options.judge_every,
        members_live=options.members_live,
        together=options.together,
        snapshots=options.snapshots,
        weights=options.weights,
        spread=options.spread,
        precision=options.precision,
        compile=options.compile,
        task_options=task,
        method_options=method,
    )


def folder_for(task: str, data: str) -> dict[str, str]:
    """The keyword of a task that says where its data are.

    Raises:
        ValueError: if it is a built-in one that brings its own.
    """
    if ":" not in task and "data" not in inspect.signature(TASKS[task]).parameters:
        raise ValueError(f"task {task} brings its own data: leave out --data")
    return {"data": data}


def command(options: Namespace) -> int:
    """Trains, and prints where it ended.

    Raises:
        FileExistsError: if the run's folder exists and is not to be resumed.
        KeyboardInterrupt: if it came by no signal.
    """
    config = _config_of(options)
    folder = RunFolder(Path(options.out or f"runs/{_stem(config.task)}"))
    if folder.path.exists() and not options.resume:
        raise FileExistsError(
            f"{folder.path} exists; go on with --resume, or choose another folder with --out"
        )
    from cnognp.cli.progress import told
    from cnognp.training.session import INTERRUPTED, train

    heeding = signals.Heeding()
    with heeding.heeded(_SIGNALS), arguments.engine(options) as executor, told(
        config, folder, options.log, options.quiet, heeding.breakable
    ) as (begun, progress):  # fmt: skip
        try:
            last = train(
                config, folder, resume=options.resume, begun=begun, progress=progress,
                warn=console.note, leave=lambda: bool(heeding.received),
                breakable=heeding.breakable, executor=executor,
            )  # fmt: skip
        except KeyboardInterrupt:
            if not heeding.received:
                raise
            console.note(f"left after a signal, {_nothing_saved(options, folder)}")
            return 128 + heeding.received[0]
    from cnognp.cli.show import print_summary, summary

    document = summary(folder, last.meta, folder.kept() if config.snapshots else None)
    if options.json:
        console.emit(document)
    else:
        print_summary(document)
    if heeding.received and last.meta["status"] == INTERRUPTED:
        console.note(f"left after a signal; {_again(options, folder)}")
        return 128 + heeding.received[0]
    return 0


def _nothing_saved(options: Namespace, folder: RunFolder) -> str:
    """That nothing was saved, and what to type."""
    again = _again(options, folder)
    if any(folder.checkpoints.glob("*.h5")):
        return f"and nothing new was saved; {again}"
    if not folder.config_path.exists():
        return "before anything was saved: give the whole command once more"
    return f"before anything was saved; {again.replace('go on', 'begin again')}"


def _again(options: Namespace, folder: RunFolder) -> str:
    """What to type to go on."""
    log = f" --log {options.log}" if options.log else ""
    return f"go on with: cnognp train --resume --out {folder.path}{log}"


def _span(parser: ArgumentParser, iterations: Any) -> None:
    """A horizon that is not given is as long as the run; one in a file wins over this."""
    if "--method.horizon" in parser._option_string_actions and str(iterations).isdecimal():
        parser.set_defaults({"method.horizon": max(1, int(iterations))})


def _begun(argv: Sequence[str], file: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the run that is to go on, where it was begun.

    Raises:
        DamagedFile: if it is not the one that was written.
    """
    out = arguments.value_of(argv, "--out") or file.get("out")
    task = arguments.name_in(argv, "task", file, "")
    folder = RunFolder(Path(out or f"runs/{_stem(task)}"))
    if not folder.config_path.is_file():
        return {}
    tree = arguments.tree_of(folder.config_path)
    folder.verify()
    return tree


def _stem(task: str) -> str:
    return Path(task.split(":")[0]).stem if ":" in task else task
