"""``cnognp analyze``: measurements of a run, or of the weights of any model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from cnognp.cli import console
from cnognp.config import RunFolder

_KINDS = "gradient,spectrum,line,plane"


def prepare(parser: ArgumentParser, argv: list[str]) -> list[str]:
    """Adds the arguments."""
    parser.usage = "cnognp analyze RUN | my_task.py:make_task [--point FILE] [options]"
    parser.add_argument("run", type=str, help="folder of a run, or my_task.py:make_task")
    parser.add_argument("--only", type=str, default=_KINDS, help="what to measure")
    parser.add_argument("--member", type=str, default="best", help="best, all, or an index")
    parser.add_argument("--checkpoint", type=str, default="last", help="last, all, or a round")
    parser.add_argument("--point", type=str, default=None, help="safetensors file of weights")
    parser.add_argument("--out", type=str, default=None, help="folder of the results")
    parser.add_argument("--data", type=str, default=None, help="folder of the task's data")
    parser.add_argument("--k", type=int, default=5, help="number of eigenvalues")
    parser.add_argument("--which", type=str, default="LM", help="LM, LA, SA or BE")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="of the eigenvalues")
    parser.add_argument("--points", type=int, default=101, help="points along a line")
    parser.add_argument("--grid", type=int, default=41, help="points along a side of a plane")
    parser.add_argument("--span", type=float, default=1.0, help="slices reach from -span to span")
    parser.add_argument("--seed", type=int, default=0, help="of directions and starting vectors")
    parser.add_argument(
        "--device", type=str, default="", help="as in train; that of the run if none"
    )
    parser.add_argument("--eval-mode", action="store_true", help="measure without dropout")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    return argv


def command(options: Namespace) -> None:
    """Measures, saves, and prints what came out."""
    from cnognp import analysis
    from cnognp.measures import Settings

    settings = Settings(
        k=options.k, which=options.which, tolerance=options.tolerance, points=options.points,
        grid=options.grid, span=options.span, seed=options.seed,
    )  # fmt: skip
    kinds = [kind.strip() for kind in options.only.split(",") if kind.strip()]
    folder = _folder(options)
    found: dict[str, Any] = {}
    with console.bar() as bar:
        line = bar.add_task("measuring", total=None, note="")
        for subject in _subjects(options):
            _check(subject)
            found |= analysis.analyze(
                subject, folder, kinds, settings, lambda name: bar.update(line, note=name)
            )
    if options.json:
        document = {name: _numbers(result) for name, result in found.items()}
        console.emit({"folder": str(folder), "results": document})
        return
    rows = [(name, *_line(result)) for name, result in found.items()]
    console.table(str(folder), ("result", "what it says", "how it ended"), rows)


def _check(subject: Any) -> None:
    """Nothing, if the model gives the same output twice.

    Raises:
        RuntimeError: if one of its modules draws random numbers.
    """
    random = subject.problem.as_given.stochastic_modules()
    if random:
        raise RuntimeError(
            f"the loss is random, so no measurement of it means anything; found {', '.join(random)}"
            ". Measure the model in evaluation mode with --eval-mode"
        )


def _folder(options: Namespace) -> Path:
    if options.out:
        return Path(options.out) / "analysis"
    if _is_file(options.run):
        return Path("runs") / Path(options.run.rpartition(":")[0]).stem / "analysis"
    return RunFolder(Path(options.run)).analysis


def _is_file(run: str) -> bool:
    return run.rpartition(":")[0].endswith(".py")


def _subjects(options: Namespace) -> Iterator[Any]:
    """What is measured, one checkpoint after the other.

    Raises:
        ValueError: if an argument belongs to another kind of subject.
    """
    from cnognp import analysis, checkpoint
    from cnognp.problem import Problem, choose_device, task_of

    if _is_file(options.run):
        data = {} if options.data is None else {"data": options.data}
        task = task_of(options.run, 0, data)
        if options.eval_mode:
            task.model.eval()
        problem = Problem(task, choose_device(options.device or "auto"))
        yield analysis.of_weights(problem, options.point and Path(options.point))
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
        yield analysis.of_run(run, options.member, step, options.device, options.eval_mode)


def _numbers(result: Any) -> dict[str, Any]:
    """The fields of a result; a plane only by its extent, since it is in its file."""
    kind = type(result).__name__
    names = [name for name in vars(result) if name not in ("provenance", "vectors")]
    if kind in ("Line", "Surface"):
        finite = result.loss[(result.loss == result.loss) & (abs(result.loss) != float("inf"))]
        extent = {"min": finite.min(initial=float("inf")), "max": finite.max(initial=-float("inf"))}
        return {"kind": kind, "center": result.center, "shape": result.loss.shape, **extent}
    return {"kind": kind, **{name: getattr(result, name) for name in names}}


def _line(result: Any) -> tuple[str, str]:
    """A result in words, and how it ended."""
    kind = type(result).__name__
    if kind == "Spectrum":
        pairs = zip(result.eigenvalues, result.bounds, strict=True)
        values = ", ".join(f"{value:.5g} ± {bound:.1g}" for value, bound in pairs)
        return f"eigenvalues {values}", f"{result.status}, {result.products} products"
    if kind == "Gradients":
        norms = result.gradient_norm
        return f"gradient norms {norms.min():.4g} to {norms.max():.4g}", f"{len(norms)} members"
    inside = result.loss[abs(result.loss) < float("inf")]
    extent = f"loss {inside.min():.5g} to {inside.max():.5g}" if inside.size else "no finite loss"
    return f"{extent}, {result.center:.5g} at the point", f"{result.loss.size} points"
