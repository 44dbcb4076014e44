"""The ledger: a line of a Parquet table for each decision."""
import os
import pyarrow as pa

from .parquet import LineWriter
from .step import Decision

SCHEMA = pa.schema([
    ('row_id', pa.string()),
    ('source', pa.string()),
    ('line', pa.int64()),
    ('step', pa.string()),
    ('rule', pa.string()),
    ('verdict', pa.string()),
    ('measure', pa.float64()),
    ('threshold', pa.float64()),
    ('evidence_id', pa.string()),
    ('detail', pa.string()),
    ('recipe_hash', pa.string()),
])
KEPT = Decision('', 'kept')


class LedgerWriter:
    """Writes the ledger of a shard; the same lines give the same bytes.

    Args:
        path: The file.
        step: The name of the step.
        recipe_hash: The hash of its recipe.
    """

    def __init__(self, path: str, step: str, recipe_hash: str) -> None:
        self._step, self._recipe_hash = step, recipe_hash
        self._file = LineWriter(path, SCHEMA)

    def add(self, row_id: str, source: str, line: int, decision: Decision = KEPT) -> None:
        """Adds a line."""
        self._file.add((row_id, source, line, self._step, *decision, self._recipe_hash))

    def close(self) -> None:
        """Writes the rest. An empty ledger is a file too."""
        self._file.close()


def ledger_files(folder: str) -> list[str]:
    """The files of a ledger, in the order of the rows."""
    top = os.path.join(folder, 'ledger')
    return [os.path.join(top, name) for name in sorted(os.listdir(top))] if os.path.isdir(top) else []
