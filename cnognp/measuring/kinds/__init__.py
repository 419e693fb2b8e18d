"""The kinds of measurements by name: each module here is one, with all that belongs to it.

A module that is put here is a kind, with its flags in ``cnognp analyze`` and its place in help;
what its result says is said by the result's class. The kind is the class called as the module is:
``FiniteScale`` in ``finite_scale``. Help is made from the sources, and a module is imported when
its kind is asked for.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING

from cnognp.keywords import Keyword, Made, keywords_of

if TYPE_CHECKING:
    from cnognp.measuring.settings import Settings

__all__ = ["KINDS", "keywords"]


def keywords(kind: str) -> Mapping[str, Keyword]:
    """The settings of a kind by name, without importing it."""
    return keywords_of("measuring.kinds", ":".join(_place(kind)))[1]


def _place(kind: str) -> tuple[str, str]:
    """Its module and its class."""
    return kind.replace("-", "_"), kind.title().replace("-", "")


def _page(kind: str) -> type["Settings"]:
    module, name = _place(kind)
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


_NAMES = [module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__)]
KINDS: Mapping[str, type["Settings"]] = Made(_NAMES, _page)
"""The classes of their settings by name."""
