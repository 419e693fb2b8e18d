"""One objective by several processes: the bits of one process, and what happens when one fails."""

import json

import pytest
import ranks
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from landscape.curvature import Hessian
from landscape.distributed import Distributed, Ranks, shards, start
from landscape.objective import value, value_and_grad
from landscape.risk import EmpiricalRisk
from landscape.spectrum import top_eigenpairs

# Everything that is shared, in 6 shards; lists of numbers have every bit.
MEASURED = """
ranks = start()
with Distributed(shards(risk, 6), ranks) as shared:
    if shared.leads:
        u = torch.randn(3, risk.dim, generator=generator)
        points = z + 0.1 * torch.randn(2, risk.dim, generator=generator)
        values, slopes = value_and_grad(shared, points)
        wide = Hessian(shared, z.double())
        found = top_eigenpairs(shared, z, 3)
        print(json.dumps({
            "value": value(shared, points).tolist(), "values": values.tolist(),
            "slopes": slopes.tolist(), "products": (Hessian(shared, z) @ u).tolist(),
            "wide": (wide @ u[0].double()).tolist(), "eigenvalues": found.eigenvalues.tolist(),
            "bounds": found.bounds.tolist(), "vectors": found.vectors.tolist(),
            "trace": trace(shared, z, probes=5).samples.tolist(),
            "nodes": density(shared, z, steps=6, probes=2).nodes.tolist(),
            "sums": found.provenance["judged"]["sums"].split(", by")[0],
        }))
ranks.close()
"""


@pytest.fixture(scope="module")
def one():
    return ranks.alone(MEASURED)


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_ranks_have_the_bits_of_one_process_and_only_the_first_speaks(count, one):
    outcomes = ranks.together(MEASURED, count)
    assert [code for code, _, _ in outcomes] == [0] * count, outcomes
    assert [out for _, out, _ in outcomes[1:]] == [""] * (count - 1)
    assert json.loads(outcomes[0][1]) == one
    assert one["sums"] == "6 shards added in a tree"


def risk_of(loss=cross_entropy, model=None, batches=1):
    generator = torch.Generator("cpu").manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        model = model or nn.Sequential(nn.Linear(9, 12), nn.Tanh(), nn.Linear(12, 3))
    x, y = torch.randn(41, 9, generator=generator), torch.arange(41, device="cpu") % 3
    data = list(zip(x.split(11), y.split(11), strict=True)) if batches > 1 else (x, y)
    return EmpiricalRisk(model, data, loss)


def test_shared_sums_are_those_of_the_plain_risk():
    risk = risk_of()
    z = risk.point()
    shared = Distributed(shards(risk, 7))
    torch.testing.assert_close(value(shared, z), value(risk, z), rtol=1e-6, atol=0)
    for ours, theirs in zip(value_and_grad(shared, z), value_and_grad(risk, z), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    u = torch.randn(2, risk.dim, generator=torch.Generator("cpu").manual_seed(2))
    products = Hessian(shared, z) @ u
    torch.testing.assert_close(products, Hessian(risk, z) @ u, rtol=1e-5, atol=1e-6)
    ours, theirs = (top_eigenpairs(f, z, 3, tolerance=1e-6).eigenvalues for f in (shared, risk))
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-6, atol=0)


def test_batches_that_are_there_are_the_shards_and_data_that_are_one_are_cut_into_eight():
    several = risk_of(batches=4)
    assert shards(several) is several
    assert len(shards(risk_of()).batches) == 8
    assert len(shards(several, 3).batches) == 3


@pytest.mark.parametrize(
    ("risk", "reason"),
    [
        (lambda: risk_of(lambda o, y: cross_entropy(o, y) + o.std()), "not the mean over its"),
        (lambda: EmpiricalRisk(
            nn.Sequential(nn.Linear(9, 4), nn.BatchNorm1d(4)),
            (torch.ones(8, 9), torch.zeros(8, dtype=torch.long)), cross_entropy, statistics="batch",
        ), "BatchNorm normalises with the batch"),
    ],
)  # fmt: skip
def test_losses_that_are_no_sums_over_samples_are_refused_with_the_reason(risk, reason):
    with pytest.raises(ValueError, match=reason):
        shards(risk(), 4)


def test_alone_there_is_one_rank():
    ranks = start({})
    assert (ranks.rank, ranks.size, ranks.leads) == (0, 1, True)
    assert start({"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "x", "MASTER_PORT": "1"}).size == 1
    assert Ranks(1, 2).leads is False


FAILS = """
calls = 0

def loss(output, target):
    global calls
    calls += 1
    if os.environ["RANK"] == "1" and calls > 40:
        {how}
    return torch.nn.functional.cross_entropy(output, target)

risk = EmpiricalRisk(model, (x, y), loss, check=False)
ranks = start()
with Distributed(risk.over(risk.data.cut(6)), ranks) as shared:
    if shared.leads:
        try:
            for _ in range(100):
                value(shared, z)
        except RuntimeError as error:
            print(error)
        try:
            value(shared, z)
        except RuntimeError as error:
            print(error)
            os._exit(3)
"""


@pytest.mark.slow
def test_a_rank_that_raises_is_named_with_what_it_said():
    first, second = ranks.together(FAILS.format(how="raise ValueError('not this one')"), 2)
    said = first[1].splitlines()
    assert said[0] == "rank 1 of 2: ValueError: not this one"
    assert "start them anew" in said[1] and first[0] == 3
    assert second[0] != 0


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_sum_at_once():
    first, second = ranks.together(FAILS.format(how="os.kill(os.getpid(), signal.SIGKILL)"), 2)
    assert second[0] == -9 and first[0] == 3
    assert "has ended before its part was there" in first[1].splitlines()[0]
