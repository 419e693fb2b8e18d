"""Risks: batches, loaders, losses, mini-batches, ways to evaluate, what is left untouched."""

import collections
import random
from itertools import islice

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from objectives import (
    CE,
    IMAGES,
    MASKED,
    RISKS,
    SEQUENCES,
    Coin,
    DotProduct,
    Named,
    SelfAttention,
    Sentences,
    X,
    Y,
    accuracy,
    built,
    chain,
    convolution,
    divided,
    normal,
    normalised,
    padded,
    plain,
    seeded,
    stubborn,
    uneven,
)
from objectives import case as made
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from landscape import slices
from landscape.curvature import gradients
from landscape.networks import data as data_batches
from landscape.networks import evaluation as ways
from landscape.networks.reestimation import Stochastic
from landscape.networks.risk import EmpiricalRisk
from landscape.objective import Ridge, Sum, hvp, value, value_and_grad
from landscape.spectrum import top_eigenpairs

close = torch.testing.assert_close
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def risk_of(make, data=(X, Y), loss=CE, **options):
    return EmpiricalRisk(built(make), data, loss, **options)


# ------------------------------------------------------------------------------ data as batches


def test_samples_are_counted_and_uneven_batches_weigh_what_they_hold():
    whole, parts = risk_of(chain), risk_of(chain, uneven(X, Y))
    z = whole.point()
    assert whole.samples == parts.samples == 10
    close(value(parts, z), value(whole, z), **CLOSE)
    equally = torch.stack([CE(*pair) for pair in _outputs(parts, z)]).mean()
    assert abs(float(equally - value(whole, z))) > 1e-3


def _outputs(risk, z):
    model = built(chain)
    model.load_state_dict(risk.state_dict(z))
    with torch.no_grad():
        return [(model(x), y) for x, y in uneven(X, Y)]


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_loader_gives_what_its_data_gives(shuffle):
    loader = DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=shuffle)
    risk, whole = risk_of(chain, loader), risk_of(chain)
    z = whole.point() + 0.1 * normal(3, whole.dim)
    assert risk.samples == 10
    close(value_and_grad(risk, z), value_and_grad(whole, z), **CLOSE)


def test_a_list_of_two_tensors_is_one_batch_and_two_dictionaries_are_two():
    z = risk_of(chain).point()
    close(value(risk_of(chain, [X, Y]), z), value(risk_of(chain), z))
    halves = [{"x": X[:5], "extra": normal(5, 2)}, {"x": X[5:], "extra": normal(5, 2, seed=1)}]

    def loss(output, batch):
        return output["logits"].sin().mean() + batch["x"].mean()

    assert len(risk_of(Named, halves, loss).batches) == 2


Point = collections.namedtuple("Point", "x extra")


def test_named_tuples_survive_the_joining_of_batches():
    parts = [(Point(X[i : i + 5], X[i : i + 5, :2]), Y[i : i + 5]) for i in (0, 5)]
    risk = risk_of(Named, parts, lambda output, target: CE(output["logits"], target))
    (batch,) = risk.minibatches(10, seeded(0), epochs=1)
    close(value(batch, risk.point()), value(risk, risk.point()), **CLOSE)


class Squares(Dataset):
    """A dataset that draws from every generator of the process."""

    def __len__(self):
        return 10

    def __getitem__(self, i):
        noise = torch.rand(()) + random.random() + np.random.rand()  # noqa: NPY002
        return X[i] + 0.1 * noise, Y[i]


class Stream(IterableDataset):
    """No length."""

    def __iter__(self):
        return iter(zip(X, Y, strict=True))


def states(*generators):
    """The state of every global generator and of these."""
    own = [torch.get_rng_state(), *(g.get_state() for g in generators)]
    legacy = np.random.get_state()  # noqa: NPY002
    return [t.tolist() for t in own], random.getstate(), legacy[1].tolist(), legacy[2:]


@pytest.fixture(params=["kept", "streamed"])
def loaders(request, monkeypatch):
    """With loaders small enough to keep, and too large for it."""
    if request.param == "streamed":
        monkeypatch.setattr(data_batches, "RESIDENT_BYTES", 100)
    return request.param


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("where", ["loader", "sampler"])
def test_reading_a_loader_moves_no_random_state(loaders, where):
    own = seeded(5)
    data = Squares()
    if where == "loader":
        loader = DataLoader(data, batch_size=4, shuffle=True, generator=own)
    else:
        sampler = torch.utils.data.RandomSampler(data, generator=own)
        loader = DataLoader(data, batch_size=4, sampler=sampler)
    before = states(own)
    risk = risk_of(chain, loader, data_seed=0)
    z = risk.point()
    first = value(risk, z)
    list(islice(risk.minibatches(4, seeded(1)), 4))
    assert torch.equal(value(risk, z), first)
    top_eigenpairs(risk, z, 1)
    assert states(own) == before


@pytest.mark.usefixtures("unchecked")
def test_a_loader_left_half_way_moves_no_random_state(loaders):
    loader = DataLoader(Squares(), batch_size=4, shuffle=True)
    before = states()
    next(iter(data_batches.Data(loader)))
    assert states() == before


def test_a_loader_without_length_works(loaders):
    risk, whole = risk_of(chain, DataLoader(Stream(), batch_size=4)), risk_of(chain)
    z = whole.point().expand(2, -1)
    assert risk.samples == 10
    close(value(risk, z), value(whole, z), **CLOSE)
    close(hvp(risk, z, z), hvp(whole, z, z), **CLOSE)


def test_a_loader_too_large_to_keep_is_read_again_and_gives_the_same(monkeypatch):
    monkeypatch.setattr(data_batches, "RESIDENT_BYTES", 100)
    loader = DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True)
    risk, whole = risk_of(chain, loader), risk_of(chain)
    assert not isinstance(risk.batches, list)
    z = whole.point() + 0.1 * normal(3, whole.dim)
    close(value_and_grad(risk, z), value_and_grad(whole, z), **CLOSE)
    close(hvp(risk, z, z), hvp(whole, z, z), **CLOSE)
    found = top_eigenpairs(risk, z[0], 2), top_eigenpairs(whole, z[0], 2)
    np.testing.assert_allclose(found[0].eigenvalues, found[1].eigenvalues, rtol=1e-6)


def test_mini_batches_of_a_loader_too_large_to_keep_are_the_loaders(monkeypatch):
    monkeypatch.setattr(data_batches, "RESIDENT_BYTES", 100)
    numbers = torch.arange(10, dtype=torch.float64, device="cpu")
    loader = DataLoader(TensorDataset(numbers[:, None].repeat(1, 4), Y), batch_size=4, shuffle=True)
    risk = risk_of(chain, loader)
    epochs = [_seen(risk.minibatches(4, seeded(s), epochs=1)) for s in (0, 0, 1)]
    assert epochs[0] == epochs[1] != epochs[2]
    assert sorted(sum(epochs[0], [])) == list(range(10))
    with pytest.raises(ValueError, match="mini-batches of 3 are asked for, but .* batches of 4"):
        next(risk.minibatches(3, seeded(0)))


BAD_DATA = [
    ([], ValueError, "data holds no batch"),
    (X, TypeError, r"must be one batch \(inputs, target\), a list .* got Tensor"),
    ("abc", TypeError, "got str"),
    ([(X, Y, Y)], TypeError, "dictionary that holds both, got tuple of length 3"),
    ([(X[:0], Y[:0])], ValueError, "a batch holds no sample"),
    ([(X, Y), (X[:0], Y[:0])], ValueError, "a batch holds no sample"),
    ((torch.tensor(1.0), 3), ValueError, "no tensor with a leading axis"),
]


@pytest.mark.parametrize(("data", "error", "message"), BAD_DATA)
def test_data_that_is_no_batch_is_refused(data, error, message):
    with pytest.raises(error, match=message):
        risk_of(chain, data)


def test_loaders_that_lose_samples_at_random_or_hold_none_are_refused():
    data = TensorDataset(X, Y)
    with pytest.raises(ValueError, match="shuffles and drops its last batch"):
        risk_of(chain, DataLoader(data, batch_size=4, shuffle=True, drop_last=True))
    with pytest.raises(ValueError, match="the DataLoader gives no batch"):
        risk_of(chain, DataLoader(data, batch_size=20, drop_last=True))
    assert risk_of(chain, DataLoader(data, batch_size=4, drop_last=True)).samples == 8
    assert risk_of(chain, DataLoader(data, 5, shuffle=True, drop_last=True)).samples == 10


# --------------------------------------------------------------------------------------- losses


def test_a_sum_and_a_weight_count_what_is_not_padding():
    parts = uneven(X, MASKED)
    risk = risk_of(chain, parts, padded)
    z = risk.point()
    assert [int((y >= 0).sum()) for _, y in parts] == [3, 2, 1]
    truth = plain(built(chain), X, MASKED, divided(padded))
    close(value(risk, z), truth(z).detach(), **CLOSE)
    shares = [value(b, z) for b in risk.minibatches(10, seeded(0), epochs=1)]
    close(shares[0], truth(z).detach(), **CLOSE)


def test_an_accuracy_is_a_loss_for_a_whole_population():
    risk = risk_of(chain, uneven(X, Y), accuracy)
    z = risk.point() + normal(20, risk.dim)
    model = built(chain)
    expected = []
    for row in z:
        model.load_state_dict(risk.state_dict(row))
        expected.append(float((model(X).argmax(-1) == Y).double().mean()))
    assert value(risk, z).tolist() == pytest.approx(expected)
    assert len(set(expected)) > 3


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda o, t: F.cross_entropy(o, t, reduction="none"), r"scalar tensor .* got \(10,\)"),
        (lambda o, t: 0.5, "got float"),
        (lambda o, t: F.cross_entropy(o, t).reshape(1), r"got \(1,\)"),
        (lambda o, t: (o.sum(), 0 * t.sum()), "weights must have a positive sum, got 0.0"),
    ],
)
def test_a_loss_that_is_no_scalar_is_refused(loss, message):
    with pytest.raises(ValueError, match=message):
        risk_of(chain, loss=loss)


@pytest.mark.parametrize("kind", [F.cross_entropy, nn.CrossEntropyLoss()])
@pytest.mark.parametrize("ignored", [0, 4, 10])
def test_the_fast_cross_entropy_is_that_of_torch(kind, ignored):
    target = Y.clone()
    target[:ignored] = -100
    risk = risk_of(chain, (X, target), kind)
    assert risk.evaluation == "stacked"
    model = built(chain)
    expected = F.cross_entropy(model(X), target).detach()
    close(value(risk, risk.point().expand(3, -1)), expected.expand(3), equal_nan=True, **CLOSE)


@pytest.mark.parametrize(
    "kind",
    [
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)),
        nn.CrossEntropyLoss(reduction="sum"),
        nn.CrossEntropyLoss(ignore_index=1),
        nn.CrossEntropyLoss(label_smoothing=0.2),
    ],
)
def test_other_cross_entropies_are_not_taken_for_the_plain_one(kind):
    risk = risk_of(chain, loss=kind)
    expected = kind(built(chain)(X), Y).detach()
    close(value(risk, risk.point().expand(2, -1)), expected.expand(2), **CLOSE)


# ---------------------------------------------------------------------------- ways to evaluate


@pytest.mark.parametrize("loss", [CE, accuracy, padded, nn.CrossEntropyLoss(label_smoothing=0.1)])
def test_stacked_mapped_and_one_by_one_agree(loss):
    data = uneven(X, MASKED if loss is padded else Y)
    ways = ("stacked", "vmap", "sequential")
    risks = [risk_of(chain, data, loss, evaluation=way) for way in ways]
    z = risks[0].point() + 0.3 * normal(5, risks[0].dim)
    found = [(value_and_grad(r, z), hvp(r, z, z.flip(0))) for r in risks]
    close(found[1], found[0], **CLOSE)
    close(found[2], found[0], **CLOSE)


CHOICES = {
    "chain": (chain, (X, Y), CE, "stacked"),
    "flattened": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), (IMAGES, Y), CE,
                  "stacked"),
    "dropout at rest": (lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout(), nn.Tanh()).eval(),
                        (X, Y), CE, "stacked"),
    "a part of the axes flattened": (
        lambda: nn.Sequential(nn.Flatten(1, 2), nn.Linear(6, 3)), (IMAGES, normal(10, 6, 3)),
        F.mse_loss, "vmap"),
    "a linear layer on sequences": (lambda: nn.Linear(4, 3), (SEQUENCES, normal(10, 3, 3)),
                                    F.mse_loss, "vmap"),
    "one step of a sequence": (lambda: nn.Linear(4, 1), (X[:, None], normal(10, 1, 1)),
                               F.mse_loss, "vmap"),
    "layer norm": (normalised, (X, Y), CE, "vmap"),
    "a loss that looks at a number": (chain, (X, Y), stubborn, "sequential"),
    "convolution on a CPU": (convolution, (IMAGES, Y), CE, "grouped"),
    "attention on a CPU": (SelfAttention, (SEQUENCES, Y), CE, "sequential"),
    "no batching rule": (DotProduct, (SEQUENCES, Y), CE, "sequential"),
    "recurrence": (lambda: Sentences(nn.LSTM), (RISKS["lstm"][1], Y), CE, "sequential"),
    "active dropout": (lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout()), (X, Y), CE,
                       "sequential"),
}  # fmt: skip


@pytest.mark.parametrize("which", CHOICES)
def test_the_way_to_evaluate_is_chosen_by_model_loss_and_data(which):
    make, data, loss, expected = CHOICES[which]
    assert risk_of(make, data, loss).evaluation == expected


@pytest.mark.parametrize("name", ["attention", "encoder", "lstm", "convolution", "transposed"])
def test_where_nothing_is_slow_when_mapped_only_what_can_be_differentiated_is(name, monkeypatch):
    monkeypatch.setattr(ways, "_SEQUENTIAL_ON_CPU", ())
    objective, _, point = made(name)
    anew = EmpiricalRisk(built(RISKS[name][0]), objective.batches, objective.loss)
    z = point + 0.1 * normal(3, len(point))
    close(value_and_grad(anew, z), value_and_grad(objective, z), **CLOSE)
    close(hvp(anew, z, z), hvp(objective, z, z), **CLOSE)


@pytest.mark.usefixtures("unchecked")
def test_a_way_that_does_not_exist_or_fit_is_refused():
    with pytest.raises(
        ValueError, match="must be auto, stacked, grouped, vmap or sequential, got 'fast'"
    ):
        risk_of(chain, evaluation="fast")
    with pytest.raises(ValueError, match="evaluation='stacked' needs a chain of linear layers"):
        risk_of(normalised, evaluation="stacked")
    with pytest.raises(ValueError, match="evaluation='stacked' needs a chain"):
        risk_of(lambda: nn.Linear(4, 3), (SEQUENCES, normal(10, 3, 3)), F.mse_loss,
                evaluation="stacked")  # fmt: skip
    with pytest.raises(ValueError, match="statistics must be 'frozen' or 'batch', got 'running'"):
        risk_of(chain, statistics="running")


@pytest.mark.usefixtures("unchecked")
def test_something_that_is_no_module_is_refused_and_what_cannot_be_copied_is_not():
    with pytest.raises(TypeError, match="must be a torch.nn.Module, got function"):
        EmpiricalRisk(lambda x: x, (X, Y), CE)
    model = built(chain)
    model.remembered = model[0](X)
    risk = EmpiricalRisk(model, (X, Y), CE)
    close(value(risk, risk.point()), value(risk_of(chain), risk.point()), **CLOSE)
    with pytest.raises(TypeError, match="Sequential cannot be copied"):
        risk.network(risk.point())


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_model_with_a_part_compiled_by_torch_jit_is_refused():
    compiled = nn.Sequential(torch.jit.trace(built(chain), X), nn.Tanh())
    with pytest.raises(TypeError, match="Sequential is compiled by torch.jit"):
        EmpiricalRisk(compiled, (X, Y), CE)


def test_a_hook_of_the_users_is_honoured():
    model = built(chain)
    model[0].register_forward_hook(lambda module, args, output: 2 * output)
    risk = EmpiricalRisk(model, (X, Y), CE)
    assert risk.evaluation != "stacked"
    close(value(risk, risk.point()), CE(model(X), Y).detach(), **CLOSE)


def test_double_points_are_evaluated_in_double_on_a_single_precision_model():
    single = built(chain, dtype=torch.float32)
    risk = EmpiricalRisk(single, (X.float(), Y), CE)
    z = risk.point()
    assert z.dtype == torch.float32
    truth = plain(built(chain, dtype=torch.float32).double(), X.float().double(), Y, CE)
    close(value(risk, z.double()), truth(z.double()).detach(), **CLOSE)
    for other in (SelfAttention, Named):
        case = made("attention" if other is SelfAttention else "positional")
        data = case.objective.batches[0]
        low = EmpiricalRisk(built(other, dtype=torch.float32).eval(), data, case.objective.loss)
        close(value_and_grad(low, case.point), value_and_grad(case.objective, case.point), **CLOSE)


# ---------------------------------------------------------------------------- points and states


def test_the_state_at_a_point_makes_the_plain_module_that_network():
    for name in ("tied", "batch-norm-frozen", "lstm", "named"):
        objective, _, point = made(name)
        make, inputs, target, loss = RISKS[name][:4]
        z = point + 0.1 * normal(len(point))
        model = built(make, seed=5).eval()
        model.load_state_dict(objective.state_dict(z))
        output = model(**inputs) if isinstance(inputs, dict) else model(inputs)
        close(loss(output, target).detach(), value(objective, z), **CLOSE)


def test_a_state_shares_no_memory_with_the_point_or_the_model():
    model = built(chain)
    risk = EmpiricalRisk(model, (X, Y), CE)
    z = risk.point()
    for tensor in risk.state_dict(z).values():
        tensor.fill_(7.0)
    assert torch.equal(z, risk.point())
    tied = made("tied").objective
    state = tied.state_dict(tied.point())
    state["first.weight"].zero_()
    assert state["second.weight"].any()


# --------------------------------------------------------------------------------- mini-batches


def _seen(stream):
    return [batch.batches[0][0][:, 0].long().tolist() for batch in stream]


def numbered(**options):
    numbers = torch.arange(10, dtype=torch.float64, device="cpu")
    return risk_of(chain, uneven(numbers[:, None].repeat(1, 4), Y), **options)


def test_mini_batches_hold_every_sample_once_an_epoch():
    seen = _seen(numbered().minibatches(4, seeded(0), epochs=3))
    assert [len(batch) for batch in seen] == [4, 4, 2] * 3
    epochs = [sum(seen[i : i + 3], []) for i in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_mini_batches_are_a_function_of_the_seed_alone():
    risk, generator = numbered(), seeded(3)
    first = _seen(risk.minibatches(3, generator, epochs=2))
    assert torch.equal(generator.get_state(), seeded(3).get_state())
    torch.rand(7, generator=generator)
    assert _seen(risk.minibatches(3, generator, epochs=2)) == first
    assert _seen(risk.minibatches(3, seeded(4), epochs=2)) != first
    endless = risk.minibatches(3, generator)
    assert _seen(islice(endless, 8)) == first


def test_weighted_by_their_sizes_the_gradients_of_an_epoch_are_the_full_gradient():
    risk, whole = risk_of(chain, uneven(X, Y)), risk_of(chain)
    z = risk.point()
    total = torch.zeros_like(z)
    for batch in risk.minibatches(4, seeded(0), epochs=1):
        total += value_and_grad(batch, z)[1] * batch.samples / 10
    close(total, value_and_grad(whole, z)[1], **CLOSE)


def test_mini_batches_of_dictionaries_and_tuples_keep_samples_together():
    objective, _, point = made("named")
    x, extra, y = RISKS["named"][1]["x"], RISKS["named"][1]["extra"], RISKS["named"][2]
    for batch in objective.minibatches(4, seeded(0), epochs=1):
        (inputs, target), (index,) = batch.batches[0], [batch.batches[0][0]["x"]]
        rows = [int((x == row).all(-1).nonzero()) for row in index]
        assert torch.equal(inputs["extra"], extra[rows])
        assert torch.equal(target, y[rows])
    assert objective.dim == len(point)


def test_a_mini_batch_of_no_sample_is_refused():
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        next(numbered().minibatches(0, seeded(0)))


# ------------------------------------------------------------------------------ random modules


def dropping():
    return nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Tanh(), nn.Linear(5, 3))


class Noisy(nn.Module):
    """Draws in forward whatever its mode; no module of torch's is to blame."""

    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.Linear(4, 4), Coin())

    def forward(self, x):
        return self.head(x)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("make", [dropping, Noisy])
def test_a_mini_batch_of_a_random_network_is_deterministic_and_differs_from_the_next(make):
    risk = EmpiricalRisk(built(make), (X, Y), CE)
    z = risk.point().expand(2, -1)
    before = states()
    first, second = islice(risk.minibatches(10, seeded(0)), 2)
    values = value(first, z)
    assert torch.equal(values, value(first, z))
    assert values[0] == values[1]
    assert torch.equal(value_and_grad(first, z)[1], value_and_grad(first, z)[1])
    assert abs(float(values[0] - value(second, z)[0])) > 1e-4
    (again,) = islice(risk.minibatches(10, seeded(0)), 1)
    assert torch.equal(value(again, z), values)
    assert states() == before


def test_the_dropout_of_a_seeded_risk_is_that_of_torch_with_this_seed():
    risk = EmpiricalRisk(built(dropping), (X, Y), CE).seeded(17)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(17)
        expected = CE(built(dropping)(X), Y)
        torch.default_generator.manual_seed(17)
        expected = CE(built_in_training(dropping)(X), Y).detach()
    close(value(risk, risk.point()), expected, **CLOSE)


def built_in_training(make):
    return built(make).train()


RANDOM = {
    "dropout": (lambda: built(dropping), r"1 \(Dropout in training mode\)"),
    "a module that draws": (lambda: built(Noisy), r"head.1 \(Coin draws random numbers\)"),
    "attention": (
        lambda: built(lambda: nn.Sequential(nn.Linear(4, 4), nn.RReLU())),
        r"1 \(RReLU in training mode\)",
    ),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", RANDOM)
@pytest.mark.parametrize("wrapped", [False, True])
def test_no_measurement_is_taken_of_a_random_network(kind, wrapped):
    make, message = RANDOM[kind]
    risk = EmpiricalRisk(make(), (X, Y), CE)
    z = risk.point()
    objective = Sum(Ridge(0.1, dim=risk.dim), risk) if wrapped else risk
    before = states()
    measurements = [
        lambda: slices.line(objective, z, z),
        lambda: slices.plane(objective, z, z, z.flip(0)),
        lambda: top_eigenpairs(objective, z, 1),
        lambda: gradients(objective, z[None]),
    ]
    for measure in measurements:
        with pytest.raises(RuntimeError, match=message):
            measure()
    assert states() == before
    seeded_one = risk.seeded(0)
    assert slices.line(seeded_one, z, z).center == float(value(seeded_one, z))


def test_recurrent_and_attention_dropout_is_found():
    recurrent = built(lambda: Sentences(lambda *a, **k: nn.GRU(*a, num_layers=2, dropout=0.5, **k)))
    attention = built(SelfAttention)
    attention.attention.dropout = 0.5
    for model, data, name in (
        (recurrent, (RISKS["gru"][1], Y), r"recurrent \(GRU in training mode\)"),
        (attention, (SEQUENCES, Y), r"attention \(MultiheadAttention in training mode\)"),
    ):
        risk = EmpiricalRisk(model, data, CE)
        with pytest.raises(RuntimeError, match=name):
            gradients(risk, risk.point()[None])
        assert EmpiricalRisk(model.eval(), data, CE).stochastic_modules() == []


def test_training_with_dropout_and_judging_without_share_one_objective():
    training = EmpiricalRisk(built(dropping), (X, Y), CE)
    judged = EmpiricalRisk(built(dropping).eval(), (X, Y), CE)
    both = Stochastic(judged, training)
    z = both.layout.flatten(dict(built(dropping).named_parameters())).detach()
    assert value(both, z) == value(judged, z)
    close(hvp(both, z, z), hvp(judged, z, z))
    (batch,) = islice(both.minibatches(10, seeded(0)), 1)
    assert value(batch, z) != value(judged, z)
    assert slices.line(both, z, z).center == float(value(judged, z))


# -------------------------------------------------------------------------- models with habits


class Forgetful(nn.Module):
    """Writes to a buffer and to a frozen parameter in every forward pass, and counts its calls."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.average = nn.Parameter(torch.zeros(3), requires_grad=False)
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("scale", torch.ones(3))

    def forward(self, x):
        output = self.linear(x)
        with torch.no_grad():
            self.calls += 1
            self.average.mul_(0.9).add_(0.1 * output.mean(0))
            self.scale *= 1.1
        return output * self.scale + self.average


def test_a_model_that_writes_to_its_buffers_is_a_function_of_the_point_all_the_same():
    model = built(Forgetful)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    risk = EmpiricalRisk(model, (X, Y), CE)
    z = risk.point()
    values = [value(risk, z) for _ in range(3)]
    assert values[0] == values[1] == values[2]
    with pytest.raises(RuntimeError, match="different functions.* writes to average, calls, scale"):
        slices.line(risk, z, z)
    slices.line(EmpiricalRisk(model, (X, Y), CE, check=False), z, z)
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert values[0] == CE(built(Forgetful)(X), Y).detach()


def test_a_spectral_norm_in_training_mode_is_a_function_of_the_point():
    model = built(lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    risk = EmpiricalRisk(model, (X, Y), CE)
    z = risk.point() + normal(risk.dim)
    assert value(risk, z) == value(risk, z)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)


def test_tuples_of_inputs_that_a_loader_collates_to_lists_go_in_as_arguments():
    class Both(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)

        def forward(self, left, right):
            return self.layer(left * right)

    model = Both()
    left, right = (torch.rand(6, 3, generator=seeded(k), device="cpu") for k in (0, 1))
    target = torch.tensor([0, 1, 0, 1, 1, 0], device="cpu")
    samples = [((a, b), t) for a, b, t in zip(left, right, target, strict=True)]
    loader = torch.utils.data.DataLoader(samples, batch_size=4)
    risk = EmpiricalRisk(model, loader, torch.nn.functional.cross_entropy)
    whole = EmpiricalRisk(model, ((left, right), target), torch.nn.functional.cross_entropy)
    torch.testing.assert_close(value(risk, risk.point()), value(whole, whole.point()))


@pytest.mark.parametrize("count", [1, 3, 10])
def test_a_risk_in_shards_is_the_same_risk(count):
    model = torch.nn.Linear(X.shape[1], 3).to(X.dtype)
    risk = EmpiricalRisk(model, uneven(X, Y, (4, 6)), CE)
    cut = risk.sharded(count)
    sizes = [len(target) for _, target in cut.batches]
    assert len(sizes) == count and sum(sizes) == 10 and max(sizes) - min(sizes) <= 1
    z = risk.point()
    for ours, whole in zip(value_and_grad(cut, z), value_and_grad(risk, z), strict=True):
        assert torch.allclose(ours, whole, rtol=1e-12, atol=1e-12)


def test_shards_of_a_loss_with_weights_weigh_what_their_samples_weigh():
    model = torch.nn.Linear(X.shape[1], 3).to(X.dtype)
    weights = torch.arange(1, len(X) + 1, dtype=X.dtype, device="cpu")

    def weighted(output, target):
        labels, each = target[:, 0].long(), target[:, 1]
        losses = torch.nn.functional.cross_entropy(output, labels, reduction="none")
        return (each * losses).sum(), each.sum()

    target = torch.stack([Y.to(X.dtype), weights], dim=1)
    cut = EmpiricalRisk(model, (X, target), weighted).sharded(3)
    expected = [float(t[:, 1].sum() / weights.sum()) for _, t in cut.batches]
    assert cut.shares == pytest.approx(expected)


def test_a_risk_is_not_cut_where_that_would_change_it():
    model = torch.nn.Sequential(
        torch.nn.Linear(X.shape[1], 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3)
    ).to(X.dtype)
    risk = EmpiricalRisk(model, (X, Y), CE, statistics="batch")
    with pytest.raises(ValueError, match="normalises with the batch"):
        risk.sharded(2)
    with pytest.raises(ValueError, match="count must be from 1 to the 10 samples, got 11"):
        EmpiricalRisk(model, (X, Y), CE).sharded(11)
