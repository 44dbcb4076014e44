"""A cache file of measured rows, keyed by the content of the row."""
import hashlib
import numpy as np
import os
from dataclasses import dataclass, field

# The first bytes of a file; the number is the version of its layout.
_MAGIC = b'citrusv-lengths-1'
_DIGEST_BYTES = 16
_SUFFIX, _TEMPORARY = '.lengths', '.tmp'
# A file holds the rows of the last run, and rows of earlier runs up to this number (some 40 bytes each).
MAX_ROWS = 2**24
# Files in a folder, one per set of settings; the least recently used ones are deleted.
MAX_FILES = 8


class CorruptCacheError(ValueError):
    """A cache file is truncated or changed."""


def concatenated_ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The integers of all ranges `[start, start + count)`, one after another, int64 `[sum(counts)]`."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + counts, counts)


@dataclass(frozen=True)
class MeasuredRows:
    """The chunks of several rows.

    Attributes:
        keys: Key of each row, uint64 `[n, 2]`.
        counts: Number of chunks of each row, int32 `[n]`.
        chunks: The chunks (`chunks.Chunk`) of all rows in order, int32 `[sum(counts), 4]`.
    """
    keys: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.uint64))
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    chunks: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.int32))

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: np.ndarray) -> 'MeasuredRows':
        """The rows at these indices, int64 `[k]` or bool `[n]`, in that order."""
        starts = np.cumsum(self.counts, dtype=np.int64) - self.counts
        counts = self.counts[rows]
        return MeasuredRows(self.keys[rows], counts, self.chunks[concatenated_ranges(starts[rows], counts)])

    @staticmethod
    def concatenate(parts: list['MeasuredRows']) -> 'MeasuredRows':
        parts = [MeasuredRows(), *parts]
        names = ('keys', 'counts', 'chunks')
        return MeasuredRows(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


class LengthCache:
    """The rows of one cache file, sorted by key.

    Args:
        path: The file, which need not exist yet; None for a cache that keeps nothing.
        rows: Its rows; read from the file where None.

    Raises:
        CorruptCacheError: The file is truncated or changed.
        OSError: The file cannot be read.
    """

    def __init__(self, path: str | None, rows: MeasuredRows | None = None) -> None:
        self.path = path
        if rows is None:
            rows = _read(path) if path is not None and os.path.exists(path) else MeasuredRows()
        self.rows = rows
        self._starts = np.cumsum(self.rows.counts, dtype=np.int64) - self.rows.counts
        self._high = np.ascontiguousarray(self.rows.keys[:, 0])
        self._used = np.zeros(len(self.rows), dtype=bool)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The indices of the rows with these keys, uint64 `[k, 2]`: int64 `[k]`, -1 for a row that is not there."""
        if not len(self.rows):
            return np.full(len(keys), -1)
        # By the first half of a key. Of two rows that share it (a chance of 2^-64), the second is measured again.
        indices = np.minimum(np.searchsorted(self._high, keys[:, 0]), len(self.rows) - 1)
        return np.where((self.rows.keys[indices] == keys).all(axis=1), indices, -1)

    def chunks(self, index: int) -> np.ndarray:
        """The chunks of the row at `index`, int32 `[c, 4]`."""
        start = self._starts[index]
        return self.rows.chunks[start:start + self.rows.counts[index]]

    def mark_used(self, indices: np.ndarray) -> None:
        """Marks the rows at these indices, int64 `[k]`, as used by this run."""
        self._used[indices] = True

    def add(self, new: MeasuredRows) -> None:
        """Adds rows to the file. It is replaced in one step, so no reader sees half of it.

        Above `MAX_ROWS`, rows that this run did not use are dropped; above `MAX_FILES`, the least recently used files
        of the folder are deleted.

        Raises:
            OSError: The file cannot be written; the old one stays as it was.
        """
        if self.path is None or not len(new):
            return
        spare = np.flatnonzero(~self._used)[max(MAX_ROWS - len(new) - int(self._used.sum()), 0):]
        kept = np.ones(len(self.rows), dtype=bool)
        kept[spare] = False
        rows = MeasuredRows.concatenate([self.rows.take(kept), new])
        order = np.lexsort((rows.keys[:, 1], rows.keys[:, 0]))
        is_first = np.ones(len(order), dtype=bool)
        is_first[1:] = (rows.keys[order[1:]] != rows.keys[order[:-1]]).any(axis=1)
        _write(self.path, rows.take(order[is_first]))
        _remove_old_files(os.path.dirname(self.path))


def _arrays(num_rows: int, num_chunks: int) -> list[tuple[str, tuple[int, ...]]]:
    """dtype and shape of what follows the header: keys, counts and chunks."""
    return [('<u8', (num_rows, 2)), ('<i4', (num_rows, )), ('<i4', (num_chunks, 4))]


def _read(path: str) -> MeasuredRows:
    with open(path, 'rb') as file:
        content = memoryview(file.read())
    body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest() != digest or body[:len(_MAGIC)] != _MAGIC:
        raise CorruptCacheError(f'{path} is truncated or changed')
    # The modification time of a file is the time of its last use.
    os.utime(path)
    # The digest is right, so the layout is that of `_write`.
    offset = len(_MAGIC) + 16
    sizes = np.frombuffer(body[len(_MAGIC):offset], '<i8')
    arrays = []
    for dtype, shape in _arrays(int(sizes[0]), int(sizes[1])):
        array = np.frombuffer(body, dtype, count=int(np.prod(shape)), offset=offset).reshape(shape)
        offset += array.nbytes
        arrays.append(array)
    return MeasuredRows(*arrays)


def _write(path: str, rows: MeasuredRows) -> None:
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    arrays = (rows.keys, rows.counts, rows.chunks)
    parts: list[bytes | memoryview] = [_MAGIC, np.array([len(rows), len(rows.chunks)], '<i8').tobytes()]
    for array, (dtype, _) in zip(arrays, _arrays(len(rows), len(rows.chunks))):
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
        # An old temporary file belongs to a run that was killed.
        if entry.name.endswith((_SUFFIX, _TEMPORARY)):
            try:
                ages[entry.path] = entry.stat().st_mtime
            except FileNotFoundError:  # another run has deleted it
                continue
    for path in sorted(ages, key=lambda path: ages[path])[:-MAX_FILES]:
        try:
            os.unlink(path)
        except FileNotFoundError:
            continue


def cache_path(folder: str, settings: str) -> str:
    """The file of the rows measured under `settings`, a text with all that determines a length besides the row."""
    digest = hashlib.blake2b(settings.encode(), digest_size=_DIGEST_BYTES).hexdigest()
    return os.path.join(folder, digest + _SUFFIX)
