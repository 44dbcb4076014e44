"""Tiny benchmark files in their published formats, and the rows that presets make of them."""
import csv
import io
import json
import pyarrow as pa
import pyarrow.parquet as parquet
from pathlib import Path
from PIL import Image
from typing import Any

from swift_citrusv.scoring.cases import Pair
from swift_citrusv.scoring.questions.presets import preset_rows
from swift_citrusv.scoring.questions.qa import QATask, read_question


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding='utf-8')
    return path


def write_lines(path: Path, content: list[dict[str, Any]]) -> Path:
    """JSONL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in content), encoding='utf-8')
    return path


def write_csv(path: Path, header: list[str], *lines: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'w', encoding='utf-8', newline='') as file:
        csv.writer(file).writerows([header, *lines])
    return path


def write_parquet(path: Path, content: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(content), path)
    return path


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new('L', (4, 4), shade).save(file, 'PNG')
    return file.getvalue()


def medmcqa_rows(*cops: int) -> list[dict[str, Any]]:
    """Rows of MedMCQA, one for each right option."""
    return [{'id': f'q{i}', 'question': 'Which?', 'opa': 'w', 'opb': 'x', 'opc': 'y', 'opd': 'z', 'cop': cop,
             'choice_type': 'single', 'exp': None, 'subject_name': 'Anatomy', 'topic_name': None}
            for i, cop in enumerate(cops)]  # yapf: disable


def checked_rows(*args: Any, **kwargs: Any) -> list[dict[str, Any]]:
    """`preset_rows`; the task scores each row's own answer as right, and its prompt names its images."""
    found = list(preset_rows(*args, **kwargs))
    for row in found:
        question = read_question(row, row['id'])
        assert question.kind == row['kind']
        case, = QATask().score(Pair(row['id'], row, {'response': f'The answer is {row["answer"]}.'}))
        assert case.values['correct'] == 1 and case.groups['dataset'] == row['dataset']
        assert [message['role'] for message in row['messages']] == ['user']
        assert row['messages'][0]['content'].count('<image>') == len(row.get('images', []))
    return found


def prompt_of(row: dict[str, Any]) -> str:
    return row['messages'][0]['content']
