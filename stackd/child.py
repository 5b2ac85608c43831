"""How a process that stackd has spawned begins its life: it leaves signals to its parent and does not outlive it.

Must not know what the process is for.
"""

import os
import signal
import threading
from multiprocessing import parent_process
from multiprocessing.connection import wait

FOR_THE_PARENT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # a terminal's Ctrl-C reaches all of them


def belong_to_parent() -> None:
    """Ignore what asks a program to stop, which the parent decides on for both; end as soon as the parent is gone,
    however it ended."""
    for number in FOR_THE_PARENT:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
