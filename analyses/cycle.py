r"""Why does sharpness-aware minimisation not come to rest?

Question: SAM with a constant radius steps along the gradient at a neighbour that is always rho
away. Where does it end at a minimum, and how far from it?

Expected: in a 2-cycle across the minimum, along the eigenvector of the largest eigenvalue l, of
half-amplitude :math:`\rho \eta l / (2 - \eta l)`: on the quadratic, -x = x - lr l (x + rho). On the
function itself the cycle is shifted by its third derivatives, and the amplitude differs by a
relative O(rho^2); where the step is short and the minimum lopsided, the member need not settle at
all, and how far from its place two steps before it ends says so.

n: one member; nothing is drawn.

Cost: under a second.
"""

import time
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from analyses.restarts import Plan, walk
from analyses.stationary import require_one_of
from cnognp import METHODS
from landscape.functions import CATALOGUE
from landscape.objective import Analytic, Critical, hvp, value
from landscape.results import Cycle, provenance


@dataclass(frozen=True)
class Config:
    """What is run.

    Args:
        function: a test function (cnognp demo --help lists them), of two coordinates.
        minimum: name of one of its minima; the sharpest where None.
        lr: step length, positive and below 2 / l, where gradient descent itself is unstable.
        rho: radius, positive.
        steps: of SAM, at least 2.
        offset: of the start from the minimum along the two eigenvectors, in multiples of rho; not
            both zero, since nothing moves at the minimum.
        grid: points along each side of the surface around the minimum.

    Raises:
        ValueError: if a name is not known or a number is out of range.
    """

    function: str = "himmelblau"
    minimum: str | None = None
    lr: float = 0.01
    rho: float = 0.05
    steps: int = 200
    offset: tuple[float, float] = (0.4, 3.0)
    grid: int = 101

    def __post_init__(self):
        require_one_of("function", self.function, CATALOGUE)
        function = CATALOGUE[self.function]
        if function.dim != 2:
            raise ValueError(
                f"function must have 2 coordinates; {self.function} has {function.dim}"
            )
        if self.minimum is not None:
            require_one_of("minimum", self.minimum, [m.name for m in function.minima])
        largest = self.critical().eigenvalues[0]
        if not 0 < self.lr * largest < 2:
            raise ValueError(
                f"lr must be positive and below 2 / {largest:.6g} = {2 / largest:.4g}, where "
                f"gradient descent leaves the minimum; got {self.lr}"
            )
        if not self.rho > 0:
            raise ValueError(f"rho must be positive, got {self.rho}")
        if self.steps < 2 or self.grid < 2:
            raise ValueError(f"steps and grid must be at least 2, got {self.steps}, {self.grid}")
        if not any(self.offset):
            raise ValueError(f"offset must not be zero in both directions, got {self.offset}")

    def critical(self) -> Critical:
        """The minimum."""
        minima = CATALOGUE[self.function].minima
        if self.minimum is None:
            return max(minima, key=lambda minimum: minimum.eigenvalues[0])
        return next(minimum for minimum in minima if minimum.name == self.minimum)


def study(config: Config) -> Cycle:
    """The steps of SAM beside the minimum, on the function and on its quadratic model there."""
    began = time.perf_counter()
    function = CATALOGUE[config.function]
    point = torch.tensor(config.critical().point, dtype=torch.float64, device="cpu")
    hessian = hvp(function, point.expand(2, 2), torch.eye(2, dtype=torch.float64, device="cpu"))
    ascending, vectors = torch.linalg.eigh((hessian + hessian.T) / 2)
    top = vectors[:, -1]
    shift = vectors.flip(1) @ torch.tensor(config.offset, dtype=torch.float64, device="cpu")
    start = point + config.rho * shift
    runs = [_steps(config, f, start) for f in (function, quadratic(point, hessian))]
    position = torch.stack(runs)
    along = ((position - point) @ top).numpy()
    last, before = along[:, -1], along[:, -2]
    product = config.lr * float(ascending[-1])
    return Cycle(
        function=function.name,
        minimum=config.critical().name,
        surfaces=(function.name, "quadratic"),
        point=point.numpy(),
        eigenvalues=ascending.flip(0).numpy(),
        direction=top.numpy(),
        position=position.numpy(),
        displacement=along,
        amplitude=np.abs(last - before) / 2,
        shift=(last + before) / 2,
        returning=torch.linalg.vector_norm(position[:, -1] - position[:, -3], dim=-1).numpy(),
        predicted=config.rho * product / (2 - product),
        lr=config.lr,
        rho=config.rho,
        **_around(function, position[0].numpy(), point.numpy(), config.grid),
        provenance=provenance(configuration=asdict(config), seconds=time.perf_counter() - began),
    )


def quadratic(point: Tensor, hessian: Tensor) -> Analytic:
    """The quadratic with this Hessian whose minimum, of value 0, is the point."""

    def formula(z: Tensor) -> Tensor:
        return ((z - point) @ hessian * (z - point)).sum(-1) / 2

    return Analytic(
        formula, dim=len(point), gradient=lambda z: (z - point) @ hessian, name="quadratic"
    )


def _steps(config: Config, function: Analytic, start: Tensor) -> Tensor:
    """The positions (time, coordinate) of one member, the start first."""
    method = METHODS["sam"](lr=config.lr, rho=config.rho, batch_size=0)
    plan = Plan(restarts=1, members=1, iterations=config.steps, budget=None, seed=0)
    walked = [state.position[0] for state, _ in walk(function, method, start[None], plan)]
    return torch.stack([start, *walked])


def _around(
    function: Analytic, position: np.ndarray, point: np.ndarray, grid: int
) -> dict[str, np.ndarray]:
    """The function on a square around the minimum that holds all positions."""
    finite = position[np.isfinite(position).all(axis=1)]
    half = 1.15 * np.abs(finite - point).max()
    sides = [np.linspace(middle - half, middle + half, grid) for middle in point]
    points = torch.from_numpy(np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1))
    return {"alpha": sides[0], "beta": sides[1], "values": value(function, points).numpy()}
