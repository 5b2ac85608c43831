"""Several devices, or several machines, train to what one would: each takes its part of every batch."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from stackd.network import fit
from tests.network import worker_of_two

ROOT = Path(__file__).parents[2]


def started(out: Path, *words: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.network.worker_of_two", str(out), *words],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(*processes: subprocess.Popen) -> None:
    try:
        for process in processes:
            _, errors = process.communicate(timeout=250)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def assert_as_one_alone(stored: Path) -> None:
    """Losses and weights of one process that takes whole batches. The order of sums differs, no more."""
    trainer, losses = worker_of_two.train(tf.distribute.get_strategy())
    with np.load(stored) as found:
        np.testing.assert_allclose(found["losses"], losses, rtol=1e-4)
        for name, values in trainer.averaged_weights().items():
            np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=2e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """MultiWorkerMirroredStrategy from TF_CONFIG, both on this machine: the first is the chief, both end alike."""
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
    outs = [tmp_path / f"{index}.npz" for index in range(2)]

    ended(*(
        started(out, TF_CONFIG=json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}))
        for index, out in enumerate(outs)
    ))  # fmt: skip

    with np.load(outs[0]) as first, np.load(outs[1]) as second:
        assert (bool(first["chief"]), bool(second["chief"])) == (True, False)
        for name in first.files:
            if name != "chief":
                np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    assert_as_one_alone(outs[0])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_devices_train_as_one(tmp_path: Path) -> None:
    """MirroredStrategy, with the processor as two devices."""
    ended(started(tmp_path / "out.npz", "two devices"))

    assert_as_one_alone(tmp_path / "out.npz")


@pytest.mark.parametrize(
    ("jobs", "task", "number", "chief"),
    [
        (["worker"], "worker", 0, True),
        (["worker"], "worker", 1, False),
        (["chief", "worker"], "chief", 0, True),
        (["chief", "worker"], "worker", 0, False),
    ],
)
def test_a_cluster_has_one_chief(jobs: list[str], task: str, number: int, chief: bool) -> None:
    """Whoever TF_CONFIG calls so, else the first worker: two would write the same checkpoint."""
    spec = tf.train.ClusterSpec({job: ["localhost:1"] for job in jobs})
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(spec, task_type=task, task_id=number)

    assert fit.is_chief(SimpleNamespace(cluster_resolver=resolver)) is chief
