"""Pools of workers that tests share, and what kills their processes."""

import atexit
import os
import random
import signal
import threading
import time
from contextlib import contextmanager, suppress
from functools import cache

from cnognp.workers import Pool


@cache
def pool(workers):
    """A pool that stays until all tests are done."""
    made = Pool(workers, threads=1)
    atexit.register(made.shutdown, cancel_futures=True)
    return made


def executor(workers):
    """What does the work of so many."""
    return None if workers == 1 else pool(workers)


@contextmanager
def killing(made, kills, seed=0):
    """Inside, so many workers are killed, each while it has a call; gives how many were.

    The same one again only when it has another call: a pool takes for the cause what kills three.
    """
    draw, over, done = random.Random(seed), threading.Event(), []
    struck = {}

    def kill():
        while len(done) < kills and not over.is_set():
            time.sleep(draw.uniform(0.0, 0.05))
            calls = [(hand, hand._call) for hand in made._hands]
            busy = [
                (hand, call.worker) for hand, call in calls
                if call is not None and call is not struck.get(hand)
            ]  # fmt: skip
            busy = [(hand, w) for hand, w in busy if w is not None and w.process.is_alive()]
            if busy:
                hand, victim = draw.choice(busy)
                with suppress(ProcessLookupError):
                    os.kill(victim.process.pid, signal.SIGKILL)
                    struck[hand] = hand._call
                    victim.process.join()
                    done.append(victim.process.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()
