"""A contact sheet: the images of a ranking in order, on one picture, each with its rank and value. It opens
the images anew, since a ranking holds none; nothing is measured here."""

import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from rarl.data.images import encoded, open_image
from rarl.errors import ConfigError, DataError
from rarl.files import write_bytes
from rarl.ranking.table import Ranked, Ranking, shown

MOST = 200
"""The most images on a sheet."""

_SIDE, _GAP, _LINE = 160, 8, 18  # pixels
_COLUMNS = 10


def check_sheet(path: Path) -> Path:
    """`path`, if a sheet can be drawn there.

    Raises:
        ConfigError: if it is no name of a PNG or JPEG file.
    """
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ConfigError(f"{path}: a contact sheet is a .png or .jpg file; give a name that ends so")
    return path


def draw_sheet(ranking: Ranking, path: Path) -> None:
    """Draws the first `MOST` images of a ranking that have a value.

    Args:
        ranking: of image files.
        path: the PNG or JPEG file, written whole or not at all.

    Raises:
        DataError: if no image has a value.
    """
    rows = [row for row in ranking if row.value is not None][:MOST]
    if not rows:
        raise DataError(f"{path}: no image has a value, so there is nothing to draw")
    columns = min(_COLUMNS, len(rows))
    width, height = _SIDE + _GAP, _SIDE + _LINE + _GAP
    sheet = Image.new(
        "RGB", (columns * width + _GAP, math.ceil(len(rows) / columns) * height + _GAP), "white"
    )
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for place, row in enumerate(rows):
        left, top = _GAP + place % columns * width, _GAP + place // columns * height
        image = _thumbnail(row)
        if image is not None:
            sheet.paste(image, (left + (_SIDE - image.width) // 2, top + (_SIDE - image.height) // 2))
        pen.text(
            (left, top + _SIDE + 2), f"{row.rank}.  {shown(row.value, ranking.task)}", fill="black", font=font
        )
    write_bytes(path, encoded(sheet, path.suffix))


def _thumbnail(row: Ranked) -> Image.Image | None:
    """The image, small; None if it can't be opened any more."""
    try:
        image = open_image(str(row.image))
    except DataError:
        return None
    scale = _SIDE / max(image.size)
    size = [max(1, round(side * scale)) for side in image.size]
    return image.resize(
        (size[0], size[1]), Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    )
