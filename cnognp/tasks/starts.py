"""Populations that begin at weights that are there already, and beside them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from cnognp.ranges import require
from cnognp.tasks.architectures import FOREIGN, torchvision
from cnognp.tasks.task import Task, given_point, initial_population
from cnognp.tasks.weights import SUFFIXES, load, read
from landscape.files import UnfitFile
from landscape.networks import Layout

_BEST, _BEST_LOSS = "best.safetensors", "best_loss.safetensors"


@dataclass(frozen=True)
class Starts:
    """Where the members of a population start; nobody keeps the places of large ones.

    Args:
        task: gives them.
        layout: of the model's trainable parameters.
        members: how many.
        seed: any integer.
        device: where they are put.
        dtype: of the points.
    """

    task: Task
    layout: Layout
    members: int
    seed: int
    device: torch.device
    dtype: torch.dtype

    def __call__(self, block: slice) -> Tensor:
        """The starts (n, p) of members in a row.

        Raises:
            ValueError: if the task gives none that differ, or are finite.
            TypeError: if it gives no tensors of numbers.
        """
        return initial_population(
            self.task, self.layout, block.stop - block.start, self.seed, self.device, self.dtype,
            block.start,
        )  # fmt: skip

    @property
    def shape(self) -> tuple[int, int]:
        """Members and parameters."""
        return self.members, self.layout.dim

    @property
    def bytes(self) -> int:
        """What all of them take."""
        return self.members * self.layout.dim * self.dtype.itemsize


def begun_at(task: Task, weights: str, spread: float, network: str = "") -> Task:
    """The task, member 0 of whose populations starts at weights that are there, the others beside.

    Args:
        task: whose model gets the weights.
        weights: as in `file_of`; empty for the weights that the model has.
        spread: deviation of the normal noise on every parameter of the other members; 0 for the
            starts that the task gives them.
        network: what the model is called, where it has a name.

    Raises:
        ValueError: if the spread is negative, or torchvision has no such weights.
        FileNotFoundError: if there is no such file.
        DamagedFile: if it cannot be read.
        UnfitFile: if its weights are those of another network.
    """
    require(spread >= 0, "spread", "at least 0", spread)
    if weights:
        file = file_of(weights, network)
        load(file, task.model)
        if Path(weights).expanduser().is_dir() and isinstance(task.loss, nn.Module):
            _load_trained(file.with_name(_BEST_LOSS), task.loss)
    point = partial(given_point, task=task)
    return replace(task, initial=partial(beside, point, spread)) if spread else task


def file_of(weights: str, network: str = "") -> Path:
    """The file that a word for weights means.

    Args:
        weights: a file; the folder of a run, for its best member; or the name of weights that
            torchvision publishes for the network, which are fetched where they are not there yet.
        network: ``torchvision:NAME`` for one of torchvision.

    Raises:
        ValueError: if torchvision has no such weights for the network.
        FileNotFoundError: if a folder has no best member, or a file cannot be fetched; says where
            it belongs.
    """
    path = Path(weights).expanduser()
    if path.is_dir():
        if not (path / _BEST).is_file():
            raise FileNotFoundError(
                f"{path} is a folder without {_BEST}: name a file of weights, or a run that has "
                "come to an end or was left with a checkpoint"
            )
        return path / _BEST
    named = path.suffix not in SUFFIXES and path.name == weights and not path.is_file()
    return _published(weights, network) if named and network.startswith(FOREIGN) else path


def beside(
    point: Callable[[Layout], Tensor], spread: float, layout: Layout, generator: torch.Generator
) -> Tensor:
    """A start (p,) beside a point, with normal noise of deviation ``spread``."""
    own = point(layout)
    return own + spread * torch.randn(own.shape, generator=generator, device="cpu")


def _load_trained(file: Path, loss: nn.Module) -> None:
    """Gives a loss the parameters that a run has trained, if any; class weights stay the task's.

    Raises:
        DamagedFile: if the file cannot be read.
        UnfitFile: if a parameter is not in it, or has another shape there.
    """
    own = {name: tensor for name, tensor in loss.named_parameters() if tensor.requires_grad}
    if not own or not file.is_file():
        return
    found = read(file).tensors
    for name, tensor in own.items():
        if name not in found or found[name].shape != tensor.shape:
            raise UnfitFile(
                file,
                f"it has no {name} of the shape {tuple(tensor.shape)}, which the loss trains",
                f"Name {file.with_name(_BEST)} to begin with the weights of the network alone",
            )
        tensor.data.copy_(found[name])


def _published(name: str, network: str) -> Path:
    """Where the weights of that name lie, once they are there.

    Raises:
        ValueError: if there are none for the network.
        FileNotFoundError: if they cannot be fetched.
    """
    known = torchvision("models").get_model_weights(network.removeprefix(FOREIGN)).__members__
    if name not in known:
        raise ValueError(
            f"no file {name}, and torchvision has no weights of that name for {network}; there "
            f"are {', '.join(known)}"
        )
    url = known[name].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Their names end in the first digits of their SHA-256.
        digits = path.stem.rpartition("-")[2]
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digits, progress=False)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"no file {path}, and {url} cannot be fetched ({' '.join(str(error).split())}): put "
            "that file there, or have TORCH_HOME name the folder above hub/checkpoints where it is"
        ) from None
    return path
