"""Packs of rows as a dataset, and a sampler that balances their cost over the ranks."""
import numpy as np
from collections.abc import Callable, Iterator
from datasets import Dataset as HfDataset
from swift.dataloader import BatchSamplerShard
from swift.template import MaxLengthError
from swift.utils import get_dist_setting, get_logger, is_master
from torch.utils.data import Dataset
from typing import Any

from ..constants import CHUNKS_COLUMN
from ..encoding.chunks import Chunk
from ..encoding.skipped import skipped_row
from ..errors import RowError
from ..estimate.flops import Workload
from ..packing.packs import Packs, lower_bound, pack_arrays, split_to_multiple
from ..packing.rank_balance import balanced_order, imbalance
from ..settings import Settings
from .length_pass import chunks_arrays
from .rank_sync import run_on_rank_0

logger = get_logger()


def prepare_packing(template: Any, packing_length: int | None, packing_strategy: str) -> int:
    """Checks the arguments of packing, and switches the template to packs.

    Returns:
        Tokens of a pack: `packing_length`, or the template's `max_length` where it is None.

    Raises:
        ValueError: A strategy other than 'binpack', or no length.
    """
    if packing_strategy != 'binpack':
        raise ValueError(f'--packing_strategy {packing_strategy} is not supported with --model_type citrusv: it would '
                         'ignore the budget of segmentation images. Leave it at binpack.')
    length = packing_length or template.max_length
    if length is None:
        raise ValueError('Packing needs the length of a pack: give --packing_length or --max_length.')
    template.packing = template.padding_free = True
    return length


class PackingDataset(Dataset):
    """Packs rows by best-fit decreasing within two budgets: tokens, and segmentation images.

    Replaces `swift.dataset.PackingDataset`. A pack is a list of encoded rows, or chunks of rows. The plan is four
    arrays and the rows stay in their memory-mapped file, so that the memory of a DataLoader worker does not grow as it
    reads. (Python lists would be copied page by page, as reference counts change.)

    Args:
        template: A `CitrusVTemplate`.
        dataset: Its `.dataset` has the rows and their measured lengths.
        packing_length: Tokens of a pack; the template's `max_length` where None.
        packing_strategy: 'binpack'.
        strict: Whether a row that cannot be encoded ends the run; otherwise its pack goes without it: see `skipping`.

    Raises:
        ValueError: Another strategy, no length, a row longer than a pack, or fewer rows than ranks.
    """

    def __init__(self,
                 template: Any,
                 dataset: Any,
                 *,
                 packing_length: int | None = None,
                 packing_strategy: str = 'binpack',
                 strict: bool = True,
                 **kwargs: Any) -> None:
        self.packing_length = prepare_packing(template, packing_length, packing_strategy)
        self.template = template
        self.rows: HfDataset = dataset.dataset
        self.strict = strict
        if CHUNKS_COLUMN not in self.rows.column_names:
            raise ValueError(
                f'The dataset has no column {CHUNKS_COLUMN}: this version of swift-citrusv has not measured '
                'it for packing. Make the cached dataset again, or name the JSONL file.')
        self.row_of_chunk, self.chunks, self.packs = run_on_rank_0(self._plan, ValueError)

    def _plan(self) -> tuple[np.ndarray, np.ndarray, Packs]:
        row_of_chunk, chunks = chunks_arrays(self.rows)
        lengths, images = chunks[:, 1] - chunks[:, 0], chunks[:, 3]
        budget = Settings.from_env().pack_images
        world_size = get_dist_setting()[2]
        try:
            packs = pack_arrays(lengths, self.packing_length, images=images, image_capacity=budget)
        except ValueError as e:
            raise ValueError(f'Packing {len(self.rows)} rows: {e}') from e
        even = _split_evenly(packs, lengths, world_size)
        bound = lower_bound(lengths, self.packing_length, images=images, image_capacity=budget)
        tokens, most = int(lengths.sum()), int(packs.sums(images).max(initial=0))
        logger.info(
            f'packed {len(self.rows)} rows ({len(chunks)} chunks) into {len(packs)} packs (at least {bound} are '
            f'needed): {tokens / (max(len(packs), 1) * self.packing_length):.1%} of {self.packing_length} '
            f'tokens full, at most {most} of {budget} segmentation images.')
        if len(even) > len(packs):
            logger.info(
                f'{len(even) - len(packs)} packs were split in two, so that all {world_size} ranks get the same '
                'number.')
        return row_of_chunk, chunks, even

    @property
    def packed_length(self) -> list[int]:
        """Tokens of each pack, for ms-swift's statistics."""
        return self.packs.sums(self.chunks[:, 1] - self.chunks[:, 0]).tolist()

    @property
    def workload(self) -> Workload:
        """What each pack costs the model."""
        return Workload.of_chunks(self.chunks).packed(self.packs)

    def _encode(self, chunk: int) -> dict[str, Any]:
        row = self.rows[int(self.row_of_chunk[chunk])]
        try:
            return self.template.encode_chunk(row, Chunk(*self.chunks[chunk].tolist()))
        except (RowError, MaxLengthError) as e:
            if self.strict:
                raise
            return skipped_row(e)

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        return [self._encode(int(chunk)) for chunk in self.packs[index]]

    def __len__(self) -> int:
        return len(self.packs)


def _split_evenly(packs: Packs, lengths: np.ndarray, world_size: int) -> Packs:
    """A number of packs that all ranks can share evenly: ms-swift would drop the remainder."""
    try:
        return split_to_multiple(packs, world_size, weights=lengths)
    except ValueError:
        if len(packs) < world_size:
            raise
        logger.warning(f'{len(packs)} packs cannot be shared evenly by {world_size} ranks: each epoch leaves out '
                       f'{len(packs) % world_size} of them, others each time. Give more rows, or use another number of '
                       'ranks.')
        return packs


class BalancedSampler(BatchSamplerShard):
    """ms-swift's sampler, in an order in which the packs of a step cost nearly the same on all ranks.

    Args:
        total_samples: Packs, a multiple of the number of ranks.
        costs: Estimated cost of each pack, float `[total_samples]`, in any unit.
        kwargs: Those of `BatchSamplerShard`.
    """

    def __init__(self, total_samples: int, *, costs: np.ndarray, **kwargs: Any) -> None:
        super().__init__(total_samples, **kwargs)
        self.costs = costs

    @property
    def is_balanced(self) -> bool:
        return self.shuffle and self.world_size > 1 and len(self.costs) % self.world_size == 0

    def __iter__(self) -> Iterator[list[int]]:
        if not self.is_balanced:
            yield from super().__iter__()
            return
        mine = balanced_order(self.costs, self.world_size, seed=self.curr_seed)[self.rank::self.world_size].tolist()
        for start in range(0, len(mine), self.batch_size):
            batch = mine[start:start + self.batch_size]
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def report(self) -> str:
        """The share of time that ranks wait for the slowest, by the estimated costs, as text."""
        balanced = imbalance(self.costs[balanced_order(self.costs, self.world_size, seed=self.base_seed)],
                             self.world_size)
        plain = np.random.default_rng(self.base_seed).permutation(self.costs)
        return (f'balance over {self.world_size} ranks: by the estimated cost of the packs, ranks wait '
                f'{balanced:.2%} of the time ({imbalance(plain, self.world_size):.2%} in a random order).')


def balanced_sampler(costs: np.ndarray) -> Callable[..., BatchSamplerShard]:
    """A constructor that ms-swift can call as `BatchSamplerShard`."""

    def make(total_samples: int, **kwargs: Any) -> BatchSamplerShard:
        sampler = BalancedSampler(total_samples, costs=costs, **kwargs)
        if sampler.is_balanced and is_master():
            logger.info_once(sampler.report())
        return sampler

    return make
