"""``python -m cnognp`` is the ``cnognp`` command."""

import signal
import sys

from cnognp.cli.signals import Noted

if __name__ == "__main__":
    # Before the rest is imported: a batch system may send it at any time.
    if signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:
        signal.signal(signal.SIGUSR1, Noted())
    try:
        from cnognp.cli.main import main

        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
