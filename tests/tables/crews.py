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
    """Inside, so many workers are killed, each while it has a call; gives how many were."""
    draw, over, done = random.Random(seed), threading.Event(), []

    def kill():
        while len(done) < kills and not over.is_set():
            time.sleep(draw.uniform(0.0, 0.05))
            busy = [hand._call.worker for hand in made._hands if hand._call is not None]
            busy = [w for w in busy if w is not None and w.process.is_alive()]
            if busy:
                victim = draw.choice(busy)
                with suppress(ProcessLookupError):
                    os.kill(victim.process.pid, signal.SIGKILL)
                    victim.process.join()
                    done.append(victim.process.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()
