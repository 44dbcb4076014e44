"""Bin packing of sorted items: the order, the lower bound, and the best of several algorithms."""
import numpy as np
from collections.abc import Callable
from operator import itemgetter
from tqdm import tqdm

from .best_fit import best_fit
from .deal_and_swap import can_deal_and_swap, deal_and_swap

# Up to this many items, best fit runs first: it is faster, and concentrates the free space in few bins.
_FEW_ITEMS = 256
# Deal-and-swap splits larger sets into parts of this many items, whose tables fit the processor's cache.
_PART = 1 << 16
# The exact search is tried up to this many items, for this many placements.
_SEARCH_ITEMS = 20
_SEARCH_STEPS = 20_000


def decreasing_order(tokens: np.ndarray, images: np.ndarray, capacity: int, image_capacity: int) -> np.ndarray:
    """Indices that sort items by decreasing size, as in `packs.pack_best_fit`, int64 `[n]`, n >= 1."""
    # The shares times capacity * image_capacity: integers, so ties do not depend on rounding.
    share = np.maximum(tokens * max(image_capacity, 1), images * capacity)
    num_items, num_shares = len(tokens), int(share.max()) + 1
    if num_shares * (capacity + 1) * (image_capacity + 1) * num_items > np.iinfo(np.int64).max:
        return np.lexsort((-images, -tokens, -share))  # stable; the last key is the primary one
    # The same order, several times faster: keys and index as the digits of one integer.
    key = num_shares - 1 - share
    if images.any():
        key *= (capacity + 1) * (image_capacity + 1)
        key += (capacity - tokens) * (image_capacity + 1) + image_capacity - images
    key *= num_items
    key += np.arange(num_items)
    key.sort()
    key %= num_items
    return key


def assign_bins(tokens: np.ndarray, images: np.ndarray, capacity: int, image_capacity: int) -> np.ndarray:
    """Assigns each item to a bin by the steps of `packs.pack_best_fit`.

    Args:
        tokens, images: The items in `decreasing_order`, int64 `[n]`, n >= 1.
        capacity, image_capacity: What a bin holds.

    Returns:
        The bin of each item, int64 `[n]`. Some bin numbers may be unused.
    """
    sizes = tokens, images, capacity, image_capacity
    num_items, bound = len(tokens), l2_bound(*sizes)
    good_enough = bound + bound // 2048
    target = bound + _slack(bound)
    attempts: list[Callable[[], np.ndarray]] = [lambda: best_fit(*sizes)]
    if can_deal_and_swap(num_items, target, capacity, image_capacity):
        attempts.insert(int(num_items <= _FEW_ITEMS), lambda: _deal_in_parts(*sizes, target))
    best = np.arange(num_items), num_items  # bin of each item, number of bins
    for attempt in attempts:
        if best[1] > good_enough:
            best = min(best, _with_count(attempt()), key=itemgetter(1))
    # Bisect for the fewest bins that deal-and-swap fills.
    failed = target
    while best[1] > good_enough and best[1] - failed > 1 and num_items <= _PART:
        middle = (failed + best[1]) // 2
        if not can_deal_and_swap(num_items, middle, capacity, image_capacity):
            break
        packed = _with_count(_deal_in_parts(*sizes, middle))
        best = min(best, packed, key=itemgetter(1))
        if packed[1] > middle:
            failed = middle
    while best[1] > bound and num_items <= _SEARCH_ITEMS:
        found = exact_search(tokens.tolist(), images.tolist(), capacity, image_capacity, best[1] - 1, _SEARCH_STEPS)
        if found is None:
            break
        best = _with_count(np.array(found))
    return best[0]


def l2_bound(tokens: np.ndarray, images: np.ndarray, capacity: int, image_capacity: int) -> int:
    """The greater of the bounds L2 for tokens and for images, as `packs.lower_bound`, without checks.

    Args:
        tokens, images: The items, int64 `[n]` each.
        capacity, image_capacity: What a bin holds.
    """
    if not len(tokens):
        return 0
    # An image capacity of 0 leaves no images: `packs` rejects an item above a budget.
    by_images = _l2_bound_of_one(images, image_capacity) if images.any() else 0
    return max(1, _l2_bound_of_one(tokens, capacity), by_images)


def exact_search(tokens: list[int], images: list[int], capacity: int, image_capacity: int, num_bins: int,
                 max_steps: int) -> list[int] | None:
    """Depth-first search for a packing of a few items into `num_bins` bins.

    Each item is tried in every bin that holds it, but only once among bins with equal free space. A branch ends when
    the free space of all bins is less than the items that remain.

    Args:
        tokens, images: The items, preferably by decreasing size, `[n]`.
        capacity, image_capacity: What a bin holds.
        num_bins: Number of bins, >= 0.
        max_steps: Maximum number of placements to try, about a microsecond each.

    Returns:
        The bin of each item, `[n]`. None: no such packing exists, or none was found within `max_steps`.
    """
    bins = [0] * len(tokens)
    tokens_left = [capacity] * num_bins
    images_left = [image_capacity] * num_bins
    steps = 0

    def place_from(item: int, spare_tokens: int, spare_images: int) -> bool:
        """Places items from `item` on; `spare_*` is the usable free space of all bins beyond what these items need."""
        nonlocal steps
        if item == len(tokens):
            return True
        size, pictures = tokens[item], images[item]
        tried = set()
        for number in range(num_bins):
            room = tokens_left[number], images_left[number]
            if room[0] < size or room[1] < pictures or room in tried:
                continue
            tried.add(room)
            steps += 1
            if steps > max_steps:
                return False
            # The rest of the bin is wasted if every remaining item is larger.
            rest_tokens, rest_images = room[0] - size, room[1] - pictures
            wasted = rest_tokens < least_tokens[item + 1] or rest_images < least_images[item + 1]
            lost_tokens, lost_images = (rest_tokens, rest_images) if wasted else (0, 0)
            if lost_tokens > spare_tokens or lost_images > spare_images:
                continue
            bins[item] = number
            tokens_left[number], images_left[number] = (0, 0) if wasted else (rest_tokens, rest_images)
            if place_from(item + 1, spare_tokens - lost_tokens, spare_images - lost_images):
                return True
            tokens_left[number], images_left[number] = room
        return False

    least_tokens, least_images = [capacity + 1], [image_capacity + 1]
    for size, pictures in zip(reversed(tokens), reversed(images)):
        least_tokens.append(min(least_tokens[-1], size))
        least_images.append(min(least_images[-1], pictures))
    least_tokens.reverse()
    least_images.reverse()
    spare = num_bins * capacity - sum(tokens), num_bins * image_capacity - sum(images)
    return bins if min(spare) >= 0 and place_from(0, *spare) else None


def _l2_bound_of_one(sizes: np.ndarray, capacity: int) -> int:
    """The bound L2 for one budget.

    Each item above capacity / 2 needs a bin of its own. For a threshold k <= capacity / 2, the items of k to
    capacity / 2 fit into the space left by large items of at most capacity - k, and need more bins for the rest. The
    best k is one of the sizes, or 0, which gives at least `ceil(sum / capacity)`.

    Source:
        Martello and Toth 1990, Lower bounds and reduction procedures for the bin packing problem, section 3.
    """
    sizes = np.sort(sizes)
    sums = np.concatenate(([0], np.cumsum(sizes)))
    middle = int(np.searchsorted(sizes, capacity // 2, side='right'))  # the first size above capacity / 2
    small = sizes[:middle]
    first = np.concatenate(([0], np.flatnonzero(np.diff(small, prepend=-1))))  # the first item of each size
    threshold = np.concatenate(([0], small[first[1:]]))
    stop = np.searchsorted(sizes, capacity - threshold, side='right')
    room = (stop - middle) * capacity - (sums[stop] - sums[middle])
    rest = np.maximum(sums[middle] - sums[first] - room, 0)
    return len(sizes) - middle + int((-(-rest // capacity)).max())


def _deal_in_parts(tokens: np.ndarray, images: np.ndarray, capacity: int, image_capacity: int,
                   num_bins: int) -> np.ndarray:
    """Deal-and-swap in parts of similar items, then best fit for the items that it rejected."""
    num_parts = -(-len(tokens) // _PART)
    bins = np.empty(len(tokens), dtype=np.int64)
    remaining = []
    num_used = 0
    for part in tqdm(range(num_parts), desc='Packing', delay=3, disable=num_parts == 1):
        mine = slice(part, None, num_parts)  # every num_parts-th item, so that all parts have the same mix of sizes
        if num_parts > 1:
            need = -(-int(tokens[mine].sum()) // capacity)
            if image_capacity:
                need = max(need, -(-int(images[mine].sum()) // image_capacity))
            num_bins = need + _slack(need)
        part_bins, *left = deal_and_swap(tokens[mine], images[mine], capacity, image_capacity, num_bins)
        bins[mine] = np.where(part_bins < 0, -1, part_bins + num_used)
        num_used += num_bins
        remaining.append(left)
    rejected = np.flatnonzero(bins < 0)
    if len(rejected):
        tokens_left, images_left = (np.concatenate(left) for left in zip(*remaining))
        bins[rejected] = best_fit(tokens[rejected], images[rejected], capacity, image_capacity, tokens_left,
                                  images_left)
    return bins


def _slack(bound: int) -> int:
    """Extra bins that make deal-and-swap converge faster: less than 0.05 % of the bound."""
    return (bound + 2048) // 4096


def _with_count(bins: np.ndarray) -> tuple[np.ndarray, int]:
    return bins, int(np.count_nonzero(np.bincount(bins)))
