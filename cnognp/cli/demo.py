"""``cnognp demo``: where a method ends on two-dimensional test functions."""

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from cnognp.cli import arguments, console
from cnognp.cli.plot import draw
from cnognp.methods import METHODS

_FUNCTIONS = ("himmelblau", "three-hump-camel", "six-hump-camel")


def prepare(parser: ArgumentParser, argv: list[str]) -> list[str]:
    """Adds the arguments."""
    argv = arguments.spelled_out(argv, None)
    method = arguments.name_in(argv, "method", {}, "gd")
    parser.usage = "cnognp demo [FUNCTION ...] [--method NAME] [--method.KEY VALUE]... [options]"
    parser.add_argument("functions", type=str, nargs="*", help=f"{', '.join(_FUNCTIONS)} if none")
    parser.add_argument("--restarts", type=int, default=500, help="starts, uniform in the box")
    parser.add_argument("--iterations", type=int, default=None, help="steps; what settles if none")
    parser.add_argument("--members", type=int, default=20, help="particles of a swarm")
    parser.add_argument("--seed", type=int, default=0, help="of the starts and of the method")
    parser.add_argument(
        "--tolerance", type=float, default=0.1, help="distance that counts as there"
    )
    parser.add_argument("--out", type=str, default="runs/demo", help="folder of results, pictures")
    parser.add_argument(
        "--table", action="store_true", help="all methods of the published table, side by side"
    )
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    hint = f"one of {', '.join(METHODS)}; the keys shown are those of {method}"
    arguments.add_group(parser, "method", method, METHODS, hint)
    return argv


def command(options: Namespace) -> None:
    """Runs the study for each function, draws it, and prints the shares."""
    if options.table:
        from cnognp.cli.distribution import tabulate

        tabulate(options)
        return
    from analyses.stationary import Config, study
    from landscape import results

    given = options.method.as_dict()
    name = given.pop("name")
    configs = [
        Config(
            function=function,
            method=name,
            restarts=options.restarts,
            iterations=options.iterations,
            method_options=_chosen(name, given),
            members=options.members,
            seed=options.seed,
            tolerance=options.tolerance,
        )
        for function in options.functions or _FUNCTIONS
    ]
    folder = Path(options.out)
    (folder / "analysis").mkdir(parents=True, exist_ok=True)
    documents, files = [], []
    with console.bar() as bar:
        line = bar.add_task(name, total=len(configs), note="")
        for config in configs:
            bar.update(line, note=config.function)
            result = study(config)
            files.append(folder / "analysis" / f"{config.function}-{name}.h5")
            results.save(result, files[-1])
            documents.append(_document(result))
            bar.update(line, advance=1)
    draw(files, folder / "figures")
    if options.json:
        several = {"method": name, "functions": documents}
        console.emit(documents[0] if len(documents) == 1 else several)
        return
    for document in documents:
        rows = [
            (end, share, "{:.4f} to {:.4f}".format(*document["intervals"][end]))
            for end, share in document["shares"].items()
        ]
        title = f"{document['function']}, {name}, {options.restarts} restarts: {document['status']}"
        console.table(title, ("end", "share", "95 % interval"), rows)
    console.note(f"pictures in {folder / 'figures'}")


def _chosen(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The keys that differ from the method's own defaults; the study has defaults of its own."""
    import inspect

    defaults = {k: p.default for k, p in inspect.signature(METHODS[name]).parameters.items()}
    return {key: value for key, value in given.items() if value != defaults[key]}


def _document(result: Any) -> dict[str, Any]:
    ends = (*result.names, "else")
    return {
        "function": result.function,
        "method": result.method,
        "restarts": result.restarts,
        "status": result.status,
        "shares": dict(zip(ends, result.share.tolist(), strict=True)),
        "counts": dict(zip(ends, result.counts.tolist(), strict=True)),
        "intervals": {
            end: [float(low), float(high)]
            for end, low, high in zip(ends, result.low, result.high, strict=True)
        },
    }
