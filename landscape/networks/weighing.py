"""What batches weigh: whether the loss of a whole is the mean of its parts, found by cutting one.

The loss of a batch may be the mean over its samples; a mean with weights that only the loss knows
(of classes, of labels that are not ignored, of tokens); a sum; or couple the samples of a batch
(contrastive losses, statistics of the batch).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from landscape.networks import batches as data_batches
from landscape.networks.batches import Batch
from landscape.networks.evaluation import Together
from landscape.networks.mean import Mean
from landscape.objective import value

_COUPLED = 512  # samples that are cut to see whether they are coupled
_COUPLED_BY_NETWORK = 64  # of them where the loss is torch's own, which couples none
_BATCHES = 32  # whose weights are checked
_MEND = (
    "Let it return the sum and the weight instead of their quotient, for instance\n"
    "    losses = cross_entropy(output, target, weight=w, reduction='none')\n"
    "    return losses.sum(), w[target].sum()"
)


def coupling(risk: Mean, training: bool) -> str:
    """Why batches are neither cut nor joined; empty where the loss is the mean over samples.

    Args:
        risk: whose first batch is cut, three times.
        training: whether BatchNorm that normalises with the batch is left out.
    """
    batch = next((b for b in risk.data if b.samples > 1), None)
    if batch is None:
        return ""
    if not data_batches.rowwise(batch):
        return (
            "the first axis of the tensors in a batch does not count its samples (a graph, or a "
            "list of objects)"
        )
    calm = _calm(risk, training)
    z = shifted(calm.point())
    count = min(batch.samples, _COUPLED if risk.known is None else _COUPLED_BY_NETWORK)
    device = next(data_batches.tensors_of(batch[:2])).device
    for seed, first in enumerate((max(1, count // 3), max(1, count // 2), 1)):
        generator = torch.Generator(device="cpu").manual_seed(seed)
        order = torch.randperm(batch.samples, generator=generator, device="cpu")[:count].to(device)
        sets = [order.sort().values, order[:first], order[first:]]
        try:
            found = [_lone(calm, data_batches.rows(batch, index), z) for index in sets]
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            return f"a part of a batch does not go through ({str(error).splitlines()[0]})"
        head = data_batches.rows(batch, sets[0])
        if reason := _uneven(calm, head, found, z, _noise(calm, head, z)):
            return reason
        count = min(count, _COUPLED_BY_NETWORK)
    return ""


def changed(risk: Mean, cut: Mean) -> str:
    """How the risk changes when its data are cut so, at a point beside its own; empty if not."""
    z = shifted(risk.point())
    whole, parts = (float(value(r, z)) for r in (risk, cut))
    random = risk.forward.random
    noise = 8 * abs(whole - float(value(risk.seeded(1), z))) if random else 0.0
    if abs(whole - parts) <= _tolerance(z) * (abs(whole) + abs(parts)) + noise or whole != whole:
        return ""
    return f"the loss changes from {whole:.6g} to {parts:.6g}"


def changed_by_loss(risk: Mean, cut: Mean) -> bool:
    """Whether the loss of all outputs together is another than that of the parts.

    The network goes over the parts alone, which costs no memory for the whole.
    """
    z = shifted(risk.point())
    pieces = []
    with torch.inference_mode(False), torch.no_grad():
        for batch in cut.data:
            batch = cut.prepared(batch, z.dtype)
            pieces.append(Batch(cut.forward.outputs(z, batch), batch.target, batch.samples))
        try:
            whole = data_batches.joined(pieces)
            parts = [(risk.forward.loss_at(z, p.inputs, p.target), p.samples) for p in pieces]
            together = risk.forward.loss_at(z, whole.inputs, whole.target)
        except (RuntimeError, ValueError, TypeError, IndexError):
            return True
    if risk.data.samples != whole.samples or len(risk.data.batches) > 1:
        return True
    if isinstance(together, tuple):
        sums, weights = (sum(float(loss[i]) for loss, _ in parts) for i in (0, 1))
        one, other = float(together[0]) / float(together[1]), sums / (weights or 1.0)
    else:
        one = float(together)
        other = sum(float(loss) * count for loss, count in parts) / whole.samples
    return not abs(one - other) <= _tolerance(z) * (abs(one) + abs(other))


def _noise(risk: Mean, batch: Batch, z: Tensor) -> float:
    """How far the loss of a batch differs between draws; 0 where nothing is drawn."""
    if not risk.forward.random:
        return 0.0
    losses = []
    for seed in range(4):
        twin = risk.on([batch], seed)
        losses.append(float(_lone(twin, batch, z)[0]))
    return 8 * (max(losses) - min(losses))


def _uneven(
    risk: Mean, batch: Batch, found: list[tuple[Tensor, float]], z: Tensor, noise: float
) -> str:
    """In which way a whole batch is not the mean of two parts; empty where it is."""
    (whole, total), *pieces = found
    if not all(torch.isfinite(value) for value, _ in found):
        return ""
    parts = sum(value * weight for value, weight in pieces)
    size = abs(whole) * total + sum(abs(value) * weight for value, weight in pieces)
    if abs(whole * total - parts) <= _tolerance(z) * size + noise * total:
        return ""
    mean = float(parts / (sum(weight for _, weight in pieces) or 1.0))
    said = f"{float(whole):.5g} for {batch.samples} samples, {mean:.5g} for the same in two parts"
    reason = "the loss of a batch is not the mean over its samples"
    if abs(whole - sum(value for value, _ in pieces)) <= _tolerance(z) * size / total:
        return f"{reason}, it adds up ({said}); let it return (sum, weight)"
    if _is_weighted(risk, batch, z):
        return (
            f"{reason} ({said}): it weighs them by something else, such as the weight of a class, "
            "labels that are not ignored, or tokens; let it return (sum, weight)"
        )
    return f"{reason} ({said})"


def _calm(risk: Mean, training: bool) -> Mean:
    """The risk with dropout at rest and, for training, BatchNorm as it is judged."""
    calm = risk.on([risk.data.first], risk.seed or 0)
    if isinstance(risk.data.batches, list):
        calm.data = risk.data.like(risk.data.batches)
    own = risk.model.at_rest()
    random = [name for name in risk.forward.random if "draws random" in name]
    calm = calm.of(calm.forward.changed(model=own, random=random, autocast=None))
    calm.together = Together(None, calm.data.resident)
    if training:
        for module in calm.model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and (
                module.running_mean is None
            ):
                calm.model.settle(module, calm.point_dtype, calm.forward.device)
    return calm


def _lone(risk: Mean, batch: Batch, z: Tensor) -> tuple[Tensor, float]:
    """The mean loss of a batch alone and its weight."""
    part = risk.on([batch], risk.seed)
    with torch.inference_mode(False), torch.no_grad():
        prepared = part.prepared(batch, z.dtype)
        grad = torch.enable_grad() if part.forward.graphed else torch.no_grad()
        with grad, part.given(z):
            loss = part.forward.batch_loss(prepared)
    if isinstance(loss, tuple):
        total, weight = loss[0].detach().double(), float(loss[1])
        return total / (weight or 1.0), weight
    weight = part.weighting.of(batch)
    if part.known is not None and part.known.added:
        return loss.detach().double() / batch.samples, float(batch.samples)
    value = loss.detach().double()
    return (value, weight) if weight > 0 else (torch.zeros_like(value), 0.0)


def _tolerance(z: Tensor) -> float:
    return 200 * torch.finfo(z.dtype).eps


def weighing(risk: Mean) -> str:
    """How batches are weighed, in words.

    Raises:
        ValueError: if they are weighed by their samples and the loss weighs otherwise.
    """
    if risk.known is not None:
        name = getattr(risk.loss, "__name__", type(risk.loss).__name__)
        return f"{name}: batches added" if risk.known.added else f"{name} over {risk.known.over}"
    if risk.forward.paired:
        _check_weights(risk)
        return "the weights that the loss gives"
    if risk.data.resident and len(risk.data.batches) < 2:
        return "one batch"
    calm = _calm(risk, risk.statistics == "batch")
    z = shifted(calm.point())
    checked = 0
    anchor: Batch | None = None
    stated = risk.data.unpack is not None
    for number, batch in enumerate(risk.data):
        if number == _BATCHES and not risk.data.resident:
            break
        if not data_batches.rowwise(batch):
            if not stated:
                raise ValueError(_unknown("batches that have no rows", risk))
            continue
        if anchor is None:
            anchor = _head(batch, _COUPLED // 2)
        verdict = _weighed_otherwise(calm, anchor, batch, z)
        if verdict is None:
            if not stated:
                raise ValueError(_unknown("batches that do not fit together", risk))
            continue
        checked += 1
        if verdict == "coupled":
            return "by samples, batches as they are: the loss couples the samples of a batch"
        if verdict:
            raise ValueError(
                f"{verdict}, so the mean over several batches depends on how they are cut. {_MEND}"
            )
    if not checked:
        return "by the samples that unpack states"
    return f"by samples, checked on {checked} batches"


def _check_weights(risk: Mean) -> None:
    """Nothing, if the weights that a loss of several batches gives do not depend on the point.

    Raises:
        ValueError: if they do: the quotient of two sums is no sum of quotients.
    """
    if risk.data.resident and len(risk.data.batches) < 2:
        return
    z = shifted(risk.point())
    for number, (batch, weight) in enumerate(zip(risk.data, risk.weights, strict=True)):
        if number == _BATCHES:
            return
        part = risk.on([batch], risk.seed)
        with torch.inference_mode(False), torch.enable_grad(), part.given(z.requires_grad_()):
            loss = part.forward.batch_loss(part.prepared(batch, z.dtype))
        given = loss[1]
        moves = isinstance(given, Tensor) and given.requires_grad
        if moves or abs(float(given) - weight) > _tolerance(z) * abs(weight):
            raise ValueError(
                "the weight that the loss returns depends on the parameters, and the quotient of "
                "sums over several batches is no sum of quotients: give all data as one batch, or "
                "a weight that depends on the data alone"
            )


def _unknown(what: str, risk: Mean) -> str:
    line = "loss * n, n  # a mean over n" if risk.forward.whole else (
        "cross_entropy(output, target, reduction='sum'), target.numel()"
    )  # fmt: skip
    return (
        f"it is not known what {what} weigh beside each other (samples, nodes, tokens): let the "
        f"loss return (sum, weight), for instance\n    return {line}\n"
        "or say how many samples a batch has, unpack=lambda batch: (inputs, target, samples)"
    )


def _head(batch: Batch, most: int) -> Batch:
    device = next(data_batches.tensors_of(batch[:2])).device
    return data_batches.rows(batch, torch.arange(min(most, batch.samples), device=device))


def _weighed_otherwise(risk: Mean, anchor: Batch, batch: Batch, z: Tensor) -> str | None:
    """What is wrong with weighing by samples; empty if nothing, None if it cannot be seen."""
    for one, other in _pairs(anchor, batch):
        across = one is anchor and other is batch
        try:
            whole = data_batches.joined([one, other])
            (a, _), (b, _), (both, _) = (_lone(risk, part, z) for part in (one, other, whole))
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError):
            if across and one.samples and other.samples and one is not other:
                return None
            continue
        if not all(map(torch.isfinite, (a, b, both))):
            return ""
        n, m = one.samples, other.samples
        by_samples = (n * a + m * b) / (n + m)
        noise = _noise(risk, whole, z)
        if abs(both - by_samples) <= _tolerance(z) * (abs(a) + abs(b) + abs(both)) + noise:
            return ""
        if abs(both - (a + b)) <= _tolerance(z) * (abs(a) + abs(b)):
            sums = f"{float(both):.5g} = {float(a):.5g} + {float(b):.5g}"
            return f"the loss adds up over samples ({sums})"
        if _is_weighted(risk, whole, z):
            return (
                f"the loss of two batches together ({float(both):.6g}) is not the mean of theirs "
                f"by samples ({float(by_samples):.6g}): it weighs them by something else, such as "
                "the weight of a class, labels that are not ignored, or tokens"
            )
        return "coupled"
    return None


def _pairs(anchor: Batch, batch: Batch) -> Iterator[tuple[Batch, Batch]]:
    """Two parts whose join can be compared with them: across batches, or within one."""
    yield anchor, batch
    if batch.samples > 1:
        device = next(data_batches.tensors_of(batch[:2])).device
        order = torch.arange(batch.samples, device=device)
        cut = max(1, batch.samples // 3)
        yield data_batches.rows(batch, order[:cut]), data_batches.rows(batch, order[cut:])


def _is_weighted(risk: Mean, batch: Batch, z: Tensor) -> bool:
    """Whether the losses of parts are means with some positive weights, whatever these are."""
    generator = torch.Generator(device="cpu").manual_seed(1)
    device = next(data_batches.tensors_of(batch[:2])).device
    order = torch.randperm(batch.samples, generator=generator, device="cpu").to(device)
    thirds = [part for part in order.tensor_split(3) if len(part)]
    if len(thirds) < 3:
        return True

    def loss(*places: Tensor) -> float:
        return float(_lone(risk, data_batches.rows(batch, torch.cat(places)), z)[0])

    a, b, c = (loss(part) for part in thirds)
    ab, ac, bc = loss(*thirds[:2]), loss(thirds[0], thirds[2]), loss(*thirds[1:])
    spread = max(a, b, c) - min(a, b, c)
    near = 1e-3 * spread + _tolerance(z) * (abs(a) + abs(b) + abs(c))
    if abs(b - ab) < near or abs(c - ac) < near:
        return all(min(x, y) - near <= m <= max(x, y) + near for x, y, m in
                   ((a, b, ab), (a, c, ac), (b, c, bc)))  # fmt: skip
    first, second = (ab - a) / (b - ab), (ac - a) / (c - ac)
    if not (first > 0 and second > 0):
        return False
    expected = (first * b + second * c) / (first + second)
    return abs(expected - bc) <= 20 * near


def shifted(z: Tensor, seed: int = 0) -> Tensor:
    """A point beside z, where nothing is zero by chance."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    size = float(torch.linalg.vector_norm(z)) / len(z) ** 0.5 + 1e-3
    noise = torch.randn(len(z), generator=generator, device="cpu", dtype=torch.float32).to(z)
    return noise.mul_(0.01 * size).add_(z)
