"""Weights in files as people have them: read without running their code, fitted to a model's names.

A file of safetensors, or of ``torch.save``; under the names of the model, or under those that
DataParallel, ``torch.compile``, Lightning and the like put a prefix to; alone, or as one entry
of a checkpoint.
"""

import copy
import hashlib
import json
import re
import struct
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save
from torch import Tensor, nn

from landscape.files import DamagedFile, PathLike, UnfitFile, sha256

_TORCH = (".pt", ".pth", ".ckpt", ".bin")
SUFFIXES = (".safetensors", *_TORCH)
_DIGEST = "sha256"
# Entries of a checkpoint that hold the weights, in the order in which they are looked for.
_ENTRIES = ("state_dict", "model_state_dict", "model", "net", "weights")
_DEPTH = 3
_WRAPPERS = ("module.", "model.")
_COMPILED = "_orig_mod."
# First parts of names that are no part of the network, and whole words of them.
_BESIDE = re.compile(r"metric|criteri|accura|loss")
_WORDS = frozenset(
    "acc f1 auc auroc ap map precision recall iou miou dice mse mae psnr ssim perplexity".split()
)
_LISTED = 4
_SAVE = "torch.save(model.state_dict(), FILE)"
_TRUSTED = f"where you trust it, load it yourself and save the weights alone: {_SAVE}"


class Weights(NamedTuple):
    """What a file holds by name, and under which entries of the file that lies."""

    path: Path
    tensors: dict[str, Any]
    entry: str = ""


class Fitted(NamedTuple):
    """Weights under the names of a model, and what was done to the names for that.

    Attributes:
        state: what the model loads.
        removed: the prefix that the names in the file have before those of the model.
        added: the prefix that the names of the model have before those in the file.
        ignored: names of the file that belong to a metric or a criterion.
    """

    state: dict[str, Any]
    removed: str = ""
    added: str = ""
    ignored: tuple[str, ...] = ()


class _Comparison(NamedTuple):
    """What of a file fits a model, its names changed in one way."""

    removed: str
    added: str
    placed: dict[str, str]
    missing: list[str]
    unexpected: list[str]
    wrong: list[str]
    ignored: list[str]

    @property
    def differing(self) -> tuple[int, int]:
        return len(self.missing) + len(self.wrong), len(self.unexpected)


def read(path: PathLike) -> Weights:
    """What a file of weights holds, on the CPU; no code of the file is run.

    Args:
        path: safetensors, or what ``torch.save`` has written where it is named .pt, .pth, .ckpt
            or .bin: a state dict, alone or as an entry such as ``state_dict``.

    Raises:
        DamagedFile: if it is neither, is not whole, or holds more than tensors and plain values.
        FileNotFoundError: if there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {path}; weights are read from {', '.join(SUFFIXES)}, for instance from "
            f"what {_SAVE} writes"
        )
    if path.suffix.lower() in _TORCH and not _looks_like_safetensors(path):
        return _of_torch(path)
    return Weights(path, _of_safetensors(path))


def encoded(tensors: Mapping[str, Tensor]) -> bytes:
    """The bytes of a safetensors file that tells by a digest whether its tensors are whole.

    The digest lies inside, so that no kill can leave a file beside the digest of another one.
    Equal tensors give equal bytes.
    """
    return save(dict(tensors), metadata={_DIGEST: digest(tensors)})


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names, types, shapes and numbers, in the order of the alphabet."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name}\n{tensor.dtype}\n{tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(flat.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def fitted(weights: Weights, model: nn.Module) -> Fitted:
    """The weights under the names that the model has for them.

    A prefix goes where the names fit without it: ``module.``, ``_orig_mod.``, ``model.``, or any
    other that all of them have. Names of metrics and criteria are left out.

    Raises:
        UnfitFile: if names or shapes are not those of the model; says which.
        DamagedFile: if a number of the model is not finite.
    """
    own = model.state_dict(keep_vars=True)
    tried = [_compared(weights, own, *names) for names in _renamings(weights.tensors, own)]
    best = min(tried, key=lambda comparison: comparison.differing)
    if best.differing == (0, 0):
        state = {name: weights.tensors[place] for name, place in best.placed.items()}
        found = Fitted(state, best.removed, best.added, tuple(best.ignored))
    else:
        found = Fitted(_converted(weights, model, best))
    _check_finite(weights.path, found.state, own)
    return found


def load(path: PathLike, model: nn.Module) -> dict[str, Any]:
    """Where the weights come from that the model then has: file, digest, prefix, entries left out.

    Raises:
        UnfitFile: if they are those of another model.
        DamagedFile: if the file cannot be read, or holds numbers that are not finite.
        FileNotFoundError: if there is none.
    """
    weights = read(path)
    found = fitted(weights, model)
    model.load_state_dict(found.state)
    return origin(weights, found)


def origin(weights: Weights, found: Fitted) -> dict[str, Any]:
    """What a result says of the weights that it was measured at."""
    noted = {
        "weights": str(weights.path),
        "weights_sha256": sha256(weights.path),
        "weights_entry": weights.entry,
        "removed_prefix": found.removed,
        "added_prefix": found.added,
        "ignored": list(found.ignored),
    }
    return {name: value for name, value in noted.items() if value}


def _of_safetensors(path: Path) -> dict[str, Tensor]:
    data = path.read_bytes()
    try:
        tensors = parse(data)
    except SafetensorError as error:
        raise DamagedFile(path, *_no_safetensors(path, data, str(error))) from None
    (length,) = struct.unpack("<Q", data[:8])
    noted = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    if _DIGEST in noted and noted[_DIGEST] != digest(tensors):
        raise DamagedFile(
            path,
            "its tensors are not those that were written, their SHA-256 is another",
            "restore a copy; the best member of a run is in its checkpoints too, and cnognp "
            "analyze RUN measures it",
        )
    return tensors


def _no_safetensors(path: Path, data: bytes, error: str) -> tuple[str, ...]:
    """Why a file is no safetensors file, and what to do where it is one of ``torch.save``."""
    reason = f"it is no safetensors file ({error})"
    if data[:4] != b"PK\x03\x04" and data[:1] != b"\x80":
        return reason, "name the file of weights that is meant, or restore a copy"
    return (
        f"{reason}, and looks like one of torch.save",
        f"name it {path.stem}.pt if that is what it is",
    )


def _looks_like_safetensors(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < 1 << 27


def _of_torch(path: Path) -> Weights:
    """What ``torch.save`` has written.

    Raises:
        DamagedFile: if it is something else, or holds more than tensors and plain values.
        UnfitFile: if it holds no tensors by name.
    """
    _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes of anybody's meet every part of the reader
        raise DamagedFile(path, *_refusal(str(error) or type(error).__name__)) from None
    entry: list[str] = []
    while isinstance(found, Mapping) and len(entry) < _DEPTH:
        inside = [key for key in _ENTRIES if isinstance(found.get(key), Mapping) and found[key]]
        if not inside:
            break
        entry.append(inside[0])
        found = found[inside[0]]
    named = isinstance(found, Mapping) and all(isinstance(name, str) for name in found)
    tensors = {name: t for name, t in found.items() if _is_kept(name, t)} if named else {}
    if not tensors:
        what = f"the entries {_listed(map(str, found))}" if isinstance(found, Mapping) else ""
        raise UnfitFile(
            path,
            f"it holds {what or 'a ' + type(found).__name__}, and no tensors by name",
            f"Save the weights with {_SAVE}",
        )
    return Weights(path, tensors, "/".join(entry))


def _is_kept(name: str, value: Any) -> bool:
    return isinstance(value, Tensor) or name.endswith("_extra_state")


def _check_archive(path: Path) -> None:
    """Nothing, if the archive takes no more memory than the file has bytes.

    Raises:
        DamagedFile: if it would swell, or is damaged.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise DamagedFile(path, f"it is no whole file of torch.save ({error})") from None
    if any("/code/" in entry.filename for entry in entries):
        raise DamagedFile(path, "it is a TorchScript archive, which holds code", _TRUSTED)
    claimed = sum(entry.file_size for entry in entries)
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if packed or claimed > path.stat().st_size:
        raise DamagedFile(
            path, f"its entries unpack to {claimed} bytes, and torch.save packs nothing"
        )


def _refusal(error: str) -> tuple[str, ...]:
    """Why ``torch.load`` has refused, in our words, and what to do."""
    if named := re.search(r"Unsupported (?:global|class).*?([\w.]+\.[\w.]+)", error):
        return (
            f"it holds more than weights, namely {named.group(1)}, as torch.save of a whole model "
            "does; reading that would run code, which is not done",
            _TRUSTED,
        )
    said = error.rpartition("WeightsUnpickler error:")[2].strip().split("\n")[0]
    return (
        f"it is no whole file of torch.save ({' '.join(said.split())[:160].rstrip('. ')})",
        "name the file of weights that is meant, or restore a copy",
    )


def _renamings(names: Iterable[str], own: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Prefixes to remove from the names of a file, and to add to them; none of both first."""
    names = [name.replace(_COMPILED, "") for name in names]
    wanted = [name.replace(_COMPILED, "") for name in own]
    yield "", ""
    chains = [*_WRAPPERS, *(a + b for a in _WRAPPERS for b in _WRAPPERS)]
    # The longest name is the one that is hardest to find in another model.
    last = max(wanted, key=len, default="")
    inferred = [name.removesuffix(last) for name in names if name.endswith("." + last)]
    for prefix in dict.fromkeys([*chains, *inferred]):
        if prefix in inferred or any(name.startswith(prefix) for name in names):
            yield prefix, ""
    for prefix in chains:
        if wanted and all(name.startswith(prefix) for name in wanted):
            yield "", prefix


def _compared(weights: Weights, own: Mapping[str, Any], removed: str, added: str) -> _Comparison:
    """How the weights fit, with a prefix removed from their names or added to them."""
    wanted = {name.replace(_COMPILED, ""): name for name in own}
    tops = {name.partition(".")[0] for name in wanted}
    placed: dict[str, str] = {}
    unexpected, ignored, compiled = [], [], False
    for place in weights.tensors:
        bare = place.replace(_COMPILED, "")
        inside = bare.startswith(removed)
        name = added + bare.removeprefix(removed)
        if inside and name in wanted and wanted[name] not in placed:
            placed[wanted[name]] = place
            compiled |= bare != place and wanted[name] == name
        elif _is_beside(name if inside else bare, tops):
            ignored.append(place)
        else:
            unexpected.append(place)
    twins = _with_twins(own, placed)
    missing = [n for n in own if n not in twins and not n.endswith("num_batches_tracked")]
    wrong = [
        f"{name} {what}"
        for name, place in twins.items()
        if (what := _difference(weights.tensors[place], own[name]))
    ]
    if compiled:
        removed += _COMPILED
    return _Comparison(removed, added, twins, missing, unexpected, wrong, ignored)


def _is_beside(name: str, tops: set[str]) -> bool:
    """Whether the name is one of a metric, a criterion or a count of averaged models."""
    top = name.partition(".")[0].lower()
    if name.partition(".")[0] in tops:
        return False
    return bool(_BESIDE.search(top) or _WORDS & set(top.split("_"))) or top == "n_averaged"


def _with_twins(own: Mapping[str, Any], placed: dict[str, str]) -> dict[str, str]:
    """The places, and for tied tensors whose name is not in the file those of their twins."""
    twins = {id(own[name]): place for name, place in placed.items()}
    found = {name: placed.get(name) or twins.get(id(tensor)) for name, tensor in own.items()}
    return {name: place for name, place in found.items() if place is not None}


def _difference(tensor: Any, own: Any) -> str:
    """What of a tensor is not as in the model; empty if nothing."""
    if not isinstance(own, Tensor):
        return ""
    if not isinstance(tensor, Tensor):
        return f"is a {type(tensor).__name__}"
    if tensor.shape != own.shape:
        return f"has the shape {tuple(tensor.shape)}, in the model {tuple(own.shape)}"
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        return "is not a plain tensor with its numbers"
    if tensor.is_complex() > own.is_complex() or (
        own.is_floating_point() > (tensor.is_floating_point() or tensor.is_complex())
    ):
        return f"holds {_kind(tensor)} numbers, in the model {_kind(own)}"
    return ""


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _said(best: _Comparison) -> str:
    """The first names that differ, in words."""
    parts = {
        "missing": best.missing,
        "unexpected": best.unexpected,
        "wrong": best.wrong,
    }
    return "; ".join(f"{what}: {_listed(names)}" for what, names in parts.items() if names)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _converted(weights: Weights, model: nn.Module, best: _Comparison) -> dict[str, Any]:
    """What the model makes itself of the weights, where it knows names of other versions.

    Raises:
        UnfitFile: if it does not; says what differs.
    """
    if not best.wrong:
        trial = copy.deepcopy(model)
        # Hooks of the user's module may raise anything.
        with suppress(Exception):
            trial.load_state_dict(weights.tensors)
            return trial.state_dict()
    advice = "Name a file of the model that the task makes, or have the task make this one"
    if classes := _class_counts(weights, model, best):
        advice = (
            f"It is of a network with {classes[0]} outputs, and this one has {classes[1]}: name "
            "one of as many classes"
        )
    if not (best.missing or best.wrong):
        advice = (
            "All that the model has is there: name the network that it is of, or save it without "
            "the rest"
        )
    reason = f"it holds another model's weights, or more than them: {_said(best)}"
    raise UnfitFile(weights.path, reason, advice)


def _class_counts(weights: Weights, model: nn.Module, best: _Comparison) -> tuple[int, int] | None:
    """How many outputs the file and the model have, where they differ in nothing else."""
    if best.missing or best.unexpected:
        return None
    own = model.state_dict()
    pairs = [(weights.tensors[place], own[name]) for name, place in best.placed.items()]
    if not all(isinstance(t, Tensor) and t.ndim == mine.ndim for t, mine in pairs):
        return None
    differing = [(t.shape, mine.shape) for t, mine in pairs if t.shape != mine.shape]
    counts = {(theirs[0], ours[0]) for theirs, ours in differing if theirs[1:] == ours[1:]}
    alike = all(theirs[1:] == ours[1:] for theirs, ours in differing)
    return counts.pop() if alike and len(counts) == 1 else None


def _check_finite(path: Path, state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Nothing, if all numbers of the state are finite in the types of the model.

    Raises:
        DamagedFile: if not.
    """
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or not isinstance(own[name], Tensor):
            continue
        if own[name].is_floating_point() or own[name].is_complex():
            if not tensor.to(own[name].dtype).isfinite().all():
                raise DamagedFile(
                    path,
                    f"{name} holds numbers that are not finite as {_kind(own[name])}",
                    "the training that wrote it has diverged, or it is damaged: take an earlier "
                    "one, or restore a copy",
                )
