"""The length pass: measures the tokens of each row of a dataset once, without decoding pixels.

Each row is looked up in a cache by its content, and measured by `encoding.row_length` where it is not there. The
dataset is not rewritten; it gains two columns.
"""
import datasets as hf_datasets
import hashlib
import numpy as np
import os
import pyarrow as pa
from modelscope.hub.utils.utils import get_cache_dir
from swift.utils import get_logger
from tqdm import tqdm
from typing import Any

from ..constants import CHUNKS_COLUMN
from ..encoding.row_length import MeasuringTemplate
from ..encoding.template import CitrusVTemplate
from ..errors import ROW_ERRORS
from ..rows.skips import SkipCounter
from .length_cache import CorruptCacheError, LengthCache, MeasuredRows, cache_path, concatenated_ranges
from .length_keys import LENGTHS_COLUMN, settings_text
from .length_workers import RowMeasurer, measured_batches
from .rank_sync import run_on_rank_0

logger = get_logger()
_MAX_BATCH = 256


def default_cache_dir() -> str:
    """The folder of measured lengths, beside ms-swift's caches of datasets."""
    return os.path.join(get_cache_dir(), 'datasets', 'citrusv_lengths')


class LengthPreprocessor:
    """Replaces ms-swift's `AddLengthPreprocessor`, which decodes every image to count its tokens."""

    def __init__(self, template: CitrusVTemplate) -> None:
        self.template = template

    def __call__(self,
                 dataset: hf_datasets.Dataset,
                 *,
                 num_proc: int = 1,
                 load_from_cache_file: bool = True,
                 strict: bool = False,
                 **kwargs: Any) -> hf_datasets.Dataset:
        """See `measure_dataset`; ms-swift's other arguments (a batch size) are ignored."""
        cache_dir = default_cache_dir() if load_from_cache_file else None
        return measure_dataset(self.template, dataset, num_proc=num_proc, strict=strict, cache_dir=cache_dir)


def measure_dataset(template: CitrusVTemplate,
                    dataset: hf_datasets.Dataset,
                    *,
                    num_proc: int = 1,
                    strict: bool,
                    cache_dir: str | None = None) -> hf_datasets.Dataset:
    """Adds the lengths of all rows to a dataset. No image and no mask is decoded (see `encoding.row_length`).

    In a distributed run, rank 0 measures and sends the result to the other ranks, which need not share its disk.

    Rows are cached under a key of their content: their columns, and path, size and modification time of each file that
    they name; of an image behind a URL, the URL only. An entry holds for one tokenizer and processor, one set of
    template settings and one set of package versions; with any other, the rows are measured again. Rows that cannot be
    encoded are not cached. `length_cache` says when old entries are deleted.

    Args:
        template: The template of the training run.
        dataset: Rows as ms-swift's preprocessors leave them. It may be shuffled or selected.
        num_proc: Processes, once measuring has turned out to take longer than their start.
        strict: Whether a row that cannot be encoded, or is too long, ends the run; otherwise it is skipped, logged and
            counted.
        cache_dir: The folder of the cache; None for no cache.

    Returns:
        The dataset without the skipped rows, with `lengths` (a list of tokens, one per chunk) and `CHUNKS_COLUMN` (the
        numbers of all chunks in a flat list).

    Raises:
        RowError, MaxLengthError: The first row that cannot be encoded, with `strict`; or none can be.
    """
    added = [name for name in (LENGTHS_COLUMN, CHUNKS_COLUMN) if name in dataset.column_names]
    if added:
        dataset = dataset.remove_columns(added)
    positions, rows = run_on_rank_0(lambda: _measure_rows(template, dataset, num_proc, strict, cache_dir), ROW_ERRORS)
    return _with_columns(dataset, positions, rows)


def chunks_arrays(dataset: hf_datasets.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """All chunks of a measured dataset.

    Returns:
        The index of each chunk's row in the dataset, int64 `[c]`, and the chunks (`chunks.Chunk`), int64 `[c, 4]`.

    Raises:
        ValueError: A row has no chunk: it was not measured.
    """
    column = dataset.data.column(CHUNKS_COLUMN).combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    values = column.values.to_numpy(zero_copy_only=False)
    offsets = column.offsets.to_numpy().astype(np.int64)
    rows = table_positions(dataset)
    starts, counts = offsets[:-1][rows], np.diff(offsets)[rows] // 4
    if not counts.all():
        row = int(np.flatnonzero(counts == 0)[0])
        raise ValueError(f'Row {row} of the dataset has no chunks: it was not measured. Measure all rows again.')
    chunks = values[concatenated_ranges(starts, 4 * counts)].astype(np.int64).reshape(-1, 4)
    return np.repeat(np.arange(len(rows)), counts), chunks


# ---- the table of a dataset, which a shuffled or selected dataset shares with the one that it was made from


def table_positions(dataset: hf_datasets.Dataset) -> np.ndarray:
    """The position of each row in the dataset's table, int64 `[n]`."""
    if dataset._indices is None:
        return np.arange(len(dataset))
    return dataset._indices.column(0).to_numpy().astype(np.int64)


def _whole_table(dataset: hf_datasets.Dataset) -> hf_datasets.Dataset:
    """All rows of the dataset's table, in its order."""
    return hf_datasets.Dataset(
        dataset.data, info=dataset.info.copy(), split=dataset.split, fingerprint=dataset._fingerprint)


def _with_columns(dataset: hf_datasets.Dataset, positions: np.ndarray, rows: MeasuredRows) -> hf_datasets.Dataset:
    """Adds the chunks of `rows`, which stand at `positions` [n] of the table, and drops the rows without chunks.

    The columns are added to the whole table: `Dataset.add_column` would rewrite a shuffled dataset first.
    """
    table = _whole_table(dataset)
    counts = np.zeros(len(table), np.int64)
    counts[positions] = rows.counts
    ends = np.cumsum(counts)
    digest = hashlib.blake2b(dataset._fingerprint.encode(), digest_size=16)
    digest.update(counts.tobytes() + rows.chunks.tobytes())
    lengths = (rows.chunks[:, 1] - rows.chunks[:, 0]).astype(np.int64)
    for name, values, width in ((LENGTHS_COLUMN, lengths, 1), (CHUNKS_COLUMN, rows.chunks.ravel(), 4)):
        offsets = np.concatenate([[0], width * ends]).astype(np.int32)
        feature = hf_datasets.List(hf_datasets.Value(str(values.dtype)))
        column = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
        table = table.add_column(name, column, new_fingerprint=digest.hexdigest(), feature=feature)
    of_dataset = table_positions(dataset)
    kept = of_dataset[counts[of_dataset] > 0]
    if dataset._indices is None and len(kept) == len(table):
        return table
    digest.update(kept.tobytes())
    return table.select(kept, new_fingerprint=digest.hexdigest())


# ---- the pass over the rows


def _measure_rows(template: CitrusVTemplate, dataset: hf_datasets.Dataset, num_proc: int, strict: bool,
                  cache_dir: str | None) -> tuple[np.ndarray, MeasuredRows]:
    """The positions of the dataset's rows in its table, ascending and unique, and the rows; bad ones have no chunks."""
    cache = _open_cache(template, cache_dir)
    measurer = RowMeasurer(
        MeasuringTemplate(template), _whole_table(dataset), np.unique(table_positions(dataset)), cache, strict)
    total = len(measurer.positions)
    size = max(min(_MAX_BATCH, -(-total // (8 * num_proc))), 1)
    ranges = [(start, min(start + size, total)) for start in range(0, total, size)]
    parts: list[MeasuredRows] = []
    new: list[MeasuredRows] = []
    num_cached, skips = 0, SkipCounter()
    try:
        with tqdm(desc='Measuring rows', unit=' rows', total=total) as progress:
            for batch in measured_batches(measurer, ranges, num_proc):
                found = batch.cached >= 0
                cache.mark_used(batch.cached[found])
                num_cached += int(found.sum())
                parts.append(batch.rows)
                new.append(batch.rows.take(~found & (batch.rows.counts > 0)))
                for error in batch.errors:
                    skips.add(error)
                progress.update(len(batch.rows))
    finally:
        # After an error too, what was measured before it is cached.
        try:
            cache.add(MeasuredRows.concatenate(new))
        except OSError as e:
            logger.warning(f'The measured lengths cannot be cached in {cache.path}: {e}.')
    if cache_dir is None:
        logger.info(f'measured {total} rows; --load_from_cache_file true would keep their lengths for the next start.')
    else:
        logger.info(f'lengths of {num_cached} rows from the cache, {total - num_cached} measured.')
    skips.report('measuring', total)
    rows = MeasuredRows.concatenate(parts)
    if total and not rows.counts.any():
        raise skips.none_left('dataset')
    return measurer.positions, rows


def _open_cache(template: CitrusVTemplate, cache_dir: str | None) -> LengthCache:
    if cache_dir is None:
        return LengthCache(None)
    path = cache_path(cache_dir, settings_text(template))
    try:
        return LengthCache(path)
    except (CorruptCacheError, OSError) as e:
        logger.warning(f'The cached lengths cannot be used ({e}); all rows are measured again.')
        return LengthCache(path, MeasuredRows())
