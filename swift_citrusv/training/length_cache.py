"""Measured pieces of rows on disk, found by the content of the row. Knows nothing of templates or data sets."""
import hashlib
import numpy as np
import os
from dataclasses import dataclass, field

# The first bytes of a file; the number is that of its layout.
_MAGIC = b'citrusv-lengths-1'
_DIGEST_BYTES = 16
_SUFFIX, _TEMPORARY = '.lengths', '.tmp'
# A file holds the rows of the last run, and of earlier runs as many as fit below this number (some 40 bytes each).
MAX_ROWS = 2**24
# A folder holds the files of so many settings, the last used ones.
MAX_FILES = 8


class DamagedCache(ValueError):
    """A cache file that does not hold what was written to it."""


def spread(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The integers of all ranges `[start, start + count)`, one after another, int64 `[sum(counts)]`."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + counts, counts)


@dataclass(frozen=True)
class Rows:
    """Pieces of several rows.

    Attributes:
        keys: Key of each row, uint64 `[n, 2]`.
        counts: Number of pieces of each row, int32 `[n]`.
        pieces: `pieces.Piece` of all rows, one after another, int32 `[sum(counts), 4]`.
    """
    keys: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.uint64))
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    pieces: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.int32))

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: np.ndarray) -> 'Rows':
        """The rows at the given places, int64 `[k]` or bool `[n]`, in that order."""
        starts = np.cumsum(self.counts, dtype=np.int64) - self.counts
        counts = self.counts[rows]
        return Rows(self.keys[rows], counts, self.pieces[spread(starts[rows], counts)])

    @staticmethod
    def joined(parts: list['Rows']) -> 'Rows':
        parts = [Rows(), *parts]
        return Rows(*(np.concatenate([getattr(part, name) for part in parts]) for name in ('keys', 'counts', 'pieces')))


class LengthCache:
    """The rows of one cache file, sorted by key.

    Args:
        path: The file, which need not exist yet. None: nothing is kept.
        rows: What it holds; by default what is read from it.

    Raises:
        DamagedCache: The file is not whole.
        OSError: It cannot be read.
    """

    def __init__(self, path: str | None, rows: Rows | None = None) -> None:
        self.path = path
        if rows is None:
            rows = _read(path) if path is not None and os.path.exists(path) else Rows()
        self.rows = rows
        self._starts = np.cumsum(self.rows.counts, dtype=np.int64) - self.rows.counts
        self._high = np.ascontiguousarray(self.rows.keys[:, 0])
        self._used = np.zeros(len(self.rows), dtype=bool)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Where rows stand, int64 `[k]`, and -1 where they do not, for keys uint64 `[k, 2]`."""
        if not len(self.rows):
            return np.full(len(keys), -1)
        # Two rows in 2^64 share half of a key by chance: the second of them is measured again.
        places = np.minimum(np.searchsorted(self._high, keys[:, 0]), len(self.rows) - 1)
        return np.where((self.rows.keys[places] == keys).all(axis=1), places, -1)

    def pieces(self, place: int) -> np.ndarray:
        """The pieces of the row that stands there, int32 `[p, 4]`."""
        start = self._starts[place]
        return self.rows.pieces[start:start + self.rows.counts[place]]

    def mark_used(self, places: np.ndarray) -> None:
        """Notes that this run needs the rows at these places, int64 `[k]`."""
        self._used[places] = True

    def add(self, new: Rows) -> None:
        """Writes the file anew with `new` rows beside the old, in one step, so that no reader sees half of it.

        Past `MAX_ROWS`, rows that this run did not need are left out, and past `MAX_FILES` the file of the folder that
        was not used for the longest time is removed.

        Raises:
            OSError: It cannot be written; the old file is left as it was.
        """
        if self.path is None or not len(new):
            return
        spare = np.flatnonzero(~self._used)[max(MAX_ROWS - len(new) - int(self._used.sum()), 0):]
        kept = np.ones(len(self.rows), dtype=bool)
        kept[spare] = False
        rows = Rows.joined([self.rows.take(kept), new])
        order = np.lexsort((rows.keys[:, 1], rows.keys[:, 0]))
        is_first = np.ones(len(order), dtype=bool)
        is_first[1:] = (rows.keys[order[1:]] != rows.keys[order[:-1]]).any(axis=1)
        _write(self.path, rows.take(order[is_first]))
        _remove_old_files(os.path.dirname(self.path))


def _arrays(num_rows: int, num_pieces: int) -> list[tuple[str, tuple[int, ...]]]:
    """dtype and shape of what follows the header: keys, counts and pieces."""
    return [('<u8', (num_rows, 2)), ('<i4', (num_rows, )), ('<i4', (num_pieces, 4))]


def _read(path: str) -> Rows:
    with open(path, 'rb') as file:
        content = memoryview(file.read())
    body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest() != digest or body[:len(_MAGIC)] != _MAGIC:
        raise DamagedCache(f'{path} is not whole')
    # The age of a file is that of its last use.
    os.utime(path)
    # From here on, everything is as `_write` left it.
    offset = len(_MAGIC) + 16
    sizes = np.frombuffer(body[len(_MAGIC):offset], '<i8')
    arrays = []
    for dtype, shape in _arrays(int(sizes[0]), int(sizes[1])):
        array = np.frombuffer(body, dtype, count=int(np.prod(shape)), offset=offset).reshape(shape)
        offset += array.nbytes
        arrays.append(array)
    return Rows(*arrays)


def _write(path: str, rows: Rows) -> None:
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    arrays = (rows.keys, rows.counts, rows.pieces)
    parts: list[bytes | memoryview] = [_MAGIC, np.array([len(rows), len(rows.pieces)], '<i8').tobytes()]
    for array, (dtype, _) in zip(arrays, _arrays(len(rows), len(rows.pieces))):
        parts.append(np.ascontiguousarray(array, dtype).ravel().view(np.uint8).data)
    temporary = f'{path}.{os.getpid()}{_TEMPORARY}'
    try:
        with open(temporary, 'wb') as file:
            digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
            for part in parts:
                digest.update(part)
                file.write(part)
            file.write(digest.digest())
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _remove_old_files(folder: str) -> None:
    ages = {}
    for entry in os.scandir(folder):
        # A temporary file that grows old belongs to a run that was killed.
        if entry.name.endswith((_SUFFIX, _TEMPORARY)):
            try:
                ages[entry.path] = entry.stat().st_mtime
            except FileNotFoundError:  # another run was faster
                continue
    for path in sorted(ages, key=lambda path: ages[path])[:-MAX_FILES]:
        try:
            os.unlink(path)
        except FileNotFoundError:
            continue


def cache_path(folder: str, settings: str) -> str:
    """The file for rows measured under `settings`, a text that names all that decides a length but the row itself."""
    digest = hashlib.blake2b(settings.encode(), digest_size=_DIGEST_BYTES).hexdigest()
    return os.path.join(folder, digest + _SUFFIX)
