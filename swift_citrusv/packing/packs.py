"""Packs encoded rows into sequences of a fixed length (paper section 4.3.2, figure 13)."""
import heapq
import numpy as np
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .bin_packing import assign_bins, decreasing_order, l2_bound

Sizes = Sequence[int] | np.ndarray


@dataclass(frozen=True, eq=False)
class Packs:
    """Items grouped into packs; also a sequence of the packs, each an int64 array of indices.

    Attributes:
        items: Indices grouped by pack, ascending within each, int64 `[n]`.
        ends: The end of each pack in `items`, ascending, int64 `[b]`. No pack is empty.
    """
    items: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> np.ndarray:
        """The items of a pack, int64, ascending."""
        if not -len(self) <= index < len(self):
            raise IndexError(f'Pack {index} of {len(self)} does not exist.')
        index %= len(self)
        return self.items[self.ends[index - 1] if index else 0:self.ends[index]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(np.split(self.items, self.ends[:-1]) if len(self) else [])

    @property
    def counts(self) -> np.ndarray:
        """The number of items in each pack, int64 `[b]`."""
        return np.diff(self.ends, prepend=0)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sums a value of each item (tokens, images, cost), `[n]`, over each pack, `[b]`."""
        values = np.asarray(values)
        if values.shape != self.items.shape:
            raise ValueError(f'The packs hold {len(self.items)} items, but the values have shape {values.shape}.')
        starts = self.ends - self.counts
        return np.add.reduceat(values[self.items], starts) if len(starts) else values[:0]


def pack_best_fit(lengths: Sizes,
                  capacity: int,
                  *,
                  images: Sizes | None = None,
                  image_capacity: int | None = None) -> list[list[int]]:
    """Packs items into few bins without splitting any: best-fit decreasing and improvements, for one or two budgets.

    Figure 13 with capacity 5 (the row of 7 tokens is already split into chunks of 5 and 2)::

        chunks  0: 5 tokens   1: 2 tokens   2: 4 tokens   3: 3 tokens
        bins    [0 0 0 0 0]   [2 2 2 2 .]   [1 1 3 3 3]   ->   [[0], [2], [1, 3]]

    Items are sorted by decreasing `max(length / capacity, images / image_capacity)`, their share of the tighter budget;
    ties: longer first, then more images, then lower index. The result is the best of these, tried until the number of
    bins is less than 0.05 % above `lower_bound`:

    1. Best-fit decreasing (`best_fit.best_fit`): each item goes into the tightest bin that holds it.
    2. Deal and swap (`deal_and_swap.deal_and_swap`): the items are dealt evenly, in both budgets, to as many bins as
       the bound says (one in 4,096 more), which then swap items until none exceeds a budget. Items that still do not
       fit are placed by best fit. If that needs more bins, deal and swap is repeated with a number of bins halfway to
       the best packing so far, and so on. It runs first above 256 items, and in parts above 65,536.
    3. Up to 20 items: an exact search of up to 20,000 placements.

    Best fit alone is far from the bound with two budgets, since it closes a bin as soon as one budget is full: with one
    image for each of 50,000 rows, it needed 9 to 25 % more bins than the bound. Dealing gives every bin the same mix
    of items, so both sums of a bin are near their averages, which at the bound are within the budgets. Some bins then
    exceed a budget by less than an item of the last rounds, and others have as much free space. A swap can change the
    sums by any difference between two items, so a few dozen swaps fix a bin to the last token, even where both budgets
    are nearly full. Measured by tests/bench/bench_packing.py on 50,000 rows: at most 0.04 % above the bound, with one
    budget and with ten different image budgets. This needs several items a bin. With two or three, best fit and the
    exact search decide, and even the optimum is above the bound.

    Args:
        lengths: Tokens of each item, integers >= 0, `[n]`. Zero is allowed.
        capacity: Tokens of a bin, >= 1.
        images: Segmentation images of each item, integers >= 0, `[n]`. None: no item has any.
        image_capacity: Segmentation images of a bin, >= 0. Needed with `images`.

    Returns:
        The bins, each with its items' indices in ascending order. Every index appears exactly once and no bin is
        empty. The order of the bins is arbitrary but the same on every machine. No items: `[]`.

    Raises:
        ValueError: A length or image count is negative, not an integer, or above its budget; `lengths` and `images`
            differ in number; `images` without `image_capacity`; a budget is out of range.

    Source:
        Ding et al. 2024, Fewer Truncations Improve Language Modeling (arXiv 2404.10830), the paper's reference [125].
        The second budget (segmentation images cost memory independently of tokens) and deal-and-swap are additions.
    """
    packs = pack_arrays(lengths, capacity, images=images, image_capacity=image_capacity)
    items, ends = packs.items.tolist(), packs.ends.tolist()
    return [items[start:end] for start, end in zip([0] + ends, ends)]


def pack_arrays(lengths: Sizes,
                capacity: int,
                *,
                images: Sizes | None = None,
                image_capacity: int | None = None) -> Packs:
    """`pack_best_fit` for millions of items: the same bins as arrays."""
    tokens, pictures = _check(lengths, capacity, images, image_capacity)
    if not len(tokens):
        return Packs(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    limits = int(capacity), int(image_capacity or 0)
    order = decreasing_order(tokens, pictures, *limits)
    bins = assign_bins(tokens[order], pictures[order], *limits)
    counts = np.bincount(bins)
    # Sorting one integer made of bin and item is several times faster than a stable argsort.
    bits = len(order).bit_length()
    items = np.sort((bins << bits) | order) & ((1 << bits) - 1)
    return Packs(items, np.cumsum(counts[counts > 0]))


def split_to_multiple(packs: Packs, multiple: int, weights: np.ndarray | None = None) -> Packs:
    """Splits packs in two until their number is a multiple of the number of ranks, so that none is dropped.

    The pack with the most items (ties: the first) is split first; its halves may be split again. One half keeps the
    position of the pack, the other one is appended.

    Args:
        packs: The packs.
        multiple: Number of ranks (or ranks times packs a step), >= 1.
        weights: A number for each item, e.g. its tokens, `[n]`; the halves of a pack get nearly equal sums. None: 1
            each.

    Returns:
        The packs, at most `multiple - 1` more than before. Packs that are not split stay unchanged. No packs: no packs.

    Raises:
        ValueError: `multiple` is less than 1, or there are fewer items than the packs that are needed.
    """
    if multiple < 1:
        raise ValueError(f'The number of packs cannot be a multiple of {multiple}: give an integer >= 1.')
    missing = -len(packs) % multiple
    if not missing:
        return packs
    if len(packs) + missing > len(packs.items):
        raise ValueError(f'{len(packs.items)} items in {len(packs)} packs cannot be shared by {multiple} ranks, which '
                         f'needs {len(packs) + missing} packs: use a number of ranks that divides the packs, or add '
                         'items.')
    if weights is None:
        weights = np.ones(len(packs.items), dtype=np.int64)
    groups = list(packs)
    heap = [(-count, index) for index, count in enumerate(packs.counts.tolist())]
    heapq.heapify(heap)
    for _ in range(missing):
        _, index = heapq.heappop(heap)
        one, two = _halves(groups[index], weights)
        groups[index] = one
        heapq.heappush(heap, (-len(one), index))
        heapq.heappush(heap, (-len(two), len(groups)))
        groups.append(two)
    return Packs(np.concatenate(groups), np.cumsum([len(group) for group in groups]))


def _halves(items: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Splits items into two parts of nearly equal weight; by decreasing weight, each goes to the lighter part."""
    parts: tuple[list[int], list[int]] = ([], [])
    sums: list[Any] = [0, 0]
    for item in items[np.argsort(-weights[items], kind='stable')].tolist():
        lighter = min((0, 1), key=lambda part: (sums[part], len(parts[part])))
        parts[lighter].append(item)
        sums[lighter] += weights[item]
    return np.sort(parts[0]), np.sort(parts[1])


def lower_bound(lengths: Sizes, capacity: int, images: Sizes | None = None, image_capacity: int | None = None) -> int:
    """A lower bound on the number of bins of any packing.

    Args:
        lengths, capacity, images, image_capacity: As in `pack_best_fit`.

    Returns:
        The greatest of the bounds L2 of Martello and Toth for the tokens and for the images, each at least
        `ceil(sum / capacity)`; at least 1 if there is any item (even one without tokens), 0 without items.

    Raises:
        ValueError: As in `pack_best_fit`.

    Source:
        Martello and Toth 1990, Lower bounds and reduction procedures for the bin packing problem, section 3.
    """
    tokens, pictures = _check(lengths, capacity, images, image_capacity)
    return l2_bound(tokens, pictures, int(capacity), int(image_capacity or 0))


def _check(lengths: Sizes, capacity: int, images: Sizes | None,
           image_capacity: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns tokens and images as int64 `[n]`; raises ValueError as `pack_best_fit` does."""
    if not _is_integer(capacity) or capacity < 1:
        raise ValueError(f'The capacity of a pack is {capacity!r} tokens: set --packing_length to an integer >= 1.')
    if image_capacity is not None and (not _is_integer(image_capacity) or image_capacity < 0):
        raise ValueError(f'The image capacity of a pack is {image_capacity!r}: set pack_images to an integer >= 0.')
    if images is not None and image_capacity is None:
        raise ValueError('Image counts were given without image_capacity: set pack_images.')
    # Sums below must not overflow.
    if capacity * max(image_capacity or 0, 1) * max(len(lengths), 1) > np.iinfo(np.int64).max:
        raise ValueError(f'capacity {capacity} times image_capacity {image_capacity} does not fit 64 bits for '
                         f'{len(lengths)} items: lower one.')
    tokens = _check_sizes(lengths, capacity, 'tokens', '--packing_length')
    if images is None:
        return tokens, np.zeros_like(tokens)
    assert image_capacity is not None
    pictures = _check_sizes(images, image_capacity, 'segmentation images', 'pack_images')
    if len(pictures) != len(tokens):
        raise ValueError(f'{len(tokens)} lengths but {len(pictures)} image counts: give one of each for every item.')
    return tokens, pictures


def _check_sizes(sizes: Sizes, limit: int, unit: str, setting: str) -> np.ndarray:
    """Returns the sizes as int64 `[n]`; raises ValueError for the first that is not an integer from 0 to `limit`."""
    array = np.asarray(sizes)
    if array.ndim != 1:
        raise ValueError(f'The numbers of {unit} have shape {array.shape}: give one number for each item.')
    if array.dtype.kind not in 'iu':  # float also for an empty list, object for integers above 64 bits
        for index, size in enumerate(sizes):
            if not _is_integer(size):
                raise ValueError(f'Item {index} has {size!r} {unit}: give an integer >= 0.')
    bad = np.flatnonzero((array < 0) | (array > limit))
    if len(bad):
        index = int(bad[0])
        if array[index] < 0:
            raise ValueError(f'Item {index} has {array[index]} {unit}: give an integer >= 0.')
        raise ValueError(f'Item {index} has {array[index]} {unit}, more than the {limit} that a pack holds: '
                         f'raise {setting} to at least {array[index]}, or shorten or drop the item.')
    return array.astype(np.int64)


def _is_integer(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
