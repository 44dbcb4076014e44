"""`citrusv data leaks`: planted items of evaluation sets are found, each with its id, and nothing else is."""
import duckdb
import hashlib
import io
import json
import numpy as np
import pytest
import random
from collections.abc import Sequence
from pathlib import Path
from PIL import Image
from support import chest, scans
from support.benchmark_files import medmcqa_rows, write_json, write_parquet
from support.messy_rows import row
from typing import Any

from swift_citrusv.cli.main import main
from swift_citrusv.curation.verify import problems

WORDS = ('lung heart pleura liver spleen kidney artery vein nodule opacity effusion fracture mass oedema cyst shadow '
         'contour margin apex base lobe hilum trachea rib spine clavicle scapula muscle fat skin tissue air fluid '
         'shows reveals suggests excludes borders displaces compresses surrounds crosses enters leaves').split()
ASKED = 'What is seen here?'


def sentence(rng: random.Random, count: int = 20) -> str:
    return ' '.join(rng.choice(WORDS) for _ in range(count)).capitalize() + '.'


def picture(rng: np.random.Generator) -> Image.Image:
    """Something with structure on every scale, and like no other."""
    image = np.zeros((256, 256))
    for size in (4, 8, 16, 32, 64):
        part = Image.fromarray(rng.random((size, size)).astype(np.float32)).resize((256, 256), Image.Resampling.BICUBIC)
        image += np.asarray(part)
    return Image.fromarray((image / image.max() * 255).clip(0, 255).astype(np.uint8))


def leaks(rows: Sequence[dict[str, Any]], folder: Path, *flags: str, workers: int = 1) \
        -> tuple[list[set[tuple[str, str]]], dict[str, Any]]:
    """(level, item) of each row, and the certificate."""
    folder.mkdir(exist_ok=True)
    (folder / 'train.jsonl').write_text('\n'.join(json.dumps(item, ensure_ascii=False) for item in rows))
    out = folder / f'out{len(list(folder.glob("out*")))}'
    assert main(['data', 'leaks', str(folder / 'train.jsonl'), '--output', str(out), '--workers', str(workers), *flags
                 ]) == 0  # yapf: disable
    assert problems(str(out), quiet=True) == []
    found: list[set[tuple[str, str]]] = [set() for _ in rows]
    for line, rule, verdict, evidence in duckdb.connect().execute(
            f"SELECT line, rule, verdict, evidence_id FROM '{out}/ledger/*.parquet' WHERE rule <> ''").fetchall():
        assert verdict == 'dropped'
        found[line - 1].add((rule, evidence))
    return found, json.loads((out / 'certificate.json').read_text())


@pytest.fixture(scope='module')
def planted(tmp_path_factory) -> tuple[Path, list[dict[str, Any]], list[set[tuple[str, str]]]]:
    """A folder with evaluation sets, training rows, and what each of them holds."""
    folder = tmp_path_factory.mktemp('planted')
    rng, numbers = random.Random(0), np.random.default_rng(0)
    (folder / 'images').mkdir()
    rows: list[dict[str, Any]] = []
    expected: list[set[tuple[str, str]]] = []
    texts, films, people = [], [], []
    for number in range(100):
        question, report = sentence(rng, 6 if number % 4 == 0 else 24), sentence(rng)
        texts.append({'id': f'text-{number}', 'question': question, 'answer': 'yes'})
        changed = question.split()
        changed[len(changed) // 2] = 'something'
        variants = (question, question.upper().replace(' ', '  '), f'Look closely. {question} Answer with one word.',
                    ' '.join(changed))  # yapf: disable
        # A short question counts as a whole only.
        rows.append(row(variants[number % 2 if number % 4 == 0 else number % 4], 'no'))
        expected.append({('text', f'text-{number}')})

        image = picture(numbers)
        name, copy = str(folder / 'images' / f'{number}.png'), str(folder / 'images' / f'{number}-copy.x')
        image.save(name)
        copies = (image, image.resize((200, 200)), image.crop((5, 5, 251, 251)), image.rotate(90))
        copies[number % 4].save(copy, 'PNG' if number % 4 == 0 else 'JPEG', **({'quality': 60} if number % 4 else {}))
        films.append({'id': f'film-{number}', 'images': [name], 'question': ASKED, 'answer': report})
        rows += [row(sentence(rng), sentence(rng), copy), row(ASKED, sentence(rng), copy)]
        expected += [{('image', f'film-{number}')}, {('pair', f'film-{number}')}]

        people.append({'id': f'person-{number}', 'question': sentence(rng), 'answer': 'no', 'study': f's{number}',
                       'patient': f'p{number}'})  # yapf: disable
        rows += [row(sentence(rng), sentence(rng), study=f's{number}', patient='unknown'),
                 row(sentence(rng), sentence(rng), study=f't{number}', patient=f'p{number}')]  # yapf: disable
        expected += [{('study', f'person-{number}')}, {('patient', f'person-{number}')}]

        # Clean: other images, the same short question about another image, other texts.
        other = str(folder / 'images' / f'{number}-other.png')
        picture(numbers).save(other)
        rows += [row(ASKED, sentence(rng), other), row(sentence(rng), 'yes'), row('Is it?', 'no', patient='Unknown')]
        expected += [set(), set(), set()]
    for kind, items in (('texts', texts), ('films', films), ('people', people)):
        (folder / f'{kind}.jsonl').write_text('\n'.join(map(json.dumps, items)))
    return folder, rows, expected


def test_planted_items(planted, tmp_path):
    folder, rows, expected = planted
    against = ['--against', *(str(folder / f'{kind}.jsonl') for kind in ('texts', 'films', 'people'))]
    found, certificate = leaks(rows, tmp_path, *against, workers=2)
    wrong = [(number, want, got) for number, (want, got) in enumerate(zip(expected, found)) if want != got]
    assert not wrong, wrong[:10]
    again, same = leaks(rows, tmp_path, *against)
    assert (again, same) == (found, certificate)
    assert certificate['leaks'] == {level: 100 for level in ('pair', 'image', 'text', 'study', 'patient')}
    assert certificate['rows'] == len(rows) and certificate['rows_without_a_leak'] == 300
    sets = {item['set']: item for item in certificate['evaluation_sets']}
    assert [sets[name]['items'] for name in ('texts.jsonl', 'films.jsonl', 'people.jsonl')] == [100, 100, 100]
    assert sets['films.jsonl']['images'] == 100 and sets['films.jsonl']['images_not_opened'] == 0
    assert sets['people.jsonl']['study_ids'] == sets['people.jsonl']['patient_ids'] == 100
    content = (folder / 'texts.jsonl').read_bytes()
    by_file = f'texts.jsonl\0{hashlib.sha256(content).hexdigest()}\n'
    assert sets['texts.jsonl']['sha256'] == hashlib.sha256(by_file.encode()).hexdigest()
    assert certificate['input'][0]['sha256'] == hashlib.sha256((tmp_path / 'train.jsonl').read_bytes()).hexdigest()
    # Chosen levels only, and no images.
    found, certificate = leaks(rows, tmp_path, *against, '--levels', 'text', 'pair', '--no-images')
    assert certificate['leaks'] == {'pair': 0, 'text': 100} and not certificate['images_compared']


def test_presets(tmp_path):
    """Published files, with images inside Parquet files."""
    rng = np.random.default_rng(3)
    stored, other = picture(rng), picture(rng)
    content = io.BytesIO()
    stored.save(content, 'PNG')
    write_parquet(tmp_path / 'path' / 'test-0.parquet', [
        {'image': {'bytes': content.getvalue(), 'path': None}, 'question': 'is it?', 'answer': 'yes'}])  # yapf: disable
    vignette = 'A patient of 54 years has had pain in the chest for two hours and sweats. Which drug is given first?'
    write_json(tmp_path / 'mcq' / 'dev.json', [{**medmcqa_rows(0)[0], 'question': vignette}])
    stored.save(tmp_path / 'copy.jpg', quality=70)
    other.save(tmp_path / 'other.png')
    rows = [
        row('Describe this slide in one sentence.', 'It shows cells.', str(tmp_path / 'copy.jpg')),
        row('Is it?', 'no', str(tmp_path / 'copy.jpg')),
        row('Is it?', 'yes', str(tmp_path / 'other.png')),
        row(f'{vignette}\nA. w\nB. x\nAnswer with a letter.', 'A'),
        row('Which drug is given first?', 'Aspirin.'),
        row('Is there a cell on this slide?', 'yes', str(tmp_path / 'copy.jpg')),
    ]
    found, certificate = leaks(rows, tmp_path, '--against', f'path-vqa={tmp_path / "path"}',
                               f'medmcqa={tmp_path / "mcq"}')  # yapf: disable
    path, = {item for level, item in found[0]}
    assert path.startswith('path-vqa:')
    assert found == [{('image', path)}, {('pair', path)}, set(), {('text', 'medmcqa:q0')}, set(), {('image', path)}]
    assert [item['kind'] for item in certificate['evaluation_sets']] == ['path-vqa', 'medmcqa']
    # A question about an image that is not at hand is no leak by itself.
    write_json(tmp_path / 'slake' / 'test.json', [
        {'img_id': 1, 'img_name': 'gone.jpg', 'question': 'Is the heart seen here?', 'answer': 'No', 'q_lang': 'en',
         'qid': 1, 'location': 'Chest', 'modality': 'CT', 'answer_type': 'CLOSED'}])  # yapf: disable
    rows = [row('Is the heart seen here?', 'no')]
    found, certificate = leaks(rows, tmp_path, '--against', f'slake={tmp_path / "slake"}')
    assert found == [set()] and certificate['evaluation_sets'][0]['images'] == 0


def test_dicom_headers_and_folders_of_images(tmp_path):
    values = chest.voxels(2)[0][60:66] + 1024
    tags = {'StudyInstanceUID': '1.2.3.50', 'PatientID': 'K-17'}
    held = scans.series(tmp_path / 'held', values[:2], **tags)
    same_study = scans.series(tmp_path / 'a', values[3:4], **tags)
    same_patient = scans.series(tmp_path / 'b', values[4:5], StudyInstanceUID='1.2.3.51', PatientID='K-17')
    # Anonymised: nobody's name is no person.
    stranger = scans.series(tmp_path / 'c', values[5:6], StudyInstanceUID='1.2.3.52', PatientID='ANONYMOUS')
    scans.series(tmp_path / 'held' / 'more', values[2:3] // 2, StudyInstanceUID='1.2.3.60', PatientID='Anonymous')
    Image.fromarray(np.uint8(values[0] // 16)).save(tmp_path / 'export.png')
    (tmp_path / 'held' / 'notes.txt').write_text('no image')
    rows = [row(ASKED, 'A slice of a chest.', f'{name}#window=lung')
            for name in (same_study[0], same_patient[0], stranger[0], held[1])]  # yapf: disable
    rows.append(row(ASKED, 'By a column.', study='1.2.3.50', patient='nobody known'))
    write_json(tmp_path / 'held' / 'questions.json', [{'id': 'asked', 'question': 'How old is he?', 'answer': '50'}])
    rows.append(row('how old is he', 'Forty.'))
    found, certificate = leaks(rows, tmp_path, '--against', str(tmp_path / 'held'))
    assert [certificate['evaluation_sets'][0][name] for name in ('files', 'files_not_read', 'items')] == [4, 1, 4]
    levels = [sorted(level for level, _ in item) for item in found]
    assert levels[:3] == [['patient', 'study'], ['patient'], []] and levels[4] == ['study']
    assert {'patient', 'study'} <= set(levels[3])
    assert {evidence.split('/')[0] for item in found[:5] for _, evidence in item} == {'held'}
    # A table beside the images is read, too.
    assert certificate['evaluation_sets'][0]['images'] == 3 and found[5] == {('text', 'asked')}


def test_each_slice_of_a_volume_is_an_item(tmp_path):
    """A picture of one slice of a volume of the evaluation set is found, and one of a slice beside it is not it."""
    values, _ = chest.voxels(2)
    sets = tmp_path / 'sets'
    sets.mkdir()
    # Axial slices are numbered from the feet; rows and columns of NIfTI run to the left and the front.
    part = values[60:90:6][:, ::-1, ::-1].transpose(2, 1, 0)
    scans.nifti(sets / 'ct.nii.gz', part, np.diag([1.4, 1.4, 15, 1]))
    rows = []
    for number in (72, 40):
        grey = ((values[number] + 1000) / 1500 * 255).clip(0, 255).astype(np.uint8)
        Image.fromarray(grey).save(tmp_path / f'{number}.png')
        rows.append(row(ASKED, 'A chest.', str(tmp_path / f'{number}.png')))
    found, certificate = leaks(rows, tmp_path / 'run', '--against', str(sets))
    assert found == [{('image', 'sets/ct.nii.gz#index=2')}, set()]
    assert certificate['evaluation_sets'][0]['images'] == 5


def test_rows_as_an_evaluation_set_and_a_recipe(tmp_path, monkeypatch, capsys):
    """Rows of training's own format; the step in a recipe; why."""
    monkeypatch.chdir(tmp_path)
    rng = random.Random(5)
    held = [row(sentence(rng), sentence(rng)) for _ in range(3)]
    Path('held.jsonl').write_text('\n'.join(map(json.dumps, held)))
    train = [row('Say something.', held[1]['messages'][1]['content']), row(sentence(rng), sentence(rng))]
    Path('rows.jsonl').write_text('\n'.join(map(json.dumps, train)))
    Path('recipe.yaml').write_text('- dedup\n- leaks: {against: [held.jsonl], no_images: true}\n')
    assert main(['data', 'run', 'recipe.yaml', 'rows.jsonl', '--output', 'out']) == 0
    assert main(['data', 'verify', 'out']) == 0
    assert json.loads(Path('out/02-leaks/certificate.json').read_text())['leaks']['text'] == 1
    capsys.readouterr()
    assert main(['data', 'why', 'out', 'rows.jsonl:1']) == 0
    text = capsys.readouterr().out
    assert 'leaks: dropped; by text' in text and 'held.jsonl:2' in text
    # An edited certificate is found.
    path = Path('out/02-leaks/certificate.json')
    path.write_text(path.read_text().replace('"text": 1', '"text": 0'))
    assert problems('out/02-leaks', quiet=True)


@pytest.mark.parametrize('against,message', [
    ('gone', 'there is no such file or folder. Give a file or a folder, or PRESET=PATH'),
    ('slake=gone', 'there is no gone'),
    ('empty', 'neither files of rows nor images'),
    ('slake=empty', 'slake=empty: '),
    ('broken.jsonl', 'broken.jsonl:2 of the evaluation set'),
    ('note.txt', 'note.txt has nothing to compare'),
])
def test_clear_errors(tmp_path, monkeypatch, capsys, against, message):
    monkeypatch.chdir(tmp_path)
    Path('empty').mkdir()
    Path('note.txt').write_text('\n')
    Path('broken.jsonl').write_text('{"question": "Is it?", "answer": "no"}\n{"question": \n')
    Path('rows.jsonl').write_text(json.dumps(row('Is it?', 'no')))
    assert main(['data', 'leaks', 'rows.jsonl', '--output', 'out', '--against', against]) == 2
    error = capsys.readouterr().err
    assert message in error and 'Traceback' not in error
