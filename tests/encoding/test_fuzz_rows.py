"""Whatever a line or a row holds, it is taken or ends in a RowError (or, too long, in a MaxLengthError), in no time."""
import copy
import json
import os
import pytest
import random
import time
import tracemalloc
from collections.abc import Iterator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pathlib import Path
from support.row_names import bare
from support.rows import Maker
from swift.template import MaxLengthError
from typing import Any

from swift_citrusv.constants import ROW_COLUMN
from swift_citrusv.encoding.row_length import measure
from swift_citrusv.errors import RowError
from swift_citrusv.rows.contract import parse_row
from swift_citrusv.rows.jsonl import parse_line
from swift_citrusv.training.jsonl_dataset import load_jsonl

COLUMNS = ('messages', 'images', 'videos', 'masks', 'mask_images', 'objects', 'tools', 'chat_template_kwargs', 'image',
           'system', 'Masks', 'audios', 'label', 'channel', 'loss_scale', 'citrusv_row', 'citrusv_piece', 'lengths')
SEED = int(os.environ.get('FUZZ_SEED', 0))
# What a fuzzer of plain types would hardly meet.
ODD: list[Any] = [
    None, True, 0, -1, 1.5, 2**31, 2**63, 2**64, 10**40, 10**400,
    float('nan'),
    float('inf'), -float('inf'), '', ' ', '\0', 'a\0b', '\ud800', '\udcff', '<image>', '<video>', '[SEG]',
    '<img>x.png</img>', '<|image_pad|>', '/', '.', '~', 'http://127.0.0.1:9/x.png', 'file:///etc/passwd', 'data:,',
    'data:image/png;base64,AAAA', 'AAAA', '{}', '[', [], {}, [[]], [{}], [None], ['']
]
SCALARS = st.sampled_from(ODD) | st.integers() | st.floats() | st.text(max_size=8)
KEYS = st.sampled_from((*COLUMNS, 'role', 'content', 'type', 'text', 'image_url', 'size', 'counts', 'path', 'label',
                        'bytes', 'bbox', 'ref', 'image_id', 'min_pixels', 'resized_height')) | st.text(max_size=4)
JUNK = st.recursive(SCALARS, lambda x: st.lists(x, max_size=4) | st.dictionaries(KEYS, x, max_size=4), max_leaves=12)


@pytest.fixture(scope='module')
def good(tmp_path_factory) -> list[dict[str, Any]]:
    maker = Maker(tmp_path_factory.mktemp('fuzz') / 'images')
    image = maker.image()
    tools = [{'type': 'function', 'function': {'name': 'zoom', 'parameters': {}}}]
    return [
        *maker.every_kind(),
        maker.row('<image>Where is <ref-object>?', 'At <bbox>.', images=[image], objects={
            'ref': ['it'],
            'bbox': [[1, 2, 3, 4]]
        }),
        maker.row('Zoom in.', 'I do.', tools=tools),
        maker.row('<image>What?', 'It.', images=[image], chat_template_kwargs={'max_pixels': 5000}),
        {
            'messages': [{
                'role': 'user',
                'content': [{
                    'type': 'image',
                    'image': image
                }, {
                    'type': 'text',
                    'text': 'What?'
                }]
            }, {
                'role': 'assistant',
                'content': 'It.'
            }]
        },
    ]  # yapf: disable


@pytest.fixture(scope='module')
def template(make_template):
    return make_template(512)


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths to everything inside a row."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, part in value.items():
            yield from places(part, (*path, key))
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from places(part, (*path, i))


def mutated(row: dict[str, Any], rng: random.Random, junk: Any) -> dict[str, Any]:
    """The row with one part of it replaced, doubled or taken out, or with a column more."""
    row = copy.deepcopy(row)
    if rng.random() < .2:
        row[rng.choice(COLUMNS)] = junk
        return row
    *way, last = rng.choice(list(places(row)))
    part: Any = row
    for key in way:
        part = part[key]
    if rng.random() < .15:
        del part[last]
    elif isinstance(part, list) and rng.random() < .2:
        part.append(copy.deepcopy(part[last]))
    else:
        part[last] = junk
    return row


def outcome(function, *args: Any, **kwargs: Any) -> Any:
    """What the function gives, or the RowError or MaxLengthError that it ends in."""
    try:
        return function(*args, **kwargs)
    except (RowError, MaxLengthError) as e:
        assert str(e).encode('utf-8', 'backslashreplace')
        return e


# ---- lines and rows


@settings(max_examples=400, deadline=1000)
@given(
    st.text(max_size=60) | st.binary(max_size=60).map(lambda b: b.decode('utf-8', 'surrogateescape'))
    | JUNK.map(json.dumps) | st.dictionaries(st.sampled_from(COLUMNS), JUNK, max_size=4).map(json.dumps))
def test_any_line(line):
    row = outcome(parse_line, line, 'train.jsonl:12')
    assert isinstance(row, dict) or row.row == 'train.jsonl:12' and row.remedy


@settings(max_examples=400, deadline=1000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False), JUNK)
def test_any_row(good, rng, junk):
    outcome(parse_row, mutated(rng.choice(good), rng, junk), row_id='train.jsonl:12')


# name -> a line of some MB that a careless reader would need hours or many GB for
LARGE = {
    'deep list': '{"messages": ' + '[' * 10**6 + ']' * 10**6 + '}',
    'deep objects': '{"messages": ' + '{"a":' * 10**6 + '1' + '}' * 10**6 + '}',
    'long integer': '{"masks": [{"size": [' + '9' * 10**6 + ', 1], "counts": "0"}]}',
    'many messages': json.dumps({'messages': [{'role': 'user', 'content': '[SEG]'}] * 10**5}),
    'many masks': json.dumps({'messages': [{'role': 'assistant', 'content': '[SEG]' * 10**5}], 'images': ['a.png'],
                              'masks': [{'path': 'b.png'}] * 10**5}),
    'long counts': json.dumps({'messages': [{'role': 'assistant', 'content': '[SEG]'}], 'images': ['a.png'],
                               'masks': [{'size': [10**4, 10**4], 'counts': 'P' * 3 * 10**6}]}),
    'many boxes': json.dumps({'messages': [{'role': 'user', 'content': 'a'}], 'objects': {'bbox': [[1, 2]] * 10**5}}),
    'many columns': json.dumps({f'column {i}': i for i in range(10**5)}),
    'long masks text': json.dumps({'messages': [{'role': 'user', 'content': 'a'}], 'masks': '[' * 10**6}),
}  # yapf: disable


@pytest.mark.parametrize('name', LARGE)
def test_large_lines(name):
    line = LARGE[name]
    tracemalloc.start()
    start = time.process_time()
    outcome(parse_line, line, 'train.jsonl:12')
    seconds = time.process_time() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 * len(line) + 10**6 and seconds < 5


# ---- the way to the model


@settings(max_examples=250, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False), JUNK)
def test_any_row_is_encoded_or_refused(good, template, rng, junk):
    """And measured alike: what the length pass refuses, the encoding refuses."""
    row = {**mutated(rng.choice(good), rng, junk), ROW_COLUMN: 'train.jsonl:12'}
    encoded = outcome(template.encode, row, return_length=True)
    measured = outcome(measure, template, row)
    if isinstance(encoded, Exception):
        assert str(encoded).startswith('train.jsonl:12: ')
    else:
        assert [piece.length for piece in measured] == encoded['lengths']


def test_check_data_and_training_agree(good, template, tiny_checkpoint, tmp_path, capsys):
    """On six hundred damaged rows: what the check passes, a run loads and encodes, and nothing else."""
    from swift.dataset import load_dataset

    from swift_citrusv.cli.main import main
    from swift_citrusv.plugin.datasets import patch_dataset_loading
    patch_dataset_loading()
    rng = random.Random(SEED)
    rows = [mutated(rng.choice(good), rng, rng.choice(ODD)) for _ in range(600)]
    report = tmp_path / 'report.json'
    file = write_lines(tmp_path / 'train.jsonl', rows)
    main(['check-data', file, '--model', tiny_checkpoint, '--max-length', '512', '--json', str(report)])
    capsys.readouterr()
    kinds = {bare(failure['row']): failure['kind'] for failure in json.loads(report.read_text())['failures']}
    dataset, _ = load_dataset([file], strict=False, load_from_cache_file=False)
    trained = set()
    for row in dataset:
        encoded = outcome(template.encode, row, return_length=True)
        if isinstance(encoded, Exception):
            kind = getattr(encoded, 'kind', type(encoded).__name__)
            assert kinds.get(bare(row[ROW_COLUMN])) == kind, (encoded, kinds.get(bare(row[ROW_COLUMN])))
        else:
            trained.add(bare(row[ROW_COLUMN]))
    assert trained == {f'train.jsonl:{number}' for number in range(1, 601)} - kinds.keys()
    assert len(trained) > 100 < len(kinds)
    # Without the bad ones, a strict run takes them all.
    passed = [row for number, row in enumerate(rows, start=1) if f'train.jsonl:{number}' in trained]
    clean, _ = load_dataset([write_lines(tmp_path / 'clean.jsonl', passed)], strict=True, load_from_cache_file=False)
    for row in clean:
        template.encode(row, return_length=True)
    assert len(clean) == len(passed)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> str:
    # In ASCII, which can spell half a character.
    path.write_text('\n'.join(json.dumps(row) for row in rows) + '\n')
    return str(path)


def test_lenient_reading_takes_the_good_rows(good, tmp_path):
    rng = random.Random(1)
    rows = [mutated(rng.choice(good), rng, rng.choice(ODD)) for _ in range(200)]
    kept = [row for row in rows if isinstance(outcome(parse_line, json.dumps(row), 'r'), dict)]
    dataset = load_jsonl(write_lines(tmp_path / 'train.jsonl', rows), strict=False, cache_dir=str(tmp_path / 'cache'))
    # Some of them are spoilt by the columns of others.
    assert 50 < len(dataset) <= len(kept)
