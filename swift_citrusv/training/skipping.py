"""`--strict false` while training: a row that cannot be used leaves its batch, and no other row takes its place.

Most bad rows are found before the training: by the check of every line, and in packed runs by the length pass, which
opens every file. What only pixels tell (a JPEG cut short, a broken RLE) is found when the row's turn comes. ms-swift
then trains on a random other row, which so counts twice. Here the row's error stands in its place, the batch goes on
with the others, and the losses of the step, which are means over its tokens and masks, are those of the rows that are
left. A batch of which nothing is left gives its rank a row without targets, so that no rank waits for it.

An evaluation has no such means, and its batches weigh alike: its bad rows are taken out before the training starts.
"""
import torch.distributed as dist
from collections.abc import Iterator
from datasets import Dataset as HfDataset
from swift.dataset.utils import LazyLLMDataset
from swift.template import MaxLengthError
from swift.utils import get_logger, is_dist, is_master
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from typing import Any

from ..constants import LEFT_OUT_KEY
from ..encoding.skipped import left_out
from ..errors import RowError
from ..rows.skips import Skips

logger = get_logger()
# Errors of another rank that rank 0 repeats at the end of an epoch.
_MAX_REPEATED = 20


class LenientDataset(LazyLLMDataset):
    """Rows that are encoded when they are asked for; in the place of one that cannot be, its error.

    Args:
        dataset: The rows.
        template: A `CitrusVTemplate`.
    """

    def __init__(self, dataset: HfDataset, template: Any) -> None:
        # Nothing of ms-swift's: it would draw a list of rows to take the place of others.
        self.dataset = dataset
        self.template = template
        self.strict = False

    def __getitem__(self, index: int | str) -> Any:
        if isinstance(index, str):
            return self.dataset[index]
        try:
            return self.template.encode(self.dataset[index], return_length=True)
        except (RowError, MaxLengthError) as e:
            return left_out(e)


class LeftOut:
    """The rows that a trainer on this rank has left out since the last report."""

    def __init__(self) -> None:
        self.skips = Skips()
        self.errors: list[str] = []

    @classmethod
    def of(cls, trainer: Any) -> 'LeftOut':
        """That of a trainer, made when it is first asked for."""
        left = getattr(trainer, '_citrusv_left_out', None)
        if left is None:
            left = trainer._citrusv_left_out = cls()
        return left

    def add(self, errors: list[Exception]) -> None:
        for error in errors:
            self.skips.add(error)
            self.errors = [*self.errors, str(error)][:_MAX_REPEATED]

    def report(self, trainer: Any) -> None:
        """Says how many rows were left out on all ranks, by kind, and starts to count anew. All ranks call it."""
        if getattr(trainer.train_dataset, 'strict', True):
            return
        gathered: list[Any] = [(self.skips.counts, self.errors)]
        if trainer.args.world_size > 1:
            gathered = [None] * trainer.args.world_size
            dist.all_gather_object(gathered, (self.skips.counts, self.errors))
        self.skips, self.errors = Skips(), []
        total = Skips()
        for rank, (counts, errors) in enumerate(gathered):
            total.counts += counts
            if rank != trainer.args.process_index and trainer.is_world_process_zero():
                for error in errors:
                    logger.warning(f'skipped on rank {rank}: {error}')
        if trainer.is_world_process_zero():
            total.report(f'epoch {max(round(trainer.state.epoch or 0), 1)}')


# ---- evaluation


class _Verdicts(Dataset):
    """For each row None, or why it cannot be used."""

    def __init__(self, dataset: HfDataset, template: Any) -> None:
        self.rows = LenientDataset(dataset, template)

    def __getitem__(self, index: int) -> Exception | None:
        return self.rows[index].get(LEFT_OUT_KEY)

    def __len__(self) -> int:
        return len(self.rows)


def _as_is(item: Any) -> Any:
    return item


def usable_rows(template: Any, dataset: HfDataset, num_proc: int = 1) -> HfDataset:
    """The rows of a data set that can be encoded; the others are logged, and counted by kind.

    In a distributed run rank 0 looks at them and tells the others.

    Args:
        template: A `CitrusVTemplate`.
        dataset: Rows as ms-swift's preprocessors leave them.
        num_proc: Processes.

    Raises:
        ValueError: There is none.
    """
    kept = [list(_usable(template, dataset, num_proc))] if is_master() else [None]
    if is_dist() and dist.is_initialized():
        dist.broadcast_object_list(kept)
    if not kept[0]:
        raise ValueError(f'None of the {len(dataset)} rows for evaluation can be used: see the warnings above.')
    return dataset if len(kept[0]) == len(dataset) else dataset.select(kept[0])


def _usable(template: Any, dataset: HfDataset, num_proc: int) -> Iterator[int]:
    verdicts = DataLoader(
        _Verdicts(dataset, template), batch_size=None, collate_fn=_as_is, num_workers=num_proc if num_proc > 1 else 0)
    skips = Skips()
    for i, error in enumerate(tqdm(verdicts, desc='Checking the evaluation', unit=' rows')):
        if error is None:
            yield i
        else:
            skips.add(error)
    skips.report('evaluation', len(dataset))
