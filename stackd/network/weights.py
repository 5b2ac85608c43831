"""A network's weights as plain arrays by name, and back: what the model store keeps."""

import keras
import numpy as np
from numpy.typing import NDArray

from stackd.errors import ModelError


def weights_of(network: keras.Model) -> dict[str, NDArray[np.float32]]:
    """All weights by the path of their variable."""
    return {v.path: np.asarray(v) for v in network.weights}


def set_weights(network: keras.Model, weights: dict[str, NDArray[np.float32]]) -> None:
    """Put weights into a network. Raises ModelError unless names and shapes agree one to one."""
    wanted = {v.path: v for v in network.weights}
    if wanted.keys() != weights.keys():
        odd = sorted(wanted.keys() ^ weights.keys())
        raise ModelError(f"the weights are not of this architecture: {', '.join(odd[:4])} on one side only")
    for path, variable in wanted.items():
        if tuple(variable.shape) != weights[path].shape:
            raise ModelError(
                f"the weight {path} has shape {weights[path].shape}, the architecture {tuple(variable.shape)}"
            )
        variable.assign(weights[path])
