"""Draws masks on images."""
import numpy as np
import torch
import torch.nn.functional as F
from collections.abc import Sequence
from matplotlib import colormaps
from matplotlib.colors import ListedColormap
from PIL import Image, ImageDraw
from torch import Tensor

from ..model.overlap_metrics import dice_score

_COLOURS = colormaps['tab10']


def colour(index: int) -> tuple[int, int, int]:
    """The RGB colour (0 to 255) of the mask with this index; colours repeat after ten."""
    assert isinstance(_COLOURS, ListedColormap)
    red, green, blue = (round(255 * v) for v in _COLOURS(index % _COLOURS.N)[:3])
    return red, green, blue


def overlay(image: np.ndarray, masks: Sequence[np.ndarray], opacity: float = 0.4) -> np.ndarray:
    """Draws translucent masks and their outlines on an image.

    Args:
        image: uint8 RGB [h, w, 3].
        masks: uint8 or bool [h, w] each, drawn in the colours of `colour`.
        opacity: Opacity of the masks, 0 to 1.

    Returns:
        uint8 RGB [h, w, 3].
    """
    result = image.astype(np.float32)
    for index, mask in enumerate(masks):
        inside = mask > 0
        padded = np.pad(inside, 1, mode='edge')
        core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        tint = np.array(colour(index), dtype=np.float32)
        result[inside] = (1 - opacity) * result[inside] + opacity * tint
        result[inside & ~core] = tint
    return result.round().astype(np.uint8)


def captioned(picture: np.ndarray, caption: str) -> Image.Image:
    """Adds a line of text above a picture, uint8 RGB [h, w, 3]."""
    canvas = Image.new('RGB', (picture.shape[1], picture.shape[0] + 14), 'white')
    canvas.paste(Image.fromarray(picture), (0, 14))
    ImageDraw.Draw(canvas).text((2, 1), caption, fill='black')
    return canvas


def tile(pictures: Sequence[Image.Image], columns: int, gap: int = 4) -> Image.Image:
    """Arranges pictures of one size in a grid, row by row; `gap` is in pixels."""
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    canvas = Image.new('RGB', (columns * (width + gap) - gap, rows * (height + gap) - gap), 'white')
    for i, picture in enumerate(pictures):
        canvas.paste(picture, ((i % columns) * (width + gap), (i // columns) * (height + gap)))
    return canvas


def mask_grid(pictures: Sequence[tuple[Tensor, Tensor, Tensor]], side: int = 256) -> Image.Image:
    """A grid with one row for each mask: image, target, prediction.

    Args:
        pictures: (image uint8 [3, S, S], target uint8 [m, m], logits [m, m]) each.
        side: Side of a tile, in pixels.
    """
    tiles = []
    for image, target, logits in pictures:
        pixels = _resize(image[None].float(), side).clamp(0, 255).round().byte()[0].permute(1, 2, 0).numpy()
        target_mask = F.interpolate(
            target[None, None].float(), size=(side, side), mode='nearest-exact')[0, 0].numpy() > 0
        predicted_mask = _resize(logits[None, None], side)[0, 0].numpy() > 0
        tiles.append(captioned(pixels, 'image'))
        tiles.append(captioned(overlay(pixels, [target_mask]), 'target'))
        tiles.append(
            captioned(
                overlay(pixels, [predicted_mask]), f'prediction, Dice {dice_score(predicted_mask, target_mask):.2f}'))
    return tile(tiles, columns=3)


def _resize(values: Tensor, side: int) -> Tensor:
    with torch.no_grad():
        return F.interpolate(values, size=(side, side), mode='bilinear', align_corners=False)
