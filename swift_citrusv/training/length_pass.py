"""The length pass: how many tokens each row of a data set has, without its pixels, and once only.

Each row is looked up in a cache by its content, and measured by `measuring` where it is not there. The data set stays
where it is; it gains two columns.
"""
import datasets as hf_datasets
import hashlib
import multiprocessing
import numpy as np
import os
import pyarrow as pa
import torch
import torch.distributed as dist
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from modelscope.hub.utils.utils import get_cache_dir
from swift.template import MaxLengthError
from swift.utils import get_logger, is_dist, is_master
from tqdm import tqdm
from typing import Any

from ..constants import PIECES_COLUMN, ROW_COLUMN
from ..encoding.row_length import MeasuringTemplate
from ..encoding.template import CitrusVTemplate
from ..errors import ROW_ERRORS, RowError
from ..files.errors import IMAGE_ERRORS
from ..rows.skips import Skips
from .length_cache import DamagedCache, LengthCache, Rows, cache_path, spread
from .length_keys import LENGTHS_COLUMN, row_key, settings_text

logger = get_logger()
_MAX_BATCH = 256


def default_cache_dir() -> str:
    """Where measured lengths are kept: beside ms-swift's own caches of data sets."""
    return os.path.join(get_cache_dir(), 'datasets', 'citrusv_lengths')


def measure_dataset(template: CitrusVTemplate,
                    dataset: hf_datasets.Dataset,
                    *,
                    num_proc: int = 1,
                    strict: bool,
                    cache_dir: str | None = None) -> hf_datasets.Dataset:
    """Adds the lengths of all rows to a data set. No pixel and no mask is decoded (see `measuring.measure`).

    In a distributed run rank 0 measures and sends the result to the others, which need not share a disk with it.

    Rows are kept under a key of their content: their columns, and path, size and time of each file that they name.
    An image behind a URL is known by the URL alone. What is kept holds for one tokenizer and processor, one set of
    template settings and one set of package versions; with any other the rows are measured again. Rows that cannot be
    encoded are never kept. See `length_cache` for what happens to old entries.

    Args:
        template: The template of the training run.
        dataset: Rows as ms-swift's preprocessors leave them; it may be shuffled or selected, and is not rewritten.
        num_proc: Processes.
        strict: Whether a row that cannot be encoded, or is too long, ends the run; otherwise it is left out, logged
            and counted.
        cache_dir: Where lengths are kept between runs. None: nowhere.

    Returns:
        The data set with `lengths` (a list of tokens, one a piece) and `PIECES_COLUMN` (the pieces' numbers in a flat
        list), less the rows that cannot be encoded.

    Raises:
        RowError, MaxLengthError: The first such row, with `strict`.
    """
    drop = [name for name in (LENGTHS_COLUMN, PIECES_COLUMN) if name in dataset.column_names]
    if drop:
        dataset = dataset.remove_columns(drop)
    if not (is_dist() and dist.is_initialized()):
        return _with_columns(dataset, *_measured(template, dataset, num_proc, strict, cache_dir))
    outcome: list[Any] = [None]
    if is_master():
        try:
            outcome = [_measured(template, dataset, num_proc, strict, cache_dir)]
        except ROW_ERRORS as e:
            # The others would wait for ever.
            outcome = [e]
    dist.broadcast_object_list(outcome)
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return _with_columns(dataset, *outcome[0])


def pieces_arrays(dataset: hf_datasets.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """All pieces of a measured data set.

    Returns:
        The row of each piece as the data set counts them, int64 `[p]`, and the pieces (`pieces.Piece`), int64 `[p, 4]`.

    Raises:
        ValueError: A row has none: it was not measured.
    """
    column = dataset.data.column(PIECES_COLUMN).combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    values = column.values.to_numpy(zero_copy_only=False)
    offsets = column.offsets.to_numpy().astype(np.int64)
    rows = _physical_rows(dataset)
    starts, counts = offsets[:-1][rows], np.diff(offsets)[rows] // 4
    if not counts.all():
        row = int(np.flatnonzero(counts == 0)[0])
        raise ValueError(f'Row {row} of the data set has no pieces: it was not measured. Measure all rows anew.')
    pieces = values[spread(starts, 4 * counts)].astype(np.int64).reshape(-1, 4)
    return np.repeat(np.arange(len(rows)), counts), pieces


def _physical_rows(dataset: hf_datasets.Dataset) -> np.ndarray:
    """For each row its place in the table below the data set, int64 `[n]`."""
    if dataset._indices is None:
        return np.arange(len(dataset))
    return dataset._indices.column(0).to_numpy().astype(np.int64)


def _with_columns(dataset: hf_datasets.Dataset, places: np.ndarray, rows: Rows) -> hf_datasets.Dataset:
    """Puts the pieces of `rows`, which stand at `places` [n] of the table, beside the data set's columns.

    `Dataset.add_column` would write a shuffled data set anew first, so the columns go beside the whole table.
    """
    flat = _flat(dataset)
    counts = np.zeros(len(flat), np.int64)
    counts[places] = rows.counts
    ends = np.cumsum(counts)
    digest = hashlib.blake2b(dataset._fingerprint.encode(), digest_size=16)
    digest.update(counts.tobytes() + rows.pieces.tobytes())
    lengths = (rows.pieces[:, 1] - rows.pieces[:, 0]).astype(np.int64)
    for name, values, width in ((LENGTHS_COLUMN, lengths, 1), (PIECES_COLUMN, rows.pieces.ravel(), 4)):
        offsets = np.concatenate([[0], width * ends]).astype(np.int32)
        feature = hf_datasets.List(hf_datasets.Value(str(values.dtype)))
        column = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
        flat = flat.add_column(name, column, new_fingerprint=digest.hexdigest(), feature=feature)
    physical = _physical_rows(dataset)
    kept = physical[counts[physical] > 0]
    if dataset._indices is None and len(kept) == len(flat):
        return flat
    digest.update(kept.tobytes())
    return flat.select(kept, new_fingerprint=digest.hexdigest())


def _flat(dataset: hf_datasets.Dataset) -> hf_datasets.Dataset:
    """All rows of the table below the data set, in its order."""
    return hf_datasets.Dataset(
        dataset.data, info=dataset.info.copy(), split=dataset.split, fingerprint=dataset._fingerprint)


# ---- the pass over the rows


def _measured(template: CitrusVTemplate, dataset: hf_datasets.Dataset, num_proc: int, strict: bool,
              cache_dir: str | None) -> tuple[np.ndarray, Rows]:
    """The places of the data set's rows in its table, ascending and each once, and the rows (bad ones: no pieces)."""
    cache = _open_cache(template, cache_dir)
    work = _Work(MeasuringTemplate(template), _flat(dataset), np.unique(_physical_rows(dataset)), cache, strict)
    total = len(work.places)
    size = max(min(_MAX_BATCH, -(-total // (8 * num_proc))), 1)
    ranges = [(start, min(start + size, total)) for start in range(0, total, size)]
    parts: list[Rows] = []
    new: list[Rows] = []
    num_cached, skips = 0, Skips()
    try:
        with tqdm(desc='Measuring rows', unit=' rows', total=total) as progress:
            for batch in _batches(work, ranges, num_proc):
                found = batch.cached >= 0
                cache.mark_used(batch.cached[found])
                num_cached += int(found.sum())
                parts.append(batch.rows)
                new.append(batch.rows.take(~found & (batch.rows.counts > 0)))
                for error in batch.errors:
                    skips.add(error)
                progress.update(len(batch.rows))
    finally:
        # Also what was measured before an error.
        try:
            cache.add(Rows.joined(new))
        except OSError as e:
            logger.warning(f'The measured lengths cannot be kept in {cache.path}: {e}.')
    logger.info(f'lengths of {num_cached} rows from the cache, {total - num_cached} measured.')
    skips.report('measuring', total)
    return work.places, Rows.joined(parts)


def _open_cache(template: CitrusVTemplate, cache_dir: str | None) -> LengthCache:
    if cache_dir is None:
        return LengthCache(None)
    path = cache_path(cache_dir, settings_text(template))
    try:
        return LengthCache(path)
    except (DamagedCache, OSError) as e:
        logger.warning(f'The kept lengths cannot be used ({e}); all rows are measured anew.')
        return LengthCache(path, Rows())


@dataclass
class _Batch:
    """Rows that were looked up or measured; `cached` says where they stand in the cache, int64 `[n]`, or -1."""
    rows: Rows
    cached: np.ndarray
    errors: list[Exception]


@dataclass
class _Work:
    """What a process needs to measure rows."""
    measuring: MeasuringTemplate
    table: hf_datasets.Dataset
    places: np.ndarray
    cache: LengthCache
    strict: bool

    def batch(self, start: int, stop: int) -> _Batch:
        columns = self.table[self.places[start:stop].tolist()]
        rows = [dict(zip(columns, values)) for values in zip(*columns.values())]
        # Without a cache the keys would be for nothing.
        keys = np.zeros((len(rows), 2), '<u8')
        if self.cache.path is not None:
            keys = np.frombuffer(b''.join(map(row_key, rows)), '<u8').reshape(-1, 2)
        cached = self.cache.find(keys)
        pieces, errors = [], []
        for row, place in zip(rows, cached.tolist()):
            if place >= 0:
                pieces.append(self.cache.pieces(place))
                continue
            try:
                measured: Any = self._measure(row)
            except (RowError, MaxLengthError) as e:
                if self.strict:
                    raise
                errors.append(e)
                measured = []
            pieces.append(np.array(measured, np.int32).reshape(-1, 4))
        counts = np.array([len(part) for part in pieces], np.int32)
        return _Batch(Rows(keys, counts, np.concatenate(pieces)), cached, errors)

    def _measure(self, row: dict[str, Any]) -> list[Any]:
        try:
            return self.measuring.measure(row)
        except (RowError, MaxLengthError):
            raise
        except (*ROW_ERRORS, *IMAGE_ERRORS) as e:
            # In the modes of RLHF the template does not name the row, and never for a bomb among a video's frames.
            name = row.get(ROW_COLUMN) or 'row (no number)'
            raise RowError(name, f'{type(e).__name__}: {e}.', 'Look at the row with `citrusv check-data`.',
                           'encode') from e


def _batches(work: _Work, ranges: list[tuple[int, int]], num_proc: int) -> Iterator[_Batch]:
    """All batches in order, from this process or from `num_proc` of its forks (as DataLoader's workers are)."""
    if num_proc == 1 or len(ranges) < 2:
        for start, stop in ranges:
            yield work.batch(start, stop)
        return
    fork = multiprocessing.get_context('fork')
    with _no_tokenizer_threads(), ProcessPoolExecutor(num_proc, fork, _start_worker, (work, )) as pool:
        waiting_ranges = iter(ranges)
        # A few batches ahead; an error then ends the run at once.
        waiting = deque(pool.submit(_batch_in_worker, *span) for span in islice(waiting_ranges, 4 * num_proc))
        try:
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(_batch_in_worker, *span) for span in islice(waiting_ranges, 1))
        finally:
            for future in waiting:
                future.cancel()


@contextmanager
def _no_tokenizer_threads() -> Iterator[None]:
    """Tells the tokenizers, which would warn in every fork, that the processes have the cores already."""
    name = 'TOKENIZERS_PARALLELISM'
    before = os.environ.get(name)
    os.environ[name] = 'false'
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


_worker: dict[str, _Work] = {}


def _start_worker(work: _Work) -> None:
    torch.set_num_threads(1)
    _worker['work'] = work


def _batch_in_worker(start: int, stop: int) -> _Batch:
    return _worker['work'].batch(start, stop)


class LengthPreprocessor:
    """Takes the place of ms-swift's `AddLengthPreprocessor`, which decodes every image to learn a number of tokens."""

    def __init__(self, template) -> None:
        self.template = template

    def __call__(self,
                 dataset: hf_datasets.Dataset,
                 *,
                 num_proc: int = 1,
                 load_from_cache_file: bool = True,
                 strict: bool = False,
                 **kwargs: Any) -> hf_datasets.Dataset:
        """See `lengths.measure_dataset`; what else ms-swift gives (a batch size) is not needed."""
        from .length_pass import default_cache_dir, measure_dataset
        cache_dir = default_cache_dir() if load_from_cache_file else None
        return measure_dataset(self.template, dataset, num_proc=num_proc, strict=strict, cache_dir=cache_dir)
