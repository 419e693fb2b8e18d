"""What an objective is, what it may say of itself, and what is asked of its parts."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

Term = Callable[[Tensor], Tensor]


@runtime_checkable
class Objective(Protocol):
    """A finite sum of scalar terms over one flat vector of length ``dim``.

    ``terms()`` yields functions from a vector (p,) to a scalar. Nothing else is required; `Offer`
    says what else an objective may have.
    """

    @property
    def dim(self) -> int: ...

    def terms(self) -> Iterator[Term]: ...


class Offer(Protocol):
    """What an objective may offer beside its terms, and what stands where it does not.

    Whoever asks does so by `offered`, or through all parts by `trait`.

    Attributes:
        batched_terms: ``batched_terms()``: the same terms from (n, p) to (n,), where it is faster
            than vmap.
        value: ``value(z)``: from (n, p) to (n,), where it is not the sum of the terms of this
            process.
        products: ``products(point, memory)``: the Hessian at a point, which multiplies (n, p),
            likewise.
        value_and_grad: ``value_and_grad(z)``: from (n, p) to (n,) and (n, p), where it is faster
            than autograd.
        minibatches: ``minibatches(size, generator, epochs)``: a stream of one-term objectives; with
            ``parts`` each has so many terms, of which one is evaluated after another.
        steps: ``steps(size)``: how many of them there are in an epoch.
        judge: ``judge(z, curvature)``: what was checked before a measurement at z. It says that
            this is the loss of a network.
        stochastic_modules: ``stochastic_modules()``: what draws random numbers, by name.
        at: ``at(z)``: the risk that belongs to the point z, of an objective that is another one at
            every point.
        along: ``along(origin, directions, fold)``: itself as a function of coordinates along a few
            directions, where that is faster than ``batched_terms``.
        spanned: ``spanned(basis, coefficients, weigh)``: its values (n,) at ``coefficients @
            basis``, and the gradient by the basis (k, p) of their sum, weighed by what ``weigh``
            makes of them, where that is faster than one gradient for each point.
        inside: ``inside(z)``: the points of the parts at points of the whole.
        parts: the objectives that it is made of, or that it wraps; they are asked too.
        chunk: how many points are best evaluated together.
        product_chunk: the same for products with the Hessian; as ``chunk`` where None.
        layout: the names and shapes inside the vector.
        recurrent: whether there are recurrent layers of torch.
        normalisation: what BatchNorm normalises with.
        derivatives: ``"exact"``, or ``"differences"`` of gradients.
        autocast: the narrower type that gradients are computed in, which rules out products with
            the Hessian; None if none.
        once: whether it has no second derivatives, since its network is compiled.
        samples: how many there are in the data.
        batches: the data.
        shares: the weight of every batch.
        reached: which tensors of the layout its gradients have reached; None if all.
    """

    batched_terms: Callable[[], Iterator[Term]] | None = None
    value: Callable[[Tensor], Tensor] | None = None
    products: Callable[[Tensor, int], Any] | None = None
    value_and_grad: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    minibatches: Callable[..., Iterator[Objective]] | None = None
    steps: Callable[[int], int] | None = None
    judge: Callable[[Tensor, bool], dict[str, Any]] | None = None
    stochastic_modules: Callable[[], list[str]] | None = None
    at: Callable[[Tensor], Any] | None = None
    along: Callable[..., Any] | None = None
    spanned: Callable[..., tuple[Tensor, Tensor]] | None = None
    inside: Callable[[Tensor], Tensor] | None = None
    parts: tuple[Any, ...] = ()
    chunk: int | None = None
    product_chunk: int | None = None
    layout: Any = None
    recurrent: bool = False
    normalisation: str = ""
    derivatives: str = "exact"
    autocast: Any = None
    once: bool = False
    samples: int | None = None
    batches: Any = ()
    shares: list[float] | None = None
    reached: list[bool] | None = None


def offered(objective: Any, name: str) -> Any:
    """What an objective itself says under a name of `Offer`."""
    return getattr(objective, name, getattr(Offer, name))


def leaves(objective: Any) -> Iterator[Any]:
    """The objective, and whatever it is made of or wraps, however deep; the whole first."""
    yield objective
    for part in offered(objective, "parts"):
        yield from leaves(part)


def located(objective: Any, z: Tensor) -> Iterator[tuple[Any, Tensor]]:
    """As `leaves`, each with the point in its own coordinates."""
    yield objective, z
    inside = offered(objective, "inside")
    place = z if inside is None else inside(z)
    for part in offered(objective, "parts"):
        yield from located(part, place)


def trait(objective: Any, name: str, default: Any = None) -> Any:
    """What the first of an objective and its parts says of itself under a name."""
    found = (getattr(part, name, None) for part in leaves(objective))
    return next((value for value in found if value), default)


def normalisation_of(objective: Any) -> str:
    """What BatchNorm normalises with in an objective or its parts; empty where there is none."""
    return trait(objective, "normalisation", "")
