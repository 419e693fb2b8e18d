"""Training under autocast: rounding as derived, and float32 wherever it is judged."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from cnognp.tasks.networks import small_conv
from cnognp.tasks.vit import vit
from cnognp.training.config import Config, RunFolder
from cnognp.training.session import train
from landscape import results
from landscape.networks import EmpiricalRisk
from landscape.objective import hvp, value, value_and_grad

HALF = 2.0**-8  # largest relative error of a number rounded to bfloat16
METHODS = {
    "sgd": {"momentum": 0.9}, "adam": {}, "lion": {}, "sam": {}, "asam": {}, "gcsam": {},
    "gnp": {}, "swa": {"start": 0}, "cno": {"batch_size": 64}, "cnognp": {"batch_size": 64},
    "cnognp in epochs": {"batch_size": 64, "fitness_from": "epoch"},
}  # fmt: skip


def config(method="sgd", rounds=2, precision="bfloat16", **options):
    given = {"lr": 0.01, "batch_size": 64} | METHODS.get(method, {}) | options
    return Config(
        task="digits", method=method.split()[0], members=2, iterations=rounds, seed=1, threads=1,
        device="cpu", precision=precision, checkpoint_every=1, judge_every=1,
        task_options={"network": "conv"}, method_options=given,
    )  # fmt: skip


def test_gradients_differ_by_the_rounding_that_is_derived():
    source = torch.Generator(device="cpu").manual_seed(0)
    x = torch.randn(40, 30, generator=source)
    y = torch.randn(40, 5, generator=source)
    layer = nn.Linear(30, 5, bias=False)
    exact = EmpiricalRisk(layer, (x, y), mse_loss)
    z = exact.point()
    loss, grad = value_and_grad(exact, z)
    rounded, found = value_and_grad(exact.mixed(torch.bfloat16), z)
    assert rounded.dtype == found.dtype == torch.float32
    # Factors are rounded before a product, which is rounded itself: three roundings, here and
    # again where the residual, divided by half of its numbers, meets the inputs.
    weight = z.view(5, 30)
    off = 3 * HALF * (x.abs() @ weight.abs().T)
    residual = (x @ weight.T - y).abs()
    bound = 2 / y.numel() * ((off + 3 * HALF * (residual + off)).T @ x.abs()).flatten()
    difference = (found - grad).abs()
    assert (difference <= 1.02 * bound).all()
    # It was rounded, to no more bits than that.
    assert difference.max() > HALF / 16 * grad.abs().max()
    assert 0 < abs(float(rounded - loss)) < float((off * (2 * residual + off)).mean())


def test_a_network_with_batchnorm_is_off_by_a_few_roundings_in_every_layer():
    source = torch.Generator(device="cpu").manual_seed(0)
    x = torch.randn(64, 1, 8, 8, generator=source)
    y = torch.randint(10, (64,), generator=source)
    exact = EmpiricalRisk(small_conv(), (x, y), cross_entropy, statistics="batch")
    for z in (exact.point(), torch.stack([exact.point(), 1.1 * exact.point()])):
        _, grad = value_and_grad(exact, z)
        _, found = value_and_grad(exact.mixed(torch.bfloat16), z)
        off = (found - grad).norm(dim=-1) / grad.norm(dim=-1)
        # Eight steps, forward and back.
        assert (off < 16 * HALF).all() and (off > HALF / 16).all()


def test_a_transformer_is_off_by_roundings_too():
    source = torch.Generator(device="cpu").manual_seed(0)
    images = torch.randn(8, 3, 32, 32, generator=source)
    exact = EmpiricalRisk(vit(24, 3, depth=2), (images, torch.arange(8)), cross_entropy)
    z = exact.point() + 0.02 * torch.randn(exact.dim, generator=source)
    loss, grad = value_and_grad(exact, z)
    rounded, found = value_and_grad(exact.mixed(torch.bfloat16), z)
    assert found.dtype == torch.float32 and rounded.dtype == torch.float32
    off = float((found - grad).norm() / grad.norm())
    # Some ten products one after another, forward and back.
    assert HALF / 16 < off < 20 * HALF and abs(float(rounded - loss)) < 20 * HALF


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_its_points_in_float32_and_is_judged_in_it(tmp_path, method):
    ends = {}
    for precision in ("float32", "bfloat16"):
        folder = RunFolder(tmp_path / precision)
        last = train(config(method, precision=precision), folder)
        ends[precision] = last.arrays["state/position"]
        kinds = {a.dtype.name for n, a in last.arrays.items() if n.startswith("state/")}
        assert not kinds & {"float16", "bfloat16"}
    assert ends["bfloat16"].dtype == "float32"
    apart = abs(ends["bfloat16"] - ends["float32"]).max()
    assert 0 < apart < 0.3 * abs(ends["float32"]).max()


def test_losses_that_are_told_are_those_of_float32(tmp_path):
    folder = RunFolder(tmp_path / "run")
    last = train(config(rounds=1), folder)
    history = results.load(folder.analysis / "history.h5")
    from cnognp.tasks.problem import problem_of

    plain = problem_of(replace(config(), precision="float32"))
    z = torch.tensor(last.arrays["state/position"])
    assert history.loss[-1].tolist() == value(plain.evaluation, z).tolist()


def test_a_run_that_was_cut_ends_with_the_same_bits(tmp_path):
    whole = train(config("sam", rounds=3), RunFolder(tmp_path / "whole"))
    cut, rounds = RunFolder(tmp_path / "cut"), []
    train(config("sam", rounds=3), cut, leave=lambda: rounds.append(0) is None)
    last = train(config("sam", rounds=3), cut, resume=True)
    assert len(rounds) == 1
    assert set(last.arrays) == set(whole.arrays)
    for name, array in whole.arrays.items():
        assert array.tobytes() == last.arrays[name].tobytes(), name


def test_what_needs_products_or_whole_data_is_refused(tmp_path):
    for options, said in (({"batch_size": 0}, "give --method.batch_size"), ({}, "not recorded")):
        given = replace(config(**options), record_curvature=0 if options else 1)
        with pytest.raises(ValueError, match=said):
            train(given, RunFolder(tmp_path / "run"))
    with pytest.raises(ValueError, match="precision must be one of"):
        replace(config(), precision="float16")
    risk = EmpiricalRisk(nn.Linear(3, 2), (torch.ones(4, 3), torch.zeros(4, 2)), mse_loss)
    with pytest.raises(
        ValueError, match="products with the Hessian are not taken in torch.bfloat16"
    ):
        hvp(risk.mixed(torch.bfloat16), risk.point(), risk.point())
    with pytest.raises(ValueError, match="for networks in float32"):
        EmpiricalRisk(
            nn.Linear(3, 2).double(), (torch.ones(4, 3), torch.zeros(4, 2)), mse_loss
        ).mixed(torch.bfloat16)


def test_a_configuration_of_before_is_in_float32(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create(config(precision="float32"))
    text = folder.config_path.read_text().partition("\n")[2]
    old = Config.from_yaml(text.replace("precision: float32\n", ""))
    assert old == config(precision="float32") and "precision" in text
