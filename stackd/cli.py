"""I read settings, set up logs, wire the house and turn errors into exit codes.

Results go to stdout, logs and progress to stderr. Each command imports its own room, so that
`--help`, `check`, `status` and `models` never load TensorFlow.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from loguru import logger

from stackd import logs
from stackd.cli_models import models_app
from stackd.errors import ConfigError, StackdError
from stackd.records import program
from stackd.settings import Settings, find_config, load

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(models_app, name="models")
train_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

Config = Annotated[Path | None, typer.Option("--config", help="Default: ./config.toml, else the packaged defaults.")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
OnProgress = Callable[[str, str, float], None]
TOLD_EVERY_S = 300.0  # a line of a training that nobody watches


def main() -> None:
    """The `stackd` command."""
    _exit_with_code(app)


def train_main() -> None:
    """The `stackd-train` command."""
    _exit_with_code(train_app)


def _print_version(asked: bool) -> None:
    if asked:
        print(program())
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Say which stackd this is.")
    ] = False,
) -> None:
    """Turns sets of telescope captures into clean pictures, unattended."""


@app.command()
def run(config: Config = None) -> None:
    """Watch the inbox and restore every complete set, until SIGTERM or SIGINT."""
    from stackd.daemon import Daemon, make_folders

    settings = _settings(config)
    make_folders(settings)
    logs.configure(settings.log.level, settings.folders.outbox, settings.log.keep_days)
    daemon = Daemon(settings, reread=lambda: load(find_config(config)))
    try:
        daemon.run()
    finally:
        daemon.close()


@app.command()
def once(config: Config = None, as_json: AsJson = False) -> None:
    """Restore everything that is complete now, then exit; 1 if something could not be restored."""
    from stackd.daemon import Daemon, make_folders
    from stackd.status import in_words

    settings = _settings(config)
    make_folders(settings)
    logs.configure(settings.log.level, settings.folders.outbox, settings.log.keep_days)
    outcomes: list[Any] = []

    def hear(outcome: Any) -> None:
        outcomes.append(outcome)
        name, verdict = outcome.set_name, outcome.verdict
        where_or_why = outcome.folder or in_words(name, outcome.reason, outcome.file, outcome.remedy)
        print(json.dumps(asdict(outcome)) if as_json else f"{name}: {verdict}: {where_or_why}")

    with _progress_bar() as on_progress:
        daemon = Daemon(settings, hear=hear, on_progress=on_progress)
        try:
            daemon.once()
            trouble = daemon.turn.inbox_trouble or daemon.turn.trouble or daemon.turn.unread
        finally:
            daemon.close()
    if not outcomes and not trouble and not as_json:
        print("no set is complete; `stackd status` says what waits, and for what")
    if trouble or any(outcome.verdict not in ("done", "duplicate", "handed back") for outcome in outcomes):
        raise typer.Exit(1)


@app.command()
def restore(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", help="Frames, or a folder of them.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the result; must be missing or empty.")],
    model: Annotated[str | None, typer.Option("--model", help="NAME or NAME@VERSION; default: restore.model.")] = None,
    aligned: Annotated[bool, typer.Option("--aligned", help="The frames already lie on each other.")] = False,
    config: Config = None,
) -> None:
    """Restore the given frames as one set, straight into a folder."""
    from stackd import single

    settings = _settings(config)
    logs.configure(settings.log.level)
    if model is not None:
        chosen = settings.restore.model_copy(update={"model": model, "network": True})
        settings = settings.model_copy(update={"restore": chosen})
    with _progress_bar() as on_progress:
        single.restore(paths, out, settings, on_progress, aligned=aligned)
    print(out)


@app.command()
def check(
    path: Annotated[Path | None, typer.Argument(help="A set's folder, or a frame.", show_default=False)] = None,
    config: Config = None,
) -> None:
    """Say everything that is wrong with the config, and with a set if one is named."""
    from stackd import inspection

    settings = _settings(config)
    logs.configure("ERROR")
    problems, remarks = inspection.problems_of_house(settings, find_config(config)), []
    if path is not None:
        of_set, remarks = inspection.problems_of_set(path, settings)
        problems += of_set
    for line in (*problems, *remarks):
        print(line)
    if problems:
        raise typer.Exit(1)
    print("nothing is wrong")


@app.command()
def status(config: Config = None, as_json: AsJson = False) -> None:
    """Say which sets wait and for what, run, are done or in quarantine; the model; the disk left."""
    from stackd import status as state

    view = state.gather(_settings(config))
    print(json.dumps(view, ensure_ascii=False) if as_json else state.as_text(view))


@app.command()
def retry(
    sets: Annotated[list[str], typer.Argument(metavar="SET", help="Names in quarantine.", show_default=False)],
    config: Config = None,
) -> None:
    """Put quarantined sets back to work."""
    from stackd.disk.ledger import Ledger
    from stackd.disk.outbox import reports
    from stackd.jobs.delivery import try_again

    settings = _settings(config)
    if not settings.folders.state.is_dir():
        raise ConfigError(f"{settings.folders.state}: no stackd has worked here yet, so nothing is in quarantine")
    ledger = Ledger(settings.folders.state)
    try:
        unknown = try_again(settings, ledger, sets, time.time())
    finally:
        ledger.close()
    remedies = {one["set"]: one["remedy"] for one in reports(settings.folders.quarantine)}
    for name in sets:
        if name not in unknown:
            print(f"{name}: back to work")
        elif name in remedies:
            print(f"{name}: was not begun, so there is nothing to repeat; {remedies[name]}, and it starts by itself")
        else:
            print(f"{name}: is not in quarantine; `stackd status` names the sets that are")
    if unknown:
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the night and its pictures.")] = Path("demo"),
    config: Config = None,
) -> None:
    """Simulate a night, drop it into an inbox and restore it with the shipped model."""
    from stackd.daemon import Daemon
    from stackd.jobs import demo as night

    settings = _settings(config)
    logs.configure(settings.log.level)
    with _progress_bar() as on_progress:

        def turn(house: Settings) -> None:
            daemon = Daemon(house, on_progress=on_progress)
            try:
                daemon.once()
            finally:
                daemon.close()

        lines = list(night.run(out, settings, turn))
    print("\n".join(lines))


@train_app.command()
def train(
    pictures: Annotated[Path | None, typer.Option(help="Clean pictures; none: simulated skies alone.")] = None,
    preset: Annotated[str | None, typer.Option(help="Network and recipe.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Length of the run in steps.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Length of the run in minutes.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of data, weights and order.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    from_current: Annotated[bool, typer.Option("--from-current", help="Start from the current model.")] = False,
    from_sets: Annotated[
        bool, typer.Option("--from-sets", help="Learn from the outbox's sets, too; starts from the current model.")
    ] = False,
    learning_rate: Annotated[
        float | None, typer.Option(min=1e-7, max=1.0, help="The first one; default: 1e-3, from a model's weights 2e-4.")
    ] = None,
    store: Annotated[Path | None, typer.Option("--out", help="Model store; default: folders.models.")] = None,
    config: Config = None,
) -> None:
    """Train a model, put it into the store, and promote it if it wins on held-out skies."""
    if steps is not None and minutes is not None:
        raise ConfigError("--steps and --minutes both say how long to train; give one of them")
    with logs.without_stderr():
        from stackd.jobs import training
        from stackd.jobs.training_request import SetFolders, TrainingRequest
    settings = _settings(config)
    logs.configure(settings.log.level)
    folders = settings.folders
    chosen = preset or settings.train.preset
    request = TrainingRequest(
        store=(store or folders.models).absolute(),
        run_folder=folders.state / "training" / chosen,
        pictures=pictures or settings.train.pictures,
        preset=chosen,
        steps=steps,
        minutes=settings.train.minutes if minutes is None else minutes,
        seed=settings.train.seed if seed is None else seed,
        resume=resume,
        keep=settings.train.keep,
        spared=(settings.restore.model,),
        sets=SetFolders(folders.outbox, (folders.inbox, folders.archive)) if from_sets else None,
        from_current=from_current or from_sets,
        learning_rate=learning_rate,
    )
    try:
        with _training_bar() as report:
            outcome = training.train(request, report)
    except Exception as error:
        # the one place where a timer's run can say so; the traceback and the exit code follow
        logger.error("training failed, and the current model of {} stays: {}", chosen, error)
        raise
    _print_training(outcome)


def _print_training(outcome: Any) -> None:
    from stackd.disk.cards import comparison_lines
    from stackd.jobs.promotion import as_card

    if outcome.interrupted:
        print("interrupted; go on with --resume")
    if outcome.version is None:
        return
    verdict = "promoted" if outcome.promoted else "not promoted: the current model stays"
    print(f"{outcome.version.name}@{outcome.version.version}: {verdict}")
    for key, value in outcome.scores.items():
        print(f"  {key} {value:.4g}")
    print("\n".join(comparison_lines({"comparison": as_card(outcome.comparison)})))
    if outcome.figure is not None:
        print(f"before and after: {outcome.figure}")


def _settings(config: Path | None) -> Settings:
    return load(find_config(config))


@contextmanager
def _progress_bar() -> Iterator[OnProgress]:
    """A bar on stderr where a person looks at it, nothing elsewhere."""
    if not sys.stderr.isatty() or logs.under_systemd():
        yield lambda set_name, step, fraction: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    words = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f}%"), TimeElapsedColumn()
    with Progress(*words, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("waits for files to settle", total=1.0)
        yield lambda set_name, step, share: bar.update(task, completed=share, description=f"{set_name}: {step}")


@contextmanager
def _training_bar() -> Iterator[Callable[[Any], None]]:
    """Step, loss, PSNR on held-out skies and time left, on stderr where a person looks at it; else now and then a line
    in the log."""
    if not sys.stderr.isatty() or logs.under_systemd():
        told_s = [time.monotonic()]

        def log_line(at: Any) -> None:
            if time.monotonic() - told_s[0] > TOLD_EVERY_S:
                told_s[0] = time.monotonic()
                logger.info("step {}: loss {:.4f}, PSNR {:.2f} dB, {:.0f} min left", *_told(at), at.left_s / 60)

        yield log_line
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    words = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f}%")
    with Progress(*words, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("simulates the first skies", total=1.0)

        def show(at: Any) -> None:
            text = "step {}: loss {:.4f}, held-out PSNR {:.2f} dB, {:.0f} min left"
            bar.update(task, completed=at.share, description=text.format(*_told(at), at.left_s / 60))

        yield show


def _told(at: Any) -> tuple[int, float, float]:
    return at.step, at.loss, at.psnr


def _exit_with_code(command: typer.Typer) -> None:
    try:
        command()
    except StackdError as error:
        for line in str(error).splitlines():
            print(f"stackd: {line}", file=sys.stderr)
        sys.exit(error.exit_code)
    except PermissionError as error:
        what_to_do = "run this as the user that the service runs as, or let this one in"
        print(f"stackd: {error.filename}: {error.strerror}; {what_to_do}", file=sys.stderr)
        sys.exit(1)
