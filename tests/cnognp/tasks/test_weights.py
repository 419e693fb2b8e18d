"""Weights in files as people have them, held against the state that was saved."""

import io
import pickle
import struct
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cnognp.tasks import weights
from landscape.files import DamagedFile, UnfitFile


def network():
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 2))


@pytest.fixture
def state():
    torch.manual_seed(5)
    return {
        name: t + torch.rand_like(t) if t.is_floating_point() else t + 3
        for name, t in network().state_dict().items()
    }


def written(path, state, prefix="", more=None):
    named = {prefix + name: tensor for name, tensor in state.items()} | (more or {})
    if path.suffix == ".safetensors":
        save_file(named, path)
    else:
        torch.save(named, path)
    return path


def assert_loaded(path, state, **noted):
    model = network()
    origin = weights.load(path, model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert origin["weights"] == str(path)
    assert {key: origin.get(key) for key in noted} == noted


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".PTH"])
def test_a_state_dict_is_read_from_either_format(tmp_path, state, suffix):
    path = written(tmp_path / f"w{suffix}", state)
    assert_loaded(path, state, removed_prefix=None, ignored=None)


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.",
     "model._orig_mod.", "model.module.", "backbone.net."],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_prefix_that_all_names_have_is_removed_and_noted(tmp_path, state, prefix, suffix):
    path = written(tmp_path / f"w{suffix}", state, prefix)
    model = network()
    origin = weights.load(path, model)
    assert torch.equal(model[3].weight, state["3.weight"])
    assert sorted(origin["removed_prefix"].split(".")) == sorted(prefix.split("."))


def test_the_model_may_be_the_one_that_has_the_prefix(tmp_path, state):
    path = written(tmp_path / "w.pt", state)
    for model, added in ((nn.ModuleDict({"module": network()}), "module."),
                         (torch.compile(network()), None)):  # fmt: skip
        origin = weights.load(path, model)
        assert origin.get("added_prefix") == added
        inner = model["module"] if added else model._orig_mod
        assert torch.equal(inner[3].weight, state["3.weight"])


def test_a_part_that_was_compiled_alone_is_found(tmp_path, state):
    renamed = {name.replace("3.", "3._orig_mod."): t for name, t in state.items()}
    assert_loaded(written(tmp_path / "w.pt", renamed), state, removed_prefix="_orig_mod.")


@pytest.mark.parametrize("entry", ["state_dict", "model_state_dict", "model"])
def test_the_entry_of_a_checkpoint_is_found_beside_others(tmp_path, state, entry):
    optimizer = torch.optim.Adam(network().parameters()).state_dict()
    saved = {entry: state, "epoch": 3, "optimizer": optimizer, "best": torch.tensor(0.5)}
    torch.save(saved, tmp_path / "w.ckpt")
    assert_loaded(tmp_path / "w.ckpt", state, weights_entry=entry)


def test_a_checkpoint_of_lightning_with_its_metrics_is_read(tmp_path, state):
    more = {"train_acc.tp": torch.zeros(2), "criterion.weight": torch.ones(2)}
    named = {f"model.{name}": t for name, t in state.items()} | more
    torch.save({"state_dict": named, "global_step": 9, "callbacks": {}}, tmp_path / "w.ckpt")
    noted = {"removed_prefix": "model.", "ignored": list(more), "weights_entry": "state_dict"}
    assert_loaded(tmp_path / "w.ckpt", state, **noted)


def test_an_average_of_models_is_read(tmp_path, state):
    model = network()
    model.load_state_dict(state)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    torch.save(averaged.state_dict(), tmp_path / "w.pt")
    assert_loaded(tmp_path / "w.pt", state, removed_prefix="module.", ignored=["n_averaged"])


def test_a_name_that_only_sounds_like_a_metric_is_a_part_of_the_model(tmp_path):
    model = nn.ModuleDict({"loss_head": nn.Linear(2, 2), "body": nn.Linear(2, 2)})
    path = written(tmp_path / "w.pt", model.state_dict(), more={"loss_head.more": torch.ones(1)})
    with pytest.raises(UnfitFile, match=r"unexpected: loss_head\.more\. All that the model has"):
        weights.load(path, model)


@pytest.mark.parametrize("name", ["ema.weight", "classifier.weight", "teacher.3.weight"])
def test_what_may_be_a_part_of_the_network_is_not_left_out(tmp_path, state, name):
    path = written(tmp_path / "w.pt", state, "model.", {name: torch.ones(2, 48)})
    with pytest.raises(UnfitFile, match=f"unexpected: {name}. All that the model has is there"):
        weights.load(path, network())


def test_tied_weights_may_be_saved_once_and_counts_of_batches_be_missing(tmp_path, state):
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2), "n": nn.BatchNorm1d(2)})
    model["b"].weight = model["a"].weight
    once = {name: t.clone() + 1 for name, t in model.state_dict().items()
            if name not in ("a.weight", "n.num_batches_tracked")}  # fmt: skip
    save_file(once, tmp_path / "w.safetensors")
    weights.load(tmp_path / "w.safetensors", model)
    assert model["a"].weight is model["b"].weight
    assert torch.equal(model["a"].weight, once["b.weight"])


def test_names_of_an_older_version_are_left_to_the_model(tmp_path):
    with pytest.warns(FutureWarning):
        old = torch.nn.utils.weight_norm(nn.Linear(2, 2))
    new = torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    torch.save(old.state_dict(), tmp_path / "w.pt")
    weights.load(tmp_path / "w.pt", new)
    assert torch.allclose(new.weight, old.weight)


def test_a_mismatch_names_what_is_missing_unexpected_and_of_other_shape(tmp_path, state):
    state["head.weight"] = state.pop("3.weight")
    state["0.weight"] = torch.ones(4, 1, 3, 3)
    path = written(tmp_path / "w.pt", state)
    model = network()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(UnfitFile) as caught:
        weights.load(path, model)
    text = str(caught.value)
    assert "another model's weights" in text and "delete" not in text
    assert "missing: 3.weight; unexpected: head.weight; " in text
    assert "wrong: 0.weight has the shape (4, 1, 3, 3), in the model (3, 1, 3, 3)" in text
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_a_long_list_of_names_is_cut(tmp_path):
    torch.save({f"other.{i}": torch.ones(1) for i in range(50)}, tmp_path / "w.pt")
    with pytest.raises(UnfitFile, match=r"other\.3 and 46 more\. Name a file"):
        weights.load(tmp_path / "w.pt", network())


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.full((2, 48), float("nan")), "not finite as float32"),
        (torch.full((2, 48), 1e300, dtype=torch.float64), "not finite as float32"),
        (torch.ones(2, 48, dtype=torch.int8), "3.weight holds int8 numbers, in the model float32"),
        (torch.ones(2, 48, dtype=torch.cfloat), "holds complex64 numbers"),
        (torch.ones(2, 48).to_sparse(), "is not a plain tensor"),
        # A view of one number, which would take four terabytes if it were looked at.
        (torch.ones(1).expand(10**6, 10**6), r"shape \(1000000, 1000000\), in the model \(2, 48\)"),
    ],
)
def test_numbers_that_no_model_can_have_are_refused(tmp_path, state, value, said):
    with pytest.raises(DamagedFile, match=said):
        weights.load(written(tmp_path / "w.pt", {**state, "3.weight": value}), network())


def test_weights_of_another_precision_are_taken(tmp_path, state):
    half = {n: t.bfloat16() if t.is_floating_point() else t for n, t in state.items()}
    model = network()
    weights.load(written(tmp_path / "w.safetensors", half), model)
    assert torch.equal(model[3].weight, half["3.weight"].float())


class Trap:
    def __reduce__(self):
        return (open, ("sprung", "w"))


def stored(content, compression=zipfile.ZIP_STORED):
    """The bytes of an archive like those of torch.save, with this in place of its pickle."""
    memory, made = io.BytesIO(), io.BytesIO()
    torch.save({"weight": torch.zeros(1 << 20)}, memory)
    with zipfile.ZipFile(memory) as source, zipfile.ZipFile(made, "w", compression) as target:
        for name in source.namelist():
            pickled = name.endswith("data.pkl") and content is not None
            target.writestr(name, content if pickled else source.read(name))
    return made.getvalue()


HOSTILE = {
    "trap": (lambda: pickle.dumps(Trap(), 2), "holds more than weights, namely [a-z_.]*open"),
    "trap in an archive": (lambda: stored(pickle.dumps(Trap(), 2)), "more than weights, namely"),
    "newer trap": (lambda: pickle.dumps(Trap()), "no whole file of torch.save"),
    "whole module": (
        lambda: torch.save(nn.Linear(2, 2), m := io.BytesIO()) or m.getvalue(),
        r"namely torch\.nn\.modules\.linear\.Linear, .*save the weights alone: torch\.save",
    ),
    "packed": (lambda: stored(None, zipfile.ZIP_DEFLATED), "torch.save packs nothing"),
    "empty": (lambda: b"", "no whole file of torch.save"),
    "text": (lambda: b"hello\n" * 9, "no whole file of torch.save"),
    "cut": (lambda: stored(None)[:-300], "no whole file of torch.save"),
    "deep": (lambda: b"\x80\x02" + b"(" * 10**6 + b"].", "no whole file of torch.save"),
    "long": (lambda: b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62), "no whole file of torch.save"),
    "archive of others": (lambda: zip_of({"a": b"b"}), "no whole file of torch.save"),
    "list": (lambda: stored(pickle.dumps([1, 2], 2)), "holds a list, and no tensors by name"),
    "number": (lambda: stored(pickle.dumps(3, 2)), "holds a int, and no tensors by name"),
    "entries": (lambda: stored(pickle.dumps({"epoch": 3}, 2)), "entries epoch, and no tensors"),
    "numbers": (lambda: stored(pickle.dumps({1: 2}, 2)), "holds the entries 1, and no tensors"),
}


def zip_of(entries):
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return memory.getvalue()


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line_and_none_of_its_code_is_run(
    tmp_path, monkeypatch, kind
):
    monkeypatch.chdir(tmp_path)
    content, said = HOSTILE[kind]
    (tmp_path / "w.pt").write_bytes(content())
    with pytest.raises(DamagedFile, match=said) as caught:
        weights.load(tmp_path / "w.pt", nn.Linear(2, 2))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert "weights_only" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["w.pt"]


def test_every_cut_of_a_small_file_is_refused(tmp_path):
    model = nn.Linear(2, 2)
    for path in (tmp_path / "w.pt", tmp_path / "w.safetensors"):
        data = written(path, model.state_dict()).read_bytes()
        for length in range(0, len(data), 7):
            path.write_bytes(data[:length])
            with pytest.raises(DamagedFile):
                weights.load(path, model)


def test_a_script_is_refused_with_what_to_do(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "w.pt"))
    with pytest.raises(DamagedFile, match=r"TorchScript archive.*torch\.save\(model\.state_dict"):
        weights.load(tmp_path / "w.pt", nn.Linear(2, 2))


def test_a_file_under_the_name_of_the_other_format(tmp_path, state):
    save_file(state, tmp_path / "w.pt")
    assert_loaded(tmp_path / "w.pt", state)
    torch.save(state, tmp_path / "v.safetensors")
    with pytest.raises(DamagedFile, match=r"looks like one of torch\.save.*name it v\.pt"):
        weights.load(tmp_path / "v.safetensors", network())


def test_no_flipped_bit_of_the_tensors_is_read_as_something_else(tmp_path, state):
    path = tmp_path / "best.safetensors"
    path.write_bytes(weights.encoded(state))
    assert weights.encoded(state) == path.read_bytes()
    assert {name: t.tolist() for name, t in load_file(path).items()} == {
        name: t.tolist() for name, t in state.items()
    }
    assert_loaded(path, state)
    data = path.read_bytes()
    for place in range(8, len(data), 5):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        model = network()
        try:
            weights.load(path, model)
        except DamagedFile:
            continue
        # What is not refused is where nothing is said of tensors: spaces and the digest's name.
        assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items()), place


@pytest.mark.parametrize("name", ["task.py", "notes.pt"])
def test_a_file_of_another_kind_is_to_be_kept(tmp_path, name):
    (tmp_path / name).write_text("import torch\n")
    with pytest.raises(DamagedFile, match="name the file of weights that is meant") as caught:
        weights.load(tmp_path / name, nn.Linear(2, 2))
    assert "delete" not in str(caught.value)
