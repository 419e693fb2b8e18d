"""The one training loop: what it asks of a method, in which order, and with which generators."""

import inspect
from itertools import count, islice, repeat

import populations
import pytest
import torch
from populations import Record, risk, seeded, start

from cnognp import METHODS
from cnognp.methods.descent import SGD, DescentState, GradientDescent
from cnognp.run import run
from landscape.functions import himmelblau, six_hump_camel
from landscape.objective import Ridge
from landscape.randomness import derived_seed


def test_each_round_gets_its_objective_and_a_generator_of_its_own():
    seen, bowls = [], [Ridge(float(k), dim=2) for k in range(4)]
    z = start(himmelblau)
    rounds = list(run(Record(seen), bowls, z, seeded(9)))
    assert len(rounds) == 4
    (kind, first, begun), *steps = seen
    assert (kind, first) == ("init", bowls[0])
    assert torch.equal(begun, z)
    assert [objective for _, objective, _ in steps] == bowls
    assert [seed for _, _, seed in steps] == [derived_seed(9, "round", k) for k in range(4)]


def test_going_on_begins_nothing_anew_and_counts_the_rounds_behind():
    seen, bowl = [], Ridge(1.0, dim=2)
    state = DescentState(start(himmelblau))
    list(run(Record(seen), [bowl] * 2, start(himmelblau) + 1, seeded(9), state=state, start=3))
    assert [kind for kind, _, _ in seen] == ["step", "step"]
    assert [seed for _, _, seed in seen] == [derived_seed(9, "round", k) for k in (3, 4)]


def test_only_the_seed_of_the_generator_counts_and_it_is_not_advanced():
    method, z = METHODS["pso"](), start(six_hump_camel)
    generator = seeded(4)
    torch.rand(17, generator=generator, device="cpu")
    before = generator.get_state()
    *_, (state, _) = run(method, repeat(six_hump_camel, 5), z, generator)
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(state.position, populations.last(method, six_hump_camel, z, 5, 4).position)
    other = populations.last(method, six_hump_camel, z, 5, seed=5)
    assert not torch.allclose(state.position, other.position)


def test_a_run_is_as_long_as_its_stream_and_does_no_more_than_it_is_asked_for():
    z = start(himmelblau)
    assert list(run(GradientDescent(0.01), [], z, seeded(0))) == []
    taken = []
    stream = (taken.append(k) or himmelblau for k in count())
    rounds = run(GradientDescent(0.01), stream, z, seeded(0))
    assert taken == []
    assert len(list(islice(rounds, 3))) == 3
    assert taken == [0, 1, 2]


def test_full_batch_and_minibatches_run_the_same_loop():
    z, method = start(risk()), SGD(lr=0.1)
    whole = populations.last(method, risk(), z, 6).position
    stream = risk().minibatches(risk().samples, seeded(0), epochs=6)
    *_, (state, _) = run(method, stream, z, seeded(0))
    torch.testing.assert_close(state.position, whole, rtol=0, atol=1e-13)
    pieces = [s.position for s, _ in run(method, risk().minibatches(8, seeded(0), epochs=1), z,
                                         seeded(0))]  # fmt: skip
    assert len(pieces) == 4


def test_the_start_is_left_as_it_was_and_no_graph_grows_from_it():
    z = start(himmelblau).requires_grad_()
    copy = z.detach().clone()
    *_, (state, info) = run(GradientDescent(0.01), [himmelblau] * 3, z, seeded(0))
    assert torch.equal(z.detach(), copy)
    assert z.grad is None
    assert not state.position.requires_grad
    assert not info.position.requires_grad


def test_what_cannot_be_run_is_refused():
    # The annotation already says (n, p), but it is checked only in tests.
    bare = inspect.unwrap(run)
    with pytest.raises(ValueError, match=r"a population \(members, parameters\) .* got \(2,\)"):
        next(bare(GradientDescent(0.1), [himmelblau], start(himmelblau)[0], seeded(0)))
    with pytest.raises(ValueError, match="state must be the one after round 3 .* got None"):
        next(run(GradientDescent(0.1), [himmelblau], start(himmelblau), seeded(0), start=3))
    with pytest.raises(ValueError, match="points of length 2 are needed"):
        next(run(GradientDescent(0.1), [himmelblau], start(risk()), seeded(0)))
