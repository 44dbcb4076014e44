"""Decodes masks of a dataset to arrays, resizes them, and encodes them as RLE.

pycocotools reads and writes RLE and rasterises polygons, but does not check its input: a broken RLE string returns
uninitialised memory. So every entry is checked first, in time and memory bounded by the entry and the image.
"""
import numpy as np
from collections.abc import Callable, Mapping, Sequence
from PIL import Image, ImageFile
from pycocotools import mask as coco_mask
from typing import Any

from ..errors import RowError
from ..files.errors import IMAGE_ERRORS, file_repr, unreadable_file
from ..files.images import open_label_map
from ..files.lazy import stored_image
from ..files.lossy import LossyFormat, lossy_format, two_levels
from ..files.notices import warn_once
from ..files.orientation import ImageSize, upright
from .mask_format import POLYGON_REMEDY, check_mask_entry, short_repr

# pycocotools reserves six characters of five bits, including the sign, for each run, without a check.
_MAX_PIXELS = 2**29 - 1
# In pixels. pycocotools stores each step of a fifth of a pixel along the outline: about 60 MB at this length.
_MAX_OUTLINE = 2**20
# Number of polygons that pycocotools merges at a time.
_MERGED = 16
_GREY_MODES = ('1', 'L', 'P', 'LA', 'I', 'I;16', 'I;16L', 'I;16B', 'I;16N')
_COLOUR_MODES = ('RGB', 'RGBA')
# PIL scales the values of 2- and 4-bit grey PNGs to 0-255: label 3 of a 2-bit file becomes 255.
_PNG_SCALE = {'L;2': 85, 'L;4': 17}

_RLE_REMEDY = ("Write the RLE as pycocotools does ('size' is [height, width]; 'counts' is its string, .decode('ascii') "
               'if it is bytes, or a list of run lengths), e.g. with `swift_citrusv.encode_rle`.')
MASK_FILE_REMEDY = 'Check the path, and that the file is a complete image that PIL can read.'


def decode_mask(entry: Any,
                *,
                size: tuple[int, int],
                row: str,
                position: int,
                load_image: Callable[[str], Image.Image] | None = None) -> np.ndarray:
    """Decodes one mask entry of a row.

    An empty mask (no pixel set) is valid and means 'not present', except for polygons: a polygon list that covers no
    pixel is an error.

    - RLE, compressed or not: its size must be the image's.
    - Polygons, in pixels from the upper left corner: rasterised and merged by pycocotools, which sets a pixel if its
      centre lies inside, to about a fifth of a pixel. Parts outside the image are clipped; a polygon that is completely
      outside is an error.
    - File: opened with PIL; its size must be the image's. Without `label` the mask is all non-zero pixels (for colour:
      non-zero in red, green or blue; alpha is ignored), with `label` the pixels of exactly that value. In a palette
      file the value is the palette index, not the colour. A file with lossy compression (JPEG, ...) is one mask, of the
      pixels above half of its brightness (`files.lossy`); it has no labels. A file with an EXIF orientation is turned
      upright, as images are.

    Args:
        entry: The entry, in one of the forms above; None-valued keys are ignored.
        size: (height, width) of the image that the mask belongs to, in pixels.
        row: The row's name in error messages, e.g. 'train.jsonl:12'.
        position: The mask's index in the row, for error messages ('masks[2]').
        load_image: Opens the image at a path, by default `images.open_label_map`. The image is closed after use.

    Returns:
        uint8 array of shape (height, width) with values 0 and 1.

    Raises:
        RowError: The entry cannot be decoded, or does not fit the image; `kind` names the problem.
    """
    where = f'masks[{position}]'
    if size[0] * size[1] > _MAX_PIXELS:
        raise RowError(row, f'{where} belongs to an image of height {size[0]} and width {size[1]}.',
                       'Cut the image into tiles below 2^29 pixels.', 'mask-size')
    entry = check_mask_entry(entry, where, row)
    if not isinstance(entry, Mapping):
        return _decode_polygons(entry, size, where, row)
    if 'path' in entry:
        return _decode_file(entry, size, where, row, load_image or open_label_map)
    return _decode_rle(entry, size, where, row)


def resize_mask(mask: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Resizes a mask by nearest-neighbour sampling, without new values.

    Maps the centre of each output pixel to the mask (as PIL's NEAREST and torch's 'nearest-exact'), in exact integer
    arithmetic. A structure smaller than one output pixel may vanish.

    Args:
        mask: uint8 array of shape (height, width).
        size: (height, width) of the output, or its side if it is square.

    Returns:
        uint8 array of shape `size`; a copy, never a view.

    Raises:
        ValueError: `mask` is not a uint8 array with two axes and at least one pixel, or `size` is not positive.
    """
    _check_array(mask)
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f'Cannot resize a mask to {size}: give positive sizes.')
    rows = (2 * np.arange(height) + 1) * mask.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * mask.shape[1] // (2 * width)
    return mask[rows[:, None], columns]


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """Encodes a mask as compressed COCO RLE, serialisable as JSON.

    Args:
        mask: uint8 or bool array of shape (height, width) with values 0 and 1. An empty mask (all 0) is valid.

    Returns:
        {'size': [height, width], 'counts': str}.

    Raises:
        ValueError: `mask` has another dtype or shape, a value other than 0 and 1, or 2^29 pixels or more.
    """
    if mask.dtype == bool:
        mask = mask.astype(np.uint8)
    _check_array(mask)
    if mask.max() > 1:
        raise ValueError(f'A mask has the value {mask.max()}: give only 0 and 1, e.g. mask > 0.')
    if mask.size > _MAX_PIXELS:
        raise ValueError(f'A mask of shape {mask.shape} is too large for RLE: cut it into tiles below 2^29 pixels.')
    rle = coco_mask.encode(np.asfortranarray(mask))
    return {'size': [int(side) for side in rle['size']], 'counts': rle['counts'].decode('ascii')}


def _check_array(mask: np.ndarray) -> None:
    if mask.dtype != np.uint8 or mask.ndim != 2 or not mask.size:
        raise ValueError(f'A mask is {mask.dtype} of shape {mask.shape}: give uint8 of shape (height, width).')


def check_mask_size(mask_size: Sequence[int], size: tuple[int, int], where: str, row: str) -> None:
    """Checks that a mask has the size of its image.

    Args:
        mask_size, size: [height, width] of the mask and of the image (an `ImageSize` if the image may be turned).
        where: The position of the mask in the row, for the error message.
        row: The row's name, for the error message.

    Raises:
        RowError: The sizes differ (kind 'mask-size').
    """
    if tuple(mask_size) == tuple(size):
        return
    if isinstance(size, ImageSize) and tuple(mask_size) == size.stored:
        raise RowError(
            row, f'{where} has [height, width] {short_repr(list(mask_size))}, the size of the stored pixels; its image '
            f'has the EXIF orientation {size.orientation} and is {list(size)} upright.',
            'Draw the mask on the upright image, as viewers show it (PIL.ImageOps.exif_transpose turns the image; turn '
            'the mask in the same way), or remove the orientation from the image file.', 'mask-size')
    raise RowError(row, f'{where} has [height, width] {short_repr(list(mask_size))}, but its image has {list(size)}.',
                   "Draw the mask at the size of its image, or set 'mask_images' to the image that it belongs to.",
                   'mask-size')


def _decode_rle(entry: Mapping[str, Any], size: tuple[int, int], where: str, row: str) -> np.ndarray:
    counts = entry['counts']
    # First, so that nothing is allocated for a size that only the entry claims.
    check_mask_size(entry['size'], size, where, row)
    if isinstance(counts, str):
        runs = _run_lengths(counts, where, row)
        bad = [run for run in runs if run < 0]
        if bad or sum(runs) != size[0] * size[1]:
            problem = (f'hold the run length {short_repr(bad[0])}'
                       if bad else f'sum to {short_repr(sum(runs))}, not to the {size[0] * size[1]} pixels of its size')
            raise RowError(row, f'{where} has a broken RLE: its counts {problem}.', _RLE_REMEDY, 'mask-rle')
        counts = runs
    rle = coco_mask.frPyObjects({'size': list(size), 'counts': list(counts)}, size[0], size[1])
    return np.ascontiguousarray(coco_mask.decode(rle))


def _run_lengths(counts: str, where: str, row: str) -> list[int]:
    """Reads a compressed counts string; the caller checks the lengths.

    Each character has five bits, lowest first, and bit 32 if more follow; the top bit of the last is the sign. From
    the fourth run on, a value is the difference to the run two before.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for i, character in enumerate(counts):
        code = ord(character) - 48
        # Six characters hold any run of a valid image. Without a limit, a long string would build one huge integer.
        if not 0 <= code <= 63 or shift == 30:
            problem = 'an invalid character' if shift < 30 else 'a run of more than six characters'
            raise RowError(row, f'{where} has a broken RLE: {problem} at counts[{i}] ({character!r}).', _RLE_REMEDY,
                           'mask-rle')
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (code & 16) << (shift - 4)
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value, shift = 0, 0
    if shift:
        raise RowError(row, f'{where} has a broken RLE: its counts end inside a run ({short_repr(counts)}).',
                       _RLE_REMEDY, 'mask-rle')
    return runs


def _decode_polygons(polygons: Sequence[Any], size: tuple[int, int], where: str, row: str) -> np.ndarray:
    height, width = int(size[0]), int(size[1])
    length = 0.
    for i, polygon in enumerate(polygons):
        points = np.array(polygon, dtype=np.float64).reshape(-1, 2)
        low, high = points.min(axis=0), points.max(axis=0)
        length += np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()
        if (high <= 0).any() or low[0] >= width or low[1] >= height:
            raise RowError(
                row, f'{where}: polygon {i} spans x, y {low.tolist()} to {high.tolist()}, but the image is {width} x '
                f'{height} pixels.', POLYGON_REMEDY, 'mask-outside')
        if length > _MAX_OUTLINE:
            raise RowError(
                row, f'{where}: with polygon {i}, the outlines have a length of {length:g} pixels, more than '
                f'{_MAX_OUTLINE}.', POLYGON_REMEDY, 'mask-polygon')
    rles = coco_mask.frPyObjects([[float(value) for value in polygon] for polygon in polygons], height, width)
    # In groups: a single merge scans the merged runs again for each polygon, hours for a million polygons.
    while len(rles) > 1:
        rles = [coco_mask.merge(rles[i:i + _MERGED]) for i in range(0, len(rles), _MERGED)]
    mask = np.ascontiguousarray(coco_mask.decode(rles[0]))
    if not mask.any():
        raise RowError(row, f'{where}: the polygons {short_repr(polygons)} cover no pixel of the image.',
                       "Draw them larger; for 'not present', give an RLE of zeros.", 'mask-outside')
    return mask


def _decode_file(entry: Mapping[str, Any], size: tuple[int, int], where: str, row: str,
                 load_image: Callable[[str], Image.Image]) -> np.ndarray:
    path, label = entry['path'], entry.get('label')
    where = f'{where} ({file_repr(path)})'
    try:
        with upright(load_image(path)) as image:
            # The checks need only the header; the file is decoded after them.
            check_mask_size((image.height, image.width), size, where, row)
            lossy = lossy_format(image)
            if lossy is not None and lossy.certain and label is not None:
                raise RowError(
                    row, f'{where} is a {lossy.name}, whose compression changes pixel values, so it has no label '
                    f'{label}.', "Save the label map as PNG, or remove 'label' if the file is one mask.", 'mask-lossy')
            scale = _check_layout(image, label, where, row)
            pixels = np.asarray(image)
    except RowError:
        raise
    except IMAGE_ERRORS as error:
        raise unreadable_file(row, where, error, 'mask-file', MASK_FILE_REMEDY) from error
    if pixels.ndim == 3:
        # With a label, only mode LA gets here, with one channel besides alpha.
        pixels = (pixels[..., :-1] if image.mode.endswith('A') else pixels).max(axis=-1)
    if lossy is not None and label is None:
        return _mask_of_lossy(pixels, lossy, where, row).astype(np.uint8)
    mask: np.ndarray = pixels != 0 if label is None else pixels == int(label) * scale
    return mask.astype(np.uint8)


def _mask_of_lossy(pixels: np.ndarray, lossy: LossyFormat, where: str, row: str) -> np.ndarray:
    """The pixels above the middle of a lossy mask [h, w], as bool; the non-zero ones if the file may be lossless."""
    levels = two_levels(pixels)
    if levels.problem:
        if lossy.certain:
            raise RowError(row, f'{where} is a {lossy.name}, and {levels.problem}.',
                           'Save the mask as PNG, from its original.', 'mask-lossy')
        return pixels != 0
    mask: np.ndarray = pixels > levels.threshold
    changed = np.count_nonzero(mask != (pixels != 0))
    if changed:
        warn_once(
            f'lossy mask: {lossy.name}', f'{row}: {where} is a {lossy.name}, whose compression changes pixel values. '
            f'Its mask is the pixels above {levels.threshold:g}, half of its brightness, not the {changed} other '
            'pixels that are not 0. The same holds for all such files; PNG keeps a mask exactly.')
    return mask


def _check_layout(image: Image.Image, label: int | None, where: str, row: str) -> int:
    """Rejects images whose values PIL changes; returns the factor by which PIL scales the remaining ones."""
    mode = image.mode
    image = stored_image(image)
    # The pixel format of a PNG file, e.g. 'L;2' (2-bit grey).
    tile = image.tile if image.format == 'PNG' and isinstance(image, ImageFile.ImageFile) else []
    raw_mode = str(tile[0][3]) if tile else mode
    num_frames = getattr(image, 'n_frames', 1)
    if num_frames != 1:
        problem = f'has {num_frames} frames'
        remedy = 'Save each frame as a separate file.'
    elif image.mode in _COLOUR_MODES and label is not None:
        problem = f"is a colour image (mode {image.mode!r}), which has no 'label' {label}"
        remedy = "Save the label map as a grey or palette image, or remove 'label' to use all non-zero pixels."
    elif image.mode not in _GREY_MODES + _COLOUR_MODES or raw_mode in ('LA;16B', 'RGB;16B', 'RGBA;16B'):
        # PIL drops the low byte of 16-bit PNGs with several channels: values below 256 would become 0.
        problem = f'has the image mode {raw_mode!r}'
        remedy = 'Save it as an 8- or 16-bit grey, a palette or an 8-bit RGB image.'
    else:
        return _PNG_SCALE.get(raw_mode, 1)
    raise RowError(row, f'{where} {problem}.', remedy, 'mask-mode')
