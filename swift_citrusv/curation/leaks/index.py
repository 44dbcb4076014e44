"""What is known of the items of evaluation sets, so that they are found in rows."""
import numpy as np
import os
import pyarrow as pa
import pyarrow.parquet as pq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from safetensors.numpy import save_file
from typing import Any, BinaryIO, NamedTuple

from ...files.medical import PATIENT, STUDY
from ...files.rules import FileRules
from ...settings import SettingError
from ..data_files import whole_file, write_json
from ..dedup.image_copies import read_image
from ..dedup.text_keys import hash_units, units_of
from ..parquet import write_lines
from ..progress import Progress
from .evaluation_sets import EvaluationSet, Item, read_items

INDEXED = 'items'
# Runs of so many words or Chinese characters are sought: a text that shares none is not held.
GRAM = 8
ITEM_SCHEMA = pa.schema([('item', pa.string()), ('has_images', pa.bool_())])
TEXT_SCHEMA = pa.schema([('item', pa.uint32()), ('form', pa.string()), ('is_question', pa.bool_())])
IMAGE_SCHEMA = pa.schema([('item', pa.uint32()), ('digest', pa.binary(16)), ('hash', pa.uint64())])
PERSON_SCHEMA = pa.schema([('item', pa.uint32()), ('level', pa.string()), ('value', pa.string())])
# The thumbnails of the images, one after the other: those of a large benchmark do not fit into memory.
THUMBNAILS = 'thumbnails.u8'
# In the header of DICOM files that someone else has anonymised.
_NOBODY = frozenset(('', 'anonymous', 'anonymized', 'anonymised', 'anon', 'unknown', 'none', 'patient', 'no id', '0'))


class Picture(NamedTuple):
    """What is compared of an image.

    Attributes:
        digest: The key of its pixels.
        hashes: Its perceptual hashes in four turns.
        thumbnail: uint8 [h, w], see `image_likeness`.
        persons: The levels and values of its header: ('study', UID), ('patient', ID).
    """
    digest: bytes
    hashes: Sequence[int]
    thumbnail: np.ndarray
    persons: Sequence[tuple[str, str]]


def describe(reference: Any, files: FileRules) -> Picture | None:
    """What is compared of an image; None if it cannot be opened."""
    from ..dedup.image_likeness import hashes, thumbnail
    found = read_image(reference, files)
    if found is None:
        return None
    persons = [(level, found.info.get(name, '')) for level, name in (('study', STUDY), ('patient', PATIENT))]
    return Picture(found.digest, hashes(found.image), thumbnail(found.image), list(filter(is_known, persons)))


def is_known(person: tuple[str, str]) -> bool:
    """Whether a level and its value say which study or patient it is."""
    return person[1].strip().casefold() not in _NOBODY


def persons_of(data: Mapping[str, Any], columns: Mapping[str, str]) -> list[tuple[str, str]]:
    """The levels and values of the columns of a row."""
    found = [(level, str(data[column]).strip()) for level, column in columns.items() if data.get(column) is not None]
    return [item for item in found if is_known(item)]


def grams(units: Sequence[str]) -> np.ndarray:
    """The runs of `GRAM` units as numbers: uint64 [max(n - GRAM + 1, 0)]."""
    numbers = hash_units(units)
    if len(numbers) < GRAM:
        return np.empty(0, np.uint64)
    result = np.zeros(len(numbers) - GRAM + 1, np.uint64)
    for place in range(GRAM):
        result = (result ^ numbers[place:place + len(result)]) * np.uint64(0x100000001b3)
        result ^= result >> np.uint64(29)
    return result


@dataclass(frozen=True)
class IndexTask:
    """Describes the items of all sets.

    Attributes:
        sets: The sets.
        folder: The work folder.
        files: What their rows may name.
        columns: The columns of study and patient.
    """
    sets: Sequence[EvaluationSet]
    folder: str
    files: FileRules
    columns: Mapping[str, str]

    def __call__(self, index: int) -> None:
        with whole_file(os.path.join(self.folder, 'index', THUMBNAILS)) as part, open(part, 'wb') as thumbnails:
            self._describe(thumbnails)

    def _describe(self, thumbnails: BinaryIO) -> None:
        top = os.path.join(self.folder, 'index')
        items: list[Any] = []
        texts: list[Any] = []
        images: list[Any] = []
        persons: list[Any] = []
        counts = []
        progress = Progress(self.folder, INDEXED, 'all')
        for number, chosen in enumerate(self.sets):
            first, unopened, blank = len(items), 0, 0
            for item in read_items(chosen, os.path.join(self.folder, 'preset-images', str(number))):
                place = len(items)
                before = len(texts) + len(images) + len(persons)
                items.append((item.item_id, item.has_images))
                texts += [(place, *form) for form in _forms(item)]
                found = {*persons_of(item.data, self.columns)}
                for reference in item.images:
                    picture = describe(reference, self.files)
                    if picture is None:
                        unopened += 1
                        continue
                    found.update(picture.persons)
                    images.append((place, picture.digest, picture.hashes[0]))
                    thumbnails.write(picture.thumbnail.tobytes())
                persons += [(place, *person) for person in sorted(found)]
                blank += before == len(texts) + len(images) + len(persons)
                progress.add()
            inside = range(first, len(items))
            if len(inside) == blank:
                raise SettingError(
                    f'The evaluation set {chosen.path} has nothing to compare: no text, no image that can be '
                    'opened, no study and no patient.')
            counts.append({
                'items': len(inside),
                'texts': sum(line[0] in inside for line in texts),
                'images': sum(line[0] in inside for line in images),
                'images_not_opened': unopened,
                'items_with_nothing_to_compare': blank,
                **{f'{level}_ids': len({line[2] for line in persons if line[0] in inside and line[1] == level})
                   for level in ('study', 'patient')},
            })  # yapf: disable
        progress.end()
        for name, lines, schema in (('items', items, ITEM_SCHEMA), ('texts', texts, TEXT_SCHEMA),
                                    ('images', images, IMAGE_SCHEMA), ('persons', persons, PERSON_SCHEMA)):
            write_lines(os.path.join(top, f'{name}.parquet'), lines, schema)
        runs = [grams(form.split()) for _, form, _ in texts]
        values = np.concatenate([*runs, np.empty(0, np.uint64)])
        order = np.argsort(values, kind='stable')
        owners = np.repeat(np.arange(len(runs), dtype=np.uint32), [len(run) for run in runs])
        with whole_file(os.path.join(top, 'grams.safetensors')) as part:
            save_file({'values': values[order], 'texts': owners[order]}, part)
        write_json(os.path.join(top, 'counts.json'), counts)


def _forms(item: Item) -> list[tuple[str, bool]]:
    """The normal forms of the texts of an item, and whether they are questions."""
    found: dict[str, bool] = {}
    for texts, is_question in ((item.questions, True), (item.answers, False)):
        for text in texts:
            found.setdefault(' '.join(units_of(text)), is_question)
    return [(form, is_question) for form, is_question in found.items() if form]


def read_index(folder: str, name: str) -> list[dict[str, Any]]:
    """The lines of a table of the index."""
    lines: list[dict[str, Any]] = pq.read_table(os.path.join(folder, 'index', f'{name}.parquet')).to_pylist()
    return lines


def read_thumbnails(folder: str, count: int) -> np.ndarray:
    """The thumbnails of the images of the index: uint8 [count, SIDE, SIDE], read from the disk where they are used."""
    from ..dedup.image_likeness import SIDE
    if not count:
        return np.empty((0, SIDE, SIDE), np.uint8)
    return np.memmap(os.path.join(folder, 'index', THUMBNAILS), np.uint8, 'r', shape=(count, SIDE, SIDE))
