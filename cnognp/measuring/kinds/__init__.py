"""The kinds of measurements by name: each module here is one, with all that belongs to it.

A module that is put here is a kind, with its flags in ``cnognp analyze`` and its place in help;
what its result says is said by the result's class. Modules here import torch only when they
measure, since help is made from all of them.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType

from cnognp.measuring.settings import Settings, kind_of


def _page(name: str) -> type[Settings]:
    """The kind that a module defines.

    Raises:
        TypeError: if it defines none, or several.
    """
    module = importlib.import_module(f"{__name__}.{name}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Settings)
        if value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} must define one kind of Settings, got {len(found)}")
    return found[0]


_PAGES = [_page(module.name) for module in pkgutil.iter_modules(__path__)]
KINDS: Mapping[str, type[Settings]] = MappingProxyType({kind_of(page): page for page in _PAGES})
