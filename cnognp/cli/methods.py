"""``cnognp methods``: what a population can be moved by."""

import inspect

from docstring_parser import parse
from jsonargparse import ArgumentParser, Namespace

from cnognp.cli import console
from cnognp.cli.arguments import unknown
from cnognp.methods import METHODS


def prepare(parser: ArgumentParser, argv: list[str]) -> list[str]:
    """Adds the arguments."""
    parser.add_argument("name", type=str, nargs="?", help="a method, to see its keys")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    return argv


def command(options: Namespace) -> None:
    """Prints a line for each method, or for each key of one.

    Raises:
        ValueError: if there is no such method.
    """
    if options.name is None:
        lines = {name: parse(build.__doc__).short_description for name, build in METHODS.items()}
        if options.json:
            console.emit({"methods": lines})
        else:
            console.table("", ("method", "what it does"), lines.items())
        return
    if options.name not in METHODS:
        raise ValueError(unknown("method", options.name, METHODS))
    build = METHODS[options.name]
    described = {p.arg_name: p.description for p in parse(build.__doc__).params}
    keys = inspect.signature(build).parameters.values()
    rows = [(k.name, k.default, " ".join((described.get(k.name) or "").split())) for k in keys]
    if options.json:
        keys_by_name = {name: {"default": value, "help": text} for name, value, text in rows}
        console.emit({"method": options.name, "keys": keys_by_name})
    else:
        console.table(
            parse(build.__doc__).short_description or "", ("key", "default", "meaning"), rows
        )
