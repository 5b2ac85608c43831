"""config.toml: closed, complete about its mistakes, and relative to where it lies."""

import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stackd.errors import ConfigError
from stackd.settings import FolderSettings, Settings, find_config, load


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "observatory" / "config.toml"


def write(config: Path, text: str) -> Path:
    config.parent.mkdir(exist_ok=True)
    config.write_text(text, "utf-8")
    return config


def test_an_empty_file_means_the_defaults(config: Path) -> None:
    """Nobody has to say anything."""
    settings = load(write(config, ""), {})

    assert settings.set.frames == 8
    assert settings.restore.target_fwhm_px == 2.0
    assert settings.restore.network


def test_paths_are_relative_to_the_file(config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A service started from anywhere finds the same folders; `~` is the home."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write(config, '[folders]\ninbox = "../shots"\nmodels = "~/models"\noutbox = "/srv/out"\n')
    monkeypatch.chdir(tmp_path)

    folders = load(Path("observatory/config.toml"), {}).folders

    assert folders.inbox == tmp_path / "shots"
    assert folders.models == tmp_path / "home" / "models"
    assert folders.outbox == Path("/srv/out")
    assert folders.state == config.parent / ".stackd"


def test_all_problems_are_told_at_once(config: Path) -> None:
    """One look at the message mends the whole file."""
    write(config, "[set]\nframe = 8\n[restor]\nstrength = 1\n[limits]\nmax_pixel = 3\n")

    with pytest.raises(ConfigError) as caught:
        load(config, {"STACKD_LOG__LEVLE": "INFO"})

    told = str(caught.value).splitlines()
    assert len(told) == 4
    assert any("unknown key set.frame" in line and "'frames'" in line for line in told)
    assert any("[restor]" in line and "'restore'" in line for line in told)
    assert any("STACKD_LOG__LEVLE" in line and "log__level" in line for line in told)
    assert all(str(config) in line for line in told[:3])


def test_all_bad_values_are_told_at_once(config: Path) -> None:
    """So is every value out of its range, with file and key."""
    write(config, '[set]\nframes = 0\npartial = "guess"\n[restore]\nstrength = 1.5\n')

    with pytest.raises(ConfigError) as caught:
        load(config, {})

    told = str(caught.value).splitlines()
    assert [line.split(": ")[1] for line in told] == ["set.frames", "set.partial", "restore.strength"]


def test_problems_of_every_kind_are_told_at_once(config: Path) -> None:
    """Neither a misspelt key nor a bad value nor a misplaced folder hides the others."""
    folders = '[folders]\noutbox = "inbox/out"\n'
    write(config, folders + "[set]\nframez = 8\nframes = 0\n[log]\nkeep_days = 0\n")

    with pytest.raises(ConfigError) as caught:
        load(config, {"STACKD_LIMITS__ATTEMPT": "2", "STACKD_FOLDERS__QUARANTINE": "inbox/bad"})

    told = str(caught.value).splitlines()
    words = [
        "unknown key set.framez", "STACKD_LIMITS__ATTEMPT", "folders.outbox", "folders.quarantine", "set.frames",
        "log.keep_days",
    ]  # fmt: skip
    assert len(told) == len(words)
    for line, word in zip(told, words, strict=True):
        assert word in line
    assert told[3].endswith("(from the environment: STACKD_FOLDERS__QUARANTINE)")


@pytest.mark.parametrize("where", ["file", "environment"])
def test_a_home_that_nobody_has_is_a_message(config: Path, where: str) -> None:
    """On SIGHUP anything but a ConfigError would end the daemon; the key is named, and the other problems with it."""
    text = '[folders]\noutbox = "~nosuchuser/x"\n' if where == "file" else ""
    write(config, text + "[set]\nframes = 0\n")

    with pytest.raises(ConfigError) as caught:
        load(config, {} if text else {"STACKD_FOLDERS__OUTBOX": "~nosuchuser/x"})

    told = str(caught.value).splitlines()
    assert len(told) == 2
    assert ("folders.outbox" if text else "STACKD_FOLDERS__OUTBOX in the environment") in told[0]
    assert "~nosuchuser" in told[0]
    assert "set.frames" in told[1]


def test_a_section_that_is_none_hides_nothing(config: Path) -> None:
    """Under systemd, too, which says where the state lies."""
    write(config, "folders = 3\n[set]\nframes = 0\n")

    with pytest.raises(ConfigError) as caught:
        load(config, {"STATE_DIRECTORY": "/var/lib/stackd"})

    told = str(caught.value).splitlines()
    assert len(told) == 2
    assert "folders must be a section" in told[0]
    assert "set.frames" in told[1]


@pytest.mark.parametrize("text", ["[set\n", "frames = = 8\n", "\x00", "[set]\nframes = 8\nframes = 9\n"])
def test_broken_toml_names_the_file(config: Path, text: str) -> None:
    """A slip of the pen is a message, not a traceback."""
    with pytest.raises(ConfigError, match=r"config\.toml"):
        load(write(config, text), {})


def test_a_section_must_be_a_section(config: Path) -> None:
    with pytest.raises(ConfigError, match="must be a section"):
        load(write(config, "set = 8\n"), {})


def test_the_environment_wins(config: Path) -> None:
    """A container needs no file: numbers, truth values, lists and text all come as text."""
    write(config, '[set]\nframes = 5\n[restore]\nmodel = "mine"\n')
    environment = {
        "STACKD_SET__FRAMES": "16",
        "STACKD_RESTORE__NETWORK": "false",
        "STACKD_NOTIFY__COMMAND": '["notify", "-x"]',
        "STACKD_FOLDERS__OUTBOX": "results",
        "HOME": "/root",
    }

    settings = load(config, environment)

    assert settings.set.frames == 16
    assert settings.restore.model == "mine"
    assert settings.restore.network is False
    assert settings.notify.command == ["notify", "-x"]
    assert settings.folders.outbox == config.parent / "results"


def test_a_wrong_value_is_blamed_on_where_it_stands(config: Path) -> None:
    """The variable in the environment, not the file that has nothing to do with it; what disagrees names both."""
    write(config, "[set]\nframes = 4\nmin_frames = 3\n[log]\nkeep_days = 0\n")

    with pytest.raises(ConfigError) as caught:
        load(config, {"STACKD_SET__SETTLE_S": "soon", "STACKD_NOTIFY__COMMAND": "[1]"})
    lines = str(caught.value).splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        "STACKD_SET__SETTLE_S in the environment", str(config), "STACKD_NOTIFY__COMMAND in the environment",
    ]  # fmt: skip
    assert "log.keep_days" in lines[1]

    with pytest.raises(ConfigError) as caught:
        load(config, {"STACKD_SET__FRAMES": "2", "STACKD_LOG__KEEP_DAYS": "1"})
    assert str(caught.value) == (
        f"{config}: set.min_frames (3) is more than set.frames (2) (from the environment: STACKD_SET__FRAMES)"
    )


def test_systemd_says_where_state_lies_unless_the_file_does(config: Path) -> None:
    """StateDirectory= works as it is, and an explicit line is stronger."""
    environment = {"STATE_DIRECTORY": "/var/lib/stackd:/var/lib/other"}

    assert load(write(config, ""), environment).folders.state == Path("/var/lib/stackd")
    assert load(write(config, '[folders]\nstate = "here"\n'), environment).folders.state == config.parent / "here"


@pytest.mark.parametrize("name", ["outbox", "quarantine", "models", "state", "archive"])
@pytest.mark.parametrize("where", ["inbox", "inbox/sub", "other/../inbox/sub"])
def test_no_folder_feeds_itself(config: Path, name: str, where: str) -> None:
    """A result inside the inbox would be restored again, for ever."""
    with pytest.raises(ConfigError, match=f"folders.{name}"):
        load(write(config, f'[folders]\n{name} = "{where}"\n'), {})


def test_the_inbox_may_not_lie_in_the_outbox(config: Path) -> None:
    with pytest.raises(ConfigError, match=r"folders\.inbox"):
        load(write(config, '[folders]\ninbox = "outbox/inbox"\n'), {})


@pytest.mark.parametrize(("outer", "name"), [
    (outer, name) for outer in ("outbox", "quarantine", "archive") for name in FolderSettings.model_fields
    if name != outer
])  # fmt: skip
@pytest.mark.parametrize("below", ["", "/M27"])
def test_nothing_lies_where_folders_are_named_after_sets(config: Path, name: str, outer: str, below: str) -> None:
    """A set of that name would come out, be archived or be judged into it; the same folder twice is told once."""
    with pytest.raises(ConfigError) as caught:
        load(write(config, f'[folders]\n{outer} = "there"\n{name} = "there{below}"\n'), {})

    [told] = str(caught.value).splitlines()
    assert f"folders.{name}" in told
    assert f"folders.{outer}" in told


def test_links_lead_no_folder_into_another(config: Path) -> None:
    """What counts is where the files come to lie; the message names both places."""
    (config.parent / "inbox").mkdir(parents=True)
    (config.parent / "results").symlink_to(config.parent / "inbox")
    with pytest.raises(ConfigError) as caught:
        load(write(config, '[folders]\noutbox = "results/new"\n'), {})

    [told] = str(caught.value).splitlines()
    assert f"folders.outbox ({config.parent / 'results/new'}, that is {config.parent / 'inbox/new'})" in told
    assert f"folders.inbox ({config.parent / 'inbox'})" in told


def test_state_may_hold_everything(config: Path) -> None:
    """As a service under systemd, which gives one folder; and the layout of deploy/README.md."""
    names = ("inbox", "outbox", "quarantine", "archive", "models")
    one = "".join(f'{name} = "/var/lib/stackd/{name}"\n' for name in names)
    load(write(config, f'[folders]\nstate = "/var/lib/stackd"\n{one}'), {})

    deploy = (Path(__file__).parent.parent / "deploy/README.md").read_text("utf-8")
    layout = deploy.partition("```toml\n")[2].partition("```")[0]
    folders = load(write(config, textwrap.dedent(layout)), {}).folders
    assert folders.models.parent == folders.state == Path("/var/lib/stackd")


def test_min_frames_fits_into_frames(config: Path) -> None:
    with pytest.raises(ConfigError, match="min_frames"):
        load(write(config, "[set]\nframes = 4\nmin_frames = 5\n"), {})


def test_no_command_is_waited_for_beyond_the_watchdog(config: Path) -> None:
    """systemd kills a daemon that is silent for 60 s."""
    assert load(write(config, "[notify]\ntimeout_s = 50\n"), {}).notify.timeout_s == 50.0
    with pytest.raises(ConfigError, match=r"notify\.timeout_s"):
        load(write(config, "[notify]\ntimeout_s = 51\n"), {})


def test_a_named_file_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named and missing is an error; nothing named and nothing here means the defaults."""
    monkeypatch.chdir(tmp_path)

    assert find_config(None) is None
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        find_config(tmp_path / "nowhere.toml")
    (tmp_path / "config.toml").touch()
    assert find_config(None) == Path("config.toml")


def test_settings_do_not_change() -> None:
    """What was read at the start is what holds until the next reading."""
    settings = Settings()

    with pytest.raises(ValidationError):
        settings.set.frames = 3


@given(frames=st.integers(1, 1000), strength=st.floats(0, 1), network=st.booleans())
def test_digest_tells_settings_apart(frames: int, strength: float, network: bool) -> None:
    """The same values have the same digest, also after a round trip; other values another."""
    values = {
        "set": {"frames": frames, "min_frames": 1},
        "restore": {"strength": strength, "network": network},
    }
    settings = Settings.model_validate(values)

    assert Settings.model_validate(settings.model_dump()).digest() == settings.digest()
    assert (settings.digest() == Settings().digest()) == (settings == Settings())


def test_an_empty_path_is_none_where_that_may_be(tmp_path: Path) -> None:
    """config.toml has no other word for nothing; a folder has to be named."""
    file = tmp_path / "config.toml"
    file.write_text('[metrics]\ntextfile = ""\n[train]\npictures = ""\n')
    settings = load(file, {})
    assert settings.metrics.textfile is None
    assert settings.train.pictures is None
    file.write_text('[folders]\ninbox = ""\n')
    with pytest.raises(ConfigError, match=r"folders\.inbox: must name a folder"):
        load(file, {})
