"""``cnognp demo``: where methods end on test functions, and which way they go."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from cnognp.cli import arguments, console
from cnognp.cli.plot import draw
from cnognp.methods import METHODS
from landscape.files import check_writable

_FUNCTIONS = ("himmelblau", "three-hump-camel", "six-hump-camel")
_STUDIES = ("table", "flat", "paths", "cycle")
_DESCRIPTION = (
    "Where does a method end that starts anywhere in the box of a test function? Restarts are "
    "drawn uniformly, run, and counted at each minimum, with 95 % intervals and the exact areas "
    "of the basins beside them. Instead of that, one of four studies: --table, --flat, --paths, "
    "--cycle. Results go to OUT/analysis, pictures to OUT/figures."
)


def prepare(parser: ArgumentParser, argv: list[str]) -> list[str]:
    """Adds the arguments."""
    argv = arguments.spelled_out(argv, None)
    method = arguments.name_in(argv, "method", {}, "gd")
    parser.description = _DESCRIPTION
    parser.usage = (
        "cnognp demo [FUNCTION ...] [--method NAME] [--method.KEY VALUE]... [options]\n"
        "       cnognp demo [FUNCTION ...] --table | --flat | --paths | --cycle [options]"
    )
    text = f"names of test functions; where none is given {', '.join(_FUNCTIONS)}, with --flat "
    text += "f2 and himmelblau, with --paths and --cycle himmelblau"
    parser.add_argument("functions", type=str, nargs="*", default=[], help=text)
    _add_studies(parser)
    numbers = {
        "restarts": "independent starts, or independent swarms; 500 if none, 200 with --flat",
        "iterations": "steps of the method; if none, those that settle on the function. With "
        "--flat: of every swarm, instead of equal evaluations",
        "budget": "gradient evaluations of each restart, instead of iterations",
        "members": "particles of a swarm, 20 if none, 30 with --flat; with --paths how many paths "
        "of each method are drawn, 8 if none",
    }
    for name, hint in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=None, help=hint)
    parser.add_argument("--seed", type=int, default=0, help="of the starts and of the methods")
    text = "distance from a minimum that counts as being there"
    parser.add_argument("--tolerance", type=float, default=0.1, help=text)
    parser.add_argument("--out", type=str, default="runs/demo", help="folder of results, pictures")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    hint = f"one of {', '.join(METHODS)}; the keys shown are those of {method}"
    arguments.add_group(parser, "method", method, METHODS, hint)
    return argv


def _add_studies(parser: ArgumentParser) -> None:
    studies = {
        "table": "the eight methods of a published table side by side, beside its numbers",
        "flat": "do swarms find flat minima? CNO, and CNOGNP by penalty with each fitness, on "
        "functions whose minima are equally deep, at equal evaluations",
        "paths": "which way methods go from the same starts: drawn over contours, as PNG, PDF and "
        "animated GIF, and how low they are by evaluations",
        "cycle": "the 2-cycle in which SAM ends at the sharpest minimum, beside its predicted "
        "amplitude; takes --method sam with --method.lr and --method.rho",
    }
    for name, hint in studies.items():
        parser.add_argument(f"--{name}", action="store_true", help=hint)
    text = "with --table or --paths: these instead, for instance gd,adam,cnognp"
    parser.add_argument("--methods", type=str, default=None, help=text)


def command(options: Namespace) -> None:
    """Runs the study that is asked for, draws it, and prints what came out.

    Raises:
        ValueError: if options contradict each other.
    """
    chosen = [name for name in _STUDIES if options[name]]
    if len(chosen) > 1:
        raise ValueError(f"choose one study, got --{' and --'.join(chosen)}")
    if options.methods is not None and not (options.table or options.paths):
        raise ValueError("--methods goes with --table or --paths; one method is --method NAME")
    if options.table or options.flat:
        from cnognp.cli.distribution import flat, tabulate

        (tabulate if options.table else flat)(options)
    elif options.paths or options.cycle:
        from cnognp.cli.walks import cycle, paths

        (paths if options.paths else cycle)(options)
    else:
        _restarts(options)


def refuse(options: Namespace, study: str, names: tuple[str, ...]) -> None:
    """Nothing, if none of the options was given that a study has no use for.

    Raises:
        ValueError: if one was; names them all.
    """
    given = options.method.as_dict()
    method = given["name"] != "gd" or chosen_keys("gd", given)
    used = [name for name in names if (method if name == "method" else options[name] is not None)]
    if used:
        raise ValueError(f"--{study} has no use for --{', --'.join(used)}: leave it out")


def given_options(options: Namespace, **names: str) -> dict[str, Any]:
    """The options that were given, under the names that a configuration has for them."""
    return {
        field: options[option] for field, option in names.items() if options[option] is not None
    }


def listed(methods: str | None) -> dict[str, Any]:
    """The keyword "methods" of a configuration, where ``--methods`` was given."""
    if methods is None:
        return {}
    return {"methods": tuple(name.strip() for name in methods.split(",") if name.strip())}


def folder_of(options: Namespace) -> Path:
    """The folder of results and pictures, made where it is missing."""
    return check_writable(Path(options.out) / "analysis").parent


def chosen_keys(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The keys that differ from the method's own defaults; studies have defaults of their own."""
    keywords: Callable[..., Any] = METHODS[name]
    defaults = {k: p.default for k, p in inspect.signature(keywords).parameters.items()}
    return {k: value for k, value in given.items() if k in defaults and value != defaults[k]}


def _restarts(options: Namespace) -> None:
    """Where one method ends on each of the functions."""
    from analyses.stationary import Config, study
    from landscape import results

    given = options.method.as_dict()
    name = given.pop("name")
    names = ("restarts", "iterations", "budget", "members")
    configs = [
        Config(
            function=function,
            method=name,
            method_options=chosen_keys(name, given),
            seed=options.seed,
            tolerance=options.tolerance,
            **given_options(options, **{n: n for n in names}),
        )
        for function in options.functions or _FUNCTIONS
    ]
    folder = folder_of(options)
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
        count = document["restarts"]
        title = f"{document['function']}, {name}, {count} restarts: {document['status']}"
        console.table(title, ("end", "share", "95 % interval"), rows)
    console.note(f"pictures in {folder / 'figures'}")


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
