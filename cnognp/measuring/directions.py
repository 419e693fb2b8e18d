"""The directions of slices: what a word or a file of weights stands for at a point."""

from typing import Any

import torch
from torch import Tensor

from cnognp.measuring.place import Place
from cnognp.measuring.settings import Slice
from landscape import directions
from landscape.directions import sources
from landscape.objective import offered


def check_apart(z: Tensor, towards: Tensor, file: Any) -> None:
    """Nothing, if the weights of a file are others than those of the point.

    Raises:
        ValueError: if they are the same.
    """
    if torch.equal(z, towards):
        raise ValueError(
            f"direction: the weights in {file} are those of the point itself, so there is no way "
            "from one to the other; name another file"
        )


def chosen(place: Place, settings: Slice, count: int) -> tuple[Tensor, tuple[str, ...]]:
    """The directions (count, p) that the settings ask for, and what each is.

    A gradient makes one direction, and so does a file of weights; a second beside it is random.

    Raises:
        ValueError: if the population has too few different members for its principal directions,
            or the gradient is zero, or the weights in the file are those of the point.
    """
    z, layout = place.z, offered(place.objective, "layout")
    by: Any = settings.by or ("filter" if settings.direction == "random" else "none")
    suffix = "" if by == "none" else f", {by}-normalised"
    names = [f"random{suffix}"] * count
    if settings.direction == "random":
        u = directions.random(layout, z, settings.generator, count=count, by=by)
        return u, tuple(names)
    if settings.direction == "eigenvectors":
        u = sources.eigenvectors(place.objective, z, count)
        names = [f"eigenvector {i + 1}{suffix}" for i in range(count)]
    elif settings.direction == "pca":
        u, share = directions.pca(place.population, count)
        names = [f"principal direction {i + 1} ({s:.0%}){suffix}" for i, s in enumerate(share)]
    elif settings.file is not None:
        return _towards(place, settings, count)
    else:
        slope = sources.gradient(place.objective, z)
        slope = slope / torch.linalg.vector_norm(slope)
        others = directions.random(
            layout, z, settings.generator, count=count - 1, by=by, beside=slope.unsqueeze(0)
        )
        u = torch.cat([slope.unsqueeze(0), others])
        names[0] = f"gradient{suffix}"
    return (u if by == "none" else directions.normalise(layout, z, u, by)), tuple(names)


def _towards(place: Place, settings: Slice, count: int) -> tuple[Tensor, tuple[str, ...]]:
    """The difference of the other weights and the point, and random directions beside it.

    Those are as the point's filters are, or all normalised alike where that is asked for.

    Raises:
        ValueError: if there is no other point, or it is the point itself.
    """
    z, layout = place.z, offered(place.objective, "layout")
    if place.towards is None:
        raise ValueError(f"no weights of {settings.direction} were given with the place")
    check_apart(z, place.towards, settings.direction)
    u = (place.towards - z).unsqueeze(0)
    name = f"to {settings.direction}"
    by: Any = settings.by or "filter"
    if settings.by not in ("", "none"):
        u = directions.normalise(layout, z, u, by)
        name = f"{name}, {by}-normalised"
    if count == 1:
        return u, (name,)
    others = directions.random(layout, z, settings.generator, count=count - 1, by=by, beside=u)
    suffix = "" if by == "none" else f", {by}-normalised"
    return torch.cat([u, others]), (name, *[f"random{suffix}"] * (count - 1))
