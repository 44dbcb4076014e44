"""Packing into a given number of bins: items are dealt out evenly, then swapped until no bin is over a budget."""
import numpy as np

# Nearly all sets converge within dozens of iterations.
_MAX_ITERATIONS = 160
# Swapping stops when the excess has not shrunk by a tenth in this many iterations.
_MAX_IDLE = 24
# Minimum number of partners that all bins in excess examine together. Below this, numpy's overhead dominates.
_MIN_PARTNERS = 512
# Partners are drawn from the emptiest bins, this many times as many as needed; 0: from all bins with free space. It
# changes from iteration to iteration: the emptiest bins help most, but they soon repeat.
_REACH = (1, 4, 16, 0)
_MAX_HEIGHT = 512


def can_deal_and_swap(num_items: int, num_bins: int, capacity: int, image_capacity: int) -> bool:
    """Whether `deal_and_swap` applies: at least two bins, at most 512 items a bin, sums that fit 64 bits."""
    if not 2 <= num_bins <= num_items:
        return False
    height = -(-num_items // num_bins)
    return height <= _MAX_HEIGHT and _largest(height, capacity, image_capacity) <= np.iinfo(np.int64).max


def _largest(height: int, capacity: int, image_capacity: int) -> int:
    """An upper bound on every number in a table with `height` items a bin."""
    return 4 * height**2 * (capacity + 1) * (image_capacity + 1)


def deal_and_swap(tokens: np.ndarray, images: np.ndarray, capacity: int, image_capacity: int,
                  num_bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tries to fill `num_bins` bins evenly within both budgets.

    1. Deal: the items, largest first, are dealt in rounds of one item a bin, the largest of a round to the bin with
       the most free space. So every bin gets the same mix of sizes and nearly the same sums (the largest-first rule of
       Graham 1969 for parallel machines, a round at a time). Free space is measured in images where they are the
       tighter budget, else in tokens.
    2. Swap: a bin over a budget swaps an item with a bin that has free space, if that lowers the total excess of both
       bins. With h items a bin and several partners there are many differences to choose from, so the excess usually
       shrinks to zero. An empty place counts as an item of size zero.
    3. Reject: a bin that is still over a budget removes items until it fits.

    All bins are processed at once in numpy. Time is O(n * log(bins)), and the table takes 16 to 24 bytes an item.

    Args:
        tokens, images: The items by decreasing size, int64 `[n]`, each at most its capacity.
        capacity, image_capacity: What a bin holds.
        num_bins: See `can_deal_and_swap`.

    Returns:
        The bin of each item, int64 `[n]`, -1 for a rejected one; the free tokens and images of the bins, int64
        `[num_bins]` each. A bin may be empty.
    """
    table = _Table(tokens, images, capacity, image_capacity, num_bins)
    table.deal_rounds()
    table.swap_items()
    table.reject_items()
    bins = np.empty(table.item.size, dtype=np.int64)
    bins[table.item] = np.where(table.kept, np.arange(num_bins), -1)
    tokens_left = capacity - table.bin_tokens.astype(np.int64)
    return bins[:len(tokens)], tokens_left, image_capacity - table.bin_images.astype(np.int64)


class _Table:
    """The items as a table of h rows (rounds) by b columns (bins); items of size zero fill the last row.

    Attributes:
        item: Index of the item at each place, int64 `[h, b]`; n or more for a filler.
        tokens, images: Of the items, int32 if that holds all sums, else int64, `[h, b]`.
        bin_tokens, bin_images: Sums of the columns, `[b]`.
        kept: False where an item was rejected, bool `[h, b]`.
    """

    def __init__(self, tokens: np.ndarray, images: np.ndarray, capacity: int, image_capacity: int,
                 num_bins: int) -> None:
        height = -(-len(tokens) // num_bins)
        shape = height, num_bins
        # int32 takes half the memory and nearly half the time.
        dtype = np.int32 if _largest(height, capacity, image_capacity) <= np.iinfo(np.int32).max else np.int64
        fill = height * num_bins - len(tokens)
        self.item = np.arange(height * num_bins).reshape(shape)
        self.tokens: np.ndarray = np.pad(tokens, (0, fill)).astype(dtype).reshape(shape)
        self.images: np.ndarray = np.pad(images, (0, fill)).astype(dtype).reshape(shape)
        self.kept = np.ones(shape, dtype=bool)
        self.bin_tokens: np.ndarray = np.zeros(num_bins, dtype=dtype)
        self.bin_images: np.ndarray = np.zeros(num_bins, dtype=dtype)
        self.capacity = capacity
        self.image_capacity = image_capacity
        self.has_images = bool(images.any())
        # The weight of one excess image in tokens: a full image budget weighs as much as a full token budget.
        self.image_weight = -(-capacity // image_capacity) if image_capacity else 0

    def deal_rounds(self) -> None:
        """Step 1: reorders each row so that its largest item is in the column with the most free space."""
        images_bind = int(self.images.sum()) * self.capacity > int(
            self.tokens.sum(dtype=np.int64)) * self.image_capacity
        for row in range(len(self.item)):
            # In a round of items with equal images, images do not change the differences between bins.
            by_images = images_bind and np.ptp(self.images[row]) > 0
            sizes = self._sort_key(self.tokens[row], self.images[row], by_images)
            loads = self._sort_key(self.bin_tokens, self.bin_images, by_images)
            chosen = np.empty(len(sizes), dtype=np.int64)
            chosen[np.argsort(loads, kind='stable')] = np.argsort(-sizes, kind='stable')
            for values in (self.item, self.tokens, self.images):
                values[row] = values[row, chosen]
            self.bin_tokens += self.tokens[row]
            self.bin_images += self.images[row]

    def _sort_key(self, tokens: np.ndarray, images: np.ndarray, images_first: bool) -> np.ndarray:
        """A number to sort by: images, then tokens; or tokens alone."""
        return images * (len(self.item) * self.capacity + 1) + tokens if images_first else tokens

    def swap_items(self) -> None:
        """Step 2: swaps items between bins until no bin is over a budget, or until that stops helping."""
        # A local generator with a fixed seed: the same packs on every rank and machine.
        rng = np.random.Generator(np.random.PCG64(0))
        mark, since = np.inf, 0
        for iteration in range(_MAX_ITERATIONS):
            excess_tokens, excess_images = self._excess()
            num_tokens, num_images = int(excess_tokens.sum()), int(excess_images.sum())
            if num_tokens + num_images < 0.9 * mark:
                mark, since = num_tokens + num_images, iteration
            if num_tokens + num_images == 0 or iteration - since == _MAX_IDLE:
                return
            # Work on the budget with the greater excess, and on the other one now and then.
            by_images = num_images > num_tokens
            if iteration % 4 == 3 and num_tokens and num_images:
                by_images = not by_images
            over, partners = self._choose_partners(excess_images if by_images else excess_tokens, by_images, iteration,
                                                   rng)
            if len(over):
                shift = iteration % len(self.item) if iteration % 2 else 0
                self._swap(over, partners, excess_tokens + excess_images, shift)

    def _excess(self) -> tuple[np.ndarray, np.ndarray]:
        """The excess of each bin over the token and the image budget, both in tokens, `[b]` each."""
        return (np.maximum(self.bin_tokens - self.capacity,
                           0), np.maximum(self.bin_images - self.image_capacity, 0) * self.image_weight)

    def _choose_partners(self, excess: np.ndarray, by_images: bool, iteration: int,
                         rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Bins in excess, the worst first, `[k]`, and m partners with free space for each, `[m, k]`; all distinct."""
        load = self._sort_key(self.bin_tokens, self.bin_images, by_images)
        others = np.flatnonzero(self.bin_images < self.image_capacity if by_images else self.bin_tokens < self.capacity)
        over = np.flatnonzero(excess)
        over = over[np.argsort(-excess[over], kind='stable')[:len(others)]]
        if not len(over):
            return over, over
        each = min(max(_MIN_PARTNERS // len(over), 1), len(others) // len(over))
        wanted = each * len(over)
        reach = min(wanted * _REACH[iteration % len(_REACH)] or len(others), len(others))
        if reach < len(others):
            others = others[np.argpartition(load[others], reach - 1)[:reach]]
        if reach == len(over):
            partners = others[np.argsort(load[others], kind='stable')]  # pairs the worst bin with the emptiest
        else:
            partners = rng.permutation(others)[:wanted]
        return over, partners.reshape(each, len(over))

    def _swap(self, over: np.ndarray, partners: np.ndarray, excess: np.ndarray, shift: int) -> None:
        """Swaps one item of each bin `[k]` with one of its partners `[m, k]`, where that lowers the excess most.

        Considers only items `shift` rows apart: h swaps for each pair of bins, instead of h * h.
        """
        tokens = self._transferred(self.tokens, over, partners, shift)
        change = np.maximum(tokens - (self.capacity - self.bin_tokens[partners]), 0)
        change += np.maximum(self.bin_tokens[over] - self.capacity - tokens, 0)
        if self.has_images:
            images = self._transferred(self.images, over, partners, shift)
            more = np.maximum(images - (self.image_capacity - self.bin_images[partners]), 0)
            more += np.maximum(self.bin_images[over] - self.image_capacity - images, 0)
            change += more * self.image_weight
        change -= excess[partners] + excess[over]
        change = change.reshape(-1, len(over))
        best = np.argmin(change, axis=0)
        better = np.flatnonzero(change[best, np.arange(len(over))] < 0)
        row, turn = np.divmod(best[better], len(partners))
        here = row, over[better]
        there = (row + shift) % len(self.item), partners[turn, better]
        for values, sums in ((self.tokens, self.bin_tokens), (self.images, self.bin_images)):
            sums[here[1]] += values[there] - values[here]
            sums[there[1]] += values[here] - values[there]
        for values in (self.item, self.tokens, self.images):
            values[here], values[there] = values[there], values[here]

    def _transferred(self, values: np.ndarray, over: np.ndarray, partners: np.ndarray, shift: int) -> np.ndarray:
        """The net amount that a swap in each row moves from a bin to its partner, `[h, m, k]`."""
        taken = values[:, partners]
        if shift:
            taken = np.concatenate((taken[shift:], taken[:shift]))
        return values[:, None, over] - taken

    def reject_items(self) -> None:
        """Step 3: removes the item that lowers a bin's excess most (ties: the smallest), until all bins fit."""
        while True:
            over = np.flatnonzero((self.bin_tokens > self.capacity) | (self.bin_images > self.image_capacity))
            if not len(over):
                return
            tokens, images = self.tokens[:, over], self.images[:, over]
            left = np.maximum(self.bin_tokens[over] - tokens - self.capacity, 0)
            left += np.maximum(self.bin_images[over] - images - self.image_capacity, 0) * self.image_weight
            row = np.lexsort((tokens, left), axis=0)[0]
            for values, sums in ((self.tokens, self.bin_tokens), (self.images, self.bin_images)):
                sums[over] -= values[row, over]
                values[row, over] = 0
            self.kept[row, over] = False
