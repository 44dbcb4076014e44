"""Seeks the items of evaluation sets in rows."""
import numpy as np
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from safetensors.numpy import load_file
from typing import Any

from ...errors import RowError
from ...files.rules import FileRules
from ..dedup.text_keys import shingles_of, units_of
from ..images import images_of, remembered
from ..texts import row_text
from .index import Picture, describe, grams, persons_of, read_index, read_thumbnails

# Words or Chinese characters of a text that counts inside of another one, and of a question that counts as a whole.
_MIN_PART, _MIN_WHOLE = 13, 3
# The same for items with images, where a row lacks the image: a question may be asked about any image, a report belongs
# to one.
_MIN_OF_IMAGE = 25


@dataclass
class Found:
    """The items that a row holds: by number, how surely.

    Attributes:
        texts: By text.
        images: By image.
        persons: By 'study' and 'patient'.
    """
    texts: dict[int, float] = field(default_factory=dict)
    images: dict[int, float] = field(default_factory=dict)
    persons: dict[str, dict[int, float]] = field(default_factory=dict)


class Seeker:
    """Seeks items in rows.

    Args:
        folder: The work folder with the index.
        files: What rows may name.
        columns: The columns of study and patient.
        text_threshold: The smallest part of an item's text that a row must hold.
        image_threshold: The smallest likeness of copies.
        reads_images: Whether to open images.
    """

    def __init__(self, folder: str, files: FileRules, columns: Mapping[str, str], text_threshold: float,
                 image_threshold: float, reads_images: bool) -> None:
        self._columns, self._reads_images = columns, reads_images
        self._text_threshold, self._image_threshold = text_threshold, image_threshold
        items = read_index(folder, 'items')
        self.ids = [line['item'] for line in items]
        texts = read_index(folder, 'texts')
        self._texts = [(line['item'], line['form']) for line in texts]
        # Whether each text counts without its image: as a part of another one, or as a whole.
        self._by_itself = [_by_itself(line['form'], line['is_question'], items[line['item']]['has_images'])
                           for line in texts]  # yapf: disable
        # A 'yes' with an image tells nothing; a question does.
        self._is_telling = [line['is_question'] or line['form'].count(' ') + 1 >= _MIN_WHOLE for line in texts]
        self._whole: dict[str, list[int]] = {}
        for number, (_, form) in enumerate(self._texts):
            self._whole.setdefault(form, []).append(number)
        stored = load_file(os.path.join(folder, 'index', 'grams.safetensors'))
        self._grams, self._owners = stored['values'], stored['texts']
        images = read_index(folder, 'images')
        self._images, self._thumbnails = images, read_thumbnails(folder, len(images))
        self._hashes = np.array([line['hash'] for line in images], np.uint64)
        self._digests: dict[bytes, list[int]] = {}
        for line in images:
            self._digests.setdefault(line['digest'], []).append(line['item'])
        self._persons: dict[tuple[str, str], list[int]] = {}
        for line in read_index(folder, 'persons'):
            self._persons.setdefault((line['level'], line['value']), []).append(line['item'])
        self._picture = remembered(lambda reference: self._seen(describe(reference, files)))

    def seek(self, data: Mapping[str, Any], name: str) -> Found:
        """The items that a row holds. A text counts if it is long, or if its image is there too."""
        found = Found()
        persons = persons_of(data, self._columns)
        for reference in images_of(data) if self._reads_images else ():
            items, own = self._picture(reference)
            for item, measure in items.items():
                found.images[item] = max(found.images.get(item, 0), measure)
            persons += own
        for person in persons:
            for item in self._persons.get(person, ()):
                found.persons.setdefault(person[0], {})[item] = 1.
        try:
            text = row_text(data, name)
        except RowError:
            return found
        for part in (*text.questions, *text.answers):
            for number, measure, is_whole in self._held(units_of(part)):
                item = self._texts[number][0]
                if self._by_itself[number][is_whole] or item in found.images and self._is_telling[number]:
                    found.texts[item] = max(found.texts.get(item, 0), measure)
        return found

    def _held(self, units: Sequence[str]) -> Iterator[tuple[int, float, bool]]:
        """(number, part, whether it is the whole) of the texts that a text holds."""
        whole = self._whole.get(' '.join(units), ())
        yield from ((number, 1., True) for number in whole)
        own = np.unique(grams(units))
        if not len(own) or not len(self._grams):
            return
        starts, stops = (np.searchsorted(self._grams, own, side) for side in ('left', 'right'))
        numbers = {int(number) for start, stop in zip(starts, stops) if stop > start
                   for number in self._owners[start:stop]}  # yapf: disable
        shingles = shingles_of(units)
        for number in sorted(numbers.difference(whole)):
            wanted = shingles_of(self._texts[number][1].split())
            part = len(wanted & shingles) / len(wanted)
            if part >= self._text_threshold:
                yield number, part, False

    def _seen(self, picture: Picture | None) -> tuple[dict[int, float], Sequence[tuple[str, str]]]:
        """The items with an image, and what its header says of study and patient."""
        from ..dedup.image_likeness import likeness, nearest
        if picture is None:
            return {}, ()
        found = {item: 1. for item in self._digests.get(picture.digest, ())}
        distances = (np.bitwise_count(self._hashes ^ np.uint64(own)) for own in picture.hashes)
        for place, turns in nearest(distances):
            line = self._images[place]
            if line['item'] not in found:
                measure = likeness(self._thumbnails[place], np.rot90(picture.thumbnail, turns))
                if measure >= self._image_threshold:
                    found[line['item']] = measure
        return found, picture.persons


def _by_itself(form: str, is_question: bool, has_images: bool) -> tuple[bool, bool]:
    """Whether a text counts without its image, as a part of another text and as a whole."""
    length = form.count(' ') + 1
    is_long = length >= (_MIN_OF_IMAGE if has_images else _MIN_PART)
    return is_long, is_long or is_question and not has_images and length >= _MIN_WHOLE
