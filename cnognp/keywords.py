"""Classes and functions by name, their keywords read from sources: nothing is imported for it.

Types, defaults and descriptions are those of the source, so that a command line can show them at
once. What takes seconds to import is imported when something is made.
"""

import ast
import inspect
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, reduce
from pathlib import Path
from typing import Any, Literal, NamedTuple

_TYPES = {"float": float, "int": int, "bool": bool, "str": str, "tuple": tuple, "Rate": float}
_FIELDS = ("field", "written")


class Keyword(NamedTuple):
    """One keyword; ``default`` is ``inspect.Parameter.empty`` where there is none."""

    kind: Any
    default: Any
    help: str

    def instead(self, default: Any) -> "Keyword":
        """The keyword with another default, which may be None."""
        kind = self.kind | None if default is None else self.kind
        return Keyword(kind, default, self.help)


def keywords_of(package: str, place: str) -> tuple[str, Mapping[str, Keyword]]:
    """The documentation of a class or a function, and its plain keywords by name.

    Keywords of a class are its fields, and the parameters of its class method ``named`` where it
    has one, which makes it from what a command line can give. Those of other types than numbers,
    words, choices, and tuples of them are left out; those that a call of ``field`` or ``written``
    makes have the type None, and the literals of the call for their default.

    Args:
        package: ``methods``, ``tasks`` or ``measuring.kinds``.
        place: ``module:Class`` or ``module:function`` in it.
    """
    module, _, name = place.partition(":")
    return _read(f"{package}.{module}", name)


@cache
def _read(module: str, name: str) -> tuple[str, Mapping[str, Keyword]]:
    module, body = _defined(name, module)
    text = ast.get_docstring(body) or ""  # type: ignore[arg-type]
    found: dict[str, Keyword] = {}
    for parent in reversed(getattr(body, "bases", ())):
        if isinstance(parent, ast.Name):
            found |= _read(module, parent.id)[1]
    described = {key: keyword.help for key, keyword in found.items()} | descriptions(text)
    parts = [body] if isinstance(body, ast.FunctionDef) else getattr(body, "body", ())
    fields: list[tuple[str, Any, ast.expr | None]] = []
    for node in parts:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            fields.append((node.target.id, node.annotation, node.value))
        elif isinstance(node, ast.FunctionDef) and (node is body or node.name == "named"):
            described |= descriptions(ast.get_docstring(node) or "")
            fields += _parameters(node)
    for key, annotation, value in fields:
        made = isinstance(value, ast.Call) and ast.unparse(value.func) in _FIELDS
        kind = None if made else _type(annotation, module)
        if key in described and (made or kind is not None):
            found[key] = Keyword(kind, _default(value), described[key])
    return text, found


def _default(value: ast.expr | None) -> Any:
    if isinstance(value, ast.Call):
        return tuple(one.value for one in value.args if isinstance(one, ast.Constant))
    return inspect.Parameter.empty if value is None else ast.literal_eval(value)


def descriptions(text: str) -> dict[str, str]:
    """What the section ``Args`` of a documentation says of each argument, on one line."""
    section = re.search(r"^Args:\n((?:    .*\n?)+)", text, flags=re.MULTILINE)
    entries = (
        re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section[1], flags=re.M) if section else ()
    )
    return {name: " ".join(words.split()) for name, words in entries}


def function(
    name: str,
    text: str,
    keywords: Mapping[str, Keyword],
    make: Callable[[dict[str, Any]], Any],
) -> Callable[..., Any]:
    """A function with signature, types and documentation of what it stands for.

    Args:
        name: of the function.
        text: its documentation.
        keywords: its parameters.
        make: gets those that are given, by name.
    """
    parameters = [
        inspect.Parameter(
            key, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=each.default, annotation=each.kind
        )
        for key, each in keywords.items()
    ]
    signature = inspect.Signature(parameters, return_annotation=Any)

    def made(*args: Any, **given: Any) -> Any:
        try:
            bound = signature.bind(*args, **given)
        except TypeError as error:
            raise TypeError(f"{name}(): {error}") from None
        return make(bound.arguments)

    made.__name__ = made.__qualname__ = name
    made.__doc__ = text
    made.__signature__ = signature  # type: ignore[attr-defined]
    made.__annotations__ = {key: each.kind for key, each in keywords.items()} | {"return": Any}
    return made


class Made(Mapping[str, Any]):
    """Functions or classes by name, each made when it is first asked for.

    Args:
        names: all of them.
        make: from a name to what it stands for.
    """

    def __init__(self, names: Iterable[str], make: Callable[[str], Any]):
        self._names = dict.fromkeys(names)
        self._make = cache(make)

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names


def _parameters(node: ast.FunctionDef) -> list[tuple[str, Any, ast.expr | None]]:
    """Name, annotation and default of those that a keyword can give; not ``cls`` and the like."""
    given = node.args.args
    defaults = [None] * (len(given) - len(node.args.defaults)) + node.args.defaults
    both = [*zip(given, defaults, strict=True)]
    both += zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    return [(each.arg, each.annotation, default) for each, default in both if each.annotation]


@cache
def _parsed(module: str) -> ast.Module:
    path = Path(__file__).parent.joinpath(*module.split("."))
    return ast.parse(path.with_suffix(".py").read_text(encoding="utf-8"))


@cache
def _defined(name: str, module: str) -> tuple[str, ast.AST | None]:
    """The module of ours that defines what a module calls so, and the node that does."""
    for node in _parsed(module).body:
        if getattr(node, "name", "") == name:
            return module, node
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return module, node.value
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            package, _, source = (node.module or "").partition(".")
            return _defined(name, source) if package == "cnognp" else (module, None)
    return module, None


def _type(node: ast.AST | None, module: str) -> Any:
    """The type that an annotation in a module says; None if it is not plain."""
    if isinstance(node, ast.Constant):
        return type(None) if node.value is None else ... if node.value is ... else None
    if isinstance(node, ast.Name):
        source, meant = (module, None) if node.id in _TYPES else _defined(node.id, module)
        return _TYPES.get(node.id) or _type(meant, source)
    if isinstance(node, ast.BinOp):
        sides = [_type(side, module) for side in (node.left, node.right)]
        return None if None in sides else reduce(operator.or_, sides)
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if node.value.id == "Literal":
            return Literal[tuple(word.value for word in inside)]  # type: ignore[attr-defined]
        if node.value.id == "tuple":
            parts = tuple(_type(part, module) for part in inside)
            return None if None in parts else tuple[parts]  # type: ignore[valid-type]
    return None
