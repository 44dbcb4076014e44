"""Packs of a stream (`--streaming true --packing true`): planned from text over a look-ahead buffer, encoded when due.

Ranks and DataLoader workers each read their own share of the rows. A reader measures its rows without a pixel, packs
them in a buffer that holds text only, and encodes the rows of a pack when the pack leaves the buffer. So memory is
bounded, and a run can be resumed by repeating the plan without encoding it.
"""
import enum
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from swift.dataset import EncodePreprocessor
from swift.template import MaxLengthError
from swift.utils import get_logger
from torch.utils.data import IterableDataset, get_worker_info
from typing import Any, NamedTuple

from ..constants import ROW_COLUMN
from ..encoding.chunks import Piece
from ..encoding.row_length import MeasuringTemplate
from ..errors import RowError
from ..packing.lookahead import LookAheadPacker
from ..rows.skips import Skips
from ..settings import Settings
from .stream_jsonl import reading_skips, reads_all, share

logger = get_logger()

# A row and one of its pieces.
Item = tuple[dict[str, Any], Piece]
Collate = Callable[[list[list[dict[str, Any]]]], dict[str, Any]]


class Gap(enum.Enum):
    """What takes the place of a batch that is not encoded."""
    SKIPPED = 'trained on before'
    EMPTY = 'none of its rows can be encoded'


@dataclass
class Tally:
    """What a reader met in one pass."""
    num_rows: int = 0
    num_packs: int = 0
    num_tokens: int = 0
    skipped: Counter = field(default_factory=Counter)

    def __iadd__(self, other: 'Tally') -> 'Tally':
        self.num_rows += other.num_rows
        self.num_packs += other.num_packs
        self.num_tokens += other.num_tokens
        self.skipped += other.skipped
        return self


class Reader(NamedTuple):
    """One of the readers that share a stream: reader `slot` of `num_slots`, in pass `pass_index` (from 0)."""
    slot: int = 0
    num_slots: int = 1
    pass_index: int = 0


class StreamPackingDataset(IterableDataset):
    """Packs of the rows of a stream, with a budget of tokens and one of segmentation images.

    Takes the place of `swift.dataset.IterablePackingDataset`, without its processes: the DataLoader's workers encode.
    A pack is a list of encoded rows, or pieces of rows.

    Args:
        template: A `CitrusVTemplate`.
        dataset: A `datasets.IterableDataset` of rows.
        packing_length: Tokens of a pack; the template's `max_length` where None.
        packing_strategy: 'binpack'.
        strict: Whether a row that cannot be used ends the run; otherwise it is left out, and counted.

    Raises:
        ValueError: Another strategy, or no length.
    """

    def __init__(self,
                 template,
                 dataset,
                 *,
                 packing_length: int | None = None,
                 packing_strategy: str = 'binpack',
                 strict: bool = True,
                 **kwargs: Any) -> None:
        if packing_strategy != 'binpack':
            raise ValueError(
                f'--packing_strategy {packing_strategy} is not supported with --model_type citrusv: it would '
                'not keep the budget of images. Leave it at binpack.')
        template.packing = template.padding_free = True
        self.template = template
        self.dataset = dataset
        self.packing_length = packing_length or template.max_length
        if self.packing_length is None:
            raise ValueError('Packing needs the length of a pack: give --packing_length or --max_length.')
        self.strict = strict
        settings = Settings.from_env()
        self.pack_images = settings.pack_images
        self.buffer = settings.pack_buffer
        self.skips = Skips()

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """The packs of one reader alone, without those of which no row is left."""
        for pack in self.plan(Reader(), Tally()):
            encoded = self.encode(pack)
            if encoded:
                yield encoded

    def plan(self, reader: Reader, tally: Tally) -> Iterator[list[Item]]:
        """Reads, measures and packs the rows of a reader; nothing is encoded.

        The packs and their order depend on the arguments, the rows and the settings only.

        Args:
            reader: Whose rows.
            tally: Counts what goes by.
        """
        measuring = MeasuringTemplate(self.template)
        packer: LookAheadPacker[Item] = LookAheadPacker(self.packing_length, self.pack_images, buffer=self.buffer)
        for row in share(self.dataset, *reader):
            tally.num_rows += 1
            for piece in self._measure(measuring, row):
                for pack in packer.add((row, piece), piece.length, piece.seg_images):
                    yield self._count(pack, tally)
        for pack in packer.flush():
            yield self._count(pack, tally)

    def _measure(self, measuring: MeasuringTemplate, row: dict[str, Any]) -> list[Piece]:
        try:
            pieces = measuring.measure(row)
            for piece in pieces:
                self._check_budgets(row, piece)
        except (RowError, MaxLengthError) as e:
            if self.strict:
                raise
            self.skips.add(e)
            return []
        return pieces

    def _check_budgets(self, row: dict[str, Any], piece: Piece) -> None:
        row_id = row.get(ROW_COLUMN) or 'row (no number)'
        if piece.length > self.packing_length:
            raise RowError(row_id, f'its {piece.length} tokens do not fit into a pack of {self.packing_length}.',
                           'Raise --packing_length to --max_length.', 'pack-length')
        if piece.seg_images > self.pack_images:
            raise RowError(
                row_id, f'its {piece.seg_images} segmentation images do not fit into a pack of '
                f'{self.pack_images}.', 'Raise pack_images.', 'pack-images')

    @staticmethod
    def _count(pack: list[Item], tally: Tally) -> list[Item]:
        tally.num_packs += 1
        tally.num_tokens += sum(piece.length for _, piece in pack)
        return pack

    def encode(self, pack: list[Item]) -> list[dict[str, Any]]:
        """Encodes the rows of a pack; not strict, a row that cannot be encoded is left out, and counted."""
        encoded = []
        for row, piece in pack:
            try:
                encoded.append(self.template.encode_piece(row, piece))
            except (RowError, MaxLengthError) as e:
                if self.strict:
                    raise
                self.skips.add(e)
        return encoded

    def first_row(self) -> list[dict[str, Any]]:
        """The first row of the stream that can be encoded: what a rank trains on, without targets, when it has no more.

        Raises:
            ValueError: No row can be encoded.
        """
        measuring = MeasuringTemplate(self.template)
        for row in share(self.dataset, *Reader()):
            encoded = self.encode([(row, piece) for piece in self._measure(measuring, row)[:1]])
            if encoded:
                return encoded
        raise ValueError('No row of the stream can be encoded: see the warnings above.')


class StreamEncode(EncodePreprocessor):
    """As ms-swift's, for a stream that is not packed: one row at a time, and the rows left out are counted."""

    def __init__(self, template) -> None:
        super().__init__(template=template)
        self.skips = Skips()

    def preprocess(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            return super().preprocess(row)
        except (RowError, MaxLengthError) as e:
            self.skips.add(e)
            raise

    def __call__(self, dataset, **kwargs: Any):
        # In a batch every row would have the keys of all, None where it has no masks.
        return super().__call__(dataset, **{**kwargs, 'batch_size': 1})


class Feed(IterableDataset):
    """One pass of one rank over a stream, for a DataLoader that leaves its items as they are.

    Each worker gives its collated batches, and its `Tally` as the last item. `skip` batches of the rank were trained on
    before: those of which that is certain come as `Gap.SKIPPED`, without a pixel read. (The workers of a DataLoader
    take turns, and a worker does not know which of the others have ended. Where none has, its batch `k` is the batch
    `k * num_workers + worker` of the rank; otherwise it is an earlier one.)

    Args:
        dataset: The packs.
        collate: Packs to a batch.
        batch_size: Packs of a batch.
        rank: Which rank reads.
        world_size: Number of ranks.
        pass_index: The pass, from 0.
        skip: Batches of this rank, in this pass, that were trained on before.
        init_worker: Called first in each DataLoader worker, a spawned one too; it must be picklable.
    """

    def __init__(self,
                 dataset: StreamPackingDataset,
                 collate: Collate,
                 *,
                 batch_size: int,
                 rank: int,
                 world_size: int,
                 pass_index: int,
                 skip: int,
                 init_worker: Callable[[], None] | None = None) -> None:
        self.dataset = dataset
        self.collate = collate
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.pass_index = pass_index
        self.skip = skip
        self.init_worker = init_worker

    def __iter__(self) -> Iterator[dict[str, Any] | Gap | Tally]:
        info = get_worker_info()
        if info is not None and self.init_worker is not None:
            self.init_worker()
        worker, num_workers = (0, 1) if info is None else (info.id, info.num_workers)
        reader = Reader(self.rank * num_workers + worker, self.world_size * num_workers, self.pass_index)
        tally = Tally()
        counted = [self.dataset.skips]
        # Where all read everything, all meet the same bad lines.
        if reader.slot == 0 or not reads_all(self.dataset.dataset, reader.num_slots):
            counted.append(reading_skips)
        before = [Counter(skips.counts) for skips in counted]
        plan = self.dataset.plan(reader, tally)
        number = worker
        while packs := list(islice(plan, self.batch_size)):
            if number < self.skip:
                yield Gap.SKIPPED
            else:
                encoded = [rows for rows in map(self.dataset.encode, packs) if rows]
                yield self.collate(encoded) if encoded else Gap.EMPTY
            number += num_workers
        for skips, counts in zip(counted, before):
            tally.skipped += skips.counts - counts
        yield tally
