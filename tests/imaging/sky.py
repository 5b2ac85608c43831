"""A small seeded sky for the tests of imaging: Moffat stars on a grid of pixels, nothing else."""

import numpy as np

FWHM_PER_GAMMA = 2 * np.sqrt(2 ** (1 / 3.0) - 1)  # of a Moffat profile with beta 3


def star_positions(rng, count, shape, border=12):
    """x and y of `count` stars (count, 2) and their fluxes, few bright and many faint."""
    height, width = shape
    places = np.column_stack([rng.uniform(border, width - border, count), rng.uniform(border, height - border, count)])
    return places, 2000.0 * rng.uniform(0.01, 1, count) ** -0.8


def similarity(angle_deg=0.0, dx=0.0, dy=0.0, scale=1.0, about=(0.0, 0.0)):
    """The (2, 3) matrix that turns and scales about a point, then shifts."""
    turn = np.deg2rad(angle_deg)
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    centre = np.asarray(about, float)
    return np.column_stack([linear, centre + np.array([dx, dy]) - linear @ centre])


def move(places, matrix):
    """Positions (n, 2) through a (2, 3) matrix."""
    return places @ matrix[:, :2].T + matrix[:, 2]


def picture(places, fluxes, shape, fwhm_px=2.8, subpixels=3):
    """Stars as Moffat profiles (beta 3) summed over sub-pixels, no noise, float64 (H, W)."""
    image = np.zeros(shape)
    gamma = fwhm_px / FWHM_PER_GAMMA
    radius = int(np.ceil(5 * fwhm_px))
    fine = (np.arange(subpixels) - (subpixels - 1) / 2) / subpixels
    for (x, y), flux in zip(places, fluxes, strict=True):
        column, row = round(x), round(y)
        left, right = max(column - radius, 0), min(column + radius + 1, shape[1])
        top, bottom = max(row - radius, 0), min(row + radius + 1, shape[0])
        if left >= right or top >= bottom:
            continue
        dx = (np.arange(left, right)[:, None] + fine - x).ravel()
        dy = (np.arange(top, bottom)[:, None] + fine - y).ravel()
        profile = (1 + (dx[None, :] ** 2 + dy[:, None] ** 2) / gamma**2) ** -3.0
        binned = profile.reshape(bottom - top, subpixels, right - left, subpixels).sum(axis=(1, 3))
        image[top:bottom, left:right] += flux * binned * 2 / (np.pi * gamma**2 * subpixels**2)
    return image


def exposure(rng, places, fluxes, shape, noise=10.0, fwhm_px=2.8, transparency=1.0):
    """One sky-subtracted frame: the picture dimmed, with Gaussian noise, float32."""
    return (transparency * picture(places, fluxes, shape, fwhm_px) + rng.normal(0, noise, shape)).astype(np.float32)
