"""The commands of the model store: `stackd models list | promote | rollback | verify`.

What the store and the cards say, on stdout. Loads no TensorFlow, and numpy, which checks weights, only where a command
does: the service starts by way of this module, too.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from stackd.disk import cards, model_card, models
from stackd.errors import ModelError
from stackd.settings import find_config, load

models_app = typer.Typer(help="The model store.", no_args_is_help=True)

Config = Annotated[Path | None, typer.Option("--config", help="Default: ./config.toml, else the packaged defaults.")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]


@models_app.command("list")
def models_list(config: Config = None, as_json: AsJson = False) -> None:
    """List the versions of all models, shipped ones too, with what they reached on the golden set."""
    for one in models.list_versions(_store(config)):
        card = _card(one)
        if as_json:
            told = {key: card.get(key) for key in ("figures", "scores", "comparison")}
            print(json.dumps(asdict(one) | {"path": str(one.path)} | told))
            continue
        marks = ", ".join(mark for mark in ("current", "shipped") if getattr(one, mark))
        # what the makers shipped, the gate of this store never judged
        judged = {} if one.shipped else card.get("comparison") or {}
        refused = "" if judged.get("promoted", True) else "not promoted"
        parts = f"{one.name}@{one.version}", one.sha256[:12], marks, refused, cards.summary_of(card)
        print("  ".join(part for part in parts if part))


@models_app.command("promote")
def models_promote(
    version: Annotated[str, typer.Argument(metavar="NAME@VERSION", show_default=False)], config: Config = None
) -> None:
    """Make a version the current one, once it has been verified; says how it compared when it was trained."""
    from stackd.disk import model_store

    chosen = model_store.promote(_store(config), version)
    print(f"{chosen.name}@{chosen.version} is current")
    _print_comparison(chosen)


@models_app.command("rollback")
def models_rollback(name: Annotated[str, typer.Argument(metavar="NAME")] = "default", config: Config = None) -> None:
    """Go back to the version that was current before."""
    from stackd.disk import model_store

    chosen = model_store.rollback(_store(config), name)
    print(f"{chosen.name}@{chosen.version} is current")
    _print_comparison(chosen)


@models_app.command("verify")
def models_verify(
    version: Annotated[str | None, typer.Argument(metavar="[NAME[@VERSION]]", show_default=False)] = None,
    config: Config = None,
) -> None:
    """Check digest, shapes and values of a version, or of all; of one, say how it compared when it was trained."""
    from stackd.disk import model_store

    store = _store(config)
    chosen = [models.resolve(store, version)] if version else models.list_versions(store)
    bad = 0
    for one in chosen:
        try:
            model_store.verify(one)
            print(f"{one.name}@{one.version}: good")
        except ModelError as error:
            bad += 1
            print(f"{one.name}@{one.version}: {error}")
    if version and not bad:
        _print_comparison(chosen[0])
    if bad or not chosen:
        raise typer.Exit(1)


def _store(config: Path | None) -> Path:
    return load(find_config(config)).folders.models


def _card(one: models.ModelVersion) -> dict[str, Any]:
    """The card; empty for one that cannot be read, of which `verify` tells."""
    try:
        return model_card.read_card(one.path)
    except ModelError:
        return {}


def _print_comparison(one: models.ModelVersion) -> None:
    for line in cards.comparison_lines(_card(one)):
        print(line)
