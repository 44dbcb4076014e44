"""Records the rows that each rank gets from a stream of packs, pass by pass."""
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swift_citrusv.constants import ROWS_KEY
from swift_citrusv.rows import shards
from swift_citrusv.training import stream_jsonl
from swift_citrusv.training.stream_dataloader import PackedStreamLoader


def record(folder: str) -> None:
    """For `Launcher.run(sabotage='stream_passes.record FOLDER')`; files are cut into shards of 100 bytes.

    Evaluation, which takes its batches one by one, is not recorded.
    """
    setattr(shards, '_SHARD_BYTES', 100)
    setattr(stream_jsonl, '_SHARDS_PER_READER', 2)
    read = PackedStreamLoader.__iter__

    def recording(self: PackedStreamLoader) -> Iterator[dict[str, Any]]:
        if self.multiple == 1:
            yield from read(self)
            return
        with open(_file(Path(folder), self.rank), 'a', buffering=1, encoding='utf-8') as file:
            file.write('"pass"\n')
            for batch in read(self):
                file.write(json.dumps(batch[ROWS_KEY]) + '\n')
                yield batch

    setattr(PackedStreamLoader, '__iter__', recording)


def read_passes(folder: Path, rank: int) -> list[list[list[str]]]:
    """The passes of a rank, each with its batches of rows ("file.jsonl:line"); a filler has none."""
    passes: list[list[list[str]]] = []
    for line in _file(folder, rank).read_text(encoding='utf-8').splitlines():
        value = json.loads(line)
        if value == 'pass':
            passes.append([])
        else:
            passes[-1].append(value)
    return passes


def _file(folder: Path, rank: int) -> Path:
    return folder / f'rank_{rank}.jsonl'
