"""Arguments that verbs share: names that bring keys of their own, and configuration files."""

import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import zip_longest
from pathlib import Path
from typing import Any, get_args, get_origin

from jsonargparse import SUPPRESS, ArgumentParser, Namespace

from cnognp.methods.composition import COMPOSED
from cnognp.methods.registry import flattened
from cnognp.training.config import text_of, tree_in

# Flags that take no value, so that the word behind them may be the TASK.
_SWITCHES = ("--resume", "--json", "--quiet", "--compile", "--help", "--eval-mode")
_NOUNS = ("task", "method")
# What others call our options.
_MEANT = {
    "--epochs": "--iterations, which are epochs where a method takes mini-batches",
    "--epoch": "--iterations, which are epochs where a method takes mini-batches",
    "--rounds": "--iterations",
    "--steps": "--iterations",
    "--population": "--members",
    "--output": "--out",
}
# What is composed with a method is said without its group, too.
_COMPOSED = {f"--{key.replace('_', '-')}": key for key in COMPOSED}


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
    return value_of(argv, f"--{noun}.name") or file.get(noun, {}).get("name", default)


def read_config(argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """What the file named by ``--config`` holds, and the arguments without it.

    Raises:
        ValueError: if the file is no mapping, or more than one is named.
        FileNotFoundError: if there is none.
    """
    words = list(argv)
    places = [k for k, word in enumerate(words) if word.partition("=")[0] == "--config"]
    if not places or value_of(words, "--config") is None:
        return {}, words
    if len(places) > 1:
        raise ValueError("--config was given twice; put everything into one file")
    tree = tree_of(Path(value_of(words, "--config") or ""))
    length = 1 if "=" in words[places[0]] else 2
    del words[places[0] : places[0] + length]
    return tree, words


def value_of(argv: Sequence[str], flag: str) -> str | None:
    """The last value that a flag is given."""
    found = None
    for word, following in zip_longest(argv, argv[1:]):
        if word == flag:
            found = following
        elif word.startswith(f"{flag}="):
            found = word.partition("=")[2]
    return found


def over(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Two configurations as one; the upper one wins, key by key.

    The keys of a task or a method belong to its name: under another name they are left out.
    """
    merged = {**lower, **upper}
    for noun in _NOUNS:
        parts = [tree[noun] for tree in (lower, upper) if noun in tree]
        names = {part["name"] for part in parts if "name" in part}
        if len(parts) == 2 and len(names) <= 1:
            merged[noun] = {**parts[0], **parts[1]}
    return merged


def before(argv: Sequence[str], tree: Mapping[str, Any]) -> list[str]:
    """The arguments behind a configuration, so that flags win over it wherever they stand."""
    if not tree:
        return list(argv)
    given = {noun: value_of(argv, f"--{noun}.name") for noun in _NOUNS}
    tree = over(tree, {noun: {"name": name} for noun, name in given.items() if name})
    return ["--config", json.dumps(tree, default=str), *argv]


def add_group(
    parser: ArgumentParser, noun: str, name: str, known: Mapping[str, Callable[..., Any]], hint: str
) -> None:
    """Adds ``--noun.name`` and the keys of the callable called ``name``.

    ``--base``, ``--batch-size`` ... stand for the method's keys of that name.

    Raises:
        ValueError: if there is no such name.
    """
    parser.add_argument(f"--{noun}.name", type=str, default=name, help=SUPPRESS)
    if name not in known:
        raise ValueError(unknown(noun, name, known))
    skip: set[str | int] = {"seed", "data"} if noun == "task" else set()
    parser.add_function_arguments(known[name], noun, skip=skip, fail_untyped=False)
    unmark(parser)
    action = parser._option_string_actions.get(f"--{noun}")
    if action is not None:
        action.metavar, action.help = "NAME", hint
    for flag, key in _COMPOSED.items() if noun == "method" else ():
        action = parser._option_string_actions.get(f"--method.{key}")
        if action is not None:
            action.option_strings = [flag, *action.option_strings]
            parser._option_string_actions[flag] = action


def add_engine(parser: ArgumentParser, shared: str, threads: int = 0) -> None:
    """Adds who does the work, see `engine`.

    Args:
        parser: gets the flags.
        shared: what the workers share.
        threads: of each process where nobody says another number.
    """
    hint = f"processes that share {shared}; the results are the same, whatever their number"
    parser.add_argument("--workers", type=int, default=1, help=hint)
    hint = "of torch in each process; the last bits may depend on it"
    if not threads:
        hint = f"{hint}. 0: its choice in one process, 1 in workers"
    parser.add_argument("--threads", type=int, default=threads, help=hint)
    hint = (
        "who does the work: pool, processes of this machine; ray, the cluster that RAY_ADDRESS "
        "names, or one on this machine; ray://HOST:PORT, that cluster"
    )
    parser.add_argument("--engine", type=str, default="pool", metavar="pool|ray|ray://HOST:PORT",
                        help=hint)  # fmt: skip


def engine(options: Namespace) -> AbstractContextManager[Any]:
    """What does the work inside: an executor, or None for this process.

    Raises:
        ValueError: if there is no such engine, or a number is out of range.
        RuntimeError: if a cluster cannot be used.
    """
    from cnognp import workers

    device = getattr(options, "device", "") or ""
    return workers.engine(options.engine, options.workers, options.threads, device)


def listed(argv: Sequence[str], parser: ArgumentParser) -> list[str]:
    """The arguments, values ``a,b`` of options that take several with the brackets of a list."""
    several = {
        option
        for option, action in parser._option_string_actions.items()
        if _takes_several(getattr(action, "_typehint", None))
    }
    words: list[str] = []
    for word, before in zip(argv, ["", *argv], strict=False):
        flag, _, value = word.partition("=")
        if before in several and "," in word:
            word = bracketed(word)
        elif flag in several and "," in value:
            word = f"{flag}={bracketed(value)}"
        words.append(word)
    return words


def bracketed(text: str) -> str:
    """``a,b`` as ``["a", "b"]``, with numbers as numbers; what is a list or ``null`` stays so."""
    if text.startswith(("[", "(", "--")) or text == "null":
        return text
    return json.dumps([_number(part.strip()) for part in text.split(",") if part.strip()])


def _takes_several(kind: Any) -> bool:
    """Whether values of a type are tuples, alone or beside others."""
    return get_origin(kind) is tuple or any(get_origin(each) is tuple for each in get_args(kind))


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def unmark(parser: ArgumentParser) -> None:
    """Takes the marks of docstrings away from the help that is made of them."""
    for action in parser._actions:
        action.help = action.help and action.help.replace("`", "")


def unknown(noun: str, name: str, known: Mapping[str, Any]) -> str:
    """The message for a name that does not exist."""
    return f"unknown {noun} {name!r}; {_close(name, list(known))}there are {', '.join(known)}"


def explained(error: Exception, parser: ArgumentParser) -> str:
    """The message of a parser's error in the words of the command line."""
    text = re.sub(r"<class '(\w+)'>", r"\1", " ".join(str(error).split()))
    text = re.sub(r"required: \w+\.", "required: ", text).replace("NoneType", "null")
    text = re.sub(r'^Parser key "config": ', "in the configuration file: ", text)
    text = re.sub(r'Parser key "([\w.]+)": ', r"--\1: ", text)
    text = re.sub(
        r"Does not validate against any of the Union subtypes Subtypes: \[(.*)\] Errors: .* "
        r"Given value: (.*)",
        r"expected one of \1, got \2",
        text,
    )
    text = re.sub(r"Expected an? (.*)\. Got value: (.*)", r"expected \1, got \2", text)
    text = re.sub(r"typing\.Literal\[(.*?)\]", _choices, text)
    text = re.sub(r"got None$", "got null", text)
    if (words := text.partition("unrecognized arguments: ")[2].split()) and words[0][:1] != "-":
        return f"unexpected word {words[0]!r}; several values are comma-separated, see --help"
    keys = re.findall(r"unrecognized arguments: (--[\w.-]+)", text)
    keys += re.findall(r"Subcommand '\w+' does not accept option '(.+?)'", text)
    return _unknown_option(keys[0], parser) if keys else text


def _choices(literal: re.Match[str]) -> str:
    """The words of a type that is a choice of them."""
    words = re.findall(r"'([^']+)'", literal[1])
    return f"one of {', '.join(words) or literal[1]}"


def _unknown_option(key: str, parser: ArgumentParser) -> str:
    """The message for an option, or a key of a configuration file, that does not exist."""
    flag = f"--{key.removeprefix('--')}"
    if flag in _COMPOSED:
        method = parser.get_default("method.name")
        return f"method {method} has no {flag}; see cnognp methods {method}"
    if (meant := _MEANT.get(flag)) and meant.split(",")[0] in parser._option_string_actions:
        return f"unknown option {flag}; say {meant}"
    group = "".join(flag.rpartition(".")[:2]) or "--"
    for noun in _NOUNS if group == "--" else ():
        meant = f"--{noun}.{flag.removeprefix('--').replace('-', '_')}"
        if meant in parser._option_string_actions:
            return f"unknown option {flag}; it is a key of the {noun}: {meant}"
    options = [o for o, a in parser._option_string_actions.items() if a.help != SUPPRESS]
    while group != "--" and not any(option.startswith(group) for option in options):
        # A group of another method's configuration is unknown as a whole.
        flag = group[:-1]
        group = "".join(flag.rpartition(".")[:2]) or "--"
    known = [option.removeprefix(group) for option in options if option.startswith(group)]
    listed = "see --help" if group == "--" else f"there are {', '.join(known) or 'none'}"
    return f"unknown option {flag}; {_close(flag.removeprefix(group), known, group)}{listed}"


def _close(word: str, known: Sequence[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    return f"did you mean {prefix}{close[0]}? " if close else ""


def tree_of(path: Path) -> dict[str, Any]:
    """What a configuration file holds, task and method each as a mapping.

    Raises:
        ValueError: if it is no mapping, or names a task or a method in no way that is known.
        FileNotFoundError: if there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; a configuration is a YAML file like run.yaml")
    try:
        tree = tree_in(text_of(path))
    except ValueError as error:
        _, unlike, reason = str(error).partition("not YAML")
        said = f"is no YAML{reason}" if unlike else f"cannot be used: {error}"
        raise ValueError(f"{path} {said}") from None
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ValueError(f"{path} must hold keys and values, as run.yaml does")
    for noun in set(_NOUNS) & set(tree):
        part = tree[noun] if isinstance(tree[noun], dict) else {"name": tree[noun]}
        if not isinstance(part.get("name", ""), str):
            raise ValueError(f"{path}: {noun} must be a name, or a mapping with a name and keys")
        tree[noun] = part
    if "name" in (method := tree.get("method", {})):
        try:
            tree["method"] = flattened(method["name"], method)
        except ValueError as error:
            raise ValueError(f"{path}: method: {error}") from None
    # The folder of a task's data is a flag of its own.
    if "data" in tree.get("task", {}):
        tree.setdefault("data", tree["task"].pop("data"))
    return tree
