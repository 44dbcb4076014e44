"""`citrusv data dedup`: what is merged, what is not, and which row stays."""
import json
import numpy as np
import pytest
from pathlib import Path
from PIL import Image
from support.dedup import dedup
from support.messy_rows import row, write_images
from typing import Any

from swift_citrusv.cli.main import main
from swift_citrusv.curation.dedup.text_keys import (band_keys, decisive_difference, hashable_units, jaccard,
                                                    shingle_hashes, units_of)
from swift_citrusv.curation.texts import RowText

REPORT = ('The heart is normal in size and the mediastinal contours are unremarkable today. Both lungs are well '
          'expanded, with a faint opacity at the base that may be atelectasis. The bones show degenerative change.')


def shingles(form: str) -> list[str]:
    """Groups of three neighbouring units; a shorter text is one group."""
    units = form.split()
    return [' '.join(units[place:place + 3]) for place in range(max(len(units) - 2, 1))]


def test_text_rows(tmp_path):
    question = 'Describe the film.'
    rows = [
        row(question, REPORT),
        row(question, REPORT),
        row(question,
            REPORT.upper().replace(',', ';')),
        row(question, REPORT.replace('faint', 'subtle')),
        row(question, REPORT.replace('faint opacity', 'effusion')),
        row(question, REPORT.replace('Both lungs are', 'The left lung is')),
        row(question, REPORT.replace('is normal', 'is not normal')),
        row('Something else entirely is asked in this row.', 'And something else is answered.'),
        row(question, f'{REPORT} It measures 3.5 cm.'),
        row(question, f'{REPORT} It measures -3.5 cm.'),
    ]
    # Line 4 has the longest text of those that differ in no decisive word, and 10 one more sign than 9. 6 and 7 have
    # another side and another denial: too many groups of words differ in so short a text.
    assert dedup(rows, tmp_path) == {
        1: ('near-text', 'merged', 4),
        2: ('exact-text', 'merged', 1),
        3: ('near-text', 'merged', 4),
        5: ('near-text', 'merged', 4),
        9: ('near-but-different', 'review', 10),
    }
    assert dedup(rows[8:], tmp_path, different='merge') == {1: ('near-text', 'merged', 2)}
    assert dedup(rows[8:], tmp_path, different='keep') == {}
    assert dedup(rows, tmp_path, threshold=None) == {2: ('exact-text', 'merged', 1)}


def test_which_row_stays(tmp_path):
    question, mask = 'Describe the film and show the opacity.', {'size': [80, 80], 'counts': [100, 50, 6250]}
    answer = f'{REPORT} Here: [SEG].'
    write_images(tmp_path)
    image = str(tmp_path / 'ok.png')
    rows = [
        row(question, answer, image),
        row(question, answer, image, masks=[mask]),
        row(question, answer, image, masks=[mask])
    ]
    # Most masks, then the first.
    assert dedup(rows, tmp_path) == {1: ('exact-pair', 'merged', 2), 3: ('exact-pair', 'merged', 2)}
    longer = REPORT + ' The soft tissues are unremarkable.'
    rows = [row('Describe the film.', REPORT), row('Describe the film.', longer), row('Describe the film.', REPORT)]
    assert dedup(rows, tmp_path) == {3: ('exact-text', 'merged', 1), 1: ('near-text', 'merged', 2)}


def test_images_count(tmp_path):
    """The same question about two images is no duplicate; one image under two names is one image."""
    write_images(tmp_path)
    Image.open(tmp_path / 'ok.png').save(tmp_path / 'copy.bmp')
    rng = np.random.default_rng(5)
    Image.fromarray(rng.integers(0, 255, (80, 80, 3), dtype=np.uint8)).save(tmp_path / 'other.png')
    names = ['ok.png', 'other.png', 'copy.bmp', 'ok.png', 'gone.png', 'gone2.png']
    rows = [row('Describe the film.', REPORT, str(tmp_path / name)) for name in names]
    rows.append(row('Describe the film.', REPORT))
    assert dedup(rows, tmp_path) == {3: ('exact-pair', 'merged', 1), 4: ('exact-pair', 'merged', 1)}
    assert dedup(rows, tmp_path, reads_images=False) == {4: ('exact-pair', 'merged', 1)}
    # Nearly the same text about one image.
    rows = [row('Describe the film.', text, str(tmp_path / name))
            for text, name in ((REPORT, 'ok.png'), (REPORT.replace('faint', 'subtle'), 'ok.png'),
                               (REPORT.replace('faint', 'pale'), 'other.png'))]  # yapf: disable
    assert dedup(rows, tmp_path) == {1: ('near-pair', 'merged', 2)}


def test_a_scope(tmp_path):
    rows = [row('Describe the film.', REPORT, patient=patient) for patient in ('a', 'b', 'a')]
    assert dedup(rows, tmp_path) == {2: ('exact-text', 'merged', 1), 3: ('exact-text', 'merged', 1)}
    assert dedup(rows, tmp_path, scope='patient') == {3: ('exact-text', 'merged', 1)}


@pytest.mark.parametrize('first, second, unit', [
    ('mass in the left lung', 'mass in the right lung', 'left'),
    ('there is an effusion', 'there is no effusion', 'no'),
    ('a nodule of 3 mm', 'a nodule of 4 mm', '3'),
    ('value -2.5', 'value 2.5', '-2.5'),
    ('hbsag (+) today', 'hbsag (-) today', '+'),
    ('size <5 mm', 'size >5 mm', '<'),
    ('左肺结节', '右肺结节', '右'),
    ('未见结节', '可见结节', '未'),
    ('left larger than right', 'right larger than left', 'left'),
    ('a T2 signal', 'a T1 signal', 't1'),
    ('a faint opacity', 'a subtle opacity', ''),
    ('the lungs, and the heart', 'The heart and the lungs.', ''),
])
def test_decisive_differences(first, second, unit):
    forms = [' '.join(units_of(text)) for text in (first, second)]
    assert decisive_difference(*forms) in ({unit, *forms[1].split()} if unit else {''})
    assert bool(decisive_difference(*forms)) == bool(unit) == bool(decisive_difference(*forms[::-1]))


def test_units_and_jaccard():
    assert units_of('Ａ T2-weighted, 3.5 cm; BP 120/80') == 'a t 2 weighted 3.5 cm bp 120/80'.split()
    assert units_of('左肺见3cm结节') == ['左', '肺', '见', '3', 'cm', '结', '节']
    assert units_of('-2.5 and 3-5') == ['-2.5', 'and', '3', '5']
    # The short way for words alone is that of the regular expressions.
    text = "The patient's lungs, both - they_are\n\tclear; well-expanded!"
    short = hashable_units(RowText((), (text, ), ()))
    assert [unit.decode() if isinstance(unit, bytes) else unit for unit in short] == units_of(text)
    assert units_of(text) == units_of(f'{text} 7')[:-1] == units_of(f'{text} é')[:-1]
    assert shingle_hashes([short])[0].tolist() == shingle_hashes([[*units_of(text)]])[0].tolist()
    assert shingles('a b c d') == ['a b c', 'b c d'] and shingles('a b') == ['a b']
    assert jaccard('a b', 'a b') == 1 and jaccard('a b', 'b a') == jaccard('', 'a') == 0
    # By hand: {abc, bcd, cde} and {abc, bcd, cdf}: 2 of 4.
    assert jaccard('a b c d e', 'a b c d f') == .5


def test_shingles_as_numbers():
    """One number for each shingle of the definition, whatever stands before and behind a form."""
    forms = ['a b c d', 'b c d', 'a', 'x y', 'a b c d e a b c', 'y x', 'a b c']
    tokens, offsets = shingle_hashes([[*form.split()] for form in forms])
    found: dict[str, int] = {}
    for number, form in enumerate(forms):
        part = tokens[int(offsets[number]):int(offsets[number + 1])].tolist()
        assert len(part) == len(shingles(form))
        for text, token in zip(shingles(form), part):
            assert found.setdefault(text, token) == token
    assert len(set(found.values())) == len(found) == 8


def test_bands_of_equal_and_of_other_texts():
    keys = band_keys([list('abcde'), list('abcde'), list('vwxyz')], [b'', b'', b''])
    assert (keys[0] == keys[1]).all() and not (keys[0] == keys[2]).any()
    # Texts about other images share no band.
    assert not (keys[0] == band_keys([list('abcde')], [b'12345678'])[0]).any()


@pytest.fixture(scope='module')
def planted() -> tuple[list[dict[str, Any]], dict[int, int], list[set[str]]]:
    """3,000 different texts, and 500 copies with small changes; lines of copies and originals, and sets of shingles."""
    rng = np.random.default_rng(0)
    words = [f'{a}{b}{c}' for a in 'bdfgklmn' for b in 'aeiou' for c in ('ran', 'tol', 'mis', 'ved')]
    texts = [' '.join(rng.choice(words, int(rng.integers(30, 90)))) for _ in range(3000)]
    copies: dict[int, int] = {}
    rows = [row('Describe it.', text) for text in texts]
    while len(copies) < 500:
        number = int(rng.integers(3000))
        if number + 1 in copies.values():
            continue
        changed = texts[number].split()
        for place in rng.choice(len(changed), int(rng.integers(1, 3)), replace=False):
            changed[place] = str(rng.choice(words))
        rows.append(row('Describe it.', ' '.join(changed)))
        copies[len(rows)] = number + 1
    sets = [set(shingles(' '.join(units_of(item['messages'][0]['content'] + ' ' + item['messages'][1]['content']))))
            for item in rows]  # yapf: disable
    return rows, copies, sets


def test_recall_and_precision_of_planted_copies(planted, tmp_path):
    """Every pair with a Jaccard index of .8 or more is found, by the index itself; no other row is merged."""
    rows, copies, sets = planted
    found = dedup(rows, tmp_path, shard_bytes=200000)

    def index(first: int, second: int) -> float:
        one, other = sets[first - 1], sets[second - 1]
        return len(one & other) / len(one | other)

    near = {line: origin for line, origin in copies.items() if index(line, origin) >= .8}
    assert len(near) > 350
    merged = sum(line in found or origin in found for line, origin in near.items())
    assert merged / len(near) >= .98
    for line, (_, _, evidence) in found.items():
        assert evidence is not None and index(line, evidence) >= .8


def test_workers_change_no_byte(planted, tmp_path):
    contents = []
    for workers in (1, 3):
        dedup(planted[0], tmp_path / str(workers), workers, shard_bytes=100000)
        folder = tmp_path / str(workers) / 'out'
        contents.append({path.relative_to(folder): path.read_bytes() for path in folder.rglob('*') if path.is_file()})
    assert contents[0] == contents[1] and len(contents[0]) > 6


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [row('Describe the film.', text) for text in (REPORT, REPORT, REPORT.replace('faint', 'subtle'))]
    Path('rows.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    assert main(['data', 'dedup', 'rows.jsonl', '--output', 'out']) == 0
    assert 'exact-text: 1 merged' in capsys.readouterr().out
    assert main(['data', 'why', 'out', 'rows.jsonl:2']) == 0
    text = capsys.readouterr().out
    assert 'dedup: merged; by exact-text' in text and '(rows.jsonl:1, merged)' in text
    Path('recipe.yaml').write_text('- filter: {min_tokens: 5}\n- dedup: {exact: true}\n')
    assert main(['data', 'run', 'recipe.yaml', 'rows.jsonl', '--output', 'run']) == 0
    assert main(['data', 'verify', 'run']) == 0
    assert json.loads(Path('run/summary.json').read_text())['merged'] == 1
    assert main(['data', 'dedup', 'rows.jsonl', '--threshold', '0', '--output', 'other']) == 2
    assert '--threshold is 0.0' in capsys.readouterr().err


def padchest() -> Path:
    from importlib.util import find_spec
    spec = find_spec('torchxrayvision')
    if spec is None or spec.origin is None:
        pytest.skip('torchxrayvision is not installed: pip install --no-deps torchxrayvision==1.5.7')
    return Path(spec.origin).parent / 'data' / 'PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz'


def test_padchest(tmp_path):
    """Of 160,861 report texts 66,162 stay, as many as pandas finds."""
    import pandas as pd
    reports = pd.read_csv(padchest(), usecols=['Report'], dtype=str).Report.fillna('')
    (tmp_path / 'rows.jsonl').write_text('\n'.join(json.dumps(row('Describe the film.', text)) for text in reports))
    arguments = ['data', 'dedup', str(tmp_path / 'rows.jsonl'), '--exact', '--workers', '2', '--output']
    assert main([*arguments, str(tmp_path / 'out')]) == 0
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert summary['in'] == len(reports) == 160861 and summary['kept'] == reports.nunique() == 66162
