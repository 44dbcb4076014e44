"""Packing of a stream: a dataset that is read once, through a buffer of bounded size."""
import numpy as np
from typing import Generic, TypeVar

from .packs import lower_bound, pack_arrays

T = TypeVar('T')

# A row leaves the buffer after this many repacks, even if its pack is not full.
MAX_REPACKS = 8


class LookAheadPacker(Generic[T]):
    """Packs a stream with `packs.pack_arrays` over a buffer of rows.

    Each time the buffer is full, the oldest rows that make a whole number of full packs are packed (the newest few
    would only make one more, half empty pack). These packs are returned:

    - the fullest half, which further rows could hardly improve (a pack is full if either budget is),
    - the pack of the oldest row,
    - the packs of rows that have been in `MAX_REPACKS` repacks, including this one.

    The rows of the other packs remain, in order of arrival. So a row is packed about twice, whatever the size of the
    buffer, and leaves before `MAX_REPACKS * buffer` more rows arrive. The packs depend only on the rows and the
    arguments, so a resumed run that reads the rows again gets the same packs.

    Args:
        capacity: Tokens of a pack, >= 1.
        image_capacity: Segmentation images of a pack, >= 0. None: no row has any.
        buffer: Rows to look ahead, >= 1; it should hold many packs. Measured by tests/bench/bench_packing.py, compared
            with packing 50,000 rows at once: a buffer of 9 packs (128 rows) fills packs to within 0.5 %, one of 70
            packs (1,000 rows) to within 0.1 %, or about 1 % where tokens and images fill their budgets equally.

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
        self._sizes: list[tuple[int, int, int]] = []  # tokens, images, number of repacks before the row arrived
        self._num_rows = 0
        self._num_repacks = 0

    def __len__(self) -> int:
        """The number of rows in the buffer, less than `buffer`."""
        return len(self._rows)

    def add(self, row: T, length: int, images: int = 0) -> list[list[T]]:
        """Adds a row.

        Args:
            row: Any object.
            length: Its tokens, >= 0.
            images: Its segmentation images, >= 0.

        Returns:
            The packs that are complete, in the order of their oldest rows, each with its rows in order of arrival.
            Most calls return none.

        Raises:
            ValueError: The row alone exceeds a budget, or a number is negative or not an integer.
        """
        self._check(length, self.capacity, 'tokens', '--packing_length')
        self._check(images, self.image_capacity, 'segmentation images', 'pack_images')
        self._rows.append(row)
        self._sizes.append((int(length), int(images), self._num_repacks))
        self._num_rows += 1
        return self._repack() if len(self._rows) >= self.buffer else []

    def flush(self) -> list[list[T]]:
        """Packs and returns all rows of the buffer, at the end of the stream. Returns packs as `add` does."""
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
        """Tokens, images and number of repacks before arrival, for each row of the buffer, int64 `[n]` each."""
        tokens, images, arrived = np.array(self._sizes, dtype=np.int64).reshape(-1, 3).T
        return tokens, images, arrived

    def _repack(self) -> list[list[T]]:
        self._num_repacks += 1
        tokens, images, arrived = self._columns()
        # Rows are in order of arrival, so the oldest come first.
        num_overdue = int(np.searchsorted(arrived, self._num_repacks - MAX_REPACKS, side='right'))
        num_rows = max(self._num_packable(tokens, images), num_overdue)
        packs = pack_arrays(
            tokens[:num_rows], self.capacity, images=images[:num_rows], image_capacity=self.image_capacity)
        token_fill, image_fill = packs.sums(tokens[:num_rows]), packs.sums(images[:num_rows])
        fill = np.maximum(token_fill * max(self.image_capacity, 1), image_fill * self.capacity)
        oldest = packs.items[packs.ends - packs.counts]
        fullest_first = np.lexsort((oldest, -token_fill, -fill))
        complete = oldest < max(num_overdue, 1)
        complete[fullest_first[:-(-len(packs) // 2)]] = True
        return self._take(sorted(packs[index].tolist() for index in np.flatnonzero(complete).tolist()))

    def _num_packable(self, tokens: np.ndarray, images: np.ndarray) -> int:
        """How many of the oldest rows make a whole number of full packs; all rows if they do not fill one."""
        token_sums, image_sums = np.cumsum(tokens), np.cumsum(images)
        num_packs = int(token_sums[-1]) // self.capacity
        if self.image_capacity:
            num_packs = max(num_packs, int(image_sums[-1]) // self.image_capacity)
        if not num_packs:
            return len(tokens)
        fits = (token_sums <= num_packs * self.capacity) & (image_sums <= num_packs * self.image_capacity)
        return int(np.count_nonzero(fits))

    def _take(self, packs: list[list[int]]) -> list[list[T]]:
        """Removes packs, given as positions in the buffer, and returns their rows."""
        taken = [[self._rows[position] for position in pack] for pack in packs]
        removed = {position for pack in packs for position in pack}
        self._rows = [row for position, row in enumerate(self._rows) if position not in removed]
        self._sizes = [size for position, size in enumerate(self._sizes) if position not in removed]
        return taken
