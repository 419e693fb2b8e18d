"""Data: what a batch is, how batches are read, cut, joined, counted, drawn and weighed."""

import dataclasses
import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from objectives import CE, X, Y, built, chain, normal, seeded
from torch import nn
from torch.nn.utils.rnn import pack_sequence, unpack_sequence
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from landscape import slices
from landscape.networks import batches
from landscape.networks.data import Data, order_of
from landscape.networks.losses import known
from landscape.networks.risk import EmpiricalRisk, ModelRisk
from landscape.objective import hvp, value, value_and_grad
from landscape.operators import EmpiricalFisher, Fisher, GaussNewton
from landscape.spectrum import top_eigenpairs
from landscape.trace import trace

close = torch.testing.assert_close
MASKED = Y.clone()
MASKED[:4] = -100
SOFT = F.one_hot(Y, 3).double() * 0.8 + 0.1


# ------------------------------------------------------------------------------ what a batch is


class Graph:
    """Nodes, edges and labels: tensors of different lengths."""

    def __init__(self):
        self.x, self.y = normal(12, 4), torch.arange(12) % 3
        self.edges = torch.randint(0, 12, (2, 30), generator=seeded(0))


class Messages(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, graph):
        x = graph.x.index_add(0, graph.edges[1], graph.x[graph.edges[0]])
        return self.layer(x)


def test_a_graph_goes_in_whole_and_is_neither_cut_nor_shuffled():
    graph = Graph()
    risk = EmpiricalRisk(built(Messages), graph, lambda o, g: CE(o, g.y))
    assert risk.samples == 12
    z = risk.point()
    close(value(risk, z), CE(built(Messages)(graph), graph.y).detach())
    assert top_eigenpairs(risk, z, 2).converged.all()
    assert trace(risk, z, "auto").status.startswith("converged")
    with pytest.raises(ValueError, match="does not count its samples"):
        next(risk.minibatches(4, seeded(0)))
    with pytest.raises(ValueError, match="does not count its samples"):
        risk.sharded(3)
    assert graph.x.dtype == torch.float64 and risk.data.first.inputs is not graph


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_an_adjacency_matrix_has_rows_that_are_no_samples():
    class Convolved(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x, adjacency):
            return adjacency @ self.layer(x)

    adjacency = torch.rand(10, 10, generator=seeded(1), dtype=torch.float64)
    for matrix in (adjacency, adjacency.to_sparse(), adjacency.to_sparse_csr()):
        risk = EmpiricalRisk(built(Convolved), ((X, matrix), Y), CE)
        z = risk.point()
        found = top_eigenpairs(risk, z, 3)
        dense = EmpiricalRisk(built(Convolved), ((X, adjacency), Y), CE)
        np.testing.assert_allclose(found.eigenvalues, top_eigenpairs(dense, z, 3).eigenvalues)
        with pytest.raises(ValueError, match="does not go through|does not count"):
            next(risk.minibatches(4, seeded(0)))
        slices.line(risk, z, z)
        assert "not taken" in trace(risk, z, "auto").provenance.get("exact", "not taken")


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.out = nn.LSTM(4, 3), nn.Linear(3, 3)

    def forward(self, packed):
        return self.out(self.layer(packed)[1][0][-1])


def test_packed_sequences_are_counted_cut_and_joined():
    lengths = (6, 5, 5, 3, 2)
    rows = [normal(n, 4, seed=n) for n in lengths]
    packed, target = pack_sequence(rows), Y[:5]
    whole = EmpiricalRisk(built(Recurrent), (packed, target), CE)
    parts = [(pack_sequence(rows[:2]), target[:2]), (pack_sequence(rows[2:]), target[2:])]
    risk = EmpiricalRisk(built(Recurrent), parts, CE)
    assert whole.samples == risk.samples == 5
    z = whole.point()
    close(value_and_grad(risk, z), value_and_grad(whole, z))
    weighted = [(value(b, z), b.samples) for b in risk.minibatches(2, seeded(0), epochs=1)]
    close(sum(loss * n for loss, n in weighted) / 5, value(whole, z))
    batch = batches.rows(whole.data.first, torch.tensor([4, 0]))
    for found, expected in zip(unpack_sequence(batch.inputs), (rows[4], rows[0]), strict=True):
        assert torch.equal(found, expected)


@dataclasses.dataclass
class Held:
    left: torch.Tensor
    right: torch.Tensor
    name: str = "kept"


@pytest.mark.parametrize("batch", [
    Held(X, Y), SimpleNamespace(left=X, right=Y), {"left": X, "right": Y},
    {"left": X.numpy(), "right": Y.numpy()},
])  # fmt: skip
def test_objects_and_dictionaries_go_in_whole(batch):
    def pick(held, name):
        return held[name] if isinstance(held, dict) else getattr(held, name)

    model = built(chain)
    risk = ModelRisk(model, batch, lambda m, b: CE(m(pick(b, "left")), pick(b, "right")))
    close(value(risk, risk.point()), CE(model(X), Y).detach())
    single = ModelRisk(built(chain, dtype=torch.float32), batch, risk.loss)
    assert value(single, single.point()).dtype == torch.float32


def test_a_function_says_what_a_batch_is_where_it_is_no_pair():
    model = built(chain)
    triple = (X, Y, torch.ones(10))
    with pytest.raises(TypeError, match="length 3; say what it is with unpack=lambda"):
        EmpiricalRisk(model, [triple], CE)
    risk = EmpiricalRisk(model, [triple], CE, unpack=lambda b: (b[0], b[1], len(b[1])))
    close(value(risk, risk.point()), CE(model(X), Y).detach())
    with pytest.raises(TypeError, match=r"unpack must return \(inputs, target, samples\)"):
        EmpiricalRisk(model, [triple], CE, unpack=lambda b: (b[0], b[1]))
    with pytest.raises(TypeError, match="two pairs, which is one batch"):
        EmpiricalRisk(model, ((X, Y), (X, Y)), CE)


def test_numpy_data_and_a_target_that_is_the_input():
    model = built(lambda: nn.Linear(4, 4))
    risk = EmpiricalRisk(model, X, F.mse_loss)
    close(value(risk, risk.point()), F.mse_loss(model(X), X).detach())
    arrays = EmpiricalRisk(built(chain), (X.numpy(), Y.numpy().astype(np.int32)), CE)
    close(value(arrays, arrays.point()), CE(built(chain)(X), Y).detach())


# -------------------------------------------------------------------------- the mean is the mean

LOSSES = {
    "class weights": (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0, 6.0])), Y),
    "ignored": (nn.CrossEntropyLoss(), MASKED),
    "ignored by a function": (F.cross_entropy, MASKED),
    "another label ignored": (nn.CrossEntropyLoss(ignore_index=1), Y),
    "partial": (functools.partial(F.cross_entropy, ignore_index=2, label_smoothing=0.1), Y),
    "smoothed": (nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0]), label_smoothing=0.2), Y),
    "soft": (nn.CrossEntropyLoss(), SOFT),
    "nll": (nn.NLLLoss(torch.tensor([2.0, 1.0, 0.5]), ignore_index=0), Y),
    "sum": (nn.CrossEntropyLoss(reduction="sum"), Y),
    "sum with weights": (nn.CrossEntropyLoss(torch.tensor([1.0, 3.0, 6.0]), reduction="sum"), Y),
    "mse": (nn.MSELoss(), SOFT),
    "bce": (nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 3.0])), SOFT),
    "kl": (nn.KLDivLoss(reduction="batchmean"), SOFT),
    "margin": (nn.MultiMarginLoss(weight=torch.tensor([1.0, 2.0, 3.0])), Y),
}


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("evaluation", ["stacked", "vmap", "sequential"])
@pytest.mark.parametrize("name", LOSSES)
def test_torchs_losses_do_not_depend_on_how_the_data_are_cut(name, evaluation):
    loss, target = LOSSES[name]
    loss = built(lambda: loss) if isinstance(loss, nn.Module) else loss
    model = built(chain)
    expected = loss(model(X), target).detach()
    order = torch.argsort(Y, stable=True)
    for size in (10, 6, 3, 2):
        loader = DataLoader(TensorDataset(X[order], target[order]), batch_size=size)
        risk = EmpiricalRisk(model, loader, loss, evaluation=evaluation)
        z = risk.point()
        close(value(risk, z.expand(3, -1)), expected.expand(3))
        assert bool(torch.isfinite(value_and_grad(risk, z)[1]).all())
        if known(loss).added:
            continue
        total = 0.0
        for batch in risk.minibatches(4, seeded(1), epochs=1):
            assert bool(torch.isfinite(value_and_grad(batch, z)[1]).all())
            total += float(value(batch, z)) * sum(batch.weights)
        assert total / sum(risk.weights) == pytest.approx(float(expected), rel=1e-6)


def test_a_batch_without_weight_counts_nothing():
    parts = [(X[:4], MASKED[:4]), (X[4:], MASKED[4:])]
    risk = EmpiricalRisk(built(chain), parts, CE)
    alone = EmpiricalRisk(built(chain), (X[4:], Y[4:]), CE)
    z = risk.point()
    assert risk.shares == [0.0, 1.0]
    close(value_and_grad(risk, z), value_and_grad(alone, z))
    close(value(risk, z.expand(2, -1)), value(alone, z.expand(2, -1)))
    eye = torch.eye(risk.dim, dtype=torch.float64)
    for operator in (
        EmpiricalFisher,
        GaussNewton,
        functools.partial(Fisher, likelihood="categorical"),
    ):
        close(operator(risk, z) @ eye, operator(alone, z) @ eye)
    close(trace(risk, z).estimate, trace(alone, z).estimate)
    shares = [value_and_grad(b, z) for b in risk.minibatches(2, seeded(0), epochs=1)]
    assert all(bool(torch.isfinite(v)) and bool(torch.isfinite(g).all()) for v, g in shares)
    line = slices.line(risk, z, z, alpha=[0, 1])
    np.testing.assert_allclose(line.loss, slices.line(alone, z, z, alpha=[0, 1]).loss)


def test_fisher_matrices_know_what_is_ignored_and_refuse_what_is_weighed():
    risk = EmpiricalRisk(built(chain), (X, MASKED), CE)
    alone = EmpiricalRisk(built(chain), (X[4:], Y[4:]), CE)
    z, eye = risk.point(), torch.eye(risk.dim, dtype=torch.float64)
    for operator in (EmpiricalFisher, functools.partial(Fisher, likelihood="categorical")):
        close(operator(risk, z) @ eye, operator(alone, z) @ eye)
    weighed = EmpiricalRisk(
        built(chain), (X, Y), nn.CrossEntropyLoss(torch.tensor([1.0, 5.0, 0.2]).double())
    )
    with pytest.raises(ValueError, match="the loss weighs classes"):
        Fisher(weighed, z, "categorical")
    close(EmpiricalFisher(weighed, z) @ z, _weighed_fisher(weighed, z) @ z)


def _weighed_fisher(risk, z):
    """The weighted mean of outer products by plain autograd."""
    model, weight = built(chain), risk.loss.weight[Y]
    total = torch.zeros(risk.dim, risk.dim, dtype=torch.float64)
    for x, y, w in zip(X, Y, weight, strict=True):
        loss = F.cross_entropy(model(x[None]), y[None])
        slope = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, model.parameters())])
        total += w * torch.outer(slope, slope)
    return total / weight.sum()


WEIGHT = torch.tensor([1.0, 3.0, 6.0], dtype=torch.float64)
UNKNOWN = {
    "weights": (lambda o, t: F.cross_entropy(o, t, weight=WEIGHT), "weighs them by something else"),
    "ignored": (lambda o, t: F.cross_entropy(o, t, ignore_index=0), "weighs them by something"),
    "sum": (lambda o, t: F.cross_entropy(o, t, reduction="sum"), "adds up over samples"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_means_that_cannot_be_known_are_refused_with_the_lines_that_mend_it(name):
    loss, message = UNKNOWN[name]
    x, y = normal(40, 4), torch.arange(40) % 7 % 3
    risk = EmpiricalRisk(
        built(chain), [(x[:13], y[:13]), (x[13:30], y[13:30]), (x[30:], y[30:])], loss
    )
    with pytest.raises(ValueError, match=f"(?s){message}.*return losses.sum..,"):
        top_eigenpairs(risk, risk.point(), 1)
    single = EmpiricalRisk(built(chain), (x, y), loss)
    assert top_eigenpairs(single, single.point(), 1).converged.all()
    with pytest.raises(ValueError, match=r"let it return \(sum, weight\)"):
        single.sharded(4)
    with pytest.raises(ValueError, match=r"mini-batches of 8.*let it return \(sum, weight\)"):
        next(single.minibatches(8, seeded(0)))


def test_a_plain_mean_and_a_pair_may_be_cut_at_will():
    x, y = normal(40, 4), torch.arange(40) % 7 % 3
    parts = [(x[:13], y[:13]), (x[13:], y[13:])]
    for loss in (lambda o, t: CE(o, t), lambda o, t: (CE(o, t, reduction="sum"), len(t))):
        risk = EmpiricalRisk(built(chain), parts, loss)
        z = risk.point()
        top_eigenpairs(risk, z, 1)
        close(value(risk.sharded(7), z), CE(built(chain)(x), y).detach())


def contrastive(output, target):
    return CE(output @ output.T, torch.arange(len(output)))


def test_a_loss_that_couples_its_samples_keeps_its_batches():
    parts = [(X[:6], Y[:6]), (X[6:], Y[6:])]
    risk = EmpiricalRisk(built(chain), parts, contrastive)
    z = risk.point()
    found = top_eigenpairs(risk, z, 1)
    assert "couples the samples" in found.provenance["judged"]["mean"]
    with pytest.raises(ValueError, match="is not the mean over its samples"):
        risk.sharded(3)
    assert risk.limited(2) is risk
    sizes = sorted(b.samples for b in risk.minibatches(6, seeded(0), epochs=2))
    assert sizes == [4, 4, 6, 6]
    with pytest.raises(
        ValueError, match="mini-batches of 5 are asked for, .* batches of 6 and stay"
    ):
        next(risk.minibatches(5, seeded(0)))


# ------------------------------------------------------------------------- random data are said


class Augmented(Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, place):
        return X[place] + 0.1 * torch.randn(4, dtype=torch.float64), Y[place]


def test_random_data_are_measured_on_a_frozen_copy_or_not_at_all():
    loader = DataLoader(Augmented(), batch_size=5, shuffle=True)
    risk = EmpiricalRisk(built(chain), loader, CE)
    z = risk.point()
    for measure in (lambda r: trace(r, z), lambda r: slices.line(r, z, z)):
        with pytest.raises(RuntimeError, match="data are random.*Augmented differ.*data_seed=0"):
            measure(risk)
    frozen = [EmpiricalRisk(built(chain), loader, CE, data_seed=s) for s in (0, 0, 1)]
    found = [trace(r, z) for r in frozen]
    assert found[0].estimate == found[1].estimate != found[2].estimate
    assert found[0].provenance["judged"]["data"] == "a frozen copy of random data, seed 0"


def test_training_draws_random_data_anew_and_reproducibly():
    risk = EmpiricalRisk(built(chain), DataLoader(Augmented(), batch_size=5), CE)

    def seen(seed, size=4):
        batches = risk.minibatches(size, seeded(seed), epochs=2)
        return torch.cat([x for b in batches for x, _ in b.batches])

    first, again = seen(0), seen(0)
    assert torch.equal(first, again) and not torch.equal(first, seen(1))
    nearest = torch.cdist(*first.split(10)).min(1).values
    assert 0 < float(nearest.min()) and float(nearest.max()) < 1
    assert torch.equal(seen(2, size=5), seen(2, size=5))


def test_data_that_are_the_same_twice_are_not_taken_for_random():
    for loader in (
        DataLoader(TensorDataset(X, Y), 4, shuffle=True), DataLoader(TensorDataset(X, Y), 4),
    ):  # fmt: skip
        assert Data(loader).random == ""
    assert Data(Augmented()).random and len(Data(TensorDataset(X, Y)).batches) == 1


ORDERED = TensorDataset(X, Y)
SAMPLERS = {
    "weighted": {"sampler": WeightedRandomSampler(torch.ones(10), 10)},
    "with replacement": {"sampler": RandomSampler(ORDERED, replacement=True)},
    "fewer": {"sampler": RandomSampler(ORDERED, num_samples=6)},
    "last dropped": {"batch_sampler": BatchSampler(RandomSampler(ORDERED), 4, drop_last=True)},
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_that_draw_other_samples_in_every_pass_are_said(name):
    risk = EmpiricalRisk(built(chain), DataLoader(ORDERED, **SAMPLERS[name]), CE)
    with pytest.raises(RuntimeError, match="the sampler draws other samples in every pass"):
        trace(risk, risk.point())


def test_rare_and_streamed_augmentation_is_found():
    class Rare(Augmented):
        def __getitem__(self, place):
            shift = 0.5 if place == 6 and torch.rand(()) < 0.5 else 0.0
            return X[place] + shift, Y[place]

    class Stream(IterableDataset):
        def __iter__(self):
            return iter([
                (x + torch.randn(4, dtype=torch.float64), y) for x, y in zip(X, Y, strict=True)
            ])

    assert "two passes over Stream differ" in Data(DataLoader(Stream(), 4)).random
    assert any(Data(DataLoader(Rare(), 4), seed=seed).random for seed in range(8))


def test_what_batches_weigh_beside_each_other_is_asked_where_it_cannot_be_seen():
    def tokens(output, target):
        return CE(output.reshape(-1, 3), target.reshape(-1))

    parts = [(normal(6, n, 4), torch.arange(6 * n).reshape(6, n) % 3) for n in (20, 3)]
    risk = EmpiricalRisk(built(lambda: nn.Linear(4, 3)), parts, tokens)
    with pytest.raises(
        ValueError, match="(?s)not known what batches that do not fit.*target.numel"
    ):
        trace(risk, risk.point())
    stated = EmpiricalRisk(
        built(lambda: nn.Linear(4, 3)), parts, tokens, unpack=lambda b: (*b, b[1].numel())
    )
    whole = torch.cat([x.reshape(-1, 4) for x, _ in parts])
    target = torch.cat([y.reshape(-1) for _, y in parts])
    z = stated.point()
    close(value(stated, z), value(EmpiricalRisk(stated.model.module, (whole, target), CE), z))
    assert "unpack states" in trace(stated, z).provenance["judged"]["mean"]
    listed = [[{"x": X[i], "y": Y[i]} for i in rows] for rows in (range(7), range(7, 10))]
    risk = ModelRisk(
        built(chain), listed,
        lambda m, b: CE(torch.stack([m(d["x"]) for d in b]), torch.stack([d["y"] for d in b])),
    )  # fmt: skip
    assert [batch.samples for batch in risk.data] == [7, 3]


def test_noise_does_not_hide_how_samples_are_weighed():
    class Noisy(nn.Sequential):
        def forward(self, x):
            return super().forward(x) + 1e-9 * torch.randn(1, dtype=x.dtype)

    model = Noisy(*built(chain))
    risk = EmpiricalRisk(
        model, [(X[:7], Y[:7]), (X[7:], Y[7:])], lambda o, t: CE(o, t, weight=WEIGHT), seed=0
    )
    with pytest.raises(ValueError, match="weighs them by something else"):
        trace(risk, risk.point())


# --------------------------------------------- bytes that are prepared, and augmented in training


def doubled(inputs):
    return inputs.float() * 2


def shifted(inputs, seed, step):
    return inputs + 1 + (seed + step) % 7


def in_bytes(count=40):
    source = torch.Generator(device="cpu").manual_seed(3)
    inputs = torch.randint(0, 100, (count, 5), dtype=torch.uint8, generator=source)
    return inputs, torch.arange(count) % 3


def test_prepared_data_are_kept_as_they_came_and_seen_prepared():
    inputs, target = in_bytes(9000)
    data = Data((inputs, target), prepare=doubled)
    assert [batch.samples for batch in data] == [4096, 4096, 808]
    assert all(batch.inputs.dtype == torch.uint8 for batch in data.batches)
    assert data.first.inputs.dtype == torch.float32
    seen = torch.cat([batch.inputs for batch in data])
    assert torch.equal(seen, inputs.float() * 2)
    assert torch.equal(torch.cat([x for x, _ in data.pairs]), seen)
    assert torch.equal(data.joined().inputs, inputs)
    for other in (data.cut(4), data.limited(1000)):
        assert torch.equal(torch.cat([batch.inputs for batch in other]), seen)
    # What was prepared is not prepared again.
    assert torch.equal(data.of([data.first]).first.inputs, data.first.inputs)


def test_mini_batches_alone_are_augmented_as_seed_and_step_say():
    inputs, target = in_bytes()
    data = Data((inputs, target), prepare=doubled, augment=shifted)
    assert torch.equal(data.first.inputs, inputs.float() * 2)

    def epoch(seed, size=16):
        return list(data.epoch(size, torch.Generator(device="cpu").manual_seed(seed)))

    order = torch.randperm(40, generator=torch.Generator(device="cpu").manual_seed(5))
    for step, (batch, index) in enumerate(zip(epoch(5), order.split(16), strict=True)):
        truth = (inputs[index] + 1 + (5 + step) % 7).float() * 2
        assert torch.equal(batch.inputs, truth)
        assert torch.equal(batch.target, target[index])
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(epoch(5), epoch(5), strict=True))


def test_a_risk_on_prepared_data_is_the_risk_on_what_the_model_takes():
    inputs, target = in_bytes(60)
    model = torch.nn.Linear(5, 3)
    loss = torch.nn.functional.cross_entropy
    kept = EmpiricalRisk(model, Data((inputs, target), prepare=doubled, augment=shifted), loss)
    plain = EmpiricalRisk(model, (inputs.float() * 2, target), loss)
    z = torch.randn(4, kept.dim, generator=torch.Generator(device="cpu").manual_seed(0))
    for points in (z, z.double()):
        for a, b in zip(value_and_grad(kept, points), value_and_grad(plain, points), strict=True):
            torch.testing.assert_close(a, b)
    torch.testing.assert_close(hvp(kept, z[0], z[1]), hvp(plain, z[0], z[1]))
    source = torch.Generator(device="cpu").manual_seed(2)
    (one,) = kept.minibatches(60, source, epochs=1)
    shift = 1 + one_shift(source)
    moved = EmpiricalRisk(model, ((inputs + shift).float() * 2, target), loss)
    torch.testing.assert_close(value(one, z[0]), value(moved, z[0]))


def one_shift(source):
    return order_of(source, 0).initial_seed() % 7


def test_a_risk_is_made_without_preparing_more_than_its_first_batch():
    inputs, target = in_bytes(20_000)
    seen = []

    def noted(part):
        seen.append(len(part))
        return doubled(part)

    data = Data((inputs, target), prepare=noted)
    model = torch.nn.Linear(5, 3)
    risk = EmpiricalRisk(model, data, torch.nn.functional.cross_entropy)
    assert risk.largest == max(seen) == 4096 and len(seen) <= 6
    made = len(seen)
    assert risk.weights == [4096.0] * 4 + [3616.0] and len(seen) == made
    assert isinstance(float(value(risk, risk.point())), float) and len(seen) == made + 5
