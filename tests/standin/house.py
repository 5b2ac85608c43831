"""A whole daemon with stand-in work, as a process of its own: `python house.py CONFIG [once]`."""

import sys
from pathlib import Path

from standin import WORK

from stackd import logs
from stackd.daemon import Daemon
from stackd.errors import StackdError
from stackd.settings import load


def main() -> int:
    """Exit code as the command line's."""
    settings = load(Path(sys.argv[1]), {})
    logs.configure("DEBUG")
    try:
        daemon = Daemon(settings, work=WORK)
    except StackdError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    try:
        if sys.argv[2:] == ["once"]:
            daemon.once()
        else:
            daemon.run()
    finally:
        daemon.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
