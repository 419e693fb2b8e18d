"""Real architectures at a small size: every number beside dense autograd in float64."""

import math
import re
from functools import cache

import criteria
import generative
import graphs
import language
import physics
import pytest
import refusals
import sequences
import structure
import torch
import vision
from cases import CASES, REFUSED, made, tensors
from scipy import stats
from torch import nn
from truth import Known, Truth

from landscape import directions, slices
from landscape.networks import risk as risks
from landscape.objective import hvp, value, value_and_grad
from landscape.spectrum import top_eigenpairs
from landscape.trace import trace

SHELVES = (criteria, generative, graphs, language, physics, refusals, sequences, structure, vision)
ERRORS = (ValueError, TypeError, RuntimeError)
PROBES = 200

pytestmark = [
    # What torch and its libraries say of themselves when these models run.
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        "Sparse CSR tensor support is in beta",
        "The PyTorch API of nested tensors is in prototype",
        ".*torch.nn.utils.weight_norm.* is deprecated",
        "None of the inputs have requires_grad",
        # What the project says of a plane far from the statistics of BatchNorm.
        "BatchNorm's statistics are frozen at those of the model",
    )
]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def risk_of(case):
    make = getattr(risks, case.risk)
    return make(case.model, case.data, case.loss, **case.options)


@cache
def known(name):
    """The truth of a case at a point beside its own, so that reading the module's weights shows."""
    truth = Truth(made(name))
    z = truth.initial.float()
    return Known(truth, (z + 0.05 * noise(truth, 1).float()).double())


def noise(truth, seed):
    """A random direction that leaves padding alone."""
    u = torch.randn(truth.dim, generator=seeded(seed))
    return (u * (truth.initial != 0) if truth.case.padded else u).double()


@cache
def judged(name):
    """The risk of a case; None where it is refused and that is as good."""
    case = made(name)
    try:
        risk = risk_of(case)
        if case.excused:
            value_and_grad(risk, risk.point())
            top_eigenpairs(risk, risk.point(), 1)
    except ERRORS as error:
        if case.excused and re.search(case.excused, str(error)):
            return None
        raise
    return risk


@pytest.fixture(scope="module", params=CASES)
def name(request):
    """One case after another, with all checks of one beside each other."""
    return request.param


@pytest.fixture
def measured(name):
    """(risk, point in float32, truth)."""
    risk = judged(name)
    if risk is None:
        pytest.skip("refused, which is as good as the right answer")
    return risk, known(name).z.float(), known(name)


def near(found, right, relative, scale=None):
    """Whether two vectors differ by at most ``relative`` times the length of the second."""
    found, right = (torch.as_tensor(part, dtype=torch.float64) for part in (found, right))
    scale = float(right.norm()) if scale is None else float(scale)
    error = float((found - right).norm())
    assert error <= relative * scale, f"{error:.3g} off, of {scale:.3g}"


# ------------------------------------------------------------------------------------ the truth


def test_the_truth_is_one_function(name):
    """Its Hessian is symmetric, and central differences of its values and slopes agree."""
    right, truth = known(name), known(name).truth
    assert truth.dim <= 1500 and math.isfinite(right.value)
    near(truth.value(right.z), right.value, 1e-12)
    near(right.hessian, right.hessian.T, 1e-6, right.hessian.norm() + 1e-12)
    exact = truth.case.accuracy <= 1e-9
    step, rough = (1e-5, 1e-5) if exact else (1e-3, 1e-2)
    u = noise(truth, 2) / noise(truth, 2).norm()
    ends = [right.z + step * u, right.z - step * u]
    slope = (truth.value(ends[0]) - truth.value(ends[1])) / (2 * step)
    bend = (truth.gradient(ends[0]) - truth.gradient(ends[1])) / (2 * step)
    near(slope, right.gradient @ u, rough, right.gradient.norm() + 1e-6)
    near(bend, right.hessian @ u, rough, right.hessian.norm() + 1e-6)


# ------------------------------------------------------------------------------ the measurements


def test_value_and_gradient(measured):
    risk, z, right = measured
    near(risk.point(), right.truth.initial, 1e-6)
    near(value(risk, z), right.value, 1e-4)
    found, slope = value_and_grad(risk, z)
    near(found, right.value, 1e-4)
    near(slope, right.gradient, 1e-4)


def test_value_and_gradient_in_double(measured):
    risk, z, right = measured
    found, slope = value_and_grad(risk, z.double())
    near(found, right.value, right.truth.case.accuracy)
    near(slope, right.gradient, right.truth.case.accuracy)


def test_several_points_at_once(measured):
    risk, z, right = measured
    points = torch.stack([z, right.truth.initial.float()]).double()
    found, _ = value_and_grad(risk, points)
    expected = [right.value, right.truth.value(right.truth.initial)]
    near(found, expected, right.truth.case.accuracy)


def test_product(measured):
    risk, z, right = measured
    u = torch.randn(len(z), generator=seeded(3))
    expected = right.hessian @ u.double()
    near(hvp(risk, z, u), expected, 1e-3, expected.norm() + 1e-4 * right.hessian.norm())


@pytest.mark.parametrize("k", [2, 3])
def test_eigenvalues_of_both_ends(measured, k):
    risk, z, right = measured
    found = top_eigenpairs(risk, z, k, which="BE")
    true = right.eigenvalues
    expected = torch.cat([true[: k - k // 2], true[-(k // 2) :]])
    rounding = 1e-5 * float(true.abs().max())
    assert found.converged.all(), found.status
    off = abs(found.eigenvalues - expected.numpy())
    assert (off <= found.bounds + rounding).all(), (found.eigenvalues, found.bounds, expected)


def test_trace(measured):
    risk, z, right = measured
    found = trace(risk, z, probes=PROBES)
    error = found.standard_error
    if found.method == "hutchinson":
        # The variance of a product with random signs is known where the matrix is.
        outside = right.hessian - torch.diag(right.hessian.diagonal())
        error = float((2 * outside.square().sum() / PROBES).sqrt())
        assert 0.6 * error <= found.standard_error <= 1.6 * error
    reach = stats.t.ppf(0.9995, PROBES - 1) * max(error, found.standard_error)
    rounding = 1e-4 * float(right.eigenvalues.abs().sum())
    assert abs(found.estimate - right.trace) <= reach + rounding


def test_plane(measured):
    risk, z, right = measured
    u, v = directions.random(risk.layout, z, seeded(4), ignore=())
    span = right.truth.case.span
    steps = [-span, 0.0, span]
    found = slices.plane(risk, z, u, v, alpha=steps, beta=steps)
    truth, wide = right.truth, [part.double() for part in (z, u, v)]
    for i, j in ((0, 0), (2, 1), (1, 1)):
        corner = wide[0] + steps[i] * wide[1] + steps[j] * wide[2]
        near(found.loss[i, j], truth.value(corner), 1e-4)


def test_model_and_data_come_back_as_they_were(name):
    if judged(name) is None:
        pytest.skip("refused, which is as good as the right answer")
    case = made(name)
    modules = [part for part in (case.model, case.loss) if isinstance(part, nn.Module)]
    for module in modules:
        for parameter in module.parameters():
            parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    before = [state_of(module) for module in modules]
    data = [(id(part), part.requires_grad, bytes_of(part)) for part in tensors(case.data)]
    generator = torch.get_rng_state()
    risk = risk_of(case)
    z = known(name).z.float()
    value_and_grad(risk, z)
    top_eigenpairs(risk, z, 1)
    u, v = directions.random(risk.layout, z, seeded(4), ignore=())
    slices.plane(risk, z, u, v, alpha=[-0.1, 0.0, 0.1], beta=[0.0, 0.1])
    assert torch.equal(torch.get_rng_state(), generator)
    assert [state_of(module) for module in modules] == before
    after = [(id(part), part.requires_grad, bytes_of(part)) for part in tensors(case.data)]
    assert after == data


def bytes_of(tensor):
    dense = tensor.detach().to_dense()
    return (dense.float() if dense.dtype == torch.bfloat16 else dense).numpy().tobytes()


def state_of(model):
    """All that a user could see of a model: numbers, gradients, modes, attributes, hooks."""
    tensors = {name: part.detach() for name, part in model.named_parameters()}
    tensors |= {f"{name}.grad": part.grad for name, part in model.named_parameters()}
    tensors |= dict(model.named_buffers())
    numbers = {
        key: None if tensor is None else (tensor.dtype, bytes_of(tensor))
        for key, tensor in tensors.items()
    }
    needed = [parameter.requires_grad for parameter in model.parameters()]
    identities = [id(part) for part in (*model.parameters(), *model.buffers())]
    modules = {
        name: (
            id(module), type(module), module.training, sorted(vars(module)),
            len(module._forward_hooks), len(module._forward_pre_hooks),
        )
        for name, module in model.named_modules()
    }  # fmt: skip
    return numbers, needed, identities, modules


# ---------------------------------------------------------------------------------- the refused


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_right_answer_is_refused(name):
    case = made(name)
    with pytest.raises(ERRORS, match=case.refused):
        risk = risk_of(case)
        z = risk.point()
        value_and_grad(risk, z)
        top_eigenpairs(risk, z, 1)
