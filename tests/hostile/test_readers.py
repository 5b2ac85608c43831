"""Each hostile file by itself: the readers give a verdict with a remedy, or a frame, in little time; nothing else."""

import random
import threading
import time
from pathlib import Path

import pytest

from stackd.disk.inbox import Unfinished
from stackd.disk.reader import read_facts, read_frame
from stackd.errors import SetError
from tests.campaigns import fuzz
from tests.hostile import corpus

MAX_PIXELS, MAX_BYTES = 150_000_000, 1 << 30
MOST_S = 30.0
QUICK = [one for one in corpus.FILES if one.name not in corpus.HEAVY]


def verdict(read: object, path: Path) -> str:
    """ "read", "refused" or "unfinished"; anything else than a SetError fails the test."""
    try:
        read(path, MAX_PIXELS, MAX_BYTES)
    except SetError as error:
        assert error.file == str(path)
        assert error.reason.isprintable()
        assert error.remedy
        return "unfinished" if isinstance(error, Unfinished) else "refused"
    return "read"


def test_the_corpus_is_as_large_as_promised() -> None:
    """At least forty hostile files, each under a name of its own."""
    names = [one.name for one in (*corpus.FILES, *corpus.SETS, *corpus.PLACES)]

    assert len(corpus.FILES) >= 40
    assert len(names) == len(set(names))


@pytest.mark.parametrize("one", QUICK, ids=lambda one: one.name)
def test_a_hostile_file_gets_its_verdict(tmp_path: Path, one: corpus.HostileFile) -> None:
    """By looking at the header alone, and by reading the pixels."""
    path = tmp_path / one.name
    one.make(path)
    said, late = one.verdict.removesuffix(" late"), one.verdict.endswith("late")

    began_s = time.monotonic()
    assert verdict(read_facts, path) == ("read" if late else said)
    assert verdict(read_frame, path) == said
    assert time.monotonic() - began_s < MOST_S


@pytest.mark.parametrize("place", corpus.PLACES, ids=lambda one: one.name)
def test_what_is_no_file_is_never_read(tmp_path: Path, place: corpus.HostilePlace) -> None:
    """Even when asked for by name: a pipe does not block, a link is not followed, a folder is no frame."""
    path = tmp_path / Path(place.make(tmp_path).decode("utf-8", "surrogateescape"))

    for read in (read_facts, read_frame):
        with pytest.raises(SetError) as caught:
            read(path, MAX_PIXELS, MAX_BYTES)
        assert str(caught.value).isprintable()


GOOD = fuzz.good_files()


@pytest.mark.parametrize("kind", GOOD)
def test_a_damaged_file_of_any_kind_gets_a_verdict(tmp_path: Path, kind: str) -> None:
    """Forty times damaged, by the hour-long campaign's own hand (tests/campaigns/fuzz.py)."""
    path, draw = tmp_path / "a.fits", random.Random(7)
    path.write_bytes(GOOD[kind])
    assert {verdict(read, path) for read in (read_facts, read_frame)} == {"read"}

    for _ in range(40):
        path.write_bytes(fuzz.damaged(GOOD[kind], draw))
        for read in (read_facts, read_frame):
            verdict(read, path)


@pytest.mark.parametrize("make", [corpus.frame_bytes, corpus.good_png, corpus.good_jpeg, corpus.good_tiff])
def test_a_file_that_shrinks_and_grows_under_the_reader(tmp_path: Path, make: object) -> None:
    """Whatever moment it is read at: a frame or a verdict. Nothing is mapped, so nothing kills the process."""
    path, content, ended = tmp_path / "a.fits", make(), threading.Event()
    path.write_bytes(content)

    def play() -> None:
        sizes = (0, 10, 3000, len(content) // 2, len(content) - 1)
        while not ended.is_set():
            for size in sizes:
                with open(path, "r+b") as file:
                    file.truncate(size)
                path.write_bytes(content)

    player = threading.Thread(target=play)
    player.start()
    seen = set()
    try:
        for _ in range(300):
            seen |= {verdict(read, path) for read in (read_facts, read_frame)}
    finally:
        ended.set()
        player.join()

    assert seen <= {"read", "refused", "unfinished"}
    assert "unfinished" in seen
