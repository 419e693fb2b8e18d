"""A network with its data and its loss as a function of one vector."""

from landscape.networks.batches import Batch
from landscape.networks.data import Data
from landscape.networks.layout import Layout
from landscape.networks.reestimation import Reestimated, Stochastic, reestimated
from landscape.networks.risk import EmpiricalRisk, ModelRisk

__all__ = [
    "Batch",
    "Data",
    "EmpiricalRisk",
    "Layout",
    "ModelRisk",
    "Reestimated",
    "Stochastic",
    "reestimated",
]
