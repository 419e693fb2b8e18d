"""Directions: lengths of filters, orthogonality, what stays zero, principal axes, differences."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from objectives import built, normal, own_point, seeded
from scipy import stats
from torch import nn

from landscape import directions
from landscape.directions import parts
from landscape.functions import himmelblau
from landscape.networks.layout import Layout
from landscape.objective import Analytic, hvp
from landscape.restriction import Restriction
from landscape.spectrum import top_eigenpairs

close = torch.testing.assert_close


class Network(nn.Module):
    """Filters along every axis that occurs, a filter of one entry, norms and biases."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(2, 3, 2)
        self.transposed = nn.ConvTranspose2d(3, 4, 2)
        self.norm = nn.BatchNorm2d(4, affine=True)
        self.words = nn.Embedding(5, 6)
        self.linear = nn.Linear(4, 3)
        self.narrow = nn.Linear(1, 3)
        self.gain = nn.Parameter(torch.ones(()))


@pytest.fixture(scope="module")
def layout():
    return Layout.of(built(Network))


@pytest.fixture(scope="module")
def z():
    return own_point(built(Network)) * 3


def filters(flat, layout):
    """Every filter of every tensor with weights, by hand: name, index, entries."""
    for entry in layout.entries:
        block = flat[entry.span].reshape(entry.shape)
        if entry.role in ("norm", "bias"):
            continue
        if entry.name == "transposed.weight":
            parts = [block[:, i] for i in range(block.shape[1])]
        elif block.ndim > 1:
            parts = list(block)
        else:
            parts = [block]
        for i, part in enumerate(parts):
            yield entry.name, i, part.reshape(-1)


def ignored(flat, layout):
    return torch.cat([flat[e.span] for e in layout.entries if e.role in ("norm", "bias")])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_filter_is_as_long_as_the_same_filter_of_the_point(layout, z, count):
    found = directions.random(layout, z, seeded(0), count=count)
    assert found.shape == (count, len(z))
    for i, direction in enumerate(found):
        pairs = zip(filters(direction, layout), filters(z, layout), strict=True)
        for (_, _, part), (_, _, own) in pairs:
            room = len(own) > i
            close(part.norm(), own.norm() if room else own.new_zeros(()))
        assert not ignored(direction, layout).any()
    assert len(list(filters(z, layout))) == 3 + 4 + 5 + 3 + 3 + 1


def test_directions_are_orthogonal_within_every_filter_and_overall(layout, z):
    found = directions.random(layout, z, seeded(1), count=3)
    for first, second in itertools.combinations(found, 2):
        for (_, _, a), (_, _, b) in zip(
            filters(first, layout), filters(second, layout), strict=True
        ):
            assert abs(a @ b) <= 1e-12 * (a.norm() * b.norm() + 1e-300)
        assert abs(first @ second) <= 1e-12 * first.norm() * second.norm()


@pytest.mark.parametrize("by", ["layer", "model"])
def test_layers_or_the_whole_may_be_scaled_instead(layout, z, by):
    found = directions.random(layout, z, seeded(1), by=by)
    assert abs(found[0] @ found[1]) <= 1e-12 * found[0].norm() * found[1].norm()
    for direction in found:
        assert not ignored(direction, layout).any()
        if by == "model":
            kept = torch.where(layout.mask(lambda e: e.role not in ("norm", "bias"), "cpu"), z, 0)
            close(direction.norm(), kept.norm())
            continue
        for entry in layout.entries:
            if entry.role not in ("norm", "bias") and entry.size > 1:
                close(direction[entry.span].norm(), z[entry.span].norm())


def test_directions_by_the_model_are_gaussian_and_favour_no_filter():
    model = built(
        lambda: nn.Sequential(nn.Linear(1, 30, bias=False), nn.Linear(30, 30, bias=False))
    )
    layout, z = Layout.of(model), own_point(model)
    found = directions.random(layout, z, seeded(0), count=1, by="model")[0]
    entries = found / found.std()
    small, large = entries[:30], entries[30:]
    assert stats.kstest(large.numpy(), "norm").pvalue > 1e-3
    assert 0.5 < float(small.std()) < 2


def test_within_a_filter_directions_are_gaussian():
    layout = Layout.of(nn.Linear(4000, 1, bias=False))
    z = torch.ones(4000, dtype=torch.float64, device="cpu")
    for direction in directions.random(layout, z, seeded(0)):
        assert stats.kstest(direction.numpy(), "norm").pvalue > 1e-3


def test_without_scaling_directions_are_orthonormal(layout, z):
    found = directions.random(layout, z, seeded(0), count=4, by="none")
    close(found @ found.T, torch.eye(4, dtype=z.dtype, device="cpu"))
    assert not any(ignored(direction, layout).any() for direction in found)


def test_a_vector_without_structure_is_one_filter():
    z = normal(6)
    found = directions.random(None, z, seeded(0))
    close(found @ found.T, torch.eye(2, dtype=z.dtype, device="cpu") * (z @ z))
    plain = directions.random(None, z, seeded(0), by="none")
    close(plain @ plain.T, torch.eye(2, dtype=z.dtype, device="cpu"))
    u = normal(2, 3, 6, seed=1)
    scaled = directions.normalise(None, z, u)
    close(scaled, u * z.norm() / u.norm(dim=-1, keepdim=True))


def test_directions_are_a_function_of_the_generator(layout, z):
    first, again, other = (directions.random(layout, z, seeded(s)) for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    one = directions.random(layout, z, seeded(3), count=1)
    close(one[0].norm(), first[0].norm())


def test_roles_to_ignore_may_be_chosen(layout, z):
    everything = directions.random(layout, z, seeded(0), ignore=())
    assert everything[0, layout.entries[1].span].any()
    for entry in layout.entries:
        if entry.role in ("norm", "bias"):
            close(everything[0, entry.span].norm(), z[entry.span].norm())
    without = directions.random(layout, z, seeded(0), ignore=("convolution", "norm"))
    spans = {entry.name: without[0, entry.span] for entry in layout.entries}
    assert not spans["convolution.weight"].any() and not spans["transposed.weight"].any()
    assert spans["linear.bias"].any()


@pytest.mark.parametrize("by", ["filter", "layer", "model", "none"])
def test_normalising_twice_changes_nothing_and_keeps_leading_axes(layout, z, by):
    u = normal(2, 3, len(z))
    once = directions.normalise(layout, z, u, by=by)
    assert once.shape == u.shape
    close(directions.normalise(layout, z, once, by=by), once)
    close(directions.normalise(layout, z, 7 * u, by=by), 7 * once if by == "none" else once)
    close(once[1, 2], directions.normalise(layout, z, u[1, 2], by=by))


def test_the_point_itself_is_a_direction_of_the_right_length(layout, z):
    kept = layout.mask(lambda entry: entry.role not in ("norm", "bias"), "cpu")
    close(directions.normalise(layout, z, z), torch.where(kept, z, 0))


def test_parts_that_are_zero_stay_zero(layout, z):
    u, point = normal(len(z)), z.clone()
    u[layout.entries[0].span] = 0
    point[layout.entries[2].span] = 0
    found = directions.normalise(layout, point, u)
    assert not found[layout.entries[0].span].any()
    assert not found[layout.entries[2].span].any()
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_directions_have_the_type_of_the_point_and_no_graph(layout, z, dtype):
    point = z.to(dtype).requires_grad_()
    found = directions.random(layout, point, seeded(0))
    assert found.dtype == dtype and not found.requires_grad
    assert not directions.normalise(layout, point, found).requires_grad
    expected = directions.random(layout, z.to(dtype).double(), seeded(0))
    tolerance = 8 * torch.finfo(dtype).eps
    close(found.double(), expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


@pytest.mark.usefixtures("unchecked")
def test_bad_arguments_are_refused(layout, z):
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        directions.random(layout, z, seeded(0), count=0)
    for by in ("filters", ""):
        with pytest.raises(ValueError, match=f"filter, layer, model or none, got '{by}'"):
            directions.normalise(layout, z, z, by=by)
        with pytest.raises(ValueError, match=f"filter, layer, model or none, got '{by}'"):
            directions.random(layout, z, seeded(0), by=by)
    wrong = rf"one point \({len(z)},\) is needed, got shape"
    for point in (z[:-1], z.expand(2, -1)):
        with pytest.raises(ValueError, match=wrong):
            directions.random(layout, point, seeded(0))
    with pytest.raises(ValueError, match=wrong):
        directions.normalise(layout, z[:-1], z[:-1])
    with pytest.raises(ValueError, match=r"directions \(\.\.\., p\) are needed, got"):
        directions.normalise(layout, z, z[:-1])


# ----------------------------------------------------------------------- orthogonal and normalised


@pytest.mark.parametrize("by", ["filter", "layer", "model"])
def test_given_directions_become_orthogonal_in_every_part_and_then_get_its_length(layout, z, by):
    u = normal(3, len(z)) + 2
    found = directions.normalise(layout, z, directions.orthogonalise(layout, u, by=by), by=by)
    for a, b in itertools.combinations(found, 2):
        assert abs(a @ b) <= 1e-12 * a.norm() * b.norm()
        for entry in layout.entries if by != "model" else ():
            first, second = a[entry.span], b[entry.span]
            assert abs(first @ second) <= 1e-12 * (first.norm() * second.norm() + 1e-300)
    kept = torch.where(layout.mask(lambda e: e.role not in ("norm", "bias"), "cpu"), z, 0)
    for i, direction in enumerate(found):
        assert not ignored(direction, layout).any()
        if by == "model":
            close(direction.norm(), kept.norm())
        for name, _, part in filters(direction, layout) if by == "filter" else ():
            assert part.any() == (len(part) > i), name
    if by == "filter":
        for direction in found[:2]:
            for (_, _, part), (_, _, own) in zip(
                filters(direction, layout), filters(z, layout), strict=True
            ):
                assert not part.any() or abs(part.norm() - own.norm()) <= 1e-12 * own.norm()


def test_orthogonalising_keeps_the_first_direction_and_what_each_other_one_adds(layout, z):
    u = normal(2, len(z))
    found = directions.orthogonalise(layout, u, ignore=())
    assert torch.equal(found[0], u[0])
    for (name, i, a), (_, _, b), (_, _, c) in zip(
        filters(u[0], layout), filters(u[1], layout), filters(found[1], layout), strict=True
    ):
        wanted = b - (a @ b) / (a @ a) * a if len(a) > 1 else torch.zeros_like(b)
        close(c, wanted, msg=f"{name} {i}")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_parallel_parts_leave_no_rounding_error_behind(layout, z, dtype):
    first = normal(len(z)).to(dtype)
    doubled = torch.stack([first, first * 1.7])
    found = directions.orthogonalise(layout, doubled)
    assert found.dtype == dtype and not found[1].any()
    assert not directions.orthogonalise(None, doubled)[1].any()


@pytest.mark.parametrize("piece", [1 << 16, 1])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_never_taken_for_a_part_without_room(bad, piece, monkeypatch):
    monkeypatch.setattr(parts, "_PIECE", piece)
    u, z = normal(3, 6), normal(6, seed=1)
    for place in range(3):
        spoiled = u.clone()
        spoiled[place, 2] = bad
        found = directions.orthogonalise(None, spoiled)
        assert not torch.isfinite(found[place]).all()
        close(found[:place], directions.orthogonalise(None, u)[:place])
        assert not torch.isfinite(directions.normalise(None, z, spoiled)[place]).all()
    beside = directions.random(None, z, seeded(0), count=1, beside=spoiled[2])
    assert not torch.isfinite(beside).all()


class Long(nn.Module):
    """Parts that are longer than what is held in float64 at once, along either axis."""

    def __init__(self):
        super().__init__()
        self.transposed, self.norm = nn.ConvTranspose1d(70000, 2, 1), nn.BatchNorm1d(2)
        self.linear = nn.Linear(70000, 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("by", ["filter", "layer", "model", "none"])
def test_long_parts_are_orthogonal_and_as_long_as_those_of_the_point(by, dtype):
    model = built(Long, dtype=torch.float32)
    layout, z = Layout.of(model), own_point(model).to(dtype)
    beside = normal(2, len(z), seed=5).to(dtype)
    kept = (z.clone(), beside.clone())
    found = directions.random(layout, z, seeded(0), by=by, beside=beside)
    assert torch.equal(z, kept[0]) and torch.equal(beside, kept[1])
    assert found.dtype == dtype and not ignored(found[0], layout).any()
    index = torch.arange(len(z), device="cpu")
    places = [part for _, _, part in filters(index, layout)]
    if by != "filter":
        cuts = [places[:2], places[2:]] if by == "layer" else [places]
        places = [torch.cat(cut) for cut in cuts]
    eps = torch.finfo(dtype).eps
    for place in places:
        rows = torch.cat([found, beside])[:, place].double()
        wanted = 1.0 if by == "none" else float(z[place].double().norm())
        for i in range(2):
            assert float(rows[i].norm()) == pytest.approx(wanted, rel=eps + 1e-13)
        unit = rows / rows.norm(dim=1, keepdim=True)
        angles = (unit @ unit.T)[:2] - torch.eye(2, 4, dtype=unit.dtype, device="cpu")
        assert angles.abs().max() < eps / 8 + 1e-13


@pytest.mark.parametrize("by", ["filter", "layer", "model"])
def test_directions_do_not_depend_on_how_many_parts_are_turned_together(layout, z, by, monkeypatch):
    whole = directions.random(layout, z, seeded(0), by=by)
    monkeypatch.setattr(parts, "_PIECE", 1)
    close(directions.random(layout, z, seeded(0), by=by), whole)


def test_a_random_direction_beside_a_given_one_is_orthogonal_to_every_part_of_it(layout, z):
    u = normal(len(z), seed=9)
    for by in ("filter", "model", "none"):
        (v,) = directions.random(layout, z, seeded(0), count=1, by=by, beside=u)
        kept = torch.where(layout.mask(lambda e: e.role not in ("norm", "bias"), "cpu"), u, 0)
        assert abs(v @ u) <= 1e-12 * v.norm() * kept.norm()
    two = directions.random(layout, z, seeded(0), beside=normal(2, len(z), seed=9))
    assert two.shape == (2, len(z))
    for name, _, part in filters(two[0], layout):
        assert part.any() == (len(part) > 2), name


def test_heads_of_attention_are_scaled_and_turned_as_units():
    model = built(lambda: nn.MultiheadAttention(4, 2))
    layout, z = Layout.of(model), own_point(model)
    first, second = directions.random(layout, z, seeded(0))
    for start in range(0, 6):
        head = slice(8 * start, 8 * start + 8)
        close(first[head].norm(), z[head].norm())
        close(second[head].norm(), z[head].norm())
        assert abs(first[head] @ second[head]) < 1e-12 * z[head].norm() ** 2
        one = first[head].reshape(2, 4).norm(dim=1) / z[head].reshape(2, 4).norm(dim=1)
        assert (one - 1).abs().min() > 1e-3


def test_directions_without_room_or_length_are_refused_with_a_way_out():
    layout = Layout.of(built(lambda: nn.Linear(1, 5)))
    z = normal(10)
    assert directions.random(layout, z, seeded(0), count=1).any()
    with pytest.raises(ValueError, match="direction 2 is zero everywhere: every part has fewer"):
        directions.random(layout, z, seeded(0))
    both = directions.random(layout, z, seeded(0), by="model")
    assert abs(both[0] @ both[1]) < 1e-12 * both[0].norm() ** 2
    with pytest.raises(ValueError, match="direction 1 is zero everywhere.*by='model' or 'none'"):
        directions.random(layout, 0 * z, seeded(0))
    with pytest.raises(ValueError, match="direction 2 is zero everywhere"):
        directions.random(None, z[:1], seeded(0))


@pytest.mark.usefixtures("unchecked")
def test_directions_of_another_model_are_refused(layout, z):
    wanted = rf"directions \(k, {len(z)}\) are needed, got shape"
    for u in (normal(2, len(z) - 1), normal(len(z))):
        with pytest.raises(ValueError, match=wanted):
            directions.orthogonalise(layout, u)
    with pytest.raises(ValueError, match="by must be filter, layer, model or none, got 'row'"):
        directions.orthogonalise(layout, normal(2, len(z)), by="row")
    with pytest.raises(ValueError, match="is a direction of another model"):
        directions.random(layout, z, seeded(0), beside=normal(len(z) + 1))


# ------------------------------------------------------------------ from derivatives and optimisers


def bowl(eigenvalues, seed=0):
    """A quadratic with these eigenvalues, and its eigenvectors in rows."""
    values = torch.tensor(eigenvalues, dtype=torch.float64, device="cpu")
    basis = torch.linalg.qr(normal(len(values), len(values), seed=seed))[0]
    matrix = basis @ torch.diag(values) @ basis.T
    return Analytic(lambda z: 0.5 * ((z @ matrix) * z).sum(-1), len(values)), basis.T


def test_eigenvectors_are_those_of_the_hessian_however_they_come():
    objective, truth = bowl([-7.0, 0.5, 1.0, 2.0, 5.0])
    z = normal(5)
    found = directions.eigenvectors(objective, z, 2)
    close((found @ truth.T).abs(), torch.eye(5, dtype=z.dtype, device="cpu")[[0, 4]])
    largest = directions.eigenvectors(objective, z, 2, which="LA")
    close((largest @ truth.T).abs(), torch.eye(5, dtype=z.dtype, device="cpu")[[4, 3]])
    spectrum = top_eigenpairs(objective, z, 3)
    for dtype in (torch.float64, torch.float32):
        again = directions.eigenvectors(spectrum, z.to(dtype), 2)
        assert again.dtype == dtype
        close(again, found.to(dtype))
    u = directions.eigenvectors(spectrum, z, 1)[0]
    close(hvp(objective, z, u), -7 * u)


def test_a_spectrum_that_does_not_serve_is_refused():
    objective, _ = bowl([1.0, 2.0, 3.0])
    z = normal(3)
    with pytest.raises(ValueError, match=r"has no vectors \(converged\): compute it with vectors="):
        directions.eigenvectors(top_eigenpairs(objective, z, 2, vectors=False), z)
    spectrum = top_eigenpairs(objective, z, 2)
    for point, k in ((z, 3), (normal(4), 2), (z, 0)):
        with pytest.raises(ValueError, match=rf"{k} vectors of length {len(point)} are needed"):
            directions.eigenvectors(spectrum, point, k)
    with pytest.raises(ValueError, match=r"so \['which'\] change nothing"):
        directions.eigenvectors(spectrum, z, which="LA")


def test_eigenvectors_that_did_not_converge_come_with_a_warning():
    objective, _ = bowl(torch.linspace(1, 2, 60).tolist())
    with pytest.warns(UserWarning, match=r"eigenvectors \[1, 2\] did not converge: not converged"):
        found = directions.eigenvectors(objective, normal(60), 2, max_products=5)
    assert found.shape == (2, 60)


def test_the_gradient_is_that_of_the_objective_and_never_zero():
    objective, _ = bowl([1.0, 2.0, 3.0])
    z = normal(3).requires_grad_()
    (truth,) = torch.autograd.grad(next(objective.terms())(z), z)
    found = directions.gradient(objective, z)
    close(found, truth)
    assert not found.requires_grad
    with pytest.raises(ValueError, match="the gradient is zero: there is nothing to see"):
        directions.gradient(objective, torch.zeros_like(truth))
    with pytest.raises(ValueError, match="the gradient has NaN or infinite entries"):
        directions.gradient(objective, truth * float("nan"))


def stepped(make, steps=3):
    """A model with a frozen and an unused parameter after some steps of an optimiser."""
    model = built(lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)))
    model.unused = nn.Parameter(torch.ones(2, dtype=torch.float64, device="cpu"))
    model[0].bias.requires_grad_(False)
    optimiser = make([p for p in model.parameters() if p.requires_grad])
    before = own_point(model)
    for step in range(steps):
        before = own_point(model)
        optimiser.zero_grad()
        model(normal(8, 4, seed=step)).square().sum().backward()
        optimiser.step()
    return model, optimiser, before


@pytest.mark.parametrize("amsgrad", [False, True])
def test_the_update_of_adam_is_what_its_last_step_subtracted(amsgrad):
    make = partial(torch.optim.Adam, lr=0.01, betas=(0.8, 0.95), eps=1e-3, amsgrad=amsgrad)
    model, optimiser, before = stepped(make)
    layout = Layout.of(model)
    remembered = {k: v.clone() for k, v in optimiser.state[model[0].weight].items()}
    found = directions.moments(layout, model, optimiser, "update")
    close(before - 0.01 * found, own_point(model))
    first = layout.unflatten(directions.moments(layout, model, optimiser))
    close(first["0.weight"], remembered["exp_avg"])
    assert not first["unused"].any() and "0.bias" not in first
    assert all(torch.equal(optimiser.state[model[0].weight][k], v) for k, v in remembered.items())


def test_momentum_is_what_the_last_step_of_gradient_descent_subtracted():
    model, optimiser, before = stepped(partial(torch.optim.SGD, lr=0.1, momentum=0.9))
    found = directions.moments(Layout.of(model), model, optimiser)
    close(before - 0.1 * found, own_point(model))


@pytest.mark.usefixtures("unchecked")
def test_a_state_without_moments_or_of_another_model_is_refused():
    model, optimiser, _ = stepped(partial(torch.optim.SGD, lr=0.1, momentum=0.9))
    layout = Layout.of(model)
    with pytest.raises(ValueError, match="kind must be first or update, got 'second'"):
        directions.moments(layout, model, optimiser, "second")
    with pytest.raises(ValueError, match=r"SGD keeps \['momentum_buffer'\], and no exp_avg_sq"):
        directions.moments(layout, model, optimiser, "update")
    fresh, other = torch.optim.Adam(model.parameters()), nn.Linear(4, 3)
    for wrong, state in ((model, fresh), (other, optimiser)):
        with pytest.raises(ValueError, match="has no state for the parameters of this"):
            directions.moments(Layout.of(wrong), wrong, state)
    with pytest.raises(ValueError, match="no tensor named weight; got"):
        directions.moments(Layout.of(other), model, optimiser)
    other, adagrad, _ = stepped(torch.optim.Adagrad)
    with pytest.raises(ValueError, match=r"Adagrad keeps \['step', 'sum'\], and neither exp_avg"):
        directions.moments(Layout.of(other), other, adagrad)


def test_a_direction_may_be_given_in_any_form_and_is_checked_against_the_layout():
    model = built(lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))
    layout, u = Layout.of(model), normal(21)
    tensors = layout.unflatten(u)
    states = {**tensors, **dict(model.named_buffers())}
    close(directions.given(layout, u), u)
    close(directions.given(layout, tensors), u)
    close(directions.given(layout, [t.numpy() for t in tensors.values()]), u)
    close(directions.given(layout, states, drop=dict(model.named_buffers())), u)
    half = directions.given(layout, tensors, normal(21, dtype=torch.float32))
    assert half.dtype == torch.float32
    for wrong, message in (
        (u[:-1], r"a direction \(21,\) is needed, got shape \(20,\): is it of another model"),
        (states, r"it lacks \[\] and has \['1.num_batches_tracked', '1.running_mean'"),
        ({"0.weight": u[:12]}, r"it lacks \['0.bias', '1.weight', '1.bias'\] and has \[\]"),
        (list(tensors.values())[:3], "the direction has 3 tensors and the model 4"),
        ({**tensors, "0.weight": u[:12].reshape(4, 3)}, r"0.weight must have shape \(3, 4\)"),
        (0 * u, "the direction is zero"),
        (u / 0, "the direction has NaN or infinite entries"),
    ):
        with pytest.raises(ValueError, match=message):
            directions.given(layout, wrong)


# ------------------------------------------------------------------------------ between and along


def test_between_leads_from_the_one_point_to_the_other():
    a, b = normal(2), normal(2, seed=1)
    restricted = Restriction(himmelblau, a, directions.between(a, b))
    ends = restricted.point(torch.tensor([[0.0], [1.0]], dtype=torch.float64, device="cpu"))
    close(ends, torch.stack([a, b]))


@pytest.mark.usefixtures("unchecked")
def test_there_is_no_direction_between_equal_or_unequally_long_points():
    with pytest.raises(ValueError, match="the two points are equal"):
        directions.between(normal(3), normal(3))
    with pytest.raises(ValueError, match=r"two points \(p,\) are needed, got \(3,\) and \(4,\)"):
        directions.between(normal(3), normal(4))
    with pytest.raises(ValueError, match=r"two points \(p,\) are needed, got \(1, 3\)"):
        directions.between(normal(1, 3), normal(1, 3, seed=1))


@pytest.mark.parametrize("shape", [(8, 3), (5, 200), (30, 30)])
@pytest.mark.parametrize("count", [1, 3])
def test_principal_directions_are_those_of_numpy(shape, count):
    scales = torch.logspace(0, 1.5, shape[1], dtype=torch.float64, device="cpu")
    points = normal(*shape) * scales + 5
    found, shares = directions.pca(points, count)
    centred = points.numpy() - points.numpy().mean(0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(shares, (singular**2 / (singular**2).sum())[:count], rtol=1e-9)
    np.testing.assert_allclose(abs((found.numpy() * axes[:count]).sum(1)), 1, rtol=1e-9)
    close(found @ found.T, torch.eye(count, dtype=points.dtype, device="cpu"))
    peaks = found.abs().argmax(1)
    assert (found[torch.arange(count, device="cpu"), peaks] > 0).all()


def test_the_path_of_a_descent_lies_in_the_plane_of_its_principal_directions():
    target = normal(2, 40)
    points = torch.stack([math.exp(-k / 3) * target[0] + k * target[1] for k in range(9)])
    found, shares = directions.pca(points)
    rest = points - points.mean(0)
    close(rest @ found.T @ found, rest)
    close(shares.sum(), torch.ones((), dtype=points.dtype, device="cpu"))


@pytest.mark.parametrize("memory", [1, 16 * 5 * 7, 2**28])
def test_principal_directions_do_not_depend_on_the_memory_they_may_take(memory):
    points = normal(5, 33) + 3
    found, shares = directions.pca(points, 3, memory=memory)
    whole, all_shares = directions.pca(points, 3)
    close(found, whole)
    close(shares, all_shares)


def test_principal_directions_about_a_given_point_explain_the_squared_distances_from_it():
    points = normal(6, 20) + 10
    found, shares = directions.pca(points, 2, center=points[-1])
    rest = (points - points[-1]).numpy()
    _, singular, axes = np.linalg.svd(rest, full_matrices=False)
    np.testing.assert_allclose(shares, (singular**2 / (singular**2).sum())[:2], rtol=1e-9)
    np.testing.assert_allclose(abs((found.numpy() * axes[:2]).sum(1)), 1, rtol=1e-9)
    alone, share = directions.pca(points[:1], 1, center=points[-1])
    close(alone[0], rest_sign(points[0] - points[-1]))
    assert float(share) == 1


def rest_sign(u):
    return u / u.norm() * u[u.abs().argmax()].sign()


def test_small_principal_directions_of_a_distant_float32_cloud_stay_orthogonal():
    exact = 100 + normal(8, 500, seed=3) * torch.logspace(0, -3, 500, dtype=torch.float64,
                                                          device="cpu")  # fmt: skip
    found, _ = directions.pca(exact.float(), 5)
    assert found.dtype == torch.float32
    error = (found @ found.T - torch.eye(5, device="cpu")).abs().max()
    assert error < 1e-5


@pytest.mark.usefixtures("unchecked")
def test_too_few_or_too_similar_points_have_no_principal_directions():
    with pytest.raises(ValueError, match="more than 2 points .* for 2 directions, got shape"):
        directions.pca(normal(2, 5))
    with pytest.raises(ValueError, match="more than 0 points"):
        directions.pca(normal(4, 5), count=0)
    with pytest.raises(ValueError, match=r"got shape \(5,\)"):
        directions.pca(normal(5))
    with pytest.raises(ValueError, match="span fewer than 2 directions"):
        directions.pca(normal(5).outer(normal(7)))
    with pytest.raises(ValueError, match="span fewer than 1 directions"):
        directions.pca(torch.ones(4, 3, device="cpu"), 1)
    with pytest.raises(ValueError, match="at least 3 points .* for 3 directions"):
        directions.pca(normal(2, 5), 3, center=normal(5))
    with pytest.raises(ValueError, match=r"center must be one point \(5,\), got shape \(4,\)"):
        directions.pca(normal(4, 5), center=normal(4))
    with pytest.raises(ValueError, match="NaN or infinite entries"):
        directions.pca(normal(4, 5) / 0)


def test_curvature_along_a_direction_is_that_of_the_restriction():
    z, u = normal(2), normal(2, seed=1)
    restricted = Restriction(himmelblau, z, u)
    one = torch.ones(1, dtype=torch.float64, device="cpu")
    close(hvp(restricted, 0 * one, one), (u @ hvp(himmelblau, z, u)).reshape(1))
