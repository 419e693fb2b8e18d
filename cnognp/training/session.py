"""A training run from its configuration to its folder: resumable, and equal however it was cut."""

import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from cnognp.homes import home_of, measured
from cnognp.method import Info, Method
from cnognp.methods import METHODS
from cnognp.population import Population
from cnognp.run import run
from cnognp.state import from_arrays, to_tensors
from cnognp.tasks.problem import Problem, choose_device, problem_of
from cnognp.tasks.starts import Starts
from cnognp.tasks.weights import encoded
from cnognp.training import baseline, checkpoint, minibatches
from cnognp.training.checkpoint import Checkpoint
from cnognp.training.config import Config, RunFolder
from cnognp.training.crew import Crew
from cnognp.training.curvature import (
    MEMBER,
    recorder_of,
    save_recording,
    stability_of,
)
from cnognp.training.judging import Judging, due, interval, judging
from cnognp.training.record import Record
from cnognp.training.remarks import remarks, told_of_compiling, told_of_memory
from cnognp.training.snapshots import Snapshots, names_of, of_checkpoint, tidy
from landscape import results
from landscape.devices import freed_memory_kept
from landscape.files import DamagedFile, replacing
from landscape.objective import value_and_grad
from landscape.randomness import derived_seed
from landscape.recorder import CurvatureRecorder

Breakable = Callable[[], AbstractContextManager[Any]]
_CURVATURE = "curvature/"
FINISHED, DIVERGED, INTERRUPTED, RUNNING = "finished", "diverged", "interrupted", "running"


@dataclass
class Training:
    """One run in memory: its problem, its method, and where it stands after some rounds."""

    config: Config
    problem: Problem
    method: Method
    start: Starts
    state: Any
    record: Record
    recorder: CurvatureRecorder | None = None
    judging: Judging | None = None
    iteration: int = 0
    status: str = RUNNING
    measured: dict[str, Any] | None = None
    population: Population | None = None
    snapshots: Snapshots | None = None
    began: float = field(default_factory=time.perf_counter)

    @classmethod
    def of(
        cls, config: Config, folder: Path | None = None, executor: Executor | None = None
    ) -> "Training":
        """A run that has not begun.

        Args:
            config: what to train.
            folder: of the run; must exist when it begins. Members may live in files there, and
                points of trajectories are kept there.
            executor: has the members moved, a few at a time, by other processes; device and threads
                of the configuration are then settled.

        Raises:
            ValueError: if the task, the method, a keyword or the device does not exist or fit, or
                the data are not finite.
            NotCompiled: if the network is to be compiled and cannot be.
        """
        # What is random is judged, and its curvature recorded, on one draw of it.
        problem = problem_of(
            config, config.weights if folder is None else RunFolder(folder).weights(config),
            data_seed=0, noise_seed=0, precision=config.precision, compiled=config.compile,
        )  # fmt: skip
        problem.check_finite()
        config = minibatches.settled(config, problem)
        method = METHODS[config.method](**config.method_options)
        minibatches.check_apart(config, problem, method)
        layout = problem.training.layout
        dtype = problem.training.point_dtype
        start = Starts(
            problem.task, layout, config.members, config.seed, problem.device, dtype
        )  # fmt: skip
        # What cannot start is refused before there is a folder.
        start(slice(0, min(config.members, 2)))
        recorder = recorder_of(config, problem, method)
        # What cannot be cut so is refused before there is a folder.
        minibatches.check(method, problem)
        if config.compile:
            minibatches.check_compiled(method, problem)
        method, when = judging(config, problem, method)
        kept = None
        if config.snapshots and folder is not None:
            kept = Snapshots(config.snapshots, RunFolder(folder).snapshots, problem)
        training = cls(
            config, problem, method, start, None, Record(), recorder, when, snapshots=kept
        )
        training.population = training._housed(folder, executor)
        return training

    def _housed(self, folder: Path | None, executor: Executor | None) -> Population | None:
        """The population where its members live elsewhere, or are moved a few at a time.

        Raises:
            ValueError: if they cannot be.
        """
        config, device = self.config, self.problem.device
        home = home_of(config.members_live, self.method, self.start.bytes, device)  # type: ignore[arg-type]
        if executor is not None and home == "files":
            raise ValueError(
                "members that live in files visit one device, so that workers cannot share them: "
                "leave out --workers, or have --members-live host"
            )
        if home == "device" and executor is None and not config.together:
            return None
        crew = None
        if executor is not None:
            begun_at = config.weights if folder is None else RunFolder(folder).weights(config)
            crew = Crew(executor, replace(config, weights=begun_at), lambda: self.iteration)
        return Population(
            self.method, "files" if home == "files" else "host", device, folder, crew=crew,
            together=config.together, keeps=home == "device",
        )  # fmt: skip

    def restore(self, found: Checkpoint) -> None:
        """Goes to where the checkpoint stands.

        Raises:
            ValueError: if it belongs to another model, data, method or population.
        """
        for name, own in self.identity.items():
            if found.meta.get(name) != own:
                raise ValueError(f"the newest whole one belongs to another {name}")
        if self.population is None:
            self.state = from_arrays(self._begun(), found.arrays)
        else:
            like = self.population.like(
                self.objective(0), self.start(slice(0, 1)), self.start.members
            )
            self.state = self.population.hold(from_arrays(like, found.arrays, copy=False))
        self.record = Record.from_arrays(found.arrays, found.iteration, self.start.shape)
        if self.recorder is not None:
            own = {n: array for n, array in found.arrays.items() if n.startswith(_CURVATURE)}
            self.recorder.load_state_dict({n.removeprefix(_CURVATURE): a for n, a in own.items()})
        if self.snapshots is not None:
            self.snapshots.restore(found.arrays, found.meta)
        self.iteration = found.iteration

    def advance(
        self, after: Callable[["Training", Info], bool], breakable: Breakable = nullcontext
    ) -> None:
        """Rounds until the last, a divergence, or until ``after`` says to leave.

        Where all members diverge in a round, the state before that round is kept. So is it where a
        round is broken off; what is judged at the end is done by who goes on.

        Args:
            after: called after every round.
            breakable: what takes long runs inside, and may be ended there by a KeyboardInterrupt.

        Raises:
            KeyboardInterrupt: if the first round of all is broken off.
        """
        self.status = RUNNING
        if self.iteration == 0:
            self._observe()
        self._go(after, breakable)
        if self.state is None:
            self._stay_at_the_start()
        if self.status == RUNNING and self.iteration == self.config.iterations:
            # It was left when all rounds were done, and not yet compared.
            self.status = self._end()
        try:
            with breakable():
                self.measured = self._best_measured()
                if self.status != RUNNING:
                    self._compare()
        except KeyboardInterrupt:
            self.measured, self.status = self.measured or {}, RUNNING
            # A round in which all diverged is not kept, and is done again.
            self.iteration = len(self.record.rows["evaluations"])
        if self.status == RUNNING:
            self.status = INTERRUPTED

    def _go(self, after: Callable[["Training", Info], bool], breakable: Breakable) -> None:
        """Rounds; one that is broken off is the last, and has changed nothing."""
        stream = self.problem.stream(self.method, self._seed, self.iteration)
        generator = self.generator()
        begun = self._begun() if self.state is None else self.state
        rounds = run(
            self._mover, stream, begun.position, generator, state=begun, start=self.iteration
        )
        del begun
        while self.iteration < self.config.iterations:
            number = self.iteration + 1
            if (found := self._round(number, rounds, breakable)) is None:
                break
            state, info, judged = found
            for points, fitness in judged:
                self.record.offer(points, fitness)
            self.iteration = number
            if self.record.exploded(state, info):
                self.status = DIVERGED
                break
            self.state = state
            self.record.update(state, info)
            self._observe()
            self._keep()
            if self.iteration == self.config.iterations:
                self._judge_last(info)
                self.status = self._end()
            if after(self, info):
                break

    def _round(
        self, number: int, rounds: Iterator[tuple[Any, Info]], breakable: Breakable
    ) -> tuple[Any, Info, list[tuple[Tensor, Tensor]]] | None:
        """State and info after a round, and what the record is offered; None if it is broken off.

        Raises:
            KeyboardInterrupt: if it is, and the state before it is not there to be kept.
        """
        # Members that live elsewhere are written over in a round.
        written_over = self.population is not None and not self.population.keeps
        try:
            with nullcontext() if written_over else breakable():
                state, info = next(rounds)
                return state, *self._judged(number, state, info)
        except KeyboardInterrupt:
            if written_over or self.state is None:
                raise
            return None

    def _end(self) -> str:
        """How a run has ended whose rounds are all done."""
        return DIVERGED if self.record.ended_worse() else FINISHED

    def checkpoint(self) -> Checkpoint:
        """Everything that a resumed run needs, and what ``show`` prints."""
        record = self.record
        meta = {
            "status": self.status,
            "method": self.config.method,
            "task": self.config.task,
            "iterations": self.iteration,
            "not_finite": record.not_finite(self.state.position),
            "best": {
                "member": None if record.best is None else record.best_member,
                "fitness": record.best_fitness,
            },
            "seed": self.config.seed,
            "config": self.config.to_yaml(),
            "versions": dict(_versions()),
            "fitness_from": self.fitness_from,
            **self.identity,
        }
        if self.status != RUNNING:
            meta["best"] |= self._best_measured() if self.measured is None else self.measured
        if record.judgement:
            meta["judgement"] = record.judgement
        # Not copied: what is large is written to the disk before anything moves again.
        arrays = {name: t.cpu().numpy() for name, t in to_tensors(self.state).items()}
        arrays |= record.to_arrays()
        if self.recorder is not None:
            arrays |= {_CURVATURE + name: a for name, a in self.recorder.state_dict().items()}
        if self.snapshots is not None:
            meta["snapshots"] = self.snapshots.described()
            arrays |= self.snapshots.to_arrays()
        return Checkpoint(self.iteration, arrays, meta)

    def best(self) -> Tensor:
        """The best point so far, (p,); the first member where none was finite."""
        if self.record.best is None:
            return self.state.position[0].to(self.problem.device)
        return torch.as_tensor(self.record.best, device=self.problem.device)

    def _judged(
        self, number: int, state: Any, info: Info
    ) -> tuple[Info, list[tuple[Tensor, Tensor]]]:
        """What is to be told of a round, and the points and fitness that the record is offered.

        The latter where epochs rank; it is the best of each that is judged.
        """
        judging = self.judging
        if judging is None or not judging.due(number):
            return info, []
        objective = self.objective(number)
        if judging.fitness is None:
            return judging.judged(objective, state, info), []
        offers = [judging.elected(objective, self.method, state, info)]
        if number == 1:
            offers.insert(0, self._best_start(lambda z: judging.measured(objective, z)))
        return info, offers

    def _observe(self) -> None:
        """Records the curvature where the run stands, if that is wanted in this round."""
        if self.recorder is not None:
            first = slice(MEMBER, MEMBER + 1)
            position = self.start(first) if self.state is None else self.state.position[first]
            steps = minibatches.steps(self.method, self.problem)
            stability = stability_of(self.method, self.state, steps)
            place = position[0].to(self.problem.device)
            self.recorder(self.iteration, place, stability=stability)

    def _keep(self) -> None:
        """Keeps the points of this round that are good enough, if it is judged."""
        if self.snapshots is not None:
            every = interval(self.config, self.problem)
            if due(self.iteration, every, self.config.iterations):
                self.snapshots.offer(self.iteration, self.state.position)

    def _begun(self) -> Any:
        """The state before the first round."""
        objective, members = self.objective(0), self.start.members
        if self.population is not None:
            return self.population.begun(objective, self.start, members)
        return self.method.init(objective, self.start(slice(0, members)))

    def objective(self, number: int) -> Any:
        """What the round after so many is a step on."""
        return next(self.problem.stream(self.method, self._seed, number))

    def generator(self) -> torch.Generator:
        """What the draws of every round are derived from."""
        return torch.Generator(device="cpu").manual_seed(self._seed)

    @property
    def _mover(self) -> Method:
        """What moves the members where they live."""
        return self.method if self.population is None else self.population

    @property
    def _seed(self) -> int:
        return derived_seed(self.config.seed, "training")

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must have in common with the run that goes on from it."""
        return {
            "model": self.problem.training.layout.digest,
            "data": self.problem.data_digest,
        }

    @property
    def fitness_from(self) -> str | None:
        """What a swarm ranks its members by, ``point`` or ``epoch``; None for other methods."""
        return getattr(self.method, "fitness_from", None)

    def _stay_at_the_start(self) -> None:
        """Where the very first round diverged, the starts are all that is known.

        Raises:
            RuntimeError: if the loss is finite at none of them.
        """
        self.state = self._begun()
        if hasattr(self.state, "best_fitness"):
            self.record.offer(self.state.best, self.state.best_fitness)
        else:
            objective = self.objective(0)
            self.record.offer(*self._best_start(lambda z: self._losses(objective, z)))
        if self.record.best is None:
            raise RuntimeError(
                "the loss is finite at no member's start: look at the data, the loss and the "
                "starting weights"
            )

    def _judge_last(self, info: Info) -> None:
        """A method that moves after it evaluates leaves its last points to be evaluated here."""
        if self.fitness_from is not None or info.position is self.state.position:
            return
        objective = self.objective(self.iteration)
        self.record.offer(self.state.position, self._losses(objective, self.state.position))

    def _best_start(self, judge: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """The best of the starts by what ``judge`` says of points, and the fitness of all."""
        fitness = baseline.begun(self.problem, self.start, judge)
        member = int(torch.where(fitness.isnan(), torch.inf, fitness).argmin())
        place = self.start(slice(member, member + 1))
        return place.expand(len(fitness), -1), fitness

    def _losses(self, objective: Any, z: Tensor) -> Tensor:
        """The losses (n,) at points (n, p), as a step with gradients finds them."""
        return measured(objective, z, self.problem.device)[0]

    def _compare(self) -> None:
        """Notes whether the best point is better than a constant output, and than the starts."""
        measured: Any = self.measured
        self.record.judgement = baseline.judgement(self.problem, self.start, measured)

    def _best_measured(self) -> dict[str, Any]:
        """The best point judged on the whole data, without penalty."""
        z = self.best()
        loss, grad = value_and_grad(self.problem.evaluation, z)
        norm = torch.linalg.vector_norm(grad.double())
        measured = {"loss": float(loss), "gradient_norm": float(norm)}
        fitness = getattr(self.method, "fitness", None)
        if fitness is not None and not getattr(self.method, "stale_fitness", False):
            judged = fitness(self.problem.evaluation, z[None], loss[None], grad[None])
            measured["fitness"] = float(judged[0])
        elif fitness is None:
            measured["fitness"] = float(loss)
        return {**measured, "metrics": self.problem.metrics(z)}


def train(
    config: Config,
    folder: RunFolder,
    *,
    resume: bool = False,
    begun: Callable[[Training], None] = lambda training: None,
    progress: Callable[[Training, Info], None] | None = None,
    leave: Callable[[], bool] = lambda: False,
    warn: Callable[[str], None] = lambda message: None,
    breakable: Breakable = nullcontext,
    executor: Executor | None = None,
) -> Checkpoint:
    """The last checkpoint of the run in ``folder``, which is trained, or trained to its end.

    Args:
        config: what to train.
        folder: where it lives; must not exist unless ``resume``.
        resume: go on from the newest whole checkpoint, or begin where there is none.
        begun: called when all is set up and nothing is trained yet.
        progress: called after every round.
        leave: asked after every round; where it says so, the run ends with a checkpoint.
        warn: gets one line for each damaged checkpoint that was passed over, one where members live
            elsewhere than on the device although nobody asked for that, and for what is odd about
            the data.
        breakable: what takes long, a round or a judgement, runs inside; a KeyboardInterrupt there
            ends the run with a checkpoint of all rounds that were done.
        executor: has the members moved by other processes, with the same bits, however many there
            are; in this one where None.

    Raises:
        FileExistsError: if the folder exists and ``resume`` is False.
        ValueError: if the configuration does not fit, or not that of the folder.
        DamagedFile: if there are checkpoints but none is whole, or of another model.
        OSError: if the disk refuses.
        OutOfMemory: if there is no memory left; says what to lower.
        NotCompiled: if the network is to be compiled and cannot be; says why.
        KeyboardInterrupt: if there was one before the first round was done.
    """
    if folder.path.exists() and not resume:
        raise FileExistsError(
            f"{folder.path} exists; go on with --resume, or choose another folder with --out"
        )
    found = _newest(folder, warn) if resume else None
    config = _settled(config, folder, found, torch.get_num_threads() if executor is None else 1)
    if found is not None and found.meta["status"] in (FINISHED, DIVERGED):
        # As the run would have left it, had it not been killed in its very last moment.
        tidy(folder.snapshots, names_of(of_checkpoint(folder.snapshots, found)))
        return found
    with (
        _threads(config.threads), freed_memory_kept(),
        told_of_memory(config, folder), told_of_compiling(config, folder),
    ):  # fmt: skip
        training = Training.of(config, folder.path, executor)
        for line in remarks(config, training.problem):
            warn(line)
        config = training.config
        if config.members_live == "auto" and training.population is not None:
            if executor is not None:
                for line in _unshared(training):
                    warn(line)
            elif not training.population.keeps:
                warn(_moved_out(training))
        resumed_at = None if found is None else found.iteration
        if found is None:
            folder.create(config, fresh=not resume)
        else:
            try:
                training.restore(found)
            except ValueError as error:
                raise DamagedFile(folder.checkpoints, str(error)) from None
            # Its arrays are large, and what is needed of them is in the training now.
            found = None
        folder.clear_stale()
        _keep_start(training, folder)
        if training.snapshots is not None:
            training.snapshots.clear()
        begun(training)

        def after(training: Training, info: Info) -> bool:
            if progress is not None:
                progress(training, info)
            if training.status != RUNNING or leave():
                return True
            if training.iteration % config.interval == 0:
                save_recording(training.recorder, folder, config, training.identity)
                _save(training, folder)
            return False

        training.advance(after, breakable)
        # What belongs to a finished run is in place before the checkpoint that says so.
        _export(training, folder, breakable)
        # Of a run that was left when its rounds were done, the same round says now how it ended.
        told = resumed_at == training.iteration and training.status != INTERRUPTED
        last = _save(training, folder, instead=told)
    return last


def _save(training: Training, folder: RunFolder, *, instead: bool = False) -> Checkpoint:
    """The checkpoint of where the run stands, which is now in its folder."""
    made = training.checkpoint()
    checkpoint.save(folder.checkpoints, made, instead=instead)
    if training.snapshots is not None:
        training.snapshots.saved(last=training.status in (FINISHED, DIVERGED))
    return made


def _keep_start(training: Training, folder: RunFolder) -> None:
    """Copies the weights that member 0 starts at, if they were named, into the run's folder.

    Who goes on, or measures, needs them, and the file or the run that they come from may go.
    """
    copy, risk = folder.start, training.problem.training
    if not training.config.weights or copy.best.is_file():
        return
    copy.path.mkdir(exist_ok=True)
    z = risk.point()
    # The network last: where it is, the copy is whole.
    for path, tensors in (
        (copy.best_loss, risk.loss_state_dict(z)),
        (copy.best, risk.state_dict(z)),
    ):
        if tensors:
            with replacing(path) as temporary:
                temporary.write_bytes(encoded({name: t.cpu() for name, t in tensors.items()}))


def _newest(folder: RunFolder, warn: Callable[[str], None]) -> Checkpoint | None:
    found, damaged = folder.newest()
    for path in damaged:
        warn(f"{path} is damaged; going on from the checkpoint before it")
    return found


def _settled(config: Config, folder: RunFolder, found: Checkpoint | None, threads: int) -> Config:
    """The configuration with device and threads as they are here, or were when the run began.

    Args:
        config: what is trained.
        folder: where.
        found: the newest checkpoint there.
        threads: where nobody has said another number.

    Raises:
        ValueError: if it is not the one that the run was begun with.
    """
    threads = config.threads or threads
    device = str(choose_device(config.device))
    if found is None:
        return replace(config, device=device, threads=threads)
    begun = folder.config()
    config = replace(
        config,
        device=begun.device if config.device == "auto" else device,
        threads=config.threads or begun.threads,
    )
    if config.method == begun.method and minibatches.left_open(config):
        config = minibatches.with_size(config, minibatches.size_in(begun))
    if different := config.differences(begun):
        raise ValueError(
            f"{folder.path} was begun with {', '.join(different)}; give the same configuration, "
            "or choose another folder with --out"
        )
    return replace(begun, members_live=config.members_live)


def _moved_out(training: Training) -> str:
    """Where members are that were not asked to live there."""
    size = training.start.bytes / 2**20
    return (
        f"the members have {size:,.0f} MiB and live in host memory; they visit the device one at a "
        "time, with the same bits. --members-live device keeps them there"
    )


def _unshared(training: Training) -> Iterator[str]:
    """One line, if all members are moved by one worker."""
    members = training.start.members
    population: Any = training.population
    if members > 1 and len(population.blocks(training.objective(0), members)) < 2:
        yield (
            f"all {members} members are evaluated together, so that one worker moves them all; "
            "--together 8, also where there is one worker, cuts them into groups of 8"
        )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Torch uses so many threads inside, because sums depend on it in the last bits."""
    before = torch.get_num_threads()
    if count in (0, before):
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _export(training: Training, folder: RunFolder, breakable: Breakable) -> None:
    """Writes the learning curves, and the best member as a state dict; beside it that of a loss.

    Where that is broken off, as statistics are re-estimated for it, there are the curves alone, of
    a run that is interrupted. The state dicts have the digest of their tensors and no other
    metadata, so that equal runs give equal bytes.
    """
    try:
        with breakable():
            files = _state_dicts(training, folder)
    except KeyboardInterrupt:
        files, training.status = {}, INTERRUPTED
    folder.analysis.mkdir(exist_ok=True)
    config = training.config
    history = training.record.history(config.method, config.task, training.status)
    origin = {
        "run": config.to_yaml(),
        "seed": config.seed,
        "wall_seconds": time.perf_counter() - training.began,
        **training.identity,
        **training.problem.task.provenance,
    }
    if training.fitness_from is not None:
        origin["fitness_from"] = training.fitness_from
    history = replace(history, provenance={**history.provenance, **origin})
    results.save(history, folder.analysis / "history.h5")
    save_recording(training.recorder, folder, config, training.identity)
    for path, tensors in files.items():
        with replacing(path) as temporary:
            temporary.write_bytes(encoded(tensors))


def _state_dicts(training: Training, folder: RunFolder) -> dict[Path, dict[str, Tensor]]:
    """The best member by the path of its file, and its loss where that has tensors."""
    files = {folder.best: training.problem.state_dict(training.best())}
    if of_loss := training.problem.training.loss_state_dict(training.best()):
        files[folder.best_loss] = {name: tensor.cpu() for name, tensor in of_loss.items()}
    return files


@cache
def _versions() -> Mapping[str, str]:
    names = ("torch", "numpy", "h5py", "safetensors")
    found = {name: importlib.metadata.version(name) for name in names}
    return MappingProxyType({"python": platform.python_version(), **found})
