"""The demo: a night worth looking at, restored by the real house, judged against the truth."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from stackd.daemon import Daemon
from stackd.disk.reader import read_facts, read_frame
from stackd.errors import ConfigError, SetError
from stackd.jobs import demo
from stackd.settings import NotifySettings, RestoreSettings, Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a user who asks for the plain stack alone."""
    return Settings(restore=RestoreSettings(network=False), notify=NotifySettings(command=["false"]))


def once(settings: Settings) -> None:
    """What `stackd once` does."""
    daemon = Daemon(settings)
    try:
        daemon.once()
    finally:
        daemon.close()


@pytest.mark.slow
def test_a_whole_demo(tmp_path: Path, settings: Settings) -> None:
    """A real worker restores the night with the shipped network, whatever the user's settings are; the lines name
    pictures that exist, the stack beats one frame, and the network beats the stack by far."""
    lines = list(demo.run(tmp_path / "demo", settings, once))

    figures = {line.partition(":")[0]: line for line in lines}
    assert lines[0].startswith("8 of 8 frames used")
    one, stack = (float(re.search(r"([\d.]+) dB", figures[way])[1]) for way in ("one frame", "plain stack"))
    assert stack > one + 3
    gain = figures["gain of stackd over the plain stack"]
    assert float(re.search(r"\+([\d.]+) dB", gain)[1]) > 8
    for what in ("pictures", "report"):
        assert Path(figures[what].split()[-1]).is_file()
    picture = cv2.imread(str(tmp_path / "demo" / demo.PICTURE))
    assert picture.shape[1] > 4 * demo.LOOK_PX[1]


def test_a_night_with_everything(tmp_path: Path) -> None:
    """Eight Bayer frames as a capture program leaves them: dithered, a trail in one, cloud in another."""
    night = demo.simulate()
    names = demo.write_frames(night, tmp_path / "set")

    assert sum(e.trail for e in night.exposures) == 1
    assert sum(e.cloudy for e in night.exposures) == 1
    assert np.ptp([e.psf.fwhm_px for e in night.exposures]) > 0.5
    assert np.ptp([e.matrix[0, 2] for e in night.exposures]) > 5
    facts = [read_facts(tmp_path / "set" / name, 10**7, 1 << 24) for name in names]
    assert {(f.bayer, f.exposure_s, f.target, f.image_type) for f in facts} == {("RGGB", 120.0, "Demo Nebula", "light")}
    assert len({f.taken_at for f in facts}) == 8
    frame = read_frame(tmp_path / "set" / names[0], 10**7, 1 << 24)
    assert frame.pixels.shape == (demo.FACTS.height_px, demo.FACTS.width_px)


def test_the_truth_has_the_frames_size(tmp_path: Path) -> None:
    """And its stars lie where the frame has light."""
    night = demo.simulate()

    truth, sky = night.truth(3, 2.0)

    assert truth.shape == (3, demo.FACTS.height_px, demo.FACTS.width_px)
    brightest = np.argsort(-sky.flux.sum(0))[:5]
    for x, y in zip(sky.x[brightest], sky.y[brightest]):
        if 5 < x < truth.shape[2] - 5 and 5 < y < truth.shape[1] - 5:
            around = truth[1, round(y) - 4 : round(y) + 5, round(x) - 4 : round(x) + 5]
            assert np.abs(np.array(np.unravel_index(around.argmax(), around.shape)) - 4).max() <= 1


def test_a_taken_folder_is_left_alone(tmp_path: Path, settings: Settings) -> None:
    """A second run says where the first one's picture is, and changes nothing."""
    (tmp_path / demo.PICTURE).write_text("the picture")

    with pytest.raises(ConfigError, match=f"another with --out.*{demo.PICTURE}"):
        list(demo.run(tmp_path, settings, once))
    assert [path.name for path in tmp_path.iterdir()] == [demo.PICTURE]


def test_a_failure_is_told(tmp_path: Path, settings: Settings) -> None:
    """Where the house restored nothing, there is an error and not a picture."""
    with pytest.raises(SetError, match="was not restored"):
        list(demo.run(tmp_path / "demo", settings, lambda house: None))
    assert not (tmp_path / "demo" / demo.PICTURE).exists()


def test_a_demo_keeps_to_its_folder(tmp_path: Path, settings: Settings) -> None:
    """Its own folders, the shipped model at work, the user's restoration else, no notification of anybody."""
    promoted = settings.restore.model_copy(update={"model": "classic", "network": False, "strength": 0.3})

    house = demo.settings_for(tmp_path, settings.model_copy(update={"restore": promoted}))

    folders = house.folders
    for own in (folders.inbox, folders.outbox, folders.quarantine, folders.state, folders.archive, folders.models):
        assert own.parent == tmp_path
    assert house.restore == RestoreSettings()
    assert house.notify.command == []
