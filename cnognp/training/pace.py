"""How a training comes along: how fast it is, how long it takes still, and how good it is."""

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cnognp.method import Info

if TYPE_CHECKING:
    from cnognp.training.session import Training

# Seconds over which a mean pace is taken, so that rounds may come by ones or by tens.
_MEAN = 5.0
# Seconds of training for each second of judging the validation data, where only a line wants it.
_PRICE = 10


class Told(NamedTuple):
    """Where a training is after a round.

    Attributes:
        iteration: rounds that are done.
        rate: samples that all members together saw in a second, over the last rounds.
        seconds: that the other rounds take at this pace.
        loss: the lowest of all members in the last round that knows it; NaN before.
        fitness: of the best point so far.
        validation: loss and metrics of the best point on the validation data, when these were last
            judged; empty before, and without such data.
        fresh: whether that was in this round.
    """

    iteration: int
    rate: float
    seconds: float
    loss: float
    fitness: float
    validation: dict[str, float]
    fresh: bool

    def numbers(self) -> dict[str, float]:
        """Those of this round by name, for a curve of each; what is not known is left out."""
        found = {"loss": self.loss, "best_fitness": self.fitness, "samples_per_second": self.rate}
        if self.fresh:
            found |= {f"validation/{name}": value for name, value in self.validation.items()}
        return {name: value for name, value in found.items() if math.isfinite(value)}


class Pace:
    """What is told of a training, round after round.

    Args:
        always: judge the validation data in every round that is judged, and not only where that is
            a small share of the time.
        clock: seconds that have gone by, as those at which a training says that it began.
    """

    def __init__(self, always: bool = False, clock: Callable[[], float] = time.perf_counter):
        self.always, self._clock = always, clock
        self._last: float | None = None
        self._spent = self._judged = 0.0
        self._rounds = self._seconds = 0.0
        self._validation: dict[str, float] = {}

    def told(self, training: "Training", info: Info) -> Told:
        """Where the training is; the clock stands still while validation data are judged."""
        now = self._clock()
        seconds = max(now - (training.began if self._last is None else self._last), 1e-9)
        old = math.exp(-seconds / _MEAN)
        self._rounds, self._seconds = old * self._rounds + 1, old * self._seconds + seconds
        self._spent += seconds
        fresh = self._due(training) and self._judge(training)
        self._last = self._clock()
        samples = training.config.members * info.evaluations * training.problem.training.samples
        left = training.config.iterations - training.iteration
        return Told(
            training.iteration,
            samples * self._rounds / self._seconds,
            left * self._seconds / self._rounds,
            _lowest(training.record.rows["loss"]),
            training.record.best_fitness,
            self._validation,
            fresh,
        )

    def _due(self, training: "Training") -> bool:
        judging, iteration = training.judging, training.iteration
        if training.problem.data("validation") is None or training.record.best is None:
            return False
        if judging is not None and not judging.due(iteration):
            return False
        return self.always or self._judged * _PRICE <= self._spent

    def _judge(self, training: "Training") -> bool:
        began = self._clock()
        z = training.best()
        self._validation = training.problem.measured(z, training.problem.at(z), "validation")
        self._judged += self._clock() - began
        return True


def line(told: Told, things: str) -> str:
    """What is told, in one line.

    Args:
        told: where the training is.
        things: what samples are called.
    """
    parts = [f"{told.rate:.3g} {things}/s" if told.rate < 1000 else f"{told.rate:.0f} {things}/s"]
    parts.append(f"{_clock_face(told.seconds)} left")
    parts.append(
        f"loss {told.loss:.4g}" if math.isfinite(told.loss) else f"fitness {told.fitness:.4g}"
    )
    shown = [name for name in told.validation if name != "loss"] or list(told.validation)
    parts += [f"validation {name} {told.validation[name]:.4g}" for name in shown]
    return ", ".join(parts)


def setting(training: "Training") -> str:
    """What is trained, by what, for how long and where, in one line."""
    config, problem = training.config, training.problem
    risk = problem.training
    members = "1 member" if config.members == 1 else f"{config.members} members"
    where = str(problem.device)
    if problem.device.type == "cpu":
        threads = torch.get_num_threads()
        where += f" with {threads} thread{'s' if threads > 1 else ''}"
    return (
        f"{config.task}: {risk.dim:,} parameters, {risk.samples:,} {things_of(training)}; "
        f"{members} by {config.method}, iterations {training.iteration} to {config.iterations} on "
        f"{where}"
    )


def things_of(training: "Training") -> str:
    """What samples of a training are called: images, if they have the four axes of those."""
    inputs = training.problem.training.data.first.inputs
    return "images" if isinstance(inputs, Tensor) and inputs.ndim == 4 else "samples"


def _lowest(rows: list[Any]) -> float:
    """The lowest number in the last row that has one."""
    for row in reversed(rows):
        known = row[np.isfinite(row)]
        if len(known):
            return float(known.min())
    return math.nan


def _clock_face(seconds: float) -> str:
    minutes, seconds = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
