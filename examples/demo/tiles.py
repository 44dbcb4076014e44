"""Cuts training and held-out tiles from the source images.

A tile is resized after it is cut, so no held-out pixel leaks into training through the interpolation.
"""
import numpy as np
from dataclasses import dataclass
from pathlib import Path
from PIL import Image
from structures import Box, Source
from tqdm import tqdm

# Width and height. Multiples of 28, the side of a vision token of Qwen2.5-VL, so that its processor does not resize.
TILE_SIZES = ((112, 112), (112, 112), (112, 112), (140, 140), (112, 140))
# Structures that cover a smaller or larger share of a tile are not asked for.
MIN_COVER, MAX_COVER = 0.03, 0.85
# Held-out regions are small: two tiles may overlap, by at most this share.
MAX_SHARED = 0.75
# Many draws fall on the wrong side of the split or on empty background.
DRAWS_PER_TILE = 200


@dataclass(frozen=True)
class Tile:
    """A tile as it is stored: image uint8 RGB `[h, w, 3]`, masks bool `[h, w]`, box in source pixels."""

    source: Source
    path: str
    box: Box
    image: np.ndarray
    masks: dict[str, np.ndarray]


def cut_tiles(source: Source, split: str, folder: Path, rng: np.random.Generator) -> list[Tile]:
    """Cuts the tiles of one source and writes them as PNG.

    Args:
        source: image, structures and held-out rectangle.
        split: `train` (turned and flipped, outside the held-out rectangle) or `val` (as they are, inside it).
        folder: where the PNGs go.
        rng: draws places, sizes and turns.

    Returns:
        At most `num_train` or `num_val` tiles, each with two structures or more.
    """
    num_tiles = source.num_train if split == 'train' else source.num_val
    tiles: list[Tile] = []
    bar = tqdm(total=num_tiles, desc=f'{split} tiles of {source.name}', leave=False)
    for _ in range(DRAWS_PER_TILE * num_tiles):
        if len(tiles) == num_tiles:
            break
        box, size = _draw_box(source, split, rng)
        if box is None or (split == 'val' and any(_share(box, tile.box) > MAX_SHARED for tile in tiles)):
            continue
        image, masks = _resample(source, box, size)
        masks = {name: mask for name, mask in masks.items() if MIN_COVER <= mask.mean() <= MAX_COVER}
        # With a single structure, nothing would show that the prompt, not the image, selects the mask.
        if len(masks) < 2:
            continue
        if split == 'train':
            turns, flip = int(rng.integers(4)), bool(rng.integers(2))
            image, *turned = (_turn(array, turns, flip) for array in (image, *masks.values()))
            masks = dict(zip(masks, turned))
        path = folder / f'{split}_{source.name}_{len(tiles):03d}.png'
        Image.fromarray(image).save(path)
        tiles.append(Tile(source, str(path), box, image, masks))
        bar.update()
    bar.close()
    return tiles


def _draw_box(source: Source, split: str, rng: np.random.Generator) -> tuple[Box | None, tuple[int, int]]:
    """Draws the size and place of a tile; the box is None if it falls on the wrong side of the split."""
    size = TILE_SIZES[rng.integers(len(TILE_SIZES))]
    width, height = (round(side * source.scale) for side in size)
    x0, y0, x1, y1 = source.held_out if split == 'val' else (0, 0, source.image.shape[1], source.image.shape[0])
    if x1 - x0 < width or y1 - y0 < height:
        return None, size
    left, top = int(rng.integers(x0, x1 - width + 1)), int(rng.integers(y0, y1 - height + 1))
    box = (left, top, left + width, top + height)
    forbidden = source.excluded + ((source.held_out, ) if split == 'train' else ())
    return (None if any(_share(box, other) > 0 for other in forbidden) else box), size


def _share(box: Box, other: Box) -> float:
    """The share of `box` that lies in `other`, in 0..1."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    return max(width, 0) * max(height, 0) / ((box[2] - box[0]) * (box[3] - box[1]))


def _resample(source: Source, box: Box, size: tuple[int, int]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Cuts, then resizes; masks stay disjoint because each pixel goes to the mask with the largest share."""
    x0, y0, x1, y1 = box
    image = np.asarray(Image.fromarray(source.image[y0:y1, x0:x1]).resize(size, Image.Resampling.BICUBIC))
    shares = [
        np.asarray(Image.fromarray(mask[y0:y1, x0:x1].astype(np.float32)).resize(size, Image.Resampling.BICUBIC))
        for mask in source.masks.values()
    ]
    largest = np.argmax(shares, axis=0)
    return image, {name: (largest == i) & (shares[i] > 0.25) for i, name in enumerate(source.masks)}


def _turn(array: np.ndarray, turns: int, flip: bool) -> np.ndarray:
    array = np.rot90(array, turns)
    return np.ascontiguousarray(array[:, ::-1] if flip else array)
