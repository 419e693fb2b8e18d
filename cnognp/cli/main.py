"""Entry point: finds the verb, builds its parser, runs it, and turns errors into one line."""

# What is imported here comes at once: Ctrl-C is understood from the first line of `main` on.
import importlib
import os
import signal
import sys
import threading
import traceback
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from types import MappingProxyType
from typing import Any

from cnognp import __version__
from cnognp.cli import signals

VERBS = MappingProxyType({
    "train": "train a population on a task",
    "analyze": "measure a run, or the weights of any model",
    "plot": "draw the results of a run",
    "compare": "several runs side by side",
    "path": "the loss along a path between two points",
    "connect": "walls between the minima of some runs, and the valleys they leave",
    "export": "write a result for other programs",
    "show": "say how a run stands, or what a folder of results holds",
    "demo": "where a method ends on two-dimensional test functions",
    "study": "the studies that there are, or run, resume and draw one",
    "tasks": "the tasks that there are",
    "methods": "the methods that there are, or the keys of one",
})

# Verbs that write, and that every process of torchrun would do anew.
_ALONE = ("train", "study", "demo")
GOOD, FAILED, USAGE, DAMAGED = 0, 1, 2, 3
_COMPLETION = "--print_completion"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0 good, 1 failed, 2 usage or configuration, 3 bad file, 128 + a signal."""
    argv = list(sys.argv[1:] if argv is None else argv)
    verb = next((word for word in argv if not word.startswith("-")), "")
    leaving = signals.Leaving()
    try:
        _open_streams()
        with _leaving(leaving):
            try:
                return _run(verb, argv)
            finally:
                # What does not get out is an error here, and not a complaint of Python's later.
                sys.stdout.flush()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else USAGE
    except KeyboardInterrupt:
        return 128 + (leaving.received or [signal.SIGINT])[0]
    except BrokenPipeError:
        _drop_output()
        return FAILED
    except Exception as error:
        if leaving.received:
            return 128 + leaving.received[0]
        if os.environ.get("CNOGNP_TRACEBACK"):
            traceback.print_exc()
        with suppress(OSError):
            if not _follows():
                sys.stderr.write(f"cnognp{' ' + verb if verb in VERBS else ''}: {_line(error)}\n")
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        return _code_of(error)


def _run(verb: str, argv: list[str]) -> int:
    from cnognp.cli.arguments import value_of
    from cnognp.cli.console import only_objects

    if (shell := value_of(argv, _COMPLETION)) is not None:
        from cnognp.cli.completion import script

        sys.stdout.write(script(shell, VERBS))
        return GOOD
    helps = "-h" in argv or "--help" in argv
    if verb in _ALONE and not helps and os.environ.get("WORLD_SIZE", "1") != "1":
        raise ValueError(f"{verb} is not shared among ranks: start it without torchrun")
    try:
        # Already reading the arguments may run a file of the user's, which may print.
        with only_objects() if "--json" in argv and not helps else nullcontext():
            options = _parser_of(verb, argv)
            return importlib.import_module(f"cnognp.cli.{verb}").command(options) or GOOD
    except SystemExit as leaving:
        if isinstance(leaving.__context__, BrokenPipeError):
            raise leaving.__context__ from None
        if {"-h", "--help", "--version"} & set(argv):
            raise
        raise RuntimeError(
            f"the code of the task called exit({leaving.code!r}), so nothing came of it: have it "
            "raise an error, or return a Task"
        ) from None


def _open_streams() -> None:
    """Standard streams that were closed swallow what they get; others say any text that there is.

    A file that is opened where there is no standard output would get what libraries print.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")
    if getattr(sys.stdout, "errors", "") == "strict" and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """The reader of our output has left; Python would complain once more when it flushes."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _leaving(leaving: signals.Leaving) -> Iterator[None]:
    """Inside, SIGTERM ends what runs as Ctrl-C does: bars are taken away, and half files.

    SIGUSR1 ends nothing: a run that is trained heeds it as soon as it is there.
    """
    usual = {
        signal.SIGTERM: (signal.SIG_DFL, leaving),
        signal.SIGINT: (signal.default_int_handler, leaving),
        signal.SIGUSR1: (signal.SIG_DFL, signals.Noted()),
    }
    first = threading.current_thread() is threading.main_thread()
    taken = {n: was for n, (was, _) in usual.items() if first and signal.getsignal(n) is was}
    try:
        for number in taken:
            signal.signal(number, usual[number][1])
        yield
    finally:
        for number, was in taken.items():
            signal.signal(number, was)


def _follows() -> bool:
    """Whether another process of torchrun says what all of them would say."""
    return os.environ.get("RANK", "0") != "0" and "TORCHELASTIC_RUN_ID" in os.environ


def _code_of(error: Exception) -> int:
    """The exit code that belongs to an error."""
    from landscape.files import DamagedFile

    if isinstance(error, DamagedFile):
        return DAMAGED
    usage = (ArgumentError, ValueError, TypeError, FileExistsError, FileNotFoundError)
    return USAGE if isinstance(error, usage) else FAILED


def _line(error: Exception) -> str:
    """The error's message in one line, with its kind and its place where they are not ours."""
    text, place = str(error), _place(error)
    known = isinstance(error, (ArgumentError, ValueError, TypeError, RuntimeError, OSError))
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if place or not known:
        text = f"{place}{type(error).__name__}: {text}"
    return " ".join(text.split()) or type(error).__name__


def _place(error: Exception) -> str:
    """The deepest line in the file of the user's task that the error came through, if it did."""
    lines = [
        f"{frame.f_code.co_filename}, line {number}: "
        for frame, number in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).startswith("cnognp_task_")
    ]
    return lines[-1] if lines else ""


def _written(message: str, file: Any = None) -> None:
    """Nothing; the message is out, or that it is not is an error, which argparse would swallow."""
    (file or sys.stderr).write(message)


def _parser_of(verb: str, argv: list[str]):
    """The verb's options.

    Raises:
        ValueError: if there is no such verb.
    """
    from jsonargparse import ArgumentParser

    from cnognp.cli.arguments import explained, unknown

    parser = ArgumentParser(
        prog="cnognp",
        version=__version__,
        exit_on_error=False,
        allow_abbrev=False,
        description="Trains populations, measures how flat their minima are, and draws it.",
    )
    parser._print_message = _written  # type: ignore[method-assign]
    hint = "print what a shell needs to complete the command, for instance bash"
    parser.add_argument(_COMPLETION, type=str, metavar="SHELL", help=hint)
    if verb not in VERBS:
        if verb:
            raise ValueError(unknown("verb", verb, VERBS))
        if not argv:
            argv.append("--help")
    chosen = parser
    verbs = parser.add_subcommands(required=True, dest="verb", title="verbs")
    for name, line in VERBS.items():
        own = ArgumentParser(
            exit_on_error=False, allow_abbrev=False, print_config=None, description=line
        )
        own._print_message = _written  # type: ignore[method-assign]
        if name == verb:
            module = importlib.import_module(f"cnognp.cli.{name}")
            place = argv.index(verb) + 1
            argv[place:] = module.prepare(own, argv[place:])
            chosen = own
        verbs.add_subcommand(name, own, help=line)
    try:
        return parser.parse_args(argv)[verb]
    except ArgumentError as error:
        raise ValueError(explained(error, chosen)) from None


if __name__ == "__main__":
    sys.exit(main())
