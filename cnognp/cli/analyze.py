"""``cnognp analyze``: measurements of a run, or of the weights of any model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonargparse import SUPPRESS, ArgumentParser, Namespace

from cnognp.cli import console, words
from cnognp.cli.arguments import value_of
from cnognp.training.config import RunFolder

_KINDS = "gradient,spectrum,trace,line,plane"
_FLATNESS = "--sharpness."
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_DIGITS = tuple(".0123456789")


def prepare(parser: ArgumentParser, argv: list[str]) -> list[str]:
    """Adds the arguments."""
    parser.usage = "cnognp analyze RUN | my_task.py:make_task [--point FILE] [options]"
    parser.add_argument("run", type=str, help="folder of a run, or my_task.py:make_task")
    parser.add_argument(
        "--only", type=str, default=_KINDS,
        help="what to measure: gradient, spectrum, trace, finite-scale (mean curvature at a "
        "distance), density, sharpness, line, plane; comma-separated",
    )  # fmt: skip
    parser.add_argument("--member", type=str, default="best", help="best, all, or an index")
    parser.add_argument("--checkpoint", type=str, default="last", help="last, all, or a round")
    parser.add_argument(
        "--point", type=str, default=None,
        help="file of weights: .safetensors, or a state dict in .pt, .pth, .ckpt",
    )  # fmt: skip
    parser.add_argument("--out", type=str, default=None, help="folder of the results")
    parser.add_argument("--data", type=str, default=None, help="folder of the task's data")
    parser.add_argument("--seed", type=int, default=0, help="of directions and random vectors")
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
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    _curvature(parser.add_argument_group("spectrum, trace, finite-scale, density"))
    _slices(parser.add_argument_group("line, plane"))
    flat = parser.add_argument_group("sharpness")
    flat.add_argument(
        "--measures", type=str, default="", help="names, comma-separated; all if none"
    )
    helps = "-h" in argv or "--help" in argv
    if any(word.startswith(_FLATNESS) for word in argv) or (
        helps and "sharpness" in (value_of(argv, "--only") or "")
    ):
        # Radii and budgets come with torch, which help without them does not need.
        from landscape.sharpness import Options

        parser.add_class_arguments(Options, _FLATNESS.strip("-."))
    elif helps:
        flat.add_argument(
            "--sharpness.KEY", type=str, default=SUPPRESS,
            help="radii and budgets; cnognp analyze RUN --only sharpness --help lists them",
        )  # fmt: skip
    return _joined(argv)


def _curvature(group: Any) -> None:
    group.add_argument(
        "--operator", type=str, default="hessian",
        help="the matrix: hessian, gauss-newton, fisher-categorical, fisher-gaussian or "
        "empirical-fisher",
    )  # fmt: skip
    group.add_argument(
        "--where", type=str, default="",
        help="only its rows and columns of these layers or tensors, comma-separated, * and ? "
        "allowed; all if not given",
    )  # fmt: skip
    group.add_argument("--k", type=int, default=5, help="number of eigenvalues")
    group.add_argument("--which", type=str, default="LM", help="LM, LA, SA or BE")
    group.add_argument("--tolerance", type=float, default=1e-3, help="of the eigenvalues, relative")
    group.add_argument(
        "--crosscheck", action="store_true", help="eigenvalues and trace by PyHessian too"
    )
    group.add_argument(
        "--trace-method", type=str, default="auto",
        help="exact (piecewise linear networks), hutchinson, or auto: exact where that holds",
    )  # fmt: skip
    group.add_argument("--probes", type=int, default=100, help="random vectors of the trace")
    group.add_argument(
        "--scales", type=str, default="1e-3,3e-3,1e-2,3e-2,1e-1",
        help="distances of finite-scale, standard deviations of each parameter",
    )  # fmt: skip
    group.add_argument("--density-steps", type=int, default=100, help="products for each probe")
    group.add_argument("--density-probes", type=int, default=10, help="random vectors")


def _slices(group: Any) -> None:
    group.add_argument("--points", type=int, default=101, help="points along a line")
    group.add_argument(
        "--grid",
        type=str,
        default="41",
        metavar="N | NxM",
        help="points along the sides of a plane",
    )
    group.add_argument(
        "--span", type=str, default="1.0", metavar="S | A:B",
        help="slices reach from -S to S, or from A to B (--span=-0.5:1)",
    )  # fmt: skip
    group.add_argument(
        "--direction", type=str, default="random",
        help="random, eigenvectors, gradient, pca of the population, or a file of other weights "
        "(.safetensors, .pt), which are then at 1",
    )  # fmt: skip
    group.add_argument(
        "--by", type=str, default="",
        help="directions are normalised by filter, layer, model or none; "
        "filter for random ones and none for others if not given",
    )  # fmt: skip
    group.add_argument(
        "--seeds", type=int, default=1, help="directions of a line; a band from 2 on"
    )
    group.add_argument(
        "--metrics", type=str, default="",
        help="further numbers at each point: gradient_norm, lambda_max, trace, metrics of the "
        "task, test_loss and the like",
    )  # fmt: skip
    group.add_argument(
        "--standard-errors",
        action="store_true",
        help="of the loss, over batches of data (16 of them where it is one)",
    )
    group.add_argument(
        "--adaptive", action="store_true", help="measure a plane where it bends, fill in the rest"
    )
    group.add_argument(
        "--statistics", type=str, default="as given",
        help="of BatchNorm: as given, or reestimated at every point of a slice",
    )  # fmt: skip
    group.add_argument("--precision", type=str, default="same", help="same, or bfloat16")


def command(options: Namespace) -> None:
    """Measures, saves, and prints what came out.

    Raises:
        Exception: what a measurement raises, when it is said what was saved before.
        KeyboardInterrupt: likewise.
    """
    from cnognp.measuring import subjects

    settings = settings_of(options)
    kinds = _names(options.only) + ["crosscheck"] * options.crosscheck
    folder = _folder(options)
    found: dict[str, Any] = {}
    with console.bar() as bar:
        line = bar.add_task("measuring", total=None, note="")

        def told(name: str, done: int, total: int) -> None:
            bar.update(line, note=name, completed=done, total=total if total > 1 else None)

        try:
            for subject in _subjects(options):
                _check(subject)
                for name, result in subjects.measured(subject, folder, kinds, settings, told):
                    found[name] = result
        except (Exception, KeyboardInterrupt):
            if found:
                console.note(f"saved before that, in {folder}: {', '.join(found)}")
            raise
    if options.unchecked:
        console.note("not checked: whether the loss is one function of the parameters alone")
    for name, result in found.items():
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
        document = {name: words.numbers(result) for name, result in found.items()}
        console.emit({"folder": str(folder), "results": document})
        return
    rows = [(name, *words.summary(result)) for name, result in found.items()]
    console.table(str(folder), ("result", "what it says", "how it ended"), rows)
    for name, result in found.items():
        for title, columns, entries in words.tables(result):
            console.table(f"{name}: {title}", columns, entries)


def settings_of(options: Namespace) -> Any:
    """The settings that the arguments ask for.

    Raises:
        ValueError: if one is out of range.
    """
    from cnognp.measuring.measures import Settings
    from landscape.sharpness import Options

    flat = vars(options).get("sharpness")
    return Settings(
        operator=options.operator, where=_names(options.where), scales=_numbers(options.scales),
        k=options.k, which=options.which, tolerance=options.tolerance,
        trace_method=options.trace_method, probes=options.probes,
        density_steps=options.density_steps, density_probes=options.density_probes,
        points=options.points, grid=_sides(options.grid), span=_reach(options.span),
        direction=options.direction, by=options.by, seeds=options.seeds,
        metrics=_names(options.metrics), standard_errors=options.standard_errors,
        adaptive=options.adaptive, precision=options.precision, statistics=options.statistics,
        measures=_names(options.measures), seed=options.seed,
        sharpness=Options(**flat.as_dict()) if flat else Options(),
    )  # fmt: skip


def _names(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]


def _numbers(words: str) -> list[float]:
    """The numbers.

    Raises:
        ValueError: if a word is none.
    """
    try:
        return [float(word) for word in _names(words)]
    except ValueError:
        raise ValueError(f"scales must be numbers, comma-separated, got {words!r}") from None


def _sides(words: str) -> int | tuple[int, int]:
    """The points along each side of a plane, or along one and the other.

    Raises:
        ValueError: if the text says neither.
    """
    try:
        sides = [int(word) for word in words.lower().split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2):
        raise ValueError(f"--grid: expected points such as 41, or 41x21, got {words}")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _reach(words: str) -> float | tuple[float, float]:
    """How far slices reach, or from where to where.

    Raises:
        ValueError: if the text says neither.
    """
    try:
        ends = [float(word) for word in words.split(":")]
    except ValueError:
        ends = []
    if len(ends) not in (1, 2):
        raise ValueError(
            f"--span: expected a number such as 0.5, or two such as -0.5:1, got {words}"
        )
    return ends[0] if len(ends) == 1 else (ends[0], ends[1])


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
        yield subjects.of_weights(problem, options.point and Path(options.point))
        return
    if options.point is not None or options.data is not None:
        raise ValueError("--point and --data go with my_task.py:make_task, not with a run")
    run = RunFolder(Path(options.run))
    run.config()
    for path in run.newest()[1] if options.checkpoint == "last" else ():
        console.note(f"{path} is damaged; measuring the checkpoint before it")
    steps = [options.checkpoint]
    if options.checkpoint == "all":
        steps = [str(step) for step in checkpoint.steps(run.checkpoints)]
    for step in steps:
        yield subjects.of_run(
            run, options.member, step, options.device, options.eval_mode, **_trust(options)
        )


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
