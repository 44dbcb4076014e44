"""Counts the rows and masks of a dataset before training, from its columns: no image and no mask is opened."""
import datasets as hf_datasets
import json
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..constants import ROW_COLUMN
from ..encoding.row_length import MeasuringTemplate
from ..encoding.template import CitrusVTemplate
from ..errors import ROW_ERRORS
from ..files.errors import IMAGE_ERRORS
from .length_pass import table_positions
from .stream_jsonl import reading_skips, rows_of_reader

_MASKS_COLUMN = 'masks'
# Above this number of rows with masks, the number of masks is estimated from as many rows, evenly spaced.
_MAX_PARSED = 200_000
# So many rows with masks are measured to see whether their masks train.
_MAX_MEASURED = 100
# JSON text without a mask is '[]' or 'null'; the shortest list with a mask is longer.
_NO_MASKS_BYTES = 4
# How far a stream is read for a row with masks. A row takes about 0.1 ms.
_MAX_STREAMED, _MAX_SECONDS = 100_000, 30.


@dataclass(frozen=True)
class MaskCounts:
    """The rows and masks of a dataset.

    Attributes:
        rows: All rows; None where the dataset is not known.
        with_masks: Rows with at least one mask.
        masks: All masks.
        is_exact: Whether `masks` was counted, not estimated.
    """
    rows: int | None = None
    with_masks: int = 0
    masks: int = 0
    is_exact: bool = True

    @property
    def has_masks(self) -> bool | None:
        """Whether a row has a mask; None where that is not known."""
        return None if self.rows is None else self.with_masks > 0

    def __str__(self) -> str:
        if self.rows is None:
            return 'rows not counted'
        about = '' if self.is_exact else 'about '
        return f'rows: {self.rows:,}, with masks: {self.with_masks:,}, masks: {about}{self.masks:,}'


@dataclass(frozen=True)
class StreamedMasks:
    """What the head of a stream shows.

    Attributes:
        read: Rows read until the first one with a mask, it included.
        first: The name of that row; None if none was found.
        is_whole: Whether the stream ended.
    """
    read: int
    first: str | None
    is_whole: bool

    @property
    def has_masks(self) -> bool | None:
        """As `MaskCounts.has_masks`."""
        return True if self.first is not None else False if self.is_whole else None

    def __str__(self) -> str:
        if self.first is not None:
            found = f'the first row with masks is {self.first}, number {self.read:,} read'
        else:
            found = f'none of {"its" if self.is_whole else "the first"} {self.read:,} rows has masks'
        return f'streamed, counted as read; {found}'


def count_masks(dataset: Any) -> MaskCounts | StreamedMasks:
    """Counts a training or validation set as ms-swift gives it to the trainer.

    Args:
        dataset: Our packs, ms-swift's lazy dataset, rows, or a stream of these.
    """
    rows = _rows_of(dataset)
    if isinstance(rows, hf_datasets.IterableDataset):
        return find_first_mask(rows)
    if not isinstance(rows, hf_datasets.Dataset):
        return MaskCounts()
    return count_rows(rows)


def _rows_of(dataset: Any) -> Any:
    """The rows below packs and lazy datasets; the stream before encoding."""
    for _ in range(4):
        name = next((name for name in ('citrusv_source', 'rows', 'dataset') if hasattr(dataset, name)), None)
        if name is None:
            break
        dataset = getattr(dataset, name)
    return dataset


# ---- rows in a table


def count_rows(dataset: hf_datasets.Dataset) -> MaskCounts:
    """Counts the rows of a dataset; rows that stand in it twice count twice.

    Which rows have masks is read from the layout of the table alone. Masks are counted in their JSON text.
    """
    if _MASKS_COLUMN not in dataset.column_names:
        return MaskCounts(len(dataset))
    positions = _rows_with_masks(dataset)
    num_with = len(positions)
    is_exact = num_with <= _MAX_PARSED
    if not is_exact:
        positions = positions[np.linspace(0, num_with - 1, _MAX_PARSED).astype(np.int64)]
    counts = [number for batch in _mask_column(dataset, positions) for number in map(_num_masks, batch)]
    # `datasets` may have stored an empty list in another layout, which only parsing shows.
    empty = counts.count(0)
    masks = sum(counts)
    if not is_exact:
        masks = round(masks / len(counts) * num_with)
        empty = round(empty / len(counts) * num_with)
    return MaskCounts(len(dataset), num_with - empty, masks, is_exact)


def _rows_with_masks(dataset: hf_datasets.Dataset) -> np.ndarray:
    """The positions of the rows that may have masks, by the layout of the table alone, int64 `[n]`."""
    column = dataset.data.column(_MASKS_COLUMN)
    in_table = np.concatenate([np.zeros(0, bool), *map(_has_masks, column.chunks)])
    return np.flatnonzero(in_table[table_positions(dataset)])


def count_supervised(dataset: Any, template: CitrusVTemplate, limit: int = _MAX_MEASURED) -> tuple[int, int] | None:
    """How many rows with masks train at least one of them; the others have no loss at any `[SEG]`.

    A loss scale (`last_round`), or `"loss": false` at a turn, takes the loss of a `[SEG]`, and so its mask.

    Args:
        dataset: As for `count_masks`.
        template: The template in training mode.
        limit: Rows to look at, evenly spaced among those with masks. Their images' headers are read.

    Returns:
        Rows that train a mask, and rows looked at; None for a stream, or where no row can be read.
    """
    rows = _rows_of(dataset)
    if not isinstance(rows, hf_datasets.Dataset) or _MASKS_COLUMN not in rows.column_names:
        return None
    if not isinstance(template, CitrusVTemplate):
        return None
    positions = _rows_with_masks(rows)
    chosen = np.unique(np.linspace(0, len(positions) - 1, min(limit, len(positions))).astype(np.int64))
    measuring = MeasuringTemplate(template)
    trained = measured = 0
    for position in positions[chosen].tolist():
        row = rows[position]
        if not _num_masks(row[_MASKS_COLUMN]):
            continue
        try:
            chunks = measuring.measure(row)
        except (*ROW_ERRORS, *IMAGE_ERRORS):  # Reported when its turn comes.
            continue
        measured += 1
        trained += any(chunk.seg_images for chunk in chunks)
    return (trained, measured) if measured else None


def _has_masks(chunk: pa.Array) -> np.ndarray:
    """Whether each value of a piece of the column may hold a mask, bool `[n]`."""
    if isinstance(chunk, pa.ExtensionArray):
        chunk = chunk.storage
    if pa.types.is_null(chunk.type):
        return np.zeros(len(chunk), bool)
    if pa.types.is_string(chunk.type) or pa.types.is_large_string(chunk.type):
        sizes = pc.greater(pc.binary_length(chunk), _NO_MASKS_BYTES)
    elif pa.types.is_list(chunk.type) or pa.types.is_large_list(chunk.type):
        sizes = pc.greater(pc.list_value_length(chunk), 0)
    else:
        sizes = pc.is_valid(chunk)
    return pc.fill_null(sizes, False).to_numpy(zero_copy_only=False)


def _mask_column(dataset: hf_datasets.Dataset, positions: np.ndarray) -> Iterator[list[Any]]:
    arrow = dataset.select_columns([_MASKS_COLUMN]).with_format('arrow')
    for start in range(0, len(positions), 1000):
        yield arrow[positions[start:start + 1000].tolist()].column(0).to_pylist()


def _num_masks(value: Any) -> int:
    if isinstance(value, str):
        value = json.loads(value)
    return len(value) if isinstance(value, (list, tuple)) else 0


# ---- streams


def find_first_mask(stream: hf_datasets.IterableDataset,
                    max_rows: int = _MAX_STREAMED,
                    max_seconds: float = _MAX_SECONDS) -> StreamedMasks:
    """Reads a stream until the first row with a mask. The stream itself stays where it is.

    Args:
        stream: Rows before they are encoded.
        max_rows: Rows after which it gives up.
        max_seconds: Seconds after which it gives up.
    """
    # The rows are read once more in training, which counts and reports the skipped ones.
    counts, reading_skips.counts = reading_skips.counts, Counter()
    end = time.monotonic() + max_seconds
    read = 0
    try:
        for row in rows_of_reader(stream, 0, 1, 0):
            read += 1
            if _num_masks(row.get(_MASKS_COLUMN)):
                return StreamedMasks(read, row.get(ROW_COLUMN) or 'without a number', False)
            if read >= max_rows or time.monotonic() > end:
                return StreamedMasks(read, None, False)
    finally:
        reading_skips.counts = counts
    return StreamedMasks(read, None, True)
