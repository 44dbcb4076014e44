"""The row lengths of a dataset, and its packs at a given capacity, for `citrusv pack-report`."""
import numpy as np
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..constants import ROW_COLUMN
from ..estimate.flops import CostModel, Workload
from ..packing.packs import lower_bound, pack_arrays, split_to_multiple
from ..packing.rank_balance import balanced_order, imbalance
from ..training.length_pass import chunks_arrays, default_cache_dir, measure_dataset

ROW_KINDS = ('with masks', 'with images', 'text only')
# A larger pack gains nothing over one this full.
_FULL = 0.99


class DatasetLengths:
    """The rows of a dataset and their lengths, computed from image headers and text only.

    Args:
        template: A `CitrusVTemplate`; its `max_length` and `truncation_strategy` are changed.
        dataset: The rows as ms-swift loads them.
        num_proc: Number of processes.
        strict: Whether a row that cannot be encoded is an error; otherwise it is skipped.

    Attributes:
        rows: The rows that can be encoded.
        chunks: One chunk for each row, of any length, int64 `[rows, 4]`.
    """

    def __init__(self, template, dataset, num_proc: int, strict: bool) -> None:
        self._template, self._num_proc = template, num_proc
        template.max_length, template.truncation_strategy = None, 'raise'
        self.rows = self._measure(dataset, strict)
        self.chunks = chunks_arrays(self.rows)[1]

    def _measure(self, dataset, strict: bool):
        return measure_dataset(
            self._template, dataset, num_proc=self._num_proc, strict=strict, cache_dir=default_cache_dir())

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, int64 `[rows]`."""
        return self.chunks[:, 1] - self.chunks[:, 0]

    @property
    def kinds(self) -> np.ndarray:
        """The index in `ROW_KINDS` of each row, `[rows]`; videos count as images."""
        return np.select([self.chunks[:, 3] > 0, self.chunks[:, 2] > 0], [0, 1], 2)

    def name(self, row: int) -> str:
        return self.rows[int(row)][ROW_COLUMN]

    def chunks_at(self, capacity: int, split: bool) -> tuple[np.ndarray, list[int]]:
        """Returns the chunks that fit into a pack.

        Args:
            capacity: Tokens per pack.
            split: Whether longer rows are split (`--truncation_strategy split`).

        Returns:
            Chunks `[num_chunks, 4]` in the order of the rows, and the rows without a chunk: too long and not split.
        """
        fits = self.lengths <= capacity
        long = np.flatnonzero(~fits)
        row, chunks = np.flatnonzero(fits), self.chunks[fits]
        if not split or not len(long):
            return chunks, long.tolist()
        self._template.max_length, self._template.truncation_strategy = capacity, 'split'
        # Some rows cannot be split: an image, or a mask with its image, is longer than a pack.
        cut = self._measure(self.rows.select(long), strict=False)
        part, cut_chunks = chunks_arrays(cut)
        row_of_name = dict(zip(self.rows.select(long)[ROW_COLUMN], long.tolist()))
        cut_row = np.array([row_of_name[name] for name in cut[ROW_COLUMN]], dtype=np.int64)[part]
        order = np.argsort(np.concatenate([row, cut_row]), kind='stable')
        return np.concatenate([chunks, cut_chunks])[order], sorted(set(long.tolist()) - set(cut_row.tolist()))


@dataclass(frozen=True)
class PackingPlan:
    """The packs of a dataset at one capacity. Fractions are 0 to 1.

    Attributes:
        capacity: Tokens per pack (`--packing_length`).
        num_chunks: Number of packed chunks: whole rows, and parts of split rows.
        tokens: Number of tokens in the chunks.
        rows_too_long: Rows in no pack: longer than the capacity and not split.
        packs, fill: Number of packs, and the fraction of their capacity that is used.
        lower_bound: A lower bound on the number of packs of any packing.
        images_limit: Whether the image budget, not the tokens, sets that bound.
        mean_images, max_images: Segmentation images per pack.
        steps: Optimizer steps per epoch; None with fewer chunks than ranks.
        wait_random, wait_balanced: The fraction of time that ranks wait for the slowest one, by the estimated cost of
            the packs, in random order and in the order of training; None for one rank.
        fills: The used fraction of each pack, float `[packs]`.
        images: Segmentation images of each pack, `[packs]`.
        batches: Forward passes, computed tokens and padding of three ways to batch: see `batch_table`.
    """
    capacity: int
    num_chunks: int
    tokens: int
    rows_too_long: list[int]
    packs: int
    fill: float
    lower_bound: int
    images_limit: bool
    mean_images: float
    max_images: int
    steps: int | None
    wait_random: float | None
    wait_balanced: float | None
    batches: list[dict[str, Any]]
    fills: np.ndarray = field(repr=False)
    images: np.ndarray = field(repr=False)


def plan_packs(measured: DatasetLengths, capacity: int, *, split: bool, pack_images: int, padded_batch: int,
               world_size: int, grad_accum: int, costs: CostModel | None) -> PackingPlan:
    """Packs the rows as training does.

    Args:
        measured: The rows.
        capacity, split: See `DatasetLengths.chunks_at`.
        pack_images: Maximum number of segmentation images per pack.
        padded_batch: Rows per padded batch, for comparison.
        world_size, grad_accum: Number of ranks, and packs per rank and optimizer step.
        costs: Cost model of a pack; not needed for one rank.
    """
    chunks, too_long = measured.chunks_at(capacity, split)
    lengths, images = chunks[:, 1] - chunks[:, 0], chunks[:, 3]
    packs = pack_arrays(lengths, capacity, images=images, image_capacity=pack_images)
    bound = lower_bound(lengths, capacity, images=images, image_capacity=pack_images)
    steps = wait_random = wait_balanced = None
    if len(chunks) >= world_size and len(chunks):
        shared = split_to_multiple(packs, world_size)
        steps = -(-len(shared) // world_size // grad_accum)
        if costs is not None:
            cost = costs.cost(Workload.of_chunks(chunks).packed(shared))
            wait_random = imbalance(np.random.default_rng(0).permutation(cost), world_size)
            wait_balanced = imbalance(cost[balanced_order(cost, world_size, seed=0)], world_size)
    tokens, images_of_pack = packs.sums(lengths), packs.sums(images)
    return PackingPlan(
        capacity=capacity,
        num_chunks=len(chunks),
        tokens=int(lengths.sum()),
        rows_too_long=too_long,
        packs=len(packs),
        fill=float(tokens.sum() / (capacity * max(len(packs), 1))),
        lower_bound=bound,
        images_limit=bound > lower_bound(lengths, capacity),
        mean_images=float(images_of_pack.mean()) if len(packs) else 0.,
        max_images=int(images_of_pack.max(initial=0)),
        steps=steps,
        wait_random=wait_random,
        wait_balanced=wait_balanced,
        batches=batch_table(lengths, padded_batch, len(packs)),
        fills=tokens / capacity,
        images=images_of_pack)


def batch_table(lengths: np.ndarray, padded_batch: int, num_packs: int) -> list[dict[str, Any]]:
    """Forward passes per epoch, computed tokens and padding tokens, for three ways to batch.

    Args:
        lengths: Tokens of each row, in the order of the file, `[n]`.
        padded_batch: Rows per padded batch, which is as wide as its longest row.
        num_packs: Number of packs of the rows. A pack has no padding.
    """
    num_tokens = int(lengths.sum())
    starts = np.arange(0, len(lengths), padded_batch)
    longest = np.maximum.reduceat(lengths, starts) if len(lengths) else lengths
    padded = int((longest * np.diff(starts, append=len(lengths))).sum())
    ways = (('unpadded, 1 row', len(lengths), num_tokens), (f'padded, {padded_batch} rows', len(starts), padded),
            ('packed', num_packs, num_tokens))
    return [{
        'batch': name,
        'forward_passes': passes,
        'tokens': tokens,
        'padding': tokens - num_tokens
    } for name, passes, tokens in ways]


def suggest_packing_length(plans: Sequence[PackingPlan], longest: int) -> tuple[int, str]:
    """Suggests a packing length, with the reason as text.

    Prefers the smallest capacity that holds every row and fills its packs. A larger one needs more memory and makes
    fewer, longer steps per epoch.

    Args:
        plans: At least one, by ascending capacity.
        longest: Number of tokens of the longest row.
    """
    whole = [plan for plan in plans if not plan.rows_too_long and plan.steps is not None]
    full = next((plan for plan in whole if plan.fill >= _FULL), None)
    if full is not None:
        return full.capacity, (f'the smallest of these that holds every row and is at least {_FULL:.0%} full '
                               f'({full.fill:.1%}). A larger one makes fewer, longer steps and needs more memory.')
    if whole:
        best = max(whole, key=lambda plan: (round(plan.fill, 3), -plan.capacity))
        why = f'the fullest of these that hold every row ({best.fill:.1%}).'
        if best.images_limit:
            why += ' The image budget limits it: raise pack_images if memory allows.'
        elif best.packs == best.lower_bound:
            why += ' No packing can be fuller.'
        return best.capacity, why
    if not any(plan.rows_too_long for plan in plans):
        return plans[0].capacity, 'every row fits, but there are too few rows for so many ranks.'
    needed = 1 << (longest - 1).bit_length()
    return needed, (f'the longest row has {longest:,} tokens, and none of these holds it. If memory does not allow '
                    'this length, split long rows with --truncation_strategy split.')


def cost_model(config, stage: int) -> CostModel:
    """Builds the cost model of a pack in a training stage of the paper, without loading weights.

    Args:
        config: A `CitrusVConfig`.
        stage: 1 to 4; its stage file decides what is trained.
    """
    import torch

    from ..estimate.stage import freeze_as_stage
    from ..model.modeling import CitrusVForConditionalGeneration
    with torch.device('meta'):
        model = CitrusVForConditionalGeneration(config)
    freeze_as_stage(model, stage)
    # As ms-swift does by default.
    model.gradient_checkpointing_enable()
    return CostModel.from_model(model)
