"""Best-fit-decreasing packing of encoded rows into sequences of a fixed length (paper section 4.3.2, figure 13)."""
import numpy as np
from bisect import bisect_left, insort
from heapq import heappop, heappush
from itertools import chain, repeat
from typing import Dict, Iterable, List, Optional, Sequence, Tuple, Union

Sizes = Union[Sequence[int], np.ndarray]


def pack_best_fit(lengths: Sizes,
                  capacity: int,
                  *,
                  images: Optional[Sizes] = None,
                  image_capacity: Optional[int] = None) -> List[List[int]]:
    """Packs items into few bins without splitting any: best-fit decreasing, with one budget or two.

    Figure 13 (the row of 7 tokens was split into 5 + 2 before it came here), capacity 5::

        chunks  0: 5 tokens   1: 2 tokens   2: 4 tokens   3: 3 tokens
        bins    [0 0 0 0 0]   [2 2 2 2 .]   [1 1 3 3 3]   ->   [[0], [2], [1, 3]]

    The rule, in full:

    1. Items come by decreasing `max(length / capacity, images / image_capacity)`, the share that an item takes of the
       budget that it strains most: an item that fills either budget leaves its bin little choice, so it goes first,
       and small ones fill the gaps. Ties: longer first, then more images, then lower index. With one budget this is
       plain decreasing length.
    2. Each goes into the open bin with the fewest remaining tokens that holds it in both budgets; ties: fewest
       remaining images, then the bin opened first. Tokens come before images because a padded or short pack costs
       compute, while unused image places cost nothing. If no open bin holds it, a new one opens.

    With one budget the number of bins is at most 11/9 of the optimum plus 4 (Johnson 1974). Time is O(n * (log(n) +
    image_capacity * log(capacity))) beside short memory moves; equal items move together, so real sets take less.

    Args:
        lengths: Tokens of each item, integers >= 0, `[n]`. Zero is allowed.
        capacity: Tokens of a bin, >= 1.
        images: Segmentation images of each item, integers >= 0, `[n]`. None: no item has any.
        image_capacity: Segmentation images of a bin, >= 0. Needed with `images`.

    Returns:
        The bins in the order in which they were opened, each with its items' indices in ascending order. Every index
        appears exactly once and no bin is empty. The same input gives the same bins on every machine. No items: `[]`.

    Raises:
        ValueError: A length or image count is negative, not an integer, or alone more than its budget; `lengths` and
            `images` differ in number; `images` without `image_capacity`; a budget is out of range.

    Source:
        Ding et al. 2024, Fewer Truncations Improve Language Modeling (arXiv 2404.10830), which the paper cites as
        [125]. The second budget is ours: an image costs the segmenter's memory whatever its tokens cost.
    """
    tokens, pictures = _check(lengths, capacity, images, image_capacity)
    bin_of_item = _assign(tokens, capacity, pictures, image_capacity or 0)
    return _bin_of_item_to_bins(bin_of_item)


def lower_bound(lengths: Sizes,
                capacity: int,
                images: Optional[Sizes] = None,
                image_capacity: Optional[int] = None) -> int:
    """The number of bins that no packing can beat, were items as fine as sand.

    Args:
        lengths, capacity, images, image_capacity: As in `pack_best_fit`.

    Returns:
        The greater of `ceil(sum(lengths) / capacity)` and `ceil(sum(images) / image_capacity)`; at least 1 if there
        is any item (items of no tokens need a bin too), 0 without items.

    Raises:
        ValueError: As in `pack_best_fit`.
    """
    tokens, pictures = _check(lengths, capacity, images, image_capacity)
    bound = max(min(len(tokens), 1), -(-int(tokens.sum()) // capacity))
    # With an image capacity of zero, `_check` has made sure that there are no images.
    return max(bound, -(-int(pictures.sum()) // image_capacity)) if image_capacity else bound


def _check(lengths: Sizes, capacity: int, images: Optional[Sizes],
           image_capacity: Optional[int]) -> Tuple[np.ndarray, np.ndarray]:
    """Returns tokens and images as int64 `[n]`, or raises ValueError as `pack_best_fit` says."""
    if not _is_integer(capacity) or capacity < 1:
        raise ValueError(f'The capacity of a pack is {capacity!r} tokens: set --packing_length to an integer >= 1.')
    if image_capacity is not None and (not _is_integer(image_capacity) or image_capacity < 0):
        raise ValueError(f'The image capacity of a pack is {image_capacity!r}: set pack_images to an integer >= 0.')
    if images is not None and image_capacity is None:
        raise ValueError('Image counts were given without image_capacity: set pack_images.')
    if capacity * max(image_capacity or 0, 1) > np.iinfo(np.int64).max:
        raise ValueError(f'capacity {capacity} times image_capacity {image_capacity} does not fit 64 bits: lower one.')
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


def _assign(tokens: np.ndarray, capacity: int, pictures: np.ndarray, image_capacity: int) -> np.ndarray:
    """Sorts the items, finds runs of equal ones and places them. Returns the bin of each item, int64 `[n]`."""
    if not len(tokens):
        return np.zeros(0, dtype=np.int64)
    # The shares of rule 1, times capacity * image_capacity: integers, so that ties do not depend on rounding.
    share = np.maximum(tokens * max(image_capacity, 1), pictures * capacity)
    order = np.lexsort((-pictures, -tokens, -share))  # stable, the last key counts first
    sorted_tokens, sorted_pictures = tokens[order], pictures[order]
    changes = (np.diff(sorted_tokens) != 0) | (np.diff(sorted_pictures) != 0)
    starts = np.concatenate(([0], np.flatnonzero(changes) + 1))
    counts = np.diff(starts, append=len(order))
    runs = zip(sorted_tokens[starts].tolist(), sorted_pictures[starts].tolist(), counts.tolist())
    bin_of_item = np.empty(len(order), dtype=np.int64)
    bin_of_item[order] = np.fromiter(_place_runs(runs, capacity, image_capacity), dtype=np.int64, count=len(order))
    return bin_of_item


class _OpenBins:
    """The bins, filed by what remains in them."""

    def __init__(self) -> None:
        self._heaps: Dict[Tuple[int, int], List[int]] = {}  # (tokens, images) left -> bin numbers
        self._tokens_left: Dict[int, List[int]] = {}  # images left -> the token remainders that occur, ascending

    def find(self, tokens: int, images: int) -> Optional[Tuple[int, int]]:
        """What remains in the tightest bins that hold an item of this size; None if there is none."""
        best = None
        for images_left, remainders in self._tokens_left.items():
            if images_left >= images:
                place = bisect_left(remainders, tokens)
                if place < len(remainders) and (best is None or (remainders[place], images_left) < best):
                    best = remainders[place], images_left
        return best

    def take(self, left: Tuple[int, int], at_most: int) -> List[int]:
        """Removes up to `at_most` bins with this remainder, those opened first, and returns them ascending."""
        heap = self._heaps[left]
        if at_most < len(heap):
            return [heappop(heap) for _ in range(at_most)]
        del self._heaps[left]
        remainders = self._tokens_left[left[1]]
        del remainders[bisect_left(remainders, left[0])]
        return sorted(heap)

    def add(self, left: Tuple[int, int], bins: Sequence[int]) -> None:
        """Files bins (ascending numbers) under what now remains in them."""
        heap = self._heaps.get(left)
        if heap is None:
            self._heaps[left] = list(bins)  # an ascending list is a heap
            insort(self._tokens_left.setdefault(left[1], []), left[0])
        else:
            for number in bins:
                heappush(heap, number)


def _place_runs(runs: Iterable[Tuple[int, int, int]], capacity: int, image_capacity: int) -> Iterable[int]:
    """The hot loop: the bin of each item, for runs (tokens, images, count) of equal items in placing order.

    A bin that took an item and still holds another of the same size is now strictly the tightest that does (all bins
    that hold it had at least as much left before), so it takes items until it holds no more, and all bins with the
    same remainder go the same way. So one step serves many items.
    """
    pieces: List[Iterable[int]] = []
    open_bins = _OpenBins()
    num_bins = 0
    for tokens, images, count in runs:
        while count:
            tightest = open_bins.find(tokens, images)
            tokens_left, images_left = tightest or (capacity, image_capacity)
            each = count  # items that one bin takes; an item of no tokens and no images takes no space
            if tokens:
                each = min(each, tokens_left // tokens)
            if images:
                each = min(each, images_left // images)
            num_wanted = -(-count // each)
            bins: Sequence[int]
            if tightest:
                bins = open_bins.take(tightest, num_wanted)
            else:
                bins = range(num_bins, num_bins + num_wanted)
                num_bins += num_wanted
            num_full = min(len(bins), count // each)  # bins that take `each` items
            if num_full:
                full = bins[:num_full]
                pieces.append(full if each == 1 else chain.from_iterable(map(repeat, full, repeat(each))))
                open_bins.add((tokens_left - each * tokens, images_left - each * images), full)
                count -= each * num_full
            if num_full < len(bins):  # at most one more bin, for the rest of the run
                pieces.append(repeat(bins[-1], count))
                open_bins.add((tokens_left - count * tokens, images_left - count * images), bins[-1:])
                count = 0
    return chain.from_iterable(pieces)


def _bin_of_item_to_bins(bin_of_item: np.ndarray) -> List[List[int]]:
    """Turns the bin of each item `[n]` into the items of each bin, ascending."""
    if not len(bin_of_item):
        return []
    items = np.argsort(bin_of_item, kind='stable').tolist()
    ends = np.cumsum(np.bincount(bin_of_item)).tolist()
    return [items[start:end] for start, end in zip([0] + ends, ends)]
