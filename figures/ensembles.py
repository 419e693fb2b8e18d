"""What members are worth together: the picture of `Ensembles`."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from figures.picture import picture
from landscape.results.ensembles import Ensembles


@style.context()
def scores(result: Ensembles, score: str, ax: Axes) -> dict[str, Any]:
    """The artists "grown", "members" and "soups" on the last split, against the number of members.

    Args:
        result: what is drawn.
        score: which of its scores.
        ax: where it is drawn.
    """
    k, count = result.scores.index(score), result.members
    size = np.arange(1, count + 1)
    artists: dict[str, Any] = {"soups": []}
    artists["members"] = ax.plot(
        size, result.score[-1, :count, k], "o", color=style.GREY, markerfacecolor="none",
        linestyle="none", label="a member, by validation rank",
    )  # fmt: skip
    artists["grown"] = ax.plot(
        size, result.grown[-1, :, k], "s-", color=style.BLUE, label="ensemble of so many"
    )
    looks = zip((style.VERMILION, style.GREEN, style.ORANGE, style.PURPLE), "^vD*", strict=True)
    for name, value, (color, marker) in zip(
        result.models[count + 1 :], result.score[-1, count + 1 :, k], looks, strict=False
    ):
        if name == "greedy soup, in order":
            # How many of them it holds is not known.
            continue
        at = len(result.chosen) if name == "greedy soup" else count
        artists["soups"] += ax.plot(
            [at], [value], marker=marker, color=color, linestyle="none", label=name
        )
    ax.set_xlabel("members")
    ax.set_ylabel(f"{result.splits[-1]} {score}")
    return artists


@picture("scores", Ensembles)
def _scores(result: Ensembles) -> Figure:
    figure = style.new_figure(8.4, 3.4)
    axes = figure.subplots(1, 3)
    for score, ax in zip(("loss", "accuracy", "ECE"), axes, strict=True):
        scores(result, score, ax)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    style.note(figure, style.plural(result.members, "member"), "soups chosen on validation data")
    return figure
