"""Packing of encoded rows into sequences of a fixed length (paper section 4.3.2, figure 13)."""
import heapq
import numpy as np
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .bin_packing import bound, place, placing_order

Sizes = Sequence[int] | np.ndarray


@dataclass(frozen=True, eq=False)
class Packs:
    """Items grouped into packs; also a sequence of the packs, each an int64 array of indices.

    Attributes:
        items: Indices grouped by pack, ascending within each, int64 `[n]`.
        ends: Where each pack ends in `items`, ascending, int64 `[b]`. No pack is empty.
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
        """The sum of a number of each item (tokens, images, cost), `[n]`, over each pack, `[b]`."""
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
    """Packs items into few bins without splitting any: best-fit decreasing and better, with one budget or two.

    Figure 13 (the row of 7 tokens was split into 5 + 2 before it came here), capacity 5::

        chunks  0: 5 tokens   1: 2 tokens   2: 4 tokens   3: 3 tokens
        bins    [0 0 0 0 0]   [2 2 2 2 .]   [1 1 3 3 3]   ->   [[0], [2], [1, 3]]

    Items come by decreasing `max(length / capacity, images / image_capacity)`, the share that an item takes of the
    budget that it strains most; ties: longer first, then more images, then lower index. Then, until there are no more
    bins than `lower_bound` says (or less than 0.05 % more), the best of:

    1. Best-fit decreasing (`best_fit.best_fit`): each item goes into the tightest bin that holds it.
    2. Dealing (`dealing.deal`): as many bins as the bound says (one in 4,096 more) are dealt the items evenly in both
       budgets, and swap items until none is broken; what cannot be mended is given up and goes where it fits best.
       Where that needs more bins, a number halfway to the best packing so far is dealt, and so on. Sets above 256
       items are dealt first, those above 65,536 in parts.
    3. Up to 20 items: an exact search, for as long as 20,000 placements last.

    Why the result is near the bound with two budgets. Best fit alone is not: it closes a bin as soon as one budget is
    full, whatever is lost of the other; where each of 50,000 rows had an image, it needed 9 to 25 % more bins than the
    bound. Dealing gives every bin the same mix of items, so that both sums of a bin come out near their averages,
    total / bins, which at the bound are at most the budgets. Some bins then break a budget by less than an item of the
    last rounds, and others have as much room. A swap changes both sums of two bins by one of many differences between
    their items, so that a few dozen mend a bin to the last token, even where both budgets are all but full. Measured
    by tests/bench/bench_packing.py on 50,000 rows: at most 0.04 % above the bound, with one budget and with ten image
    budgets, some of which leave much room, some bind alone, and some are full to 0.4 to 2 % where the tokens are. All
    this needs several items a bin: with two or three, best fit and the search decide, and even the optimum is above
    the bound.

    Args:
        lengths: Tokens of each item, integers >= 0, `[n]`. Zero is allowed.
        capacity: Tokens of a bin, >= 1.
        images: Segmentation images of each item, integers >= 0, `[n]`. None: no item has any.
        image_capacity: Segmentation images of a bin, >= 0. Needed with `images`.

    Returns:
        The bins, each with its items' indices in ascending order. Every index appears exactly once and no bin is
        empty. The order of the bins has no meaning, but the same input gives the same bins on every machine. No items:
        `[]`.

    Raises:
        ValueError: A length or image count is negative, not an integer, or alone more than its budget; `lengths` and
            `images` differ in number; `images` without `image_capacity`; a budget is out of range.

    Source:
        Ding et al. 2024, Fewer Truncations Improve Language Modeling (arXiv 2404.10830), which the paper cites as
        [125]. The second budget is ours (an image costs the segmenter's memory whatever its tokens cost), and so is
        dealing.
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
    order = placing_order(tokens, pictures, *limits)
    bins = place(tokens[order], pictures[order], *limits)
    counts = np.bincount(bins)
    # Sorting one number made of both is several times faster than a stable argsort.
    bits = len(order).bit_length()
    items = np.sort((bins << bits) | order) & ((1 << bits) - 1)
    return Packs(items, np.cumsum(counts[counts > 0]))


def split_to_multiple(packs: Packs, multiple: int, weights: np.ndarray | None = None) -> Packs:
    """Splits packs in two until their number is a multiple of the number of ranks, so that none is dropped.

    The pack with the most items (ties: the first) is split first; its halves may be split again. A half keeps the
    place of the pack, the other one comes behind all packs.

    Args:
        packs: The packs.
        multiple: Number of ranks (or ranks times packs of a step), >= 1.
        weights: What the halves of a pack share evenly, of each item, `[n]`, such as its tokens. None: item counts.

    Returns:
        At most `multiple - 1` packs more, all without a change but those that were split. No packs: no packs.

    Raises:
        ValueError: `multiple` is less than 1, or there are fewer items than packs are needed.
    """
    if multiple < 1:
        raise ValueError(f'The number of packs cannot be a multiple of {multiple}: give an integer >= 1.')
    missing = -len(packs) % multiple
    if not missing:
        return packs
    if len(packs) + missing > len(packs.items):
        raise ValueError(f'{len(packs.items)} items in {len(packs)} packs cannot be shared by {multiple} ranks, which '
                         f'takes {len(packs) + missing} packs: use a number of ranks that divides the packs, or add '
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
    """Two parts of near equal weight: by decreasing weight, each item goes to the lighter part. None is empty."""
    parts: tuple[list[int], list[int]] = ([], [])
    sums: list[Any] = [0, 0]
    for item in items[np.argsort(-weights[items], kind='stable')].tolist():
        lighter = min((0, 1), key=lambda part: (sums[part], len(parts[part])))
        parts[lighter].append(item)
        sums[lighter] += weights[item]
    return np.sort(parts[0]), np.sort(parts[1])


def lower_bound(lengths: Sizes, capacity: int, images: Sizes | None = None, image_capacity: int | None = None) -> int:
    """A number of bins that no packing can beat.

    Args:
        lengths, capacity, images, image_capacity: As in `pack_best_fit`.

    Returns:
        The greatest of the bounds L2 of Martello and Toth for the tokens and for the images, each at least
        `ceil(sum / capacity)`; at least 1 if there is any item (items of no tokens need a bin too), 0 without items.

    Raises:
        ValueError: As in `pack_best_fit`.

    Source:
        Martello and Toth 1990, Lower bounds and reduction procedures for the bin packing problem, section 3.
    """
    tokens, pictures = _check(lengths, capacity, images, image_capacity)
    return bound(tokens, pictures, int(capacity), int(image_capacity or 0))


def _check(lengths: Sizes, capacity: int, images: Sizes | None,
           image_capacity: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns tokens and images as int64 `[n]`, or raises ValueError as `pack_best_fit` says."""
    if not _is_integer(capacity) or capacity < 1:
        raise ValueError(f'The capacity of a pack is {capacity!r} tokens: set --packing_length to an integer >= 1.')
    if image_capacity is not None and (not _is_integer(image_capacity) or image_capacity < 0):
        raise ValueError(f'The image capacity of a pack is {image_capacity!r}: set pack_images to an integer >= 0.')
    if images is not None and image_capacity is None:
        raise ValueError('Image counts were given without image_capacity: set pack_images.')
    # No sum below may wrap around.
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
    """Returns the sizes as int64 `[n]`; the first that is no integer, negative or above `limit` is a ValueError."""
    array = np.asarray(sizes)
    if array.ndim != 1:
        raise ValueError(f'The numbers of {unit} have shape {array.shape}: give one number for each item.')
    if array.dtype.kind not in 'iu':  # also no items at all (float), and integers beyond 64 bits (object)
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
