"""Keywords that are read from a source without importing it."""

import dataclasses
import importlib
import inspect
import typing

import pytest

from cnognp import METHODS
from cnognp.keywords import descriptions, keywords_of
from cnognp.methods.composition import GROUPS, Base, class_of
from cnognp.methods.registry import TABLE, bases
from cnognp.tasks.registry import _PLACES as PLACES_OF_TASKS
from cnognp.tasks.registry import TASKS

PLACES = {entry.place for entry in TABLE.values()}
PLACES |= {f"composition:{group.__name__}" for group in GROUPS}


@pytest.mark.parametrize("place", sorted(PLACES))
def test_what_is_read_is_what_an_import_finds(place):
    module, name = place.split(":")
    kind = getattr(importlib.import_module(f"cnognp.methods.{module}"), name)
    fields = {each.name: each for each in dataclasses.fields(kind)}
    special = inspect.signature(kind.named).parameters if hasattr(kind, "named") else {}
    text, read = keywords_of("methods", place)
    assert text == inspect.getdoc(kind)
    for key, keyword in read.items():
        expected = special[key] if key in special else fields[key]
        assert keyword.default == expected.default, key
        if hasattr(expected, "annotation") or place.startswith("composition"):
            hints = typing.get_type_hints(kind.named if key in special else kind)
            assert keyword.kind == hints[key], key
    plain = {key for key, each in fields.items() if each.type in (float, int, bool, str)}
    assert not (plain & set(descriptions(inspect.getdoc(kind)))) - set(read)


@pytest.mark.parametrize("name", TASKS)
def test_what_is_read_of_a_task_is_what_an_import_finds(name):
    module, inside = PLACES_OF_TASKS[name].split(":")
    made = inspect.unwrap(getattr(importlib.import_module(f"cnognp.tasks.{module}"), inside))
    parameters, hints = inspect.signature(made).parameters, typing.get_type_hints(made)
    assert inspect.getdoc(TASKS[name]) == inspect.getdoc(made)
    assert {
        key: (each.default, each.annotation)
        for key, each in inspect.signature(TASKS[name]).parameters.items()
    } == {key: (each.default, hints[key]) for key, each in parameters.items()}


def test_descriptions_are_joined_to_one_line_and_end_with_their_section():
    text = "First.\n\nArgs:\n    a: one\n        two.\n    b_c: three.\n\nRaises:\n    d: no.\n"
    assert descriptions(text) == {"a": "one two.", "b_c": "three."}
    assert descriptions("First.") == {}


def test_every_keyword_is_handed_to_the_class_or_to_one_group():
    for name, entry in TABLE.items():
        keys = list(inspect.signature(METHODS[name]).parameters)
        assert len(keys) == len(set(keys))
        assert not set(keys) & set(entry.fixed)
        assert not set(entry.defaults) - set(keys)


def test_every_step_with_a_decay_is_a_base_and_choices_say_so():
    assert {"sgd", "adam", "adamw", "lion"} <= set(bases()) <= set(TABLE)
    # These have no decay, take no mini-batches, or have a base themselves.
    assert not {"gd", "nig", "cno", "bfgs", "sam", "swa"} & set(bases())
    for name, entry in TABLE.items():
        parameters = inspect.signature(METHODS[name]).parameters
        if Base not in entry.groups:
            continue
        assert typing.get_args(parameters["base"].annotation) == tuple(bases())
        for base, place in bases().items():
            made = METHODS[name](base=base, lr=0.3, weight_decay=0.2, batch_size=0)
            assert made.base == class_of(place)(lr=0.3, weight_decay=0.2)


def test_an_unknown_keyword_names_the_method():
    with pytest.raises(TypeError, match=r"sam\(\): got an unexpected keyword argument 'roh'"):
        METHODS["sam"](roh=0.1)
