"""Best-fit bin packing with two budgets; runs of equal items are placed together."""
import numpy as np
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from itertools import chain, repeat


def best_fit(tokens: np.ndarray,
             images: np.ndarray,
             capacity: int,
             image_capacity: int,
             tokens_left: np.ndarray | None = None,
             images_left: np.ndarray | None = None) -> np.ndarray:
    """Places each item in turn into the open bin with the fewest remaining tokens that holds it.

    Ties: fewest remaining images, then the bin opened first. Tokens come before images because unused tokens cost
    compute, while unused images cost nothing. If no open bin holds an item, a new one opens. With one budget and items
    by decreasing size, the bins are at most 11/9 of the optimum plus 4 (Johnson 1974). Time is O(r * (image_capacity *
    log(capacity) + short memory moves)) for r runs of equal items, and r <= n.

    Args:
        tokens, images: The items in the order of placement, int64 `[n]`, each at most its capacity. Faster if equal
            items are adjacent.
        capacity, image_capacity: What a new bin holds.
        tokens_left, images_left: The free space of bins that are already open, int64 `[b]`. None: no bin is open.

    Returns:
        The bin of each item, int64 `[n]`: below b a given bin, from b on a new bin in order of opening.

    Source:
        Ding et al. 2024, Fewer Truncations Improve Language Modeling (arXiv 2404.10830), section 3.
    """
    if not len(tokens):
        return np.zeros(0, dtype=np.int64)
    starts = np.concatenate(([0], np.flatnonzero((np.diff(tokens) != 0) | (np.diff(images) != 0)) + 1))
    counts = np.diff(starts, append=len(tokens))
    runs = zip(tokens[starts].tolist(), images[starts].tolist(), counts.tolist())
    open_bins = _OpenBins()
    num_bins = 0
    if tokens_left is not None and images_left is not None:
        num_bins = len(tokens_left)
        useful = np.flatnonzero((tokens_left >= tokens.min()) & (images_left >= images.min()))
        by_remainder: dict[tuple[int, int], list[int]] = {}
        for number, *left in zip(useful.tolist(), tokens_left[useful].tolist(), images_left[useful].tolist()):
            by_remainder.setdefault((left[0], left[1]), []).append(number)
        for remainder, bins in by_remainder.items():
            open_bins.add(remainder, bins)
    placed = _place_runs(runs, open_bins, num_bins, capacity, image_capacity)
    return np.fromiter(placed, dtype=np.int64, count=len(tokens))


class _OpenBins:
    """Open bins, indexed by their free space."""

    def __init__(self) -> None:
        self._heaps: dict[tuple[int, int], list[int]] = {}  # (tokens, images) left -> bin numbers
        self._tokens_left: dict[int, list[int]] = {}  # images left -> distinct tokens left, ascending

    def find(self, tokens: int, images: int) -> tuple[int, int] | None:
        """The free space (tokens, images) of the tightest bins that hold an item of this size; None if none does."""
        best = None
        for images_left, remainders in self._tokens_left.items():
            if images_left >= images:
                place = bisect_left(remainders, tokens)
                if place < len(remainders) and (best is None or (remainders[place], images_left) < best):
                    best = remainders[place], images_left
        return best

    def take(self, left: tuple[int, int], at_most: int) -> list[int]:
        """Removes up to `at_most` bins with this free space, the first opened first, and returns them ascending."""
        heap = self._heaps[left]
        if at_most < len(heap):
            return [heappop(heap) for _ in range(at_most)]
        del self._heaps[left]
        remainders = self._tokens_left[left[1]]
        del remainders[bisect_left(remainders, left[0])]
        return sorted(heap)

    def add(self, left: tuple[int, int], bins: Sequence[int]) -> None:
        """Adds bins (ascending numbers) with this free space."""
        heap = self._heaps.get(left)
        if heap is None:
            self._heaps[left] = list(bins)  # an ascending list is a heap
            insort(self._tokens_left.setdefault(left[1], []), left[0])
        else:
            for number in bins:
                heappush(heap, number)


def _place_runs(runs: Iterable[tuple[int, int, int]], open_bins: _OpenBins, num_bins: int, capacity: int,
                image_capacity: int) -> Iterable[int]:
    """The bin of each item, for runs (tokens, images, count) of equal items in the order of placement.

    After a bin takes an item, it is strictly the tightest bin for the next equal item, so it takes items until it is
    full. All bins with the same free space fill up in the same way, so one step places many items.
    """
    parts: list[Iterable[int]] = []
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
                parts.append(full if each == 1 else chain.from_iterable(map(repeat, full, repeat(each))))
                open_bins.add((tokens_left - each * tokens, images_left - each * images), full)
                count -= each * num_full
            if num_full < len(bins):  # at most one more bin, for the rest of the run
                parts.append(repeat(bins[-1], count))
                open_bins.add((tokens_left - count * tokens, images_left - count * images), bins[-1:])
                count = 0
    return chain.from_iterable(parts)
