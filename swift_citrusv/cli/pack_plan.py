"""What `citrusv pack-report` knows of a data set, and what it works out for each capacity of a pack."""
import numpy as np
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..constants import ROW_COLUMN
from ..estimate.flops import CostModel, Workload
from ..packing.packs import lower_bound, pack_arrays, split_to_multiple
from ..packing.rank_balance import balanced_order, imbalance
from ..training.length_pass import default_cache_dir, measure_dataset, pieces_arrays

KINDS = ('with masks', 'with images', 'text only')
# A pack this full leaves so little that a larger one gains nothing.
_FULL = 0.99


class Measured:
    """The rows of a data set and their lengths, from headers and text alone.

    Args:
        template: A `CitrusVTemplate`; its `max_length` and `truncation_strategy` are changed.
        dataset: The rows as ms-swift loads them.
        num_proc: Processes.
        strict: Whether a row that cannot be encoded is an error; else it is left out.

    Attributes:
        rows: The rows that can be encoded.
        pieces: One piece for each of them, however long, int64 `[rows, 4]`.
    """

    def __init__(self, template, dataset, num_proc: int, strict: bool) -> None:
        self._template, self._num_proc = template, num_proc
        template.max_length, template.truncation_strategy = None, 'raise'
        self.rows = self._measure(dataset, strict)
        self.pieces = pieces_arrays(self.rows)[1]

    def _measure(self, dataset, strict: bool):
        return measure_dataset(
            self._template, dataset, num_proc=self._num_proc, strict=strict, cache_dir=default_cache_dir())

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, int64 `[rows]`."""
        return self.pieces[:, 1] - self.pieces[:, 0]

    @property
    def kinds(self) -> np.ndarray:
        """The place in `KINDS` of each row, `[rows]`; videos count as images."""
        return np.select([self.pieces[:, 3] > 0, self.pieces[:, 2] > 0], [0, 1], 2)

    def name(self, row: int) -> str:
        return self.rows[int(row)][ROW_COLUMN]

    def pieces_at(self, capacity: int, split: bool) -> tuple[np.ndarray, list[int]]:
        """What a pack of this capacity can hold.

        Args:
            capacity: Tokens of a pack.
            split: Whether rows that are longer are cut (`--truncation_strategy split`).

        Returns:
            Pieces `[p, 4]` in the order of the rows, and the rows that have none: longer, and not cut.
        """
        fits = self.lengths <= capacity
        long = np.flatnonzero(~fits)
        row, pieces = np.flatnonzero(fits), self.pieces[fits]
        if not split or not len(long):
            return pieces, long.tolist()
        self._template.max_length, self._template.truncation_strategy = capacity, 'split'
        # Some cannot be cut: an image, or a mask with its image, that is longer than a pack.
        cut = self._measure(self.rows.select(long), strict=False)
        part, cut_pieces = pieces_arrays(cut)
        row_of_name = dict(zip(self.rows.select(long)[ROW_COLUMN], long.tolist()))
        cut_row = np.array([row_of_name[name] for name in cut[ROW_COLUMN]], dtype=np.int64)[part]
        order = np.argsort(np.concatenate([row, cut_row]), kind='stable')
        return np.concatenate([pieces, cut_pieces])[order], sorted(set(long.tolist()) - set(cut_row.tolist()))


@dataclass(frozen=True)
class Plan:
    """Packs of one capacity. Shares are 0 to 1.

    Attributes:
        capacity: `--packing_length`.
        pieces: What is packed: rows, and pieces of rows that were cut.
        tokens: Of the pieces.
        rows_too_long: Rows that are longer and were not cut; they are in no pack.
        packs, fill: Their number, and the share of their capacity that is used.
        lower_bound: The number of packs that no packing can beat.
        images_limit: Whether that bound comes from the images, not from the tokens.
        mean_images, max_images: Segmentation images of a pack.
        steps: Optimizer steps of an epoch; None with fewer packs than a step takes.
        wait_random, wait_balanced: The share of time that ranks wait for the slowest, by the estimated cost of the
            packs, in a random order and in the one that training takes; None for one rank.
        fills: Share of each pack that is used, float `[packs]`.
        images: Segmentation images of each pack, `[packs]`.
        batches: Forward passes, computed tokens and padding of the ways to batch: see `batch_table`.
    """
    capacity: int
    pieces: int
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


def plan_packs(measured: Measured, capacity: int, *, split: bool, pack_images: int, padded_batch: int, world_size: int,
               grad_accum: int, costs: CostModel | None) -> Plan:
    """Packs the rows as training does.

    Args:
        measured: The rows.
        capacity, split: See `Measured.pieces_at`.
        pack_images: Most segmentation images of a pack.
        padded_batch: Rows of the padded batches to compare with.
        world_size, grad_accum: Ranks, and packs of each that make an optimizer step.
        costs: What a pack costs; not needed for one rank.
    """
    pieces, too_long = measured.pieces_at(capacity, split)
    lengths, images = pieces[:, 1] - pieces[:, 0], pieces[:, 3]
    packs = pack_arrays(lengths, capacity, images=images, image_capacity=pack_images)
    bound = lower_bound(lengths, capacity, images=images, image_capacity=pack_images)
    steps = wait_random = wait_balanced = None
    if len(pieces) >= world_size and len(pieces):
        shared = split_to_multiple(packs, world_size)
        steps = -(-len(shared) // world_size // grad_accum)
        if costs is not None:
            cost = costs.cost(Workload.of_pieces(pieces).packed(shared))
            wait_random = imbalance(np.random.default_rng(0).permutation(cost), world_size)
            wait_balanced = imbalance(cost[balanced_order(cost, world_size, seed=0)], world_size)
    tokens, images_of_pack = packs.sums(lengths), packs.sums(images)
    return Plan(
        capacity=capacity,
        pieces=len(pieces),
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
    """Forward passes of an epoch, the tokens computed in them and those that are padding, for three ways to batch.

    Args:
        lengths: Tokens of each row, in the order of the file, `[n]`.
        padded_batch: Rows of a padded batch; each is as wide as its longest row.
        num_packs: Packs that hold the rows. A pack is not padded.
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


def suggest(plans: Sequence[Plan], longest: int) -> tuple[int, str]:
    """A packing length for the user, and the reason in words.

    The smallest capacity that holds every row and is full: a larger one takes more memory, makes fewer and longer steps
    of an epoch, and fills hardly better.

    Args:
        plans: At least one, of ascending capacity.
        longest: Tokens of the longest row.
    """
    whole = [plan for plan in plans if not plan.rows_too_long and plan.steps is not None]
    full = next((plan for plan in whole if plan.fill >= _FULL), None)
    if full is not None:
        return full.capacity, (f'the smallest of these that holds every row and is at least {_FULL:.0%} full '
                               f'({full.fill:.1%}). A larger one makes fewer and longer steps, and takes more memory.')
    if whole:
        best = max(whole, key=lambda plan: (round(plan.fill, 3), -plan.capacity))
        why = f'the fullest of these that hold every row ({best.fill:.1%}).'
        if best.images_limit:
            why += ' The budget of images is what limits it: raise pack_images if memory allows.'
        elif best.packs == best.lower_bound:
            why += ' No packing is fuller.'
        return best.capacity, why
    if not any(plan.rows_too_long for plan in plans):
        return plans[0].capacity, 'every row fits, but the rows are too few for so many ranks.'
    needed = 1 << (longest - 1).bit_length()
    return needed, (f'the longest row has {longest:,} tokens, and none of these holds it. If memory does not allow '
                    'that, cut long rows with --truncation_strategy split.')


def cost_model(config, stage: int) -> CostModel:
    """The cost of a pack in a stage of the paper, for a model without weights.

    Args:
        config: A `CitrusVConfig`.
        stage: 1 to 4; decides what is trained, as its stage file says.
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
