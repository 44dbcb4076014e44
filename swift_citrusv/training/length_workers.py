"""Measures the rows of a length pass, in this process and, if there are many, in others."""
import datasets as hf_datasets
import multiprocessing
import numpy as np
import os
import pickle
import sys
import time
import torch
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from qwen_vl_utils import vision_process
from swift.template import MaxLengthError
from swift.utils import get_logger
from typing import Any

from ..constants import ROW_COLUMN
from ..encoding.row_length import MeasuringTemplate
from ..errors import ROW_ERRORS, RowError
from ..files.errors import IMAGE_ERRORS
from .length_cache import LengthCache, MeasuredRows
from .length_keys import row_key

logger = get_logger()
# Seconds of measuring after which the rest is estimated, and for which processes are worth their start.
_LOOK_AFTER = 2.
_WORTH_WORKERS = 30.


@dataclass
class MeasuredBatch:
    """Rows that were looked up or measured; `cached` is their index in the cache, int64 `[n]`, or -1."""
    rows: MeasuredRows
    cached: np.ndarray
    errors: list[Exception]


@dataclass
class RowMeasurer:
    """Looks up or measures the rows at `positions` of a table."""
    measuring: MeasuringTemplate
    table: hf_datasets.Dataset
    positions: np.ndarray
    cache: LengthCache
    strict: bool

    def batch(self, start: int, stop: int) -> MeasuredBatch:
        columns = self.table[self.positions[start:stop].tolist()]
        rows = [dict(zip(columns, values)) for values in zip(*columns.values())]
        # Without a cache, no keys are needed.
        keys = np.zeros((len(rows), 2), '<u8')
        if self.cache.path is not None:
            keys = np.frombuffer(b''.join(map(row_key, rows)), '<u8').reshape(-1, 2)
        cached = self.cache.find(keys)
        chunks, errors = [], []
        for row, index in zip(rows, cached.tolist()):
            if index >= 0:
                chunks.append(self.cache.chunks(index))
                continue
            try:
                measured: Any = self._measure(row)
            except (RowError, MaxLengthError) as e:
                if self.strict:
                    raise
                errors.append(e)
                measured = []
            chunks.append(np.array(measured, np.int32).reshape(-1, 4))
        counts = np.array([len(of_row) for of_row in chunks], np.int32)
        return MeasuredBatch(MeasuredRows(keys, counts, np.concatenate(chunks)), cached, errors)

    def _measure(self, row: dict[str, Any]) -> list[Any]:
        try:
            return self.measuring.measure(row)
        except (RowError, MaxLengthError):
            raise
        except (*ROW_ERRORS, *IMAGE_ERRORS) as e:
            # The template does not name the row in the RLHF modes, nor for a decompression bomb in a video.
            name = row.get(ROW_COLUMN) or 'row (no number)'
            raise RowError(name, f'{type(e).__name__}: {e}.', 'Check the row with `citrusv check-data`.',
                           'encode') from e


def measured_batches(measurer: RowMeasurer, ranges: list[tuple[int, int]], num_proc: int) -> Iterator[MeasuredBatch]:
    """All batches in order; `num_proc` processes take over if measuring the rest here would take long."""
    started = time.monotonic()
    for done, (start, stop) in enumerate(ranges, start=1):
        yield measurer.batch(start, stop)
        elapsed, num_left = time.monotonic() - started, len(ranges) - done
        if num_proc > 1 and num_left and elapsed >= _LOOK_AFTER and elapsed / done * num_left >= _WORTH_WORKERS:
            break
    else:
        return
    rest = ranges[done:]
    try:
        for batch in _batches_of_workers(measurer, rest, num_proc):
            yield batch
            rest = rest[1:]
    except (BrokenProcessPool, pickle.PicklingError, AttributeError, TypeError) as e:
        # A class of an external plugin, for example, that the workers cannot import.
        logger.warning(f'The processes that measure rows have ended ({type(e).__name__}: {e}); this one goes on alone.')
        for start, stop in rest:
            yield measurer.batch(start, stop)


def _batches_of_workers(measurer: RowMeasurer, ranges: list[tuple[int, int]], num_proc: int) -> Iterator[MeasuredBatch]:
    # Not forks: this process has threads (of OpenMP, NCCL, CUDA), whose locks would stay taken in a fork.
    spawn = multiprocessing.get_context('spawn')
    constants = {name: value for name, value in vars(vision_process).items() if name.isupper() and _is_plain(value)}
    # What the template looks up by name, it takes along.
    assert measurer.measuring.loss_scale and measurer.measuring.agent_template
    with _no_tokenizer_threads(), ProcessPoolExecutor(num_proc, spawn, _init_worker, (measurer, constants)) as pool:
        remaining = iter(ranges)
        # Only a few batches ahead, so that an error ends the run at once.
        with _without_main():
            submitted = deque(pool.submit(_batch_in_worker, *span) for span in islice(remaining, 4 * num_proc))
        try:
            while submitted:
                yield submitted.popleft().result()
                submitted.extend(pool.submit(_batch_in_worker, *span) for span in islice(remaining, 1))
        finally:
            for future in submitted:
                future.cancel()


def _is_plain(value: Any) -> bool:
    return isinstance(value, (int, float, str))


@contextmanager
def _without_main() -> Iterator[None]:
    """Processes that start inside the context do not import the main module: a script would run once more in each."""
    main = sys.modules['__main__']
    hidden: dict[str, Any] = {
        name: main.__dict__.pop(name)
        for name in ('__file__', '__spec__') if name in main.__dict__
    }
    main.__spec__ = None
    try:
        yield
    finally:
        main.__dict__.update(hidden)


@contextmanager
def _no_tokenizer_threads() -> Iterator[None]:
    """Turns off the threads of the tokenizers, which the processes would all start."""
    name = 'TOKENIZERS_PARALLELISM'
    before = os.environ.get(name)
    os.environ[name] = 'false'
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


_worker: dict[str, RowMeasurer] = {}


def _init_worker(measurer: RowMeasurer, constants: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    # ms-swift sets them when it loads a processor.
    vars(vision_process).update(constants)
    _worker['measurer'] = measurer


def _batch_in_worker(start: int, stop: int) -> MeasuredBatch:
    return _worker['measurer'].batch(start, stop)
