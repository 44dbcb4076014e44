"""The rows of a user's file, and what is known of each of their masks."""
import json
import numpy as np
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from PIL import Image
from typing import Any

from ..errors import RowError
from ..rows.contract import count_seg_tokens, parse_row
from ..rows.layouts import standard_row
from ..rows.masks import decode_mask, resize_mask
from ..rows.names import file_name
from ..rows.records import parse_record, read_records
from ..scoring.mask_rows import ImageMask
from ..scoring.row_images import image_size_of, images_of
from .naming import MaskText, column_names, mask_texts, name_masks

# The side of the mask logits of the tiny SAM2.
SIDE = 64
# With fewer volumes than this, their slices are split, not the volumes.
_FEW_VOLUMES = 5
# Columns that name what must not be in both parts of a split, before the image itself.
GROUP_COLUMNS = ('patient', 'patient_id', 'PatientID', 'subject', 'subject_id', 'case', 'case_id', 'study', 'study_id')


@dataclass(frozen=True)
class UserRow:
    """A row of the file.

    Attributes:
        name: 'rows.jsonl:12'.
        row: The row.
        images: A key for each of its images: the same for the same pixels under another name.
        group: The patient or study, or the volume whose slices the images are; '' for none.
        num_masks: Number of its masks.
        num_seg: Number of `[SEG]` in its assistant turns.
    """
    name: str
    row: dict[str, Any]
    images: tuple[str, ...]
    group: str
    num_masks: int
    num_seg: int


@dataclass(frozen=True, eq=False)
class UserMask:
    """A mask of a row.

    Attributes:
        row: Index of the row.
        image: The key of its image.
        name: What it is called; '' if no word says so.
        text: The text around its `[SEG]`.
        area: Number of pixels.
        share: Share of the image, 0 to 1.
        area_small: Number of pixels at the size of the tiny model's masks.
        small: The mask at that size, as shares of each pixel, float32 [64, 64].
        ceiling: Dice of the mask drawn from `small` at the size of the image: about the best that the model can draw.
        digest: The same for the same pixels.
    """
    row: int
    image: str
    name: str
    text: MaskText
    area: int
    share: float
    area_small: int
    small: np.ndarray
    ceiling: float
    digest: bytes


def read_rows(path: str) -> list[UserRow]:
    """Reads a file in any format and layout.

    Raises:
        RowError: A row breaks the row contract, or holds the bytes of an image.
    """
    name = file_name(path)
    parsed = {f'{name}:{number}': parse_record(record, f'{name}:{number}') for number, record in read_records(path)}
    columns = list(dict.fromkeys(key for row in parsed.values() for key in row))
    found = []
    known: dict[str, str] = {}
    for row_id, given in parsed.items():
        row = dict(standard_row(given, row_id, columns))
        if any(isinstance(image, bytes) or isinstance(image, dict) and image.get('bytes') for image in images_of(row)):
            # The stages read the rows as JSONL.
            raise RowError(row_id, 'the image itself is in the row.', 'Save the images as files, and name them.')
        messages = row.get('messages') or ()
        num_masks = len(parse_row(row, row_id=row_id).masks) if messages else 0
        group = next((f'{key}={row[key]}' for key in GROUP_COLUMNS if row.get(key) not in (None, '')), '')
        images = tuple(_image_key(image, known) for image in images_of(row))
        found.append(UserRow(row_id, row, images, group, num_masks, count_seg_tokens(messages)))
    volumes = [_volume(item.row) for item in found]
    if len(set(filter(None, volumes))) < _FEW_VOLUMES:
        return found
    return [replace(item, group=item.group or volume) for item, volume in zip(found, volumes)]


def _volume(row: dict[str, Any]) -> str:
    """The file of the row's first image if a fragment selects a slice of it (`scan.nii.gz#12`); '' if not."""
    first = next((image for image in images_of(row) if isinstance(image, str)), '')
    path, fragment = first[:1000].partition('#')[::2]
    return f'volume={path}' if fragment else ''


def _image_key(image: Any, known: dict[str, str]) -> str:
    """A digest of the image's file, so that a copy under another name counts as the same image."""
    text = image if isinstance(image, str) else json.dumps(image, sort_keys=True, default=str)
    if text not in known:
        path, _, fragment = ((image.get('path') or '') if isinstance(image, dict) else text).partition('#')
        path = path.removeprefix('file://')
        digest = blake2b(digest_size=12)
        # Short names only: a longer text holds the picture itself.
        if len(path) < 1000 and os.path.isfile(path):
            with open(path, 'rb') as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            digest.update(fragment.encode())
        else:
            digest.update(text.encode('utf-8', 'replace'))
        known[text] = digest.hexdigest()
    return known[text]


def masks_of(rows: Sequence[UserRow]) -> list[UserMask]:
    """Decodes the masks of all rows, and names them.

    Raises:
        RowError: A mask cannot be decoded.
    """
    texts: list[MaskText] = []
    given: list[str | None] = []
    for item in rows:
        if item.num_masks:
            texts += mask_texts(item.row['messages'])
            given += column_names(item.row, item.num_masks) or [None] * item.num_masks
    names = [own if own is not None else name for own, name in zip(given, name_masks(texts), strict=True)]
    # One mask at a time: at full size they may not fit into memory together.
    found: list[UserMask] = []
    for index, item in enumerate(rows):
        for mask in _decoded(item) if item.num_masks else ():
            place = len(found)
            found.append(_measured(index, item.images[mask.image], mask.array, names[place], texts[place]))
    return found


def _decoded(item: UserRow) -> Iterable[ImageMask]:
    sample = parse_row(item.row, row_id=item.name)
    sizes: dict[int, tuple[int, int]] = {}
    for position, (entry, image) in enumerate(zip(sample.masks, sample.mask_images)):
        if image not in sizes:
            there = [other for other, place in zip(sample.masks, sample.mask_images) if place == image]
            sizes[image] = image_size_of(item.row, image, there, item.name)
        yield ImageMask(decode_mask(entry, size=sizes[image], row=item.name, position=position), image)


def _measured(row: int, image: str, mask: np.ndarray, name: str, text: MaskText) -> UserMask:
    area = int(np.count_nonzero(mask))
    picture = Image.fromarray(mask.astype(np.float32))
    small = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX))
    ceiling = 1.
    if area:
        # Logits are enlarged bilinearly, then thresholded: a boundary may lie between two of their pixels.
        drawn = np.asarray(Image.fromarray(small).resize(picture.size, Image.Resampling.BILINEAR)) > .5
        ceiling = 2 * int(np.count_nonzero(drawn & (mask > 0))) / (int(np.count_nonzero(drawn)) + area)
    digest = blake2b(np.packbits(mask > 0).tobytes() + str(mask.shape).encode(), digest_size=12).digest()
    return UserMask(row, image, name, text, area, area / mask.size, int(np.count_nonzero(resize_mask(mask, SIDE))),
                    small, ceiling, digest)  # yapf: disable
