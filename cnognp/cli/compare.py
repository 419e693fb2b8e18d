"""``cnognp compare``: several runs side by side, whether they differ, and flatness."""

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from cnognp.cli import console, findings
from cnognp.cli.show import summary
from cnognp.cli.study import add_sharing, studied
from cnognp.training.config import RunFolder
from landscape.files import check_writable

_HISTORY = "history.h5"
_STATISTICS = {
    "reference": "method that others are compared with; all with all if none",
    "margin": "differences below it count as none, in units of the criterion",
    "effect": "difference that power is for, likewise",
}


def prepare(parser: ArgumentParser, argv: list[str]) -> list[str]:
    """Adds the arguments."""
    parser.usage = "cnognp compare RUN [RUN ...] [--flatness] [--statistics] [options]"
    parser.add_argument("runs", type=str, nargs="+", help="folders of runs")
    parser.add_argument(
        "--flatness", action="store_true",
        help="measure all members, and rank correlation of each flatness measure with the gap "
        "between held-out and training data; runs of one task. Exit code 1 where there are fewer "
        "than six independent trainings, from which nothing is concluded",
    )  # fmt: skip
    parser.add_argument(
        "--statistics", action="store_true",
        help="tests of whether groups of runs differ, by --criterion on --split, trajectories "
        "taken for what was drawn; runs of one task. Exit code 1 where a group has a single "
        "trajectory, from which nothing is concluded",
    )  # fmt: skip
    for name, hint in _STATISTICS.items():
        default: Any = "" if name == "reference" else 0.005
        parser.add_argument(f"--{name}", type=type(default), default=default, help=hint)
    parser.add_argument(
        "--measures", type=str, default="", help="names, comma-separated; all if none"
    )
    parser.add_argument(
        "--criterion", type=str, default="loss", help="loss, or a metric of the task"
    )
    parser.add_argument(
        "--split",
        type=str,
        default="test",
        help="data: test or validation; with --statistics also train",
    )
    parser.add_argument("--resamples", type=int, default=2000, help="of the bootstrap")
    parser.add_argument("--seed", type=int, default=0, help="of draws and bootstrap")
    add_sharing(parser)
    parser.add_argument("--device", type=str, default="", help="that of each run if none")
    parser.add_argument("--eval-mode", action="store_true", help="measure without dropout")
    parser.add_argument("--out", type=str, default="runs/comparison", help="folder of the results")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    return argv


def command(options: Namespace) -> int:
    """Draws learning curves against evaluations, prints where the runs ended, and the study.

    The exit code is 1 where a study was asked for that concludes nothing, since there are too few
    independent trainings.

    Raises:
        FileNotFoundError: if a folder holds no run.
        ValueError: if a run is named twice.
    """
    if len({Path(run).resolve() for run in options.runs}) < len(options.runs):
        raise ValueError(f"runs must be different folders, got {', '.join(options.runs)}")
    documents, histories = {}, {}
    for run in options.runs:
        folder = RunFolder(Path(run))
        folder.config()
        found, _ = folder.newest()
        if found is None:
            raise ValueError(f"{run} has no checkpoint yet: train it first")
        documents[run] = summary(folder, found.meta)
        histories[run] = folder.analysis / _HISTORY
    out = Path(options.out)
    check_writable(out / "figures")
    study = _study(options) if options.flatness else None
    statistics = _compared(options) if options.statistics else None
    concluded = (study is None or _decided(study)) and (statistics is None or _told(statistics))
    written = _curves({run: path for run, path in histories.items() if path.is_file()}, out)
    if options.json:
        document: dict[str, Any] = {"runs": documents, "figures": [str(path) for path in written]}
        if study is not None:
            document |= findings.document(study)
        if statistics is not None:
            document["statistics"] = findings.document(statistics)
        console.emit(document)
        return 0 if concluded else 1
    rows = [_row(run, document) for run, document in documents.items()]
    ended = ("run", "method", "status", "best fitness", "loss", "gradient norm", "test loss")
    console.table("runs", ended, rows)
    for found in filter(None, (study, statistics)):
        findings.tell(found)
    console.note(f"pictures in {out / 'figures'}")
    return 0 if concluded else 1


def _curves(histories: dict[str, Path], out: Path) -> list[Path]:
    """The pictures of the learning curves of the runs that have a history."""
    from figures.catalogue import compared
    from figures.style import save
    from landscape.results import load

    if not histories:
        return []
    names = {run: Path(run).name for run in histories}
    distinct = len(set(names.values())) == len(names)
    found = {names[run] if distinct else run: load(path) for run, path in histories.items()}
    return list(save(compared(found), out / "figures" / "learning-curves"))  # type: ignore[arg-type]


def _study(options: Namespace) -> Any:
    from analyses.flatness import Config

    names = tuple(name.strip() for name in options.measures.split(",") if name.strip())
    config = Config(
        runs=tuple(options.runs), measures=names, criterion=options.criterion,
        split=options.split, resamples=options.resamples, seed=options.seed,
        device=options.device, evaluate=options.eval_mode,
    )  # fmt: skip
    return studied("flatness", config, options)["flatness"]


def _compared(options: Namespace) -> Any:
    from analyses.comparison import Config

    config = Config(
        runs=tuple(options.runs), criterion=options.criterion, split=options.split,
        reference=options.reference, margin=options.margin, effect=options.effect,
        resamples=options.resamples, seed=options.seed, device=options.device,
    )  # fmt: skip
    return studied("comparison", config, options)["comparison"]


def _told(statistics: Any) -> bool:
    from analyses.comparison import decided

    return decided(statistics)


def _decided(study: Any) -> bool:
    from analyses.verdict import decided

    return decided(study)


def _row(run: str, document: dict[str, Any]) -> tuple[Any, ...]:
    test = document["best"]["metrics"]["test"].get("loss", "")
    best = document["best"]
    names = ("fitness", "loss", "gradient_norm")
    return (run, document["method"], document["status"], *(best[name] for name in names), test)
