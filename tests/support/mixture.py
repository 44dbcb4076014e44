"""Row lengths like those of a medical instruction dataset, and ms-swift's own packing, for tests and benchmarks."""
import numpy as np
from queue import SimpleQueue
from typing import NamedTuple

CAPACITY = 12_288
KINDS = ('caption', 'VQA', 'document', 'report', 'reasoning')
MEAN_LENGTHS = np.array([350, 500, 1_600, 2_600, 900])
SHARES = np.array([.3, .3, .15, .1, .15])
SPREAD = .35  # sigma of the log-normal lengths of a kind


class Images(NamedTuple):
    """Segmentation images of each row, int64 `[n]`, and how many a pack holds."""
    counts: np.ndarray
    capacity: int


def mixture(num_rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of each row, and its kind (a place in `KINDS`), int64 `[n]` each."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(len(KINDS), num_rows, p=SHARES)
    lengths = rng.lognormal(np.log(MEAN_LENGTHS[kinds]) - SPREAD**2 / 2, SPREAD)
    return np.clip(lengths, 16, CAPACITY).astype(np.int64), kinds


def image_sets(lengths: np.ndarray, seed: int = 1) -> dict[str, Images]:
    """Image budgets of all sorts for rows of the mixture: tokens bind (T), images bind (I), or nearly both (TI)."""
    rng = np.random.default_rng(seed)
    num_rows = len(lengths)
    quarter = np.where(rng.random(num_rows) < .25, 1 + rng.binomial(3, .15, num_rows), 0)
    each = np.ones(num_rows, dtype=np.int64)
    up_to_4 = rng.integers(0, 5, num_rows)
    by_length = 1 + np.minimum(7, lengths // 500)
    short_only = np.where(lengths > 1_500, 0, rng.integers(1, 9, num_rows))
    sets = {
        'T  1-4 on a quarter of the rows, 8 a pack': (quarter, 8),
        'TI 1-4 on a quarter of the rows, 5 a pack': (quarter, 5),
        'I  1-4 on a quarter of the rows, 4 a pack': (quarter, 4),
        'I  1 on each row, 8 a pack': (each, 8),
        'TI 1 on each row, 14 a pack': (each, 14),
        'I  0-4, 16 a pack': (up_to_4, 16),
        'TI 0-4, 28 a pack': (up_to_4, 28),
        'TI in proportion to length, 31 a pack': (by_length, 31),
        'I  1-8 on short rows only, 24 a pack': (short_only, 24),
        'TI 1-8 on short rows only, 51 a pack': (short_only, 51),
    }
    return {name: Images(counts, capacity) for name, (counts, capacity) in sets.items()}


def swift_packs(lengths: list[int],
                capacity: int,
                images: list[int] | None = None,
                image_capacity: int | None = None,
                strategy: str = 'binpack') -> list[list[int]]:
    """The packs that ms-swift makes in one process: windows of 1,000 rows, the last pack of each passed on.

    ms-swift does not count images, so its packs are cut in order wherever the next row would break the image budget.
    """
    from swift.dataset.packing import PackingDataset  # seconds
    queue: SimpleQueue = SimpleQueue()
    PackingDataset.create_packed_idx(0, 0, lengths, queue, capacity, strategy)
    packs: list[list[int]] = []
    while True:
        _, groups, num_rows = queue.get()
        if num_rows == -1:
            break
        packs += [[row for row, _ in group] for group in groups]
    if images is None or image_capacity is None:
        return packs
    cut: list[list[int]] = []
    for pack in packs:
        room = -1
        for row in pack:
            if images[row] > room:
                cut.append([])
                room = image_capacity
            cut[-1].append(row)
            room -= images[row]
    return cut
