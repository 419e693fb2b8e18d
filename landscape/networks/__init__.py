"""A network with its data and its loss as a function of one vector."""

from landscape.networks.augmentation import cropped_and_flipped, normalised, resized_and_flipped
from landscape.networks.batches import Batch, Unpack, dense_parts, tensors_of
from landscape.networks.data import RESIDENT_BYTES, Data, is_dataset
from landscape.networks.layout import Entry, Layout
from landscape.networks.mean import Derivatives
from landscape.networks.network import Network, called, is_batchnorm
from landscape.networks.reestimation import (
    Reestimated,
    Stochastic,
    normalised_by_batch,
    reestimated,
)
from landscape.networks.risk import EmpiricalRisk, ModelRisk, Risk

__all__ = [
    "RESIDENT_BYTES", "Batch", "Data", "Derivatives", "EmpiricalRisk", "Entry", "Layout",
    "ModelRisk", "Network", "Reestimated", "Risk", "Stochastic", "Unpack", "called",
    "cropped_and_flipped", "dense_parts", "is_batchnorm", "is_dataset", "normalised",
    "normalised_by_batch", "reestimated", "resized_and_flipped", "tensors_of",
]  # fmt: skip
