"""States as arrays: names, copies, and every way in which a file can belong elsewhere."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from populations import frozen, start

from cnognp import METHODS
from cnognp.state import from_arrays, to_arrays
from landscape.functions import himmelblau


class Inner(NamedTuple):
    position: Any
    count: Any


class Outer(NamedTuple):
    position: Any
    nothing: Any
    inner: Any


def outer(dtype=torch.float64):
    z = torch.arange(6, dtype=dtype, device="cpu").reshape(2, 3)
    return Outer(z, None, Inner(-z, torch.tensor(7, dtype=torch.int64, device="cpu")))


def test_arrays_are_named_by_their_path_and_what_is_not_there_is_left_out():
    arrays = to_arrays(outer())
    assert list(arrays) == ["state/position", "state/inner/position", "state/inner/count"]
    assert arrays["state/inner/count"] == 7
    assert arrays["state/inner/count"].shape == ()
    assert np.array_equal(arrays["state/inner/position"], -np.arange(6.0).reshape(2, 3))
    assert list(to_arrays(outer(), "deep/er"))[0] == "deep/er/position"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.int32])
def test_types_and_bits_survive(dtype):
    state = outer(dtype)
    back = from_arrays(outer(dtype), to_arrays(state))
    assert isinstance(back, Outer)
    assert isinstance(back.inner, Inner)
    assert back.nothing is None
    assert frozen(back) == frozen(state)
    odd = state._replace(position=torch.tensor([np.nan, -0.0, np.inf], device="cpu"))
    assert frozen(from_arrays(odd, to_arrays(odd))) == frozen(odd)


def test_neither_side_sees_later_changes_of_the_other():
    state = outer()
    arrays = to_arrays(state)
    arrays["state/position"][0, 0] = 99
    assert state.position[0, 0] == 0
    back = from_arrays(outer(), arrays)
    arrays["state/position"][0, 0] = 55
    assert back.position[0, 0] == 99
    back.position[0, 0] = 11
    assert arrays["state/position"][0, 0] == 55


def test_read_only_arrays_are_read_without_a_warning():
    arrays = to_arrays(outer())
    for array in arrays.values():
        array.flags.writeable = False
    assert frozen(from_arrays(outer(), arrays)) == frozen(outer())


def test_other_arrays_beside_the_state_do_not_matter():
    arrays = {**to_arrays(outer()), "history/loss": np.zeros(3), "state2/nothing": np.zeros(1)}
    assert frozen(from_arrays(outer(), arrays)) == frozen(outer())


def changed(**changes):
    arrays = to_arrays(outer())
    for path, array in changes.items():
        path = f"state/{path.replace('__', '/')}"
        if array is None:
            del arrays[path]
        else:
            arrays[path] = array
    return arrays


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"position": None}, "state/position is missing: the file belongs to another method"),
        ({"inner__count": None}, "state/inner/count is missing"),
        ({"position": np.zeros((3, 2))}, r"must be torch.float64 \(2, 3\), got .* \(3, 2\)"),
        ({"position": np.zeros((2, 3), np.float32)}, "got torch.float32 .* another model"),
        ({"inner__count": np.array(7.0)}, "state/inner/count must be torch.int64"),
        ({"nothing": np.zeros(1)}, "state/nothing is not expected"),
        ({"nothing__position": np.zeros(1)}, "state/nothing/position is not expected"),
    ],
)
def test_arrays_of_something_else_are_refused_by_path(changes, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(outer(), changed(**changes))


def test_a_leaf_that_is_no_tensor_is_refused_by_path():
    with pytest.raises(TypeError, match="state/inner/count must be a tensor, got int"):
        to_arrays(Outer(outer().position, None, Inner(outer().position, 3)))
    with pytest.raises(TypeError, match="state/inner must be a tensor, got tuple"):
        to_arrays(Outer(outer().position, None, (outer().position,)))


def test_a_checkpoint_of_one_method_is_not_read_as_that_of_another():
    z = start(himmelblau)
    made = {name: METHODS[name]().init(himmelblau, z) for name in ("gd", "cno", "pso", "pso-bfgs")}
    made["epochs"] = METHODS["cno"](batch_size=4).init(himmelblau, z)
    for one, template in made.items():
        for other, state in made.items():
            if one != other:
                with pytest.raises(ValueError, match="belongs to another method"):
                    from_arrays(template, to_arrays(state))
