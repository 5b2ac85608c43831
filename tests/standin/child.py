"""A whole daemon with stand-in work as a process of its own: `python child.py CONFIG [once] [options]`.

`--pause S` shortens the pause after a disk refused (30 s in the product), `--retry-delay S` the wait before another try
after a worker's death (10 s in the product, doubled with each further one), so that a campaign of many deaths ends.
`python child.py --nursery` reads such arguments as lines of JSON, forks a daemon for each and says its process id:
imports, most of a start, are paid once.
"""

import argparse
import json
import multiprocessing
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from standin import WORK

from stackd import logs, turn
from stackd.daemon import Daemon
from stackd.errors import StackdError
from stackd.jobs import delivery
from stackd.jobs.worker import Work
from stackd.settings import load


def nursery() -> None:
    """Fork daemons until stdin ends; they run where this was started, with its stderr."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    while line := sys.stdin.readline():
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, 0)
            os.dup2(nowhere, 1)
            context = multiprocessing.get_context("fork")

            def forked(kind: str, context: Any = context) -> Any:
                return context  # workers by fork, too: the stand-ins know no TensorFlow

            multiprocessing.get_context = forked
            code = 70
            try:
                code = main(json.loads(line))
            finally:
                os._exit(code)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def main(words: list[str]) -> int:
    """Exit code as the command line's."""
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("once", nargs="?", choices=["once"])
    parser.add_argument("--retry-delay", type=float)
    parser.add_argument("--real", action="store_true", help="the product's own work instead of the stand-ins")
    parser.add_argument("--process", help="the product's own work but for this MODULE:FUNCTION instead of its process")
    parser.add_argument("--pause", type=float, default=turn.PAUSE_S)
    parser.add_argument("--checked-models", action="store_true")
    asked = parser.parse_args(words)
    turn.PAUSE_S = asked.pause
    if asked.retry_delay is not None:
        delivery.FIRST_DELAY_S = delivery.LONGEST_DELAY_S = asked.retry_delay
    settings = load(asked.config, {})
    logs.configure("INFO")
    try:
        daemon = Daemon(settings, work=_work(asked))
    except StackdError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    try:
        if asked.once:
            daemon.once()
        else:
            daemon.run()
    finally:
        daemon.close()
    return 0


def _work(asked: argparse.Namespace) -> Work | None:
    if asked.process:
        return Work(process=asked.process)
    if asked.real:
        return None
    return replace(WORK, load="standin:load_checked") if asked.checked_models else WORK


if __name__ == "__main__":
    sys.exit(nursery() if sys.argv[1:] == ["--nursery"] else main(sys.argv[1:]))
