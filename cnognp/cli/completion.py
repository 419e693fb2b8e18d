"""``cnognp --print_completion SHELL``: what a shell needs to complete the command, by shtab."""

import argparse
import importlib
from collections.abc import Mapping
from typing import Any

import shtab
from jsonargparse import SUPPRESS, ArgumentParser

from cnognp.cli import study
from cnognp.methods import METHODS
from cnognp.tasks.registry import TASKS

_SHELLS = tuple(shtab.SUPPORTED_SHELLS)

_FOLDERS = ("run", "out", "data")
_FILES = ("config", "point")


def script(shell: str, verbs: Mapping[str, str]) -> str:
    """The completion script for a shell; it knows every verb with its options.

    Args:
        shell: one that shtab knows.
        verbs: the verbs, each with the line that describes it.

    Raises:
        ValueError: if the shell is not known.
    """
    if shell not in _SHELLS:
        raise ValueError(f"--print_completion takes {', '.join(_SHELLS)}, got {shell!r}")
    root = argparse.ArgumentParser("cnognp")
    root.add_argument("--version", action="store_true", help="print version and exit")
    subparsers = root.add_subparsers()
    for verb, line in verbs.items():
        copy = subparsers.add_parser(verb, help=line, description=line)
        if verb == "train":
            copy.add_argument("task", choices=list(TASKS), help="what to train on")
        if verb == "study":
            _studies(copy)
            continue
        for method in METHODS if verb in ("train", "demo") else ("",):
            parser = ArgumentParser(exit_on_error=False, print_config=None)
            argv = ["--method", method] if method else []
            importlib.import_module(f"cnognp.cli.{verb}").prepare(parser, argv)
            _copy(parser, copy)
    return shtab.complete(root, shell)


def _studies(copy: argparse.ArgumentParser) -> None:
    """Adds every study with its options."""
    copy.add_argument("--json", action="store_true", help="one object on standard output")
    own = copy.add_subparsers()
    for name, question in study.studies().items():
        parser = ArgumentParser(exit_on_error=False, print_config=None)
        study.add_running(parser, name)
        for field, line in study.fields_of(name).items():
            parser.add_argument(f"--{field}", type=str, help=line)
        _copy(parser, own.add_parser(name, help=question))


def _copy(parser: ArgumentParser, copy: argparse.ArgumentParser) -> None:
    """Adds the options of a parser, where they are not there yet."""
    known = {"task.name", *(action.dest for action in copy._actions)}
    for action in parser._actions:
        if action.help == SUPPRESS or action.dest in known:
            continue
        names = action.option_strings or [action.dest]
        if action.nargs == 0:
            copy.add_argument(*names, action="store_true", help=action.help)
            continue
        choices = list(METHODS) if names[-1] == "--method" else None
        # argparse would name it after a short form, and so not know it when it comes again.
        named: dict[str, Any] = {"dest": action.dest} if action.option_strings else {}
        added = copy.add_argument(
            *names, **named, nargs=action.nargs, choices=choices, help=_text(action.help)
        )
        if action.dest in (*_FOLDERS, *_FILES):
            kind = shtab.DIRECTORY if action.dest in _FOLDERS else shtab.FILE
            added.complete = kind  # type: ignore[attr-defined]


def _text(help: str | None) -> str:
    return (help or "").replace("%", "%%")
