"""Datasets with rows of different kinds for the ranks of a step.

With one row a batch and no shuffling, rank r of W takes the rows r, r + W, r + 2 W, ...
"""
from collections.abc import Sequence
from itertools import product
from support.rows import Maker
from typing import Any

# Text only; an image or a video for the vision tower; masks, for SAM2 too; no target at all.
KINDS = ('text', 'image', 'video', 'masks', 'silent')
# Tokens of a row. `--truncation_strategy right` cuts off the whole answer of a silent row, and nothing of the others.
MAX_LENGTH = 256


def make_row(maker: Maker, kind: str, num_images: int = 1) -> dict[str, Any]:
    """A row of one of the `KINDS`; one of masks has `num_images` images, a mask on each and another on the first."""
    image, mask, row = maker.image, maker.mask, maker.row
    if kind == 'text':
        return row('What is a nucleus?', 'A part of the cell.')
    if kind == 'image':
        return row('<image>What is it?', 'A cell.', images=[image(56, 56)])
    if kind == 'video':
        return row('<video>What moves?', 'The cell.', videos=[[image(56, 56), image(56, 56)]])
    if kind == 'masks':
        answer = ', '.join(['the cell [SEG]'] * num_images)
        return row(
            '<image>' * num_images + 'Segment the cells.',
            f'These are {answer}, and in the first image again [SEG].',
            images=[image(56, 56) for _ in range(num_images)],
            masks=[mask(56, 56) for _ in range(num_images + 1)],
            mask_images=[*range(num_images), 0])
    if kind == 'silent':
        # A turn with `"loss": false` would still train its end token.
        return row('Is bone hard? ' * MAX_LENGTH, 'Yes.')
    raise ValueError(f'{kind!r} is not one of {KINDS}.')


def all_pairs(maker: Maker, kinds: Sequence[str]) -> list[dict[str, Any]]:
    """For two ranks: every kind on one beside every kind on the other, one pair a step.

    The first step has the first kind beside masks. Where both have masks, they are of different numbers, so that SAM2
    runs on chunks of different numbers.
    """
    pairs = sorted(product(kinds, kinds), key=lambda pair: pair != (kinds[0], 'masks'))
    return [make_row(maker, kind, 1 + rank) for pair in pairs for rank, kind in enumerate(pair)]


def one_kind_each(maker: Maker, kinds: Sequence[str], num_steps: int) -> list[dict[str, Any]]:
    """For as many ranks as `kinds`: each has rows of its own kind in every step."""
    return [make_row(maker, kind, 1 + rank) for _ in range(num_steps) for rank, kind in enumerate(kinds)]
