"""What the papers say is what the program does: config.toml, README's table and commands, links."""

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from typer.main import get_command

from stackd import cli
from stackd.settings import Settings, load

ROOT = Path(__file__).parent.parent
PAPERS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md"), *(ROOT / "deploy").glob("**/*.md")])
README = (ROOT / "README.md").read_text("utf-8")
CONFIG = (ROOT / "config.toml").read_text("utf-8")
KEYS = [(section, key) for section, info in Settings.model_fields.items() for key in info.annotation.model_fields]


@pytest.fixture(scope="module")
def settings_pages() -> ModuleType:
    """docs/settings_pages.py, which is a script and no part of the package."""
    spec = importlib.util.spec_from_file_location("settings_pages", ROOT / "docs" / "settings_pages.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_config_toml_is_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who changes nothing in config.toml gets what a user without one gets."""
    monkeypatch.chdir(ROOT)

    assert load(Path("config.toml"), {}) == load(None, {})
    written = {section: {k: v for k, v in keys.items() if v != ""} for section, keys in tomllib.loads(CONFIG).items()}
    assert written == Settings().model_dump(mode="json", exclude_none=True)


@pytest.mark.parametrize(("section", "key"), KEYS, ids=lambda part: part)
def test_every_key_is_explained(section: str, key: str) -> None:
    """Each key has a description in settings.py, a line in config.toml and a row in README."""
    description = Settings.model_fields[section].annotation.model_fields[key].description
    block = re.search(rf"^\[{section}\]\n(.*?)(?=^\[|\Z)", CONFIG, re.MULTILINE | re.DOTALL)

    assert description
    assert block is not None
    assert re.search(rf"^{key} = .*# {re.escape(description)}", block[1], re.MULTILINE)
    assert f"| `{section}.{key}` |" in README
    assert description.replace("|", "\\|") in README


def test_papers_were_written_anew(settings_pages: ModuleType) -> None:
    """`make docs` would change nothing."""
    assert settings_pages.config_toml() == CONFIG
    assert settings_pages.with_table(README) == README


@pytest.mark.parametrize("paper", PAPERS, ids=lambda path: path.name)
def test_links_lead_somewhere(paper: Path) -> None:
    """Every relative link and picture in a paper is a file of the project."""
    text = re.sub(r"```.*?```", "", paper.read_text("utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)

    for target in targets:
        if not re.match(r"[a-z]+:", target):
            assert (paper.parent / target.partition("#")[0]).exists(), f"{paper.name} links to {target}"


def commands_in(text: str) -> set[str]:
    """All `stackd WORD` in a paper, in backticks or in indented blocks."""
    return set(re.findall(r"(?:^ {4}|`|&& |\| )stackd ([a-z]+)", text, re.MULTILINE))


def test_commands_in_the_papers_exist() -> None:
    """Whoever types what README says gets no usage error; and README names every command."""
    known = set(get_command(cli.app).commands)

    for paper in PAPERS:
        assert commands_in(paper.read_text("utf-8")) <= known, paper.name
    assert known <= commands_in(README)


def test_make_targets_in_the_papers_exist() -> None:
    """So for make."""
    rules = re.findall(r"^([a-z_ ]+):(?!=)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    targets = {target for rule in rules for target in rule.split()}

    for paper in PAPERS:
        named = set(re.findall(r"(?:^ {4}|`)make ([a-z_]+)", paper.read_text("utf-8"), re.MULTILINE))
        assert named <= targets, paper.name


def test_lock_names_no_place() -> None:
    """requirements.lock installs from wherever a user's pip does: hashes only, no index, host or path."""
    lock = (ROOT / "requirements.lock").read_text("utf-8")

    assert not re.search(r"://|--index|--extra-index|--find-links|@ |\.whl", lock)
    pinned = re.findall(r"^[a-z0-9][^\n]*==[^\n]*", lock, re.MULTILINE)
    assert len(pinned) > 30
    assert all(line.endswith("\\") for line in pinned)


def test_lock_covers_pyproject() -> None:
    """Every library that pyproject.toml asks for is in the lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    asked = project["dependencies"] + [name for extra in project["optional-dependencies"].values() for name in extra]
    lock = (ROOT / "requirements.lock").read_text("utf-8")

    for requirement in asked:
        name = re.match(r"[A-Za-z0-9-]+", requirement)
        assert name is not None
        assert name[0] == "stackd" or re.search(rf"^{name[0]}==", lock, re.MULTILINE), requirement
