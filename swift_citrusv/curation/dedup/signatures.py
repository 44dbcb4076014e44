"""What is compared of each row: an exact key, and the bands of its signature."""
import numpy as np
import os
import pyarrow as pa
import pyarrow.parquet as pq
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from ...errors import RowError
from ...files.rules import FileRules
from ..data_files import whole_file
from ..images import listed, remembered
from ..inputs import Shard, read_shard
from ..parquet import LineWriter
from ..shard_task import parsed, shard_name
from ..texts import RowText, row_text
from .image_copies import Copy, known_digests, read_copies, read_image, reference_text
from .places import place_of
from .text_keys import BANDS, band_keys, digest, exact_key, hashable_units, text_units

_BATCH = 4096
_MEDIA = frozenset(('images', 'image', 'videos', 'video', 'audios', 'audio'))
ROW_SCHEMA = pa.schema([('place', pa.uint64()), ('row_id', pa.string()), ('key', pa.binary(16)), ('kind', pa.string()),
                        ('masks', pa.uint32()), ('length', pa.uint32()), ('scope', pa.string()),
                        ('pixels', pa.binary(16)), ('likeness', pa.float64())])  # yapf: disable
BAND_SCHEMA = pa.schema([('band', pa.uint64()), ('place', pa.uint64())])
FORM_SCHEMA = pa.schema([('place', pa.uint64()), ('form', pa.string())])


@dataclass(frozen=True)
class RowKeys:
    """What is compared of a row.

    Attributes:
        text: Its text.
        parts: Its questions and answers.
        images: The key of its images, of the originals of copies; empty without any.
        kind: 'text', or 'pair' with images.
        pixels: The key of its images themselves.
        likeness: That of the copy among its images that is least like its original; 1 without a copy.
    """
    text: str
    parts: RowText
    images: bytes
    kind: str
    pixels: bytes
    likeness: float


class KeyMaker:
    """Describes rows.

    Args:
        files: What rows may name.
        reads_images: Whether images are the same by their pixels; else by their names.
        scope: The column that rows must agree in to be the same, or None.
        known: The keys of images whose pixels were read before, by `reference_text`; None: none was.
        copies: Images that count as their originals.
    """

    def __init__(self,
                 files: FileRules,
                 reads_images: bool,
                 scope: str | None,
                 known: Mapping[str, bytes] | None = None,
                 copies: Mapping[bytes, Copy] | None = None) -> None:
        self._files, self._reads_images, self._scope = files, reads_images, scope
        self._known, self._copies = known, copies or {}
        self._key = remembered(self._image_key)

    def keys(self, data: Mapping[str, Any], name: str) -> RowKeys | None:
        """The keys of a row; None for a row without a text."""
        try:
            text = row_text(data, name)
        except RowError:
            return None
        if not (text.questions or text.answers):
            return None
        media = []
        if not _MEDIA.isdisjoint(data):
            media = [item for column in sorted(_MEDIA) for item in listed(data.get(column))]
        if not media:
            return RowKeys(text.all, text, b'', 'text', b'', 1.)
        pixels = [self._key(item) for item in media]
        originals = [self._copies.get(key, Copy(key, 1.)) for key in pixels]
        images = digest(b'\0'.join(copy.original for copy in originals))
        return RowKeys(text.all, text, images, 'pair', digest(b'\0'.join(pixels)),
                       min(copy.measure for copy in originals))

    def scope(self, data: Mapping[str, Any]) -> str:
        """The value of the scope column."""
        return '' if self._scope is None else str(data.get(self._scope, ''))

    def _image_key(self, reference: Any) -> bytes:
        text = reference_text(reference)
        if self._reads_images:
            if self._known is None:
                found = read_image(reference, self._files)
                key = None if found is None else found.digest
            else:
                key = self._known.get(text)
            if key is not None:
                return key
            # Videos, and images that cannot be opened, are the same by their names.
            text = f'name:{text}'
        return digest(text.encode('utf-8', 'surrogatepass'))


@dataclass(frozen=True)
class SignatureTask:
    """Writes the signatures of each shard.

    Attributes:
        shards: The shards of the input.
        folder: The work folder.
        files, reads_images, scope: As in `KeyMaker`.
        is_near: Whether bands are needed.
        has_copies: Whether `image_copies` has run.
    """
    shards: Sequence[Shard]
    folder: str
    files: FileRules
    reads_images: bool
    scope: str | None
    is_near: bool
    has_copies: bool

    def __call__(self, index: int) -> None:
        shard = self.shards[index]
        known = known_digests(self.folder, index) if self.has_copies else None
        copies = read_copies(self.folder) if self.has_copies else None
        maker = KeyMaker(self.files, self.reads_images, self.scope, known, copies)
        # Numbers of 64 bits that hardly repeat: a dictionary of them takes longer than all the rest.
        plain = {'compression': 'none', 'use_dictionary': False}
        with _table(self.folder, 'signatures', index, ROW_SCHEMA) as rows, \
                _table(self.folder, 'bands', index, BAND_SCHEMA, **plain) as bands:
            seen: set[bytes] = set()
            batch: list[tuple[int, list[str | bytes], bytes]] = []
            for number, (line, content) in enumerate(read_shard(shard)):
                row, faults = parsed(content, shard.source, line)
                keys = None if faults else maker.keys(row.data, f'{shard.source}:{line}')
                if keys is None:
                    continue
                place, scope = place_of(index, number), maker.scope(row.data)
                key = exact_key(f'{scope}\0{keys.text}', keys.images)
                masks = row.data.get('masks')
                num_masks = len(masks) if isinstance(masks, list) else 0
                rows.add((place, row.row_id, key, keys.kind, num_masks, len(keys.text), scope, keys.pixels
                          or None, keys.likeness))
                # Of equal rows one is compared with the others.
                if self.is_near and key not in seen:
                    seen.add(key)
                    units = hashable_units(keys.parts)
                    # A text of punctuation is like none.
                    if units:
                        together = keys.images + scope.encode()
                        batch.append((place, units, digest(together) if together else b''))
                    if len(batch) >= _BATCH:
                        _write_bands(bands, batch)
                        batch = []
            _write_bands(bands, batch)


def _write_bands(bands: LineWriter, batch: Sequence[tuple[int, list[str | bytes], bytes]]) -> None:
    if batch:
        found = band_keys([units for _, units, _ in batch], [images for *_, images in batch])
        places = np.repeat(np.array([place for place, *_ in batch], np.uint64), BANDS)
        bands.write(pa.table([pa.array(found.reshape(-1)), pa.array(places)], schema=BAND_SCHEMA))


@dataclass(frozen=True)
class FormTask:
    """Writes the normal forms of the rows of a shard that are in a pair.

    Attributes:
        shards, folder: As in `SignatureTask`.
    """
    shards: Sequence[Shard]
    folder: str

    def __call__(self, index: int) -> None:
        path = os.path.join(self.folder, 'candidates', f'{shard_name(index)}.parquet')
        wanted = set(pq.read_table(path)['place'].to_pylist()) if os.path.exists(path) else set()
        shard = self.shards[index]
        with _table(self.folder, 'forms', index, FORM_SCHEMA) as forms:
            for number, (line, content) in enumerate(read_shard(shard) if wanted else ()):
                place = place_of(index, number)
                if place in wanted:
                    text = row_text(parsed(content, shard.source, line)[0].data, f'{shard.source}:{line}')
                    forms.add((place, ' '.join(text_units(text))))


@contextmanager
def _table(folder: str, kind: str, index: int, schema: pa.Schema, **settings: Any) -> Iterator[LineWriter]:
    """The Parquet file of a shard."""
    with whole_file(os.path.join(folder, kind, f'{shard_name(index)}.parquet')) as part, \
            closing(LineWriter(part, schema, **settings)) as writer:
        yield writer
