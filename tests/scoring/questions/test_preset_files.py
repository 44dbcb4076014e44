"""Benchmark files that cannot be read."""
import pytest
import re
from support.benchmark_files import checked_rows, write_json


@pytest.mark.parametrize('preset, split, name, content, said', [
    ('medqb', None, 'a.jsonl', '', "no preset 'medqb'"),
    ('medqa', 'tset', 'a.jsonl', '{}', "no split 'tset': give one of test, dev"),
    ('medqa', None, 'none.jsonl', None, 'neither a file nor a folder'),
    ('medqa', None, 'a.txt', '{}', 'is not supported: give a .json'),
    ('medqa', None, 'a.jsonl', '{"question": "x"', 'a.jsonl cannot be read'),
    ('medqa', None, 'a.jsonl', '[1]', 'row 1 is'),
    ('medqa', None, 'a.json', '[]', 'has no rows'),
    ('medqa', None, 'a.jsonl', '{"question": "x", "options": "y"}', 'a.jsonl:1: the options are'),
    ('medqa', None, 'a.jsonl', '{"question": "x", "options": ["y", "z"], "answer": "w"}',
     "the answer 'w' is not one of"),
    ('slake', None, 'a.json', '[{"question": "x"}]', "a.json:1: the row has no 'img_name'; it has question"),
    ('supergpqa', None, 'a.jsonl', '{"discipline": "Law"}', "the discipline 'Medicine'"),
    ('pmc-vqa', None, 'a.parquet', 'PAR1', 'a.parquet cannot be read'),
    ('vqa-rad', None, 'a.json', '[{"question": "x", "answer": "y", "image": 3}]', 'not the bytes of an image'),
])  # yapf: disable
def test_errors(tmp_path, preset, split, name, content, said):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=re.escape(said)):
        checked_rows(preset, str(tmp_path / name), split)


def test_a_folder_without_the_split(tmp_path):
    write_json(tmp_path / 'train.json', [])
    with pytest.raises(ValueError, match='has no test.json; it has train.json'):
        checked_rows('slake', str(tmp_path))
