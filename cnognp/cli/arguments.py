"""Arguments that verbs share: names that bring keys of their own, and configuration files."""

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import SUPPRESS, ArgumentParser

# Flags that take no value, so that the word behind them may be the TASK.
_SWITCHES = ("--resume", "--json", "--help", "--eval-mode")


def spelled_out(
    argv: Sequence[str], positional: str | None, nouns: Sequence[str] = ("task", "method")
) -> list[str]:
    """The arguments with ``--method NAME`` as ``--method.name NAME``, and TASK likewise.

    A name and its keys share one group, so the name is a key of it.

    Args:
        argv: what was typed after the verb.
        positional: noun that the first bare word names, or None.
        nouns: the groups.
    """
    words: list[str] = []
    expects_value = False
    for word in argv:
        flag, equals, value = word.partition("=")
        if flag in {f"--{noun}" for noun in nouns}:
            word = f"{flag}.name{equals}{value}"
        elif positional and not expects_value and not word.startswith("-"):
            words += [f"--{positional}.name", word]
            positional = None
            continue
        expects_value = word.startswith("--") and "=" not in word and word not in _SWITCHES
        words.append(word)
    return words


def name_in(argv: Sequence[str], noun: str, file: Mapping[str, Any], default: str) -> str:
    """The name that the arguments give, else the file, else the default."""
    found = default
    if noun in file:
        found = file[noun].get("name", default)
    flag = f"--{noun}.name"
    for position, word in enumerate(argv):
        if word == flag and position + 1 < len(argv):
            found = argv[position + 1]
        elif word.startswith(f"{flag}="):
            found = word.partition("=")[2]
    return found


def read_config(argv: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The configuration file named by ``--config``, and the arguments with its text in place.

    Raises:
        ValueError: if the file is no mapping.
        FileNotFoundError: if there is none.
    """
    words, tree = list(argv), {}
    for position, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag != "--config" or (not equals and position + 1 == len(words)):
            continue
        path = Path(value if equals else words[position + 1])
        tree = _tree(path)
        words[position : position + (1 if equals else 2)] = ["--config", json.dumps(tree)]
        # Flags win over the file, wherever they stand.
        words = ["--config", json.dumps(tree), *words[:position], *words[position + 2 :]]
        break
    return tree, words


def add_group(
    parser: ArgumentParser, noun: str, name: str, known: Mapping[str, Callable[..., Any]], hint: str
) -> None:
    """Adds ``--noun.name`` and the keys of the callable called ``name``.

    Raises:
        ValueError: if there is no such name.
    """
    parser.add_argument(f"--{noun}.name", type=str, default=name, help=SUPPRESS)
    if name not in known:
        raise ValueError(unknown(noun, name, known))
    skip = {"seed", "data"} if noun == "task" else set()
    parser.add_function_arguments(known[name], noun, skip=skip, fail_untyped=False)
    action = parser._option_string_actions.get(f"--{noun}")
    if action is not None:
        action.metavar, action.help = "NAME", hint


def unknown(noun: str, name: str, known: Mapping[str, Any]) -> str:
    """The message for a name that does not exist."""
    close = difflib.get_close_matches(name, list(known), n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"unknown {noun} {name!r}; {hint}there are {', '.join(known)}"


def _tree(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path} must hold keys and values, as run.yaml does")
    for noun in ("task", "method"):
        if isinstance(tree.get(noun), str):
            tree[noun] = {"name": tree[noun]}
    return tree
