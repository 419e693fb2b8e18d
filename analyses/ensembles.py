"""What are the members of a population worth together?

Question: how do averages of the members' probabilities (ensembles) and of their weights (soups)
compare with the best member, how different are the members, and how high are the walls between?

Expected: the ensemble has a lower loss than its members have on average, always; soups are good
where no wall lies between the members, and bad between independent trainings.

n: intervals are over the samples of a split, for these members: not over trainings drawn anew.

Cost: a pass over the splits for each member and soup, BatchNorm re-estimated before; a soup for
each member that the greedy one tries; and paths as in the study connectivity.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from analyses import connectivity
from analyses.predictions import SCORES, Said, averaged, disagreement, divergence, said
from analyses.stationary import require_one_of
from cnognp.measuring import subjects
from cnognp.measuring.alignment import ALIGNED, aligned
from cnognp.tasks.problem import Problem
from cnognp.training.config import RunFolder
from cnognp.workers import Unit, results_of
from landscape.alignment import Untraceable
from landscape.results import provenance
from landscape.results.ensembles import Ensembles

CRITERIA = ("accuracy", "loss")
NOTES = (
    "Members are ranked, and greedy soups chosen, on the validation split, so that numbers there "
    "are better than they ought to be.",
    "ECE has 15 bins of equal width; of few samples it is above 0 even if confidences are right.",
    "A uniform soup is SWA over the members: BatchNorm statistics of every average are "
    "re-estimated on the training data.",
)


@dataclass(frozen=True)
class Config:
    """What is put together.

    Args:
        runs: folders of runs of one task and model, on the same data.
        members: which of each run: all, or numbers and points that were kept (validation-1),
            comma-separated.
        criterion: accuracy or loss, by which members are ranked and soups chosen.
        align: how units are put in order before soups and paths: weights or activations; empty for
            soups and paths of members as they are alone.
        points: of the grid on each path between two members, at least 3; 0 for no paths.
        resamples: of the bootstrap, at least 100.
        confidence: of the intervals, between 0.5 and 1.
        seed: of the bootstrap.
        data: folder of the task's data, where it is not where it was.
        device: where; that of the first run where empty.

    Raises:
        ValueError: if a name is not known or a number is out of range.
    """

    runs: tuple[str, ...] = ()
    members: str = "all"
    criterion: str = "accuracy"
    align: str = "weights"
    points: int = 11
    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0
    data: str = ""
    device: str = ""

    def __post_init__(self):
        require_one_of("criterion", self.criterion, CRITERIA)
        require_one_of("align", self.align, ("", *ALIGNED))
        if self.points and self.points < 3:
            raise ValueError(f"points must be at least 3, or 0 for no paths, got {self.points}")
        if self.resamples < 100:
            raise ValueError(f"resamples must be at least 100, got {self.resamples}")
        if not 0.5 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0.5 and 1, got {self.confidence}")


class Members(NamedTuple):
    """The members, and why their units are not put in order; the digests are of their weights."""

    config: Config
    words: tuple[str, ...]
    digests: tuple[str, ...]
    lost: int
    obstacle: str


def study(config: Config) -> dict[str, Any]:
    """The results by name: the averages, and the walls before and after alignment."""
    return joined(config, results_of(units(config)))


def units(config: Config) -> list[Unit]:
    """The averages, and a path for each pair, with units as they are and in order.

    Raises:
        ValueError: if fewer than two members are finite, or they are of different models or data.
    """
    given = _members(config)
    listed = [Unit("averages", averages, given)]
    for each in _walls(config, given):
        prefix = "in order " if each.align else ""
        listed += [unit._replace(name=prefix + unit.name) for unit in connectivity.units(each)]
    return listed


def joined(config: Config, found: Sequence[Any]) -> dict[str, Any]:
    """The averages, and the walls before and after alignment."""
    results: dict[str, Any] = {"ensembles": found[0]}
    place = 1
    for each in _walls(config, _members(config)):
        count = len(connectivity.units(each))
        name = "barriers-in-order" if each.align else "barriers"
        results[name] = connectivity.joined(each, found[place : place + count])["connectivity"]
        place += count
    return results


def averages(given: Members) -> Ensembles:
    """The members, their ensemble and their soups on validation and test data.

    Raises:
        ValueError: if there is no validation data, or outputs are not understood.
    """
    config = given.config
    problem, points = _problem(config, given.words), _points(config, given.words)
    splits = tuple(s for s in ("validation", "test") if problem.data(s) is not None)
    if splits[:1] != ("validation",):
        raise ValueError("the task has no validation data, on which members are ranked")
    own = [[said(problem, z, split) for z in points] for split in splits]
    order = sorted(range(len(points)), key=lambda i: _rank(own[0][i], config.criterion))
    own = [[found[i] for i in order] for found in own]
    points, words = [points[i] for i in order], [given.words[i] for i in order]
    chosen, greedy = greedy_soup(problem, points, config.criterion)
    soups = {"uniform soup": uniform_soup(points), "greedy soup": greedy}
    moved = None
    if config.align and not given.obstacle:
        moved = [points[0], *(aligned(problem, points[0], z, config.align)[0] for z in points[1:])]
        soups["uniform soup, in order"] = uniform_soup(moved)
        soups["greedy soup, in order"] = greedy_soup(problem, moved, config.criterion)[1]
    lost = (f"{given.lost} members with numbers that are not finite are left out.",)
    order_lost = (f"Units were not put in order: {given.obstacle}.",)
    models = [
        [*found, averaged(found), *(said(problem, z, split) for z in soups.values())]
        for split, found in zip(splits, own, strict=True)
    ]
    apart = np.array([_compared(each, config) for each in models])
    mean = [float(np.mean([each.losses().mean() for each in found])) for found in own]
    whole = [float(averaged(found).losses().mean()) for found in own]
    return Ensembles(
        models=(*words, "ensemble", *soups), members=len(points), splits=splits, scores=SCORES,
        score=np.array([[each.scores() for each in split] for split in models]),
        compared=("loss", "accuracy"), difference=apart[:, 0], low=apart[:, 1], high=apart[:, 2],
        grown=np.array([
            [averaged(found[: k + 1]).scores() for k in range(len(found))] for found in own
        ]),
        gap=np.array(mean) - whole, divergence=np.array([divergence(found) for found in own]),
        disagreement=np.array([[[disagreement(a, b) for b in f] for a in f] for f in own]),
        distance=connectivity.distances(points), cosine=_cosines(points),
        aligned_distance=None if moved is None else connectivity.distances(moved),
        chosen=tuple(words[i] for i in chosen), criterion=config.criterion,
        confidence=config.confidence,
        notes=(*NOTES, *lost * bool(given.lost), *order_lost * bool(given.obstacle)),
        provenance=provenance(configuration=asdict(config)),
    )  # fmt: skip


def uniform_soup(points: Sequence[Tensor]) -> Tensor:
    """The mean of the points, taken in double precision."""
    return torch.stack([z.double() for z in points]).mean(0).to(points[0])


def greedy_soup(
    problem: Problem, points: Sequence[Tensor], criterion: str
) -> tuple[list[int], Tensor]:
    """The numbers of the points in the soup, and their mean.

    From the best on, each is kept if the validation criterion of the mean does not fall.

    Args:
        problem: judges on its validation split.
        points: the best first.
        criterion: accuracy or loss.

    Reference: Wortsman et al. (2022), recipe 1.
    """
    chosen, best = [0], _value(said(problem, points[0], "validation"), criterion)
    for k in range(1, len(points)):
        soup = uniform_soup([points[i] for i in (*chosen, k)])
        if bool(soup.isfinite().all()):
            found = _value(said(problem, soup, "validation"), criterion)
            if found >= best:
                chosen, best = [*chosen, k], found
    return chosen, uniform_soup([points[i] for i in chosen])


def _value(found: Said, criterion: str) -> float:
    """What is the better the larger it is."""
    by_loss = criterion == "loss"
    return -float(found.losses().mean()) if by_loss else float(found.right().mean())


def _rank(found: Said, criterion: str) -> tuple[float, float]:
    return -_value(found, criterion), float(found.losses().mean())


def _compared(models: Sequence[Said], config: Config) -> np.ndarray:
    """Differences from the first model, and their percentile intervals (3, models, 2)."""
    each = np.array([[model.losses(), model.right()] for model in models])
    apart = np.moveaxis(each - each[0], -1, 0)
    source, n = np.random.default_rng(config.seed), len(apart)
    drawn = np.array([
        apart[source.integers(n, size=n)].mean(0) for _ in range(config.resamples)
    ])  # fmt: skip
    tail = (1 - config.confidence) / 2
    return np.stack([apart.mean(0), *np.quantile(drawn, [tail, 1 - tail], axis=0)])


def _members(config: Config) -> Members:
    """The members that are finite.

    Raises:
        ValueError: if there are fewer than two, or they are of different models or data.
    """
    found = connectivity.minima(
        connectivity.Config(config.runs, config.members, data=config.data, device=config.device)
    )
    origins = [_subject(config, run).origin for run in dict.fromkeys(found.run)]
    for what in ("model", "data"):
        if len({origin[what] for origin in origins}) > 1:
            raise ValueError(
                f"members of one {what} are needed, and those of {', '.join(config.runs)} differ; "
                "a task may split its data by the seed of the run"
            )
    finite = [k for k, z in enumerate(found.points) if bool(z.isfinite().all())]
    words = tuple(found.words[k] for k in finite)
    if len(words) < 2:
        raise ValueError(f"at least two finite members are needed, got {len(words)}")
    points = [found.points[k] for k in finite]
    obstacle = ""
    if config.align:
        try:
            aligned(_problem(config, words), points[0], points[1], config.align)
        except (Untraceable, ValueError) as error:
            obstacle = str(error).rstrip(".")
    digests = tuple(connectivity.digest(z) for z in points)
    return Members(config, words, digests, len(found.words) - len(words), obstacle)


def _walls(config: Config, given: Members) -> list[connectivity.Config]:
    """What is joined by paths: the members as they are, and with their units in order."""
    if not config.points:
        return []
    plain = connectivity.Config(
        given.words, points=config.points, data=config.data, device=config.device
    )
    ordered = config.align and not given.obstacle
    return [plain, replace(plain, align=config.align)] if ordered else [plain]


def _subject(config: Config, run: str) -> subjects.Subject:
    moved = {"data": config.data} if config.data else {}
    return subjects.of_run(RunFolder(Path(run)), "all", "last", config.device, False, moved)


def _problem(config: Config, words: Sequence[str]) -> Problem:
    run = connectivity.minima(
        connectivity.Config(tuple(words), data=config.data, device=config.device)
    ).run[0]
    return _subject(config, run).problem


def _points(config: Config, words: Sequence[str]) -> list[Tensor]:
    return connectivity.minima(
        connectivity.Config(tuple(words), data=config.data, device=config.device)
    ).points


def _cosines(points: Sequence[Tensor]) -> np.ndarray:
    rows = torch.stack([z.double() / z.double().norm() for z in points])
    return (rows @ rows.T).cpu().numpy()
