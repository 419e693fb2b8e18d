"""What any step is composed with, against plain torch loops, and how configurations say it."""

import populations
import pytest
import torch
from populations import seeded, start
from torch import nn
from torch.nn.functional import cross_entropy

from cnognp import METHODS
from cnognp.methods.averaging import EMA, SWA
from cnognp.methods.clipping import Clipped, clipped
from cnognp.methods.descent import SGD, Epoch
from cnognp.methods.registry import TABLE, completed, flattened, grouped
from cnognp.methods.sharpness_aware import SAM
from landscape.functions import himmelblau
from landscape.networks.risk import EmpiricalRisk
from landscape.objective import value_and_grad
from landscape.randomness import derive

STEP = SGD(lr=0.003, momentum=0.5)


def written(model, vector):
    torch.nn.utils.vector_to_parameters(vector, model.parameters())


def vector(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize("bound", [0.05, 1e6])
def test_clipped_steps_are_those_of_a_torch_loop(bound):
    risk, model = populations.risk(), populations.network()
    z = risk.point()[None]
    written(model, z[0].clone())
    optimiser = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.5)
    for _ in range(20):
        grad = value_and_grad(risk, vector(model)[None])[1][0]
        written_grads(model, grad)
        torch.nn.utils.clip_grad_norm_(model.parameters(), bound)
        optimiser.step()
    found = populations.last(Clipped(SGD(lr=0.3, momentum=0.5), bound), risk, z, 20)
    torch.testing.assert_close(found.position[0], vector(model), rtol=1e-12, atol=1e-13)


def written_grads(model, grad):
    sizes = [p.numel() for p in model.parameters()]
    for p, part in zip(model.parameters(), grad.split(sizes), strict=True):
        p.grad = part.reshape(p.shape).clone()


def test_members_are_clipped_on_their_own_and_what_is_not_finite_stays_so():
    grad = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0], [torch.nan, 1.0]])
    found = clipped(grad, 1.0)
    torch.testing.assert_close(found[0], grad[0] / 5, rtol=1e-6, atol=0.0)
    assert torch.equal(found[1:3], grad[1:3]) and found[3].isnan().all()


def test_the_gradient_from_the_neighbour_is_the_one_that_is_clipped():
    z = start(himmelblau)
    state = populations.last(
        METHODS["sam"](lr=0.1, rho=0.3, clip=0.5, batch_size=0), himmelblau, z, 1
    )
    far = 0.3 * torch.nn.functional.normalize(value_and_grad(himmelblau, z)[1])
    neighbour = value_and_grad(himmelblau, z + far)[1]
    torch.testing.assert_close(state.position, z - 0.1 * clipped(neighbour, 0.5))


def test_exponential_averages_are_those_of_torch():
    risk, model = populations.risk(), populations.network()
    z, how = risk.point()[None], torch.optim.swa_utils.get_ema_multi_avg_fn(0.8)
    averaged = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=how)
    for k, state in enumerate(populations.states(STEP, risk, z, 12)):
        written(model, state.position[0])
        if k >= 3 and (k - 3) % 2 == 0:
            averaged.update_parameters(model)
    found = populations.last(EMA(STEP, start=3, every=2, decay=0.8), risk, z, 12)
    torch.testing.assert_close(found.position[0], vector(averaged.module), rtol=1e-12, atol=1e-12)


def test_an_exponential_average_in_an_epoch_is_over_its_steps():
    risk, z = populations.risk(), start(populations.risk())
    made = METHODS["sgd"](lr=0.01, batch_size=8, average="ema", average_decay=0.7)
    state, info = made.step(risk, made.init(risk, z), seeded(0))
    step, points = SGD(lr=0.01), []
    inner = step.init(risk, z)
    for batch in risk.minibatches(8, derive(seeded(0), "epoch"), epochs=1):
        inner, _ = step.step(batch, inner, seeded(0))
        points.append(inner.position)
    assert len(points) > 2
    average = points[0]
    for point in points[1:]:
        average = 0.7 * average + 0.3 * point
    torch.testing.assert_close(state.position, average)
    torch.testing.assert_close(info.loss, value_and_grad(risk, state.position)[0])


@pytest.mark.parametrize("name", ["sgd", "sam", "adamw", "swa"])
def test_accumulated_gradients_are_those_of_the_whole_mini_batch(name):
    risk, z = populations.risk(), start(populations.risk())
    whole, parts = (
        populations.last(METHODS[name](lr=0.01, batch_size=10, accumulation=k), risk, z, 3)
        for k in (1, 4)
    )
    torch.testing.assert_close(whole.position, parts.position, rtol=1e-11, atol=1e-12)


def test_a_part_is_evaluated_after_another():
    risk = populations.risk()
    first = next(risk.minibatches(10, seeded(0), parts=4))
    assert [batch.samples for batch in first.data] == [3, 3, 2, 2]
    assert len(list(first.terms())) == 4
    with pytest.raises(ValueError, match="parts must be at least 1, got 0"):
        next(risk.minibatches(10, seeded(0), parts=0))


def test_parts_weigh_what_the_loss_says():
    inputs, target = populations.data()
    target = target.clone()
    target[:12] = -100
    for loss in (
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.2], dtype=torch.float64)),
        lambda output, y: (cross_entropy(output, y, reduction="sum"), (y >= 0).sum()),
    ):
        risk = EmpiricalRisk(populations.network(), (inputs, target), loss)
        z = start(risk)
        for k, (one, cut) in enumerate(
            zip(
                risk.minibatches(7, seeded(0), epochs=1),
                risk.minibatches(7, seeded(0), epochs=1, parts=3),
                strict=True,
            )
        ):
            expected, found = value_and_grad(one, z), value_and_grad(cut, z)
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13, msg=str(k))


def test_samples_that_belong_together_are_not_accumulated():
    risk = populations.risk()

    def contrast(output, target):
        return (output @ output.T).logsumexp(-1).mean()

    inputs = next(iter(risk.data)).inputs
    coupled = EmpiricalRisk(populations.network(), (inputs, inputs), contrast)
    with pytest.raises(ValueError, match="cannot be cut into 2 parts, since .*accumulation 1"):
        next(coupled.minibatches(10, seeded(0), parts=2))


def test_what_is_composed_stands_where_it_belongs():
    how = {"lr": 0.3, "rho": 0.2, "batch_size": 8}
    made = METHODS["sam"](**how, clip=2.0, accumulation=3, average="ema")
    step = SAM(Clipped(SGD(lr=0.3), 2.0), 0.2)
    assert made == Epoch(EMA(step, evaluate=False), 8, parts=3)
    made = METHODS["sam"](**how, average="swa", average_start=7, average_every=2)
    assert made == SWA(Epoch(SAM(SGD(lr=0.3), 0.2), 8, evaluate=False), 7, 2)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"clip": -1.0}, "clip must be at least 0"),
        ({"accumulation": 0}, "accumulation must be at least 1, got 0"),
        ({"accumulation": 2, "batch_size": 0}, "accumulation must be 1 without mini-batches"),
        ({"average": "mean"}, r"average must be one of \('none', 'swa', 'ema'\), got mean"),
        ({"average_start": -1}, "average_start must be at least 0"),
        ({"average_every": 0}, "average_every must be at least 1"),
        ({"average_decay": 1.0}, "average_decay must be from 0 to below 1"),
    ],
)
def test_what_is_out_of_range_is_refused(given, message):
    with populations.annotations_unchecked(), pytest.raises(ValueError, match=message):
        METHODS["sgd"](**given)


@pytest.mark.parametrize("name", METHODS)
def test_groups_of_a_configuration_come_back_as_they_were(name):
    given = completed(name, {})
    tree = grouped(name, given)
    assert flattened(name, tree) == given
    assert flattened(name, given) == given  # as older versions wrote it
    nested = {key for key, value in tree.items() if isinstance(value, dict)}
    assert nested <= {"base", "data", "schedule", "average"}
    assert len(nested) == len([g for g in TABLE[name].groups if len(g.__dataclass_fields__) > 1])


def test_a_key_that_a_group_does_not_have_is_refused():
    message = "unknown key 'horizn' in schedule; there are name, horizon, warmup, per"
    with pytest.raises(ValueError, match=message):
        flattened("sgd", {"schedule": {"name": "cosine", "horizn": 3}})


def test_a_key_that_is_there_twice_is_refused():
    for tree in ({"batch_size": 7, "data": {"batch_size": 8}}, {"base": {"lr": 0.1}, "lr": 0.2}):
        with pytest.raises(ValueError, match="is there twice, in its group and beside it"):
            flattened("sam", tree)


def test_a_number_that_is_null_is_refused_by_its_name():
    for key, kind in {"lr": "float", "clip": "float", "accumulation": "int"}.items():
        with pytest.raises(ValueError, match=f"{key} must be {kind}, got null"):
            METHODS["sam"](**{key: None})
