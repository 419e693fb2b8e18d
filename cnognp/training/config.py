"""The whole configuration of a training run, and the folder that the run lives in."""

import hashlib
import math
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cnognp.methods.registry import as_published, completed, flattened, grouped
from cnognp.tasks.registry import defaults
from landscape.files import DamagedFile, check_writable, replacing, temporaries

if TYPE_CHECKING:
    from cnognp.training.checkpoint import Checkpoint
    from cnognp.training.snapshots import Kept

# What the description of a run says in every checkpoint, and of which kind.
_DESCRIBED = {
    "config": str, "status": str, "task": str, "method": str, "iterations": int, "best": dict,
}  # fmt: skip


_DIGEST = "# sha256 of the lines below: "
_CHANGED = "it is not the text that was written, its SHA-256 is another"
SPREAD = 1e-4
"""Deviation of the starts beside weights of a file, where nobody has said another."""
LOGS = ("tensorboard", "wandb")
HOMES = ("auto", "device", "host", "files")
PRECISIONS = ("float32", "bfloat16")
# More than any configuration has: references in a hostile file unfold to billions of entries.
_BYTES, _ENTRIES = 1 << 20, 10_000


@dataclass(frozen=True)
class Config:
    """What a run is made of; equal configurations give equal runs on the same machine.

    Args:
        task: name of a built-in task, or ``path/to/file.py:function``.
        method: a name of ``cnognp.METHODS``.
        members: size of the population, at least 1.
        iterations: rounds, at least 1.
        seed: of the splits, the starts, the mini-batches and every other draw.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...
        threads: of torch on the CPU; sums depend on it in the last bits. 0 keeps torch's choice.
        checkpoint_every: rounds between checkpoints; 0 for ten in a run.
        record_curvature: rounds between records of the curvature at member 0; 0 for none.
        judge_every: rounds between judgements of the members on the whole training data, where
            training by mini-batches does without; the first round and the last are always judged,
            and the best point is the best of those judged. 0 judges every round of a small task
            and every tenth of one with more than 2^24 parameters times samples, there without the
            gradient's norm. In the history, rounds that were not judged are NaN.
        members_live: ``device``, ``host`` or ``files``: members that do not fit together visit the
            device one at a time, or as many as are evaluated together, with the same bits. ``auto``
            takes the host where all members have 256 MiB or more; on an accelerator only those of a
            swarm, and others that do not fit. A run may go on with another choice. Elsewhere
            than on the device one state is held, written over in every round: of a run that
            diverges, the last checkpoint has the members where they diverged, not the round
            before. Files are in the run's folder, without a name.
        together: members that are evaluated together at most, and moved by one worker; 0 for as
            many as are fastest. The last bits may depend on it, but not on the number of workers.
        snapshots: points that are kept along each member's trajectory, of the rounds that are
            judged: so many of the lowest loss on the whole training split, and as many that are
            best on the validation split, by accuracy where the task has one and then by loss; each
            with its loss and metrics on every split. 0 keeps none.
        weights: at which member 0 starts exactly: a file, a run's folder for its best member, or
            one of torchvision's names for a network of torchvision; empty for those that the task
            gives its model.
        spread: deviation of the normal noise that the other members start with beside member 0; 0
            for the starts that the task gives them, or 0.0001 beside weights of a file.
        precision: ``float32``; or ``bfloat16``, in which autocast then lets networks compute in
            training. Parameters, gradients, losses of outputs and steps stay in float32, and so
            does whatever judges and measures.
        compile: let mini-batches go through ``torch.compile``, which needs a compiler and seconds
            to minutes before the first of them; members are then evaluated one after another.
            Whatever judges and measures sees the network as it is.
        task_options: keywords of the task.
        method_options: keywords of the method.

    Raises:
        ValueError: if a number is out of range.
    """

    task: str
    method: str = "cnognp"
    members: int = 20
    iterations: int = 100
    seed: int = 0
    device: str = "auto"
    threads: int = 0
    checkpoint_every: int = 0
    record_curvature: int = 0
    judge_every: int = 0
    members_live: str = "auto"
    together: int = 0
    snapshots: int = 0
    weights: str = ""
    spread: float = 0.0
    precision: str = "float32"
    compile: bool = False
    task_options: dict[str, Any] = field(default_factory=dict)
    method_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        least = {"members": 1, "iterations": 1, "seed": 0, "threads": 0}
        least |= {"checkpoint_every": 0, "record_curvature": 0, "judge_every": 0}
        least |= {"together": 0, "snapshots": 0}
        for name, bound in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < bound:
                raise ValueError(f"{name} must be a whole number of at least {bound}, got {value}")
        if not isinstance(self.device, str):
            raise ValueError(f"device must be a name, got {self.device}")
        if self.members_live not in HOMES:
            raise ValueError(f"members_live must be one of {HOMES}, got {self.members_live!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {PRECISIONS}, got {self.precision!r}")
        if not isinstance(self.compile, bool):
            raise ValueError(f"compile must be true or false, got {self.compile!r}")
        if not isinstance(self.spread, (int, float)) or not 0 <= self.spread < math.inf:
            raise ValueError(f"spread must be at least 0 and finite, got {self.spread}")
        if ":" not in self.task:
            self._take_start()
        if self.weights and not self.spread:
            object.__setattr__(self, "spread", SPREAD)
        # Here, so that run.yaml says what is done.
        object.__setattr__(self, "method_options", as_published(self.method, self.method_options))

    def _take_start(self) -> None:
        """Takes weights and spread from the keywords of a built-in task, which may have them, too.

        So they stand in one place, also those of runs that an older version began.
        """
        options = dict(self.task_options)
        weights, spread = options.pop("weights", ""), options.pop("spread", 0.0)
        object.__setattr__(self, "task_options", options)
        if weights and not self.weights:
            object.__setattr__(self, "weights", weights)
            object.__setattr__(self, "spread", self.spread or spread)

    @property
    def interval(self) -> int:
        """Rounds between checkpoints."""
        return self.checkpoint_every or max(1, -(-self.iterations // 10))

    def to_yaml(self) -> str:
        """The text of ``run.yaml``: task and method each with their keywords, these in groups.

        Its first line is a comment with the SHA-256 of the others: no kill can leave a text beside
        the digest of another one.
        """
        tree = asdict(self)
        tree["task"] = {"name": self.task, **tree.pop("task_options")}
        tree["method"] = {
            "name": self.method, **grouped(self.method, tree.pop("method_options")),
        }  # fmt: skip
        text = yaml.safe_dump(_plain(tree), sort_keys=False, allow_unicode=True)
        return f"{_DIGEST}{_sha256(text)}\n{text}"

    def differences(self, other: "Config") -> list[str]:
        """What ``other`` has otherwise, one entry for each key: ``"members 20, not 30"``.

        Where members live changes nothing that a run finds, so it is not listed. The keys of
        another task or method are not listed beside its name. A keyword that one does
        not have, since an older version wrote it, is at its default.
        """
        ours, theirs = self._flat(), other._flat()
        renamed = tuple(f"{n}." for n in ("task", "method") if ours[n] != theirs[n])
        different = {
            key: f"{key} {theirs.get(key)}, not {ours.get(key)}"
            for key in {**theirs, **ours}
            if ours.get(key) != theirs.get(key)
        }
        return [text for key, text in different.items() if not key.startswith(renamed)]

    def _flat(self) -> dict[str, Any]:
        tree = _plain(asdict(replace(self, members_live="auto")))
        names = {noun: tree.pop(noun) for noun in ("task", "method")}
        nouns = {noun: tree.pop(f"{noun}_options") for noun in names}
        nouns["method"] = _plain(completed(self.method, nouns["method"]))
        nouns["task"] = _plain({**defaults(self.task), **nouns["task"]})
        keys = {f"{noun}.{key}": part[key] for noun, part in nouns.items() for key in part}
        return {**names, **tree, **keys}

    @classmethod
    def from_yaml(cls, text: str) -> "Config":
        """The configuration in the text of a ``run.yaml``.

        Raises:
            ValueError: if it is no such text, or not the one that its digest is of.
        """
        if not _whole(text):
            raise ValueError(_CHANGED)
        tree = tree_in(text)
        if not isinstance(tree, dict) or not {"task", "method"} <= set(tree):
            raise ValueError("a run's configuration has the keys task and method")
        options: dict[str, Any] = {}
        for noun in ("task", "method"):
            part = tree[noun] if isinstance(tree[noun], dict) else {"name": tree[noun]}
            if not isinstance(part.get("name"), str):
                raise ValueError(f"{noun} needs a name")
            name = part.pop("name")
            part = flattened(name, part) if noun == "method" else part
            tree[noun], options[f"{noun}_options"] = name, _tuples(part)
        unknown = set(tree) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown key {sorted(unknown)[0]!r}")
        return cls(**{**tree, **options})


@dataclass(frozen=True)
class RunFolder:
    """A folder with the configuration, the checkpoints and the results of one run."""

    path: Path

    @property
    def config_path(self) -> Path:
        """``run.yaml``."""
        return self.path / "run.yaml"

    @property
    def checkpoints(self) -> Path:
        """Folder of immutable checkpoints."""
        return self.path / "checkpoints"

    @property
    def analysis(self) -> Path:
        """Folder of results."""
        return self.path / "analysis"

    @property
    def snapshots(self) -> Path:
        """Folder of the points that were kept along trajectories."""
        return self.path / "snapshots"

    @property
    def log(self) -> Path:
        """Folder of curves for other programs."""
        return self.path / "log"

    @property
    def figures(self) -> Path:
        """Folder of pictures."""
        return self.path / "figures"

    @property
    def start(self) -> "RunFolder":
        """Where a copy of the weights is that member 0 began at, if any, as those of a run."""
        return RunFolder(self.path / "start")

    def weights(self, config: Config) -> str:
        """What member 0 begins at: the run's own copy of that, or what the configuration names."""
        return str(self.start.path) if self.start.best.is_file() else config.weights

    @property
    def best_loss(self) -> Path:
        """The loss of the best member as a state dict, where it is a module with tensors."""
        return self.path / "best_loss.safetensors"

    @property
    def best(self) -> Path:
        """The best member as a state dict."""
        return self.path / "best.safetensors"

    def create(self, config: Config, *, fresh: bool = True) -> None:
        """Makes the folder and writes its configuration.

        Args:
            config: what is trained.
            fresh: whether the folder must not be there yet: of two runs that are started together,
                one gets it.

        Raises:
            FileExistsError: if it must not, and is.
            OSError: if the disk refuses.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=not fresh)
        except FileExistsError:
            raise FileExistsError(
                f"{self.path} exists; go on with --resume, or choose another folder with --out"
            ) from None
        self.checkpoints.mkdir(exist_ok=True)
        with replacing(self.config_path) as temporary:
            temporary.write_text(config.to_yaml(), encoding="utf-8")

    def newest(self) -> "tuple[Checkpoint | None, list[Path]]":
        """The newest whole checkpoint, and the damaged ones that are newer; None before the first.

        Raises:
            DamagedFile: if there are checkpoints, but none of them is whole, or of a run.
        """
        from cnognp.training import checkpoint

        if not self.checkpoints.is_dir():
            return None, []
        found, damaged = checkpoint.newest(self.checkpoints)
        if found is not None:
            self._check(found.meta)
        return found, damaged

    def kept(self) -> "dict[str, Kept]":
        """The points that were kept along trajectories, by what for and by member, the best first.

        ``kept()["train"][0][0].point()`` is where member 0 had its lowest training loss.

        Raises:
            DamagedFile: if there are checkpoints, but none of them is whole, or of a run.
        """
        from cnognp.training import snapshots

        try:
            return snapshots.of_checkpoint(self.snapshots, self.newest()[0])
        except DamagedFile:
            raise
        except ValueError as error:
            raise DamagedFile(self.checkpoints, str(error)) from None

    def load(self, step: int) -> "Checkpoint":
        """The checkpoint of that round.

        Raises:
            DamagedFile: if it is not whole, or not of this run.
            FileNotFoundError: if there is none.
        """
        from cnognp.training import checkpoint

        found = checkpoint.load(self.checkpoints, step)
        self._check(found.meta)
        return found

    def _check(self, meta: dict[str, Any]) -> None:
        """Nothing, if a checkpoint describes this run; device and threads do not matter.

        Raises:
            DamagedFile: if it does not.
        """
        wrong = [key for key, kind in _DESCRIBED.items() if not isinstance(meta.get(key), kind)]
        if wrong:
            raise DamagedFile(self.checkpoints, f"the newest says no {wrong[0]} of its run")
        try:
            theirs = Config.from_yaml(meta["config"])
        except (ValueError, TypeError) as error:
            raise DamagedFile(
                self.checkpoints, f"the newest has no configuration: {error}"
            ) from None
        ours = replace(self.config(), device=theirs.device, threads=theirs.threads)
        if different := ours.differences(theirs):
            raise DamagedFile(
                self.checkpoints, f"the newest is of a run with {', '.join(different)}"
            )

    def clear_stale(self) -> None:
        """Removes what a killed writer left; nobody else may be at work here.

        Raises:
            OSError: if the folder of checkpoints cannot be written to, before hours of training.
        """
        from cnognp.training import checkpoint

        check_writable(self.checkpoints)
        checkpoint.clear_stale(self.checkpoints)
        for path in (*temporaries(self.path), *temporaries(self.analysis)):
            path.unlink(missing_ok=True)

    def verify(self) -> None:
        """Nothing, if ``run.yaml`` is the one that was written, or says no digest.

        Raises:
            DamagedFile: if not.
            ValueError: if it is no text.
        """
        if not _whole(text_of(self.config_path)):
            raise DamagedFile(
                self.config_path,
                _CHANGED,
                "restore it (every checkpoint holds a copy), or take its first line away if the "
                "others were changed on purpose",
            )

    def config(self) -> Config:
        """The configuration that the folder was made with.

        Raises:
            DamagedFile: if it is not the one that was written.
            FileNotFoundError: if there is none.
            ValueError: if it cannot be read.
        """
        if not self.config_path.is_file():
            raise FileNotFoundError(f"{self.path} is no run: it has no run.yaml")
        try:
            self.verify()
            return Config.from_yaml(text_of(self.config_path))
        except DamagedFile:
            raise
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.config_path} cannot be used: {error}") from None


def text_of(path: Path) -> str:
    """The text of a configuration file.

    Raises:
        ValueError: if it is too long for one, or no text.
        OSError: if it cannot be read.
    """
    with open(path, "rb") as file:
        found = file.read(_BYTES + 1)
    if len(found) > _BYTES:
        raise ValueError(f"it has more than {_BYTES} bytes, which no configuration has")
    try:
        return found.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not YAML: {error}") from None


def tree_in(text: str) -> Any:
    """What a YAML text says, of the size that configurations have.

    Raises:
        ValueError: if it is no YAML, or says too much, or too deep, with its references unfolded.
    """
    try:
        left, entries = [yaml.compose(text, Loader=yaml.SafeLoader)], 0
        while left:
            entries += 1
            if entries > _ENTRIES:
                break
            node = left.pop()
            if isinstance(node, yaml.SequenceNode):
                left += node.value
            elif isinstance(node, yaml.MappingNode):
                left += [part for pair in node.value for part in pair]
        else:
            return yaml.safe_load(text)
    except RecursionError:
        raise ValueError("not YAML: it is nested too deep") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from None
    raise ValueError(f"it says more than {_ENTRIES} things, its references unfolded")


def _tuples(item: Any) -> Any:
    """Lists as tuples, which is what tasks and methods take."""
    if isinstance(item, dict):
        return {key: _tuples(value) for key, value in item.items()}
    return tuple(_tuples(value) for value in item) if isinstance(item, list) else item


def _plain(item: Any) -> Any:
    """Tuples as lists, so that the text is plain YAML."""
    if isinstance(item, dict):
        return {key: _plain(value) for key, value in item.items()}
    return [_plain(value) for value in item] if isinstance(item, (list, tuple)) else item


def _whole(text: str) -> bool:
    """Whether a configuration is the one that its first line has the digest of, if it has one."""
    first, _, others = text.replace("\r\n", "\n").partition("\n")
    if not first.startswith(_DIGEST):
        return True
    return first.removeprefix(_DIGEST).strip() == _sha256(others)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
