"""Which images of the whole input are copies of one picture: resized, compressed again, brightened, cut, turned."""
import json
import numpy as np
import os
import pyarrow as pa
import pyarrow.parquet as pq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from PIL import Image
from typing import Any, NamedTuple

from ...files.errors import IMAGE_ERRORS
from ...files.images import open_image, to_rgb
from ...files.medical import SERIES
from ...files.rules import FileRules
from ..images import listed
from ..inputs import Shard, read_shard
from ..joins import connected, quoted, rows_of
from ..parquet import write_lines
from ..progress import Progress
from ..shard_task import parsed, shard_name
from .places import place_of
from .text_keys import digest

# Cutting an edge off changes the proportions by less.
_MAX_STRETCH = 1.1
# Thumbnails in memory, of 64 KiB.
_KEPT_THUMBNAILS = 1024
# What the tasks count.
HASHED, COMPARED = 'images', 'compared images'
# No file name starts with it.
_OBJECT = '\0'
IMAGE_SCHEMA = pa.schema([('place', pa.uint64()), ('reference', pa.string()), ('digest', pa.binary(16)),
                          ('width', pa.uint32()), ('height', pa.uint32()), ('series', pa.string()),
                          *((f'turn{turns}', pa.uint64()) for turns in range(4))])  # yapf: disable
LIKE_SCHEMA = pa.schema([('first', pa.uint64()), ('second', pa.uint64()), ('measure', pa.float64())])
COPY_SCHEMA = pa.schema([('digest', pa.binary(16)), ('original', pa.binary(16)), ('measure', pa.float64())])
# Every image once, in the order of the input.
_UNIQUE = ('SELECT row_number() OVER (ORDER BY place, digest) - 1 AS number, * FROM (SELECT * FROM '
           "read_parquet('{files}') QUALIFY row_number() OVER (PARTITION BY digest ORDER BY place, reference) = 1)")


class Copy(NamedTuple):
    """What an image is a copy of: the key of the original, and the likeness of the two."""
    original: bytes
    measure: float


def reference_text(reference: Any) -> str:
    """What a row names, as text."""
    return reference if isinstance(reference, str) else _OBJECT + json.dumps(reference, sort_keys=True)


class ReadImage(NamedTuple):
    """An image of a row.

    Attributes:
        image: Upright, RGB.
        digest: The key of its pixels.
        info: What its file says, as `SERIES`.
    """
    image: Image.Image
    digest: bytes
    info: Mapping[Any, Any]


def read_image(reference: Any, files: FileRules) -> ReadImage | None:
    """Reads what a row names; None if it cannot be opened: such images, and videos, are the same by their names."""
    try:
        opened = open_image(reference, files)
        image = to_rgb(opened)
        pixels = np.asarray(image)
    except IMAGE_ERRORS:
        return None
    return ReadImage(image, digest(f'{pixels.shape}:'.encode() + pixels.tobytes()), opened.info)


@dataclass(frozen=True)
class HashTask:
    """Describes the images of each shard.

    Attributes:
        shards: The shards of the input.
        folder: The work folder.
        files: What rows may name.
    """
    shards: Sequence[Shard]
    folder: str
    files: FileRules

    def __call__(self, index: int) -> None:
        shard, seen, lines = self.shards[index], set[str](), []
        progress = Progress(self.folder, HASHED, shard_name(index))
        for number, (line, content) in enumerate(read_shard(shard)):
            row, faults = parsed(content, shard.source, line)
            if faults:
                continue
            for reference in (*listed(row.data.get('images')), *listed(row.data.get('image'))):
                text = reference_text(reference)
                if text not in seen:
                    seen.add(text)
                    lines += [(place_of(index, number), *found) for found in self._described(reference, text)]
                    progress.add()
        progress.end()
        write_lines(os.path.join(self.folder, 'images', f'{shard_name(index)}.parquet'), lines, IMAGE_SCHEMA)

    def _described(self, reference: Any, text: str) -> Iterator[tuple[Any, ...]]:
        """The line of an image; nothing for one that cannot be opened."""
        from .image_likeness import hashes
        found = read_image(reference, self.files)
        if found is not None:
            yield text, found.digest, *found.image.size, found.info.get(SERIES, ''), *hashes(found.image)


def known_digests(folder: str, index: int) -> dict[str, bytes]:
    """The keys of the pixels of the images of a shard, by what rows name."""
    table = pq.read_table(os.path.join(folder, 'images', f'{shard_name(index)}.parquet'))
    return dict(zip(table['reference'].to_pylist(), table['digest'].to_pylist()))


@dataclass(frozen=True)
class LikenessTask:
    """Compares the images whose hashes are near, a part of all.

    Slices of one series are never copies of each other, however alike they are.

    Attributes:
        folder: The work folder.
        num_tasks: The number of parts.
        threshold: The smallest likeness of copies.
        files: What rows may name.
    """
    folder: str
    num_tasks: int
    threshold: float
    files: FileRules

    def __call__(self, index: int) -> None:
        with connected(os.path.join(self.folder, f'images-{index}')) as connection:
            lines = list(self._like(connection, index))
        write_lines(os.path.join(self.folder, 'like-images', f'{shard_name(index)}.parquet'), lines, LIKE_SCHEMA)

    def _like(self, connection: Any, index: int) -> Iterator[tuple[int, int, float]]:
        from .image_likeness import likeness
        connection.execute(f'CREATE TABLE images AS {_unique(self.folder)}')
        columns = ', '.join(('width', 'height', *(f'turn{turns}' for turns in range(4))))
        images = connection.execute(
            f'SELECT {columns}, CASE WHEN series = \'\' THEN 0 ELSE dense_rank() OVER (ORDER BY series) END AS series '
            'FROM images ORDER BY number').fetchnumpy()
        candidates = _Candidates(images)
        progress = Progress(self.folder, COMPARED, shard_name(index))
        thumbnail = lru_cache(_KEPT_THUMBNAILS)(lambda number: self._thumbnail(connection, number))
        # Neighbours in the input are often candidates for each other: a part is a run of them, opened once.
        count = len(images['width'])
        for second in range(count * index // self.num_tasks, count * (index + 1) // self.num_tasks):
            for first, turns in candidates.of(second):
                measure = likeness(thumbnail(second), np.rot90(thumbnail(first), turns))
                if measure >= self.threshold:
                    yield first, second, measure
            progress.add()
        progress.end()

    def _thumbnail(self, connection: Any, number: int) -> np.ndarray:
        from .image_likeness import thumbnail
        text, = connection.execute('SELECT reference FROM images WHERE number = ?', [number]).fetchone()
        reference = json.loads(text[len(_OBJECT):]) if text.startswith(_OBJECT) else text
        return thumbnail(to_rgb(open_image(reference, self.files)))


class _Candidates:
    """Which earlier images an image may be a copy of.

    Args:
        images: Columns `width`, `height`, `series` (0: none) and `turn0` to `turn3`, in the order of the input.
    """

    def __init__(self, images: Mapping[str, np.ndarray]) -> None:
        self._stretch = np.log(images['width'] / images['height'])
        self._series = images['series']
        self._turned = [np.asarray(images[f'turn{turns}'], np.uint64) for turns in range(4)]

    def of(self, number: int) -> list[tuple[int, int]]:
        """(number, turns by 90 degrees) of those with the nearest hashes."""
        from .image_likeness import nearest
        own = self._turned[0][number]

        def fits(near: np.ndarray, turns: int) -> np.ndarray:
            stretch = self._stretch[near] * (1 if turns % 2 == 0 else -1) - self._stretch[number]
            is_other = (self._series[near] == 0) | (self._series[near] != self._series[number])
            return is_other & (np.abs(stretch) < np.log(_MAX_STRETCH))

        return nearest((np.bitwise_count(turned[:number] ^ own) for turned in self._turned), fits)


@dataclass(frozen=True)
class CopyTask:
    """Chooses the original of each copy: the image with most pixels, then the first.

    An image is a copy of one that it was compared with, so a chain of small changes does not join what differs.

    Attributes:
        folder: The work folder.
    """
    folder: str

    def __call__(self, index: int) -> None:
        with connected(os.path.join(self.folder, 'spill')) as connection:
            lines = self._copies(connection)
        write_lines(os.path.join(self.folder, 'copies.parquet'), lines, COPY_SCHEMA)

    def _copies(self, connection: Any) -> list[tuple[bytes, bytes, float]]:
        like = f"read_parquet('{quoted(self.folder, 'like-images', '*.parquet')}')"
        neighbours: dict[int, list[tuple[float, int]]] = {}
        for first, second, measure in rows_of(connection.execute(f'SELECT * FROM {like} ORDER BY ALL')):
            neighbours.setdefault(first, []).append((measure, second))
            neighbours.setdefault(second, []).append((measure, first))
        if not neighbours:
            return []
        order, digests = {}, {}
        for number, own, pixels in rows_of(
                connection.execute('SELECT number, digest, width::BIGINT * height FROM '
                                   f'({_unique(self.folder)}) ORDER BY number')):
            if number in neighbours:
                order[number], digests[number] = (-pixels, number), own
        copies: dict[int, tuple[bytes, bytes, float]] = {}
        for number in sorted(neighbours, key=order.__getitem__):
            originals = [(-measure, order[other], other) for measure, other in neighbours[number]
                         if order[other] < order[number] and other not in copies]  # yapf: disable
            if originals:
                measure, _, other = min(originals)
                copies[number] = digests[number], digests[other], -measure
        return [copies[number] for number in sorted(copies)]


def read_copies(folder: str) -> dict[bytes, Copy]:
    """The copies of the whole input, by the keys of their pixels."""
    lines = pq.read_table(os.path.join(folder, 'copies.parquet')).to_pylist()
    return {line['digest']: Copy(line['original'], line['measure']) for line in lines}


def _unique(folder: str) -> str:
    return _UNIQUE.format(files=quoted(folder, 'images', '*.parquet'))
