"""Packs of a stream (`--streaming true --packing true`): planned from text in a look-ahead buffer, encoded when due.

Each DataLoader worker of each rank reads its own part of the rows. It measures the rows without decoding pixels, packs
them in a buffer that holds text only, and encodes the rows of a pack when the pack leaves the buffer. So memory is
bounded, and a resumed run repeats the plan without encoding what was trained on.
"""
import enum
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from swift.dataset import EncodePreprocessor
from swift.template import MaxLengthError
from torch.utils.data import IterableDataset, get_worker_info
from typing import Any, NamedTuple

from ..constants import ROW_COLUMN
from ..encoding.chunks import Chunk
from ..encoding.row_length import MeasuringTemplate
from ..errors import RowError
from ..packing.lookahead import LookAheadPacker
from ..rows.skips import SkipCounter
from ..settings import Settings
from .packed_dataset import prepare_packing
from .stream_jsonl import every_reader_reads_all, reading_skips, rows_of_reader

# A row and one of its chunks.
RowChunk = tuple[dict[str, Any], Chunk]
Collate = Callable[[list[list[dict[str, Any]]]], dict[str, Any]]


class SkippedBatch(enum.Enum):
    """Stands for a batch that is not encoded."""
    ALREADY_TRAINED = 'trained on before the run was resumed'
    EMPTY = 'none of its rows can be encoded'


@dataclass
class StreamCounts:
    """What a reader has read in one pass."""
    num_rows: int = 0
    num_packs: int = 0
    num_tokens: int = 0
    # By kind of error.
    skipped: Counter = field(default_factory=Counter)

    def __iadd__(self, other: 'StreamCounts') -> 'StreamCounts':
        self.num_rows += other.num_rows
        self.num_packs += other.num_packs
        self.num_tokens += other.num_tokens
        self.skipped += other.skipped
        return self


class ReaderSlot(NamedTuple):
    """One of the readers among which a stream is split: `slot` of `num_slots`, in pass `pass_index` (from 0)."""
    slot: int = 0
    num_slots: int = 1
    pass_index: int = 0


class StreamPackingDataset(IterableDataset):
    """Packs the rows of a stream within two budgets: tokens, and segmentation images.

    Replaces `swift.dataset.IterablePackingDataset`, without its processes: the DataLoader's workers encode. A pack is a
    list of encoded rows, or chunks of rows.

    Args:
        template: A `CitrusVTemplate`.
        dataset: A `datasets.IterableDataset` of rows.
        packing_length: Tokens of a pack; the template's `max_length` where None.
        packing_strategy: 'binpack'.
        strict: Whether a bad row ends the run; otherwise it is skipped and counted.

    Raises:
        ValueError: Another strategy, or no length.
    """

    def __init__(self,
                 template: Any,
                 dataset: Any,
                 *,
                 packing_length: int | None = None,
                 packing_strategy: str = 'binpack',
                 strict: bool = True,
                 **kwargs: Any) -> None:
        self.packing_length = prepare_packing(template, packing_length, packing_strategy)
        self.template = template
        self.dataset = dataset
        self.strict = strict
        settings = Settings.from_env()
        self.pack_images = settings.pack_images
        self.buffer = settings.pack_buffer
        self.skips = SkipCounter()

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """The packs of a single reader, without those of which every row was skipped."""
        for pack in self.plan(ReaderSlot(), StreamCounts()):
            encoded = self.encode(pack)
            if encoded:
                yield encoded

    def plan(self, reader: ReaderSlot, counts: StreamCounts) -> Iterator[list[RowChunk]]:
        """Reads, measures and packs the rows of a reader, without encoding them.

        The packs and their order depend on the arguments, the rows and the settings only.

        Args:
            reader: Whose rows.
            counts: Is updated with each row and pack.
        """
        measuring = MeasuringTemplate(self.template)
        packer: LookAheadPacker[RowChunk] = LookAheadPacker(self.packing_length, self.pack_images, buffer=self.buffer)
        for row in rows_of_reader(self.dataset, *reader):
            counts.num_rows += 1
            for chunk in self._measure(measuring, row):
                for pack in packer.add((row, chunk), chunk.length, chunk.seg_images):
                    yield self._count(pack, counts)
        for pack in packer.flush():
            yield self._count(pack, counts)

    def _measure(self, measuring: MeasuringTemplate, row: dict[str, Any]) -> list[Chunk]:
        try:
            chunks = measuring.measure(row)
            for chunk in chunks:
                self._check_budgets(row, chunk)
        except (RowError, MaxLengthError) as e:
            if self.strict:
                raise
            self.skips.add(e)
            return []
        return chunks

    def _check_budgets(self, row: dict[str, Any], chunk: Chunk) -> None:
        row_id = row.get(ROW_COLUMN) or 'row (no number)'
        if chunk.length > self.packing_length:
            raise RowError(row_id, f'its {chunk.length} tokens do not fit into a pack of {self.packing_length}.',
                           'Raise --packing_length to --max_length.', 'pack-length')
        if chunk.seg_images > self.pack_images:
            raise RowError(
                row_id, f'its {chunk.seg_images} segmentation images do not fit into a pack of '
                f'{self.pack_images}.', 'Raise pack_images.', 'pack-images')

    @staticmethod
    def _count(pack: list[RowChunk], counts: StreamCounts) -> list[RowChunk]:
        counts.num_packs += 1
        counts.num_tokens += sum(chunk.length for _, chunk in pack)
        return pack

    def encode(self, pack: list[RowChunk]) -> list[dict[str, Any]]:
        """Encodes the rows of a pack; unless `strict`, rows that cannot be encoded are skipped and counted."""
        encoded = []
        for row, chunk in pack:
            try:
                encoded.append(self.template.encode_chunk(row, chunk))
            except (RowError, MaxLengthError) as e:
                if self.strict:
                    raise
                self.skips.add(e)
        return encoded

    def first_row(self) -> list[dict[str, Any]]:
        """The first row of the stream that can be encoded, as a pack.

        Raises:
            ValueError: No row can be encoded.
        """
        measuring = MeasuringTemplate(self.template)
        for row in rows_of_reader(self.dataset, *ReaderSlot()):
            encoded = self.encode([(row, chunk) for chunk in self._measure(measuring, row)[:1]])
            if encoded:
                return encoded
        raise ValueError('No row of the stream can be encoded: see the warnings above.')


class StreamEncode(EncodePreprocessor):
    """ms-swift's encoding of a stream without packing, one row at a time; skipped rows are counted."""

    def __init__(self, template: Any) -> None:
        super().__init__(template=template)
        self.skips = SkipCounter()

    def preprocess(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            return super().preprocess(row)
        except (RowError, MaxLengthError) as e:
            self.skips.add(e)
            raise

    def __call__(self, dataset: Any, **kwargs: Any) -> Any:
        # In a larger batch, every row would get the keys of all others, with None where it has no masks.
        encoded = super().__call__(dataset, **{**kwargs, 'batch_size': 1})
        # For `mask_counts`, which looks at rows, not at tensors.
        encoded.citrusv_source = dataset
        return encoded


@dataclass(eq=False)
class StreamWorkerDataset(IterableDataset):
    """What the DataLoader workers of one rank read in one pass over a stream of packs.

    Each worker yields its collated batches, then its `StreamCounts`. A resumed run skips `num_trained` batches of the
    rank: a batch that is certainly one of them comes as `SkippedBatch.ALREADY_TRAINED`, without a pixel decoded.
    (DataLoader takes from its workers in turn, and a worker cannot see which of the others have ended. Before any has,
    its batch `k` is the batch `k * num_workers + worker` of the rank; afterwards it is an earlier one.)

    Args:
        packs: The stream.
        collate: Packs to a batch.
        batch_size: Packs of a batch.
        init_worker: Called first in each DataLoader worker, a spawned one too, so it must be picklable.
        rank: The rank that reads.
        world_size: Number of ranks.
        pass_index: The pass, from 0.
        num_trained: Batches of this rank, in this pass, that were trained on before the run was resumed.
    """
    packs: StreamPackingDataset
    collate: Collate
    batch_size: int = 1
    init_worker: Callable[[], None] | None = None
    rank: int = 0
    world_size: int = 1
    pass_index: int = 0
    num_trained: int = 0

    def __iter__(self) -> Iterator[dict[str, Any] | SkippedBatch | StreamCounts]:
        info = get_worker_info()
        if info is not None and self.init_worker is not None:
            self.init_worker()
        worker, num_workers = (0, 1) if info is None else (info.id, info.num_workers)
        reader = ReaderSlot(self.rank * num_workers + worker, self.world_size * num_workers, self.pass_index)
        counts = StreamCounts()
        counters = [self.packs.skips]
        # Where every reader reads all rows, all of them skip the same bad lines.
        if reader.slot == 0 or not every_reader_reads_all(self.packs.dataset, reader.num_slots):
            counters.append(reading_skips)
        before = [Counter(skips.counts) for skips in counters]
        plan = self.packs.plan(reader, counts)
        number = worker
        while packs := list(islice(plan, self.batch_size)):
            if number < self.num_trained:
                yield SkippedBatch.ALREADY_TRAINED
            else:
                encoded = [rows for rows in map(self.packs.encode, packs) if rows]
                yield self.collate(encoded) if encoded else SkippedBatch.EMPTY
            number += num_workers
        for skips, earlier in zip(counters, before):
            counts.skipped += skips.counts - earlier
        yield counts
