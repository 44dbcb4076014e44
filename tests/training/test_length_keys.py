"""What a measured length depends on: the settings, the source files, and the content of the row."""
import ast
import importlib.util
import json
import numpy as np
import os
import pytest
from collections.abc import Iterator
from pathlib import Path
from support.measured_rows import MeasureCalls, load, measure_cached
from typing import Any

from swift_citrusv.constants import CHUNKS_COLUMN, ROW_COLUMN
from swift_citrusv.training import length_cache, length_keys
from swift_citrusv.training.length_keys import row_key, settings_text

# Modules that measuring imports, whose code does not change a length.
NO_LENGTH = {
    'encoding/skipped',  # replaces rows that cannot be encoded; those are not cached
    'errors',
    'files/lossy',  # changes masks only
    'files/notices',  # logs only
    'files/windowing',  # changes pixels only
    'model/seg_states',  # inference only
    'model/segmenter',  # sizes of masks and SAM2 images only
    'settings',  # `settings_text` has the values of the settings
}

# ---- settings and source files


def test_other_settings_are_measured_again(own_rows, template, make_template, tmp_path, monkeypatch):
    from qwen_vl_utils import vision_process
    calls = MeasureCalls(monkeypatch)
    dataset = load(tmp_path, own_rows)
    expected = measure_cached(template, dataset, tmp_path)
    calls.take()
    tokens = make_template()
    tokens.tokenizer.add_tokens(['Question'])
    padded = make_template()
    padded.template_meta.system_prefix = ['Look: ', *padded.template_meta.system_prefix]
    changed = {
        'max_pixels': make_template(max_pixels=3000),
        'max_length': make_template(1000),
        'strategy': make_template(truncation_strategy='right'),
        'system': make_template(default_system='You are short.'),
        'tokenizer': tokens,
        'prefix': padded,
    }
    for name, other in changed.items():
        measured = measure_cached(other, dataset, tmp_path)
        assert len(calls.take()) == len(own_rows), name
        assert (measured != expected) == (name not in ('max_length', 'strategy')), name
    monkeypatch.setattr(length_cache, 'MAX_FILES', 100)
    monkeypatch.setattr(vision_process, 'IMAGE_MIN_TOKEN_NUM', 30)
    measure_cached(template, dataset, tmp_path)
    assert len(calls.take()) == len(own_rows)
    monkeypatch.undo()
    calls = MeasureCalls(monkeypatch)
    # Settings that do not change a length.
    packed = make_template(padding_free=True)
    packed.packing = True
    assert measure_cached(packed, dataset, tmp_path) == expected and not calls.take()


def test_encoding_does_not_change_the_settings_text(every_kind, make_template):
    template = make_template()
    before = settings_text(template)
    template.encode(every_kind[2])
    template.print_inputs(template.encode(every_kind[8]))
    template.data_collator([template.encode(every_kind[3], return_length=True)])
    assert settings_text(template) == before


def _own_imports(module: str) -> Iterator[str]:
    """The modules of the package that a module ('files/dicom') imports, inside functions too."""
    package = f'swift_citrusv/{module}'.rpartition('/')[0].replace('/', '.')
    for node in ast.walk(ast.parse((length_keys._PACKAGE / f'{module}.py').read_text(encoding='utf-8'))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = importlib.util.resolve_name('.' * node.level + (node.module or ''), package)
            for name in (base, *(f'{base}.{alias.name}' for alias in node.names)):
                path = name.replace('.', '/').removeprefix('swift_citrusv/')
                if (length_keys._PACKAGE / f'{path}.py').is_file():
                    yield path


def test_every_module_that_measures_is_a_source():
    """Else a change of its code would leave wrong lengths in the cache."""
    found: set[str] = set()
    waiting = ['encoding/row_length', 'training/length_keys']
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += _own_imports(module)
    assert found == {*length_keys._SOURCES} | NO_LENGTH and not NO_LENGTH & {*length_keys._SOURCES}
    # A module of each kind of import: at the top, and inside a function.
    assert {'encoding/template', 'files/nifti'} <= found


def test_source_digest(tmp_path, monkeypatch):
    """Every listed file counts, and a listed file that is missing is an error."""
    for name in length_keys._SOURCES:
        (tmp_path / f'{name}.py').parent.mkdir(exist_ok=True)
        (tmp_path / f'{name}.py').write_bytes((length_keys._PACKAGE / f'{name}.py').read_bytes())
    digest = length_keys._source_digest()
    monkeypatch.setattr(length_keys, '_PACKAGE', tmp_path)
    assert length_keys._source_digest() == digest
    for name in length_keys._SOURCES:
        path = tmp_path / f'{name}.py'
        content = path.read_bytes()
        path.write_bytes(content + b'#')
        assert length_keys._source_digest() != digest, name
        path.write_bytes(content)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        length_keys._source_digest()


# ---- rows


def test_row_key_changes_with_all_content(tmp_path):
    files = [str(tmp_path / f'{i}.png') for i in range(6)]
    for file in files:
        Path(file).write_bytes(b'x')
    turn = {'role': 'assistant', 'content': 'Yes.'}
    parts = [{'type': 'image', 'image': files[1]}, {'type': 'image_url', 'image_url': {'url': files[2]}}]
    row: dict[str, Any] = {
        'messages': [{'role': 'user', 'content': parts}, {'role': 'user', 'content': f'<img>{files[3]}</img>'}, turn],
        'images': [{'bytes': None, 'path': files[0]}, {'bytes': b'abc', 'path': None}],
        'videos': [[files[4], 'http://nowhere/x.png'], 'no\0file.mp4'],
        'masks': json.dumps([{'path': files[5]}]),
        'tools': [{'a': 1, 'b': 2}],
        'label': None,
        ROW_COLUMN: 'train.jsonl:3'
    }  # yapf: disable
    key = row_key(row)
    assert len(key) == 16
    for same in ({ROW_COLUMN: 'other.jsonl:9'}, {'lengths': [3]}, {CHUNKS_COLUMN: [0, 3, 0, 0]}):
        assert row_key({**row, **same}) == key
    others: list[dict[str, Any]] = [
        {'label': 1}, {'new': None}, {'tools': [{'b': 2, 'a': 1}]}, {'masks': None}, {'masks': 'not "path" JSON'},
        {'images': row['images'][:1]}, {'images': [row['images'][0], {'bytes': b'abd', 'path': None}]},
        {'messages': [turn]}, {'messages': None}, {'messages': 'text'}, {'messages': [5]}, {'videos': [[5]]},
        {'label': '\ud800'}, {'label': float('nan')}, {'label': np.arange(3)}
    ]  # yapf: disable
    keys = [key] + [row_key({**row, **other}) for other in others]
    for file in files:
        os.utime(file, ns=(5, 5))
        keys.append(row_key(row))
    Path(files[0]).write_bytes(b'xy')
    os.utime(files[0], ns=(5, 5))
    keys.append(row_key(row))
    Path(files[0]).unlink()
    keys.append(row_key(row))
    assert len(set(keys)) == len(keys) == 1 + len(others) + len(files) + 2


def test_row_key_follows_root_image_dir(tmp_path, monkeypatch):
    monkeypatch.setenv('ROOT_IMAGE_DIR', str(tmp_path))
    row = {'messages': [], 'images': [{'bytes': None, 'path': 'sub/x.png'}]}
    keys = {row_key(row)}
    (tmp_path / 'sub').mkdir()
    (tmp_path / 'sub' / 'x.png').write_bytes(b'x')
    keys.add(row_key(row))
    os.utime(tmp_path / 'sub' / 'x.png', ns=(5, 5))
    keys.add(row_key(row))
    assert len(keys) == 3
