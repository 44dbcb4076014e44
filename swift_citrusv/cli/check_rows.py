"""The checks of `citrusv check-data` for each row, and their counts."""
import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from ..constants import SEG_TOKEN
from ..encoding.row_media import IMAGE_TAG
from ..errors import RowError
from ..files.errors import IMAGE_ERRORS, file_repr, unreadable_file
from ..files.images import checked_video, open_image, to_rgb
from ..files.orientation import ImageSize
from ..rows.columns import ColumnRules, check_columns, filled_columns
from ..rows.contract import check_tags, count_seg_tokens, parse_row
from ..rows.layouts import standard_row
from ..rows.masks import decode_mask, resize_mask
from ..rows.records import Record, parse_record
from ..rows.target_image import infer_target_images
from .row_input import place_name, split_place

if TYPE_CHECKING:
    from .encoder import TrainingEncoder

# The side of the mask targets of every SAM2 preset but `tiny`.
MASK_SIDE = 256


@dataclass
class RowCounts:
    """The contents of a file or a part of it. All but the first two fields count good rows only.

    Attributes:
        rows: Rows of the file; blank lines are none.
        failing_rows: Rows that training would reject.
        ordinary_rows: Good rows without masks.
        mask_rows: Good rows with masks.
        multi_image_rows: Rows with two images or more.
        images: References to images; several may name one file.
        videos: References to videos.
        masks: Mask entries.
        empty_masks: Masks without a foreground pixel ('not present').
        lost_masks: Masks whose pixels all vanish at the size of the training target.
        elsewhere_masks: Masks that the text of the answer would place on another image than the row does.
        text_seg_tokens: `[SEG]` in the assistant turns of ordinary rows (text supervision).
    """
    rows: int = 0
    failing_rows: int = 0
    ordinary_rows: int = 0
    mask_rows: int = 0
    multi_image_rows: int = 0
    images: int = 0
    videos: int = 0
    masks: int = 0
    empty_masks: int = 0
    lost_masks: int = 0
    elsewhere_masks: int = 0
    text_seg_tokens: int = 0

    def add(self, other: 'RowCounts') -> None:
        for spec in dataclasses.fields(self):
            setattr(self, spec.name, getattr(self, spec.name) + getattr(other, spec.name))


@dataclass(frozen=True)
class RowFailure:
    """A row that fails. `message` has the problem and the remedy, without the row."""
    line: int
    row: str
    kind: str
    message: str


@dataclass
class CheckResult:
    """The result of checking some rows, small enough to send between processes.

    Attributes:
        counts: See `RowCounts`.
        lengths: The number of rows with each length in tokens.
        failures: The failing rows, in order.
        image_keys: Digests of the image references, to count distinct images.
        mask_lines: Places of the good rows with masks, in order.
    """
    counts: RowCounts = field(default_factory=RowCounts)
    lengths: Counter[int] = field(default_factory=Counter)
    failures: list[RowFailure] = field(default_factory=list)
    image_keys: set[bytes] = field(default_factory=set)
    mask_lines: list[int] = field(default_factory=list)


class RowChecker:
    """Checks rows.

    Args:
        names: The names of the files, which are part of the row names.
        encoder: Encodes rows as training does. Without it, only images, video frames and masks are decoded.
        columns: The columns of the whole file, after `rules`.
        rules: How the columns are read.
    """

    def __init__(
        self,
        names: Sequence[str],
        encoder: 'TrainingEncoder | None' = None,
        columns: tuple[str, ...] = (),
        rules: ColumnRules = ColumnRules()
    ) -> None:
        self.columns = columns
        self.rules = rules
        self.names = names
        self.encoder = encoder
        self.mask_side = MASK_SIDE if encoder is None else encoder.mask_side

    def check(self, records: Iterable[tuple[int, Record]]) -> CheckResult:
        """Checks records from `row_input.placed_records`; every row that fails is in `failures`."""
        result = CheckResult()
        for place, record in records:
            result.counts.rows += 1
            row_id = place_name(place, self.names)
            try:
                self._check_row(place, record, row_id, result)
            except RowError as error:
                result.counts.failing_rows += 1
                message = ' '.join(f'{error.problem} {error.remedy}'.split())
                # PIL's message has a memory address, and two reports of one file should be equal.
                message = re.sub(r' object at 0x[0-9a-f]+>', '>', message)
                result.failures.append(RowFailure(split_place(place)[1], row_id, error.kind, message))
        return result

    def _check_row(self, place: int, record: Record, row_id: str, result: CheckResult) -> None:
        row: Mapping[str, Any] = parse_record(record, row_id, self.rules)
        check_columns(filled_columns(row), self.columns, row_id)
        if self.encoder is not None:
            # First, so that an error is the one that training would raise. Returns the row as ms-swift's
            # preprocessors leave it.
            row, length = self.encoder.encode(row, row_id, result.lengths)
        else:
            row = standard_row(row, row_id, self.columns)
        sample = parse_row(row, row_id=row_id)
        images, num_videos = media_references(row, 'image'), len(media_references(row, 'video'))
        check_tags(row.get('messages') or (), num_images=len(images), num_videos=num_videos, row_id=row_id)
        sizes = image_sizes(images, row_id, decode=self.encoder is None)
        if self.encoder is None:
            check_videos(media_references(row, 'video'), row_id)
        counts = RowCounts()
        for position, (entry, image) in enumerate(zip(sample.masks, sample.mask_images)):
            mask = decode_mask(entry, size=sizes[image], row=row_id, position=position)
            counts.masks += 1
            if not mask.any():
                counts.empty_masks += 1
            elif not resize_mask(mask, self.mask_side).any():
                counts.lost_masks += 1
        # The row is good: count it.
        counts.mask_rows = int(bool(sample.masks))
        counts.ordinary_rows = 1 - counts.mask_rows
        counts.multi_image_rows = int(len(images) > 1)
        counts.images = len(images)
        counts.videos = num_videos
        if sample.masks:
            result.mask_lines.append(place)
            choices = infer_target_images(row['messages'], len(images))
            counts.elsewhere_masks = sum(choice is not None and choice.image != image
                                         for choice, image in zip(choices, sample.mask_images))
        else:
            counts.text_seg_tokens = count_seg_tokens(row.get('messages') or ())
        result.image_keys.update(
            blake2b(repr(image).encode('utf-8', 'replace'), digest_size=8).digest() for image in images)
        if self.encoder is not None:
            result.lengths[length] += 1
        result.counts.add(counts)


def media_references(row: Mapping[str, Any], medium: str) -> list[Any]:
    """Returns the images (`medium` 'image') or videos of a row as ms-swift does: from `images` or the message parts."""
    media = row.get(f'{medium}s') or row.get(medium)
    if media:
        media = list(media) if isinstance(media, (list, tuple)) else [media]
    else:
        media = []
        for message in row.get('messages') or ():
            content = message.get('content')
            if medium == 'image' and isinstance(content, str):
                media += IMAGE_TAG.findall(content)
            for part in content if isinstance(content, (list, tuple)) else ():
                kind = part.get('type') if isinstance(part, Mapping) else None
                if kind in (medium, f'{medium}_url') and part.get(kind):
                    media.append(part[kind])
    return [_plain_reference(reference) for reference in media]


def _plain_reference(image: Any) -> Any:
    """Turns `{'bytes': None, 'path': 'a.png'}`, which ms-swift makes of 'a.png', back into 'a.png'."""
    if isinstance(image, Mapping):
        return image.get('bytes') or image.get('path') or image.get('url')
    return image


def image_sizes(images: Iterable[Any], row_id: str, decode: bool) -> list[ImageSize]:
    """Returns (height, width) of each image.

    Args:
        images: From `media_references`.
        row_id: The row's name.
        decode: Whether to decode the pixels, not only the header.

    Raises:
        RowError: An image cannot be read; the message is that of the template.
    """
    sizes = []
    for index, reference in enumerate(images):
        try:
            with open_image(reference) as image:
                if decode:
                    image = to_rgb(image)
                sizes.append(ImageSize.of(image))
        except IMAGE_ERRORS as error:
            raise unreadable_file(row_id, f'images[{index}]={file_repr(reference)}', error,
                                  'image-unreadable') from error
    return sizes


def check_videos(videos: Iterable[Any], row_id: str) -> None:
    """Decodes videos that are lists of frames, and checks that the files of other videos exist.

    Raises:
        RowError: A video cannot be read; the message is that of the template.
    """
    for index, video in enumerate(videos):
        try:
            frames = checked_video(video)
            for frame in frames if isinstance(frames, list) else ():
                with open_image(frame) as image:
                    to_rgb(image)
        except IMAGE_ERRORS as error:
            raise unreadable_file(row_id, f'videos[{index}]={file_repr(video)}', error, 'video-unreadable') from error


def seg_sentences(messages: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns the sentence of each `[SEG]` in the assistant turns; other `[SEG]` tokens in it become `[ ]`."""
    found = []
    for message in messages:
        if message['role'] != 'assistant':
            continue
        content = message['content']
        if not isinstance(content, str):
            content = ''.join(str(part.get('text')) for part in content if part.get('type') == 'text')
        for sentence in re.split(r'(?<=[.!?])\s+|(?<=[。！？])|\n+', content):
            parts = sentence.split(SEG_TOKEN)
            for i in range(1, len(parts)):
                found.append('[ ]'.join(parts[:i]) + SEG_TOKEN + '[ ]'.join(parts[i:]))
    return [sentence.strip() for sentence in found]
