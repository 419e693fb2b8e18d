"""Curvature matrices by one call: which matrix, and which of its rows and columns."""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from landscape.curvature import Hessian
from landscape.objective import Objective
from landscape.operators.selection import Where, describe, selected

# Makes a symmetric matrix at a point: anything with ``dim``, ``point``, ``products`` and ``@`` for
# vectors with leading axes; with ``objective`` too where a block of it is to be taken.
Operator: TypeAlias = Callable[[Objective, Tensor], Any]

# Of a small block of a large matrix, many vectors are few numbers, and as many whole ones are not.
_NUMBERS = 2**22


class Block:
    """A symmetric matrix restricted to some of its rows and the same columns.

    Args:
        operator: has ``dim``, ``point``, ``products`` and ``@``.
        index: (k,), the coordinates that are kept.
        where: how results call them.
    """

    def __init__(self, operator: Any, index: Tensor, where: str = ""):
        self.operator, self.index, self.where = operator, index, where
        self.dim = len(index)
        self.point = operator.point[index]
        self.name = name_of(operator)

    @property
    def differences(self) -> bool:
        """Whether products are differences of gradients."""
        return getattr(self.operator, "differences", False)

    def error(self, u: Float[Tensor, " k"]) -> float:
        """At most what a product by differences may be off."""
        whole = self.point.new_zeros(self.operator.dim)
        whole[self.index] = u.to(whole)
        return self.operator.error(whole)

    @property
    def products(self) -> int:
        """Products with the whole matrix."""
        return self.operator.products

    def __matmul__(self, u: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch k"]:
        if u.shape[-1] != self.dim:
            raise ValueError(f"vectors of length {self.dim} are needed, got {tuple(u.shape)}")
        rows = u.detach().to(self.point).reshape(-1, self.dim)
        size = max(1, _NUMBERS // self.operator.dim)
        return torch.cat([self._product(part) for part in rows.split(size)]).reshape(u.shape)

    def _product(self, rows: Tensor) -> Tensor:
        whole = self.point.new_zeros((len(rows), self.operator.dim))
        whole[:, self.index] = rows
        return (self.operator @ whole)[:, self.index]


def matrix(
    objective: Objective,
    z: Float[Tensor, " p"],
    operator: Operator = Hessian,
    where: Where | None = None,
) -> Any:
    """The matrix that ``operator`` makes at z, or its block where ``where`` is given."""
    whole = operator(objective, z)
    return whole if where is None else block(whole, where)


def block(operator: Any, where: Where) -> Block:
    """The operator restricted to a layer, a module, or whatever a filter accepts.

    ``block(Hessian(risk, z), "layer1")`` is the Hessian with respect to the parameters of the
    module ``layer1``, the others held fixed.

    Args:
        operator: a `Hessian` or any operator of this module.
        where: the name of a tensor or module, names, a filter, a mask or a slice, as in
            `landscape.operators.selection.selected`.
    """
    index = selected(operator.objective, where, operator.point.device)
    return Block(operator, index, describe(where))


def graph_of(operator: Any) -> dict[str, Any]:
    """What results say of the graph of an operator; nothing where it has none."""
    whole = getattr(operator, "operator", operator)
    if not hasattr(whole, "graph_bytes"):
        return {}
    return {"graph_bytes": whole.graph_bytes, "graph_cached": whole.cached}


def name_of(operator: Any) -> str:
    """What results call an operator."""
    return getattr(operator, "name", "") or type(operator).__name__
