"""Texts and their labels from folders in their published layout: TweetEval and GoEmotions.

Lines end at a line feed and nowhere else, and no character quotes others.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnognp.tasks.tabular import Splits
from landscape.files import DamagedFile, UnfitFile

_TWEETS = (
    "git clone https://github.com/cardiffnlp/tweeteval, whose folder datasets holds a folder for "
    "each subset (emotion 0.5 MB, irony 0.4 MB)"
)
_COMMENTS = (
    "train.tsv, dev.tsv, test.tsv and emotions.txt from goemotions/data of "
    "https://github.com/google-research/google-research (4.4 MB)"
)
_TWEET_SPLITS, _COMMENT_SPLITS = ("train", "val", "test"), ("train", "dev", "test")


class Labelled(NamedTuple):
    """Texts of three splits, their labels, and what the classes are called.

    Attributes:
        texts: a list for each split.
        labels: of each split classes (n,), or 0 and 1 for every class (n, classes), float32.
        classes: by number.
    """

    texts: Splits
    labels: Splits
    classes: tuple[str, ...]


def tweets(folder: Path, subset: str) -> Labelled:
    """Texts of TweetEval, each of one class.

    Args:
        folder: holds a folder for each subset.
        subset: name of its folder.

    Raises:
        FileNotFoundError: if a file is missing; says how to get it.
        DamagedFile: if a file is not UTF-8.
        UnfitFile: if texts and labels are not as many, a label is no class, or a class is empty.
    """
    inner = check_tweets(folder, subset)
    pairs = [line.partition("\t") for line in _lines(inner / "mapping.txt")]
    classes = tuple(name for _, _, name in pairs)
    if [number for number, _, _ in pairs] != [str(n) for n in range(len(pairs))]:
        raise UnfitFile(
            inner / "mapping.txt", "its lines are not numbers from 0, a tab and a name", _TWEETS
        )
    texts, labels = [], []
    for split in _TWEET_SPLITS:
        path = inner / f"{split}_labels.txt"
        texts.append(_lines(inner / f"{split}_text.txt"))
        found = [_class(path, n, line, classes) for n, line in enumerate(_lines(path), 1)]
        if len(found) != len(texts[-1]):
            raise UnfitFile(
                path, f"it has {len(found)} labels for {len(texts[-1])} texts", _again(_TWEETS)
            )
        labels.append(np.array(found, dtype=np.int64))
    _check_classes(inner / "train_labels.txt", np.eye(len(classes))[labels[0]], classes)
    return Labelled(Splits(*texts), Splits(*labels), classes)


def comments(folder: Path) -> Labelled:
    """Texts of GoEmotions, each with one or several emotions.

    Args:
        folder: holds the files.

    Raises:
        FileNotFoundError: if a file is missing; says how to get it.
        DamagedFile: if a file is not UTF-8.
        UnfitFile: if a line has no three columns, a label is no emotion, or an emotion is empty.
    """
    check_comments(folder)
    classes = tuple(_lines(folder / "emotions.txt"))
    texts, labels = [], []
    for split in _COMMENT_SPLITS:
        path = folder / f"{split}.tsv"
        rows = [line.rsplit("\t", 2) for line in _lines(path)]
        target = np.zeros((len(rows), len(classes)), dtype=np.float32)
        for number, row in enumerate(rows, 1):
            if len(row) != 3:
                raise UnfitFile(
                    path, f"line {number} has {len(row)} columns, expected a text, emotions and a "
                    "name, with tabs between them", _again(_COMMENTS),
                )  # fmt: skip
            for label in row[1].split(","):
                target[number - 1, _class(path, number, label, classes)] = 1
        texts.append([row[0] for row in rows])
        labels.append(target)
    _check_classes(folder / "train.tsv", labels[0], classes)
    return Labelled(Splits(*texts), Splits(*labels), classes)


def check_tweets(folder: Path, subset: str) -> Path:
    """Where the files of a subset are.

    Raises:
        FileNotFoundError: if one is missing; says how to get it.
    """
    parts = [f"{split}_{part}.txt" for split in _TWEET_SPLITS for part in ("text", "labels")]
    _check(folder / subset, [*parts, "mapping.txt"], "the folder that holds it", _TWEETS)
    return folder / subset


def check_comments(folder: Path) -> None:
    """Nothing, if the files of GoEmotions are there.

    Raises:
        FileNotFoundError: if one is missing; says how to get it.
    """
    names = [f"{split}.tsv" for split in _COMMENT_SPLITS]
    _check(folder, [*names, "emotions.txt"], "that folder", _COMMENTS)


def _check(folder: Path, names: list[str], which: str, fetch: str) -> None:
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise FileNotFoundError(
            f"no {', '.join(missing)} in {folder}: name {which} with --data, or fetch the files: "
            f"{fetch}"
        )


def _again(fetch: str) -> str:
    return f"Mend it, or fetch the published one: {fetch}"


def _lines(path: Path) -> list[str]:
    """The lines of a file.

    Raises:
        DamagedFile: if it is not UTF-8.
        UnfitFile: if there is none.
    """
    content = path.read_bytes()
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DamagedFile(
            path, f"line {line} is not UTF-8", "save it as UTF-8, or restore a copy"
        ) from None
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise UnfitFile(path, "it is empty", "Restore a copy")
    return [line.removesuffix("\r") for line in lines]


def _class(path: Path, number: int, label: str, classes: tuple[str, ...]) -> int:
    """The class that a label in a line is.

    Raises:
        UnfitFile: if it is none.
    """
    if not (label.strip().isascii() and label.strip().isdigit() and int(label) < len(classes)):
        raise UnfitFile(
            path, f"line {number} has the label {label!r}",
            f"Labels are whole numbers from 0 to {len(classes) - 1}",
        )  # fmt: skip
    return int(label)


def _check_classes(path: Path, target: np.ndarray, classes: tuple[str, ...]) -> None:
    """Nothing, if every class has a text.

    Raises:
        UnfitFile: if one has none.
    """
    if empty := [name for name, some in zip(classes, target.T, strict=True) if not some.any()]:
        raise UnfitFile(
            path, f"no text is of {', '.join(empty)}", "Every class needs a text to be trained on"
        )
