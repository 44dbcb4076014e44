"""Chunks of rows, the units that are packed (paper section 4.3.2 and figure 13, step 1)."""
import numpy as np
import torch
from collections.abc import Iterable, Sequence
from swift.template import MaxLengthError
from typing import Any, NamedTuple

from ..constants import IGNORE_INDEX
from ..rows.contract import Sample
from .seg_tensors import take_masks


class Chunk(NamedTuple):
    """The tokens `[start, stop)` of an encoded row. Most rows are one chunk.

    Attributes:
        start: First token of the chunk within the row.
        stop: One past its last token.
        vision_tokens: Number of image and video placeholder tokens, the load of the vision tower.
        seg_images: Number of distinct images that its masks lie on, the load of SAM2.
    """
    start: int
    stop: int
    vision_tokens: int
    seg_images: int

    @property
    def length(self) -> int:
        return self.stop - self.start


def cut(length: int, limit: int, whole: Iterable[tuple[int, int]] = ()) -> list[tuple[int, int]]:
    """Cuts a row of `length` tokens into as few spans of at most `limit` tokens as the unbreakable spans allow.

    Every span but the last is as long as possible, as in figure 13, where 7 tokens at a limit of 5 become 5 + 2.

    Args:
        length: Tokens of the row, >= 1.
        limit: Most tokens of a span, >= 1.
        whole: Unbreakable spans `(start, stop)`: the tokens of an image, or an image up to the last `[SEG]` that refers
            to it. They may overlap, in any order.

    Returns:
        Spans `(start, stop)` that follow one another from 0 to `length`.

    Raises:
        ValueError: Overlapping unbreakable spans together are longer than `limit`.
    """
    merged = _merged(whole)
    for start, stop in merged:
        if stop - start > limit:
            raise ValueError(f'tokens {start} to {stop - 1} must stay together, and {stop - start} are more than '
                             f'{limit}')
    spans = []
    start = 0
    while start < length:
        stop = min(start + limit, length)
        # Back to the start of the unbreakable span that the cut would break.
        stop = next((first for first, last in merged if first < stop < last), stop)
        spans.append((start, stop))
        start = stop
    return spans


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        else:
            merged.append((start, stop))
    return merged


class Medium(NamedTuple):
    """The tokens `[start, stop)` of an image or a video in a row, including its start and end token."""
    start: int
    stop: int
    is_image: bool

    @property
    def num_tokens(self) -> int:
        """Placeholder tokens, without the start and end token."""
        return self.stop - self.start - 2


def media_spans(input_ids: Sequence[int], image_token_id: int, video_token_id: int) -> list[Medium]:
    """Returns the images and videos of a row with expanded placeholders, in order."""
    ids = np.asarray(input_ids)
    pads = np.isin(ids, (image_token_id, video_token_id))
    borders = np.flatnonzero(np.diff(pads, prepend=False, append=False))
    return [
        Medium(int(start) - 1,
               int(stop) + 1, bool(ids[start] == image_token_id)) for start, stop in zip(borders[::2], borders[1::2])
    ]


def must_stay(media: Sequence[Medium], sample: Sample, positions: Sequence[int]) -> list[tuple[int, int]]:
    """The spans of a row that no cut may break: each image, video, and image with the `[SEG]` of its masks.

    Args:
        media: The row's `media_spans`.
        sample: The segmentation side of the row.
        positions: The position of each mask's `[SEG]`.

    Returns:
        Spans `(start, stop)` in order that do not overlap.
    """
    images = [medium for medium in media if medium.is_image]
    # A [SEG] may precede its image, in an earlier turn of the assistant.
    tied = [(min(images[image].start, position), max(images[image].stop, position + 1))
            for image, position in zip(sample.mask_images, positions)]
    return _merged([(medium.start, medium.stop) for medium in media] + tied)


def split_row(labels: Sequence[int], media: Sequence[Medium], sample: Sample, positions: Sequence[int],
              max_length: int | None) -> list[Chunk]:
    """Splits an encoded row into chunks of at most `max_length` tokens; a row that fits is one chunk.

    An image or a video is never split, nor is a mask's image separated from its `[SEG]`. A chunk without targets and
    masks is dropped: it contributes no gradient.

    Args:
        labels: The labels of the row, one per token.
        media: The row's `media_spans`.
        sample: The segmentation side of the row.
        positions: The position of each mask's `[SEG]`.
        max_length: Maximum number of tokens of a chunk; None: never split.

    Raises:
        MaxLengthError: A part that must not be split is longer than `max_length`.
    """
    if max_length is None or len(labels) <= max_length:
        num_vision = sum(medium.num_tokens for medium in media)
        return [Chunk(0, len(labels), num_vision, len(sample.seg_images))]
    try:
        spans = cut(len(labels), max_length, must_stay(media, sample, positions))
    except ValueError as e:
        raise MaxLengthError(f'{len(labels)} tokens cannot be cut into chunks of at most {max_length} '
                             f'(an image stays whole, and a mask with its image): {e}.') from e
    chunks = []
    for start, stop in spans:
        seg_images = {image for image, position in zip(sample.mask_images, positions) if start <= position < stop}
        # The target of a token is the next label.
        if seg_images or any(label != IGNORE_INDEX for label in labels[start + 1:stop + 1]):
            num_vision = sum(medium.num_tokens for medium in media if start <= medium.start < stop)
            chunks.append(Chunk(start, stop, num_vision, len(seg_images)))
    return chunks or [Chunk(0, spans[0][1], 0, 0)]


def carry_labels(packed: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Gives the last token of each chunk of a split row its target: the first token of the next chunk.

    A label stands at its own token, one position after the token that predicts it. After the last token of a chunk,
    that position is the first one of the next item in the pack, which never has a label of its own; after the last
    chunk of the pack it is position 0, so labels wrap around. Each token is learned once, as if nothing were split.

    Args:
        packed: The pack, with flat lists `labels` and perhaps `loss_scale`; changed in place.
        rows: Its items in order, with `length`, and `next_label` and `next_loss_scale` where a split row continues.
    """
    total = sum(row['length'] for row in rows)
    place = 0
    for row in rows:
        place += row['length']
        if 'next_label' in row:
            packed['labels'][place % total] = row['next_label']
            if packed.get('loss_scale'):
                packed['loss_scale'][place % total] = row['next_loss_scale']


def take_chunk(encoded: dict[str, Any], chunk: Chunk, media: list[Medium]) -> dict[str, Any]:
    """Extracts a chunk of an encoded row: its tokens, and the images, videos and masks among them.

    Args:
        encoded: An encoded row, not truncated; not modified.
        chunk: One of `split_row`.
        media: The row's `media_spans`.

    Returns:
        The same keys (media and masks only if the chunk has any); and `next_label` and `next_loss_scale`, the target of
        the last token, if the row continues with a label.
    """
    start, stop, length = chunk.start, chunk.stop, len(encoded['input_ids'])
    if (start, stop) == (0, length):
        return encoded
    taken = {key: value for key, value in encoded.items() if value is not None}
    for key in ('input_ids', 'labels', 'loss_scale', 'mm_token_type_ids'):
        if key in taken:
            taken[key] = taken[key][start:stop]
    taken['length'] = stop - start
    # The first token is a target of the previous chunk.
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
    """Keeps the images, or the videos, inside a chunk; `pixels` is the key of their concatenated patches."""
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
