"""``cnognp study``: the studies that there are; runs, resumes and draws any of them."""

import ast
import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_origin, get_type_hints

import yaml
from docstring_parser import parse
from jsonargparse import ArgumentParser, Namespace

import analyses
from cnognp.cli import arguments, console, findings
from cnognp.cli.plot import draw
from landscape.files import check_writable, replacing

if TYPE_CHECKING:
    from landscape.results import Result


def prepare(parser: ArgumentParser, argv: list[str]) -> list[str]:
    """Adds the arguments: those of the study that comes first.

    Raises:
        ValueError: if there is no such study.
    """
    known = studies()
    name = argv[0] if argv and not argv[0].startswith("-") else ""
    parser.usage = f"cnognp study {name or '[NAME]'} [its options] [--out DIR] [options]"
    parser.description = "; ".join(f"{study}: {line}" for study, line in known.items())
    parser.add_argument("name", type=str, nargs="?", default="", help="comes first")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    if not name:
        return argv
    if name not in known:
        raise ValueError(arguments.unknown("study", name, known))
    module = _module(name)
    parser.description = (module.__doc__ or "").replace("`", "")
    hint = "YAML file with options of the study, for instance a config.yaml of one; flags win"
    parser.add_argument("--config", action="config", help=hint)
    add_running(parser, name)
    parser.add_class_arguments(module.Config, fail_untyped=False)
    arguments.unmark(parser)
    return _spelled_out(argv, get_type_hints(module.Config))


def add_running(parser: ArgumentParser, name: str) -> None:
    """Adds what every study is run with."""
    hint = f"folder of results, pictures and units; runs/{name} if none"
    parser.add_argument("--out", type=str, default=f"runs/{name}", help=hint)
    add_sharing(parser)


def add_sharing(parser: ArgumentParser) -> None:
    """Adds how a study is shared among processes, and resumed."""
    hint = "go on: what units left under OUT/units with the same options is taken"
    parser.add_argument("--resume", action="store_true", help=hint)
    arguments.add_engine(parser, "the units of the study", threads=1)


def command(options: Namespace) -> None:
    """Lists the studies, or runs one, draws it, and prints what came out.

    Raises:
        ValueError: if the study cannot be run with these options.
    """
    if not options.name:
        known = studies()
        if options.json:
            console.emit({"studies": known})
        else:
            console.table("", ("study", "question"), known.items())
        return
    config = _config(_module(options.name).Config, options)
    results = studied(options.name, config, options)
    if options.json:
        console.emit(findings.document(next(iter(results.values()))))
        return
    for found in results.values():
        findings.tell(found)
    console.note(f"pictures in {Path(options.out) / 'figures'}")


def studied(name: str, config: Any, options: Namespace) -> "dict[str, Result]":
    """The results of a study by name, saved, told and drawn under ``options.out``.

    Args:
        name: of the study.
        config: what is run.
        options: those that `add_sharing` adds, and ``out``.
    """
    from cnognp.workers import Unit, results_of
    from landscape.results import save

    module = _module(name)
    if hasattr(module, "units"):
        units, joined = module.units(config), module.joined
    else:
        units, joined = [Unit(name, module.study, config)], _alone(name)
    further = getattr(module, "further", None)
    # What is not there is said before anything is waited for.
    getattr(module, "check", lambda config: None)(config)
    with arguments.engine(options) as executor:
        folder = check_writable(Path(options.out) / "analysis").parent
        tree = console.plain(asdict(config))
        with replacing(folder / "config.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
        if not options.resume:
            _set_aside(folder / "units")

        def done(listed: Sequence[Unit]) -> "list[Result]":
            with _progress(name, len(listed)) as told:
                return results_of(
                    listed, folder / "units", executor=executor, resume=options.resume,
                    progress=told,
                )  # fmt: skip

        found = done(units)
        if further is not None:
            # Units of what the first ones have found.
            found = [*found, *done(further(config, found))]
    results = joined(config, found)
    files = [folder / "analysis" / f"{each}.h5" for each in results]
    for file, result in zip(files, results.values(), strict=True):
        save(result, file)
    with replacing(folder / "summary.md") as temporary:
        temporary.write_text(findings.summary(results), encoding="utf-8")
    draw(files, folder / "figures")
    return results


def _set_aside(units: Path) -> None:
    """Nothing; units that an earlier run left, which this one does not take, have a new folder."""
    if not any(units.glob("*.h5")):
        return
    number = 2
    while (other := units.with_name(f"{units.name}-{number}")).exists():
        number += 1
    units.rename(other)
    console.note(f"units of an earlier run are now in {other}; --resume would have taken them")


def studies() -> dict[str, str]:
    """The studies by name, each with its question: what has a `Config` and a `study` in analyses.

    They are read and not imported, since they need torch.
    """
    found = {}
    for path in sorted(Path(analyses.__path__[0]).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if {"Config", "study"} <= {getattr(node, "name", "") for node in tree.body}:
            line = (ast.get_docstring(tree) or "").partition("\n")[0]
            found[path.stem.replace("_", "-")] = line
    return found


def fields_of(name: str) -> dict[str, str]:
    """The fields of a study's `Config`, each with what is said of it; read and not imported."""
    path = Path(analyses.__path__[0]) / f"{name.replace('-', '_')}.py"
    classes = [n for n in ast.parse(path.read_text("utf-8")).body if isinstance(n, ast.ClassDef)]
    (config,) = (node for node in classes if node.name == "Config")
    said = {p.arg_name: p.description or "" for p in parse(ast.get_docstring(config) or "").params}
    lines = [node.target for node in config.body if isinstance(node, ast.AnnAssign)]
    return {line.id: said.get(line.id, "") for line in lines if isinstance(line, ast.Name)}


def _module(name: str) -> Any:
    return importlib.import_module(f"analyses.{name.replace('-', '_')}")


def _alone(name: str) -> Callable[[Any, Any], Mapping[str, Any]]:
    return lambda config, found: {name: found[0]}


@contextmanager
def _progress(name: str, total: int):
    with console.bar() as bar:
        line = bar.add_task(name, total=total, note="")
        yield lambda unit: bar.update(line, advance=1, note=unit)


def _spelled_out(argv: list[str], hints: Mapping[str, Any]) -> list[str]:
    """The arguments with ``--gradient-tolerance`` as the field is called, and ``a,b`` as a list."""
    words = []
    listed = False
    for word in argv:
        flag, equals, value = word.partition("=")
        field = flag.removeprefix("--").replace("-", "_")
        if listed:
            word = arguments.bracketed(word)
        if word.startswith("--") and field in hints:
            word = f"--{field}{equals}{value}"
            listed = get_origin(hints[field]) is tuple
            if listed and equals:
                word = f"--{field}={arguments.bracketed(value)}"
            listed = listed and not equals
        else:
            listed = False
        words.append(word)
    return words


def _config(cls: Any, options: Namespace) -> Any:
    """The configuration that the options are."""
    hints = get_type_hints(cls)
    given = {field.name: options[field.name] for field in fields(cls)}
    return cls(**{
        name: _config(hints[name], value) if is_dataclass(hints[name]) else value
        for name, value in given.items()
    })
