"""A restored set as one self-contained page: before and after, figures, what was left out and why.

Takes the product, result.json's content and the stretch of the preview; gives HTML. The page loads
nothing from anywhere and every text in it that came from a file is escaped.
"""

from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from stackd.disk.embed import data_uri, encode, jpeg_within, shrink
from stackd.disk.figures import comparisons_of, headline_of, measures_of, moment, number, span
from stackd.disk.frame import Image
from stackd.imaging.maps import find_detail, paint_change, paint_sigma
from stackd.imaging.preview import Picture, Stretch, apply_stretch

LONGEST_PX = 1600
MOST_BYTES = 950_000  # of each of the three large pictures: the page stays below 5 MB
MAP_LONGEST_PX, MAP_MOST_BYTES = 560, 200_000  # as wide as shown: a browser's averaging would grey the colours
ZOOM = 3
CROP_PX = (96, 128)  # height, width

_PAGES = Environment(
    loader=PackageLoader("stackd", "disk"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_PAGES.filters |= {"number": number, "moment": moment}


def render_report(product: Any, content: dict[str, Any], stretch: Stretch) -> str:
    """The page. `product` is a writer.Product, `content` what result.json says of it."""
    images = {name: getattr(product, name) for name in ("single", "stack", "restored")}
    shown = {name: apply_stretch(_thin(image, LONGEST_PX), stretch) for name, image in images.items()}
    return _PAGES.get_template("report.html.j2").render(
        result=content,
        headline=headline_of(content),
        comparisons=comparisons_of(content["figures"]),
        measures=measures_of(content["figures"]),
        span=span(content["started_at"], content["finished_at"]),
        pictures={name: _large(picture, product.bottom_up) for name, picture in shown.items()},
        size=shown["stack"].shape[1::-1],
        crops=_crops(images, shown["stack"], stretch, product.bottom_up),
        zoom=ZOOM,
        maps=_maps(product),
    )


def _large(picture: Picture, bottom_up: bool) -> str:
    return data_uri(jpeg_within(_upright(picture, bottom_up), LONGEST_PX, MOST_BYTES), "jpeg")


def _crops(images: dict[str, Image], overview: Picture, stretch: Stretch, bottom_up: bool) -> dict[str, str]:
    """The same window of each image, its pixels as they are; where most is to be seen in the overview."""
    sides = images["stack"].shape[-2:]
    part = overview.shape[0] / sides[0]
    height, width = (min(most, side) for most, side in zip(CROP_PX, sides, strict=True))
    found = find_detail(overview, max(1, int(height * part)), max(1, int(width * part)))
    top, left = (min(int(at / part), side - size) for at, side, size in zip(found, sides, (height, width), strict=True))
    window = np.s_[..., top : top + height, left : left + width]
    crops = {name: apply_stretch(image[window], stretch) for name, image in images.items()}
    return {name: data_uri(encode(".png", _upright(crop, bottom_up)), "png") for name, crop in crops.items()}


def _maps(product: Any) -> dict[str, Any]:
    """False-colour maps, thinned before they are painted: averaged colours would mean nothing."""
    sigma, low, high = paint_sigma(_grey(_thin(product.sigma, MAP_LONGEST_PX)))
    change, limit = paint_change(_grey(_thin(product.restored, MAP_LONGEST_PX) - _thin(product.stack, MAP_LONGEST_PX)))
    sources = {
        name: data_uri(jpeg_within(_upright(picture, product.bottom_up), MAP_LONGEST_PX, MAP_MOST_BYTES), "jpeg")
        for name, picture in (("sigma", sigma), ("change", change))
    }
    return sources | {"low_adu": low, "high_adu": high, "limit_adu": limit}


def _thin(image: Image, longest_px: int) -> Image:
    """Linear light averaged, as a smaller detector would have seen it."""
    return shrink(image, longest_px) if image.ndim == 2 else np.stack([shrink(band, longest_px) for band in image])


def _grey(image: Image) -> Image:
    return image if image.ndim == 2 else image.mean(axis=0)


def _upright(picture: Picture, bottom_up: bool) -> Picture:
    return picture[::-1] if bottom_up else picture
