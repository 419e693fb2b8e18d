"""The methods that move one model, each as an optimiser of torch under its own name."""

from typing import Any

from cnognp.method import traits_of
from cnognp.methods import METHODS, sharpness_aware
from cnognp.torch_optim.method_optimizer import MethodOptimizer
from cnognp.torch_optim.sharpness import NOBODY, SharpnessAware


class SGD(MethodOptimizer):
    """Stochastic gradient descent with momentum."""

    name = "sgd"
    keeps_unreached = True


class NormalisedGD(MethodOptimizer):
    """Gradient descent along the unit gradient."""

    name = "normalised-gd"


class Adam(MethodOptimizer):
    """Adam with coupled weight decay."""

    name = "adam"
    keeps_unreached = True


class AdamW(MethodOptimizer):
    """Adam with decoupled weight decay."""

    name = "adamw"
    keeps_unreached = True


class NiG(MethodOptimizer):
    """Gradient descent with noise in the gradient."""

    name = "nig"


class NiM(MethodOptimizer):
    """Gradient descent with noise in the model where the gradient is small."""

    name = "nim"


class SWA(MethodOptimizer):
    """Stochastic weight averaging: the parameters are the average once it has begun.

    The base method then moves in the state, and the closure sees the model where it is: BatchNorm's
    running statistics are those of the base method, to be re-estimated for the average.
    """

    name = "swa"
    keeps_unreached = True


class LBFGS(MethodOptimizer):
    """Limited-memory BFGS with a golden-section line search by values: it needs a closure."""

    name = "lbfgs-gss"


class BFGS(MethodOptimizer):
    """BFGS with a dense matrix and a Wolfe line search, up to 2000 numbers: it needs a closure."""

    name = "bfgs"


class NiGBH(MethodOptimizer):
    """Basin hopping by noise in the gradient: a step is a hop, of up to tau + 2 evaluations."""

    name = "nig-bh"


class NiMBH(MethodOptimizer):
    """Basin hopping by noise in the model: a step is a hop, of up to tau + 1 evaluations."""

    name = "nim-bh"


class NiGMBH(MethodOptimizer):
    """Monotone basin hopping by noise in the gradient: a step is a hop."""

    name = "nig-mbh"


class NiMMBH(MethodOptimizer):
    """Monotone basin hopping by noise in the model: a step is a hop."""

    name = "nim-mbh"


class SAM(SharpnessAware):
    """Sharpness-aware minimisation: two evaluations in a step."""

    name = "sam"

    def _described(self, **values: Any) -> sharpness_aware.SAM:
        return sharpness_aware.SAM(NOBODY, **values)


class ASAM(SharpnessAware):
    """Adaptive sharpness-aware minimisation: two evaluations in a step."""

    name = "asam"

    def _described(self, **values: Any) -> sharpness_aware.SAM:
        return sharpness_aware.SAM(NOBODY, adaptive=True, **values)


class GCSAM(SharpnessAware):
    """SAM with a centralised ascent: two evaluations in a step."""

    name = "gcsam"

    def _described(self, **values: Any) -> sharpness_aware.GCSAM:
        return sharpness_aware.GCSAM(NOBODY, **values)


class GNP(SharpnessAware):
    """Gradient norm penalty by a second gradient: two evaluations in a step."""

    name = "gnp"

    def _described(self, **values: Any) -> sharpness_aware.GNP:
        return sharpness_aware.GNP(NOBODY, **values)


def named(name: str) -> type[MethodOptimizer] | type[SharpnessAware]:
    """The optimiser that moves one model as the method of a name does; one for each name.

    Args:
        name: of a method, as ``cnognp methods`` lists them.

    Raises:
        ValueError: if there is no such method, or its members learn from each other.
    """
    if name not in METHODS:
        raise ValueError(f"name must be one of {', '.join(METHODS)}, got {name}")
    if traits_of(METHODS[name]()).couples:
        raise ValueError(f"{name} moves a population: one member has nobody to learn from")
    kinds: list[Any] = [*MethodOptimizer.__subclasses__(), *SharpnessAware.__subclasses__()]
    for kind in kinds:
        if kind.name == name:
            return kind
    noun = "".join(word.capitalize() for word in name.split("-"))
    return type(noun, (MethodOptimizer,), {"name": name, "__doc__": METHODS[name].__doc__})
