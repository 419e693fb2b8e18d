"""Signals that arrive before a run is there to heed them. It imports nothing that takes time."""


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


def noted(handler: object) -> list[int]:
    """The signals that a handler has noted before; empty for one of another kind."""
    return list(handler.received) if isinstance(handler, Noted) else []
