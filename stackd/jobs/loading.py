"""A model version's folder -> its network, ready to be used.

Of all that restores sets this module alone loads TensorFlow: where no network runs, the worker never imports it.
"""

from pathlib import Path

from stackd.disk import model_store, models
from stackd.errors import ModelError
from stackd.jobs.restore import AnyRestorer
from stackd.network.classic import ClassicRestorer
from stackd.network.restorer import Restorer


def load_restorer(model_folder: str) -> AnyRestorer:
    """The network of a model version's folder, verified. Raises ModelError."""
    card, weights = model_store.load_weights(models.at_path(Path(model_folder)))
    try:
        kind = card["architecture"].get("kind", "unet")
        return (ClassicRestorer if kind == "classic" else Restorer)(card, weights)
    except ModelError as error:
        raise ModelError(f"{model_folder}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise ModelError(f"{model_folder}: its card describes no network that can be built here ({what})") from error
