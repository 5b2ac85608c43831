"""The rooms of the house, checked on the source itself: who may import whom, and that importing does nothing."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "stackd"
MODULES = sorted(PACKAGE.rglob("*.py"))
FLOORS = {
    **dict.fromkeys(("", "child", "errors", "records", "settings", "logs"), 0),
    "imaging": 1, "network": 2, "disk": 3, "jobs": 4,
    **dict.fromkeys(("daemon", "watcher", "turn", "announce", "status", "single", "inspection"), 5),
    **dict.fromkeys(("cli", "cli_models", "__main__"), 6),
}  # fmt: skip
ROOMS = ("imaging", "network", "disk", "jobs")
CLOCKS = {"time", "datetime"}
NETWORK_LIBRARIES = {"tensorflow", "keras"}

# room: what it must not import, beyond the floors; a name covers all that is below it
FORBIDDEN = {
    "imaging": {"stackd.records", "stackd.settings", "stackd.logs", "pathlib", "os", "loguru"} | CLOCKS,
    "network": {"stackd.settings", "stackd.disk", "pathlib", "shutil", "loguru"},
    "disk": {"stackd.settings", "stackd.jobs", "watchdog"},
    "jobs": {"watchdog"},
}
# library: the only places that may import it ("disk" covers the whole room)
ONLY_IN = {
    "tensorflow": ("network", "jobs.training", "jobs.training_log"),
    "keras": ("network", "jobs.training", "jobs.training_log"),
    "astropy": ("disk",),
    "PIL": ("disk",),
    "tifffile": ("disk",),
    "rawpy": ("disk",),
    "sqlite3": ("disk",),
    "safetensors": ("disk",),
    "watchdog": ("watcher",),
    "typer": ("cli", "cli_models"),
    "rich": ("cli",),
    "sdnotify": ("announce",),
}
LAZY_IMPORTS = ("cli", "cli_models")


def module_name(path: Path) -> str:
    """`stackd/disk/reader.py` -> "disk.reader"; a package by its folder, stackd itself ""."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imported(tree: ast.AST) -> Iterator[tuple[str, ast.stmt]]:
    """Every module that a source file imports, wherever in it, with the statement. Relative imports come as "."."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." if node.level else str(node.module)
            is_room = base == "stackd" or base.removeprefix("stackd.") in ROOMS
            yield from ((f"{base}.{alias.name}" if is_room else base, node) for alias in node.names)


def within(name: str, parents: object) -> bool:
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def floor(name: str) -> int:
    """The floor of a module of stackd, by its first part."""
    room = name.partition(".")[0]
    assert room in FLOORS, f"stackd.{room} is new: enter its floor in FLOORS and in docs/architecture.md"
    return FLOORS[room]


@pytest.fixture(params=MODULES, ids=lambda path: module_name(path) or "stackd")
def module(request: pytest.FixtureRequest) -> tuple[str, ast.Module]:
    return module_name(request.param), ast.parse(request.param.read_text("utf-8"))


def test_nothing_imports_a_floor_above(module: tuple[str, ast.Module]) -> None:
    """Imports go to the same or a lower floor, never up, and name stackd in full."""
    name, tree = module
    for target, statement in imported(tree):
        assert not target.startswith("."), f"{name}:{statement.lineno} imports relatively"
        if within(target, ["stackd"]):
            there = target.removeprefix("stackd").removeprefix(".")
            assert floor(there) <= floor(name), f"{name}:{statement.lineno} looks up to {target}"


def test_each_room_keeps_to_its_trade(module: tuple[str, ast.Module]) -> None:
    """Arrays know no paths and no clock, the network no disk, the disk no settings."""
    name, tree = module
    for target, statement in imported(tree):
        strange = within(target, FORBIDDEN.get(name.partition(".")[0], ()))
        assert not strange, f"{name}:{statement.lineno} imports {target}"


def test_each_library_has_its_place(module: tuple[str, ast.Module]) -> None:
    """A library that could be exchanged one day is named in one room only."""
    name, tree = module
    for target, statement in imported(tree):
        for library, places in ONLY_IN.items():
            allowed = not within(target, [library]) or within(name, places)
            assert allowed, f"{name}:{statement.lineno} imports {library}, which belongs to {' and '.join(places)}"


def test_imports_stand_on_top(module: tuple[str, ast.Module]) -> None:
    """An import inside a function hides what a module needs; the commands and the worker's entry alone may."""
    name, tree = module
    late = [statement.lineno for _, statement in imported(tree) if statement not in tree.body]
    assert not late or name in LAZY_IMPORTS, f"{name} imports in line {late}, not on top"


def test_every_module_says_what_it_is(module: tuple[str, ast.Module]) -> None:
    """A docstring on top; a room's own `__init__` holds nothing else."""
    name, tree = module
    assert ast.get_docstring(tree), f"{name} has no docstring"
    if name in ROOMS:
        assert len(tree.body) == 1, f"{name}/__init__.py holds more than a docstring"


def test_no_module_runs_long(module: tuple[str, ast.Module]) -> None:
    """A module reads in one sitting."""
    name, _ = module
    path = PACKAGE.joinpath(*name.split(".")).with_suffix(".py") if name else PACKAGE / "__init__.py"
    if path.is_file():
        assert len(path.read_text("utf-8").splitlines()) <= 350, f"{name} is longer than 350 lines: two rooms in one"


def test_the_rooms_have_no_cycle() -> None:
    """Whoever imports a module never imports the one that imports it, over any number of steps."""
    uses = {}
    for path in MODULES:
        tree = ast.parse(path.read_text("utf-8"))
        uses[f"stackd.{module_name(path)}".rstrip(".")] = {target for target, _ in imported(tree)}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"a cycle: {' -> '.join([*way, name])}"
        if name in uses and name not in done:
            for target in sorted(uses[name]):
                visit(target, (*way, name))
            done.add(name)

    for name in sorted(uses):
        visit(name, ())


def run_python(source: str, folder: Path, environment: dict[str, str]) -> str:
    """Run a program in an empty folder and return what it printed."""
    ran = subprocess.run(
        [sys.executable, "-c", source],
        cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_importing_does_nothing(tmp_path: Path) -> None:
    """No module makes a folder, opens a log or starts a thread or a process when it is imported."""
    home = tmp_path / "home"
    work = tmp_path / "work"
    home.mkdir()
    work.mkdir()
    names = [f"stackd.{module_name(path)}".rstrip(".") for path in MODULES if path.stem != "__main__"]
    # network libraries start threads of their own, in C; those are not Python's and not ours
    source = (
        "import importlib, threading, multiprocessing\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print(threading.active_count(), len(multiprocessing.active_children()))"
    )

    printed = run_python(source, work, {"HOME": str(home), "XDG_CACHE_HOME": str(home), "XDG_CONFIG_HOME": str(home)})

    assert printed.split() == ["1", "0"]
    assert not list(work.iterdir())
    assert not [path for path in home.rglob("*") if "stackd" in path.name]


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["check"], ["models", "list"]], ids=" ".join)
def test_light_commands_load_no_network(arguments: list[str], tmp_path: Path) -> None:
    """`--help` and `check` answer at once and find nothing wrong with an inbox and the shipped model: they load neither
    TensorFlow nor astropy."""
    (tmp_path / "inbox").mkdir()
    source = (
        "import sys\n"
        f"sys.argv = ['stackd', *{arguments!r}]\n"
        "from stackd.cli import main\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    assert not ended.code, ended.code\n"
        "print('loaded:', *sorted({'tensorflow', 'keras', 'astropy'} & set(sys.modules)))"
    )

    printed = run_python(source, tmp_path, {})

    assert printed.splitlines()[-1] == "loaded:"


@pytest.mark.parametrize(
    "module_of_the_service", ["stackd.cli", "stackd.daemon", "stackd.jobs.runner", "stackd.jobs.assembly"]
)
def test_the_supervisor_stays_small(module_of_the_service: str, tmp_path: Path) -> None:
    """What runs for months and watches the inbox never holds TensorFlow, a file parser or even numpy in memory."""
    source = (
        f"import sys, {module_of_the_service}\n"
        "heavy = {'tensorflow', 'keras', 'astropy', 'cv2', 'PIL', 'numpy', 'safetensors'}\n"
        "print('loaded:', *sorted(heavy & set(sys.modules)))"
    )

    assert run_python(source, tmp_path, {}).splitlines()[-1] == "loaded:"


def test_the_plain_stack_needs_no_network(tmp_path: Path) -> None:
    """A worker that only stacks (restore.network = false) never loads TensorFlow."""
    source = "import sys, stackd.jobs.pipeline\nprint('loaded:', *sorted({'tensorflow', 'keras'} & set(sys.modules)))"

    assert run_python(source, tmp_path, {}).splitlines()[-1] == "loaded:"
