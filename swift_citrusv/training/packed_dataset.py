"""Packs of rows as a data set, and the order in which the ranks of a distributed run take them."""
import numpy as np
import torch.distributed as dist
from collections.abc import Callable, Iterator
from datasets import Dataset as HfDataset
from swift.dataloader import BatchSamplerShard
from swift.template import MaxLengthError
from swift.utils import get_dist_setting, get_logger, is_dist, is_master
from torch.utils.data import Dataset
from typing import Any

from ..constants import PIECES_COLUMN
from ..encoding.chunks import Piece
from ..encoding.skipped import left_out
from ..errors import RowError
from ..estimate.flops import Workload
from ..packing.packs import Packs, lower_bound, pack_arrays, split_to_multiple
from ..packing.rank_balance import balanced_order, imbalance
from ..settings import Settings
from .length_pass import pieces_arrays

logger = get_logger()


class PackingDataset(Dataset):
    """Packs of rows by best-fit decreasing, with a budget of tokens and one of segmentation images.

    Takes the place of `swift.dataset.PackingDataset`. A pack is a list of encoded rows, or pieces of rows. The plan is
    four arrays and the rows stay in their memory-mapped file, so that the memory of a worker does not grow as it reads
    (Python's lists would be copied to it page by page).

    Args:
        template: A `CitrusVTemplate`.
        dataset: What wraps the rows with their measured lengths (its `.dataset`).
        packing_length: Tokens of a pack; the template's `max_length` where None.
        packing_strategy: 'binpack'.
        strict: Whether a row that cannot be encoded ends the run; else it is left out of its pack: see `lenient`.

    Raises:
        ValueError: Another strategy, a row longer than a pack, or fewer rows than ranks.
    """

    def __init__(self,
                 template,
                 dataset,
                 *,
                 packing_length: int | None = None,
                 packing_strategy: str = 'binpack',
                 strict: bool = True,
                 **kwargs: Any) -> None:
        if packing_strategy != 'binpack':
            raise ValueError(
                f'--packing_strategy {packing_strategy} is not supported with --model_type citrusv: it would '
                'not keep the budget of images. Leave it at binpack.')
        template.packing = template.padding_free = True
        self.template = template
        self.rows: HfDataset = dataset.dataset
        self.packing_length = packing_length or template.max_length
        self.strict = strict
        if PIECES_COLUMN not in self.rows.column_names:
            raise ValueError(f'The data set has no column {PIECES_COLUMN}, so it was not measured for packing by this '
                             'version of swift-citrusv: make the cached data set anew, or name the JSONL file.')
        self.row_of_piece, self.pieces, self.packs = self._plan_of_rank_0()

    def _plan_of_rank_0(self) -> tuple[np.ndarray, np.ndarray, Packs]:
        if not (is_dist() and dist.is_initialized()):
            return self._plan()
        outcome: list[Any] = [None]
        if is_master():
            try:
                outcome = [self._plan()]
            except ValueError as e:
                # The others would wait for it, and then end with an error that says nothing.
                outcome = [e]
        dist.broadcast_object_list(outcome)
        if isinstance(outcome[0], ValueError):
            raise outcome[0]
        return outcome[0]

    def _plan(self) -> tuple[np.ndarray, np.ndarray, Packs]:
        row_of_piece, pieces = pieces_arrays(self.rows)
        lengths, images = pieces[:, 1] - pieces[:, 0], pieces[:, 3]
        budget = Settings.from_env().pack_images
        world_size = get_dist_setting()[2]
        try:
            packs = pack_arrays(lengths, self.packing_length, images=images, image_capacity=budget)
        except ValueError as e:
            raise ValueError(f'Packing {len(self.rows)} rows: {e}') from e
        shared = _shared(packs, lengths, world_size)
        bound = lower_bound(lengths, self.packing_length, images=images, image_capacity=budget)
        tokens, most = int(lengths.sum()), int(packs.sums(images).max(initial=0))
        logger.info(
            f'packed {len(self.rows)} rows ({len(pieces)} pieces) into {len(packs)} packs (at least {bound} are '
            f'needed): {tokens / (max(len(packs), 1) * self.packing_length):.1%} of {self.packing_length} '
            f'tokens full, at most {most} of {budget} segmentation images.')
        if len(shared) > len(packs):
            logger.info(f'{len(shared) - len(packs)} packs were split in two, so that {world_size} ranks have the same '
                        'number.')
        return row_of_piece, pieces, shared

    @property
    def packed_length(self) -> list[int]:
        """Tokens of each pack; ms-swift reads it for its statistics."""
        return self.packs.sums(self.pieces[:, 1] - self.pieces[:, 0]).tolist()

    @property
    def workload(self) -> Workload:
        """What each pack asks of the model."""
        return Workload.of_pieces(self.pieces).packed(self.packs)

    def _encode(self, piece: int) -> dict[str, Any]:
        row = self.rows[int(self.row_of_piece[piece])]
        try:
            return self.template.encode_piece(row, Piece(*self.pieces[piece].tolist()))
        except (RowError, MaxLengthError) as e:
            if self.strict:
                raise
            return left_out(e)

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        return [self._encode(int(piece)) for piece in self.packs[index]]

    def __len__(self) -> int:
        return len(self.packs)


def _shared(packs: Packs, lengths: np.ndarray, world_size: int) -> Packs:
    """Packs of which each rank can have the same number: ms-swift would drop those that are left over."""
    try:
        return split_to_multiple(packs, world_size, weights=lengths)
    except ValueError:
        if len(packs) < world_size:
            raise
        logger.warning(f'{len(packs)} packs cannot be shared evenly by {world_size} ranks: in each epoch '
                       f'{len(packs) % world_size} of them, others each time, are not trained on. Give more rows or '
                       'use another number of ranks.')
        return packs


class BalancedSampler(BatchSamplerShard):
    """ms-swift's sampler, with an order in which the ranks' packs of a step cost nearly the same.

    Args:
        total_samples: Packs, a multiple of the number of ranks.
        costs: Estimated cost of each pack, float `[total_samples]`, in any unit.
        kwargs: As `BatchSamplerShard` takes them.
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
        """How much of the ranks' time goes in waiting for the slowest, by the estimate."""
        balanced = imbalance(self.costs[balanced_order(self.costs, self.world_size, seed=self.base_seed)],
                             self.world_size)
        plain = np.random.default_rng(self.base_seed).permutation(self.costs)
        return (f'balance over {self.world_size} ranks: by the estimated cost of the packs, ranks wait '
                f'{balanced:.2%} of the time ({imbalance(plain, self.world_size):.2%} in a random order).')


def balanced_sampler(costs: np.ndarray) -> Callable[..., BatchSamplerShard]:
    """A constructor for ms-swift to call in place of `BatchSamplerShard`."""

    def make(total_samples: int, **kwargs: Any) -> BatchSamplerShard:
        sampler = BalancedSampler(total_samples, costs=costs, **kwargs)
        if sampler.is_balanced and is_master():
            logger.info_once(sampler.report())
        return sampler

    return make
