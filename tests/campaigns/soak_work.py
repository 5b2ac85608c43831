"""The real work of a worker, with a line about the process after each set: the soak's eyes in there.

Named by text in soak.py's command, so that only the worker loads TensorFlow. STACKD_SOAK_NOTES tells the file to
append to.
"""

import json
import os
import time
from collections.abc import Callable
from typing import Any

import psutil

from stackd.jobs import pipeline
from stackd.records import Job


def process(job: Job, restorer: Any, progress: Callable[[str, float], None]) -> dict[str, Any]:
    """`pipeline.process`, timed step by step, then the worker's memory, files, threads and traces of its network."""
    began_s = time.perf_counter()
    steps: list[tuple[str, float]] = [("read", began_s)]

    def heard(step: str, share: float) -> None:
        if step != steps[-1][0]:
            steps.append((step, time.perf_counter()))
        progress(step, share)

    result = pipeline.process(job, restorer, heard)
    ended_s = time.perf_counter()
    ends_s = [*(began for _, began in steps[1:]), ended_s]
    me = psutil.Process()
    line = {
        "set": job.set_name,
        "pid": me.pid,
        "rss_mb": me.memory_info().rss / 1e6,
        "handles": me.num_fds(),
        "threads": me.num_threads(),
        "traces": restorer._call.experimental_get_tracing_count(),
        "seconds": ended_s - began_s,
        "steps_s": {name: end - began for (name, began), end in zip(steps, ends_s)},
    }
    with open(os.environ["STACKD_SOAK_NOTES"], "a", encoding="utf-8") as notes:
        notes.write(json.dumps(line) + "\n")
    return result
