"""Counts of rows against counts made by hand; the files and the page."""
import csv
import json
import pytest
from collections import Counter
from pathlib import Path
from PIL import Image
from typing import Any

from swift_citrusv.cli.main import main
from swift_citrusv.curation.engine import Engine
from swift_citrusv.curation.labels import LABELS, label_of
from swift_citrusv.curation.stats.count import Columns, bucket
from swift_citrusv.curation.stats.run import run_stats


def _row(question: str, answer: str, **columns: Any) -> dict[str, Any]:
    return {'messages': [{'role': 'user', 'content': question}, {'role': 'assistant', 'content': answer}], **columns}


@pytest.fixture
def rows(tmp_path) -> list[Path]:
    """Two files, as of two stages."""
    for name, size in (('a.png', (64, 48)), ('b.png', (100, 50))):
        Image.new('L', size).save(tmp_path / name)
    a, b = (str(tmp_path / name) for name in ('a.png', 'b.png'))
    stages = [
        [_row('<image>What is it', 'A lung', images=[a], modality='DX', region='chest', task='Basic', type='public'),
         _row('<image><image>Which', 'Both', images=[a, b], modality='ct', region='Brain', type='public'),
         _row('什么是肺', '一个器官', task='Nonsense', type='synthesized')],
        [_row('<image>Segment it', 'Here [SEG]', images=[b], masks=[{'size': [50, 100], 'counts': 'x'}],
              modality=['MR', 'CT'], dataset='SLAKE'),
         _row('<image>Where', 'There', images=['missing.png'], objects={'ref': ['a'], 'bbox': [[1, 2, 3, 4]]})],
    ]  # yapf: disable
    paths = []
    for number, lines in enumerate(stages, start=1):
        path = tmp_path / f'stage{number}.jsonl'
        path.write_text('\n'.join(json.dumps(line, ensure_ascii=False) for line in lines), encoding='utf-8')
        paths.append(path)
    with paths[1].open('a', encoding='utf-8') as file:
        file.write('\nno json\n')
    return paths


def _stats(rows: list[Path], output: Path, **values: Any) -> dict[str, Any]:
    return run_stats([str(path) for path in rows], str(output), quiet=True, **values)['counts']


def test_counts(rows, tmp_path):
    counts = _stats(rows, tmp_path / 'out', columns=Columns(others=('modality', 'note')))
    assert counts['total'] == {'rows': 5, 'images': 5, 'masks': 1, 'tokens': 20}
    assert counts['unreadable'] == {'unreadable': 1}
    assert counts['form'] == {'image and text': 2, 'text': 1, 'image and masks': 1, 'image and boxes': 1}
    assert counts['kind'] == {'public': 2, '(none)': 2, 'synthesized': 1}
    assert counts['label modality'] == {'CT': 2, 'MRI': 1, 'X-Ray': 1, '(none)': 1}
    assert counts['label region'] == {'(none)': 2, 'Brain': 1, 'Chest': 1}
    # Tasks of all rows, modalities and regions of those with images.
    assert counts['label task'] == {'(none)': 3, 'Basic': 1, 'Other': 1} and counts['unknown task'] == {'Nonsense': 1}
    assert counts['stage modality'] == {'stage1.jsonl\tCT': 1, 'stage1.jsonl\tX-Ray': 1, 'stage2.jsonl\t(none)': 1,
                                        'stage2.jsonl\tCT': 1, 'stage2.jsonl\tMRI': 1}  # yapf: disable
    assert counts['image sizes'] == {'100 x 50': 2, '64 x 48': 2, 'not opened': 1}
    assert counts['dataset'] == {'stage1.jsonl': 3, 'SLAKE': 1, 'stage2.jsonl': 1}
    assert counts['column modality'] == {'CT': 1, 'DX': 1, 'MR': 1, 'ct': 1, '(none)': 2}
    assert counts['column note'] == {'(none)': 5}
    assert counts['question tokens'] == {'4': 1, '3': 1, '1': 2, '2': 1}
    assert counts['answer tokens'] == {'1': 3, '2': 1, '4': 1}


def test_files(rows, tmp_path):
    _stats(rows, tmp_path / 'out', columns=Columns(others=('modality', )))
    output = tmp_path / 'out'
    pictures = {path.name for path in (output / 'pictures').iterdir()}
    assert {'figure-2-tasks.png', 'figure-2-regions.png', 'figure-9-types.png', 'figure-12-modalities.png',
            'question-tokens.png', 'image-sizes.png', 'column-modality.png'} <= pictures  # yapf: disable
    for path in (output / 'pictures').iterdir():
        with Image.open(path) as image:
            assert image.width > 600 and len(image.convert('L').getcolors(1 << 16) or ()) > 10
    with open(output / 'table-2-labels.csv', encoding='utf-8', newline='') as file:
        lines = list(csv.DictReader(file))
    assert Counter(line['dimension'] for line in lines) == {'modality': 14, 'task': 16, 'region': 16}
    assert {line['label']: line['rows'] for line in lines if line['dimension'] == 'modality'}['CT'] == '2'
    with open(output / 'table-1-data-sets.csv', encoding='utf-8', newline='') as file:
        assert [list(line.values()) for line in csv.DictReader(file)][0] == ['image and masks', 'SLAKE', '1']
    page = (output / 'stats.html').read_text(encoding='utf-8')
    assert page.count('<img src="data:image/png') == len(
        pictures) and 'Nonsense' in page and '1 more cannot be read' in page
    assert not [path for path in output.iterdir() if path.name.startswith('work')]


def test_workers_change_no_byte(rows, tmp_path):
    for name, workers in (('one', 1), ('two', 2)):
        _stats(rows, tmp_path / name, engine=Engine('local', workers))
    first, second = ({path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob('*')
                      if path.is_file()} for name in ('one', 'two'))  # yapf: disable
    assert first == second


def test_the_page_of_an_output_shows_its_steps_and_certificate(rows, tmp_path, capsys):
    held_out = tmp_path / 'held.jsonl'
    held_out.write_text(json.dumps(_row('什么是肺', '一个器官'), ensure_ascii=False), encoding='utf-8')
    recipe = tmp_path / 'recipe.yaml'
    recipe.write_text(
        f'- filter: {{min-tokens: 1, min-pixels: 100, no-images: true}}\n- leaks: {{against: "{held_out}"}}\n')
    output = tmp_path / 'clean'
    assert main(['data', 'run', str(recipe), str(rows[0]), '--output', str(output)]) == 0
    assert main(['data', 'stats', str(output)]) == 0
    assert 'clean-stats/stats.html' in capsys.readouterr().out
    page = (tmp_path / 'clean-stats' / 'stats.html').read_text(encoding='utf-8')
    assert 'Leak certificate of clean' in page and 'Steps of clean' in page and '01-filter' in page
    assert 'hold nothing of these evaluation sets' in page


def test_an_output_of_something_else_is_not_touched(rows, tmp_path, capsys):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'a.txt').write_text('a')
    assert main(['data', 'stats', str(rows[0]), '--output', str(tmp_path / 'mine')]) == 2
    assert 'not empty' in capsys.readouterr().err and (tmp_path / 'mine' / 'a.txt').exists()


def test_labels_in_any_spelling():
    for dimension, labels in LABELS.items():
        for label in labels:
            assert label_of(dimension, label.lower().replace(' ', '_')) == label
    assert [label_of('modality', code) for code in ('CR', 'dx', 'MR', 'US', 'PT', 'x-ray', 'OCT')] == [
        'X-Ray', 'X-Ray', 'MRI', 'Ultrasound', 'Other', 'X-Ray', 'OCT']  # yapf: disable
    assert label_of('task', 'nothing') is None and len(LABELS['task']) == len(LABELS['region']) == 15


def test_ranges_of_tokens():
    edges = sorted({bucket(count) for count in range(5000)})
    assert edges[:10] == [0, 1, 2, 3, 4, 6, 8, 12, 16, 23]
    for low, high in zip(edges, edges[1:]):
        assert {bucket(count) for count in range(low, high)} == {low}
