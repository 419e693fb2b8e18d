"""Keywords of a class with their types, defaults and descriptions, read without importing it."""

import ast
import inspect
import operator
import re
from collections.abc import Mapping
from functools import cache, reduce
from pathlib import Path
from typing import Any, Literal, NamedTuple

_TYPES = {"float": float, "int": int, "bool": bool, "str": str, "tuple": tuple, "Rate": float}


class Keyword(NamedTuple):
    """One keyword; ``default`` is ``inspect.Parameter.empty`` where there is none."""

    kind: Any
    default: Any
    help: str

    def instead(self, default: Any) -> "Keyword":
        """The keyword with another default, which may be None."""
        kind = self.kind | None if default is None else self.kind
        return Keyword(kind, default, self.help)


@cache
def keywords_of(place: str) -> tuple[str, Mapping[str, Keyword]]:
    """The first line of a class's documentation, and its plain keywords by name.

    Keywords are its fields, and the parameters of its class method ``named`` where it has one,
    which makes it from what a command line can give. Fields of other types than numbers, words,
    choices, and tuples of them are left out.

    Args:
        place: ``module:Class`` in this package.
    """
    module, _, name = place.partition(":")
    tree, known = _parsed(module), dict(_TYPES)
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            known[node.targets[0].id] = _type(node.value, known)
    body = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    text = ast.get_docstring(body) or ""
    found: dict[str, Keyword] = {}
    for parent in body.bases:
        if isinstance(parent, ast.Name):
            found |= keywords_of(f"{module}:{parent.id}")[1]
    described = {key: keyword.help for key, keyword in found.items()} | descriptions(text)
    fields: list[tuple[str, Any, ast.expr | None]] = []
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            fields.append((node.target.id, node.annotation, node.value))
        elif isinstance(node, ast.FunctionDef) and node.name == "named":
            described |= descriptions(ast.get_docstring(node) or "")
            given = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            fields += [(each.arg, each.annotation, default) for each, default in given]
    for key, annotation, value in fields:
        kind = _type(annotation, known)
        if kind is not None and key in described:
            default = inspect.Parameter.empty if value is None else ast.literal_eval(value)
            found[key] = Keyword(kind, default, described[key])
    return text.partition("\n")[0], found


def descriptions(text: str) -> dict[str, str]:
    """What the section ``Args`` of a documentation says of each argument, on one line."""
    section = re.search(r"^Args:\n((?:    .*\n?)+)", text, flags=re.MULTILINE)
    entries = (
        re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section[1], flags=re.M) if section else ()
    )
    return {name: " ".join(words.split()) for name, words in entries}


@cache
def _parsed(module: str) -> ast.Module:
    return ast.parse(Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8"))


def _type(node: ast.AST, known: Mapping[str, Any]) -> Any:
    """The type that an annotation says; None if it is not plain."""
    if isinstance(node, ast.Constant):
        return type(None) if node.value is None else None
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.BinOp):
        sides = [_type(side, known) for side in (node.left, node.right)]
        return None if None in sides else reduce(operator.or_, sides)
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if node.value.id == "Literal":
            return Literal[tuple(word.value for word in inside)]  # type: ignore[attr-defined]
        if node.value.id == "tuple":
            parts = tuple(_type(part, known) for part in inside)
            return None if None in parts else tuple[parts]  # type: ignore[valid-type]
    return None
