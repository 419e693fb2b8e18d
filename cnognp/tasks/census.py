"""Adult (Census Income), from its original files or from OpenML.

Gaps are filled, numbers scaled and categories encoded by what the training rows say alone.
"""

import warnings
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import fetch_openml
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch.nn import functional as F

from cnognp.tasks.classification import SCORES
from cnognp.tasks.tabular import Splits, held_out, perceptron
from cnognp.tasks.task import Task

_COLUMNS = (
    "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation",
    "relationship", "race", "sex", "capital-gain", "capital-loss", "hours-per-week",
    "native-country", "income",
)  # fmt: skip
_NUMERIC = ("age", "fnlwgt", "education-num", "capital-gain", "capital-loss", "hours-per-week")
_INCOMES = ("<=50K", ">50K")
_MISSING = "?"

# Rows of adult.data and adult.test, and age and fnlwgt (hardly ever shared) of their first rows.
_ROWS = (32561, 16281)
_FIRST = (("39", "77516"), ("25", "226802"))


def adult(seed: int = 0, data: str | None = None, hidden: tuple[int, ...] = (10,)) -> Task:
    """Adult (Census Income): more than 50,000 dollars a year or not, 48,842 rows, a perceptron.

    The original test file is the test split (16,281 rows); a fifth of the original training file,
    drawn by seed, is the validation split (26,049 and 6,512 rows). Gaps ("?") are filled with the
    training mean or mode, numbers standardised, categories one-hot. The loss is the cross-entropy
    of 2 outputs. There are at most 105 inputs: a category that no training row has gets no column,
    and is all zero elsewhere.

    Args:
        seed: of the validation split and of the starting weights.
        data: folder with ``adult.data`` and ``adult.test``; None fetches version 2 of the set from
            OpenML, which scikit-learn keeps for the next time.
        hidden: units of each hidden layer.

    Raises:
        FileNotFoundError: if ``data`` does not hold both files.
        ValueError: if a file does not have the format of Adult.
        RuntimeError: if ``data`` is None and the set cannot be fetched.
    """
    development, test = _fetched() if data is None else _read(Path(data).expanduser())
    splits = _encoded(development, test, seed)
    return perceptron("adult", splits, 2, hidden, seed, loss=F.cross_entropy, metrics=SCORES)


def _encoded(development: np.ndarray, test: np.ndarray, seed: int) -> Splits:
    rows = np.arange(len(development))
    size = round(0.2 * len(rows))
    train, validation = held_out(rows, development[:, -1], size, seed, "validation")
    numeric = [j for j, name in enumerate(_COLUMNS) if name in _NUMERIC]
    words = [j for j, name in enumerate(_COLUMNS[:-1]) if name not in _NUMERIC]
    scale = make_pipeline(SimpleImputer(strategy="mean"), StandardScaler())
    encode = make_pipeline(
        SimpleImputer(missing_values=_MISSING, strategy="most_frequent"),
        OneHotEncoder(handle_unknown="ignore", sparse_output=False),
    )
    scale.fit(_floats(development[train][:, numeric]))
    encode.fit(development[train][:, words])

    def pair(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = [scale.transform(_floats(cells[:, numeric])), encode.transform(cells[:, words])]
        return np.hstack(parts), (cells[:, -1] == _INCOMES[1]).astype(np.int64)

    return Splits(pair(development[train]), pair(development[validation]), pair(test))


def _floats(cells: np.ndarray) -> np.ndarray:
    return np.where(cells == _MISSING, "nan", cells).astype(np.float64)


def _read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    paths = folder / "adult.data", folder / "adult.test"
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(
                f"no file {path}: data must be a folder with adult.data and adult.test"
            )
    return _cells(paths[0]), _cells(paths[1])


def _cells(path: Path) -> np.ndarray:
    table = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        # adult.test begins with a comment, and both files end with an empty line.
        if not line.strip() or line.startswith("|"):
            continue
        # A gap is " ?", with a blank, and the labels of adult.test end in a full stop.
        cells = [cell.strip() for cell in line.split(",")]
        cells[-1] = cells[-1].rstrip(".")
        _check_row(f"{path}, line {number}", cells)
        table.append(cells)
    if not table:
        raise ValueError(f"{path} holds no rows")
    return np.array(table, dtype=object)


def _check_row(where: str, cells: Sequence[str]) -> None:
    if len(cells) != len(_COLUMNS):
        raise ValueError(f"{where}: {len(_COLUMNS)} cells were expected, got {len(cells)}")
    if cells[-1] not in _INCOMES:
        raise ValueError(f"{where}: income must be one of {_INCOMES}, got {cells[-1]!r}")
    for name, cell in zip(_COLUMNS, cells, strict=True):
        if name in _NUMERIC and cell != _MISSING and not _is_number(cell):
            raise ValueError(f"{where}: {name} must be a finite number or '?', got {cell!r}")


def _is_number(cell: str) -> bool:
    try:
        return isfinite(float(cell))
    except ValueError:
        return False


def _fetched() -> tuple[np.ndarray, np.ndarray]:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="A network error occurred")
            bunch = fetch_openml("adult", version=2, as_frame=False, parser="liac-arff")
    except Exception as error:
        raise RuntimeError(
            f"the Adult data could not be fetched from OpenML ({type(error).__name__}: {error}). "
            "Name a folder that holds adult.data and adult.test, data=FOLDER, or try again with a "
            "network"
        ) from error
    return _parted(_decoded(bunch))


def _decoded(bunch: Any) -> np.ndarray:
    columns = dict(zip(bunch.feature_names, bunch.data.T, strict=True))
    table = np.empty((len(bunch.target), len(_COLUMNS)), dtype=object)
    for j, name in enumerate(_COLUMNS[:-1]):
        if name not in columns:
            raise RuntimeError(f"OpenML's Adult data have no column {name!r}: {sorted(columns)}")
        words = bunch.categories.get(name)
        table[:, j] = [
            _MISSING if np.isnan(x) else f"{x:.17g}" if words is None else words[int(x)].strip()
            for x in columns[name]
        ]
    table[:, -1] = [income.strip() for income in bunch.target]
    return table


def _parted(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    head = [tuple(cells) for cells in table[:, [0, 2]]]
    in_data, in_test = _ROWS
    if len(table) == in_data + in_test:
        if (head[0], head[in_data]) == _FIRST:
            return table[:in_data], table[in_data:]
        if (head[in_test], head[0]) == _FIRST:
            return table[in_test:], table[:in_test]
    raise RuntimeError(
        "OpenML's Adult data are not the two original files one after the other, so the test rows "
        "cannot be told apart; name a folder that holds adult.data and adult.test, data=FOLDER"
    )
