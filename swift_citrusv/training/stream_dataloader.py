"""The batches of a stream of packs for one rank: every rank reads for itself, all end together, a resumed run goes on.

ms-swift lets rank 0 read everything, with one worker, and scatter the pixels to the other ranks.
"""
import datetime
import functools
import json
import os
import torch
import torch.distributed as dist
from collections.abc import Callable, Iterator
from itertools import islice
from swift.dataloader import DataLoaderDispatcher
from swift.utils import get_logger, is_master, to_device
from torch.utils.data import DataLoader
from tqdm import tqdm
from typing import Any

from ..constants import IGNORE_INDEX, ROWS_KEY
from ..encoding.seg_tensors import SEG_KEYS
from .stream_packs import Collate, Feed, StreamPackingDataset, Tally

logger = get_logger()

Batch = dict[str, Any]


def without_targets(batch: Batch) -> Batch:
    """The same collated batch with nothing to learn: no label, no mask, no image for SAM2."""
    labels = torch.full_like(batch['labels'], IGNORE_INDEX)
    return {**batch, 'labels': labels, ROWS_KEY: [], **{key: batch[key][:, :0] for key in SEG_KEYS if key in batch}}


@functools.cache
def _group_on_cpu(world: Any, timeout: float) -> Any:
    """A process group whose small exchanges do not wait for the GPU; the default one where there is no gloo."""
    del world  # part of the cache's key: a test may start a second world
    if dist.get_backend() == 'gloo' or not dist.is_gloo_available():
        return dist.group.WORLD
    return dist.new_group(backend='gloo', timeout=datetime.timedelta(seconds=timeout))


# What the packs of a stream and their order depend on, by the names of ms-swift's `args.json`.
_PLAN_ARGUMENTS = ('dataset', 'global_world_size', 'dataloader_num_workers', 'per_device_train_batch_size',
                   'gradient_accumulation_steps', 'packing_length', 'max_length', 'truncation_strategy', 'max_pixels',
                   'system', 'template', 'data_seed', 'dataset_shuffle', 'shuffle_buffer_size', 'interleave_prob',
                   'stopping_strategy', 'columns', 'strict', 'model_kwargs')


def warn_of_another_plan(checkpoint: str, output_dir: str) -> None:
    """Warns where a resumed run plans other packs than the run that wrote the checkpoint.

    Args:
        checkpoint: The folder of the checkpoint; with ms-swift's `args.json`, or nothing can be compared.
        output_dir: The folder of this run, with its `args.json`.
    """
    loaded: list[dict[str, Any]] = []
    for folder in (checkpoint, output_dir):
        path = os.path.join(folder, 'args.json')
        if not os.path.isfile(path):
            logger.warning(f'{path} is missing: whether this run packs the stream as the last one is not known.')
            return
        with open(path, encoding='utf-8') as file:
            loaded.append(json.load(file))
    before, now = loaded
    changed = [
        f'{name} was {before.get(name)!r} and is {now.get(name)!r}' for name in _PLAN_ARGUMENTS
        if before.get(name) != now.get(name)
    ]
    if changed:
        logger.warning(f'The stream is packed in another way than before {checkpoint} was saved, so this run cannot go '
                       f'on exactly where that one ended: some rows are seen again, others not in this pass '
                       f'({"; ".join(changed)}).')


def _as_is(item: Any) -> Any:
    return item


class StreamLoader(DataLoaderDispatcher):
    """Batches of packs, pass after pass: each `iter` is one pass over the rank's share.

    All ranks give the same number of batches in a pass, a multiple of `multiple`. A rank that has no more while others
    have gives a batch without targets, which adds nothing to the step's loss: it is a mean over the tokens and masks of
    all ranks. So no row is lost, and no rank waits for ever.

    It takes the place of ms-swift's dispatcher, whose class tells ms-swift that a resumed run asks
    `get_train_dataloader` to skip what was trained on.

    Args:
        dataset: The packs.
        collate: Packs to a batch.
        device: Where the batches go.
        batch_size: Packs of a batch.
        multiple: Batches of an optimizer step.
        timeout: Seconds that a rank waits for the others.
        init_worker: See `Feed`.
        num_workers, prefetch_factor, pin_memory, multiprocessing_context: As `torch.utils.data.DataLoader` takes them.
    """

    def __init__(self,
                 dataset: StreamPackingDataset,
                 collate: Collate,
                 *,
                 device: Any = None,
                 batch_size: int = 1,
                 multiple: int = 1,
                 timeout: float = 1800.,
                 init_worker: Callable[[], None] | None = None,
                 **dataloader_params: Any) -> None:
        super().__init__(None, device)
        self.packs = dataset
        self.collate = collate
        self.batch_size = batch_size
        self.multiple = multiple
        self.timeout = timeout
        self.init_worker = init_worker
        self.dataloader_params = dataloader_params
        self._epoch = 0
        # Passes that a resumed run has skipped as a whole, which the trainer does not know of.
        self._passes_before = 0
        self._first_row: Batch | None = None

    def set_epoch(self, epoch: int) -> None:
        """Chooses the pass of the next `iter`: a shuffled stream has another order in each."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        with tqdm(
                total=self.skip_batches,
                desc='Skipping batches',
                dynamic_ncols=True,
                disable=not (self.skip_batches and is_master())) as bar:
            while True:
                num_batches, skip = 0, self.skip_batches
                for batch in self._pass(self._epoch + self._passes_before, skip):
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

    def _pass(self, index: int, skip: int) -> Iterator[Batch]:
        """The batches of one pass; the first `skip` ones are empty dicts."""
        feed = Feed(
            self.packs,
            self.collate,
            batch_size=self.batch_size,
            rank=self.rank,
            world_size=self.world_size,
            pass_index=index,
            skip=skip,
            init_worker=self.init_worker)
        # Its own generator: the seed of the workers must not come from the one that the model's dropout uses.
        loader = DataLoader(
            feed,
            batch_size=None,
            collate_fn=_as_is,
            generator=torch.Generator().manual_seed(index),
            **self.dataloader_params)
        tally = Tally()
        items = iter(loader)
        num_batches = 0
        while True:
            item = next(items, None)
            while isinstance(item, Tally):
                tally += item
                item = next(items, None)
            if not self._any_rank(item is not None) and num_batches % self.multiple == 0:
                break
            num_batches += 1
            if num_batches <= skip:
                yield {}
            elif isinstance(item, dict):
                yield item
            else:
                yield self._without_targets()
        self._report(index, tally)

    def _any_rank(self, has_more: bool) -> bool:
        if self.world_size == 1:
            return has_more
        group = _group_on_cpu(dist.group.WORLD, self.timeout)
        device = 'cpu' if dist.get_backend(group) == 'gloo' else self.device
        num_ranks = torch.tensor(int(has_more), device=device)
        dist.all_reduce(num_ranks, group=group)
        return bool(num_ranks)

    def _without_targets(self) -> Batch:
        if self._first_row is None:
            self._first_row = self.collate([self.packs.first_row()])
        return without_targets(self._first_row)

    def _report(self, index: int, tally: Tally) -> None:
        tallies = [tally]
        if self.world_size > 1:
            tallies = [Tally()] * self.world_size
            dist.all_gather_object(tallies, tally, group=_group_on_cpu(dist.group.WORLD, self.timeout))
        total = Tally()
        for other in tallies:
            total += other
        full = total.num_tokens / max(total.num_packs * self.packs.packing_length, 1)
        logger.info_if(
            f'pass {index + 1} over the stream: {total.num_rows} rows in {total.num_packs} packs, {full:.1%} full.',
            cond=is_master())
        if total.skipped and is_master():
            kinds = ', '.join(f'{kind}: {count}' for kind, count in total.skipped.most_common())
            logger.warning(f'pass {index + 1} over the stream: {total.skipped.total()} rows were skipped ({kinds}).')


class UnpackedStreamLoader(StreamLoader):
    """Batches of a stream of rows that are not packed, pass after pass: rank 0 reads and scatters, as in ms-swift.

    What differs: no row is lost where the last ones of a pass are too few for all ranks; each pass has a multiple of
    `multiple` batches (Transformers would add the gradient of the last ones to the first step of the next pass); and a
    run can be resumed in a later pass. What is missing at the end of a pass are batches without targets.

    Args:
        base_dataloader: The batches of all ranks, of one pass for each `iter`.
        device: Where the batches go.
        multiple: Batches of an optimizer step.
    """

    def __init__(self, base_dataloader: DataLoader, *, device: Any = None, multiple: int = 1) -> None:
        DataLoaderDispatcher.__init__(self, base_dataloader, device)
        self.multiple = multiple
        self._epoch = 0
        self._passes_before = 0

    def _pass(self, index: int, skip: int) -> Iterator[Batch]:
        """As that of packs. The batches to skip are read, for they cannot be counted otherwise, but not scattered."""
        super(StreamLoader, self).set_epoch(index)
        batches = iter(self.base_dataloader) if self.rank == 0 else iter(())
        last: Batch | None = None
        num_batches = 0
        while True:
            mine: list[Batch | None] = list(islice(batches, self.world_size))
            if mine:
                last = mine[-1]
            if last is not None and (mine or num_batches % self.multiple):
                mine += [without_targets(last)] * (self.world_size - len(mine))
            else:
                mine = [None] * self.world_size
            num_batches += 1
            if num_batches <= skip and mine[0] is not None:
                mine = [{}] * self.world_size
            batch = self._scatter_object_list(mine)
            if batch is None:
                return
            yield batch
