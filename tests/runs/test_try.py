"""`citrusv try` whole: 60 rows, three stages with `swift sft`, answers, page, and the README's Python on its model."""
import json
import os
import pytest
import shutil
import subprocess
import sys
from pathlib import Path
from support.docs import blocks_of
from support.rows import write_jsonl
from support.try_rows import shape_rows

# A minute; `tests/tryout` and `tests/cli/test_try_rows.py` hold its parts.
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """Where `citrusv try rows.jsonl` has run, with names relative to it."""
    folder = tmp_path_factory.mktemp('try')
    rows = shape_rows(folder / 'images', 30)
    for row in rows:
        row['images'] = [os.path.relpath(row['images'][0], folder)]
    write_jsonl(folder / 'rows.jsonl', rows)
    citrusv = Path(sys.executable).parent / 'citrusv'
    done = subprocess.run([citrusv, 'try', 'rows.jsonl', '--minutes', '0.7'],
                          cwd=folder, capture_output=True, text=True, errors='replace')  # yapf: disable
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    (folder / 'printed.txt').write_text(done.stdout, encoding='utf-8')
    shutil.copy(folder / rows[0]['images'][0], folder / 'image.png')
    return folder


def test_it_ends_with_held_out_dice_and_a_page(folder):
    output = folder / 'output' / 'try'
    report = json.loads((output / 'report.json').read_text(encoding='utf-8'))
    held_out = report['held_out']
    assert report['rows'] == {'train': 48, 'held_out': 12} and report['images'] == {'train': 24, 'held_out': 6}
    assert set(held_out['by_name']) == {'pale disc', 'dark block'} and held_out['masks'] == 12
    # A mask of the whole image would have 0.15.
    assert held_out['dice'] > .3 and held_out['ceiling'] > .9
    # The overall Dice is that of all masks, and that of `citrusv eval`.
    mean = sum(value['dice'] * value['masks'] for value in held_out['by_name'].values()) / held_out['masks']
    assert held_out['dice'] == pytest.approx(mean, abs=2e-4)
    scores = json.loads((output / 'eval' / 'scores.json').read_text(encoding='utf-8'))
    assert held_out['dice'] == pytest.approx(scores['scores']['dice']['value'], abs=1e-4)
    for name, first in (('text', 'loss_token'), ('joint', 'loss_dice')):
        stage = report['stages'][name]
        assert stage['last_losses'][first] < stage['first_losses'][first], name
    page = (output / 'page.html').read_text(encoding='utf-8')
    assert page.count('<article') == 6 and 'pale disc' in page and 'citrusv build --mllm' in page
    printed = (folder / 'printed.txt').read_text(encoding='utf-8')
    assert 'held-out Dice' in printed and 'swift sft "$(citrusv templates stage4)"' in printed


def test_little_stays_on_disk(folder):
    output = folder / 'output' / 'try'
    weights = list(output.rglob('*.safetensors'))
    assert [path.parent for path in weights] == [output / 'model'], weights
    assert not list(output.rglob('optimizer*'))
    assert sum(path.stat().st_size for path in output.rglob('*') if path.is_file()) < 20e6


def test_the_python_of_the_readme_asks_its_model(folder):
    done = subprocess.run([sys.executable, '-c', dict(blocks_of('README.md'))['python']],
                          cwd=folder, capture_output=True, text=True, errors='replace')  # yapf: disable
    assert done.returncode == 0, done.stderr[-3000:]
