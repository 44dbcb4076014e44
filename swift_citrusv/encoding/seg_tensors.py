"""The segmentation tensors of rows: encoded, joined into a pack, padded into a batch, cut with their row."""
import numpy as np
import torch
from collections.abc import Sequence
from PIL import Image
from torch import Tensor
from typing import Any

from ..constants import IGNORE_INDEX, NO_MASK
from ..files.orientation import ImageSize
from ..rows.contract import Sample
from ..rows.masks import decode_mask, resize_mask

SEG_KEYS = ('g_pixel_values', 'masks', 'mask_image_index', 'mask_token_index')


def _empty(num_rows: int, input_side: int, mask_side: int) -> dict[str, Tensor]:
    return {
        'g_pixel_values': torch.zeros((num_rows, 0, 3, input_side, input_side), dtype=torch.uint8),
        'masks': torch.zeros((num_rows, 0, 1, mask_side, mask_side), dtype=torch.uint8),
        'mask_image_index': torch.zeros((num_rows, 0), dtype=torch.int64),
        'mask_token_index': torch.zeros((num_rows, 0), dtype=torch.int64),
    }


def supervised_masks(sample: Sample, positions: Sequence[int], labels: Sequence[int]) -> tuple[Sample, list[int]]:
    """The masks that a row trains: those whose `[SEG]` is a target of the token loss.

    ms-swift leaves out a turn with `"loss": false` or `"loss_scale": 0`, the earlier turns of `--loss_scale
    last_round`, and the parts of an answer to which a loss scale gives no weight. A weight other than 0 multiplies the
    token loss of `[SEG]`, and not the loss of its mask.

    Args:
        sample: The row's k masks.
        positions: The position of each mask's `[SEG]` among the row's tokens.
        labels: The labels of the row, one per token; `IGNORE_INDEX` where there is no target.

    Returns:
        The sample without the other masks and their images, and its positions.
    """
    kept = [i for i, position in enumerate(positions) if labels[position] != IGNORE_INDEX]
    if len(kept) == len(sample.masks):
        return sample, list(positions)
    mask_images = tuple(sample.mask_images[i] for i in kept)
    trained = Sample(sample.row, tuple(sample.masks[i] for i in kept), mask_images, tuple(sorted(set(mask_images))))
    return trained, [positions[i] for i in kept]


def encode_masks(sample: Sample, positions: Sequence[int], images: Sequence[Image.Image], *, input_side: int,
                 mask_side: int) -> dict[str, Tensor]:
    """The segmentation tensors of one row.

    Args:
        sample: The row's k >= 1 masks and the n images that they lie on.
        positions: The position of each mask's `[SEG]` among the row's tokens.
        images: All images of the row, RGB, at their original size.
        input_side: S, the side of SAM2's input.
        mask_side: m, the side of SAM2's masks.

    Returns:
        `g_pixel_values` uint8 [n, 3, S, S], `masks` uint8 {0, 1} [k, 1, m, m], `mask_image_index` int64 [k], and
        `mask_token_index` int64 [k].

    Raises:
        RowError: A mask cannot be decoded, or has another size than its image.
    """
    masks = []
    for position, (entry, image) in enumerate(zip(sample.masks, sample.mask_images)):
        size = ImageSize.of(images[image])
        mask = decode_mask(entry, size=size, row=sample.row, position=position)
        masks.append(torch.from_numpy(resize_mask(mask, mask_side)))
    pixels = [seg_pixels(images[i], input_side) for i in sample.seg_images]
    return {
        'g_pixel_values': torch.from_numpy(np.stack(pixels)),
        'masks': torch.stack(masks)[:, None],
        'mask_image_index': torch.tensor(sample.mask_image_index),
        'mask_token_index': torch.tensor(positions),
    }


def seg_pixels(image: Image.Image, input_side: int) -> np.ndarray:
    """Resizes an RGB image for SAM2, in training and inference alike: uint8 [3, S, S], S = `input_side`."""
    # PIL's BILINEAR antialiases when downsampling.
    shrunk = image.resize((input_side, input_side), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.array(shrunk).transpose(2, 0, 1))


def pad_masks(rows: list[dict[str, Any]], input_side: int, mask_side: int) -> dict[str, Tensor]:
    """Batches the segmentation tensors of `rows`, padded. A row may have none.

    Args:
        rows: Encoded rows with all or none of `g_pixel_values` [n, 3, S, S], `masks` [k, 1, m, m],
            `mask_image_index` [k] and `mask_token_index` [k].
        input_side: S.
        mask_side: m.

    Returns:
        The same keys with [B, N, 3, S, S], [B, M, 1, m, m], [B, M] and [B, M], where N and M are the largest n and k
        (0 in a batch without masks). The padding is zero, and `NO_MASK` in the two indices.
    """
    if not any('masks' in row for row in rows):
        return _empty(len(rows), input_side, mask_side)
    empty = {key: value[0] for key, value in _empty(1, input_side, mask_side).items()}
    batch = {}
    for key in SEG_KEYS:
        values = [row.get(key, empty[key]) for row in rows]
        fill = NO_MASK if key.endswith('_index') else 0
        batch[key] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=fill)
    return batch


def pack_masks(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Concatenates the segmentation tensors of `rows` for one pack; indices are shifted accordingly.

    Args:
        rows: As in `pad_masks`, with their numbers of tokens under `length`.

    Returns:
        The four keys without a batch axis; {} if no row has masks.
    """
    joined: dict[str, list[Tensor]] = {key: [] for key in SEG_KEYS}
    num_tokens = num_images = 0
    for row in rows:
        if 'masks' in row:
            joined['g_pixel_values'].append(row['g_pixel_values'])
            joined['masks'].append(row['masks'])
            joined['mask_image_index'].append(row['mask_image_index'] + num_images)
            joined['mask_token_index'].append(row['mask_token_index'] + num_tokens)
            num_images += len(row['g_pixel_values'])
        num_tokens += row['length']
    return {key: torch.cat(values) for key, values in joined.items() if values}


def take_masks(taken: dict[str, Any], start: int, stop: int) -> None:
    """Keeps the masks of an encoded row whose `[SEG]` lies in `[start, stop)`, and their images, in place."""
    index = taken['mask_token_index']
    keep = (index >= start) & (index < stop)
    if not keep.any():
        for key in SEG_KEYS:
            del taken[key]
        return
    images, image_index = taken['mask_image_index'][keep].unique(return_inverse=True)
    taken['g_pixel_values'] = taken['g_pixel_values'][images]
    taken['masks'] = taken['masks'][keep]
    taken['mask_image_index'] = image_index
    taken['mask_token_index'] = index[keep] - start
