"""Rows of random numbers: their law, and that a member's own depend on nobody else."""

import math

import populations
import pytest
import torch
from populations import seeded, start
from scipy import stats

from cnognp import METHODS
from cnognp.methods.basin_hopping import BasinHopping
from cnognp.methods.noise import NiG, NiM, uniform_ball
from landscape.functions import himmelblau
from landscape.objective import Analytic
from landscape.randomness import derive, draw_rows

LIKE = torch.zeros((), dtype=torch.float64, device="cpu")
LAWS = ("normal", "uniform")
# No member follows another one here, so that each has only its own numbers.
DRAWING = {
    "nig": METHODS["nig"](lr=0.001, rho=5.0),
    "nim": METHODS["nim"](lr=0.001, rho=1.0, eps=1e9, tau=0),
    "nig-bh": METHODS["nig-bh"](lr=0.01, rho=80.0, tau=3),
    "nim-bh": METHODS["nim-bh"](lr=0.01, rho=2.0, tau=3),
    "nig-mbh": METHODS["nig-mbh"](lr=0.01, rho=80.0, tau=3),
    "nim-mbh": METHODS["nim-mbh"](lr=0.01, rho=2.0, tau=3),
    "metropolis": BasinHopping(lr=0.01, rho=2.0, tau=3, acceptance="metropolis", temperature=50.0),
    "cno": METHODS["cno"](lr=0.001, cognitive=0.5, social=0.0),
    "cno-coordinate": METHODS["cno"](lr=0.001, cognitive=0.5, social=0.0, randomness="coordinate"),
    "pso": METHODS["pso"](social=0.0),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("width", [(), (1,), (2,), (5,), (16,), (17,), (2, 3), (100,)])
def test_a_row_is_the_same_however_many_there_are(law, width):
    most = draw_rows(law, (40, *width), seeded(3), LIKE)
    assert most.shape == (40, *width)
    for members in range(1, 40):
        assert torch.equal(draw_rows(law, (members, *width), seeded(3), LIKE), most[:members])


@pytest.mark.parametrize("law", LAWS)
def test_numbers_do_not_depend_on_type_device_or_what_was_drawn_before(law):
    expected = draw_rows(law, (9, 7), seeded(3), LIKE)
    generator = seeded(3)
    torch.rand(100, generator=generator, device="cpu")
    state = generator.get_state()
    with torch.device("meta"):
        for dtype in (torch.float32, torch.bfloat16):
            like = torch.zeros((), dtype=dtype, device="cpu")
            found = draw_rows(law, (9, 7), generator, like)
            assert found.dtype == dtype
            assert torch.equal(found, expected.to(dtype))
    assert torch.equal(generator.get_state(), state)
    assert not torch.equal(draw_rows(law, (9, 7), derive(generator, "other"), LIKE), expected)
    assert draw_rows(law, (9, 7), generator, LIKE.to("meta")).device.type == "meta"


def test_the_laws_are_those_they_are_called():
    # Dvoretzky, Kiefer & Wolfowitz: a true law fails once in a million times.
    bound = math.sqrt(math.log(2e6) / (2 * 40000))
    for law, known in (("normal", stats.norm), ("uniform", stats.uniform)):
        drawn = draw_rows(law, (400, 100), seeded(5), LIKE)
        assert stats.kstest(drawn.flatten().numpy(), known.cdf).statistic < bound
        # Neither rows nor columns have anything to do with each other.
        assert abs(torch.corrcoef(drawn[:2])[0, 1]) < 5 / math.sqrt(100)
        assert abs(torch.corrcoef(drawn[:, :2].T)[0, 1]) < 5 / math.sqrt(400)
    uniform = draw_rows("uniform", (400, 100), seeded(5), LIKE)
    assert uniform.min() >= 0
    assert uniform.max() < 1


@pytest.mark.parametrize("name", DRAWING)
def test_a_member_moves_alike_in_populations_of_any_size(name):
    z = start(himmelblau, members=20)
    most = populations.last(DRAWING[name], himmelblau, z, 4).position
    assert len(most.unique(dim=0)) == 20
    for members in (1, 2, 7, 8, 15, 16, 17, 19):
        some = populations.last(DRAWING[name], himmelblau, z[:members], 4).position
        assert torch.equal(some, most[:members]), members


def test_a_point_of_a_ball_per_tensor_is_a_members_own_too():
    risk = populations.risk()
    z = start(risk, members=9)
    most = uniform_ball(risk, z, 0.2, seeded(1), per_tensor=True)
    for members in (1, 5, 8):
        some = uniform_ball(risk, z[:members], 0.2, seeded(1), per_tensor=True)
        torch.testing.assert_close(some, most[:members], rtol=1e-13, atol=0.0)


@pytest.mark.parametrize(
    "method", [NiG(lr=0.01, rho=1.0), NiM(0.01, 1.0, 1e9, 0), METHODS["cno"](lr=0.01, social=0.0)]
)
def test_single_precision_draws_what_double_does(method):
    bowl = Analytic(lambda z: (z * z).sum(-1) / 2, dim=3)
    ends = []
    for dtype in (torch.float32, torch.float64):
        z = start(bowl, members=5, dtype=torch.float32).to(dtype)
        ends.append(populations.last(method, bowl, z, 3).position.double())
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)
