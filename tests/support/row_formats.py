"""Writes rows in the file formats that ms-swift reads."""
import json
import pandas as pd
import pyarrow as pa
from pathlib import Path
from pyarrow import parquet
from typing import Any

FORMATS = ('json', 'json of columns', 'lines named json', 'csv', 'csv of pandas', 'parquet', 'parquet of structs',
           'arrow')  # yapf: disable


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    """Writes rows in a format of `FORMATS`."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = dict.fromkeys(key for row in rows for key in row)
    rows = [{key: row.get(key) for key in columns} for row in rows]
    as_text = [{key: value if value is None or isinstance(value, str) else json.dumps(value)
                for key, value in row.items()} for row in rows]  # yapf: disable
    path = folder / f'rows.{name.split()[0]}'
    if name == 'json':
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding='utf-8-sig')
    elif name == 'json of columns':
        path = folder / 'rows.json'
        path.write_text(json.dumps({key: [row[key] for row in rows] for key in columns}, indent=1))
    elif name == 'lines named json':
        path = folder / 'rows.json'
        path.write_bytes('\r\n'.join(map(json.dumps, rows)).encode())
    elif name == 'csv':
        pd.DataFrame(as_text).to_csv(path, index=False, encoding='utf-8-sig', lineterminator='\r\n')
    elif name == 'csv of pandas':
        pd.DataFrame(rows, dtype=object).to_csv(path)
    elif name == 'parquet':
        # Text in the columns of mixed types.
        parquet.write_table(pa.Table.from_pylist(as_text), path, row_group_size=3)
    elif name == 'parquet of structs':
        parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    elif name == 'arrow':
        with pa.OSFile(str(path), 'wb') as sink, pa.ipc.new_stream(sink, pa.Table.from_pylist(as_text).schema) as out:
            out.write_table(pa.Table.from_pylist(as_text))
    return path
