"""The 2019 experiment beside today's: one frame, the mean of eight, `classic` and the default network.

    python benchmarks/classic.py PICTURES [--seed N]

All ways see the same corrupted frames of the same held-out pictures (those that `stackd-train --preset classic` with
this seed does not train on). Prints CSV. The default network is the shipped one as it is: it was trained for captures
(2 px stars, a measured PSF), not for this corruption.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stackd.disk import gallery, model_store, models
from stackd.imaging.fuse import fuse
from stackd.imaging.quality import pixel_noise
from stackd.imaging.stack import clipped_stack
from stackd.jobs.classic import compare, split
from stackd.jobs.loading import load_restorer
from stackd.network.classic import apply_classic, build_classic
from stackd.network.restorer import Restorer
from stackd.network.weights import set_weights

Image = NDArray[np.float32]
KAPPA = 4.0


def by_default_network(restorer: Restorer, frames: Image) -> Image:
    """Eight frames (H, W, 8) that lie on each other through stackd's own stack and network, star shape unknown."""
    frames = np.ascontiguousarray(frames.transpose(2, 0, 1))
    noise = np.array([pixel_noise(frame) for frame in frames])
    # photon noise plays no part in this corruption
    stack = clipped_stack(frames, noise, KAPPA, photon_gain=np.inf)
    return restorer.restore([fuse(frames, noise, stack, None, restorer.target_fwhm_px)])[0].image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    _, held_out = split(gallery.survey(gallery.find_pictures(chosen.pictures)).paths, chosen.seed)
    network = build_classic(None, None)
    set_weights(network, model_store.load_weights(models.resolve(Path("models"), "classic"))[1])
    default = load_restorer(str(models.resolve(Path("models"), "default").path))
    ways = {
        "one frame": lambda frames: frames[..., 0],
        "mean of 8": lambda frames: frames.mean(-1),
        "classic": lambda frames: apply_classic(network, frames),
        "default": lambda frames: by_default_network(default, frames),
    }
    print("way,psnr_db,lowest_db,highest_db")
    for name, values in compare(held_out, chosen.seed, ways).items():
        print(f"{name},{np.mean(values):.2f},{min(values):.2f},{max(values):.2f}")
    print(f"# {len(held_out)} held-out pictures, seed {chosen.seed}")


if __name__ == "__main__":
    main()
