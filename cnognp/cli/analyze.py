"""``cnognp analyze``: measurements of a run, or of the weights of any model."""

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import SUPPRESS, ArgumentParser, Namespace

from cnognp.cli import arguments, console
from cnognp.cli.arguments import value_of
from cnognp.cli.train import folder_for
from cnognp.keywords import Keyword
from cnognp.measuring.kinds import KINDS, keywords
from cnognp.training.config import RunFolder

if TYPE_CHECKING:
    from cnognp.measuring.settings import Settings
    from cnognp.measuring.spread import Source
    from landscape.distributed import Ranks

_KINDS = "gradient,spectrum,trace,line,plane"
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_DIGITS = tuple(".0123456789")
_SHORT = (
    "there is no memory left ({}): ask for fewer eigenvalues, probes or steps (--k, --probes, "
    "--density-steps), have the task give its data in smaller batches, or measure with --device cpu"
)


def prepare(parser: ArgumentParser, argv: list[str]) -> list[str]:
    """Adds the arguments."""
    parser.usage = "cnognp analyze RUN | my_task.py:make_task [--point FILE] [options]"
    parser.add_argument("run", type=str, help="folder of a run, or my_task.py:make_task")
    parser.add_argument(
        "--only", type=str, default=_KINDS,
        help=f"what to measure: {', '.join(KINDS)}; comma-separated",
    )  # fmt: skip
    parser.add_argument(
        "--member", type=str, default="best",
        help="best, all, or an index; or points that train --snapshots kept: train-1, "
        "validation-3, 2:train-1 of member 2, train for all of the kind",
    )  # fmt: skip
    parser.add_argument("--checkpoint", type=str, default="last", help="last, all, or a round")
    parser.add_argument(
        "--point", type=str, default=None,
        help="file of weights: .safetensors, or a state dict in .pt, .pth, .ckpt",
    )  # fmt: skip
    parser.add_argument("--out", type=str, default=None, help="folder of the results")
    parser.add_argument(
        "--data", type=str, default=None, help="folder of the task's data, where a run's are now"
    )
    parser.add_argument(
        "--device", type=str, default="", help="as in train; that of the run if none"
    )
    parser.add_argument("--eval-mode", action="store_true", help="measure without dropout")
    parser.add_argument(
        "--data-seed", type=int, default=None,
        help="measure the copy with this seed of data that are drawn anew in every pass "
        "(augmentation)",
    )  # fmt: skip
    parser.add_argument(
        "--noise-seed", type=int, default=None,
        help="measure one draw, with this seed, of what the model or the loss draws at random",
    )  # fmt: skip
    parser.add_argument(
        "--derivatives", type=str, default="exact",
        help="exact, or differences of gradients where a loss has no second derivative",
    )  # fmt: skip
    parser.add_argument(
        "--unchecked", action="store_true",
        help="do not check that the loss is one function of the parameters alone",
    )  # fmt: skip
    parser.add_argument(
        "--shards", type=int, default=0,
        help="cut the data into this many parts, whose sums have the same bits whatever the number "
        "of ranks under torchrun (torchrun --nproc-per-node N -m cnognp analyze ...); 8 there, or "
        "the batches of a loader",
    )  # fmt: skip
    arguments.add_engine(parser, "points of a plane, probes, and measurements")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    parser.add_argument(
        "--crosscheck", action="store_true", help="eigenvalues and trace by PyHessian too"
    )
    _settings(parser, argv)
    return _joined(argv)


def _settings(parser: ArgumentParser, argv: list[str]) -> None:
    """Adds the settings of all kinds of measurements, grouped by the kinds that have them."""
    groups: dict[str, Any] = {}
    for name, entry in _settings_by_name().items():
        users = ", ".join(kind for kind in KINDS if name in keywords(kind))
        if users not in groups:
            groups[users] = parser.add_argument_group(users)
        group = groups[users]
        flag, text = f"--{name.replace('_', '-')}", entry.help.replace("`", "").rstrip(".")
        if entry.kind is bool:
            group.add_argument(flag, action="store_true", help=text)
        elif entry.kind is not None:
            group.add_argument(flag, type=entry.kind, default=entry.default, help=text)
        elif entry.default:
            shown, metavar = entry.default
            group.add_argument(flag, type=str, default=shown, metavar=metavar, help=text)
        else:
            _keys(parser, group, argv, name, text)


def _keys(parser: ArgumentParser, group: Any, argv: list[str], name: str, text: str) -> None:
    """Adds a setting that has keys of its own, or one line of help that stands for them."""
    helps = "-h" in argv or "--help" in argv
    if any(word.startswith(f"--{name}.") for word in argv) or (
        helps and name in (value_of(argv, "--only") or "")
    ):
        # Such keys come with torch, which help without them does not need.
        kind = next(kind for kind in KINDS if name in keywords(kind))
        (entry,) = (entry for entry in fields(KINDS[kind]) if entry.name == name)  # type: ignore[arg-type]
        parser.add_class_arguments(entry.default_factory, name)
    elif helps:
        group.add_argument(f"--{name}.KEY", type=str, default=SUPPRESS, help=text)


def _settings_by_name() -> dict[str, Keyword]:
    """The settings of all kinds by name; one name is one flag."""
    return {name: entry for kind in KINDS for name, entry in keywords(kind).items()}


def command(options: Namespace) -> int:
    """The exit code, once all is measured; under torchrun its first rank measures and prints."""
    from cnognp.cli import ranks

    with arguments.engine(options) as executor:
        return ranks.together(lambda found: _measure(options, found, executor))


def _measure(options: Namespace, ranks: "Ranks", executor: Any) -> None:
    """Measures, saves, and prints what came out.

    Raises:
        ValueError: if a measurement does not exist, or there is no such number of shards.
        RuntimeError: if there is no memory left; says what to lower.
        Exception: what a measurement raises, when it is said what was saved before.
        KeyboardInterrupt: likewise.
    """
    from cnognp.measuring import subjects
    from cnognp.measuring.settings import names
    from cnognp.measuring.sharing import Sharing
    from cnognp.tasks.memory import exhausted

    if options.shards < 0:
        raise ValueError(f"--shards must not be negative, got {options.shards}")
    if executor is not None and ranks.size > 1:
        raise ValueError("ranks under torchrun share the sums: leave out --workers and --engine")
    alone = ranks.size == 1 and not options.shards
    sharing = None if alone else Sharing(ranks, options.shards)
    settings = _settings_of(options)
    named = [*names(options.only), *["crosscheck"] * options.crosscheck]
    for name in named:
        if name not in settings:
            raise ValueError(f"unknown measurement {name!r}; there are {', '.join(KINDS)}")
    kinds = [settings[name] for name in named]
    folder = _folder(options)
    found: dict[str, Any] = {}
    with console.bar() as bar:
        line = bar.add_task("measuring", total=None, note="")

        def told(name: str, done: int, total: int) -> None:
            bar.update(line, note=name, completed=done, total=total if total > 1 else None)

        try:
            for subject in _subjects(options):
                _check(subject)
                spread = None
                if executor is not None:
                    shards = None if alone else options.shards
                    threads = options.threads or 1
                    spread = subjects.Spread(executor, subject.source, threads, shards)
                for name, result in subjects.measured(
                    subject, folder, kinds, told, sharing, spread
                ):
                    found[name] = result
        except (Exception, KeyboardInterrupt) as error:
            if found:
                console.note(f"saved before that, in {folder}: {', '.join(found)}")
            if exhausted(error):
                raise RuntimeError(_SHORT.format(" ".join(str(error).split())[:160])) from error
            raise
    if not ranks.leads:
        return
    single = [kind.kind for kind in kinds if not kind.summed]
    if ranks.size > 1 and single:
        console.note(f"measured by rank 0 alone, since they are no sums: {', '.join(single)}")
    if options.unchecked:
        console.note("not checked: whether the loss is one function of the parameters alone")
    for name, result in found.items():
        if older := result.provenance.get("set_aside"):
            console.note(f"{name}.h5 had other settings; that result is now {older}")
        kept = result.provenance.get("towards", {}).get("kept") or ()
        if options.statistics == "reestimated":
            kept = [name for name in kept if not name.endswith(_STATISTICS)]
        if kept:
            console.note(
                f"{name}: {', '.join(kept[:3])}{' and others' * (len(kept) > 3)} are no trained "
                f"parameters and stay as they are at the point, so what lies at 1 is not all of "
                f"{options.direction}"
            )
    if options.json:
        document = {name: result.numbers() for name, result in found.items()}
        console.emit({"folder": str(folder), "results": document})
        return
    rows = [(name, *result.said()) for name, result in found.items()]
    console.table(str(folder), ("result", "what it says", "how it ended"), rows)
    for name, result in found.items():
        for title, columns, entries in result.tables():
            console.table(f"{name}: {title}", columns, entries)


def _settings_of(options: Namespace) -> dict[str, "Settings"]:
    """The settings that the arguments ask for, by kind; all are checked, whatever is measured.

    Raises:
        ValueError: if one is out of range.
    """
    read: dict[str, Settings] = {}
    for kind, page in KINDS.items():
        given: dict[str, Any] = {}
        for entry in fields(page):  # type: ignore[arg-type]
            value = vars(options).get(entry.name)
            if isinstance(entry.default_factory, type):
                value = entry.default_factory(**(value.as_dict() if value else {}))
            given[entry.name] = entry.metadata.get("read", lambda same: same)(value)
        read[kind] = page(**given)
    return read


def _joined(argv: list[str]) -> list[str]:
    """The arguments with ``--span -1:2`` as one word, whose minus is else taken for a flag's."""
    words: list[str] = []
    for word in argv:
        if words and words[-1] == "--span" and word[:1] == "-" and word[1:2] in _DIGITS:
            words[-1] = f"--span={word}"
        else:
            words.append(word)
    return words


def _check(subject: Any) -> None:
    """Nothing, if the model gives the same output twice.

    Raises:
        RuntimeError: if one of its modules draws random numbers.
    """
    random = subject.problem.as_given.stochastic_modules()
    if random:
        calm = any("in training mode" in suspect for suspect in random)
        advice = (
            "Measure the model in evaluation mode with --eval-mode, or"
            if calm else "No mode switches that off: measure"
        )  # fmt: skip
        raise RuntimeError(
            "the loss is random, so no measurement of it means anything; found "
            f"{', '.join(random)}. {advice} one draw of it with --noise-seed 0"
        )


def _folder(options: Namespace) -> Path:
    if options.out:
        return Path(options.out) / "analysis"
    if _is_file(options.run):
        file, _, function = options.run.rpartition(":")
        name = Path(file).stem if function == "make_task" else f"{Path(file).stem}-{function}"
        return Path("runs") / name / "analysis"
    return RunFolder(Path(options.run)).analysis


def _is_file(run: str) -> bool:
    return run.rpartition(":")[0].endswith(".py")


def _subjects(options: Namespace) -> Iterator[Any]:
    """What is measured, one checkpoint after the other.

    Raises:
        ValueError: if an argument belongs to another kind of subject.
    """
    from cnognp.measuring import subjects
    from cnognp.tasks.problem import Problem, choose_device, task_of
    from cnognp.training import checkpoint

    if options.run.endswith(".py"):
        raise ValueError(
            f"{options.run} names no function: write {options.run}:make_task, the one that "
            "returns the task"
        )
    if _is_file(options.run):
        if (options.member, options.checkpoint) != ("best", "last"):
            raise ValueError("--member and --checkpoint go with a run, not with a file of a task")
        data = {} if options.data is None else {"data": options.data}
        task = task_of(options.run, 0, data)
        if options.eval_mode:
            task.model.eval()
        problem = Problem(task, choose_device(options.device or "auto"), **_trust(options))
        subject = subjects.of_weights(problem, options.point and Path(options.point))
        yield replace(subject, source=_source(options))
        return
    if options.point is not None:
        raise ValueError("--point goes with my_task.py:make_task, not with a run")
    run = RunFolder(Path(options.run))
    name = run.config().task
    moved = {} if options.data is None else folder_for(name, options.data)
    for path in run.newest()[1] if options.checkpoint == "last" else ():
        console.note(f"{path} is damaged; measuring the checkpoint before it")
    steps = [options.checkpoint]
    if options.checkpoint == "all":
        steps = [str(step) for step in checkpoint.steps(run.checkpoints)]
    for step in steps:
        yield subjects.of_run(
            run, options.member, step, options.device, options.eval_mode, moved, **_trust(options)
        )


def _source(options: Namespace) -> "Source":
    """How workers make the problem of a file."""
    from cnognp.measuring.spread import Source

    return Source(
        task=options.run, data=options.data, device=options.device or "auto",
        weights=options.point or "", evaluate=options.eval_mode,
        options=tuple(_trust(options).items()),
    )  # fmt: skip


def _trust(options: Namespace) -> dict[str, Any]:
    """What the arguments say of how the loss is taken.

    Raises:
        ValueError: if it does not exist.
    """
    if options.derivatives not in ("exact", "differences"):
        raise ValueError(f"--derivatives must be exact or differences, got {options.derivatives!r}")
    return {
        "data_seed": options.data_seed, "noise_seed": options.noise_seed,
        "derivatives": options.derivatives,
        "check": not options.unchecked,
    }  # fmt: skip
