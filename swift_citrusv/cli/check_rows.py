"""The checks of `citrusv check-data`, row by row, and the counts that they add up to."""
import dataclasses
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from PIL import Image
from typing import TYPE_CHECKING, Any

from ..constants import SEG_TOKEN
from ..encoding.row_media import IMAGE_TAG
from ..errors import RowError
from ..files.errors import IMAGE_ERRORS, shown_name, unreadable
from ..files.images import checked_video, open_image, to_rgb
from ..rows.contract import Sample, check_tags, count_seg_tokens, parse_row
from ..rows.jsonl import check_columns, filled_columns, parse_line
from ..rows.masks import decode_mask, resize_mask
from ..rows.target_image import choices_of_row

if TYPE_CHECKING:
    from .encoder import TrainingEncoder

# The side of the mask targets of every SAM2 preset but `tiny`.
MASK_SIDE = 256


@dataclass
class Counts:
    """What a file, or a part of it, holds. All but the first two are of good rows only.

    Attributes:
        rows: Lines that are not blank.
        failing_rows: Those that training would refuse.
        ordinary_rows: Good rows without masks.
        mask_rows: Good rows with masks.
        multi_image_rows: Rows with two images or more.
        images: References to images; one file may have many.
        videos: References to videos.
        masks: Mask entries.
        empty_masks: Masks without a pixel: 'not present'.
        lost_masks: Masks with pixels, all of which vanish at the size of the training target.
        elsewhere_masks: Masks that an answer in these words would draw on another image than the row says.
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

    def add(self, other: 'Counts') -> None:
        for spec in dataclasses.fields(self):
            setattr(self, spec.name, getattr(self, spec.name) + getattr(other, spec.name))


@dataclass(frozen=True)
class Failure:
    """A row that fails. `message` holds problem and remedy, not the row."""
    line: int
    row: str
    kind: str
    message: str


@dataclass
class Findings:
    """The findings of some rows, small enough to travel between processes.

    Attributes:
        counts: See `Counts`.
        lengths: How many rows have a length, in tokens.
        failures: The failing rows, in order.
        image_keys: Digests of the image references, to count the distinct ones.
        mask_lines: The lines of the good rows with masks, in order.
    """
    counts: Counts = field(default_factory=Counts)
    lengths: Counter[int] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    image_keys: set[bytes] = field(default_factory=set)
    mask_lines: list[int] = field(default_factory=list)


class RowChecker:
    """Checks rows.

    Args:
        path: The file, for the rows' names.
        encoder: What encodes rows as training does; without it, images and frames are opened and masks decoded, and
            that is all.
        columns: The columns of the whole file.
    """

    def __init__(self, path: str, encoder: 'TrainingEncoder | None' = None, columns: tuple[str, ...] = ()) -> None:
        self.columns = columns
        self.name = os.path.basename(path)
        self.encoder = encoder
        self.mask_side = MASK_SIDE if encoder is None else encoder.mask_side

    def check(self, lines: Iterable[tuple[int, str]]) -> Findings:
        """Checks the lines. Every one counts, and every one that fails is in `failures`."""
        findings = Findings()
        for number, line in lines:
            findings.counts.rows += 1
            row_id = f'{self.name}:{number}'
            try:
                self._check_row(number, line, row_id, findings)
            except RowError as error:
                findings.counts.failing_rows += 1
                message = ' '.join(f'{error.problem} {error.remedy}'.split())
                # PIL names what it cannot identify by its address; two reports of one file should not differ.
                message = re.sub(r' object at 0x[0-9a-f]+>', '>', message)
                findings.failures.append(Failure(number, row_id, error.kind, message))
        return findings

    def _check_row(self, number: int, line: str, row_id: str, findings: Findings) -> None:
        row = parse_line(line, row_id)
        check_columns(filled_columns(row), self.columns, row_id)
        if self.encoder is not None:
            # Before anything else, so that what fails, and why, is training's own verdict. It gives back the row as
            # ms-swift's preprocessors leave it.
            row, length = self.encoder.encode(row, row_id, findings.lengths)
        sample = parse_row(row, row_id=row_id) if 'messages' in row else Sample(row_id, (), (), ())
        images, num_videos = media_references(row, 'image'), len(media_references(row, 'video'))
        check_tags(row.get('messages') or (), num_images=len(images), num_videos=num_videos, row_id=row_id)
        sizes = image_sizes(images, row_id, decode=self.encoder is None)
        if self.encoder is None:
            check_videos(media_references(row, 'video'), row_id)
        counts = Counts()
        for position, (entry, image) in enumerate(zip(sample.masks, sample.mask_images)):
            mask = decode_mask(entry, size=sizes[image], row=row_id, position=position)
            counts.masks += 1
            if not mask.any():
                counts.empty_masks += 1
            elif not resize_mask(mask, self.mask_side).any():
                counts.lost_masks += 1
        # Only now is the row known to be good.
        counts.mask_rows = int(bool(sample.masks))
        counts.ordinary_rows = 1 - counts.mask_rows
        counts.multi_image_rows = int(len(images) > 1)
        counts.images = len(images)
        counts.videos = num_videos
        if sample.masks:
            findings.mask_lines.append(number)
            choices = choices_of_row(row['messages'], len(images))
            counts.elsewhere_masks = sum(choice is not None and choice.image != image
                                         for choice, image in zip(choices, sample.mask_images))
        else:
            counts.text_seg_tokens = count_seg_tokens(row.get('messages') or ())
        findings.image_keys.update(
            blake2b(repr(image).encode('utf-8', 'replace'), digest_size=8).digest() for image in images)
        if self.encoder is not None:
            findings.lengths[length] += 1
        findings.counts.add(counts)


def media_references(row: Mapping[str, Any], medium: str) -> list[Any]:
    """The images (`medium` 'image') or videos of a row, as ms-swift finds them: of `images` or the message parts."""
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
    """`{'bytes': None, 'path': 'a.png'}`, which ms-swift makes of 'a.png', as 'a.png'."""
    if isinstance(image, Mapping):
        return image.get('bytes') or image.get('path') or image.get('url')
    return image


def image_sizes(images: Iterable[Any], row_id: str, decode: bool) -> list[tuple[int, int]]:
    """(height, width) of each image.

    Args:
        images: What `media_references` gives.
        row_id: The row's name.
        decode: Read the pixels too, not only the headers.

    Raises:
        RowError: An image that cannot be read, in the words of the template.
    """
    sizes = []
    for index, reference in enumerate(images):
        try:
            with load_image(reference) as image:
                if decode:
                    image = to_rgb(image)
                sizes.append((image.height, image.width))
        except IMAGE_ERRORS as error:
            raise unreadable(row_id, f'images[{index}]={shown_name(reference)}', error, 'image-unreadable') from error
    return sizes


def check_videos(videos: Iterable[Any], row_id: str) -> None:
    """Decodes the frames of videos that are lists of frames, and looks for the files of the others.

    Raises:
        RowError: A video that cannot be read, in the words of the template.
    """
    for index, video in enumerate(videos):
        try:
            frames = checked_video(video)
            for frame in frames if isinstance(frames, list) else ():
                with load_image(frame) as image:
                    to_rgb(image)
        except IMAGE_ERRORS as error:
            raise unreadable(row_id, f'videos[{index}]={shown_name(video)}', error, 'video-unreadable') from error


def load_image(reference: Any) -> Image.Image:
    """Opens an image as training does, under the same rules; decoded to RGB only by `images.to_rgb`."""
    return open_image(reference)


def seg_sentences(messages: Iterable[Mapping[str, Any]]) -> list[str]:
    """For each `[SEG]` of the assistant turns its sentence, in which the other `[SEG]` are written `[ ]`."""
    found = []
    for message in messages:
        if message['role'] != 'assistant':
            continue
        content = message['content']
        if not isinstance(content, str):
            content = ''.join(str(part.get('text')) for part in content if part.get('type') == 'text')
        for sentence in re.split(r'(?<=[.!?])\s+|(?<=[。！？])|\n+', content):
            pieces = sentence.split(SEG_TOKEN)
            for i in range(1, len(pieces)):
                found.append('[ ]'.join(pieces[:i]) + SEG_TOKEN + '[ ]'.join(pieces[i:]))
    return [sentence.strip() for sentence in found]
