"""Differences of values and gradients along a direction, against gradients and products.

What `landscape.networks.gate` asks of a risk: that all three belong to one function.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from landscape.devices import free_memory
from landscape.networks import batches as data_batches
from landscape.networks.mean import Mean
from landscape.objective import ordinary

_SAMPLES = 3  # of the first batch, and more where that costs little or some parameter has no part
_CHEAP = 100_000  # parameters times samples
_LOTS = 16  # of as many samples, that are looked through
_NEGLIGIBLE = 1e-2  # of the largest loss of a lot
LARGE_DIM = 10_000_000  # beyond, memory counts more than what is checked twice
_WIDE_DIM = 50_000_000  # longer vectors are taken in float64 only where there is much room,
_WIDE_COPIES = 20  # in copies of the vector in float64, and with one sample
SKIP = "; check=False (--unchecked) measures all the same, and results say so"


class _Scale(NamedTuple):
    """What differences can see in an arithmetic.

    Attributes:
        steps: relative to the length of the point. The later ones are for models that round inside
            to a narrower type, which is measured before they are used.
        close: what may differ at each step, relative.
        product: the same for products: kinks within a step bend gradients, and no product sees it.
        tiny: a step at which nothing but rounding changes.
        least: gradients of tensors below this share of the whole are rounding.
    """

    steps: tuple[float, ...]
    close: tuple[float, ...]
    product: tuple[float, ...]
    tiny: float
    least: float


_LADDER = (1e-3, 1e-3, 1e-2, 1e-2, 2e-2)
# A tiny step must move what is rounded to float32 inside, if only now and then.
_WIDE = _Scale((1e-9, 1e-6, 1e-4, 1e-3, 1e-2), _LADDER, _LADDER, 1e-8, 1e-4)
_NARROW = _Scale((3e-4, 1e-3, 1e-2), (2e-2, 2e-2, 3e-2), (2e-2, 2e-2, 2e-2), 1e-6, 3e-2)
# Steps, and what may differ, for a large network that bends within those above: a word's own row of
# an embedding is short beside all of it. Rounding must leave enough to see.
_NEAR, _NEAR_CLOSE = (1e-5, 3e-5), 2e-2


class Base(NamedTuple):
    """A risk of one batch at a point, with the graph of its value and of its gradient there."""

    risk: Mean
    leaf: Tensor
    value: Tensor
    slope: Tensor
    exact: bool
    reason: str

    @property
    def term(self) -> Any:
        """The plain way to evaluate one point."""
        return next(iter(self.risk.terms()))


class Quotient:
    """Differences along a direction against gradients and products."""

    def __init__(self, base: Base):
        self._base, self._w = base, base.leaf.detach()
        self._scale = _WIDE if base.leaf.dtype == torch.float64 else _NARROW
        self._length = float(torch.linalg.vector_norm(self._w)) or 1.0
        self._value, self._gradient = float(base.value.detach()), base.slope.detach()
        self._norm = float(torch.linalg.vector_norm(self._gradient))
        self.remark, self._off = "", 0.0

    def check(self) -> tuple[Tensor, Tensor | None]:
        """The direction and the product with it, if all agree at a step that rounding allows.

        Raises:
            RuntimeError: if they do not.
        """
        self._check_without_graph()
        misses = ""
        for seed in (0, 1):
            v = self._direction(seed)
            product = self._product(v)
            misses = self._missed(v, product, 0)
            if not misses:
                self._check_idle()
                return v, product
        for rung in range(1, len(self._scale.steps)):
            if self._scale is _WIDE and not self._noisy(v, rung - 1):
                break
            misses = self._missed(v, product, rung)
            if not misses:
                self._check_idle()
                return v, product
        if self._scale is _NARROW and misses.startswith("gradients") and not self._steady(v):
            self.remark = "; products not compared, since kinks or rounding bend the gradients"
            return v, product
        if self._scale is _NARROW and self._agrees_nearby(v, product):
            self._check_idle()
            return v, product
        raise RuntimeError(misses + _blame(self._base.risk) + SKIP)

    def _check_idle(self) -> None:
        """Nothing, if the loss does not change along the tensors that have no gradient.

        Raises:
            RuntimeError: if it does: they reach it past the graph.
        """
        v = self._idle()
        if v is None:
            return
        step = self._scale.steps[1] * self._length
        tiny = 10 * self._scale.tiny * self._length
        with torch.no_grad():
            ahead, behind, near, back = (
                float(self._base.term(torch.add(self._w, v, alpha=s)))
                for s in (step, -step, tiny, -tiny)
            )
        slope, expected = (ahead - behind) / (2 * step), float(self._gradient @ v)
        eps = torch.finfo(self._w.dtype).eps
        floor = 100 * eps * (abs(self._value) + abs(ahead)) / step + 1e-5 * self._norm
        if abs(slope - expected) <= self._scale.close[1] * abs(slope) + floor:
            return
        if abs(near + back - 2 * self._value) / step > 0.1 * abs(slope):
            # Rounding inside the model.
            return
        raise RuntimeError(
            "values and gradient belong to different functions: along tensors whose gradient is "
            f"zero the loss changes by {slope:.4g}{_blame(self._base.risk)}{SKIP}"
        )

    def _idle(self) -> Tensor | None:
        """A unit vector in the tensors that have (next to) no gradient; None where all have one."""
        sizes = self._base.risk.layout.sizes
        norms = torch.stack(torch._foreach_norm(list(self._gradient.split(sizes))))
        idle = norms <= (1e-4 if self._scale is _WIDE else 1e-6) * self._norm
        if not bool(idle.any()):
            return None
        generator = torch.Generator(device="cpu").manual_seed(2)
        v = torch.zeros_like(self._w)
        for part, wanted in zip(v.split(sizes), idle.tolist(), strict=True):
            if wanted:
                drawn = torch.randn(len(part), generator=generator, device="cpu").to(v)
                part.copy_(drawn / len(part) ** 0.5)
        still = self._base.risk.model.still(self._base.risk.layout)
        if still is not None:
            v.masked_fill_(still.to(v.device), 0.0)
        length = float(torch.linalg.vector_norm(v))
        return v.div_(length) if length > 0 else None

    def _steady(self, v: Tensor) -> bool:
        """Whether differences of gradients at two steps agree better than with the product."""
        bent = []
        for rung in (0, 1):
            step = self._scale.steps[rung] * self._length
            bent.append((self._at(self._w + step * v)[1] - self._at(self._w - step * v)[1]) / step)
        return float(torch.linalg.vector_norm(bent[0] - bent[1])) / 2 <= 0.25 * self._off

    def _check_without_graph(self) -> None:
        """Nothing, if the value is the same without a graph.

        Raises:
            RuntimeError: if not.
        """
        with torch.no_grad():
            value = float(self._base.term(self._w))
        noise = 1e4 * torch.finfo(self._w.dtype).eps
        # A fused path of torch may round in float32 whatever the type is.
        if not abs(value - self._value) <= max(noise, 1e-5) * (abs(self._value) + abs(value)):
            raise RuntimeError(
                f"the loss is {value:.7g} without a graph and {self._value:.7g} with one, so that "
                "values and gradients belong to different functions: look for code that asks "
                f"torch.is_grad_enabled(){SKIP}"
            )

    def _agrees_nearby(self, v: Tensor, product: Tensor | None) -> bool:
        """Whether all agree at two very small steps at which rounding leaves enough to see."""
        eps, expected = torch.finfo(self._w.dtype).eps, abs(float(self._gradient @ v))
        floor = 200 * eps * abs(self._value) / (_NEAR[0] * self._length)
        if not floor <= _NEAR_CLOSE * expected:
            return False
        steps = (step * self._length for step in _NEAR)
        return not any(self._missed_at(v, product, s, _NEAR_CLOSE, _NEAR_CLOSE) for s in steps)

    def _missed(self, v: Tensor, product: Tensor | None, rung: int) -> str:
        """What disagrees at a step of the scale, in words."""
        scale = self._scale
        # So small a step bends nothing: the point itself will do as the other end.
        central = bool(rung) or scale is _NARROW
        step = scale.steps[rung] * self._length
        return self._missed_at(v, product, step, scale.close[rung], scale.product[rung], central)

    def _missed_at(
        self, v: Tensor, product: Tensor | None, step: float, close: float, likewise: float,
        central: bool = True,
    ) -> str:  # fmt: skip
        """What disagrees at a step, in words.

        Args:
            v: the direction.
            product: the Hessian times v, if it is compared.
            step: along v.
            close: what values may differ by, relative.
            likewise: what products may.
            central: whether the other end is on the other side, and not the point itself.
        """
        eps = torch.finfo(self._w.dtype).eps
        if product is None:
            return self._missed_by_values(v, step, close)
        (ahead, rise), width = self._at(torch.add(self._w, v, alpha=step)), step
        behind, fall = self._value, self._gradient
        if central:
            (behind, fall), width = self._at(torch.add(self._w, v, alpha=-step)), 2 * step
        slope, expected = (ahead - behind) / width, float(self._gradient @ v)
        floor = 100 * eps * (abs(self._value) + abs(ahead)) / step
        # What is far below the rounding of anything that is computed from it.
        floor += eps**2 * (abs(self._value) + self._norm) / self._length
        if not abs(slope - expected) <= close * max(abs(expected), abs(slope)) + floor:
            return (
                "values and gradient belong to different functions: along a direction the loss "
                f"changes by {slope:.4g} and its gradient says {expected:.4g}"
            )
        bent = rise.sub_(fall).div_(width)
        sizes = [float(torch.linalg.vector_norm(x)) for x in (bent, product)]
        off = float(torch.linalg.vector_norm(bent.sub_(product)))
        floor = 100 * eps * self._norm / step
        if not off <= likewise * max(sizes) + floor:
            self._off = off
            return (
                "gradients and Hessian-vector products belong to different functions: they differ "
                f"by {off:.4g} where the product is {sizes[1]:.4g} long; "
                "derivatives='differences' (--derivatives differences) takes differences of "
                "gradients instead"
            )
        return ""

    def _missed_by_values(self, v: Tensor, step: float, close: float) -> str:
        """The same without products, in little memory."""
        with torch.no_grad():
            ahead, behind = (
                float(self._base.term(torch.add(self._w, v, alpha=s))) for s in (step, -step)
            )
        slope, expected = (ahead - behind) / (2 * step), float(self._gradient @ v)
        eps = torch.finfo(self._w.dtype).eps
        floor = 100 * eps * (abs(self._value) + abs(ahead)) / step
        floor += eps**2 * (abs(self._value) + self._norm) / self._length
        if abs(slope - expected) <= close * max(abs(expected), abs(slope)) + floor:
            return ""
        return (
            "values and gradient belong to different functions: along a direction the loss "
            f"changes by {slope:.4g} and its gradient says {expected:.4g}"
        )

    def _noisy(self, v: Tensor, rung: int) -> bool:
        """Whether rounding inside the model is so large that the step was too small."""
        step, noise, rough = self._scale.steps[rung] * self._length, 0.0, 0.0
        for factor in (1.0, 3.0, 10.0):
            tiny = factor * self._scale.tiny * self._length
            (ahead, rise), (behind, fall) = (self._at(self._w + s * v) for s in (tiny, -tiny))
            # Second differences: a wrong gradient is no noise, and curvature is far smaller.
            noise = max(noise, abs(ahead + behind - 2 * self._value))
            bent = torch.linalg.vector_norm(rise + fall - 2 * self._gradient)
            rough = max(rough, float(bent))
        expected = abs(float(self._gradient @ v))
        return noise / step > 0.1 * self._scale.close[rung] * expected or (
            rough / step > 0.01 * self._norm / self._length
        )

    def _direction(self, seed: int) -> Tensor:
        """A unit vector along which every tensor changes the loss alike, and a random part.

        A wrong gradient of one tensor is then no small share of what is compared.
        """
        generator = torch.Generator(device="cpu").manual_seed(seed)
        v = torch.randn(len(self._w), generator=generator, device="cpu").to(self._w)
        still = self._base.risk.model.still(self._base.risk.layout)
        if still is not None:
            v.masked_fill_(still.to(v.device), 0.0)
        v.mul_(0.3 / torch.linalg.vector_norm(v))
        sizes = self._base.risk.layout.sizes
        pieces = list(self._gradient.split(sizes))
        norms = torch.stack(torch._foreach_norm(pieces))
        small = norms <= self._scale.least * self._norm
        weights = torch.where(small, torch.zeros_like(norms), 1 / norms**2).nan_to_num(0, 0, 0)
        if self._scale is _NARROW:
            # Steps are so long there that they must be short beside every single tensor.
            own = torch.stack(torch._foreach_norm(list(self._w.split(sizes))))
            weights = weights.sqrt() * own
        length = float(torch.linalg.vector_norm(weights * norms))
        if length > 0:
            factors = (weights / length).tolist()
            for part, piece, factor in zip(v.split(sizes), pieces, factors, strict=True):
                part.add_(piece, alpha=factor)
        return v.div_(torch.linalg.vector_norm(v))

    def _at(self, point: Tensor) -> tuple[float, Tensor]:
        """The value and the gradient at a point."""
        _, value, slope = _differentiated(self._base.term, point, graph=False)
        return float(value), slope

    def _product(self, v: Tensor) -> Tensor | None:
        """The Hessian times v; None where products are not asked for.

        Raises:
            RuntimeError: if there is no second derivative.
        """
        if not self._base.exact:
            return None
        try:
            return _times(self._base.slope, self._base.leaf, v)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise RuntimeError(
                f"the loss has no second derivative ({reason}): derivatives='differences' "
                f"(--derivatives differences) takes differences of gradients instead{SKIP}"
            ) from error


def based(risk: Mean, w: Tensor, exact: bool) -> Base:
    """The risk on a few samples of its first batch, in float64, where both can be.

    Raises:
        RuntimeError, TypeError, ValueError, IndexError: if it cannot be evaluated at all.
    """
    batch = next(b for b, weight in zip(risk.data, risk.weights, strict=False) if weight > 0)
    counts: list[int] = []
    if data_batches.rowwise(batch):
        fewest = _SAMPLES if risk.dim <= _WIDE_DIM else 1
        least = max(fewest, min(batch.samples, _CHEAP // risk.dim))
        counts = [n for n in (least, 4 * least, 16 * least) if n < batch.samples]
    parts = [*(_telling(risk, batch, n, w) for n in counts), batch]
    narrow = w.dtype != torch.float64 and w.device.type != "mps"
    wide = w.double() if narrow and _has_room(w) else None
    last: Exception | None = None
    for part in parts:
        few, reason = risk.on([part], risk.seed), ""
        for point in (w,) if wide is None else (wide, w):
            try:
                leaf, value, slope = _differentiated(
                    next(iter(few.terms())), point, graph=exact, keep=True
                )
            except (RuntimeError, TypeError, ValueError, IndexError) as error:
                last = error
                reason = f" (not in float64: {str(error).splitlines()[0]})"
                continue
            if value.dtype != point.dtype:
                reason = f" (the loss comes out in {value.dtype})"
                continue
            if part is not parts[-1] and (
                not bool(torch.isfinite(value)) or _idle_tensors(few, slope)
            ):
                break
            return Base(few, leaf, value, slope, exact, reason)
    assert last is not None
    raise last


def _telling(risk: Mean, batch: Any, samples: int, w: Tensor) -> Any:
    """So many samples from all over a batch, or a lot with more loss where those have next to none.

    Of samples that are fitted, differences are rounding: log-softmax is told from 0 by the rounding
    of its logits.
    """
    first = data_batches.spread(batch, samples)
    count = min(_LOTS, batch.samples // samples)
    if count < 2 or risk.dim > LARGE_DIM:
        return first
    places = data_batches.places(batch, count * samples)
    lots = [first, *(data_batches.rows(batch, places[k::count]) for k in range(count))]
    try:
        with torch.no_grad():
            losses = [abs(float(next(iter(risk.on([lot], risk.seed).terms()))(w))) for lot in lots]
    except (RuntimeError, TypeError, ValueError, IndexError):
        return first  # What is wrong is said where it is evaluated with its graph.
    return first if losses[0] >= _NEGLIGIBLE * max(losses) else lots[losses.index(max(losses))]


def _has_room(w: Tensor) -> bool:
    """Whether a vector can be taken in float64."""
    return len(w) <= _WIDE_DIM or 8 * _WIDE_COPIES * len(w) <= free_memory(w.device)


def _idle_tensors(risk: Mean, slope: Tensor) -> bool:
    """Whether some tensor has no part in the loss of these samples, as an idle expert has none."""
    return any(not bool(piece.any()) for piece in slope.split(risk.layout.sizes))


def check_held(base: Base) -> None:
    """Nothing, if the model with the point written into its own parameters has the same loss.

    What holds a parameter's numbers without its graph (an alias, a detached copy of the pointer)
    sees them there, and does not see what is substituted. The parameters come back to the bit.

    Raises:
        RuntimeError: if the losses differ.
    """
    risk, own = base.risk, base.risk.model.parameters
    kind = risk.point_dtype
    w = base.leaf.detach().to(kind)
    pieces = risk.layout.unflatten(w)
    with torch.no_grad():
        try:
            expected = float(base.term(w))
        except (RuntimeError, TypeError):
            return
        saved = {name: own[name].detach().clone() for name in pieces}
        try:
            for name, piece in pieces.items():
                own[name].data.copy_(piece)
            found = float(base.term(w))
        finally:
            for name, old in saved.items():
                own[name].data.copy_(old)
    if abs(found - expected) > 1e-5 * (abs(found) + abs(expected)):
        raise RuntimeError(
            f"the loss at one and the same vector is {expected:.7g}, and {found:.7g} once the "
            "vector stands in the model's own parameters: something reads their numbers past the "
            "module (parameter.data, detach() or an alias that was made before). Read them in "
            f"forward, from the module{SKIP}"
        )


def _differentiated(
    term: Any, point: Tensor, *, graph: bool, keep: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The point as a leaf, the value, and the gradient; with their graphs where wanted."""
    with torch.enable_grad():
        leaf = ordinary(point).requires_grad_()
        value = term(leaf)
        if not value.requires_grad:
            return leaf, value, torch.zeros_like(leaf)
        (slope,) = torch.autograd.grad(
            value, leaf, create_graph=graph, retain_graph=graph or keep, materialize_grads=True
        )
    return leaf, value if keep else value.detach(), slope


def _times(slope: Tensor, leaf: Tensor, v: Tensor) -> Tensor:
    if not slope.requires_grad:
        return torch.zeros_like(leaf)
    (product,) = torch.autograd.grad(slope, leaf, v, retain_graph=True, materialize_grads=True)
    return product


def check_types(base: Base, w: Tensor, v: Tensor, product: Tensor | None) -> None:
    """Nothing, if the type of the point gives what float64 gives, many points at once.

    Raises:
        RuntimeError: if not.
    """
    (term,) = base.risk.batched_terms()
    with torch.no_grad():
        value = term(w.unsqueeze(0).expand(2, -1))[0]
    graph = product is not None
    rows, _, slopes = _differentiated(lambda p: term(p).sum(), w.unsqueeze(0), graph=graph)
    known, slope = abs(float(base.value.detach())), base.slope.detach()
    pairs = [("value", value, base.value.detach(), 1e-3 * (1e-3 + known))]
    size = float(torch.linalg.vector_norm(slope))
    pairs.append(("gradient", slopes[0].detach(), slope, 1e-3 * known))
    if product is not None:
        narrow = _times(slopes, rows, v.to(w).unsqueeze(0)).reshape(-1)
        pairs.append(("Hessian-vector product", narrow, product, 1e-2 * size))
    for name, narrow, truth, least in pairs:
        off = float(torch.linalg.vector_norm(narrow.to(truth, copy=True).sub_(truth)))
        scale = float(torch.linalg.vector_norm(truth))
        # A product of a flat function is rounding, and so is the gradient at a minimum.
        if not off <= 2e-2 * (scale + least):
            raise RuntimeError(
                f"the {name} in {w.dtype} differs from that in float64 by {off:.4g} where it is "
                f"{scale:.4g}: the loss is another function in the two, or rounding spoils it; "
                f"make the model float64 (model.double()){SKIP}"
            )


def _blame(risk: Mean) -> str:
    names = risk.custom
    custom = f" (custom operations: {', '.join(names)})" if names else ""
    if written := risk.forward.written[:3]:
        return (
            f"{custom}. The forward pass writes to {', '.join(written)}, which values "
            "see and gradients do not: evaluation mode, model.eval(), may stop that"
        )
    return (
        f"{custom}. A surrogate gradient, a detached part, a second derivative that is missing or "
        "arithmetic of 16 bits inside (autocast) does that: measure the function whose gradient is "
        "meant, or train without measuring"
    )
