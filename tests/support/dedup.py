"""Runs `citrusv data dedup` on rows."""
import duckdb
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swift_citrusv.curation.dedup.step import DedupStep
from swift_citrusv.curation.engine import Engine
from swift_citrusv.curation.run import run_steps
from swift_citrusv.curation.verify import problems


def dedup(rows: Sequence[dict[str, Any]], folder: Path, workers: int = 1, shard_bytes: int = 2000, **values: Any) \
        -> dict[int, tuple[str, str, int | None]]:
    """(rule, verdict, line of the evidence) of the rows that are not kept, by their lines."""
    folder.mkdir(exist_ok=True)
    shutil.rmtree(folder / 'out', ignore_errors=True)
    (folder / 'rows.jsonl').write_text('\n'.join(json.dumps(item, ensure_ascii=False) for item in rows))
    run_steps([DedupStep(**values)], [str(folder / 'rows.jsonl')], str(folder / 'out'), Engine('local', workers),
              shard_bytes=shard_bytes, quiet=True)  # yapf: disable
    assert problems(str(folder / 'out'), quiet=True) == []
    ledger = duckdb.connect().execute(
        f"SELECT line, row_id, rule, verdict, evidence_id FROM '{folder}/out/ledger/*.parquet'")
    found = ledger.fetchall()
    lines = {row_id: line for line, row_id, *_ in found}
    return {line: (rule, verdict, lines.get(evidence)) for line, _, rule, verdict, evidence in found if rule}
