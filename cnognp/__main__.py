"""``python -m cnognp`` is the ``cnognp`` command."""

import sys

from cnognp.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
