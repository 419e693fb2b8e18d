"""Where methods end on test functions."""

from dataclasses import dataclass

import numpy as np

from landscape.results.record import Result, axes


@dataclass(frozen=True, eq=False, kw_only=True)
class Stationary(Result):
    """Where many restarts of a method on a test function of one or two coordinates end.

    Attributes:
        function: its name.
        method: its name.
        names: of the minima, in the order of every array with an axis ``minimum``.
        points: the minima.
        values: the function there.
        eigenvalues: of the Hessian there, descending.
        counts: restarts that end at each minimum; the last outcome is "else".
        share: counts divided by restarts.
        low: lower end of the 95 % Wilson interval of the share.
        high: upper end of it.
        basin: fraction of the box that flows to each minimum, where it is known.
        start: of each restart.
        position: where it ended.
        label: index of its outcome.
        alpha: first coordinate of the grid.
        beta: second coordinate of the grid.
        surface: the function on the grid, ``surface[i, j]`` at ``alpha[i], beta[j]``.
        restarts: number of them.
        evaluations: of the function or its gradient, by all restarts.
        tolerance: distance within which an end counts for a minimum.
        gradient_tolerance: norm of the gradient below which a restart has ended.
        status: how the restarts ended.
    """

    function: str
    method: str
    names: tuple[str, ...]
    points: np.ndarray = axes("minimum", "coordinate")
    values: np.ndarray = axes("minimum")
    eigenvalues: np.ndarray = axes("minimum", "coordinate")
    counts: np.ndarray = axes("outcome")
    share: np.ndarray = axes("outcome")
    low: np.ndarray = axes("outcome")
    high: np.ndarray = axes("outcome")
    basin: np.ndarray | None = axes("minimum", optional=True)
    start: np.ndarray = axes("member", "coordinate")
    position: np.ndarray = axes("member", "coordinate")
    label: np.ndarray = axes("member")
    alpha: np.ndarray = axes("alpha")
    beta: np.ndarray | None = axes("beta", optional=True)
    surface: np.ndarray | None = axes("alpha", "beta", optional=True)
    restarts: int
    evaluations: int
    tolerance: float
    gradient_tolerance: float
    status: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Maps(Result):
    """Where many restarts of several methods on one function end, from the same starts.

    Attributes:
        function: its name.
        methods: their names.
        names: of the minima, in the order of every array with an axis ``minimum``.
        points: the minima.
        values: the function there.
        eigenvalues: of the Hessian there, descending.
        position: where each restart ended.
        label: index of its minimum; their number is "else".
        alpha: first coordinate of the grid.
        beta: second coordinate of the grid.
        surface: the function on the grid, ``surface[i, j]`` at ``alpha[i], beta[j]``.
    """

    function: str
    methods: tuple[str, ...]
    names: tuple[str, ...]
    points: np.ndarray = axes("minimum", "coordinate")
    values: np.ndarray = axes("minimum")
    eigenvalues: np.ndarray = axes("minimum", "coordinate")
    position: np.ndarray = axes("method", "member", "coordinate")
    label: np.ndarray = axes("method", "member")
    alpha: np.ndarray = axes("alpha")
    beta: np.ndarray | None = axes("beta", optional=True)
    surface: np.ndarray | None = axes("alpha", "beta", optional=True)


@dataclass(frozen=True, eq=False, kw_only=True)
class Distribution(Result):
    """Where several methods end on several functions, side by side.

    The axis ``outcome`` runs through the minima and "else" of the first function, then through
    those of the second, and so on. What does not exist is NaN, or -1 among integers.

    Attributes:
        functions: their names.
        methods: names of the rows.
        outcomes: names of the minima and "else", function by function.
        function: index of the function of each outcome.
        counts: restarts of each method that end at each outcome.
        share: counts divided by restarts.
        low: lower end of the 95 % Wilson interval of the share.
        high: upper end of it.
        basin: fraction of the box that flows to each minimum.
        p_value: of Pearson's chi-square test of the counts at minima against the basins.
        mirror_p: of the chi-square test that mirror images are reached equally often.
        order_largest: place of each minimum from flat to sharp by the largest Hessian eigenvalue,
            from 0; equal minima share a place.
        order_trace: the same by the trace.
        measures: names of the two orders.
        flattest: share of restarts that end at the flattest minimum, or at one of several.
        flattest_low: lower end of its 95 % Wilson interval.
        flattest_high: upper end of it.
        published: shares that have been published, placed by the labels as published.
        relabelled: the same, placed by other labels that fit better: a hypothesis.
        deviation: of the shares from the published, in standard errors of their difference.
        deviation_relabelled: the same from the relabelled.
        published_sum: sums of the published rows.
        moved: share of restarts that end elsewhere than those of the first method, start by start.
        evaluations: gradient evaluations for each restart.
        unsettled: restarts that end with a gradient above ``gradient_tolerance``.
        diverged: restarts that end at infinity or NaN.
        restarts: of each method on each function.
        tolerance: distance within which an end counts for a minimum.
        gradient_tolerance: norm of the gradient below which a restart has ended.
        notes: what can be said about the published shares.
        conclusion: what was shown and what was not.
    """

    functions: tuple[str, ...]
    methods: tuple[str, ...]
    outcomes: tuple[str, ...]
    function: np.ndarray = axes("outcome")
    counts: np.ndarray = axes("method", "outcome")
    share: np.ndarray = axes("method", "outcome")
    low: np.ndarray = axes("method", "outcome")
    high: np.ndarray = axes("method", "outcome")
    basin: np.ndarray = axes("outcome")
    p_value: np.ndarray = axes("method", "function")
    mirror_p: np.ndarray | None = axes("method", "function", optional=True)
    order_largest: np.ndarray = axes("outcome")
    order_trace: np.ndarray = axes("outcome")
    measures: tuple[str, str] = ("largest eigenvalue", "trace")
    flattest: np.ndarray = axes("method", "function", "measure")
    flattest_low: np.ndarray = axes("method", "function", "measure")
    flattest_high: np.ndarray = axes("method", "function", "measure")
    published: np.ndarray | None = axes("method", "outcome", optional=True)
    relabelled: np.ndarray | None = axes("method", "outcome", optional=True)
    deviation: np.ndarray | None = axes("method", "outcome", optional=True)
    deviation_relabelled: np.ndarray | None = axes("method", "outcome", optional=True)
    published_sum: np.ndarray | None = axes("method", "function", optional=True)
    moved: np.ndarray | None = axes("method", "function", optional=True)
    evaluations: np.ndarray = axes("method", "function")
    unsettled: np.ndarray = axes("method", "function")
    diverged: np.ndarray = axes("method", "function")
    restarts: int
    tolerance: float
    gradient_tolerance: float
    notes: tuple[str, ...] = ()
    conclusion: str = ""
