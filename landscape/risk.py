"""`EmpiricalRisk` and `ModelRisk` under the name that scripts import them by."""

from landscape.networks import EmpiricalRisk, ModelRisk

__all__ = ["EmpiricalRisk", "ModelRisk"]
