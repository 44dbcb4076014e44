"""Rows longer than `--max_length`: what is wrong, and which flags make them fit."""
import math
from collections.abc import Sequence
from dataclasses import dataclass
from qwen_vl_utils import vision_process
from swift.template import MaxLengthError
from typing import Any, NamedTuple

from ..constants import IGNORE_INDEX, SEG_TOKEN
from ..errors import RowError
from ..rows.contract import Sample
from .chunks import Medium, must_stay

_SIDE = 14 * vision_process.SPATIAL_MERGE_SIZE
# Settings of a row that take the place of --max_pixels.
_OWN_SIZE = ('max_pixels', 'resized_height', 'resized_width')
# Each try has so much fewer pixels than the one before.
_SHRINK = .95


class RowTokens(NamedTuple):
    """An encoded row before it is truncated.

    Attributes:
        num_tokens: All tokens.
        has_seg: Whether a `[SEG]` is among them.
        media: Its `chunks.media_spans`.
        sizes: The (width, height) of its images in pixels, at their own size.
        settings: Its `chat_template_kwargs`.
    """
    num_tokens: int
    has_seg: bool
    media: Sequence[Medium]
    sizes: Sequence[tuple[int, int]]
    settings: dict[str, Any]

    @property
    def num_image_tokens(self) -> int:
        return sum(medium.num_tokens for medium in self.media if medium.is_image)


@dataclass(frozen=True)
class TooLong:
    """A row with more tokens than `--max_length`.

    Attributes:
        row: The row.
        limit: `--max_length`.
        strategy: `--truncation_strategy`; 'raise' for ms-swift's 'delete'.
        sample: The segmentation side of the row.
        positions: The position of each mask's `[SEG]`.
    """
    row: RowTokens
    limit: int
    strategy: str
    sample: Sample
    positions: Sequence[int]

    def __str__(self) -> str:
        """How long the row is, and what of it are images."""
        row = self.row
        videos = sum(medium.num_tokens for medium in row.media if not medium.is_image)
        images = 'image' if len(row.sizes) == 1 else f'{len(row.sizes)} images'
        parts = [f'{row.num_image_tokens} of them of its {images}'] if row.sizes else []
        parts += [f'{videos} of its videos'] if videos else []
        return f'{row.num_tokens} tokens{", " + " and ".join(parts) + "," if parts else ""}'

    def check(self) -> None:
        """Raises MaxLengthError for a row that may not be truncated, and cannot be split."""
        if self.strategy not in ('left', 'right', 'split'):
            raise MaxLengthError(f'{self} are more than --max_length {self.limit}. {self.remedies()}')
        if self.strategy == 'split' and not self.can_be_split:
            raise MaxLengthError(f'{self} cannot be cut into chunks of at most {self.limit} (an image stays whole, and '
                                 f'a mask with its image). {self.remedies()}')

    def positions_left(self, input_ids: Sequence[int], labels: Sequence[int], seg_token_id: int) -> list[int]:
        """The position of each mask's `[SEG]` after truncation.

        Raises:
            RowError: One is gone.
        """
        if not self.sample.masks:
            return []
        left = [i for i, token in enumerate(input_ids) if token == seg_token_id and labels[i] != IGNORE_INDEX]
        if len(left) < len(self.sample.masks):
            raise RowError(
                self.sample.row, f'{len(left)} of the {len(self.sample.masks)} {SEG_TOKEN} are left after truncation '
                f'(--truncation_strategy {self.strategy}): {self} are more than --max_length {self.limit}.',
                self.remedies(), 'truncation')
        return left

    @property
    def can_be_split(self) -> bool:
        whole = must_stay(self.row.media, self.sample, self.positions)
        return all(stop - start <= self.limit for start, stop in whole)

    def remedies(self) -> str:
        """The flags that make the row fit, with their values, the mildest first."""
        row, flags = self.row, []
        longer = f'--max_length {row.num_tokens}'
        pixels = self.max_pixels()
        if pixels is not None:
            flags.append(f'--max_pixels {pixels} (smaller images for the language model; masks are drawn on the '
                         'images at their own size all the same)')
        # Smaller images come first where they are most of the row.
        flags.insert(len(flags) if 2 * row.num_image_tokens > row.num_tokens else 0, longer)
        if self.can_be_split:
            flags.append('--packing true --truncation_strategy split (cuts the row into chunks of a pack)')
        flags.append('--strict false (skips the row)')
        text = f'Use {", or ".join(flags)}.'
        if row.has_seg:
            return f'{text} Not --truncation_strategy left or right: they may cut off {SEG_TOKEN}.'
        return text

    def max_pixels(self) -> int | None:
        """The largest value of `--max_pixels`, of those tried, at which the row fits; None where there is none."""
        row = self.row
        if not row.sizes or any(row.settings.get(name) is not None for name in _OWN_SIZE):
            return None
        room = self.limit - (row.num_tokens - row.num_image_tokens)
        pixels = float(max(width * height for width, height in row.sizes))
        while pixels >= _SIDE * _SIDE:
            value = int(pixels)
            if sum(image_tokens(size, value, row.settings) for size in row.sizes) <= room:
                return value
            pixels *= _SHRINK
        return None


def image_tokens(size: tuple[int, int], max_pixels: int, settings: dict[str, Any]) -> float:
    """The tokens of an image of (width, height) under `--max_pixels`; infinite where it is too narrow for that.

    As `swift.template.vision_utils.rescale_image` and then `qwen_vl_utils.fetch_image` resize it.
    """
    width, height = size
    if width * height > max_pixels:
        scaled = math.sqrt(max_pixels / (width / height))
        width, height = int(scaled * (width / height)), int(scaled)
    least = settings.get('min_pixels', vision_process.IMAGE_MIN_TOKEN_NUM * _SIDE**2)
    try:
        high, wide = vision_process.smart_resize(
            height, width, factor=_SIDE, min_pixels=least, max_pixels=vision_process.IMAGE_MAX_TOKEN_NUM * _SIDE**2)
    except (ValueError, ZeroDivisionError):
        return math.inf
    return (high // _SIDE) * (wide // _SIDE)
