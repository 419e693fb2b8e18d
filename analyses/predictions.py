"""What networks say of the samples of a split, how it is averaged, and what it is worth."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import log_expit, log_softmax, logsumexp
from torch import Tensor

from cnognp.tasks.classification import macro_f1
from cnognp.tasks.problem import Problem
from landscape.objective import value

BINS = 15
SCORES = ("loss", "accuracy", "macro F1", "ECE", "Brier score")
_CLOSE = 1e-4


class Said(NamedTuple):
    """What a network says of n samples with one or several labels each.

    ``log_p`` (n, labels, classes) are logarithms of probabilities, ``target`` (n, labels) classes.
    """

    log_p: np.ndarray
    target: np.ndarray

    def losses(self) -> np.ndarray:
        """The negative log-likelihood (n,) of each sample, a mean over its labels."""
        return -np.take_along_axis(self.log_p, self.target[..., None], -1)[..., 0].mean(-1)

    def right(self) -> np.ndarray:
        """The share (n,) of the labels of each sample that are predicted."""
        return (self.log_p.argmax(-1) == self.target).mean(-1)

    def scores(self) -> list[float]:
        """The `SCORES`; with several labels a class of macro-F1 is a label."""
        p = np.exp(self.log_p)
        hit = self.log_p.argmax(-1) == self.target
        squares = ((p - np.eye(p.shape[-1])[self.target]) ** 2).sum(-1).mean()
        # Several labels of two classes each, or one of any number.
        several = self.target.shape[1] > 1
        said = self.log_p[..., 1] - self.log_p[..., 0] if several else self.log_p[:, 0]
        target = self.target if several else self.target[:, 0]
        f1 = float(macro_f1(*(torch.as_tensor(each, device="cpu") for each in (said, target))))
        error = calibration_error(p.max(-1).ravel(), hit.ravel())
        return [float(self.losses().mean()), float(hit.mean()), f1, error, float(squares)]


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    r"""The expected calibration error :math:`\sum_b (n_b / n) |acc_b - conf_b|`.

    Bin b of equal width holds confidences above (b - 1) / bins and up to b / bins. Of a finite
    sample it is above 0 even where confidences are right, and what cancels in a bin is not seen.

    Args:
        confidence: (n,), of what is predicted.
        right: (n,), whether that is so.
        bins: how many.

    Reference: Guo, Pleiss, Sun & Weinberger (2017), equation 3.

    >>> calibration_error(np.array([0.9, 0.9, 0.6, 0.6]), np.array([1, 1, 1, 0])).round(12)
    np.float64(0.1)
    """
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    apart = np.bincount(place, weights=right - confidence, minlength=bins)
    return np.abs(apart).sum() / len(confidence)


def averaged(several: Sequence[Said]) -> Said:
    """The mean of the probabilities, as its logarithm (Lakshminarayanan et al. 2017)."""
    log_p = logsumexp([each.log_p for each in several], axis=0) - np.log(len(several))
    return Said(log_p, several[0].target)


def divergence(several: Sequence[Said]) -> float:
    """The mean of KL(member, ensemble), the Jensen-Shannon divergence: mean over samples, labels.

    It is the entropy of the ensemble less the mean entropy of the members.
    """
    whole = averaged(several).log_p
    apart = [_expected(each.log_p, each.log_p - whole) for each in several]
    return float(np.mean(apart))


def disagreement(one: Said, other: Said) -> float:
    """The share of labels of which two predict different classes."""
    return float((one.log_p.argmax(-1) != other.log_p.argmax(-1)).mean())


def said(problem: Problem, z: Tensor, split: str) -> Said:
    """What the network at a point says of a split.

    Args:
        problem: whose loss is the mean cross-entropy of classes, or of one or several logits.
        z: (p,); BatchNorm statistics are re-estimated there on the training data.
        split: validation or test.

    Raises:
        ValueError: if the loss is no such thing, or the outputs are not understood.
    """
    if problem.task.loss_of != "output":
        raise ValueError("the loss of the task is one of the whole model, whose outputs are needed")
    risk: Any = problem.metric(f"{split}_loss", z)
    with torch.no_grad():
        batches = [risk.prepared(batch, z.dtype) for batch in risk.data]
        pairs = [(risk.outputs(z, batch), batch.target) for batch in batches]
    if not all(isinstance(part, Tensor) for pair in pairs for part in pair):
        raise ValueError("outputs and targets must be tensors with a row for each sample")
    output, target = (torch.cat(part).cpu().double().numpy() for part in zip(*pairs, strict=True))
    found = _read(output, target)
    loss = float(value(risk, z))
    if found is None or not np.isclose(found.losses().mean(), loss, rtol=_CLOSE, atol=_CLOSE):
        own = "" if found is None else f", which would be {found.losses().mean():.6g}"
        raise ValueError(
            "an ensemble of probabilities needs a loss that is the mean cross-entropy of classes "
            f"(n, classes) or of logits (n, labels){own}; outputs have the shape {output.shape}, "
            f"targets {target.shape}, and the {split} loss is {loss:.6g}"
        )
    return found


def _read(output: np.ndarray, target: np.ndarray) -> Said | None:
    """Outputs as logarithms of probabilities; None where they are not understood."""
    whole = bool((target == np.round(target)).all())
    if output.ndim == 2 and target.ndim == 1 and output.shape[1] > 1:
        known = whole and bool(((target >= 0) & (target < output.shape[1])).all())
        if not known:
            return None
        return Said(log_softmax(output, -1)[:, None], target.astype(int)[:, None])
    if output.ndim > 2 or output.size != target.size or not bool(np.isin(target, (0, 1)).all()):
        return None
    logit = output.reshape(len(output), -1)
    log_p = np.stack([log_expit(-logit), log_expit(logit)], -1)
    return Said(log_p, target.reshape(logit.shape).astype(int))


def _expected(log_p: np.ndarray, of: np.ndarray) -> float:
    """The mean over samples of an expectation; where p is 0, nothing is added."""
    p = np.exp(log_p)
    return float(np.where(p > 0, p * np.where(p > 0, of, 0), 0).sum(-1).mean())
