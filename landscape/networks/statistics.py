"""BatchNorm statistics of a network at a point, pooled over batches."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from landscape.networks import batches as data_batches
from landscape.networks.batches import Batch
from landscape.networks.draws import seeded
from landscape.networks.network import Network, is_batchnorm


def measured_statistics(
    network: Network,
    tensors: dict[str, Tensor],
    source: Iterable[Batch],
    dtype: torch.dtype,
    through: Callable[[Network, Batch], Any],
) -> dict[str, Tensor]:
    """Running mean and unbiased variance of every BatchNorm input, pooled over the batches.

    Each batch goes through with its own batch statistics, as in training; one of a single sample
    goes with its neighbour. Random modules draw from a fixed seed.
    """
    twin = network.with_statistics("batch")
    pools = {name: _Pool() for name, module in twin.named_modules() if is_batchnorm(module)}
    handles = [
        module.register_forward_pre_hook(lambda _, args, pool=pools[name]: pool.add(args[0]))
        for name, module in twin.named_modules()
        if name in pools
    ]
    device = next(iter(tensors.values())).device
    try:
        with torch.no_grad(), seeded(0, device):
            for batch in data_batches.without_singles(source) if pools else ():
                with twin.given(tensors):
                    through(twin, data_batches.cast(batch, dtype))
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for name, pool in pools.items():
        if pool.count:
            found[f"{name}.running_mean"] = pool.mean
            found[f"{name}.running_var"] = pool.variance
    return {name: tensor for name, tensor in found.items() if name in tensors}


class _Pool:
    """Mean and variance per channel, pooled over batches (Chan, Golub & LeVeque 1983)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = None
        self._squares: Any = None

    def add(self, activations: Tensor) -> None:
        axes = [axis for axis in range(activations.ndim) if axis != 1]
        count = activations.numel() // activations.shape[1]
        if activations.dtype in (torch.float32, torch.float64):
            # What BatchNorm itself uses: a third of the time of a variance over these axes.
            mean, variance = torch.batch_norm_update_stats(activations, None, None, 0.0)
        else:
            mean, variance = activations.mean(axes), activations.var(axes, correction=0)
        squares = variance * count
        if self.count == 0:
            self.count, self.mean, self._squares = count, mean, squares
            return
        delta, total = mean - self.mean, self.count + count
        self._squares = self._squares + squares + delta**2 * (self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.count = total

    @property
    def variance(self) -> Tensor:
        return self._squares / max(self.count - 1, 1)
