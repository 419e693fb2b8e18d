r"""What is checked before anything of a risk is measured, once.

- *Substitution*: no tensor but the vector and the data reaches the loss through the graph.
- *One function*: along a direction v at a shifted point w, central differences of the values agree
  with the gradient, :math:`(f(w + hv) - f(w - hv)) / 2h = g \cdot v`, and those of the gradients with
  the product, :math:`(g(w + hv) - g(w - hv)) / 2h = Hv`. Differences are taken in float64 where the
  model can be evaluated so, at so small a step that kinks are rarely crossed; what float32 gives, in
  the way in which the risk evaluates many points, is compared with that. Values are taken without a
  graph, as measurements take them.
- *Mean*: where there are several batches and the loss is not known, batches joined have the mean of
  their losses by samples.
- *Data*: a loader gives the same data in every pass.

A few samples of the first batch will do for all but the mean.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from landscape import batches as data_batches
from landscape.batches import Batch
from landscape.objective import first_order, ordinary, second_order

if TYPE_CHECKING:
    from landscape.risk import Risk

_SAMPLES = 16  # of the first batch
_COUPLED = 64  # samples that are cut to see whether they are coupled
_BATCHES = 32  # whose weights are checked
# Steps relative to the length of the point. The later ones are for models that round to float32
# inside, which is measured before they are used.
_STEPS = (1e-6, 1e-4, 1e-3, 1e-2)
_CLOSE = (1e-3, 1e-2, 1e-2, 1e-2)
_WIDE_DIM = 10_000_000  # longest vector that is taken in float64
_MEND = (
    "Let it return the sum and the weight instead of their quotient, for instance\n"
    "    losses = cross_entropy(output, target, weight=w, reduction='none')\n"
    "    return losses.sum(), w[target].sum()"
)
_SKIP = "; check=False measures all the same, and results say so"


class Gate:
    """What was found out about a risk; risks that are derived from it share it.

    Args:
        wanted: whether anything is checked.
    """

    def __init__(self, wanted: bool = True):
        self.wanted = wanted
        self.custom: list[str] = []
        self._found: dict[str, Any] | None = None
        self._error: Exception | None = None
        self._coupled: dict[bool, str] = {}

    def judged(self, risk: "Risk", z: Tensor) -> dict[str, Any]:
        """What was checked, in words, by the name of the check.

        Raises:
            RuntimeError: if the loss is no function of the vector alone, values, gradients and
                products belong to different functions, or the data are random.
            ValueError: if batches are weighed by something that is not known.
        """
        if not self.wanted:
            return {"nothing": "check=False"}
        if self._error is not None:
            raise self._error
        if self._found is None and bool(torch.isfinite(z).all()):
            try:
                found = {"data": _data(risk), "mean": _mean(risk)}
                self._found = {**found, **self._derivatives(risk, z)}
            except (RuntimeError, ValueError) as error:
                self._error = error.with_traceback(None)
                raise
        return self._found or {"nothing": "the point is not finite"}

    def coupled(self, risk: "Risk") -> str:
        """Why batches are neither cut nor joined; empty where the loss is the mean over samples.

        Checked on one cut of the first batch. BatchNorm is left out where it normalises with the
        batch, since that is how it trains.
        """
        training = risk.statistics == "batch"
        if training not in self._coupled:
            self._coupled[training] = _coupling(risk, training)
        return self._coupled[training]

    def _derivatives(self, risk: "Risk", z: Tensor) -> dict[str, Any]:
        with _quiet(risk, z), second_order(risk):
            sub, w = _part(risk, z), _shifted(z)
            wide, reason = _widened(sub, w)
            point = w if wide is None else wide
            leaf = ordinary(point).requires_grad_()
            with torch.enable_grad():
                value = next(iter(sub.terms()))(leaf)
            strange, self.custom = _foreign(value, leaf, sub)
            if strange:
                raise RuntimeError(_unsubstituted(strange, risk))
            if not value.requires_grad:
                return {"derivatives": "the loss has none"}
            exact = risk.derivatives == "exact"
            arithmetic = "float64" if wide is not None else f"{point.dtype} ({reason})"
            _Quotient(sub, point, wide is not None, exact).check()
            if wide is not None and wide.dtype != w.dtype:
                _compare(sub, w, wide, exact)
        said = "values, gradients and products" if exact else "values and gradients"
        return {
            "substitution": "the loss depends on the vector alone",
            "derivatives": f"{said} agree by differences in {arithmetic}",
        }


class _Quotient:
    """Differences along a direction against gradients and products."""

    def __init__(self, risk: "Risk", w: Tensor, wide: bool, exact: bool):
        self._risk, self._w, self._wide, self._exact = risk, w, wide, exact
        self._length = float(torch.linalg.vector_norm(w)) or 1.0
        leaf, value, slope = self._plain(w)
        self._leaf, self._slope = leaf, slope
        self._value, self._gradient = float(value), slope.detach()
        self._norm = float(torch.linalg.vector_norm(self._gradient))

    def check(self) -> None:
        """Nothing, if they agree.

        Raises:
            RuntimeError: if they do not, at any step that rounding allows.
        """
        misses: dict[str, str] = {}
        for seed in (0, 1):
            v = self._direction(seed)
            misses = self._missed(v, 0)
            if not misses:
                return
        for rung in range(1, len(_STEPS)):
            if not self._noisy(v, rung - 1):
                break
            misses = self._missed(v, rung)
            if not misses:
                return
        raise RuntimeError(next(iter(misses.values())) + _blame(self._risk) + _SKIP)

    def _missed(self, v: Tensor, rung: int) -> dict[str, str]:
        """What disagrees at a step, in words."""
        step = (_STEPS if self._wide else (1e-2, 3e-2, 1e-1, 3e-1))[rung] * self._length
        close = _CLOSE[rung] if self._wide else 0.1
        eps = torch.finfo(self._w.dtype).eps
        ends = torch.stack([self._w + step * v, self._w - step * v])
        with torch.no_grad():
            values = torch.stack([next(iter(self._risk.terms()))(row) for row in ends])
        slope = float((values[0] - values[1]) / (2 * step))
        expected = float(self._gradient @ v)
        floor = 100 * eps * (abs(self._value) + abs(float(values[0]))) / step
        found = {}
        if not abs(slope - expected) <= close * max(self._norm, abs(slope)) + floor:
            found["gradient"] = (
                "values and gradient belong to different functions: along a direction the loss "
                f"changes by {slope:.4g} and its gradient says {expected:.4g}"
            )
        if not self._exact or found:
            return found
        try:
            product = self._product(v)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            return {
                "product": f"the loss has no second derivative ({reason}); "
                "derivatives='differences' takes products by differences of gradients"
            }
        ahead, behind = (self._plain(row)[2].detach() for row in ends)
        rise = (ahead - behind) / (2 * step)
        off = float(torch.linalg.vector_norm(rise - product))
        size = max(float(torch.linalg.vector_norm(rise)), float(torch.linalg.vector_norm(product)))
        floor = 100 * eps * self._norm / step + (1e-12 if self._wide else 1e-3) * self._norm
        if not off <= (close if self._wide else 0.5) * size + floor:
            found["product"] = (
                "gradients and Hessian-vector products belong to different functions: they differ "
                f"by {off:.4g} where the product is {float(torch.linalg.vector_norm(product)):.4g} "
                "long"
            )
        return found

    def _noisy(self, v: Tensor, rung: int) -> bool:
        """Whether rounding inside the model is so large that the step was too small."""
        if not self._wide:
            return True
        step = _STEPS[rung] * self._length
        tiny = self._w + 1e-10 * self._length * v
        leaf, value, slope = self._plain(tiny)
        noise = abs(float(value) - self._value - 1e-10 * self._length * float(self._gradient @ v))
        rough = float(torch.linalg.vector_norm(slope.detach() - self._gradient))
        return noise / step > 1e-5 * self._norm or rough / step > 1e-5 * self._norm

    def _direction(self, seed: int) -> Tensor:
        """A unit vector, half along the gradient and half at random."""
        generator = torch.Generator(device="cpu").manual_seed(seed)
        drawn = torch.randn(len(self._w), generator=generator, device="cpu").to(self._w)
        v = drawn / torch.linalg.vector_norm(drawn)
        if self._norm > 0:
            v = v + self._gradient / self._norm
        return v / torch.linalg.vector_norm(v)

    def _plain(self, point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        term = next(iter(self._risk.terms()))
        leaf, value, slope = _single(term, point, self._exact)
        return leaf, value, slope

    def _product(self, v: Tensor) -> Tensor:
        if not self._slope.requires_grad:
            return torch.zeros_like(v)
        (product,) = torch.autograd.grad(
            self._slope, self._leaf, v, retain_graph=True, materialize_grads=True
        )
        return product


def _single(term: Any, point: Tensor, graph: bool) -> tuple[Tensor, Tensor, Tensor]:
    with torch.enable_grad():
        leaf = ordinary(point).requires_grad_()
        value = term(leaf)
        (slope,) = torch.autograd.grad(value, leaf, create_graph=graph, materialize_grads=True)
    return leaf, value.detach(), slope


def _compare(risk: "Risk", w: Tensor, wide: Tensor, exact: bool) -> None:
    """Nothing, if the type of the point gives what float64 gives, many points at once.

    Raises:
        RuntimeError: if not.
    """
    (term,) = risk.batched_terms()
    v = torch.nn.functional.normalize(wide.flip(0) + wide.mean(), dim=0)
    plain = next(iter(risk.terms()))
    leaf, value, slope = _single(plain, wide, exact)
    with torch.no_grad():
        value_narrow = term(torch.stack([w, w]))[0]
    rows, _, slopes = first_order(term, w.unsqueeze(0))
    pairs = [("value", value_narrow.double(), value), ("gradient", slopes[0].detach(), slope.detach())]
    if exact and slope.requires_grad:
        products = [
            torch.autograd.grad(s, point, u, materialize_grads=True)[0].reshape(-1)
            for s, point, u in ((slopes, rows, v.to(w).unsqueeze(0)), (slope, leaf, v))
        ] if slopes.requires_grad else [torch.zeros_like(v), torch.zeros_like(v)]
        pairs.append(("Hessian-vector product", products[0], products[1]))
    sizes = [float(torch.linalg.vector_norm(b.double())) for _, _, b in pairs]
    for (name, narrow, truth), size in zip(pairs, sizes, strict=True):
        off = float(torch.linalg.vector_norm(narrow.double() - truth.double()))
        # A product of a flat function is rounding, and so is the gradient at a minimum.
        scale = size + (1e-3 * abs(float(value)) + 1e-3 * sizes[0] if name == "value" else
                        1e-2 * sizes[1])  # fmt: skip
        if not off <= 2e-2 * scale:
            raise RuntimeError(
                f"the {name} in {w.dtype} differs from that in float64 by {off:.4g} where it is "
                f"{size:.4g}: the loss is another function in the two, or rounding spoils it; "
                f"make the model float64 (model.double()){_SKIP}"
            )


def _data(risk: "Risk") -> str:
    data = risk.data
    if data.random and data.seed is None:
        raise RuntimeError(
            f"the data are random, so that every pass measures another loss: {data.random}. Switch "
            "that off for measuring, or give data_seed=0 to measure one frozen copy"
        )
    return f"a frozen copy of random data, seed {data.seed}" if data.random else "the same twice"


def _part(risk: "Risk", z: Tensor) -> "Risk":
    """The risk on a few samples of its first batch, if rows can be taken; else on that batch."""
    for batch, weight in zip(risk.data, risk.weights, strict=False):
        if weight > 0:
            break
    if batch.samples > _SAMPLES and data_batches.rowwise(batch):
        part = risk._on([data_batches.spread(batch, _SAMPLES)], risk.seed)
        try:
            with torch.no_grad():
                value = next(iter(part.terms()))(z)
            if bool(torch.isfinite(value)) and not part._masked:
                return part
        except (RuntimeError, ValueError, IndexError):
            pass
    return risk._on([batch], risk.seed)


def _shifted(z: Tensor) -> Tensor:
    """A point beside z, where nothing is zero by chance."""
    generator = torch.Generator(device="cpu").manual_seed(0)
    size = z.square().mean().sqrt() + 1e-3
    noise = torch.randn(len(z), generator=generator, device="cpu", dtype=torch.float32).to(z)
    return z + 0.01 * size * noise


def _widened(risk: "Risk", w: Tensor) -> tuple[Tensor | None, str]:
    """The point in float64 if the model can be evaluated there, else why not."""
    if w.dtype == torch.float64:
        return w, ""
    if len(w) > _WIDE_DIM:
        return None, f"more than {_WIDE_DIM} parameters"
    try:
        wide = w.double()
        with torch.no_grad():
            value = next(iter(risk.terms()))(wide)
        if value.dtype == torch.float64:
            return wide, ""
        return None, f"the loss comes out in {value.dtype}"
    except (RuntimeError, TypeError) as error:
        return None, f"none in float64: {str(error).splitlines()[0]}"


class _quiet:
    """No random state is moved by the checks."""

    def __init__(self, risk: "Risk", z: Tensor):
        devices = [z.device] if z.device.type == "cuda" else []
        self._fork = torch.random.fork_rng(devices=devices)
        self._inference = torch.inference_mode(False)

    def __enter__(self) -> None:
        self._inference.__enter__()
        self._fork.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._fork.__exit__(*error)
        self._inference.__exit__(*error)


def _foreign(value: Tensor, leaf: Tensor, risk: "Risk") -> tuple[list[Tensor], list[str]]:
    """The leaves of a graph that are neither the vector nor data, and custom operations in it."""
    inputs = {id(t) for batch in risk.data for t in data_batches.tensors_of(batch[:2])}
    strange: dict[int, Tensor] = {}
    custom: dict[str, None] = {}
    for node in _nodes(value):
        tensor = getattr(node, "variable", None)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            custom[type(node).__name__.removesuffix("Backward")] = None
        if tensor is None or tensor is leaf or id(tensor) in inputs:
            continue
        if not _is_input(tensor, risk):
            strange[id(tensor)] = tensor
    return list(strange.values()), list(custom)


def _is_input(tensor: Tensor, risk: "Risk") -> bool:
    """Whether a leaf is made of the data: inputs that are differentiated are fresh at every call."""
    known = risk.model.name_of(tensor)
    return not known and not isinstance(tensor, torch.nn.Parameter)


def _nodes(value: Tensor) -> Iterator[Any]:
    stack, seen = [value.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        stack += [following for following, _ in node.next_functions]


def _unsubstituted(strange: list[Tensor], risk: "Risk") -> str:
    names = [risk.model.name_of(tensor) for tensor in strange]
    known = next(filter(None, names), "")
    if known:
        return (
            f"the parameter {known} reaches the loss past the vector: the model or the loss holds "
            "the tensor itself or something that was computed from it before. Compute it in "
            "forward, and write model.parameters() inside the loss instead of a list made before"
            + _SKIP
        )
    shape = tuple(strange[0].shape)
    return (
        f"a parameter of shape {shape} that is no part of the model reaches the loss, so that it is "
        "no part of the vector: give the module that owns it as the loss itself or make it a part "
        "of the model, or freeze it with requires_grad_(False)" + _SKIP
    )


def _blame(risk: "Risk") -> str:
    names = risk.gate.custom
    custom = f" (custom operations: {', '.join(names)})" if names else ""
    if risk._written:
        return (
            f"{custom}. The forward pass writes to {', '.join(risk._written[:3])}, which values see "
            "and gradients do not: evaluation mode, model.eval(), may stop that"
        )
    return (
        f"{custom}. A surrogate gradient, a detached part or a second derivative that is missing "
        "does that: measure the function whose gradient is meant, or train without measuring"
    )


def _coupling(risk: "Risk", training: bool) -> str:
    batch = next((b for b in risk.data if b.samples > 1), None)
    if batch is None:
        return ""
    if not data_batches.rowwise(batch):
        return (
            "the first axis of the tensors in a batch does not count its samples (a graph, or a "
            "list of objects)"
        )
    calm = _calm(risk, training)
    z = _shifted(calm.point())
    count = min(batch.samples, _COUPLED)
    generator = torch.Generator(device="cpu").manual_seed(0)
    order = torch.randperm(batch.samples, generator=generator, device="cpu")[:count].to(z.device)
    first = max(1, count // 3)
    sets = [order.sort().values, order[:first], order[first:]]
    try:
        found = [_lone(calm, data_batches.rows(batch, index), z) for index in sets]
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        return f"a part of a batch does not go through ({str(error).splitlines()[0]})"
    (whole, total), *pieces = found
    if not all(torch.isfinite(value) for value, _ in found):
        return ""
    parts = sum(value * weight for value, weight in pieces)
    own = whole * total
    size = abs(whole) * total + sum(abs(value) * weight for value, weight in pieces)
    if abs(own - parts) <= _tolerance(z) * size or calm.stochastic_modules() or calm._random:
        return ""
    mean = float(parts / sum(weight for _, weight in pieces))
    return (
        f"the loss of a batch is not the mean over its samples ({float(whole):.5g} for "
        f"{count} samples, {mean:.5g} for the same in two parts)"
    )


def _calm(risk: "Risk", training: bool) -> "Risk":
    """The risk with dropout at rest and, for training, BatchNorm as it is judged."""
    from landscape.network import Network

    calm = risk._on(list(risk.data) if risk.data.resident else [risk.data.first], risk.seed or 0)
    model = risk.model
    calm.model = Network(model.module, "frozen", "eval", model.loss, model.prefix)
    calm.model._remembered = model._remembered
    calm._random = [name for name in risk._random if "draws random" in name]
    calm.evaluation = "sequential"
    if training:
        for module in calm.model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and (
                module.running_mean is None
            ):
                calm.model.settle(module, calm.point_dtype, calm.device)
    return calm


def _lone(risk: "Risk", batch: Batch, z: Tensor) -> tuple[Tensor, float]:
    """The mean loss of a batch alone and its weight."""
    part = risk._on([batch], risk.seed)
    with torch.inference_mode(False), torch.no_grad():
        prepared = part.prepared(batch, z.dtype)
        grad = torch.enable_grad() if part._graphed else torch.no_grad()
        with grad, part.given(z):
            loss = part.batch_loss(part.model, prepared)
    if isinstance(loss, tuple):
        total, weight = loss[0].detach().double(), float(loss[1])
        return total / (weight or 1.0), weight
    weight = part._weight(batch)
    if part.known is not None and part.known.added:
        return loss.detach().double() / batch.samples, float(batch.samples)
    value = loss.detach().double()
    return (value, weight) if weight > 0 else (torch.zeros_like(value), 0.0)


def _tolerance(z: Tensor) -> float:
    return 1000 * torch.finfo(z.dtype).eps


def _mean(risk: "Risk") -> str:
    """How batches are weighed, in words.

    Raises:
        ValueError: if they are weighed by their samples and the loss weighs otherwise.
    """
    if risk.known is not None:
        name = getattr(risk.loss, "__name__", type(risk.loss).__name__)
        return f"{name}: batches added" if risk.known.added else f"{name} over {risk.known.over}"
    if risk._pairs:
        return "the weights that the loss gives"
    if risk.data.resident and len(risk.data.batches) < 2:
        return "one batch"
    calm = _calm(risk, risk.statistics == "batch")
    if calm._random:
        return "by samples (not checked: the loss is random)"
    z = _shifted(calm.point())
    checked = 0
    anchor: Batch | None = None
    for number, batch in enumerate(risk.data):
        if number == _BATCHES:
            break
        if not data_batches.rowwise(batch):
            continue
        if anchor is None:
            anchor = _head(batch, _COUPLED // 2)
        verdict = _weighed_otherwise(calm, anchor, batch, z)
        if verdict is None:
            continue
        checked += 1
        if verdict == "coupled":
            return "by samples, batches as they are: the loss couples the samples of a batch"
        if verdict:
            raise ValueError(
                f"{verdict}, so the mean over several batches depends on how they are cut. {_MEND}"
            )
    if not checked:
        return "by samples (not checked: batches can be neither cut nor joined)"
    return f"by samples, checked on {checked} batches"


def _head(batch: Batch, most: int) -> Batch:
    device = next(data_batches.tensors_of(batch[:2])).device
    return data_batches.rows(batch, torch.arange(min(most, batch.samples), device=device))


def _weighed_otherwise(risk: "Risk", anchor: Batch, batch: Batch, z: Tensor) -> str | None:
    """What is wrong with weighing by samples; empty if nothing, None if it cannot be seen."""
    for one, other in _pairs(anchor, batch):
        try:
            whole = data_batches.joined([one, other])
            (a, _), (b, _), (both, _) = (_lone(risk, part, z) for part in (one, other, whole))
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError):
            continue
        if not all(map(torch.isfinite, (a, b, both))):
            return None
        n, m = one.samples, other.samples
        by_samples = (n * a + m * b) / (n + m)
        if abs(both - by_samples) <= _tolerance(z) * (abs(a) + abs(b) + abs(both)):
            return ""
        if abs(both - (a + b)) <= _tolerance(z) * (abs(a) + abs(b)):
            return f"the loss adds up over samples ({float(both):.5g} = {float(a):.5g} + {float(b):.5g})"
        if _is_weighted(risk, whole, z):
            return (
                f"the loss of two batches together ({float(both):.6g}) is not the mean of theirs by "
                f"samples ({float(by_samples):.6g}): it weighs samples by something else, such as "
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


def _is_weighted(risk: "Risk", batch: Batch, z: Tensor) -> bool:
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
