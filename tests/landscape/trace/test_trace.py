"""Traces with their errors: by probes, by the Gauss-Newton identity, and at a distance."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from objectives import (
    CE,
    IMAGES,
    MASKED,
    SEQUENCES,
    VALUES,
    X,
    Y,
    built,
    case,
    normal,
    padded,
    seeded,
    settled,
    uneven,
)
from scipy.stats import norm
from torch import nn

from cnognp.tasks.networks import resnet20
from landscape.curvature import Hessian
from landscape.functions import himmelblau
from landscape.networks.risk import EmpiricalRisk
from landscape.objective import Analytic, Ridge, Sum
from landscape.operators import GaussNewton
from landscape.results import load, save
from landscape.trace import finite_scale, trace
from landscape.trace.hutchinson import hutchinson, summary


def relu_network():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def dense_trace(objective, z):
    return float(Hessian(objective, z).dense().trace())


def quadratic(matrix):
    return Analytic(lambda z: 0.5 * ((z @ matrix) * z).sum(-1), dim=len(matrix))


def rotated(eigenvalues, seed=0):
    basis, _ = torch.linalg.qr(normal(len(eigenvalues), len(eigenvalues), seed=seed))
    return basis @ torch.diag(torch.as_tensor(eigenvalues, dtype=torch.float64)) @ basis.T


class Matrix:
    """A symmetric matrix with the interface of the operators."""

    def __init__(self, matrix):
        self.matrix, self.dim, self.point = matrix, len(matrix), matrix[0]

    def __matmul__(self, u):
        return u @ self.matrix


# ------------------------------------------------------------------------------------ probes

SPECTRA = {
    "one outlier": [1.0] + [0.0] * 59,
    "outliers and bulk": [10.0, 5, 3, 2, 1] + [0.05] * 55,
    "power law": [1 / i for i in range(1, 61)],
    "negative": [-1 / i for i in range(1, 61)],
    "both signs": [1 / i for i in range(1, 31)] + [-0.3 / i for i in range(1, 31)],
}
RUNS = 200


@pytest.mark.parametrize(
    ("family", "tolerance"), [*((family, 0.1) for family in SPECTRA), ("one outlier", None)]
)
def test_the_interval_covers_the_trace_as_often_as_it_says_also_under_the_stopping_rule(
    family, tolerance
):
    matrix = Matrix(rotated(SPECTRA[family]))
    truth, covered, stopped = sum(SPECTRA[family]), 0, []
    for seed in range(RUNS):
        found = hutchinson(matrix, tolerance, probes=64 if tolerance is None else 2000,
                           generator=seeded(seed))  # fmt: skip
        covered += found.interval[0] <= truth <= found.interval[1]
        stopped.append(found.probes)
    # Three standard deviations of a binomial share of 95 %.
    assert abs(covered / RUNS - 0.95) < 3 * math.sqrt(0.95 * 0.05 / RUNS)
    assert tolerance is None or min(stopped) >= 64


def test_probes_end_when_the_standard_error_is_small_enough_or_the_budget_is_spent():
    objective, z = quadratic(rotated(SPECTRA["power law"])), normal(60)
    truth = sum(SPECTRA["power law"])
    found = trace(objective, z, tolerance=0.02)
    assert found.status.startswith("converged") and found.tolerance == 0.02
    assert found.standard_error <= 0.02 * found.estimate
    assert 64 <= found.probes == found.products == len(found.samples)
    assert found.interval[0] < truth < found.interval[1]
    assert found.interval[0] < found.estimate < found.interval[1]
    assert found.estimate == pytest.approx(found.samples.mean())
    short = trace(objective, z, tolerance=0.001, probes=70)
    assert short.status == "stopped after 70 products" and short.probes == 70
    plain = trace(objective, z)
    assert plain.probes == 100 and plain.status == "stopped after 100 products"
    assert (plain.method, plain.operator, plain.dim) == ("hutchinson", "Hessian", 60)


def test_the_variance_of_the_samples_is_twice_the_squares_off_the_diagonal():
    matrix = rotated(SPECTRA["both signs"])
    found = hutchinson(Matrix(matrix), probes=4000)
    truth = 2 * float(matrix.square().sum() - matrix.diagonal().square().sum())
    assert found.samples.var() == pytest.approx(truth, rel=0.15)


def test_negative_traces_and_zero_hessians_are_ordinary():
    negative = trace(quadratic(rotated(SPECTRA["negative"])), normal(60), tolerance=0.05)
    assert negative.status.startswith("converged")
    assert negative.interval[0] < sum(SPECTRA["negative"]) < negative.interval[1] < 0
    flat = trace(quadratic(rotated([0.0] * 60)), normal(60), tolerance=0.05)
    assert flat.estimate == flat.standard_error == 0 and flat.probes == 64
    assert flat.status.startswith("converged")
    # A trace of zero with curvature of both signs has no relative error: the budget ends it.
    saddle = trace(quadratic(rotated([1.0, -1.0] * 30)), normal(60), tolerance=0.05, probes=200)
    assert saddle.probes == 200 and abs(saddle.estimate) < 4 * saddle.standard_error


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_few_coordinates_need_no_probes(dtype):
    z = normal(2, dtype=dtype)
    for method in ("hutchinson", "exact", "auto"):
        found = trace(himmelblau, z, method)
        assert found.estimate == pytest.approx(dense_trace(himmelblau, z.double()), rel=1e-5)
        assert found.standard_error == 0 and found.probes == 0 and found.products == 2
        assert found.interval.tolist() == [found.estimate] * 2
    assert trace(himmelblau, z).method == "dense"


def test_the_part_of_a_ridge_is_exact():
    objective = quadratic(rotated([0.0] * 60))
    mask = (torch.arange(60, device="cpu") < 20).double()
    found = trace(Sum(objective, Ridge(0.3, mask), Ridge(0.1, dim=60)), normal(60))
    assert found.estimate == pytest.approx(12.0, rel=1e-12)
    assert found.standard_error < 1e-12
    risk = EmpiricalRisk(built(relu_network), (X, Y), CE)
    bare = trace(risk, risk.point(), "exact").estimate
    with_ridge = trace(Sum(risk, Ridge(0.5, dim=risk.dim)), risk.point(), "exact")
    assert with_ridge.estimate == pytest.approx(bare + 0.5 * risk.dim, rel=1e-12)


def test_traces_of_layers_add_up_to_the_whole_and_other_matrices_have_traces():
    risk = EmpiricalRisk(built(relu_network), uneven(X, Y), CE)
    z = risk.point()
    parts = [trace(risk, z, "exact", where=name) for name in ("0", "2", "4")]
    assert sum(part.estimate for part in parts) == pytest.approx(dense_trace(risk, z), rel=1e-12)
    assert [part.where for part in parts] == ["0", "2", "4"]
    matrix = Hessian(risk, z).dense()
    assert trace(risk, z, where="2.weight").dim == 30
    assert trace(risk, z, where="2.weight").estimate == pytest.approx(
        float(matrix[30:60, 30:60].trace())
    )
    smooth, _, point = case("layer-norm", "cpu")
    found = trace(smooth, point, operator=GaussNewton, probes=400)
    truth = dense_trace(smooth, point)
    gauss = float((GaussNewton(smooth, point) @ torch.eye(smooth.dim, dtype=z.dtype)).trace())
    assert abs(found.estimate - gauss) < 4 * found.standard_error
    assert found.operator == "Gauss-Newton" and abs(gauss - truth) > 0.01


def test_equal_generators_give_equal_results_that_a_file_keeps(tmp_path):
    objective, z = quadratic(rotated(SPECTRA["power law"])), normal(60)
    first, again = (trace(objective, z, generator=seeded(5)) for _ in range(2))
    assert first.samples.tolist() == again.samples.tolist()
    assert trace(objective, z, generator=seeded(6)).estimate != first.estimate
    save(first, tmp_path / "trace.h5")
    assert load(tmp_path / "trace.h5").interval.tolist() == first.interval.tolist()
    ladder = finite_scale(objective, z, beside=first)
    save(ladder, tmp_path / "ladder.h5")
    assert load(tmp_path / "ladder.h5").trace == first.estimate


def test_a_point_that_is_not_finite_is_said_to_be_so():
    found = trace(Analytic(lambda z: (z**3).sum(-1), dim=60), normal(60) * float("nan"))
    assert found.status.startswith("not finite") and math.isnan(found.estimate)
    assert np.isnan(found.interval).all()


@pytest.mark.usefixtures("unchecked")
def test_bad_arguments_are_named():
    z = normal(2)
    for arguments, words in (
        ({"method": "hutch++"}, "method must be hutchinson, exact or auto, got 'hutch"),
        ({"tolerance": 0.0}, "tolerance must lie between 0 and 1, got 0"),
        ({"tolerance": float("nan")}, "tolerance must lie between 0 and 1, got nan"),
        ({"probes": 1}, "probes must be at least 2, got 1"),
        ({"method": "exact", "operator": GaussNewton}, "method='exact' is for the Hessian"),
    ):
        with pytest.raises(ValueError, match=words):
            trace(himmelblau, z, **arguments)
    with pytest.raises(ValueError, match="one point .2,. is needed"):
        trace(himmelblau, normal(3, 2))
    with pytest.raises(ValueError, match="or at most 32 parameters, got Analytic with 60"):
        trace(quadratic(rotated([1.0] * 60)), normal(60), "exact")
    model = built(lambda: nn.Sequential(nn.Linear(4, 9), nn.Dropout(0.5), nn.Linear(9, 3)))
    risk = EmpiricalRisk(model, (X, Y), CE)
    with pytest.raises(RuntimeError, match="Dropout in training mode"):
        trace(risk, risk.point())


def test_the_correction_for_skewness_moves_both_ends_to_the_long_side():
    samples = np.random.default_rng(0).exponential(size=100)
    mean, error, (low, high) = summary(samples)
    assert high - mean > mean - low
    _, _, (mirrored, _) = summary(-samples)
    assert mirrored == pytest.approx(-high)
    _, _, ends = summary(np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(ends, 2 + np.array([-1, 1]) * 4.302653 / math.sqrt(3), rtol=1e-6)


# ------------------------------------------------------------------------------------- exact


class Residual(nn.Module):
    """Everything that a ReLU network of today is made of."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.inner, self.slope = nn.Conv2d(4, 4, 3, padding=1), nn.PReLU(4)
        self.out = nn.Linear(4, 3)
        self.register_buffer("scale", torch.tensor(1.5))

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        y = F.max_pool2d(x + self.slope(self.inner(x)), 2)
        y = torch.cat([F.leaky_relu(y[:, :2]), y[:, 2:].clamp(-1, 1)], dim=1)
        return self.out(F.adaptive_avg_pool2d(y * self.scale, 1).flatten(1)) / 2


def residual():
    return settled(Residual(), IMAGES.float())


def wavy(output, target):
    """Not convex in the outputs."""
    return (output.sum(-1) - target).cos().mean()


EXACT = {
    "cross-entropy": (relu_network, X, Y, CE),
    "mean square": (relu_network, X, VALUES, F.mse_loss),
    "weights": (relu_network, X, MASKED, padded),
    "smoothed": (relu_network, X, Y, nn.CrossEntropyLoss(label_smoothing=0.1)),
    "not convex": (relu_network, X, Y, wavy),
    "absolute": (relu_network, X, VALUES, F.l1_loss),
    "residual": (residual, IMAGES, Y, CE),
    "one hidden sequence": (lambda: nn.Linear(4, 3), SEQUENCES, SEQUENCES[..., :3], F.mse_loss),
    "embedding": (
        lambda: nn.Sequential(nn.Embedding(6, 3), nn.Flatten(), nn.ReLU(), nn.Linear(9, 3)),
        torch.arange(30, device="cpu").reshape(10, 3) % 6, Y, CE),
}  # fmt: skip


@pytest.mark.parametrize("evaluation", ["auto", "sequential"])
@pytest.mark.parametrize("kind", EXACT)
def test_the_exact_trace_is_that_of_the_dense_hessian(kind, evaluation):
    make, inputs, target, loss = EXACT[kind]
    model = built(make)
    risk = EmpiricalRisk(model, uneven(inputs, target), loss, evaluation=evaluation)
    z = risk.point() + 0.1 * normal(risk.dim)
    found = trace(risk, z, "exact")
    truth = dense_trace(risk, z)
    assert found.estimate == pytest.approx(truth, rel=1e-12, abs=1e-14)
    assert (found.method, found.standard_error, found.probes) == ("exact", 0.0, 0)
    single = trace(risk, z.float(), "exact")
    assert single.estimate == pytest.approx(truth, rel=1e-4, abs=1e-6)
    # One pass for each sample and each direction in which the loss bends: softmax leaves one out.
    assert found.provenance["backward_passes"] <= 30 * (3 if "one" in kind else 1)


def test_the_exact_trace_of_cross_entropy_takes_one_pass_less_than_there_are_classes():
    risk = EmpiricalRisk(built(relu_network), (X, Y), CE)
    assert trace(risk, risk.point(), "exact").provenance["backward_passes"] == 20


@pytest.mark.slow
def test_the_exact_trace_of_a_resnet_sums_its_diagonal_entries():
    model = settled(built(lambda: resnet20(10), dtype=torch.float32), normal(4, 3, 32, 32).float())
    inputs, target = normal(2, 3, 32, 32, seed=1).float(), torch.tensor([3, 7], device="cpu")
    risk = EmpiricalRisk(model, (inputs, target), CE)
    z = risk.point().double()
    places = [5, 400, 20_000, 100_000, 269_000, 269_715]
    mask = torch.zeros(risk.dim, dtype=torch.bool, device="cpu")
    mask[places] = True
    found = trace(risk, z, "exact", where=mask)
    hessian = Hessian(risk, z)
    truth = 0.0
    for place in places:
        unit = torch.zeros_like(z)
        unit[place] = 1
        truth += float((hessian @ unit)[place])
    assert found.estimate == pytest.approx(truth, rel=1e-9) and truth > 0


class Reused(nn.Module):
    """A convolution that is applied twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(36, 3)

    def forward(self, x):
        return self.out(F.relu(self.conv(F.relu(self.conv(x)))).flatten(1))


class Siamese(Reused):
    """The same convolution on two inputs."""

    def forward(self, x):
        return self.out((F.relu(self.conv(x)) + F.relu(self.conv(-x))).flatten(1))


class TiedRelu(nn.Module):
    """Two layers that share their weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(F.relu(self.first(x)))


class Gated(nn.Module):
    """A unit that multiplies one branch with another."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.a, self.b = kind, nn.Linear(4, 6), nn.Linear(4, 6)

    def forward(self, x):
        if self.kind == "bilinear":
            return self.a(x) * self.b(x)
        if self.kind == "square":
            return F.relu(self.a(x)) ** 2 + self.b(x)
        if self.kind == "divided":
            return self.a(x) / (1 + self.b(x).abs())
        if self.kind == "in place":
            return torch.zeros_like(self.a(x)).copy_(self.a(x)).mul_(self.b(x))
        return getattr(F, self.kind)(self.a(x)) + self.b(x)


class Sampler(nn.Module):
    """A picture sampled at places that all move along the diagonal with one parameter."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1))
        self.last = nn.Linear(4, 3)
        self.beside = nn.Linear(4, 3)

    def forward(self, x):
        places = self.shift.expand(len(x), 2, 2, 2)
        images = x[:, :, None, None] * torch.arange(16.0, device=x.device).to(x).reshape(4, 4)
        sampled = F.grid_sample(images, places, align_corners=False)
        return self.last(sampled.mean(1).flatten(1)) + self.beside(x)


class Scaled(nn.Module):
    """A parameter that is multiplied with itself."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 4))

    def forward(self, x):
        return x @ (self.weight * self.weight).T


def twice_differentiable(risk):
    try:
        Hessian(risk, risk.point()) @ risk.point()
    except RuntimeError as error:
        return "not implemented" not in str(error)
    return True


REFUSED = {
    "reused": (Reused, IMAGES, "convolution uses 'conv.weight' again, after convolution"),
    "siamese": (Siamese, IMAGES, "convolution uses 'conv.(weight|bias)' again"),
    "tied": (TiedRelu, X, "addmm uses 'first.weight' again"),
    "bilinear": (lambda: Gated("bilinear"), X, "mul multiplies two activations"),
    "square": (lambda: Gated("square"), X, "pow is not on the list"),
    "divided": (lambda: Gated("divided"), X, "div divides by an activation"),
    "sampler": (Sampler, X, "grid_sampler_2d samples at places that depend on parameters"),
    "scaled": (Scaled, X, "mul multiplies 'weight' with itself"),
    **{
        name: (lambda name=name: Gated(name), X, f"operation {op} is not on the list")
        for name, op in {"gelu": "gelu", "tanh": "tanh", "sigmoid": "sigmoid", "silu": "silu",
                         "softplus": "softplus", "elu": "elu"}.items()
    },
    "softmax": (lambda: Gated("softmax"), X, "operation softmax is not on the list"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize("kind", REFUSED)
def test_the_exact_trace_is_refused_where_it_does_not_hold_and_names_the_operation(kind):
    make, inputs, words = REFUSED[kind]
    risk = EmpiricalRisk(built(make), (inputs, Y), CE)
    with pytest.raises(ValueError, match=words):
        trace(risk, risk.point(), "exact")
    if not twice_differentiable(risk):
        return  # Before torch 2.7, sampling on a grid is not.
    automatic = trace(risk, risk.point(), "auto")
    assert automatic.method in ("hutchinson", "dense")


@pytest.mark.parametrize("name", ["dot-product", "lstm", "layer-norm", "transposed", "attention"])
def test_attention_recurrence_and_normalisation_by_activations_are_refused(name):
    risk, _, z = case(name, "cpu")
    with pytest.raises(ValueError, match="the exact trace does not hold: the operation"):
        trace(risk, z, "exact")


def test_batch_statistics_and_losses_or_networks_that_mix_samples_are_refused():
    risk = EmpiricalRisk(built(residual), (IMAGES, Y), CE, statistics="batch")
    with pytest.raises(ValueError, match="native_batch_norm"):
        trace(risk, risk.point(), "exact")

    def mixing(output, target):
        return output.mean(0).square().sum()

    risk = EmpiricalRisk(built(relu_network), (X, Y), mixing)
    with pytest.raises(ValueError, match="a sum or mean over samples"):
        trace(risk, risk.point(), "exact")

    class Centred(nn.Linear):
        def forward(self, x):
            hidden = super().forward(x)
            return hidden - hidden.mean(0)

    risk = EmpiricalRisk(built(lambda: Centred(4, 3)), (X, Y), CE)
    with pytest.raises(ValueError, match="independently of each other"):
        trace(risk, risk.point(), "exact")


class Straight(torch.autograd.Function):
    """Its forward pass is linear; its backward pass is that of another function."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x + 0.0

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0]


def test_coordinates_are_checked_so_that_a_derivative_of_ones_own_is_noticed():
    class Odd(nn.Linear):
        def forward(self, x):
            return Straight.apply(super().forward(x))

    risk = EmpiricalRisk(built(lambda: Odd(4, 3)), (X, Y), CE, evaluation="sequential", check=False)
    with pytest.raises(ValueError, match="differ by"):
        trace(risk, risk.point(), "exact")
    risk = EmpiricalRisk(built(lambda: Odd(4, 3)), (X, Y), CE)
    with pytest.raises(RuntimeError, match="different functions.*custom operations: Straight"):
        trace(risk, risk.point(), "exact")


# ---------------------------------------------------------------------------------- at a distance


def test_at_a_distance_a_quadratic_has_the_trace_of_its_hessian():
    matrix = rotated(SPECTRA["power law"])
    found = finite_scale(quadratic(matrix), 0.1 * normal(60), (1e-2, 1.0, 100.0), probes=400)
    truth = sum(SPECTRA["power law"])
    np.testing.assert_allclose(found.samples[:, 0], found.samples[:, 2], rtol=1e-6)
    assert (abs(found.estimate - truth) < 4 * found.standard_error).all()
    assert found.standard_error[0] == pytest.approx(
        math.sqrt(2 * float(matrix.square().sum()) / 400), rel=0.2
    )
    assert found.resolved.all() and found.evaluations == 1 + 37 + 2 * 400 * 3


@pytest.mark.parametrize("place", [0.0, 0.3])
def test_at_a_distance_a_kink_has_the_curvature_of_its_closed_form(place):
    kink = Analytic(lambda z: z[..., 0].abs(), dim=1)
    scales = (0.1, 0.5, 2.0)
    z = torch.tensor([place], dtype=torch.float64, device="cpu")
    found = finite_scale(kink, z, scales, probes=4000, beside=trace(kink, z))
    scales = np.array(scales)
    spread = scales * math.sqrt(2 / math.pi) * np.exp(-((place / scales) ** 2) / 2)
    mean = spread + place * (1 - 2 * norm.cdf(-place / scales))
    truth = 2 / scales**2 * (mean - place)
    assert (abs(found.estimate - truth) < 4 * found.standard_error).all()
    assert found.trace == 0.0 and found.estimate[2] > 0.3


def test_estimates_under_the_rounding_of_the_loss_are_marked():
    objective = Analytic(lambda z: 1000 + z.square().sum(-1), dim=5)
    z = torch.zeros(5, dtype=torch.float32, device="cpu")
    found = finite_scale(objective, z, (1e-4, 1.0))
    assert found.resolved.tolist() == [False, True]
    assert found.rounding[0] == pytest.approx(2 * 2**-23 * 1000 / 1e-8)
    assert found.status == "1 of 2 scales above rounding" and math.isnan(found.trace)


@pytest.mark.parametrize("kind", ["plain", "shifted", "large", "offset"])
def test_no_resolved_estimate_is_off_by_more_than_its_rounding(kind):
    generator, scales = seeded(3), (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    x = torch.randn(256, 20, generator=generator, device="cpu")
    y = torch.randint(0, 5, (256,), generator=generator, device="cpu")
    model = built(
        lambda: nn.Sequential(nn.Linear(20, 32), nn.LayerNorm(32), nn.Tanh(), nn.Linear(32, 5))
    ).float()
    with torch.no_grad():
        model[-1].bias.add_(1e3 * (kind == "shifted"))
        model[-1].weight.mul_(1e3 if kind == "large" else 1.0)
        model[0].bias.add_(1e4 * (kind == "offset"))
    risk = EmpiricalRisk(model, (x, y), F.cross_entropy)
    z = risk.point()
    seen = 0
    for seed in range(4):
        rough, fine = (
            finite_scale(risk, point, scales, probes=16, generator=seeded(seed))
            for point in (z, z.double())
        )
        off = np.abs(rough.estimate - fine.estimate)
        assert (off <= rough.rounding)[rough.resolved].all()
        seen += int(rough.resolved.sum())
    assert seen >= 4


@pytest.mark.usefixtures("unchecked")
def test_scales_that_mean_nothing_are_refused():
    z = normal(2)
    for scales in ((), (0.0,), (1.0, -1.0), (float("inf"),)):
        with pytest.raises(ValueError, match="scales must be positive and finite"):
            finite_scale(himmelblau, z, scales)
    with pytest.raises(ValueError, match="probes must be at least 2"):
        finite_scale(himmelblau, z, probes=1)
    with pytest.raises(ValueError, match="one point"):
        finite_scale(himmelblau, normal(3))
