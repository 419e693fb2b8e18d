"""Curves of a training in TensorBoard, or Weights & Biases, which are imported when asked for."""

import secrets
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from cnognp.training.config import Config
from landscape.files import replacing

_MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}
_PROJECT = "cnognp"


def package(kind: str) -> Any:
    """The module that writes curves of a kind.

    Raises:
        ModuleNotFoundError: if it is not installed; says how to install it.
    """
    try:
        return import_module(_MODULES[kind])
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"--log {kind} needs {kind}, which is not installed ({error}): pip install "
            f"'cnognp[{kind}]'"
        ) from None


class TensorBoard:
    """Curves in event files of a folder, which ``tensorboard --logdir`` shows.

    Args:
        folder: of the event files; one run has one.
        config: of the run.
        first: the first round that is written: what is there from that round on, of an attempt
            that was killed, is hidden.
    """

    def __init__(self, folder: Path, config: Config, first: int):
        self._writer = package("tensorboard").SummaryWriter(
            log_dir=str(folder), purge_step=first if first > 1 else None
        )

    def write(self, iteration: int, numbers: Mapping[str, float]) -> None:
        """Adds a point to the curve of each name."""
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, iteration)
        self._writer.flush()

    def close(self) -> None:
        """Ends the file."""
        self._writer.close()


class WeightsAndBiases:
    """Curves of a run of Weights & Biases; ``WANDB_MODE=offline`` keeps them in the folder.

    Who goes on has the identifier of the run from a file in the folder. Rounds that were done, and
    were lost with a kill, are there already with the same numbers, and are not taken again.

    Args:
        folder: of the identifier, and of what is not sent.
        config: of the run.
        first: the first round that is written.
    """

    def __init__(self, folder: Path, config: Config, first: int):
        wandb = package("wandb")
        folder.mkdir(exist_ok=True)
        file = folder / "wandb-id"
        if not file.is_file():
            with replacing(file) as temporary:
                temporary.write_text(secrets.token_hex(4), encoding="ascii")
        self._run = wandb.init(
            project=_PROJECT, name=folder.parent.name, dir=str(folder.resolve()),
            id=file.read_text(encoding="ascii").strip(), resume="allow",
            config={"run.yaml": config.to_yaml(), "task": config.task, "method": config.method},
            settings=wandb.Settings(silent=True, console="off"),
        )  # fmt: skip

    def write(self, iteration: int, numbers: Mapping[str, float]) -> None:
        """Adds a point to the curve of each name."""
        self._run.log(dict(numbers), step=iteration)

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


WRITERS: Mapping[str, Any] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}
