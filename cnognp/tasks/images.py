"""Small images from scikit-learn."""

from functools import partial
from typing import Literal

import numpy as np
from sklearn.datasets import load_digits
from torch.nn import functional as F

from cnognp.tasks.classification import SCORES
from cnognp.tasks.networks import mlp, small_conv
from cnognp.tasks.tabular import Splits, split, starts, tensors
from cnognp.tasks.task import Task


def digits(
    seed: int = 0, network: Literal["mlp", "conv"] = "mlp", hidden: tuple[int, ...] = (32,)
) -> Task:
    """Handwritten digits: 10 classes, 1,797 images of 8 x 8 pixels, two networks to choose from.

    1,079 / 359 / 359 images for training, validation and test; pixels are divided by 16, their
    largest value; the loss is the cross-entropy of 10 outputs.

    Args:
        seed: of the splits and of the starting weights.
        network: ``"mlp"``, a perceptron on 64 pixels (2,410 parameters), or ``"conv"``, two
            convolutions with BatchNorm on 1 x 8 x 8 images (4,650 parameters).
        hidden: units of each hidden layer of the perceptron; the convolution has none.

    Raises:
        ValueError: if ``network`` is neither.
    """
    if network not in ("mlp", "conv"):
        raise ValueError(f"network must be 'mlp' or 'conv', got {network!r}")
    pixels, target = load_digits(return_X_y=True)
    inputs = (pixels / 16).astype(np.float32)
    if network == "conv":
        inputs = inputs.reshape(-1, 1, 8, 8)
    splits = tensors(Splits(*((inputs[r], target[r]) for r in split(target, seed))))
    build = small_conv if network == "conv" else partial(mlp, 64, hidden, 10)
    return Task(
        **starts(build, seed),
        **splits._asdict(),
        loss=F.cross_entropy,
        metrics=SCORES,
        name="digits",
    )
