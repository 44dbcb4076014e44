"""Downloads of an answer's masks: overlays, label maps and RLE."""
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

from ..files.medical import NIFTI
from ..inference.overlays import draw_overlay, mask_colour
from ..inference.results import MaskResult
from ..volumes.export import label_type, write_nifti
from ..volumes.segment import label_of
from ..volumes.volume import Volume
from .session import InputImage, Session, Turn
from .view import mask_layers

_SUFFIX = re.compile(r'(\.nii)?\.\w{1,5}(?=$|, )')

NumberedMasks = Sequence[tuple[int, MaskResult]]


class Download(NamedTuple):
    """A file to download."""
    name: str
    media_type: str
    content: bytes


def make_download(session: Session, turn: Turn, kind: str, ticked: Collection[int] | None, opacity: float) -> Download:
    """Makes the file of an answer's masks; with masks on several images, a zip with one file per image.

    Args:
        session: The conversation.
        turn: The answered question.
        kind: 'overlay', 'png', 'rle', 'nifti' or 'seg'.
        ticked: The numbers of the masks, from 1; None: all.
        opacity: Opacity of the masks in an overlay, 0 to 1.

    Raises:
        ValueError: No mask is ticked, or there is no such kind. The message is shown to the user.
    """
    masks = [(i, mask) for i, mask in enumerate(turn.masks, 1) if ticked is None or i in ticked]
    if not masks:
        raise ValueError('No mask is ticked.')
    if kind == 'rle':
        return Download('masks.json', 'application/json', _rle(session, turn, masks))
    files = []
    for index in sorted({mask.image_index for _, mask in masks}):
        source = session.images[index]
        here = [(i, mask) for i, mask in masks if mask.image_index == index]
        # File name, with plane and index of a slice.
        stem = re.sub(r'[^\w.()-]+', '-', _SUFFIX.sub('', source.title)).strip('-')
        if kind == 'overlay':
            image = tinted_overlay(session.load_image(source), here, opacity)
            image = _in_proportion(image, source)
            files.append(Download(f'{stem}_overlay.png', 'image/png', _png(image)))
        elif kind == 'png':
            files.append(Download(f'{stem}_labels.png', 'image/png', _png(label_image(here, source.size))))
        elif kind == 'nifti':
            files.append(Download(f'{stem}_labels.nii.gz', 'application/gzip', _nifti(source, here)))
        elif kind == 'seg':
            if source.upload.is_dicom:
                files.append(Download(f'{stem}_seg.dcm', 'application/dicom', _segmentation(source, here)))
        else:
            raise ValueError(f'There is no download {kind!r}.')
    if not files:
        raise ValueError('The ticked masks lie on images that are not DICOM.')
    return files[0] if len(files) == 1 else _zipped(kind, files)


# ---- images


def tinted_overlay(image: Image.Image, masks: NumberedMasks, opacity: float) -> Image.Image:
    """Draws the masks like `inference.overlays.draw_overlay`, with the given opacity (0 to 1)."""
    # Restores the image; the legend stays below it.
    canvas = draw_overlay(image, masks)
    canvas.paste(image, (0, 0))
    drawn = [(mask_colour(number), *mask_layers(mask, image.size)) for number, mask in masks if mask.area]
    for colour, place, inside, _ in drawn:
        canvas.paste(colour, place, Image.fromarray((inside * opacity).round().astype(np.uint8)))
    for colour, place, _, edge in drawn:
        canvas.paste(colour, place, Image.fromarray(edge))
    return canvas


def _in_proportion(image: Image.Image, source: InputImage) -> Image.Image:
    """The overlay with square pixels, where those of the image are not."""
    width, height = source.geometry.shown_size(source.size)
    if (width, height) == source.size:
        return image
    # The legend below the image keeps its size.
    picture = image.crop((0, 0, *source.size)).resize((round(width), round(height)), Image.Resampling.BICUBIC)
    legend = image.crop((0, source.size[1], *image.size))
    joined = Image.new('RGB', (max(picture.width, legend.width), picture.height + legend.height), 'white')
    joined.paste(picture, (0, 0))
    joined.paste(legend, (0, picture.height))
    return joined


def label_map(masks: NumberedMasks, size: tuple[int, int]) -> np.ndarray:
    """Returns the mask number at each pixel (0: background, overlaps: the last mask), unsigned integers [h, w]."""
    labels = np.zeros(size[::-1], label_type(max(number for number, _ in masks)))
    for number, mask in masks:
        labels[mask.array > 0] = number
    return labels


def label_image(masks: NumberedMasks, size: tuple[int, int]) -> Image.Image:
    """Returns the label map as an image; the palette has the colours of the masks."""
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


def _rle(session: Session, turn: Turn, masks: NumberedMasks) -> bytes:
    used = {mask.image_index for _, mask in masks}
    content = {
        'question': turn.question,
        'answer': turn.answer,
        'images': [{'image_index': i, 'name': source.title, 'size': [source.size[1], source.size[0]]}
                   for i, source in enumerate(session.images) if i in used],
        'masks': [{'number': number, **mask.to_dict()} for number, mask in masks],
    }  # yapf: disable
    return json.dumps(content, ensure_ascii=False, indent=1).encode()


def _nifti(source: InputImage, masks: NumberedMasks) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'labels.nii.gz')
        if source.slice is None:
            # NIfTI order: [column, row, slice].
            write_nifti(path, label_map(masks, source.size).T[:, :, None], None)
        else:
            _save_volume(path, source, masks)
        with open(path, 'rb') as file:
            return file.read()


def _segmentation(source: InputImage, masks: NumberedMasks) -> bytes:
    """A DICOM segmentation whose segments have the phrases of the masks.

    Raises:
        ValueError: The source does not support one.
    """
    phrases = [label_of(mask.phrase) for _, mask in masks]
    names = [phrase if phrases.count(phrase) == 1 else f'{phrase} {number}'
             for phrase, (number, _) in zip(phrases, masks)]  # yapf: disable
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'seg.dcm')
        volume = _volume_of(source)
        volume.check_output(path)
        assert source.slice is not None
        for name, (_, mask) in zip(names, masks):
            volume.put(source.slice.index, mask.array, name)
        legend = volume.save(path)
        if 'instead' in legend:
            raise ValueError(legend['instead'])
        with open(path, 'rb') as file:
            return file.read()


def _volume_of(source: InputImage) -> Volume:
    selected = source.slice
    assert selected is not None
    several = source.upload.num_volumes > 1 or source.upload.kind == NIFTI
    return Volume(
        source.upload.path, selected.plane, volume=selected.volume if several else None, rules=source.upload.rules)


def _save_volume(path: str, source: InputImage, masks: NumberedMasks) -> None:
    """Writes the masks of a slice as a label map of its volume, empty in the other slices."""
    selected = source.slice
    assert selected is not None
    volume = _volume_of(source)
    found = dict(masks)
    for number in range(1, max(found) + 1):
        # `put` numbers the labels in order, so gaps are filled with empty masks.
        mask = found[number].array if number in found else np.zeros(volume.size, np.uint8)
        volume.put(selected.index, mask, str(number))
    volume.save(path)


def _zipped(kind: str, files: Sequence[Download]) -> Download:
    content = io.BytesIO()
    # The files are compressed already.
    with zipfile.ZipFile(content, 'w', zipfile.ZIP_STORED) as archive:
        for i, file in enumerate(files, 1):
            archive.writestr(f'{i}_{file.name}', file.content)
    return Download(f'masks_{kind}.zip', 'application/zip', content.getvalue())
