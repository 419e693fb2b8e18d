"""Texts against their files, and a small transformer that reads them against dense autograd."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

from cnognp.tasks import load, macro_f1
from cnognp.tasks.classification import exact_accuracy
from cnognp.tasks.encoder import encoder
from cnognp.tasks.problem import Problem
from cnognp.tasks.registry import check_data
from cnognp.tasks.text import cut
from cnognp.tasks.words import trained, words
from cnognp.training.config import Config, RunFolder
from cnognp.training.session import train
from landscape.files import DamagedFile, UnfitFile
from landscape.networks import EmpiricalRisk
from landscape.objective import hvp, value, value_and_grad

CPU = torch.device("cpu")
SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
SMALL = {"vocabulary": 40, "length": 6, "width": 4, "heads": 2}
needs_tweets = pytest.mark.skipif(
    not (SHARED / "tweeteval").is_dir(), reason=f"needs {SHARED}/tweeteval"
)
needs_comments = pytest.mark.skipif(
    not (SHARED / "goemotions").is_dir(), reason=f"needs {SHARED}/goemotions"
)
LINES = ["so happy", "so sad today", "", 'she said "happy', "sad\u2028\x85sad", "happy happy day"]


@pytest.fixture
def tweets(tmp_path):
    """A folder in the form of TweetEval."""
    inner = tmp_path / "emotion"
    inner.mkdir()
    for split in ("train", "val", "test"):
        (inner / f"{split}_text.txt").write_text("\n".join(LINES) + "\n", encoding="utf-8")
        (inner / f"{split}_labels.txt").write_text("0\n1\n0\n0\n1\n0\n")
    (inner / "mapping.txt").write_text("0\tjoy\n1\tsadness")
    return tmp_path


@pytest.fixture
def comments(tmp_path):
    """A folder in the form of GoEmotions."""
    for split in ("train", "dev", "test"):
        rows = zip(LINES, ("0", "1", "2", "0,2", "1", "0"), strict=True)
        lines = [f"{text}\t{labels}\tname" for text, labels in rows]
        (tmp_path / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "emotions.txt").write_text("joy\nsadness\nneutral")
    return tmp_path


# ------------------------------------------------------------------ files


@needs_tweets
@pytest.mark.parametrize(("subset", "sizes", "classes"), [
    ("emotion", [3257, 374, 1421], 4), ("irony", [2862, 955, 784], 2),
])  # fmt: skip
def test_tweets_are_as_many_as_published(subset, sizes, classes):
    task = load("tweeteval", data=str(SHARED / "tweeteval"), subset=subset)
    splits = task.train, task.validation, task.test
    assert [len(target) for _, target in splits] == sizes
    assert torch.cat([target for _, target in splits]).unique().tolist() == [*range(classes)]
    # Few texts are longer than what is read of them.
    assert all(inputs["attention_mask"][:, -1].float().mean() < 0.01 for inputs, _ in splits)
    assert (splits[2][0]["input_ids"] == 1).float().sum() < 0.01 * splits[2][0][
        "attention_mask"
    ].sum()


@needs_comments
@pytest.mark.slow
def test_comments_are_as_many_as_published():
    task = load("goemotions", data=str(SHARED / "goemotions"), samples=2000)
    assert [len(target) for _, target in (task.train, task.validation, task.test)] == [
        2000, 5426, 5427
    ]  # fmt: skip
    # Demszky et al. 2020: 6 comments of the test split are of grief, 1,787 of neutral.
    assert task.test[1].sum(0)[[16, 27]].tolist() == [6, 1787]
    assert task.train[1].any(0).all()


def test_lines_end_at_line_feeds_alone_and_nothing_is_a_quote(tweets, comments):
    for name, folder in (("tweeteval", tweets), ("goemotions", comments)):
        task = load(name, data=str(folder), **SMALL)
        pieces = trained(LINES, 40)
        assert torch.equal(task.train[0]["input_ids"], pieces(LINES, 6)["input_ids"])
        assert task.train[0]["attention_mask"].any(1).tolist() == [1, 1, 0, 1, 1, 1]
    assert task.train[1][3].tolist() == [1, 0, 1]


@pytest.mark.parametrize(("name", "content", "kind", "said"), [
    ("train_labels.txt", b"0\n1\n", UnfitFile, "it has 2 labels for 6 texts"),
    ("val_labels.txt", b"0\n1\n2\n0\n0\n0", UnfitFile, "line 3 has the label '2'.*from 0 to 1"),
    ("test_labels.txt", b"0\n-1\n0\n0\n0\n0", UnfitFile, "line 2 has the label '-1'"),
    ("train_labels.txt", b"0\n" * 6, UnfitFile, "no text is of sadness"),
    ("val_text.txt", b"so\n\xff\n" * 3, DamagedFile, "line 2 is not UTF-8"),
    ("mapping.txt", b"joy\nsadness", UnfitFile, "its lines are not numbers from 0"),
    ("test_text.txt", b"", UnfitFile, "it is empty"),
])  # fmt: skip
def test_tweets_of_another_form_are_refused_with_the_line(tweets, name, content, kind, said):
    (tweets / "emotion" / name).write_bytes(content)
    with pytest.raises(kind, match=f"{name} cannot be .*{said}"):
        load("tweeteval", data=str(tweets), **SMALL)


@pytest.mark.parametrize(("line", "said"), [
    ("so happy\t0", "line 1 has 2 columns"), ("so happy\t0,3\tname", "line 1 has the label '3'"),
    ("so happy\t\tname", "line 1 has the label ''"),
])  # fmt: skip
def test_comments_of_another_form_are_refused_with_the_line(comments, line, said):
    (comments / "dev.tsv").write_text(line)
    with pytest.raises(UnfitFile, match=f"dev.tsv cannot be used: {said}"):
        load("goemotions", data=str(comments), **SMALL)


def test_missing_files_are_named_with_the_way_to_get_them(tweets, comments):
    check_data("tweeteval", str(tweets))
    check_data("goemotions", str(comments))
    with pytest.raises(FileNotFoundError, match="no train_text.txt.*irony: .*--data.*tweeteval"):
        load("tweeteval", data=str(tweets), subset="irony")
    (tweets / "emotion" / "mapping.txt").unlink()
    with pytest.raises(FileNotFoundError, match="no mapping.txt in .*emotion"):
        check_data("tweeteval", str(tweets))
    (comments / "dev.tsv").unlink()
    with pytest.raises(FileNotFoundError, match="no dev.tsv in .*--data.*goemotions/data"):
        check_data("goemotions", str(comments))


def test_a_few_comments_are_of_every_label(comments):
    (comments / "train.tsv").write_text("".join(f"w{n}\t0,{1 + n % 2}\tx\n" for n in range(40)))
    found = load("goemotions", data=str(comments), samples=10, **SMALL).train
    assert found[1].sum(0).tolist() == [10, 5, 5] and len(found[0]["input_ids"]) == 10
    with pytest.raises(ValueError, match="samples must be 0 or 40 .*from 2 to 38.*got 1"):
        load("goemotions", data=str(comments), samples=1, **SMALL)


# ------------------------------------------------------------------ words


def test_pieces_are_those_of_the_published_algorithm():
    texts = ["low low low low low lower lower newest newest newest newest newest newest"] * 2
    cuts = Counter({(w[:2], *w[2:]): n for w, n in Counter(words(texts[0] * 1)).items()})
    found = trained(texts, 100).pieces
    letters = {piece for piece in found if len(piece.strip()) == 1}
    assert letters == {letter for word in cuts for letter in word}
    # Sennrich et al. 2016, with pairs counted anew in every step.
    expected = []
    while len(expected) < len(found) - len(letters):
        pairs = Counter()
        for word, count in cuts.items():
            for pair in zip(word, word[1:], strict=False):
                pairs[pair] += 2 * count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        expected.append("".join(best))
        new = Counter()
        for word, count in cuts.items():
            joined = "\0".join(word) + "\0"
            joined = joined.replace("\0".join(best) + "\0", "".join(best) + "\0")
            new[tuple(joined[:-1].split("\0"))] += count
        cuts = new
    assert list(found[len(letters) :]) == expected and " newest" in expected


def test_texts_are_the_pieces_one_after_another_and_what_is_not_known_is_1():
    pieces = trained(["abc abc abd"] * 3, 50)
    found = pieces(["abc Abc", "", "abzd", "zz abd abc abc abc"], 4)
    spelt = [
        "".join("?" if i == 1 else pieces.pieces[i - 2] for i in row[mask])
        for row, mask in zip(*found.values(), strict=True)
    ]
    assert spelt[:3] == [" abc abc", "", " ab?d"] and spelt[3].startswith("??")
    assert torch.equal(found["attention_mask"], found["input_ids"] > 0)
    with pytest.raises(ValueError, match="more than 2 numbers, got 2"):
        trained(["abc"], 2)


# ------------------------------------------------------------------ the network


def batch(samples=5, length=6):
    g = torch.Generator("cpu").manual_seed(3)
    mask = torch.arange(length) < torch.tensor([6, 3, 0, 1, 4])[:samples, None]
    ids = torch.randint(1, 12, (samples, length), generator=g, dtype=torch.int32) * mask
    return {"input_ids": ids, "attention_mask": mask}, torch.arange(samples) % 3


def tiny(seed=0):
    g = torch.Generator("cpu").manual_seed(seed)
    model = encoder(12, 6, 3, width=4, heads=2, generator=g)
    with torch.no_grad():  # so that curvature is not that of a network that starts
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=g)
    return model


def test_what_is_padded_changes_no_number_and_a_text_of_nothing_has_an_output():
    model, (inputs, _) = tiny().double(), batch()
    whole = model(**inputs)
    changed = inputs["input_ids"].masked_fill(~inputs["attention_mask"], 7)
    torch.testing.assert_close(model(changed, inputs["attention_mask"]), whole, rtol=0, atol=1e-14)
    for row, length in enumerate((6, 3, 1, 1, 4)):
        alone = cut({name: part[row : row + 1] for name, part in inputs.items()})
        assert alone["input_ids"].shape == (1, length)
        torch.testing.assert_close(model(**alone)[0], whole[row], rtol=1e-12, atol=1e-12)
    whole.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters()) and whole.isfinite().all()


def test_a_population_is_a_loop_over_modules():
    inputs, target = batch()
    models = [tiny(seed) for seed in range(3)]
    z = torch.stack([parameters_to_vector(m.parameters()).detach() for m in models]).double()
    risk = EmpiricalRisk(tiny(), (inputs, target), F.cross_entropy)
    losses, grads = value_and_grad(risk, z)
    for model, loss, grad in zip(models, losses, grads, strict=True):
        own = F.cross_entropy(model.double()(**inputs), target)
        own.backward()
        truth = parameters_to_vector([p.grad for p in model.parameters()])
        torch.testing.assert_close(loss, own.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(grad, truth, rtol=1e-10, atol=1e-12)


def test_products_with_the_hessian_are_those_of_dense_autograd():
    (inputs, target), model = batch(), tiny().double()
    z = parameters_to_vector(model.parameters()).detach()
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]

    def loss(vector):
        parts = vector.split([shape.numel() for shape in shapes])
        tensors = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, tensors, (), inputs), target)

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        dense = torch.autograd.functional.hessian(loss, z)
    risk = EmpiricalRisk(model, (inputs, target), F.cross_entropy)
    u = torch.randn(2, len(z), generator=torch.Generator("cpu").manual_seed(1)).double()
    torch.testing.assert_close(hvp(risk, z.expand(2, -1), u), u @ dense, rtol=1e-8, atol=1e-9)


# ------------------------------------------------------------------ scores and training


@pytest.mark.parametrize("seed", range(3))
def test_scores_of_several_labels_are_those_of_sklearn(seed):
    g = torch.Generator("cpu").manual_seed(seed)
    output = torch.randn(60, 5, generator=g).double() - 0.5
    target = (torch.rand(60, 5, generator=g) < 0.3).float()
    found = float(macro_f1(output, target))
    assert found == pytest.approx(f1_score(target, output > 0, average="macro"), abs=1e-12)
    parts = [macro_f1.counts(output[a:b], target[a:b]) for a, b in ((0, 7), (7, 60))]
    assert float(macro_f1.score(parts[0] + parts[1])) == pytest.approx(found, abs=1e-12)
    exact = float(exact_accuracy(output, target))
    assert exact == pytest.approx(accuracy_score(target, output > 0), abs=1e-12)


@pytest.mark.parametrize("name", ["tweeteval", "goemotions"])
def test_a_population_learns_and_is_measured_on_whole_splits(name, tweets, comments, tmp_path):
    options = {"data": str(tweets), **SMALL}
    method = {"lr": 0.05, "batch_size": 4}
    config = Config(
        name, "adam", members=2, iterations=30, task_options=options, method_options=method
    )
    train(config, RunFolder(tmp_path / "run"))
    task = load(name, **options)
    problem = Problem(task, CPU)
    start = problem.as_given.point()
    model = tiny_of(task, tmp_path / "run" / "best.safetensors")
    z = parameters_to_vector(model.parameters()).detach()
    assert value(problem.evaluation, z) < 0.5 * value(problem.evaluation, start)
    with torch.no_grad():
        output = model(**task.test[0])
    said = output > 0 if name == "goemotions" else output.argmax(-1)
    expected = f1_score(task.test[1], said, average="macro", zero_division=0)
    assert problem.metrics(z)["test"]["macro_f1"] == pytest.approx(expected, abs=1e-9)


def tiny_of(task, path):
    from cnognp.tasks.weights import load as load_weights

    load_weights(path, task.model)
    return task.model
