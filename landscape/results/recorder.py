"""What is measured along somebody's training loop."""

from dataclasses import dataclass

import numpy as np

from landscape.results.record import Result, axes


@dataclass(frozen=True, eq=False, kw_only=True)
class Recording(Result):
    """Curvature of the loss along a training run; NaN where something was not measured.

    Attributes:
        step: the steps that were recorded, increasing.
        loss: f at the point.
        gradient_norm: Euclidean norm of the gradient.
        eigenvalues: the largest of the Hessian, descending; the first is the sharpness.
        bounds: a true eigenvalue lies within this distance; rounding is allowed for, not measured.
        converged: whether the pair meets the tolerance.
        products: Hessian-vector products that the eigenvalues took.
        trace: of the Hessian, exact on the largest eigenvectors and Hutchinson's estimate beside.
        trace_error: its standard error, itself rough for few probes.
        minibatch_sharpness: mean over mini-batches of the largest eigenvalue of each.
        minibatch_error: its standard error.
        lr: step length of the optimiser.
        threshold: the largest eigenvalue of the Hessian at which the optimiser is stable; NaN for
            one that is preconditioned.
        preconditioned: the largest eigenvalue of P^-1/2 (H + decay) P^-1/2.
        preconditioned_bound: a true eigenvalue of it lies within this distance.
        preconditioned_threshold: the largest one at which the optimiser is stable.
        rule: the formula of the thresholds; empty where none is known.
        dim: number of parameters.
        tolerance: relative to the largest eigenvalue.
        probes: random vectors for each trace; 0 where there is none.
        minibatch: samples in a mini-batch; 0 where there are none.
        minibatches: mini-batches for each mean.
        label: whose run it is.
        status: whether every pair converged.
        statistics: which BatchNorm statistics were used.
    """

    step: np.ndarray = axes("record")
    loss: np.ndarray = axes("record")
    gradient_norm: np.ndarray = axes("record")
    eigenvalues: np.ndarray = axes("record", "pair")
    bounds: np.ndarray = axes("record", "pair")
    converged: np.ndarray = axes("record", "pair")
    products: np.ndarray = axes("record")
    trace: np.ndarray = axes("record")
    trace_error: np.ndarray = axes("record")
    minibatch_sharpness: np.ndarray = axes("record")
    minibatch_error: np.ndarray = axes("record")
    lr: np.ndarray = axes("record")
    threshold: np.ndarray = axes("record")
    preconditioned: np.ndarray = axes("record")
    preconditioned_bound: np.ndarray = axes("record")
    preconditioned_threshold: np.ndarray = axes("record")
    rule: str
    dim: int
    tolerance: float
    probes: int
    minibatch: int
    minibatches: int
    label: str = ""
    status: str
    statistics: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class Trajectory(Result):
    """Paths of one or several runs, projected onto one plane; the points of all runs in a row.

    Attributes:
        run: which run a point belongs to, an index into ``labels``.
        step: the step of that run at which it was there.
        alpha: coordinate along the first direction.
        beta: coordinate along the second direction.
        loss: the loss at the point itself, not at its projection.
        distance: Euclidean distance of the point from the plane.
        relative: that distance over the extent of the run, which is the largest distance of its
            points from its first.
        explained: share of the variance of all points that lies along the first direction, and the
            further share along the second.
        labels: names of the runs.
        directions: what the directions are, for the picture.
        statistics: which BatchNorm statistics were used.
    """

    run: np.ndarray = axes("point")
    step: np.ndarray = axes("point")
    alpha: np.ndarray = axes("point")
    beta: np.ndarray = axes("point")
    loss: np.ndarray = axes("point")
    distance: np.ndarray = axes("point")
    relative: np.ndarray = axes("point")
    explained: np.ndarray = axes("direction")
    labels: tuple[str, ...]
    directions: tuple[str, str] = ("u", "v")
    statistics: str = ""
