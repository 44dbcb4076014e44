"""Packing of a stream: the packs of a data set that is read once, through a buffer of bounded size."""
import numpy as np
from typing import Generic, TypeVar

from .packs import lower_bound, pack_arrays

T = TypeVar('T')

# Repacks after which a row leaves, however empty its pack.
MAX_STAYS = 8


class LookAheadPacker(Generic[T]):
    """Packs a stream by the algorithm of `packing` over a buffer of rows.

    Each time the buffer is full, the oldest rows that make a whole number of full packs are packed (the newest few
    would only make one more, half empty pack). Of the packs leave

    - the fullest half, which further rows could hardly improve (full is what fills either budget),
    - the pack of the oldest row,
    - the packs of rows that have stayed through `MAX_STAYS` repacks, this one included.

    The rows of the other packs stay, in order of arrival. So half of the buffer is packed anew for each half that
    leaves, and a row is packed about twice, whatever the size of the buffer; and no row waits for ever: it leaves
    before `MAX_STAYS * buffer` rows have come after it. The packs depend on the rows and on the arguments alone, so
    that a resumed run that reads the rows again gets the same packs.

    Args:
        capacity: Tokens of a pack, >= 1.
        image_capacity: Segmentation images of a pack, >= 0. None: no row has any.
        buffer: Rows to look ahead, >= 1. It should hold many packs. Measured by tests/bench/bench_packing.py, against
            packing 50,000 rows at once: 9 packs (128 rows) are filled to within 0.5 % of that, 70 packs (1,000 rows)
            to within 0.1 %, or about 1 % where the tokens and the images of the rows fill their budgets equally.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(self, capacity: int, image_capacity: int | None = None, *, buffer: int = 1000) -> None:
        lower_bound([], capacity, [] if image_capacity is not None else None, image_capacity)  # checks the budgets
        if buffer < 1:
            raise ValueError(f'The look-ahead buffer holds {buffer} rows: give an integer >= 1.')
        self.capacity = capacity
        self.image_capacity = image_capacity or 0
        self.buffer = buffer
        self._rows: list[T] = []
        self._sizes: list[tuple[int, int, int]] = []  # tokens, images, number of the repack before the row came
        self._num_rows = 0
        self._num_repacks = 0

    def __len__(self) -> int:
        """Rows in the buffer, less than `buffer`."""
        return len(self._rows)

    def add(self, row: T, length: int, images: int = 0) -> list[list[T]]:
        """Takes a row.

        Args:
            row: Anything.
            length: Its tokens, >= 0.
            images: Its segmentation images, >= 0.

        Returns:
            The packs that leave, in the order of their oldest rows, each with its rows in order of arrival. Most
            calls return none.

        Raises:
            ValueError: The row alone breaks a budget, or a number is negative or not an integer.
        """
        self._check(length, self.capacity, 'tokens', '--packing_length')
        self._check(images, self.image_capacity, 'segmentation images', 'pack_images')
        self._rows.append(row)
        self._sizes.append((int(length), int(images), self._num_repacks))
        self._num_rows += 1
        return self._repack() if len(self._rows) >= self.buffer else []

    def flush(self) -> list[list[T]]:
        """Empties the buffer at the end of the stream. Returns packs as `add` does."""
        tokens, images, _ = self._columns()
        packs = pack_arrays(tokens, self.capacity, images=images, image_capacity=self.image_capacity)
        return self._take(sorted((pack.tolist() for pack in packs)))

    def _check(self, size: int, limit: int, unit: str, setting: str) -> None:
        if not isinstance(size, (int, np.integer)) or isinstance(size, bool) or size < 0:
            raise ValueError(f'Row {self._num_rows} of the stream has {size!r} {unit}: give an integer >= 0.')
        if size > limit:
            raise ValueError(f'Row {self._num_rows} of the stream has {size} {unit}, more than the {limit} that a pack '
                             f'holds: raise {setting} to at least {size}, or shorten or drop the row.')

    def _columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens, images and repack numbers of the buffer, int64 `[n]` each."""
        tokens, images, came = np.array(self._sizes, dtype=np.int64).reshape(-1, 3).T
        return tokens, images, came

    def _repack(self) -> list[list[T]]:
        self._num_repacks += 1
        tokens, images, came = self._columns()
        # Rows come in order, so those that have stayed longest stand first.
        num_overdue = int(np.searchsorted(came, self._num_repacks - MAX_STAYS, side='right'))
        num_rows = max(self._num_whole(tokens, images), num_overdue)
        packs = pack_arrays(
            tokens[:num_rows], self.capacity, images=images[:num_rows], image_capacity=self.image_capacity)
        token_fill, image_fill = packs.sums(tokens[:num_rows]), packs.sums(images[:num_rows])
        fill = np.maximum(token_fill * max(self.image_capacity, 1), image_fill * self.capacity)
        oldest = packs.items[packs.ends - packs.counts]
        fullest_first = np.lexsort((oldest, -token_fill, -fill))
        leaves = oldest < max(num_overdue, 1)
        leaves[fullest_first[:-(-len(packs) // 2)]] = True
        return self._take(sorted(packs[index].tolist() for index in np.flatnonzero(leaves).tolist()))

    def _num_whole(self, tokens: np.ndarray, images: np.ndarray) -> int:
        """How many of the oldest rows make a whole number of full packs; all if not even one."""
        token_sums, image_sums = np.cumsum(tokens), np.cumsum(images)
        num_packs = int(token_sums[-1]) // self.capacity
        if self.image_capacity:
            num_packs = max(num_packs, int(image_sums[-1]) // self.image_capacity)
        if not num_packs:
            return len(tokens)
        fits = (token_sums <= num_packs * self.capacity) & (image_sums <= num_packs * self.image_capacity)
        return int(np.count_nonzero(fits))

    def _take(self, packs: list[list[int]]) -> list[list[T]]:
        """Takes the packs, given as places in the buffer, out of it."""
        taken = [[self._rows[place] for place in pack] for pack in packs]
        gone = {place for pack in packs for place in pack}
        self._rows = [row for place, row in enumerate(self._rows) if place not in gone]
        self._sizes = [size for place, size in enumerate(self._sizes) if place not in gone]
        return taken
