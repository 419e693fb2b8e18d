"""The Hessian as an operator, its forms against one another, and gradients of populations."""

import gc
import weakref

import numpy as np
import pytest
import torch
from objectives import (
    CE,
    IMAGES,
    SEQUENCES,
    SMALL,
    DotProduct,
    Encoder,
    SelfAttention,
    X,
    Y,
    built,
    chain,
    convolution,
    normal,
    normalised,
    transposed,
    uneven,
)
from objectives import case as made
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from landscape import curvature
from landscape.curvature import Hessian, gradients
from landscape.functions import himmelblau
from landscape.networks.risk import EmpiricalRisk
from landscape.objective import Analytic, Sum, hvp, value_and_grad

close = torch.testing.assert_close
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def with_norm(norm):
    return lambda: nn.Sequential(nn.Linear(4, 6), norm(), nn.GELU(), nn.Linear(6, 3))


def weight_normed(dim):
    def make():
        model = nn.Sequential(nn.Conv1d(3, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(6, 3))
        parametrizations.weight_norm(model[0], dim=dim)
        parametrizations.weight_norm(model[3], dim=dim)
        return model

    return make


# Smooth networks whose second derivatives torch has of its own, each with inputs.
SMOOTH = {
    "layer norm": (normalised, X),
    "layer norm, no scale": (
        with_norm(lambda: nn.LayerNorm(6, elementwise_affine=False)), X),
    "group norm": (with_norm(lambda: nn.GroupNorm(2, 6)), X),
    "rms norm": (with_norm(lambda: nn.RMSNorm(6)), X),
    "instance norm": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.InstanceNorm2d(2, affine=True), nn.Tanh(),
                              nn.Flatten(), nn.Linear(32, 3)), IMAGES),
    "weight norm": (weight_normed(0), SEQUENCES),
    "weight norm of columns": (weight_normed(1), SEQUENCES),
    "weight norm of the whole": (weight_normed(None), SEQUENCES),
    "spectral norm": (
        lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 3)), nn.Tanh()).eval(),
        X),
    "attention": (lambda: SelfAttention().eval(), SEQUENCES),
    "dot product": (DotProduct, SEQUENCES),
    "encoder": (lambda: Encoder().eval(), SEQUENCES),
    "transposed convolution": (transposed, SMALL),
    "local response": (
        lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.LocalResponseNorm(2), nn.Flatten(),
                              nn.Linear(48, 3)), IMAGES),
}  # fmt: skip


@pytest.mark.parametrize("kind", SMOOTH)
def test_products_are_the_differences_of_gradients_and_those_of_values(kind):
    make, inputs = SMOOTH[kind]
    risk = EmpiricalRisk(built(make), (inputs, Y), CE)
    z, u = risk.point() + 0.1 * normal(risk.dim), normal(risk.dim, seed=1)
    step = 1e-5
    (above, below), (ahead, behind) = value_and_grad(
        risk, torch.stack([z + step * u, z - step * u])
    )
    product = hvp(risk, z, u)
    close(product, (ahead - behind) / (2 * step), rtol=1e-4, atol=1e-5 * float(product.abs().max()))
    close((above - below) / (2 * step), value_and_grad(risk, z)[1] @ u, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("samples", [1, 2, 5])
@pytest.mark.parametrize("groups", [1, 2])
def test_many_products_at_once_equal_single_ones_where_blocks_fail_in_torch(samples, groups):
    def make():
        return nn.Sequential(nn.Conv2d(1, 4, 5), nn.GroupNorm(groups, 4), nn.Tanh(), nn.Flatten(),
                             nn.Linear(16, 3))  # fmt: skip

    risk = EmpiricalRisk(built(make), (IMAGES[:samples], Y[:samples]), CE)
    hessian = Hessian(risk, risk.point())
    u = normal(5, risk.dim)
    close(hessian @ u, torch.stack([hessian @ row for row in u]), **CLOSE)
    assert hessian.products == 10


def test_wrong_blocks_are_noticed_though_the_last_vector_meets_no_curvature():
    def make():
        model = nn.Sequential(nn.Conv2d(1, 4, 5), nn.GroupNorm(1, 4), nn.Tanh(), nn.Flatten(),
                              nn.Linear(16, 3))  # fmt: skip
        model.append(nn.Identity())
        model[-1].register_parameter("unused", nn.Parameter(torch.ones(1)))
        return model

    risk = EmpiricalRisk(built(make), (IMAGES[:1], Y[:1]), CE)
    hessian = Hessian(risk, risk.point())
    u = normal(5, risk.dim)
    u[-1] = 0
    u[-1, -1] = 1
    close(hessian @ u, torch.stack([hessian @ row for row in u]), **CLOSE)


def test_where_nothing_bends_nothing_is_learned_about_blocks():
    flat = Hessian(Analytic(lambda z: 0.0 * (z**2).sum(-1), 4), torch.zeros(4, device="cpu"))
    assert not bool((flat @ torch.eye(4, device="cpu")).any()) and flat.blocks is None
    bowl = Hessian(Analytic(lambda z: (z**2).sum(-1), 4), torch.zeros(4, device="cpu"))
    assert bool((bowl @ torch.eye(4, device="cpu")).any()) and bowl.blocks is True


def test_blocks_are_as_large_as_memory_allows(monkeypatch):
    risk, _, point = made("stacked-uneven")
    sizes = []
    whole = curvature._in_a_block

    def noted(leaf, slope, probes, total):
        sizes.append(len(probes))
        whole(leaf, slope, probes, total)

    monkeypatch.setattr(curvature, "_in_a_block", noted)
    u = normal(7, len(point))
    graph = Hessian(risk, point).graph_bytes
    alone = torch.stack([Hessian(risk, point, blocks=False) @ row for row in u])
    monkeypatch.setattr(curvature, "_BLOCK_BYTES", 3 * graph)
    close(Hessian(risk, point) @ u, alone, **CLOSE)
    assert sizes and 3 <= max(sizes) < 7
    sizes.clear()
    monkeypatch.setattr(curvature, "_BLOCK_BYTES", 0)
    close(Hessian(risk, point) @ u, alone, **CLOSE)
    assert not sizes


@pytest.mark.parametrize("memory", [0, 2**31])
def test_attention_that_is_recomputed_in_the_backward_pass_gives_the_same_products(memory):
    class Recomputed(DotProduct):
        def forward(self, x):
            return checkpoint(super().forward, x, use_reentrant=False, preserve_rng_state=False)

    kept, recomputed = (EmpiricalRisk(built(make), (SEQUENCES, Y), CE)
                        for make in (DotProduct, Recomputed))  # fmt: skip
    u = normal(3, kept.dim)
    expected = Hessian(kept, kept.point()) @ u
    hessian = Hessian(recomputed, recomputed.point(), memory=memory)
    assert hessian.cached == (memory > 0)
    close(hessian @ u, expected, **CLOSE)
    close(hessian @ u[0], expected[0], **CLOSE)


@pytest.mark.parametrize("memory", [0, 2**31])
@pytest.mark.parametrize("name", ["stacked-uneven", "lstm", "sum"])
def test_a_hessian_knows_the_value_and_the_gradient_also_in_inference_mode(name, memory):
    objective, truth, point = made(name)
    leaf = point.clone().requires_grad_()
    expected = truth(leaf)
    expected.backward()
    found = Hessian(objective, point, memory=memory).value_and_grad()
    with torch.inference_mode():
        again = Hessian(objective, point.clone(), memory=memory).value_and_grad()
    for value, gradient in (found, again):
        close(value, expected.item(), **CLOSE)
        close(gradient, leaf.grad, **CLOSE)
        assert not gradient.requires_grad


@pytest.mark.parametrize("name", ["stacked-uneven", "vmapped", "layer-norm", "lstm", "sum"])
def test_blocks_of_any_size_give_the_same_products(name, monkeypatch):
    objective, _, point = made(name)
    u = normal(7, len(point))
    alone = torch.stack([Hessian(objective, point) @ row for row in u])
    for block, most in ((3, 1000), (100, 1000), (3, 1)):
        monkeypatch.setattr(curvature, "_BLOCK", block)
        monkeypatch.setattr(curvature, "_BLOCK_DIM", most)
        close(Hessian(objective, point) @ u, alone, **CLOSE)


def test_vectors_may_have_any_leading_axes():
    objective, _, point = made("stacked")
    hessian = Hessian(objective, point)
    u = normal(2, 3, len(point))
    product = hessian @ u
    assert product.shape == u.shape
    close(product[1, 2], hessian @ u[1, 2], **CLOSE)
    assert hessian.products == 7


def test_the_graph_is_kept_only_where_it_fits():
    objective, _, point = made("stacked-uneven")
    kept = Hessian(objective, point)
    assert kept.cached
    assert kept.graph_bytes > 10 * 8 * 5
    # What is freed while the graph is built may give its address to what is kept, or not: the
    # count varies a little.
    cut = Hessian(objective, point, memory=kept.graph_bytes // 2)
    assert not cut.cached
    assert Hessian(objective, point, memory=2 * kept.graph_bytes).cached
    close(cut @ point, kept @ point, **CLOSE)


def test_a_term_is_built_once_where_the_graph_is_kept():
    built_terms = []

    def formula(z):
        built_terms.append(1)
        return (z**4).sum(-1)

    function = Analytic(formula, 3)
    kept, rebuilt = Hessian(function, normal(3)), Hessian(function, normal(3), memory=0)
    assert len(built_terms) == 2
    for hessian, times in ((kept, 0), (rebuilt, 3)):
        built_terms.clear()
        for u in torch.eye(3, dtype=torch.float64, device="cpu"):
            hessian @ u
        assert len(built_terms) == times


@pytest.mark.parametrize("memory", [0, 2**31])
def test_a_graph_is_freed_with_its_hessian(memory):
    alive = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            y = x.exp()
            ctx.save_for_backward(y)
            alive.append(weakref.ref(ctx))
            return y

        @staticmethod
        def backward(ctx, g):
            return g * ctx.saved_tensors[0]

    function = Analytic(lambda z: Watched.apply(z).sum(-1).tanh(), 3)
    hessian = Hessian(function, normal(3))
    hessian @ normal(3)
    assert any(ref() is not None for ref in alive)
    del hessian
    gc.collect()
    assert not any(ref() is not None for ref in alive)


def test_products_with_a_custom_function_of_the_users_are_right():
    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, g):
            return 3 * ctx.saved_tensors[0] ** 2 * g

    function = Analytic(lambda z: Cube.apply(z).sum(-1), 3)
    z = normal(3)
    close(Hessian(function, z).dense(), torch.diag(6 * z), **CLOSE)
    close(hvp(function, z.expand(2, 3), normal(3)), 6 * z * normal(3).expand(2, 3), **CLOSE)


def test_gradients_of_a_population_are_those_of_its_members():
    risk = EmpiricalRisk(built(chain), uneven(X, Y), CE)
    z = risk.point() + 0.5 * normal(6, risk.dim)
    found = gradients(risk, z)
    assert found.member.tolist() == list(range(6))
    for i, row in enumerate(z):
        model = built(chain)
        model.load_state_dict(risk.state_dict(row))
        loss = CE(model(X), Y)
        loss.backward()
        slope = np.concatenate([p.grad.numpy().ravel() for p in model.parameters()])
        np.testing.assert_allclose(found.loss[i], loss.item(), rtol=1e-10)
        np.testing.assert_allclose(found.gradient_norm[i], np.linalg.norm(slope), rtol=1e-10)
        np.testing.assert_allclose(found.gradient_max[i], abs(slope).max(), rtol=1e-10)


def test_gradients_that_are_not_finite_are_kept_as_they_are():
    function = Analytic(lambda z: 1 / z[..., 0] + z[..., 1], 2)
    z = torch.tensor([[0.0, 1.0], [float("nan"), 1.0], [1.0, 1.0]], device="cpu")
    found = gradients(function, z)
    assert np.isinf(found.loss[0]) and np.isinf(found.gradient_norm[0])
    assert np.isnan(found.loss[1]) and np.isnan(found.gradient_norm[1])
    np.testing.assert_allclose(found.gradient_norm[2], 2**0.5)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [(2,), (0, 2), (1, 3, 2)])
def test_gradients_need_a_population(shape):
    with pytest.raises(ValueError, match=r"shape \(members, p\), at least one, .* got"):
        gradients(himmelblau, normal(*shape))


def test_cuda_computes_in_single_precision_for_a_product_alone(monkeypatch):
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    places = [matmul, *([cudnn.conv, cudnn.rnn] if hasattr(cudnn, "conv") else [cudnn])]
    name = "fp32_precision" if hasattr(cudnn, "conv") else "allow_tf32"

    def settings():
        return [*(getattr(place, name) for place in places), cudnn.enabled]

    class Recurrent(Analytic):
        recurrent = True

    seen = []

    def formula(z):
        seen.append(settings())
        return (z**2).sum(-1)

    before = settings()
    for objective in (Analytic(formula, 2), Sum(Recurrent(formula, 2))):
        Hessian(objective, normal(2))
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        Hessian(objective, normal(2))
        monkeypatch.undo()
    exact = ["ieee" if name == "fp32_precision" else False] * len(places)
    assert seen == [before, [*exact, True], before, [*exact, False]]
    assert settings() == before


def test_convolutions_in_a_sum_are_multiplied_like_anything_else():
    risk = EmpiricalRisk(built(convolution), uneven(IMAGES, Y), CE)
    total = Sum(risk, risk)
    z = risk.point()
    u = normal(4, risk.dim)
    close(Hessian(total, z) @ u, 2 * hvp(risk, z, u), **CLOSE)
