"""The batches of a stream, pass after pass: all ranks get the same number, no row is lost, and a resumed run is exact.

With ms-swift's own loader, rank 0 reads a stream alone, with one worker, and scatters the pixels to the other ranks.
"""
import datetime
import functools
import torch
import torch.distributed as dist
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from swift.dataloader import DataLoaderDispatcher
from swift.utils import get_logger, is_master, to_device
from torch.utils.data import DataLoader
from tqdm import tqdm
from typing import Any

from ..constants import IGNORE_INDEX, ROWS_KEY
from ..encoding.seg_tensors import SEG_KEYS
from .rank_sync import any_rank, gather
from .stream_packs import StreamCounts, StreamWorkerDataset

logger = get_logger()

CollatedBatch = dict[str, Any]


def without_supervision(batch: CollatedBatch) -> CollatedBatch:
    """The same batch without supervision: no label, no mask, no image for SAM2."""
    labels = torch.full_like(batch['labels'], IGNORE_INDEX)
    return {**batch, 'labels': labels, ROWS_KEY: [], **{key: batch[key][:, :0] for key in SEG_KEYS if key in batch}}


class StreamLoader(DataLoaderDispatcher):
    """Batches of a stream, pass after pass: each `iter` is one pass.

    All ranks get the same number of batches in a pass, a multiple of `multiple`. (Otherwise Transformers would add the
    gradient of the last ones to the first step of the next pass.) Missing ones are filled up with batches without
    supervision. They add nothing to the step's loss, which is a mean over the tokens and masks of all ranks.

    It derives from ms-swift's dispatcher, because ms-swift then lets `get_train_dataloader` skip the batches of a
    resumed run.

    Args:
        base_dataloader: What rank 0 reads, where it scatters the batches.
        device: Where the batches go.
        multiple: Batches of an optimizer step.
    """

    def __init__(self, base_dataloader: DataLoader | None, *, device: Any = None, multiple: int = 1) -> None:
        super().__init__(base_dataloader, device)
        self.multiple = multiple
        self._epoch = 0
        # Whole passes that a resumed run has skipped. The trainer does not count them.
        self._passes_before = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the pass of the next `iter`; a shuffled stream has another order in each."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[CollatedBatch]:
        with tqdm(
                total=self.skip_batches,
                desc='Skipping batches',
                dynamic_ncols=True,
                disable=not (self.skip_batches and is_master())) as bar:
            while True:
                num_batches, skip = 0, self.skip_batches
                for batch in self._read_pass(self._epoch + self._passes_before, skip):
                    num_batches += 1
                    if num_batches <= skip:
                        self.skip_batches -= 1
                        bar.update()
                    else:
                        yield to_device(batch, self.device) if self.device else batch
                if num_batches == 0:
                    raise ValueError('The stream has no row that can be used: see the warnings above, if any.')
                if num_batches > skip:
                    return
                self._passes_before += 1

    def _read_pass(self, index: int, skip: int) -> Iterator[CollatedBatch]:
        """The batches of pass `index` (from 0); the first `skip` ones are empty dicts."""
        raise NotImplementedError


# ---- packs: every rank reads


@functools.cache
def _cpu_group(world: Any, timeout: float) -> Any:
    """A process group whose small exchanges do not wait for the GPU; the default one where there is no gloo."""
    del world  # part of the cache's key: a test may start a second world
    if dist.get_backend() == 'gloo' or not dist.is_gloo_available():
        return dist.group.WORLD
    return dist.new_group(backend='gloo', timeout=datetime.timedelta(seconds=timeout))


def _unchanged(item: Any) -> Any:
    return item


class PackedStreamLoader(StreamLoader):
    """Batches of packs. Every rank reads, with any number of workers.

    Args:
        source: The packs, and how they are batched; the loader sets rank, pass and what to skip.
        device, multiple: See `StreamLoader`.
        timeout: Seconds that a rank waits for the others.
        dataloader_params: `num_workers` and the like, for `torch.utils.data.DataLoader`.
    """

    def __init__(self,
                 source: StreamWorkerDataset,
                 *,
                 device: Any = None,
                 multiple: int = 1,
                 timeout: float = 1800.,
                 **dataloader_params: Any) -> None:
        super().__init__(None, device=device, multiple=multiple)
        self.source = source
        self.timeout = timeout
        self.dataloader_params = dataloader_params
        self._filler: CollatedBatch | None = None

    def _read_pass(self, index: int, skip: int) -> Iterator[CollatedBatch]:
        source = replace(self.source, rank=self.rank, world_size=self.world_size, pass_index=index, num_trained=skip)
        # With a generator of its own: drawing the workers' seed must not change the draws of the model's dropout.
        loader = DataLoader(
            source,
            batch_size=None,
            collate_fn=_unchanged,
            generator=torch.Generator().manual_seed(index),
            **self.dataloader_params)
        counts = StreamCounts()
        items = iter(loader)
        num_batches = 0
        while True:
            item = next(items, None)
            while isinstance(item, StreamCounts):
                counts += item
                item = next(items, None)
            if not self._any_rank(item is not None) and num_batches % self.multiple == 0:
                break
            num_batches += 1
            if num_batches <= skip:
                yield {}
            elif isinstance(item, dict):
                yield item
            else:
                yield self._filler_batch()
        self._report(index, counts)

    def _group(self) -> Any:
        return _cpu_group(dist.group.WORLD, self.timeout) if self.world_size > 1 else None

    def _any_rank(self, has_more: bool) -> bool:
        group = self._group()
        device = self.device if group is not None and dist.get_backend(group) != 'gloo' else 'cpu'
        return any_rank(has_more, self.world_size, device, group)

    def _filler_batch(self) -> CollatedBatch:
        if self._filler is None:
            self._filler = without_supervision(self.source.collate([self.source.packs.first_row()]))
        return self._filler

    def _report(self, index: int, counts: StreamCounts) -> None:
        total = StreamCounts()
        for of_rank in gather(counts, self.world_size, self._group()):
            total += of_rank
        if not is_master():
            return
        full = total.num_tokens / max(total.num_packs * self.source.packs.packing_length, 1)
        logger.info(
            f'pass {index + 1} over the stream: {total.num_rows} rows in {total.num_packs} packs, {full:.1%} full.')
        if total.skipped:
            kinds = ', '.join(f'{kind}: {count}' for kind, count in total.skipped.most_common())
            logger.warning(f'pass {index + 1} over the stream: {total.skipped.total()} rows were skipped ({kinds}).')


# ---- rows without packing: rank 0 reads


class UnpackedStreamLoader(StreamLoader):
    """Batches of rows that are not packed: rank 0 reads them and scatters them, as in ms-swift.

    Unlike ms-swift's loader, it keeps the last rows of a pass where they are too few for all ranks, and a run can be
    resumed in a later pass.
    """

    base_dataloader: DataLoader

    def _read_pass(self, index: int, skip: int) -> Iterator[CollatedBatch]:
        """See `StreamLoader`. The batches to skip are read, since their number is not known, but not scattered."""
        super(StreamLoader, self).set_epoch(index)
        batches = iter(self.base_dataloader) if self.rank == 0 else iter(())
        last: CollatedBatch | None = None
        num_batches = 0
        while True:
            of_ranks: list[CollatedBatch | None] = list(islice(batches, self.world_size))
            if of_ranks:
                last = of_ranks[-1]
            if last is not None and (of_ranks or num_batches % self.multiple):
                of_ranks += [without_supervision(last)] * (self.world_size - len(of_ranks))
            else:
                of_ranks = [None] * self.world_size
            num_batches += 1
            if num_batches <= skip and of_ranks[0] is not None:
                of_ranks = [{}] * self.world_size
            batch = self._scatter_object_list(of_ranks)
            if batch is None:
                return
            yield batch
