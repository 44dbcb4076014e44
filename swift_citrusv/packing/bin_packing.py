"""How items are placed: their order, the bound, and best fit, dealing or the exact search, whichever packs best."""
import numpy as np
from collections.abc import Callable
from operator import itemgetter
from tqdm import tqdm

from .best_fit import best_fit
from .deal_and_swap import can_deal, deal

# Up to so many items best fit goes first: it is quicker there, and leaves what room there is in few bins.
_FEW_ITEMS = 256
# Dealing takes larger sets in parts of so many items, whose tables stay in the processor's cache.
_PART = 1 << 16
# The exact search.
_SEARCH_ITEMS = 20
_SEARCH_STEPS = 20_000


def bound(tokens: np.ndarray, images: np.ndarray, capacity: int, image_capacity: int) -> int:
    """`packing.lower_bound` of checked sizes, int64 `[n]` each."""
    if not len(tokens):
        return 0
    # With an image capacity of zero there are no images: each would have been more than its budget.
    by_images = _martello_toth(images, image_capacity) if images.any() else 0
    return max(1, _martello_toth(tokens, capacity), by_images)


def _martello_toth(sizes: np.ndarray, capacity: int) -> int:
    """The bound L2: for a threshold k <= capacity / 2, each item above capacity / 2 needs a bin of its own.

    Items of k to capacity / 2 may use what room those of at most capacity - k leave, and need bins for the rest. The
    best k is one of the sizes, or 0, for which the bound is at least `ceil(sum / capacity)`.
    """
    sizes = np.sort(sizes)
    sums = np.concatenate(([0], np.cumsum(sizes)))
    middle = int(np.searchsorted(sizes, capacity // 2, side='right'))  # from here on more than capacity / 2
    small = sizes[:middle]
    first = np.concatenate(([0], np.flatnonzero(np.diff(small, prepend=-1))))  # where a size begins
    threshold = np.concatenate(([0], small[first[1:]]))
    stop = np.searchsorted(sizes, capacity - threshold, side='right')
    room = (stop - middle) * capacity - (sums[stop] - sums[middle])
    rest = np.maximum(sums[middle] - sums[first] - room, 0)
    return len(sizes) - middle + int((-(-rest // capacity)).max())


def placing_order(tokens: np.ndarray, images: np.ndarray, capacity: int, image_capacity: int) -> np.ndarray:
    """The indices by decreasing size, as `packing.pack_best_fit` says, int64 `[n]`, n >= 1."""
    # The shares, times capacity * image_capacity: integers, so that ties do not depend on rounding.
    share = np.maximum(tokens * max(image_capacity, 1), images * capacity)
    num_items, num_shares = len(tokens), int(share.max()) + 1
    if num_shares * (capacity + 1) * (image_capacity + 1) * num_items > np.iinfo(np.int64).max:
        return np.lexsort((-images, -tokens, -share))  # stable, the last key counts first
    # The same, several times faster: the keys and the index as the digits of one number.
    key = num_shares - 1 - share
    if images.any():
        key *= (capacity + 1) * (image_capacity + 1)
        key += (capacity - tokens) * (image_capacity + 1) + image_capacity - images
    key *= num_items
    key += np.arange(num_items)
    key.sort()
    key %= num_items
    return key


def place(tokens: np.ndarray, images: np.ndarray, capacity: int, image_capacity: int) -> np.ndarray:
    """The bin of each item by the steps of `packing.pack_best_fit`.

    Args:
        tokens, images: The items in placing order, int64 `[n]`, n >= 1.
        capacity, image_capacity: What a bin holds.

    Returns:
        int64 `[n]`. A number below the highest may be unused.
    """
    sizes = tokens, images, capacity, image_capacity
    num_items, least = len(tokens), bound(*sizes)
    enough = least + least // 2048
    target = least + _spare(least)
    attempts: list[Callable[[], np.ndarray]] = [lambda: best_fit(*sizes)]
    if can_deal(num_items, target, capacity, image_capacity):
        attempts.insert(int(num_items <= _FEW_ITEMS), lambda: _deal(*sizes, target))
    best = np.arange(num_items), num_items  # bins, and how many there are
    for attempt in attempts:
        if best[1] > enough:
            best = min(best, _counted(attempt()), key=itemgetter(1))
    # How few bins can be dealt, by halving the gap.
    failed = target
    while best[1] > enough and best[1] - failed > 1 and num_items <= _PART:
        middle = (failed + best[1]) // 2
        if not can_deal(num_items, middle, capacity, image_capacity):
            break
        dealt = _counted(_deal(*sizes, middle))
        best = min(best, dealt, key=itemgetter(1))
        if dealt[1] > middle:
            failed = middle
    while best[1] > least and num_items <= _SEARCH_ITEMS:
        found = search(tokens.tolist(), images.tolist(), capacity, image_capacity, best[1] - 1, _SEARCH_STEPS)
        if found is None:
            break
        best = _counted(np.array(found))
    return best[0]


def _spare(bound: int) -> int:
    """Bins beyond the bound that make room for quick dealing; less than 0.05 % in any case."""
    return (bound + 2048) // 4096


def _counted(bins: np.ndarray) -> tuple[np.ndarray, int]:
    return bins, int(np.count_nonzero(np.bincount(bins)))


def _deal(tokens: np.ndarray, images: np.ndarray, capacity: int, image_capacity: int, num_bins: int) -> np.ndarray:
    """Deals the items, a large set in parts that are alike, and puts those given up where they fit best."""
    num_parts = -(-len(tokens) // _PART)
    bins = np.empty(len(tokens), dtype=np.int64)
    room = []
    num_dealt = 0
    for part in tqdm(range(num_parts), desc='Packing', delay=3, disable=num_parts == 1):
        mine = slice(part, None, num_parts)  # one of so many neighbours in size
        if num_parts > 1:
            need = -(-int(tokens[mine].sum()) // capacity)
            if image_capacity:
                need = max(need, -(-int(images[mine].sum()) // image_capacity))
            num_bins = need + _spare(need)
        dealt, *left = deal(tokens[mine], images[mine], capacity, image_capacity, num_bins)
        bins[mine] = np.where(dealt < 0, -1, dealt + num_dealt)
        num_dealt += num_bins
        room.append(left)
    given_up = np.flatnonzero(bins < 0)
    if len(given_up):
        tokens_left, images_left = (np.concatenate(left) for left in zip(*room))
        bins[given_up] = best_fit(tokens[given_up], images[given_up], capacity, image_capacity, tokens_left,
                                  images_left)
    return bins


# ---- The exact answer for a handful of items: a depth-first search for a packing into a given number of bins.


def search(tokens: list[int], images: list[int], capacity: int, image_capacity: int, num_bins: int,
           max_steps: int) -> list[int] | None:
    """Looks for a packing into `num_bins` bins.

    Item after item is tried in each bin that holds it, bins with the same room only once, and a branch ends where the
    room in all bins is less than what is still to be placed.

    Args:
        tokens, images: The items, best by decreasing size, `[n]`.
        capacity, image_capacity: What a bin holds.
        num_bins: Bins, >= 0.
        max_steps: Placements to try before giving up, about a microsecond each.

    Returns:
        The bin of each item, `[n]`. None: there is no such packing, or the steps were used up before one was found.
    """
    bins = [0] * len(tokens)
    tokens_left = [capacity] * num_bins
    images_left = [image_capacity] * num_bins
    steps = 0

    def place(item: int, spare_tokens: int, spare_images: int) -> bool:
        """`spare_*` is the room in all bins beyond what items from `item` on need, if no bin's rest is lost."""
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
            # What remains in the bin is lost if none of the items to come is so small.
            rest_tokens, rest_images = room[0] - size, room[1] - pictures
            lost = rest_tokens < least_tokens[item + 1] or rest_images < least_images[item + 1]
            lost_tokens, lost_images = (rest_tokens, rest_images) if lost else (0, 0)
            if lost_tokens > spare_tokens or lost_images > spare_images:
                continue
            bins[item] = number
            tokens_left[number], images_left[number] = (0, 0) if lost else (rest_tokens, rest_images)
            if place(item + 1, spare_tokens - lost_tokens, spare_images - lost_images):
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
    return bins if min(spare) >= 0 and place(0, *spare) else None
