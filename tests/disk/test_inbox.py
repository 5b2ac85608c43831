"""What the inbox promises: it only looks, it follows nothing, it never hangs, it reads a file once."""

import hashlib
import os
import socket
from pathlib import Path

import pytest

from stackd.disk.inbox import Unfinished, open_safely, own_calibration, read_once, scan
from stackd.errors import SetError

PLENTY = 1 << 20


def touch(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def paths(inbox: Path) -> list[str]:
    return [sighting.path for sighting in scan(inbox).sightings]


def test_finds_loose_files_and_those_of_direct_folders_whatever_the_case(tmp_path: Path) -> None:
    """Captures count in the inbox itself and one folder down."""
    pictures = ["M31/1.tif", "M31/2.TIFF", "M31/3.png", "M31/4.jpg", "M31/5.jpeg"]
    names = ["b.FITS", "a.fit", "c.Fts", *pictures, "M33/6.CR2", "M33/7.nef", "M33/8.dng"]
    for name in names:
        touch(tmp_path / name)

    assert paths(tmp_path) == sorted(names)


def test_a_cameras_own_picture_of_a_raw_file_is_no_frame(tmp_path: Path) -> None:
    """RAW+JPEG cameras save both; the picture is named, and one without a raw file is a capture as ever."""
    for name in ("IMG_1.CR2", "IMG_1.JPG", "M33/IMG_1.JPG", "M33/IMG_2.nef", "M33/img_2.jpeg"):
        touch(tmp_path / name)

    listing = scan(tmp_path)

    assert [sighting.path for sighting in listing.sightings] == ["IMG_1.CR2", "M33/IMG_1.JPG", "M33/IMG_2.nef"]
    assert [one.path for one in listing.ignored] == ["IMG_1.JPG", "M33/img_2.jpeg"]
    assert "raw file beside it" in listing.ignored[0].reason


def test_a_sighting_changes_with_the_file(tmp_path: Path) -> None:
    """Equal sightings mean an unchanged file."""
    file = touch(tmp_path / "a.fits", b"one")
    before = scan(tmp_path).sightings
    assert scan(tmp_path).sightings == before

    file.write_bytes(b"longer")

    assert scan(tmp_path).sightings != before
    assert scan(tmp_path).sightings[0].size_bytes == 6


@pytest.mark.parametrize(
    "name",
    ["a.fits.part", "tmp1.fits", "~a.fits", "a.fits~", "a.crdownload", "light_@2024.fit_", "notes.txt", "a.fits.gz"],
)
def test_other_files_are_named_with_a_reason(tmp_path: Path, name: str) -> None:
    """Unfinished copies and foreign files are no captures, and a person can find out why."""
    touch(tmp_path / name)

    listing = scan(tmp_path)

    assert listing.sightings == ()
    assert [one.path for one in listing.ignored] == [name]
    assert listing.ignored[0].reason


@pytest.mark.parametrize(
    "name", [".a.fits", ".syncthing.a.fits.tmp", "._a.fits", "Thumbs.db", "@eaDir/a.fits", ".x/a.fits"]
)
def test_hidden_and_system_names_are_not_worth_a_word(tmp_path: Path, name: str) -> None:
    """What no person put there is not reported to a person."""
    touch(tmp_path / name)

    listing = scan(tmp_path)

    assert (listing.sightings, listing.ignored, listing.empty_folders) == ((), (), ())


def test_links_pipes_and_folders_with_a_capture_name_are_no_captures(tmp_path: Path) -> None:
    """Nothing but a regular file is ever opened."""
    outside = touch(tmp_path / "outside" / "secret.fits")
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "link.fits").symlink_to(outside)
    (inbox / "linked").symlink_to(outside.parent)
    os.mkfifo(inbox / "pipe.fits")
    (inbox / "folder.fits").mkdir()

    listing = scan(inbox)

    assert listing.sightings == ()
    assert [one.path for one in listing.ignored] == ["link.fits", "linked", "pipe.fits"]
    assert listing.empty_folders == ("folder.fits",)


def test_what_a_file_is_comes_before_what_it_is_called(tmp_path: Path) -> None:
    """A link or a pipe is named as one whatever its name ends in, and a person is told what to do."""
    os.mkfifo(tmp_path / "notes.txt")
    (tmp_path / "tmp1").symlink_to("/nowhere")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "s.fits"))

    reasons = {one.path: one.reason for one in scan(tmp_path).ignored}

    assert reasons == {
        "notes.txt": "a named pipe, not a file of pixels; remove it",
        "s.fits": "a socket, not a file of pixels; remove it",
        "tmp1": "a symbolic link; put the file itself there",
    }


def test_unfinished_and_deeper_folders_are_not_entered(tmp_path: Path) -> None:
    """A folder still being copied waits for its name."""
    for name in ("M31/a.fits", "M31/old/o.fits", "M33.part/a.fits"):
        touch(tmp_path / name)

    listing = scan(tmp_path)

    assert [one.path for one in listing.sightings] == ["M31/a.fits"]
    assert [one.path for one in listing.ignored] == ["M31/old", "M33.part"]


def test_darks_flats_and_biases_are_seen_and_are_no_frames_of_a_set(tmp_path: Path) -> None:
    """In a set's folder and beside all of them, whatever the letters' case; what is none is named."""
    wanted = ["M31/Flats/f.fits", "M31/darks/d.fits", "Bias/b.dng", "darks/d.fits", "flatdarks/d.fits"]
    for name in (*wanted, "M31/a.fits", "M33/flats/f.fits", "darks/old/o.fits", "darks/notes.txt", "Bias/b.jpg"):
        touch(tmp_path / name)

    listing = scan(tmp_path)

    assert [one.path for one in listing.sightings] == ["M31/a.fits"]
    assert [one.path for one in listing.calibration] == sorted([*wanted, "M33/flats/f.fits"])
    assert listing.empty_folders == ("M33",)
    assert [one.path for one in listing.ignored] == ["Bias/b.jpg", "darks/notes.txt", "darks/old"]
    assert [one.path for one in own_calibration(tmp_path, "M31")] == wanted[:2]
    assert own_calibration(tmp_path, "gone") == ()


def test_names_that_cannot_be_printed_are_escaped_and_left_alone(tmp_path: Path) -> None:
    """A newline, an escape sequence or broken UTF-8 in a name reaches no log and no ledger."""
    for name in (b"a\n.fits", b"b\x1b[31m.fits", b"c\xff.fits"):
        touch(Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)))

    listing = scan(tmp_path)

    assert listing.sightings == ()
    assert len(listing.ignored) == 3
    assert all(one.path.isprintable() for one in listing.ignored)


def test_a_missing_inbox_is_an_error_not_an_empty_one(tmp_path: Path) -> None:
    """A mount that has gone must not look as if all files had been deleted."""
    with pytest.raises(FileNotFoundError):
        scan(tmp_path / "gone")


def test_a_set_folder_that_vanishes_meanwhile_is_simply_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user may delete a folder between two looks."""
    touch(tmp_path / "M31" / "a.fits")
    touch(tmp_path / "M33" / "b.fits")
    look = os.scandir

    def look_too_late(folder: Path) -> object:
        if Path(folder).name == "M31":
            raise FileNotFoundError(folder)
        return look(folder)

    monkeypatch.setattr(os, "scandir", look_too_late)

    assert paths(tmp_path) == ["M33/b.fits"]


def test_a_scan_reads_the_folder_once_and_opens_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scan is the truth and runs often, so it must be cheap, however many files lie there."""
    for number in range(10_000):
        (tmp_path / f"light_{number:05d}.fits").touch()
    looked: list[Path] = []
    look = os.scandir

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a scan opened a file")

    monkeypatch.setattr(os, "scandir", lambda folder: looked.append(Path(folder)) or look(folder))
    monkeypatch.setattr(os, "open", refuse)

    listing = scan(tmp_path)

    assert looked == [tmp_path]
    assert len(listing.sightings) == 10_000


def test_read_once_gives_bytes_and_their_digest(tmp_path: Path) -> None:
    """The digest is of exactly the bytes that were returned."""
    content, sha256 = read_once(touch(tmp_path / "a.fits", b"some light"), PLENTY)

    assert content == b"some light"
    assert sha256 == hashlib.sha256(b"some light").hexdigest()


def test_read_once_refuses_links_pipes_folders_and_giants(tmp_path: Path) -> None:
    """None of them is read, none of them blocks."""
    file = touch(tmp_path / "a.fits", b"12345")
    (tmp_path / "link.fits").symlink_to(file)
    os.mkfifo(tmp_path / "pipe.fits")
    (tmp_path / "folder.fits").mkdir()

    for name in ("link.fits", "pipe.fits", "folder.fits"):
        with pytest.raises(SetError, match=name):
            read_once(tmp_path / name, PLENTY)
    with pytest.raises(SetError, match="max_file_mb"):
        read_once(file, 4)


@pytest.mark.parametrize("change", [b"123456", b"54321", b"1"])
def test_a_file_that_changes_while_it_is_read_is_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: bytes
) -> None:
    """Half of the old and half of the new file never pass as one."""
    file = touch(tmp_path / "a.fits", b"12345")
    look = os.fstat

    def look_and_touch(descriptor: int) -> os.stat_result:
        status = look(descriptor)
        file.write_bytes(change)
        os.utime(file, ns=(1, status.st_mtime_ns + 1))
        return status

    monkeypatch.setattr(os, "fstat", look_and_touch)

    with pytest.raises(Unfinished, match=r"a\.fits: changed"):
        read_once(file, PLENTY)


def test_open_safely_leaves_no_descriptor_behind(tmp_path: Path) -> None:
    """A daemon that refuses a thousand files must not run out of descriptors."""
    (tmp_path / "folder.fits").mkdir()
    before = len(os.listdir("/proc/self/fd"))

    for _ in range(5):
        with pytest.raises(SetError), open_safely(tmp_path / "folder.fits", PLENTY):
            pass

    assert len(os.listdir("/proc/self/fd")) == before
