"""The optimiser: Muon (Jordan et al. 2024) for the kernels of inner convolutions, AdamW for all the rest.

A kernel is the matrix that takes a patch of all channels to the output's channels. Its momentum is made orthogonal
before the step, so that weak directions learn as fast as strong ones; with steps as large as AdamW's would be (Liu et
al. 2025). Keras's own Muon leaves all kernels of convolutions to AdamW.
"""

import keras
from keras import ops

FIRST_AND_LAST = ["stem", "head"]  # layers between the picture's channels and the network's own


class ConvMuon(keras.optimizers.Muon):
    """Keras's Muon for networks whose kernels are (height, width, in, out), or (height, width, out, in) transposed."""

    def __init__(self, learning_rate: float, weight_decay: float) -> None:
        super().__init__(
            learning_rate, adam_beta_1=0.9, adam_beta_2=0.99, adam_weight_decay=weight_decay,
            weight_decay=weight_decay, exclude_layers=FIRST_AND_LAST, name="conv_muon",
        )  # fmt: skip

    def _should_use_adamw(self, variable) -> bool:
        return len(variable.shape) != 4 or any(layer in variable.path for layer in self.exclude_layers)

    def _muon_update_step(self, gradient, variable, lr, m) -> None:
        self.assign_add(m, gradient + m * (self.momentum - 1))
        ahead = ops.reshape(gradient + self.momentum * m, (-1, variable.shape[-1]))  # Nesterov's
        step = self.lr_adjust(lr * self.zeropower_via_newtonschulz5(ahead, self.ns_steps))
        self.assign_sub(variable, ops.reshape(step, variable.shape))
