"""``cnognp demo``: where a method ends on test functions, one picture each."""

import inspect
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from cnognp.cli import arguments, console, findings
from cnognp.cli.plot import draw
from cnognp.methods import METHODS
from landscape.files import check_writable

_FUNCTIONS = ("himmelblau", "three-hump-camel", "six-hump-camel")
_MOVED = MappingProxyType({
    "--table": "distribution",
    "--flat": "flat-minima",
    "--paths": "walks",
    "--cycle": "cycle",
})
_DESCRIPTION = (
    "Where does a method end that starts anywhere in the box of a test function? Restarts are "
    "drawn uniformly, run, and counted at each minimum, with 95 % intervals and the exact areas "
    "of the basins beside them. Results go to OUT/analysis, pictures to OUT/figures; for more than "
    "that see cnognp study."
)


def prepare(parser: ArgumentParser, argv: list[str]) -> list[str]:
    """Adds the arguments.

    Raises:
        ValueError: if they ask for what is a study of its own.
    """
    for flag in _MOVED:
        if flag in argv:
            raise ValueError(f"{flag} is a study of its own; use: cnognp study {_MOVED[flag]}")
    argv = arguments.spelled_out(argv, None)
    method = arguments.name_in(argv, "method", {}, "gd")
    parser.description = _DESCRIPTION
    parser.usage = "cnognp demo [FUNCTION ...] [--method NAME] [--method.KEY VALUE]... [options]"
    text = f"names of test functions; where none is given {', '.join(_FUNCTIONS)}"
    parser.add_argument("functions", type=str, nargs="*", default=[], help=text)
    numbers = {
        "restarts": "independent starts, or independent swarms; 500 if none",
        "iterations": "steps of the method; if none, those that settle on the function",
        "budget": "gradient evaluations of each restart, instead of iterations",
        "members": "particles of a swarm, 20 if none",
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


def command(options: Namespace) -> None:
    """Runs the method on each of the functions, draws where it ends, and prints the shares.

    Raises:
        ValueError: if it cannot be run with these options.
    """
    from analyses.stationary import Config, study
    from landscape import results

    given = options.method.as_dict()
    name = given.pop("name")
    names = ("restarts", "iterations", "budget", "members")
    configs = [
        Config(
            function=function,
            method=name,
            method_options=_chosen(name, given),
            seed=options.seed,
            tolerance=options.tolerance,
            **{key: options[key] for key in names if options[key] is not None},
        )
        for function in options.functions or _FUNCTIONS
    ]
    folder = check_writable(Path(options.out) / "analysis").parent
    found, files = [], []
    with console.bar() as bar:
        line = bar.add_task(name, total=len(configs), note="")
        for config in configs:
            bar.update(line, note=config.function)
            found.append(study(config))
            files.append(folder / "analysis" / f"{config.function}-{name}.h5")
            results.save(found[-1], files[-1])
            bar.update(line, advance=1)
    draw(files, folder / "figures")
    if options.json:
        documents = [findings.document(result) for result in found]
        several = {"method": name, "functions": documents}
        console.emit(documents[0] if len(documents) == 1 else several)
        return
    for result in found:
        findings.tell(result)
    console.note(f"pictures in {folder / 'figures'}")


def _chosen(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The keys that differ from the method's own defaults; the study has defaults of its own."""
    keywords: Callable[..., Any] = METHODS[name]
    defaults = {k: p.default for k, p in inspect.signature(keywords).parameters.items()}
    return {k: value for k, value in given.items() if k in defaults and value != defaults[k]}
