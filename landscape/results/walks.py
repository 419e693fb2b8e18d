"""How methods move on test functions: their paths, and the cycle that some end in."""

from dataclasses import dataclass

import numpy as np

from landscape.results.record import Result, axes


@dataclass(frozen=True, eq=False, kw_only=True)
class Walks(Result):
    """The paths of a few members of several methods on a function of two coordinates.

    All methods start from the same points, and the paths are recorded at equal numbers of
    evaluations: at ``evaluations[k]`` a member is where the last step that it could afford has put
    it.

    Attributes:
        function: its name.
        methods: their names.
        names: of the minima, in the order of every array with an axis ``minimum``.
        points: the minima.
        values: the function there.
        eigenvalues: of the Hessian there, descending.
        evaluations: of the function or its gradient, by each member up to then.
        position: where each member is.
        loss: the function there.
        label: index of the minimum where it is in the end; their number is "else".
        alpha: first coordinate of the grid.
        beta: second coordinate of the grid.
        surface: the function on the grid, ``surface[i, j]`` at ``alpha[i], beta[j]``.
        tolerance: distance within which an end counts for a minimum.
        settings: step lengths and radii.
    """

    function: str
    methods: tuple[str, ...]
    names: tuple[str, ...]
    points: np.ndarray = axes("minimum", "coordinate")
    values: np.ndarray = axes("minimum")
    eigenvalues: np.ndarray = axes("minimum", "coordinate")
    evaluations: np.ndarray = axes("time")
    position: np.ndarray = axes("method", "time", "member", "coordinate")
    loss: np.ndarray = axes("method", "time", "member")
    label: np.ndarray = axes("method", "member")
    alpha: np.ndarray = axes("alpha")
    beta: np.ndarray = axes("beta")
    surface: np.ndarray = axes("alpha", "beta")
    tolerance: float
    settings: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class Cycle(Result):
    """The 2-cycle in which sharpness-aware minimisation with a constant radius ends at a minimum.

    It is run on the function itself and on the quadratic with the Hessian of the minimum.

    Attributes:
        function: its name.
        minimum: name of the minimum.
        surfaces: names of what was minimised.
        point: the minimum.
        eigenvalues: of the Hessian there, descending.
        direction: unit eigenvector of the largest.
        position: after every step, from the start on.
        displacement: of the position from the minimum, along the direction.
        amplitude: half the distance between the last two positions along the direction.
        shift: of the middle between them from the minimum, along the direction.
        returning: distance of the last position from the one two steps before.
        predicted: half-amplitude on the quadratic, rho lr l / (2 - lr l).
        lr: step length.
        rho: radius.
        alpha: first coordinate of the grid around the minimum.
        beta: second coordinate of the grid.
        values: the function on the grid, ``values[i, j]`` at ``alpha[i], beta[j]``.
    """

    function: str
    minimum: str
    surfaces: tuple[str, ...]
    point: np.ndarray = axes("coordinate")
    eigenvalues: np.ndarray = axes("coordinate")
    direction: np.ndarray = axes("coordinate")
    position: np.ndarray = axes("run", "time", "coordinate")
    displacement: np.ndarray = axes("run", "time")
    amplitude: np.ndarray = axes("run")
    shift: np.ndarray = axes("run")
    returning: np.ndarray = axes("run")
    predicted: float
    lr: float
    rho: float
    alpha: np.ndarray = axes("alpha")
    beta: np.ndarray = axes("beta")
    values: np.ndarray = axes("alpha", "beta")
