"""What the page gives away of an answer: overlays, label maps and RLEs."""
import io
import json
import numpy as np
import os
import re
import tempfile
import zipfile
from collections.abc import Collection, Sequence
from PIL import Image
from typing import NamedTuple

from ..inference.overlays import draw_overlay, mask_colour
from ..inference.results import MaskResult
from ..volumes.export import label_type, write_nifti
from ..volumes.volume import Volume
from .session import Picture, Session, Turn
from .view import layers

_SUFFIX = re.compile(r'(\.nii)?\.\w{1,5}(?=$|, )')

Numbered = Sequence[tuple[int, MaskResult]]


class Download(NamedTuple):
    """A file for the user."""
    name: str
    media_type: str
    content: bytes


def download(session: Session, turn: Turn, kind: str, ticked: Collection[int] | None, opacity: float) -> Download:
    """A file of an answer's masks; where they lie on several pictures, a zip of a file for each.

    Args:
        session: The conversation.
        turn: The question that was answered.
        kind: 'overlay', 'png', 'rle' or 'nifti'.
        ticked: The numbers of the masks, counted from 1; None: all.
        opacity: Of the tints of an overlay, 0 to 1.

    Raises:
        ValueError: It cannot be had; the text is for the user.
    """
    masks = [(i, mask) for i, mask in enumerate(turn.masks, 1) if ticked is None or i in ticked]
    if not masks:
        raise ValueError('No mask is ticked.')
    if kind == 'rle':
        return Download('masks.json', 'application/json', _rle(session, turn, masks))
    files = []
    for index in sorted({mask.image_index for _, mask in masks}):
        picture = session.pictures[index]
        here = [(i, mask) for i, mask in masks if mask.image_index == index]
        # The name of the file, and of a slice its numbers.
        stem = re.sub(r'[^\w.()-]+', '-', _SUFFIX.sub('', picture.title)).strip('-')
        if kind == 'overlay':
            files.append(
                Download(f'{stem}_overlay.png', 'image/png', _png(overlay(session.image(picture), here, opacity))))
        elif kind == 'png':
            files.append(Download(f'{stem}_labels.png', 'image/png', _png(label_picture(here, picture.size))))
        elif kind == 'nifti':
            files.append(Download(f'{stem}_labels.nii.gz', 'application/gzip', _nifti(picture, here)))
        else:
            raise ValueError(f'There is no download {kind!r}.')
    return files[0] if len(files) == 1 else _zipped(kind, files)


# ---- pictures


def overlay(image: Image.Image, masks: Numbered, opacity: float) -> Image.Image:
    """As `overlays.draw_overlay`, with tints of any opacity."""
    # Its legend is below the picture.
    canvas = draw_overlay(image, masks)
    canvas.paste(image, (0, 0))
    drawn = [(mask_colour(number), *layers(mask, image.size)) for number, mask in masks if mask.area]
    for colour, place, inside, _ in drawn:
        canvas.paste(colour, place, Image.fromarray((inside * opacity).round().astype(np.uint8)))
    for colour, place, _, edge in drawn:
        canvas.paste(colour, place, Image.fromarray(edge))
    return canvas


def label_map(masks: Numbered, size: tuple[int, int]) -> np.ndarray:
    """Unsigned integers [h, w]: the number of the mask at each pixel, of several the last; 0 is background."""
    labels = np.zeros(size[::-1], label_type(max(number for number, _ in masks)))
    for number, mask in masks:
        labels[mask.array > 0] = number
    return labels


def label_picture(masks: Numbered, size: tuple[int, int]) -> Image.Image:
    """The label map as an image, whose values are the numbers, and whose palette has the colours of the masks."""
    labels = label_map(masks, size)
    image = Image.fromarray(labels)
    if labels.dtype == np.uint8:
        image.putpalette([0, 0, 0] + [value for number in range(1, 256) for value in mask_colour(number)])
    return image


def _png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, 'PNG', compress_level=2)
    return content.getvalue()


# ---- other files


def _rle(session: Session, turn: Turn, masks: Numbered) -> bytes:
    used = {mask.image_index for _, mask in masks}
    content = {
        'question': turn.question,
        'answer': turn.answer,
        'images': [{'image_index': i, 'name': picture.title, 'size': [picture.size[1], picture.size[0]]}
                   for i, picture in enumerate(session.pictures) if i in used],
        'masks': [{'number': number, **mask.to_dict()} for number, mask in masks],
    }  # yapf: disable
    return json.dumps(content, ensure_ascii=False, indent=1).encode()


def _nifti(picture: Picture, masks: Numbered) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'labels.nii.gz')
        if picture.cut is None:
            # [column, row, slice], as NIfTI has it.
            write_nifti(path, label_map(masks, picture.size).T[:, :, None], None)
        else:
            _save_volume(path, picture, masks)
        with open(path, 'rb') as file:
            return file.read()


def _save_volume(path: str, picture: Picture, masks: Numbered) -> None:
    """The masks of a slice, at their place in a volume that is empty elsewhere."""
    cut = picture.cut
    assert cut is not None
    is_nifti = picture.upload.num_volumes > 1 or cut.plane is not None
    volume = Volume(picture.upload.path, cut.plane, volume=cut.volume if is_nifti else None, rules=picture.upload.rules)
    found = dict(masks)
    for number in range(1, max(found) + 1):
        # Labels get their values in the order in which they come.
        mask = found[number].array if number in found else np.zeros(volume.size, np.uint8)
        volume.put(cut.index, mask, str(number))
    volume.save(path)


def _zipped(kind: str, files: Sequence[Download]) -> Download:
    content = io.BytesIO()
    # All of them are compressed already.
    with zipfile.ZipFile(content, 'w', zipfile.ZIP_STORED) as archive:
        for i, file in enumerate(files, 1):
            archive.writestr(f'{i}_{file.name}', file.content)
    return Download(f'masks_{kind}.zip', 'application/zip', content.getvalue())
