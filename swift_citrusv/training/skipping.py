"""`--strict false` during training: a bad row leaves its batch, and no other row replaces it.

Most bad rows are found before training: by the check of every line, and in packed runs by the length pass, which opens
every file. Errors in the pixels (a truncated JPEG, a broken RLE) are found when the row is encoded. ms-swift then
trains on a random other row, which counts twice. Here the row is replaced by its error, and its batch has one row less.
The losses are means over the tokens and masks of a step, so they are those of the remaining rows. A batch without any
good row becomes one row without supervision, so that no rank waits for another.

In an evaluation all batches have the same weight, so its bad rows are removed before training starts.
"""
from collections.abc import Iterator
from datasets import Dataset as HfDataset
from swift.dataset.utils import LazyLLMDataset
from swift.template import MaxLengthError
from swift.utils import get_logger
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from typing import Any

from ..constants import SKIPPED_KEY
from ..encoding.skipped import skipped_row
from ..errors import RowError
from ..rows.skips import SkipCounter, every_skip
from .rank_sync import gather, run_on_rank_0

logger = get_logger()
# Errors of another rank that rank 0 logs at the end of an epoch.
_MAX_REPEATED = 20


class SkippingDataset(LazyLLMDataset):
    """Encodes a row when it is read; a row that cannot be encoded is replaced by its error (`encoding.skipped`).

    Args:
        dataset: The rows.
        template: A `CitrusVTemplate`.
    """

    def __init__(self, dataset: HfDataset, template: Any) -> None:
        # Without super().__init__(), which would draw the rows that replace others.
        self.dataset = dataset
        self.template = template
        self.strict = False

    def __getitem__(self, index: int | str) -> Any:
        if isinstance(index, str):
            return self.dataset[index]
        try:
            return self.template.encode(self.dataset[index], return_length=True)
        except (RowError, MaxLengthError) as e:
            return skipped_row(e)


class SkippedRows:
    """The rows that the trainer of this rank has skipped since the last report."""

    def __init__(self) -> None:
        self.skips = SkipCounter()
        self.errors: list[str] = []

    @classmethod
    def of(cls, trainer: Any) -> 'SkippedRows':
        """The skipped rows of a trainer; none at first."""
        rows = getattr(trainer, '_citrusv_skipped_rows', None)
        if rows is None:
            rows = trainer._citrusv_skipped_rows = cls()
        return rows

    def add(self, errors: list[Exception]) -> None:
        for error in errors:
            self.skips.add(error)
            self.errors = [*self.errors, str(error)][:_MAX_REPEATED]

    def report(self, trainer: Any) -> None:
        """Logs how many rows all ranks have skipped, by kind, and resets the count. All ranks call it."""
        if getattr(trainer.train_dataset, 'strict', True):
            return
        gathered = gather((self.skips.counts, self.errors), trainer.args.world_size)
        self.skips, self.errors = SkipCounter(), []
        total = SkipCounter()
        for rank, (counts, errors) in enumerate(gathered):
            total.counts += counts
            if rank != trainer.args.process_index and trainer.is_world_process_zero():
                for error in errors:
                    logger.warning(f'skipped on rank {rank}: {error}')
        if trainer.is_world_process_zero():
            total.report(f'epoch {max(round(trainer.state.epoch or 0), 1)}')


# ---- before the first step


def check_usable(dataset: Any, what: str) -> None:
    """Checks that some row of a dataset can be encoded; otherwise every batch would be empty.

    It encodes rows up to the first good one, on rank 0.

    Args:
        dataset: Rows, packs, or a stream of them, as the trainer gets it.
        what: The name of the dataset.

    Raises:
        RowError: No row can be encoded.
    """
    run_on_rank_0(lambda: _find_usable(dataset, what), RowError)


def _find_usable(dataset: Any, what: str) -> None:
    skips = SkipCounter()
    if hasattr(dataset, '__len__'):
        # Most often the first row is good, and no bar is shown.
        for i in tqdm(range(len(dataset)), desc='Looking for a row that can be used', delay=5):
            item = dataset[i]
            errors = [row.get(SKIPPED_KEY) for row in (item if isinstance(item, list) else [item])]
            if None in errors:
                return
            for error in errors:
                skips.count(error)
    else:
        with every_skip() as skips:
            if next(iter(dataset), None) is not None:
                return
    if skips.counts:
        raise skips.none_left(what)


# ---- evaluation


class _EncodeErrors(Dataset):
    """For each row the error that encoding it raises, or None."""

    def __init__(self, dataset: HfDataset, template: Any) -> None:
        self.rows = SkippingDataset(dataset, template)

    def __getitem__(self, index: int) -> Exception | None:
        return self.rows[index].get(SKIPPED_KEY)

    def __len__(self) -> int:
        return len(self.rows)


def select_usable_rows(template: Any, dataset: HfDataset, num_proc: int = 1) -> HfDataset:
    """The rows of a dataset that can be encoded; the others are logged, and counted by kind.

    In a distributed run, rank 0 encodes them and sends the result to the other ranks.

    Args:
        template: A `CitrusVTemplate`.
        dataset: Rows as ms-swift's preprocessors leave them.
        num_proc: Processes.

    Raises:
        RowError: No row can be encoded.
    """
    kept = run_on_rank_0(lambda: list(_usable_rows(template, dataset, num_proc)), RowError)
    return dataset if len(kept) == len(dataset) else dataset.select(kept)


def _usable_rows(template: Any, dataset: HfDataset, num_proc: int) -> Iterator[int]:
    encode_errors = DataLoader(
        _EncodeErrors(dataset, template), batch_size=None, num_workers=num_proc if num_proc > 1 else 0)
    skips = SkipCounter()
    for i, error in enumerate(tqdm(encode_errors, desc='Checking the evaluation', unit=' rows')):
        if error is None:
            yield i
        else:
            skips.add(error)
    skips.report('evaluation', len(dataset))
    if len(dataset) and skips.counts.total() == len(dataset):
        raise skips.none_left('evaluation dataset')
