"""How signals are heeded before a run is there, and along it. Nothing slow is imported."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

GRACE = 5.0
"""Seconds that a round, or a judgement, may go on after a signal; then it is broken off."""


class Left(KeyboardInterrupt):
    """A signal that ends what runs.

    It has a type of its own: where a plain KeyboardInterrupt comes by ``exec``, Python 3.11 ends
    itself with SIGINT later, whoever has caught it.
    """


class Noted:
    """A handler that remembers the signals it got, for a run that asks later."""

    def __init__(self):
        self.received: list[int] = []

    def __call__(self, number, frame):
        self.received.append(number)


class Leaving(Noted):
    """A handler that remembers the signals it got, and ends what runs.

    What is raised in the middle of an import may come out of it as another error, or not at all:
    then what was received says what it was.
    """

    def __call__(self, number, frame):
        super().__call__(number, frame)
        raise Left


class Heeding(Noted):
    """A handler that notes signals for a run, and breaks off what takes long after one.

    What is inside `breakable` is left `GRACE` seconds after the first signal, wherever it is; at a
    second Ctrl-C anything is, at once.
    """

    def __init__(self):
        super().__init__()
        self._inside = self._over = False

    def __call__(self, number, frame):
        if number == signal.SIGALRM:
            self._over = True
            if self._inside:
                raise Left
            return
        if number == signal.SIGINT and self.received:
            raise Left
        super().__call__(number, frame)
        self._count_down()

    @contextmanager
    def breakable(self) -> Iterator[None]:
        """Inside, a signal ends what runs when its time is over.

        Raises:
            Left: then, also where that was before.
        """
        if self._over:
            raise Left
        self._inside = True
        try:
            yield
        finally:
            self._inside = False

    @contextmanager
    def heeded(self, numbers) -> Iterator[None]:
        """Inside, these signals are heeded; afterwards as they were before."""
        before = {n: signal.signal(n, self) for n in (*numbers, signal.SIGALRM)}
        for handler in before.values():
            self.received += noted(handler)
        if self.received:
            self._count_down()
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _count_down(self):
        signal.setitimer(signal.ITIMER_REAL, GRACE)


def noted(handler: object) -> list[int]:
    """The signals that a handler has noted before; empty for one of another kind."""
    return list(handler.received) if isinstance(handler, Noted) else []
