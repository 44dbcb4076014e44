"""Pieces of rows: what the packer places (paper section 4.3.2 and figure 13, step 1: chunks)."""
import numpy as np
import torch
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..constants import IGNORE_INDEX
from .seg_tensors import take_masks


class Piece(NamedTuple):
    """The tokens `[start, stop)` of an encoded row; most rows are one piece.

    Attributes:
        start: First token of the piece within the row.
        stop: One past its last token.
        vision_tokens: Image and video placeholder tokens among them, the load of the vision tower.
        seg_images: Distinct images that its masks need, the load of SAM2.
    """
    start: int
    stop: int
    vision_tokens: int
    seg_images: int

    @property
    def length(self) -> int:
        return self.stop - self.start


def cut(length: int, limit: int, whole: Iterable[tuple[int, int]] = ()) -> list[tuple[int, int]]:
    """Cuts a row of `length` tokens into as few stretches of at most `limit` tokens as whole stretches allow.

    Every stretch but the last is as long as it can be, as in figure 13, where 7 tokens at a limit of 5 become 5 + 2.

    Args:
        length: Tokens of the row, >= 1.
        limit: Most tokens of a stretch, >= 1.
        whole: Stretches `(start, stop)` that no cut may fall inside: an image's tokens, or an image up to the last
            `[SEG]` that asks for it. They may overlap, in any order.

    Returns:
        Stretches `(start, stop)` that follow one another from 0 to `length`.

    Raises:
        ValueError: Overlapping whole stretches together are longer than `limit`.
    """
    merged: list[list[int]] = []
    for start, stop in sorted(whole):
        if merged and start < merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], stop)
        else:
            merged.append([start, stop])
    for start, stop in merged:
        if stop - start > limit:
            raise ValueError(f'tokens {start} to {stop - 1} must stay together, and {stop - start} are more than '
                             f'{limit}')
    stretches = []
    start = 0
    while start < length:
        stop = min(start + limit, length)
        # Back to the border of the whole stretch that the cut would fall inside.
        stop = next((first for first, last in merged if first < stop < last), stop)
        stretches.append((start, stop))
        start = stop
    return stretches


class Medium(NamedTuple):
    """The tokens `[start, stop)` of an image or a video in a row, its two border tokens included."""
    start: int
    stop: int
    is_image: bool

    @property
    def num_tokens(self) -> int:
        """Without the borders."""
        return self.stop - self.start - 2


def media_stretches(input_ids: Sequence[int], image_token_id: int, video_token_id: int) -> list[Medium]:
    """The images and videos of a row whose placeholders are expanded, in order."""
    ids = np.asarray(input_ids)
    pads = np.isin(ids, (image_token_id, video_token_id))
    borders = np.flatnonzero(np.diff(pads, prepend=False, append=False))
    return [
        Medium(int(start) - 1,
               int(stop) + 1, bool(ids[start] == image_token_id)) for start, stop in zip(borders[::2], borders[1::2])
    ]


def carry_labels(packed: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Gives the last token of each piece of a cut row its target, the first token of the next piece.

    A label stands at its own token, one place after the token that predicts it. Behind the last token of a piece that
    place is the first of whatever follows in the pack, which never has a label of its own; behind the last piece of
    the pack it is place 0, so that labels are read in a circle. So each token is learned once, as if nothing were cut.

    Args:
        packed: The pack, with flat lists `labels` and perhaps `loss_scale`; changed in place.
        rows: Its items in order, with `length`, and `next_label` and `next_loss_scale` where a cut row goes on.
    """
    total = sum(row['length'] for row in rows)
    place = 0
    for row in rows:
        place += row['length']
        if 'next_label' in row:
            packed['labels'][place % total] = row['next_label']
            if packed.get('loss_scale'):
                packed['loss_scale'][place % total] = row['next_loss_scale']


def take_piece(encoded: dict[str, Any], piece: Piece, media: list[Medium]) -> dict[str, Any]:
    """The tokens of `piece` with the images, videos and masks that stand in them.

    Args:
        encoded: An encoded row, not truncated; it is not changed.
        piece: Where to cut; not inside an image, nor between a mask's image and its `[SEG]`.
        media: The row's `media_stretches`.

    Returns:
        The same keys (media and masks only where the piece has any), and `next_label` and `next_loss_scale`, the
        target of the last token, where the row goes on with a label.
    """
    start, stop, length = piece.start, piece.stop, len(encoded['input_ids'])
    if (start, stop) == (0, length):
        return encoded
    taken = {key: value for key, value in encoded.items() if value is not None}
    for key in ('input_ids', 'labels', 'loss_scale', 'mm_token_type_ids'):
        if key in taken:
            taken[key] = taken[key][start:stop]
    taken['length'] = stop - start
    # The first token is the target of the piece before.
    taken['labels'] = [IGNORE_INDEX, *taken['labels'][1:]]
    if 'loss_scale' in taken:
        taken['loss_scale'] = [0, *taken['loss_scale'][1:]]
    if stop < length and encoded['labels'][stop] != IGNORE_INDEX:
        taken['next_label'] = encoded['labels'][stop]
        taken['next_loss_scale'] = encoded['loss_scale'][stop] if 'loss_scale' in taken else 1.
    for is_image, keys in ((True, ('pixel_values', 'image_grid_thw')), (False, ('pixel_values_videos', 'video_grid_thw',
                                                                                'second_per_grid_ts'))):
        _take_media(taken, [start <= m.start < stop for m in media if m.is_image == is_image], *keys)
    if 'masks' in taken:
        take_masks(taken, start, stop)
    return taken


def _take_media(taken: dict[str, Any], inside: list[bool], pixels: str, grid: str, *others: str) -> None:
    """Keeps the images, or the videos, that stand inside a piece; `pixels` has every patch in a row."""
    if grid not in taken:
        return
    if not any(inside):
        for key in (pixels, grid, *others):
            taken.pop(key, None)
        return
    patches = taken[pixels].split(taken[grid].prod(dim=-1).tolist())
    taken[pixels] = torch.cat([part for part, keep in zip(patches, inside) if keep])
    taken[grid] = taken[grid][torch.tensor(inside)]
    for key in others:
        taken[key] = [value for value, keep in zip(taken[key], inside) if keep]
