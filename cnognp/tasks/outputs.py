"""Loss and metrics from one pass of the network over the data."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from landscape.networks import RESIDENT_BYTES, Data, EmpiricalRisk, Risk
from landscape.objective import value


class _Given(nn.Module):
    """Gives back what comes in: outputs that are there."""

    def __init__(self, like: Tensor):
        super().__init__()
        self.idle = nn.Parameter(like.new_zeros(1))

    def forward(self, outputs: Tensor) -> Tensor:
        return outputs


def measured(
    risk: Risk, data: Data, metrics: Mapping[str, Any], z: Tensor
) -> tuple[float, dict[str, float]] | None:
    """The risk at a point and the metrics there; None where outputs cannot stand for the network.

    They can where the network is evaluated batch by batch, draws nothing, and gives a tensor with a
    row for each sample, of which all fit in memory.

    Args:
        risk: the loss, its batches as small as is best for the network.
        data: the same samples in the batches that metrics are means over.
        metrics: functions ``(output, target)`` by name; of one with ``counts``, these are added.
        z: (p,), the point.
    """
    forward = risk.forward
    inside = forward.random or forward.graphed or forward.live or forward.paired
    if inside or forward.whole or not data.resident or risk.evaluation in ("stacked", "vmap"):
        return None
    kept: list[Tensor] = []
    total, size = z.new_zeros(()), 0
    with torch.inference_mode(False), torch.no_grad():
        for batch, share in risk.weighed():
            batch = risk.prepared(batch, z.dtype)
            output = forward.outputs(z, batch)
            if not isinstance(output, Tensor) or len(output) != batch.samples:
                return None
            size += output.numel() * output.element_size()
            if size > RESIDENT_BYTES:
                return None
            total = total + risk.scaled(forward.loss_at(z, output, batch.target), share)
            kept.append(output)
    rows = torch.cat(kept).split([batch.samples for batch in data.batches])
    pairs = [(row, batch.target) for row, batch in zip(rows, data.batches, strict=True)]
    given = _Given(z)
    found = {}
    for name, metric in metrics.items():
        if hasattr(metric, "counts"):
            # It is no mean over batches.
            counts = [metric.counts(row, target) for row, target in pairs]
            found[name] = float(metric.score(sum(counts[1:], counts[0])))
            continue
        own = EmpiricalRisk(given, pairs, metric, check=False)
        found[name] = float(value(own, own.point()))
    return float(total), found
