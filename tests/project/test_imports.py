"""Imports run one way: no module needs, through others, one that needs it."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def modules(*packages):
    """Every module of the packages by its name, with its file."""
    found = {}
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def nodes(tree, late):
    """The nodes of a module that run when it is imported; all of them where ``late``."""
    if late:
        yield from ast.walk(tree)
        return
    for node in ast.iter_child_nodes(tree):
        named = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not named and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node
            yield from nodes(node, late)


def imported(name, path, known, late):
    """The modules that one imports. Its own package's door stands around it, and is no step."""
    for node in nodes(ast.parse(path.read_text(encoding="utf-8")), late):
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from ([one for one in inner if one in known] or [node.module])
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def circle(found, late=lambda name: False):
    """A circle of imports, or nothing."""
    graph = {
        name: {one for one in imported(name, path, found, late(name)) if one in found} - {name}
        for name, path in found.items()
    }
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return error.args[1]
    return []


def test_no_module_needs_one_that_needs_it():
    networks = "landscape.networks"
    found = circle(modules("landscape", "cnognp"), lambda name: name.startswith(networks))
    assert not found, " <- ".join(found)


@pytest.mark.parametrize("late", [False, True])
def test_a_circle_is_found(tmp_path, late):
    (tmp_path / "one.py").write_text("import two\n")
    (tmp_path / "two.py").write_text("def f():\n    from one import x\n")
    found = {name: tmp_path / f"{name}.py" for name in ("one", "two")}
    assert sorted(set(circle(found, lambda name: late))) == (["one", "two"] if late else [])
