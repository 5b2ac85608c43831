"""Results appear whole or not at all, nothing is overwritten, foreign files are left alone."""

import errno
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stackd.disk import outbox
from stackd.records import Sighting

JOB = {"set": "M27", "identity": "i", "digest": "d", "attempt": 1, "frames": []}


def stage(folder: Path, name: str = "M27", content: str = "pixels") -> Path:
    """A staged result."""
    staging = outbox.make_staging(folder, name, 1)
    (staging / "restored.fits").write_text(content)
    outbox.write_manifest(staging, {"job": JOB | {"set": name}})
    return staging


def test_a_published_set_is_whole_and_found_by_its_manifest(tmp_path: Path) -> None:
    """One folder with all its files; nothing is left in staging."""
    folder = outbox.publish(stage(tmp_path), tmp_path, "M27")

    assert folder == tmp_path / "M27"
    assert sorted(os.listdir(folder)) == ["restored.fits", "result.json"]
    assert os.listdir(tmp_path / outbox.STAGING) == []
    found = outbox.find_published(tmp_path, "M27", "i")
    assert found is not None
    assert found[0] == folder
    assert outbox.find_published(tmp_path, "M27", "other") is None
    assert outbox.published_folders(tmp_path) == [folder]


@pytest.mark.parametrize("foreign", ["folder", "empty folder", "file", "link"])
def test_nothing_is_overwritten(tmp_path: Path, foreign: str) -> None:
    """Whatever has the name already stays; the set takes the next free one."""
    taken = tmp_path / "M27"
    if foreign == "file":
        taken.write_text("mine")
    elif foreign == "link":
        taken.symlink_to(tmp_path / "nowhere")
    else:
        taken.mkdir()
        if foreign == "folder":
            (taken / "mine").write_text("mine")
    before = os.lstat(taken)

    folder = outbox.publish(stage(tmp_path), tmp_path, "M27")

    assert folder.name == "M27__r2"
    assert os.lstat(taken).st_ino == before.st_ino
    assert outbox.publish(stage(tmp_path), tmp_path, "M27").name == "M27__r3"
    found = outbox.find_published(tmp_path, "M27", "i")
    assert found is not None
    assert found[0].name == "M27__r2"


def test_everything_is_on_the_disk_before_it_is_visible(tmp_path: Path) -> None:
    """strace's own words: every file and folder is flushed, then renamed, then the outbox is flushed."""
    code = (
        "import sys; from pathlib import Path; from stackd.disk import outbox; o = Path(sys.argv[1]);"
        "s = outbox.make_staging(o, 'M27', 1); (s / 'restored.fits').write_text('x');"
        "outbox.write_manifest(s, {'job': {}}); outbox.publish(s, o, 'M27')"
    )
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-y", "-e", "trace=fsync,rename,renameat,renameat2", "-o", str(trace)]
    try:
        subprocess.run([*command, sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("strace is not installed")
    except subprocess.CalledProcessError as error:
        if b"ptrace" in error.stderr:
            pytest.skip("strace is not allowed here")
        raise
    lines = trace.read_text().splitlines()
    [rename] = [n for n, line in enumerate(lines) if "rename" in line and "M27.1" in line]
    before = [line for line in lines[:rename] if "fsync" in line]
    after = [line for line in lines[rename:] if "fsync" in line]

    assert any("restored.fits>" in line for line in before)
    assert any("result.json>" in line for line in before)
    assert any("M27.1>" in line for line in before)
    assert any(f"<{tmp_path}>" in line for line in after)


def test_everything_is_flushed_before_it_is_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, as Python calls it, where there is no strace."""
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def noted_fsync(handle: int) -> None:
        done.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    def noted_rename(source: Path, target: Path) -> None:
        done.append("renamed")
        rename(source, target)

    staging = stage(tmp_path)
    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    outbox.publish(staging, tmp_path, "M27")

    at = done.index("renamed")
    assert set(done[:at]) == {str(staging), str(staging / "restored.fits"), str(staging / "result.json")}
    assert set(done[at + 1 :]) == {str(tmp_path), str(tmp_path / outbox.STAGING)}


def test_names_cannot_leave_the_folder(tmp_path: Path) -> None:
    """A name made of a stranger's words is looked at once more."""
    for name in ("", "..", ".hidden", "a/b", "/etc", "a\0b"):
        with pytest.raises(ValueError, match="no name"):
            outbox.make_staging(tmp_path, name, 1)
        with pytest.raises(ValueError, match="no name"):
            outbox.write_report(tmp_path, name, {})


def test_an_outbox_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    """A vanished mount is an error, not a new folder below the mount point."""
    with pytest.raises(FileNotFoundError):
        outbox.make_staging(tmp_path / "gone", "M27", 1)
    assert os.listdir(tmp_path) == []


def test_sweep_removes_unfinished_attempts_alone(tmp_path: Path) -> None:
    """After a crash the staging folder is emptied, finished sets stay."""
    outbox.publish(stage(tmp_path), tmp_path, "M27")
    stage(tmp_path, "M31")

    assert outbox.sweep(tmp_path) == ["M31.1"]
    assert os.listdir(tmp_path / outbox.STAGING) == []
    assert (tmp_path / "M27" / "result.json").is_file()
    assert outbox.sweep(tmp_path / "M27") == []


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"job": 3}', '{"job": {"set": "x"}}'])
def test_foreign_manifests_are_no_proof(tmp_path: Path, content: str) -> None:
    """People put all sorts of files into the outbox; none of them stops a start."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "result.json").write_text(content)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "result.json").mkdir()

    assert outbox.read_manifest(tmp_path / "theirs") is None
    assert outbox.read_manifest(tmp_path / "folder") is None
    assert outbox.read_manifest(tmp_path / "missing") is None


def test_reports_are_replaced_and_cleared_without_touching_others_files(tmp_path: Path) -> None:
    """error.json tells the last verdict and goes when the set revives; a user's note beside it stays."""
    report = {"set": "M27", "identity": "", "attempts": 0, "reason": "a", "file": None, "remedy": "", "frames": []}
    outbox.write_report(tmp_path, "M27", report)
    path = outbox.write_report(tmp_path, "M27", report | {"reason": "b"})
    assert json.loads(path.read_text())["reason"] == "b"
    assert [one["set"] for one in outbox.reports(tmp_path)] == ["M27"]

    (tmp_path / "M27" / "note.txt").write_text("mine")
    outbox.clear_report(tmp_path, "M27")
    assert os.listdir(tmp_path / "M27") == ["note.txt"]
    (tmp_path / "M27" / "note.txt").unlink()
    outbox.clear_report(tmp_path, "M27")
    outbox.clear_report(tmp_path, "M27")
    assert os.listdir(tmp_path) == []


def test_archive_moves_what_was_used_and_nothing_else(tmp_path: Path) -> None:
    """A frame that changed since, or whose place is taken, stays where it is."""
    inbox, archive = tmp_path / "inbox", tmp_path / "archive"
    (inbox / "M27").mkdir(parents=True)
    frames = []
    for name in ("a", "b", "c"):
        file = inbox / "M27" / f"{name}.fits"
        file.write_text(name)
        status = file.stat()
        frames.append(Sighting(f"M27/{name}.fits", status.st_size, status.st_mtime_ns, status.st_ino))
    (inbox / "M27" / "b.fits").write_text("changed since")
    (archive / "M27").mkdir(parents=True)
    (archive / "M27" / "c.fits").write_text("here first")

    left = outbox.archive_frames(inbox, archive, "M27", frames, lambda: None)

    assert [one.partition(":")[0] for one in left] == ["M27/b.fits", "M27/c.fits"]
    assert sorted(os.listdir(inbox / "M27")) == ["b.fits", "c.fits"]
    assert (archive / "M27" / "a.fits").read_text() == "a"
    assert (archive / "M27" / "c.fits").read_text() == "here first"
    assert outbox.archive_frames(inbox, archive, "M27", frames[:1], lambda: None) == []


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than tmp_path's."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


def one_frame(inbox: Path, content: bytes) -> list[Sighting]:
    """A set of one frame, taken long ago."""
    (inbox / "M27").mkdir(parents=True)
    (inbox / "M27" / "a.fits").write_bytes(content)
    os.utime(inbox / "M27" / "a.fits", ns=(10**18, 10**18))
    return [Sighting("M27/a.fits", len(content), 10**18, 0)]


def test_a_frame_goes_to_another_disk_in_pieces(
    tmp_path: Path, other_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A giant over a slow network: whoever asks hears of every piece; content and time are kept."""
    monkeypatch.setattr(outbox, "_PIECE_BYTES", 1000)
    steps: list[int] = []
    frames = one_frame(tmp_path / "inbox", bytes(range(250)) * 41)

    outbox.archive_frames(tmp_path / "inbox", other_disk, "M27", frames, lambda: steps.append(1))

    assert os.listdir(tmp_path / "inbox" / "M27") == []
    assert os.listdir(other_disk / "M27") == ["a.fits"]
    assert (other_disk / "M27" / "a.fits").read_bytes() == bytes(range(250)) * 41
    assert (other_disk / "M27" / "a.fits").stat().st_mtime_ns == 10**18
    assert len(steps) >= 11


def test_an_inbox_that_lets_nothing_go_leaves_no_copy(
    tmp_path: Path, other_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame lies in one place: the next try finds its place in the archive free."""
    frames = one_frame(tmp_path / "inbox", b"light")
    unlink = Path.unlink

    def refused(path: Path, missing_ok: bool = False) -> None:
        if path.is_relative_to(tmp_path / "inbox"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        unlink(path, missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refused)
        with pytest.raises(OSError, match="Read-only"):
            outbox.archive_frames(tmp_path / "inbox", other_disk, "M27", frames, lambda: None)
    assert os.listdir(other_disk / "M27") == []

    assert outbox.archive_frames(tmp_path / "inbox", other_disk, "M27", frames, lambda: None) == []
    assert os.listdir(other_disk / "M27") == ["a.fits"]
