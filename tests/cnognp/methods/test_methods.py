"""Every method on every objective: purity, resumption, symmetry; and the table of methods."""

import inspect
import re
import subprocess
import sys
import typing
from itertools import repeat

import populations
import pytest
import torch
from populations import (
    CASES,
    EVEN,
    INDEPENDENT,
    OBJECTIVES,
    SWARMS,
    annotations_unchecked,
    frozen,
    seeded,
    start,
)

from cnognp import METHODS
from cnognp.method import Info, Method, Traits, norms, traits_of
from cnognp.methods.descent import SGD, Epoch, GradientDescent
from cnognp.methods.swarm import Swarm
from cnognp.run import run
from cnognp.state import from_arrays, to_arrays
from landscape.functions import f2, himmelblau
from landscape.objective import Analytic, value, value_and_grad

every_objective = pytest.mark.parametrize("name", OBJECTIVES)
every_method = pytest.mark.parametrize("case", CASES)
every_independent = pytest.mark.parametrize("case", INDEPENDENT)
every_swarm = pytest.mark.parametrize("case", SWARMS)
# Annotations are checked on every pair elsewhere; here it would take most of the time.
quick = pytest.mark.usefixtures("quick")
every_default = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(name="quick")
def without_annotations():
    with annotations_unchecked():
        yield


def tensors(state):
    """The tensors of a nested NamedTuple; anything else in it fails."""
    assert hasattr(state, "_fields"), type(state)
    for item in state:
        if isinstance(item, torch.Tensor):
            yield item
        elif item is not None:
            yield from tensors(item)


@every_objective
@every_method
def test_a_step_changes_neither_its_state_nor_any_generator_and_repeats_bit_for_bit(name, case):
    objective, method = OBJECTIVES[name](), CASES[case]
    z = start(objective)
    assert isinstance(method, Method)
    state = populations.last(method, objective, z, 2)
    before, generator, outer = frozen(state), seeded(3), torch.get_rng_state()
    drawn = generator.get_state()
    first, info = method.step(objective, state, generator)
    assert frozen(state) == before
    assert torch.equal(z, start(objective))
    assert torch.equal(generator.get_state(), drawn)
    assert torch.equal(torch.get_rng_state(), outer)
    torch.rand(100, generator=generator, device="cpu")
    second, again = method.step(objective, state, generator)
    assert frozen(first) == frozen(second)
    assert frozen(info._replace(evaluations=None)) == frozen(again._replace(evaluations=None))
    assert frozen(first) != before


@every_objective
@every_method
def test_a_state_is_a_nest_of_tensors_that_survives_the_round_trip_through_arrays(name, case):
    objective, method = OBJECTIVES[name](), CASES[case]
    z = start(objective)
    state = populations.last(method, objective, z, 2)
    assert state.position.shape == z.shape
    assert sum(1 for _ in tensors(state)) == len(to_arrays(state))
    back = from_arrays(method.init(objective, z), to_arrays(state))
    assert type(back) is type(state)
    assert frozen(back) == frozen(state)


@quick
@every_objective
@every_method
def test_a_run_cut_after_any_round_ends_like_the_unbroken_one_bit_for_bit(name, case):
    objective, method = OBJECTIVES[name](), CASES[case]
    z = start(objective)
    whole = populations.states(method, objective, z, 5)
    for k, state in enumerate(whole[:-1], 1):
        restored = from_arrays(method.init(objective, z), to_arrays(state))
        rest = populations.states(method, objective, z, 5 - k, state=restored, start=k)
        assert [frozen(s) for s in rest] == [frozen(s) for s in whole[k:]]


@every_objective
@every_method
def test_no_tensor_is_made_on_the_default_device_and_the_type_is_that_of_the_start(name, case):
    objective, method = OBJECTIVES[name](), CASES[case]
    dtype = torch.float32
    z = start(objective, dtype=dtype)
    generator = seeded(7)
    expected = populations.last(method, objective, z, 2)
    with torch.device("meta"):
        rounds = [(s, i) for s, i in run(method, repeat(objective, 2), z, generator)]
        state, info = rounds[-1]
        back = from_arrays(state, to_arrays(state))
    assert frozen(state) == frozen(back) == frozen(expected)
    for tensor in [*tensors(back), *tensors(info._replace(evaluations=None))]:
        assert tensor.device.type == "cpu"
        assert tensor.dtype in (dtype, torch.int64)


@quick
@every_objective
@every_independent
def test_members_without_attraction_are_as_many_runs_of_their_own(name, case):
    objective, method = OBJECTIVES[name](), INDEPENDENT[case]
    z = start(objective)
    together = populations.last(method, objective, z, 4)
    alone = [populations.last(method, objective, row[None], 4).position for row in z]
    torch.testing.assert_close(together.position, torch.cat(alone), rtol=1e-11, atol=1e-11)


@quick
@every_objective
@every_independent
def test_members_without_attraction_may_change_places(name, case):
    objective, method = OBJECTIVES[name](), INDEPENDENT[case]
    z, order = start(objective), torch.tensor([2, 0, 3, 1], device="cpu")
    one = populations.last(method, objective, z, 4).position
    other = populations.last(method, objective, z[order], 4).position
    torch.testing.assert_close(other, one[order], rtol=1e-11, atol=1e-11)


@quick
@every_objective
@every_swarm
def test_swarms_that_draw_the_same_number_for_all_may_change_places(name, case, monkeypatch):
    # So whatever order the members are handled in, none of them is served before another.
    monkeypatch.setattr(
        "cnognp.methods.swarm.draw_rows",
        lambda law, shape, generator, like: torch.full(shape, 0.3, dtype=like.dtype, device="cpu"),
    )
    objective, method = OBJECTIVES[name](), SWARMS[case]
    z, order = start(objective), torch.tensor([2, 0, 3, 1], device="cpu")
    one = populations.last(method, objective, z, 4)
    other = populations.last(method, objective, z[order], 4)
    for field in ("position", "best", "best_fitness"):
        torch.testing.assert_close(
            getattr(other, field), getattr(one, field)[order], rtol=1e-11, atol=1e-11
        )


@quick
# Without the wavelet, which pushes one way for a positive and the other for a negative number.
@pytest.mark.parametrize("name", EVEN)
@pytest.mark.parametrize("case", [case for case in CASES if case != "cno-mutation"])
def test_mirrored_starts_on_an_even_function_give_mirrored_runs(name, case):
    objective, method = EVEN[name](), CASES[case]
    z = start(objective)
    one = populations.last(method, objective, z, 6)
    other = populations.last(method, objective, -z, 6)
    assert torch.equal(other.position, -one.position)


@every_objective
@every_method
def test_info_tells_loss_and_gradient_norm_at_the_point_that_it_names(name, case):
    objective, method = OBJECTIVES[name](), CASES[case]
    for _, info in run(method, repeat(objective, 3), start(objective), seeded(7)):
        loss, grad = value_and_grad(objective, info.position)
        torch.testing.assert_close(info.loss, loss)
        if info.gradient_norm is not None:
            torch.testing.assert_close(info.gradient_norm, norms(grad))


@quick
@every_swarm
def test_no_best_fitness_ever_rises(case):
    for name in OBJECTIVES:
        objective = OBJECTIVES[name]()
        rounds = populations.states(SWARMS[case], objective, start(objective), 8)
        fitness = torch.stack([state.best_fitness for state in rounds])
        assert (fitness.diff(dim=0) <= 0).all()
        assert (fitness.diff(dim=0) < 0).any()


@quick
@every_default
def test_every_method_makes_its_steps_as_it_comes(method):
    for make in OBJECTIVES.values():
        objective = make()
        for state, info in run(METHODS[method](), [objective] * 2, start(objective), seeded(0)):
            assert isinstance(info, Info)
            assert state.position.shape == (4, objective.dim)


def cliff(beyond, slope):
    """A bowl that has another value and gradient further than 100 from its middle."""

    def formula(z):
        return torch.where(norms(z) > 100, beyond, (z * z).sum(-1))

    def gradient(z):
        return torch.where(norms(z).unsqueeze(-1) > 100, slope, 2 * z)

    return Analytic(formula, dim=2, gradient=gradient)


def fallen(objective):
    z = start(objective)
    return torch.cat([z[:1] + 1e5, z[1:]])


@pytest.mark.parametrize("slope", [0.0, float("nan")])
@every_independent
def test_a_member_with_a_nan_leaves_members_without_attraction_as_they_were(case, slope):
    objective = cliff(float("nan"), slope)
    z = fallen(objective)
    whole = populations.last(INDEPENDENT[case], objective, z, 5).position
    healthy = populations.last(INDEPENDENT[case], objective, z[1:], 5).position
    torch.testing.assert_close(whole[1:], healthy, rtol=1e-12, atol=1e-12)
    assert whole[1:].isfinite().all()


@quick
@pytest.mark.parametrize("slope", [0.0, float("nan")])
@pytest.mark.parametrize("case", [case for case in SWARMS if SWARMS[case].box is None])
def test_a_member_with_a_nan_is_for_the_others_as_one_that_is_only_bad(case, slope):
    method = SWARMS[case]
    bad, broken = cliff(1e20, 0.0), cliff(float("nan"), slope)
    z = fallen(bad)
    expected = populations.last(method, bad, z, 3)
    assert expected.best_fitness[0] == 1e20
    found = populations.last(method, broken, z, 3)
    for field in ("position", "best", "best_fitness"):
        assert torch.equal(getattr(found, field)[1:], getattr(expected, field)[1:])
    assert found.best_fitness[0] == float("inf")
    assert found.best[0].isfinite().all()


@every_method
def test_a_population_of_nans_neither_stops_a_run_nor_becomes_best(case):
    objective = cliff(float("nan"), float("nan"))
    state = populations.last(CASES[case], objective, torch.full_like(start(objective), 1e3), 3)
    if case in SWARMS and SWARMS[case].box is None:
        assert state.best_fitness.isinf().all()
    nowhere = populations.last(CASES[case], himmelblau, start(himmelblau) * float("nan"), 3)
    assert nowhere.position.isnan().all()


def test_importing_the_table_and_reading_it_does_not_import_torch():
    code = (
        "import sys, inspect, typing, cnognp\n"
        "for method in cnognp.METHODS.values():\n"
        "    inspect.signature(method), typing.get_type_hints(method), inspect.getdoc(method)\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_table_cannot_be_written_to():
    with pytest.raises(TypeError, match="does not support item assignment"):
        METHODS["mine"] = METHODS["gd"]
    with pytest.raises(TypeError, match="does not support item deletion"):
        del METHODS["gd"]
    assert {"gd", "sgd", "pso", "pso-bfgs", "egd", "cno", "cnognp"} <= set(METHODS)


@every_default
def test_every_keyword_is_described_in_the_order_of_the_signature(method):
    function = METHODS[method]
    text = inspect.getdoc(function)
    first, rest = text.split("\n", 1)
    assert first.endswith(".")
    assert len(first) > 20
    entries = re.findall(r"^    (\w+): (.+)$", rest.split("Args:\n")[1], flags=re.MULTILINE)
    assert [name for name, _ in entries] == list(inspect.signature(function).parameters)
    assert all(len(description) > 5 for _, description in entries)


def plain(hint):
    """Whether a command line can read it: a number, a word, a choice, a fixed tuple, or none."""
    if hint in (int, float, bool, str, type(None)):
        return True
    if typing.get_origin(hint) is typing.Literal:
        return all(isinstance(choice, str) for choice in typing.get_args(hint))
    if typing.get_origin(hint) in (tuple, typing.Union) or hint.__class__.__name__ == "UnionType":
        return all(map(plain, typing.get_args(hint)))
    return False


@every_default
def test_every_keyword_has_a_plain_type_and_a_default_of_it(method):
    hints = typing.get_type_hints(METHODS[method])
    for name, parameter in inspect.signature(METHODS[method]).parameters.items():
        assert plain(hints[name]), (name, hints[name])
        assert parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        kind = hints[name]
        if typing.get_origin(kind) is typing.Literal:
            assert parameter.default in typing.get_args(kind)
        elif kind in (int, float, bool):
            assert type(parameter.default) is kind
        else:
            assert parameter.default is None


def test_keywords_arrive_where_they_belong():
    made = METHODS["cnognp"](
        lr=0.2, penalty=0.3, power="norm", inertia=0.4, cognitive=0.6, social=0.7, box=(-1.0, 2.0),
        randomness="coordinate", mutation=0.8, horizon=9, stale_fitness=True, batch_size=0,
    )  # fmt: skip
    assert (made.lr, made.inertia, made.cognitive, made.social) == (0.2, 0.4, 0.6, 0.7)
    assert (made.fitness.penalty, made.fitness.power) == (0.3, "norm")
    assert (made.mutation.threshold, made.mutation.horizon) == (0.8, 9)
    assert (made.randomness, made.box, made.stale_fitness) == ("coordinate", (-1.0, 2.0), True)
    epochs = METHODS["cno"](lr=0.2, batch_size=16, momentum=0.5, weight_decay=0.1)
    assert epochs.local == Epoch(SGD(lr=0.2, momentum=0.5, weight_decay=0.1), 16, evaluate=False)
    assert epochs.lr == 0.0
    plain = METHODS["cnognp"](lr=0.2, batch_size=16)
    assert plain.local == Epoch(GradientDescent(lr=0.2), 16, evaluate=False)
    sgd = METHODS["sgd"](lr=0.3, momentum=0.5, nesterov=True, weight_decay=0.1, batch_size=4)
    assert sgd == Epoch(SGD(lr=0.3, momentum=0.5, nesterov=True, weight_decay=0.1), 4)
    hybrid = METHODS["pso-bfgs"](lr=0.3, search_iterations=7)
    assert (hybrid.local.lr, hybrid.local.iterations, hybrid.lr) == (0.3, 7, 0.0)
    pso = METHODS["pso"](inertia=0.1, cognitive=0.2, social=0.3)
    assert pso == Swarm(
        lr=0.0, inertia=0.1, cognitive=0.2, social=0.3, velocity=True, randomness="coordinate"
    )
    assert METHODS["egd"](lr=0.3) == Swarm(lr=0.3, cognitive=0.0, social=0.0)


@pytest.mark.parametrize(
    "method, options, message",
    [
        ("gd", {"lr": -0.1}, "lr must be at least 0"),
        ("sgd", {"batch_size": -1}, "batch_size must be at least 0, got -1"),
        ("sgd", {"nesterov": True}, "momentum must be positive with nesterov, got 0"),
        ("cno", {"batch_size": -1}, "batch_size must be at least 0, got -1"),
        ("cno", {"base": "adamw", "momentum": 0.5}, "momentum is nothing that base='adamw' has"),
        ("cno", {"base_rho": 0.5}, "base_rho is nothing that base='sgd' has"),
        ("cno", {"base": "lion", "base_step": "adam"}, "base_step is nothing that base='lion' has"),
        ("cno", {"base": "sam", "base_rho": -0.5}, "rho must be at least 0"),
        ("cnognp", {"base": "swa"}, "base must be one of .*gcsam.*, got swa"),
        ("cno", {"mutation": -0.1}, "mutation must be at least 0, got -0.1"),
        ("cno", {"mutation": 0.1}, "give a finite box"),
        ("cno", {"mutation": 0.1, "box": (0.0, 1.0), "horizon": 0}, "horizon must be at least 1"),
        ("cnognp", {"penalty": -1.0}, "penalty must be at least 0 and finite, got -1.0"),
        ("pso", {"box": (1.0, 1.0)}, "box must be .* with low below high"),
        ("pso-bfgs", {"search_iterations": 0}, "search_iterations must be at least 1, got 0"),
        ("egd", {"lr": float("nan")}, "lr must be at least 0 and finite, got nan"),
    ],
)
def test_keywords_out_of_range_are_refused_by_name(method, options, message):
    with pytest.raises(ValueError, match=message):
        METHODS[method](**options)


@quick
def test_every_swarm_and_descent_solves_a_bowl_as_it_comes():
    bowl = Analytic(lambda z: (z * z).sum(-1), dim=2, name="bowl")
    z = start(bowl)
    for case in ("gd", "sgd", "egd", "cno", "cnognp", "pso", "pso-bfgs"):
        state = populations.last(METHODS[case](), bowl, z, 80)
        best = state.best if hasattr(state, "best") else state.position
        assert value(bowl, best).min() < 1e-5, case


def test_a_population_may_start_where_its_gradient_is_recorded():
    z = start(f2(2)).requires_grad_()
    for case, method in CASES.items():
        state = populations.last(method, f2(2), z, 2)
        assert not any(tensor.requires_grad for tensor in tensors(state)), case


def test_a_method_says_itself_whether_members_learn_from_each_other():
    swarms = {"pso", "pso-bfgs", "cno", "cnognp"}
    assert {name for name, make in METHODS.items() if traits_of(make()).couples} == swarms
    # A pull to a member's own best point tells it nothing of the others.
    assert not traits_of(METHODS["cno"](social=0.0)).couples
    scattered = METHODS["cno"](social=0.0, box=(-1.0, 1.0), mutation=0.1)
    assert traits_of(scattered).couples and traits_of(Epoch(scattered, 8)).couples


def test_what_goes_around_a_method_has_its_traits():
    class Silent:
        """A user's own method, which says nothing."""

        def init(self, objective, z): ...
        def step(self, objective, state, generator): ...

    assert traits_of(Silent()) == Traits("gradient")
    assert traits_of(Epoch(Silent(), 8)) == Traits("gradient")
    adam = METHODS["sam"](base="adam", schedule="cosine", average="ema")
    assert traits_of(adam) == Traits("adaptive")
    assert traits_of(METHODS["pso-bfgs"]()) == Traits("curvature", random=True, couples=True)
    assert traits_of(Epoch(METHODS["nig-bh"](), 8)) == Traits("search", random=True)
