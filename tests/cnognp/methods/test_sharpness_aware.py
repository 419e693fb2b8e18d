"""SAM and its relatives: golden numbers, plain torch implementations, and what composes."""

import copy
from itertools import repeat

import invariants
import populations
import pytest
import torch
from populations import Counting, seeded, start
from torch import nn
from torch.nn.functional import cross_entropy

from cnognp import METHODS
from cnognp.method import norms
from cnognp.methods.adaptive import Adam, AdamW
from cnognp.methods.averaging import SWA
from cnognp.methods.centralisation import Centralised, centralised
from cnognp.methods.descent import SGD, Epoch, GradientDescent
from cnognp.methods.quasi_newton import LBFGS
from cnognp.methods.schedule import Cosine, Scheduled, WarmUp
from cnognp.methods.sharpness_aware import GCSAM, GNP, SAM
from cnognp.methods.swarm import Swarm
from cnognp.run import run
from landscape.functions import himmelblau
from landscape.networks.layout import Entry, Layout
from landscape.networks.risk import EmpiricalRisk
from landscape.objective import Analytic, value_and_grad

STEP = SGD(lr=0.003, momentum=0.5)
METHODS_HERE = {
    "sam": SAM(STEP, rho=0.1),
    "sam-adam": SAM(Adam(lr=0.01), rho=0.1),
    "asam": SAM(STEP, rho=0.2, adaptive=True, eta=0.01),
    "gcsam": GCSAM(STEP, rho=0.1),
    "gcsam-a3-adaptive": GCSAM(AdamW(lr=0.01), rho=0.1, variant="A3", adaptive=True),
    "gnp": GNP(STEP, alpha=0.7, r=0.1),
    "centralised": Centralised(STEP, weight_decay=0.1),
    "swa": SWA(STEP, start=1, every=2),
    "swa-sam": SWA(SAM(STEP, rho=0.1), start=1),
}
every_method = pytest.mark.parametrize("case", METHODS_HERE)
every_objective = pytest.mark.parametrize("name", ["himmelblau", "terms-only", "network"])

WEIGHTS = Layout((Entry("weight", (2, 3), 0, "linear", 0), Entry("bias", (1,), 6, "bias", None)))
# The gradient of the golden numbers: rows (1, 2, 3) and (4, 4, 4), bias 2.
GRADIENT = (1.0, 2.0, 3.0, 4.0, 4.0, 4.0, 2.0)


def tensor(*numbers):
    return torch.tensor(numbers, dtype=torch.float64, device="cpu")


class Slope:
    """A linear function with a layout, which remembers where its gradient was asked for."""

    dim, layout = 7, WEIGHTS

    def __init__(self):
        self.asked = []

    def terms(self):
        yield lambda z: z @ tensor(*GRADIENT)

    def value_and_grad(self, z):
        self.asked.append(z)
        return z @ tensor(*GRADIENT), tensor(*GRADIENT).expand_as(z)


def perturbation(method, z=None):
    """Where the second gradient of a step is taken, from where the members are."""
    objective = Slope()
    z = tensor(0.5, -1.0, 2.0, 0.1, 0.2, 0.3, -0.4)[None] if z is None else z
    populations.last(method, objective, z, 1)
    first, second = objective.asked
    assert torch.equal(first, z)
    return (second - first)[0]


def classes(dtype):
    x, target = populations.data()
    return x.to(dtype), target


def with_batchnorm(dtype):
    # Without a bias that normalisation would cancel: Adam blows the rounding of its gradient up.
    model = nn.Sequential(
        nn.Linear(4, 5, bias=False, device="cpu", dtype=dtype),
        nn.BatchNorm1d(5, device="cpu", dtype=dtype),
        nn.Tanh(),
        nn.Linear(5, 3, device="cpu", dtype=dtype),
    )
    source = seeded(6)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=source, dtype=dtype, device="cpu") / 2)
    return model


NETWORKS = {"chain": populations.network, "batchnorm": with_batchnorm}


def plain_torch(model, optimiser, ascend, steps, dtype, descend=lambda grads: None):
    """A SAM of the usual kind: write w + e into the model, differentiate, write w back."""
    x, target = classes(dtype)
    parameters = list(model.parameters())
    for _ in range(steps):
        optimiser.zero_grad()
        cross_entropy(model(x), target).backward()
        kept = [p.detach().clone() for p in parameters]
        moves = ascend(kept, [p.grad.clone() for p in parameters])
        with torch.no_grad():
            for p, move in zip(parameters, moves, strict=True):
                p.add_(move)
        optimiser.zero_grad()
        cross_entropy(model(x), target).backward()
        descend([p.grad for p in parameters])
        with torch.no_grad():
            for p, old in zip(parameters, kept, strict=True):
                p.copy_(old)
        optimiser.step()
    return torch.cat([p.detach().reshape(-1) for p in parameters])


def total(tensors):
    return torch.sqrt(sum((t * t).sum() for t in tensors))


def steepest(rho):
    return lambda weights, grads: [rho * g / (total(grads) + 1e-12) for g in grads]


def adaptive(rho, eta):
    def ascend(weights, grads):
        scales = [w.abs() + eta for w in weights]
        norm = total([t * g for t, g in zip(scales, grads, strict=True)]) + 1e-12
        return [rho * t * t * g / norm for t, g in zip(scales, grads, strict=True)]

    return ascend


def centre(grad):
    axes = tuple(range(1, grad.ndim))
    return grad - grad.mean(axes, keepdim=True) if axes else grad


def first_centralised(rho):
    return lambda weights, grads: [rho * centre(g) / (total(grads) + 1e-12) for g in grads]


def centralise_in_place(grads):
    for grad in grads:
        grad.copy_(centre(grad))


# The method, and the ascent and descent of the plain one.
PLAIN = {
    "sam": (lambda base: SAM(base, rho=0.1), steepest(0.1), lambda grads: None),
    "asam": (
        lambda base: SAM(base, rho=0.3, adaptive=True, eta=0.01),
        adaptive(0.3, 0.01),
        lambda grads: None,
    ),
    "gcsam-a1": (lambda base: GCSAM(base, rho=0.1), first_centralised(0.1), lambda grads: None),
    "gcsam-a4": (
        lambda base: GCSAM(base, rho=0.1, variant="A4"),
        steepest(0.1),
        centralise_in_place,
    ),
}


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("base", ["sgd", "adam"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("case", PLAIN)
def test_fifty_steps_are_those_of_a_plain_torch_loop(case, network, base, dtype, tolerance):
    make, ascend, descend = PLAIN[case]
    sgd = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    ours = SGD(**sgd) if base == "sgd" else Adam(lr=0.01)
    model = NETWORKS[network](dtype)
    risk = EmpiricalRisk(model, classes(dtype), cross_entropy, statistics="batch")
    twin = copy.deepcopy(model).train()
    optimiser = (
        torch.optim.SGD(twin.parameters(), **sgd)
        if base == "sgd"
        else torch.optim.Adam(twin.parameters(), lr=0.01)
    )
    expected = plain_torch(twin, optimiser, ascend, 50, dtype, descend)
    with populations.annotations_unchecked():
        found = populations.last(make(ours), risk, risk.point()[None], 50).position[0]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert (found - risk.point()).abs().max() > 0.1


def test_the_published_variant_has_its_golden_perturbation():
    e = perturbation(GCSAM(STEP, rho=0.05))
    expected = tensor(-0.0061545745, 0, 0.0061545745, 0, 0, 0, 0.0123091491)
    torch.testing.assert_close(e, expected, rtol=0.0, atol=1e-10)
    assert float(e.norm()) == pytest.approx(0.0150755672, abs=1e-10)


@pytest.mark.parametrize("variant", ["A1", "A2", "A3"])
def test_rows_of_a_centralised_perturbation_sum_to_zero_and_constant_rows_have_none(variant):
    e = perturbation(GCSAM(STEP, rho=0.05, variant=variant))
    assert e[:3].sum().abs() < 1e-15
    assert e[:3].abs().max() > 1e-3
    assert (e[3:6] == 0).all()


def test_radii_of_the_variants():
    norm = {v: float(perturbation(GCSAM(STEP, 0.05, v)).norm()) for v in ("A1", "A2", "A3", "A4")}
    assert norm["A1"] < 0.05
    assert [norm[v] for v in ("A2", "A3", "A4")] == pytest.approx([0.05] * 3, rel=1e-12)
    torch.testing.assert_close(
        perturbation(GCSAM(STEP, 0.05, "A4")), 0.05 * tensor(*GRADIENT) / 66**0.5
    )


def test_adaptive_perturbations_scale_with_the_square_of_the_weights():
    z = tensor(0.5, -1.0, 2.0, 0.1, 0.2, 0.3, -0.4)
    g, gc = tensor(*GRADIENT), tensor(-1, 0, 1, 0, 0, 0, 2)
    expected = 0.05 * z * z * gc / (z * g).norm()
    e = perturbation(GCSAM(STEP, 0.05, adaptive=True))
    torch.testing.assert_close(e, expected, rtol=1e-10, atol=0.0)
    e = perturbation(GCSAM(STEP, 0.05, "A2", adaptive=True))
    torch.testing.assert_close(e, expected * (z * g).norm() / (z * gc).norm(), rtol=1e-10, atol=0.0)


def test_only_convolutions_are_centralised_with_the_switch():
    e = perturbation(GCSAM(STEP, 0.05, conv_only=True))
    torch.testing.assert_close(e, 0.05 * tensor(*GRADIENT) / 66**0.5)
    layout = Layout((
        Entry("image", (3, 2, 2, 2), 0, "convolution", 0),
        Entry("signal", (3, 2, 2), 24, "convolution", 0),
        Entry("linear", (2, 3), 36, "linear", 0),
        Entry("bias", (3,), 42, "bias", None),
    ))
    objective = Slope()
    objective.layout = layout
    grad = torch.randn((4, layout.dim), generator=seeded(0), dtype=torch.float64, device="cpu")
    own = layout.unflatten(grad)
    only = layout.unflatten(centralised(objective, grad, True))
    everything = layout.unflatten(centralised(objective, grad))
    torch.testing.assert_close(
        only["image"], own["image"] - own["image"].mean((-3, -2, -1), keepdim=True)
    )
    assert all(torch.equal(only[name], own[name]) for name in ("signal", "linear", "bias"))
    assert torch.equal(everything["image"], only["image"])
    torch.testing.assert_close(
        everything["signal"], own["signal"] - own["signal"].mean((-2, -1), keepdim=True)
    )


def test_centralisation_is_a_symmetric_projection_that_leaves_vectors_alone():
    objective = populations.risk()
    a, b = start(objective, seed=3), start(objective, seed=4)
    once = centralised(objective, a)
    torch.testing.assert_close(centralised(objective, once), once, rtol=0.0, atol=1e-15)
    torch.testing.assert_close((once * b).sum(-1), (a * centralised(objective, b)).sum(-1))
    parts, own = objective.layout.unflatten(once), objective.layout.unflatten(a)
    for entry in objective.layout.entries:
        if len(entry.shape) == 1:
            assert torch.equal(parts[entry.name], own[entry.name])
        else:
            assert parts[entry.name].mean(-1).abs().max() < 1e-15
            assert (norms(parts[entry.name].flatten(1)) < norms(own[entry.name].flatten(1))).all()
    assert torch.equal(centralised(himmelblau, start(himmelblau)), start(himmelblau))


def test_centralised_descent_keeps_the_mean_weight_of_every_row_and_matches_torch():
    risk, z = populations.risk(), populations.risk().point()[None]
    end = populations.last(Centralised(SGD(lr=0.2, momentum=0.9)), risk, z, 20).position
    before, after = risk.layout.unflatten(z), risk.layout.unflatten(end)
    for name in ("0.weight", "2.weight"):
        torch.testing.assert_close(after[name].mean(-1), before[name].mean(-1))
        assert (after[name] - before[name]).abs().max() > 0.1
    model, (x, target) = populations.network(), populations.data()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for _ in range(20):
        optimiser.zero_grad()
        cross_entropy(model(x), target).backward()
        for p in model.parameters():
            p.grad.copy_(centre(p.grad + 0.1 * p.detach()))
        optimiser.step()
    expected = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    method = Centralised(SGD(lr=0.2, momentum=0.9), weight_decay=0.1)
    found = populations.last(method, risk, z, 20).position[0]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_the_later_variants_are_compositions_bit_for_bit():
    risk = populations.risk()
    z = start(risk)
    pairs = {
        "A3": Centralised(SAM(STEP, rho=0.1)),
        "A4": SAM(Centralised(STEP), rho=0.1),
    }
    for variant, composed in pairs.items():
        found = populations.last(GCSAM(STEP, 0.1, variant), risk, z, 5).position
        assert torch.equal(found, populations.last(composed, risk, z, 5).position)


def test_without_a_layout_there_is_nothing_to_centralise():
    z = start(himmelblau)
    expected = populations.last(SAM(STEP, rho=0.1), himmelblau, z, 5).position
    for variant in ("A1", "A2", "A3", "A4"):
        found = populations.last(GCSAM(STEP, 0.1, variant), himmelblau, z, 5).position
        assert torch.equal(found, expected)


def test_an_average_that_is_not_told_costs_nothing_and_moves_in_the_same_way():
    z, counted = start(himmelblau), Counting(himmelblau)
    quiet = run(SWA(STEP, start=1, evaluate=False), repeat(counted, 5), z, seeded(0))
    loud = run(SWA(STEP, start=1), repeat(himmelblau, 5), z, seeded(0))
    base = run(STEP, repeat(himmelblau, 5), z, seeded(0))
    for (one, told), (other, _), (_, info) in zip(quiet, loud, base, strict=True):
        assert torch.equal(one.position, other.position)
        assert torch.equal(told.loss, info.loss)
    assert counted.gradients == 5 * len(z)


@populations.annotations_unchecked()
def test_sam_ends_in_its_two_cycle():
    curvature, lr, rho = 133.785615213, 0.01, 0.05
    bowl = Analytic(lambda z: curvature / 2 * (z * z).sum(-1), dim=1)
    states = populations.states(SAM(GradientDescent(lr), rho), bowl, tensor(0.03)[None], 600)
    last, before = states[-1].position.item(), states[-2].position.item()
    assert last == pytest.approx(-before, abs=1e-10)
    assert abs(last) == pytest.approx(0.1010245852, abs=1e-9)


ELLIPSE = Analytic(lambda z: (10 * z[..., 0] ** 2 + z[..., 1] ** 2) / 2, dim=2)


def test_the_gradient_norm_penalty_has_its_golden_direction():
    z = tensor(1.0, 1.0)[None]
    moved = populations.last(GNP(GradientDescent(1.0), 0.8, 0.1), ELLIPSE, z, 1).position
    torch.testing.assert_close(
        (z - moved)[0], tensor(10.7960297522, 1.0079602975), rtol=0.0, atol=1e-10
    )


def test_on_a_quadratic_the_gradient_norm_penalty_is_exact():
    z = start(ELLIPSE)
    penalised = Analytic(
        lambda z: ELLIPSE.formula(z) + 0.08 * torch.sqrt((10 * z[..., 0]) ** 2 + z[..., 1] ** 2),
        dim=2,
    )
    _, expected = value_and_grad(penalised, z)
    moved = populations.last(GNP(GradientDescent(1.0), 0.8, 0.1), ELLIPSE, z, 1).position
    torch.testing.assert_close(z - moved, expected, rtol=1e-10, atol=1e-12)


def test_the_ends_of_alpha_are_the_base_method_and_sam():
    z = start(himmelblau)
    for alpha, other in ((0.0, STEP), (1.0, SAM(STEP, rho=0.1))):
        found = populations.last(GNP(STEP, alpha, 0.1), himmelblau, z, 5).position
        assert torch.equal(found, populations.last(other, himmelblau, z, 5).position)
    assert torch.equal(
        populations.last(SAM(STEP, rho=0.0), himmelblau, z, 5).position,
        populations.last(STEP, himmelblau, z, 5).position,
    )


def test_the_base_method_steps_from_where_the_members_are_bit_for_bit():
    z = start(himmelblau)
    method = SAM(GradientDescent(lr=0.01), rho=0.3)
    _, grad = value_and_grad(himmelblau, z)
    e = (0.3 / (norms(grad) + 1e-12)).unsqueeze(-1) * grad
    _, slope = value_and_grad(himmelblau, z + e)
    found = populations.last(method, himmelblau, z, 1).position
    assert torch.equal(found, z - 0.01 * slope)


def test_a_member_at_a_stationary_point_stays():
    z = tensor(0.0, 0.0)[None]
    for method in (SAM(STEP, 0.1), SAM(STEP, 0.1, adaptive=True), GCSAM(STEP), GNP(STEP)):
        assert torch.equal(populations.last(method, ELLIPSE, z, 3).position, z)


def test_epochs_go_inside_or_outside():
    risk, z = populations.risk(), start(populations.risk())
    inside = populations.last(SAM(Epoch(STEP, 8), rho=0.1), risk, z, 3)
    outside = populations.last(Epoch(SAM(STEP, rho=0.1), 8), risk, z, 3)
    assert torch.equal(inside.position, outside.position)
    full = populations.last(SAM(STEP, rho=0.1), risk, z, 3)
    assert not torch.allclose(inside.position, full.position)
    for method in (SAM(Epoch(STEP, 8), rho=0.1), Epoch(SAM(STEP, rho=0.1), 8)):
        for _, info in run(method, repeat(risk, 2), z, seeded(0)):
            loss, grad = value_and_grad(risk, info.position)
            torch.testing.assert_close((info.loss, info.gradient_norm), (loss, norms(grad)))
            assert info.evaluations == 2


def test_a_base_method_of_several_evaluations_pays_twice_for_each():
    counted, rounds = Counting(himmelblau), 0.0
    for _, info in run(SAM(LBFGS(iterations=3)), repeat(counted, 2), start(himmelblau), seeded(0)):
        rounds += info.evaluations
        _, grad = value_and_grad(himmelblau, info.position)
        torch.testing.assert_close(info.gradient_norm, norms(grad))
    assert counted.gradients == 4 * rounds == 4 * 2 * 6


def test_a_swarm_without_attraction_leaves_sam_as_it_is():
    z = start(himmelblau)
    swarm = Swarm(lr=0.0, local=SAM(STEP, rho=0.1), cognitive=0.0, social=0.0)
    found = populations.last(swarm, himmelblau, z, 6).position
    expected = populations.last(SAM(STEP, rho=0.1), himmelblau, z, 6).position
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    attracted = populations.last(Swarm(lr=0.0, local=SAM(STEP, rho=0.1)), himmelblau, z, 6)
    assert not torch.allclose(attracted.position, expected)


def test_averages_are_those_of_torch():
    risk, z = populations.risk(), populations.risk().point()[None]
    model = populations.network()
    averaged = torch.optim.swa_utils.AveragedModel(model)
    states = populations.states(STEP, risk, z, 12)
    for k, state in enumerate(states):
        torch.nn.utils.vector_to_parameters(state.position[0], model.parameters())
        if k >= 3 and (k - 3) % 2 == 0:
            averaged.update_parameters(model)
    expected = torch.cat([p.detach().reshape(-1) for p in averaged.module.parameters()])
    found = populations.last(SWA(STEP, start=3, every=2), risk, z, 12)
    torch.testing.assert_close(found.position[0], expected, rtol=1e-12, atol=1e-12)
    assert int(found.averaged) == 5
    assert torch.equal(found.base.position, states[-1].position)


def test_until_it_begins_the_average_is_the_base_method_and_it_never_feeds_back():
    z = start(himmelblau)
    plain = populations.states(STEP, himmelblau, z, 8)
    states = populations.states(SWA(STEP, start=4), himmelblau, z, 8)
    assert all(torch.equal(s.base.position, p.position) for s, p in zip(states, plain, strict=True))
    assert all(torch.equal(states[k].position, plain[k].position) for k in range(5))
    for k in (5, 6, 7):
        mean = torch.stack([state.position for state in plain[4 : k + 1]]).mean(0)
        torch.testing.assert_close(states[k].position, mean, rtol=1e-13, atol=0.0)


def test_the_average_is_judged_where_it_is_and_epochs_need_not_judge_themselves():
    risk, z = populations.risk(), start(populations.risk())
    method = SWA(Epoch(STEP, 8, evaluate=False), start=1)
    for state, info in run(method, repeat(risk, 4), z, seeded(0)):
        assert info.position is state.position
        torch.testing.assert_close(info.loss, value_and_grad(risk, state.position)[0])
        assert info.evaluations == 1


@every_objective
@every_method
def test_steps_are_pure_and_resumable(name, case):
    invariants.check_purity(METHODS_HERE[case], invariants.OBJECTIVES[name]())
    invariants.check_resumption(METHODS_HERE[case], invariants.OBJECTIVES[name]())


@every_objective
@every_method
def test_members_are_as_many_runs_of_their_own(name, case):
    invariants.check_alone(METHODS_HERE[case], invariants.OBJECTIVES[name]())


@every_objective
@every_method
def test_devices_types_and_info_are_right(name, case):
    method, objective = METHODS_HERE[case], invariants.OBJECTIVES[name]()
    invariants.check_devices_and_types(method, objective)
    # The average is evaluated for the report alone.
    invariants.check_info(method, objective, counts_all=not isinstance(method, SWA))


@every_method
def test_a_nan_stays_with_its_member(case):
    invariants.check_nan_stays_alone(METHODS_HERE[case])


@every_method
def test_members_that_a_swarm_has_moved_go_on_from_there(case):
    if not isinstance(METHODS_HERE[case], SWA):
        invariants.check_moved(METHODS_HERE[case])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: SAM(STEP, rho=-0.1), "rho must be at least 0 and finite, got -0.1"),
        (lambda: SAM(STEP, rho=float("nan")), "rho must be at least 0 and finite, got nan"),
        (lambda: SAM(STEP, eta=-0.1), "eta must be at least 0 and finite, got -0.1"),
        (lambda: GCSAM(STEP, rho=-0.1), "rho must be at least 0 and finite, got -0.1"),
        (
            lambda: populations.unchecked(GCSAM, base=STEP, variant="A5"),
            r"variant must be one of \('A1', 'A2', 'A3', 'A4'\), got A5",
        ),
        (lambda: GNP(STEP, alpha=-0.1), "alpha must be from 0 to 1, got -0.1"),
        (lambda: GNP(STEP, alpha=1.1), "alpha must be from 0 to 1, got 1.1"),
        (lambda: GNP(STEP, r=float("inf")), "r must be at least 0 and finite, got inf"),
        (
            lambda: Centralised(STEP, weight_decay=-1.0),
            "weight_decay must be at least 0 and finite, got -1.0",
        ),
        (lambda: SWA(STEP, start=-1), "start must be at least 0, got -1"),
        (lambda: SWA(STEP, every=0), "every must be at least 1, got 0"),
        (
            lambda: METHODS["sam"](base="adam", momentum=0.9),
            "momentum belongs to base='sgd'; adam has its own",
        ),
        (lambda: METHODS["gcsam"](batch_size=-1), "batch_size must be at least 0, got -1"),
    ],
)
def test_what_is_out_of_range_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_base_method_that_does_not_exist_is_refused():
    with (
        populations.annotations_unchecked(),
        pytest.raises(
            ValueError, match=r"base must be one of \('sgd', 'adam', 'adamw', .*\), got nig"
        ),
    ):
        METHODS["gnp"](base="nig")


def test_keywords_of_the_named_methods_arrive_where_they_belong():
    how = {"lr": 0.3, "momentum": 0.5, "weight_decay": 0.1, "batch_size": 0}
    base = SGD(lr=0.3, momentum=0.5, weight_decay=0.1)
    assert METHODS["sam"](**how, rho=0.2) == SAM(base, 0.2)
    assert METHODS["asam"](**how, rho=0.2, eta=0.3) == SAM(base, 0.2, adaptive=True, eta=0.3)
    made = METHODS["gcsam"](**how, rho=0.2, variant="A3", conv_only=True, adaptive=True)
    assert made == GCSAM(base, 0.2, "A3", conv_only=True, adaptive=True)
    assert METHODS["gnp"](**how, alpha=0.4, r=0.2) == GNP(base, 0.4, 0.2)
    assert METHODS["swa"](**how, start=7, every=3) == SWA(base, 7, 3)
    assert METHODS["sam"](base="adamw", lr=0.3, weight_decay=0.2) == Epoch(
        SAM(AdamW(lr=0.3, weight_decay=0.2)), 32
    )
    assert METHODS["swa"](base="adam", lr=0.3, batch_size=8, schedule="cosine", warmup=5) == SWA(
        Scheduled(Epoch(Adam(lr=0.3), 8, evaluate=False), WarmUp(5, Cosine(95))), start=75
    )
