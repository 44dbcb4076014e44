"""`citrusv check-data`: every bad row by number, right counts, pictures, and the same verdict as training."""
import json
import numpy as np
import pytest
from collections import Counter
from pathlib import Path
from PIL import Image
from support.rows import Maker, box_mask, rle
from typing import Any

from swift_citrusv.cli.check_data import FailureLog, length_percentiles
from swift_citrusv.cli.check_pictures import evenly_spaced
from swift_citrusv.cli.check_rows import RowFailure, seg_sentences
from swift_citrusv.cli.main import main
from swift_citrusv.files.images import open_image
from swift_citrusv.rows.jsonl import read_lines
from swift_citrusv.training.jsonl_dataset import scan_jsonl

SMALL = 84


def write(path: Path, lines: list[Any]) -> Path:
    """Rows as JSON, text as it is, bytes as they are."""
    data = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
    path.write_bytes(b''.join((line.encode() if isinstance(line, str) else line) + b'\n' for line in data))
    return path


def check(capsys, tmp_path: Path, file: Path, *arguments: object) -> tuple[int, dict[str, Any], str]:
    """The exit status, the JSON report and stdout of `citrusv check-data`."""
    report = tmp_path / 'reports' / 'report.json'
    status = main(['check-data', str(file), '--json', str(report), *map(str, arguments)])
    captured = capsys.readouterr()
    return status, json.loads(report.read_text(encoding='utf-8')), captured.out


def bad_rows(maker: Maker) -> list[tuple[str, Any]]:
    """One row for each way to fail that shows without a model, with the kind of its error."""
    image, mask, row = maker.image, maker.mask, maker.row
    broken = maker.folder / 'broken.png'
    broken.write_bytes(Path(image()).read_bytes()[:200])

    def seg(**columns: Any) -> dict[str, Any]:
        return row('<image>Segment the cell.', 'The cell: [SEG].', **columns)

    return [
        ('not-json', 'not json'),
        ('not-json', '{"messages": ['),
        ('not-json', '["a", "list"]'),
        ('not-json', b'{"messages": "\xff"}'),
        ('not-json', '{"number": ' + 5000 * '9' + '}'),
        ('not-json', 3000 * '[{"a":' + '1'),
        ('messages', {
            'messages': []
        }),
        ('message', {
            'messages': [{
                'role': 'user'
            }]
        }),
        ('mask-count', seg(images=[image()], masks=[mask(), mask()])),
        ('mask-count', row('<image>Segment [SEG].', 'No.', images=[image()], masks=[mask()])),
        ('mask-images-missing', seg(images=[image(), image()], masks=[mask()])),
        ('mask-images-value', seg(images=[image()], masks=[mask()], mask_images=[1])),
        ('masks-without-image', seg(masks=[mask()])),
        ('mask-form', seg(images=[image()], masks=[{
            'size': [SMALL, SMALL]
        }])),
        ('mask-size', seg(images=[image()], masks=[mask(50, SMALL)])),
        ('mask-file', seg(images=[image()], masks=[{
            'path': 'none.png'
        }])),
        ('mask-outside', seg(images=[image()], masks=[[[200, 200, 210, 200, 210, 210]]])),
        ('image-unreadable', seg(images=['none.png'], masks=[mask()])),
        ('image-unreadable', seg(images=[str(broken)], masks=[mask()])),
        ('image-unreadable', row('<image>What is it?', 'A cell.', images=[str(broken)])),
        ('image-unreadable', row('<image>What is it?', 'A cell.', images=['data:image/png;base64,AAAA'])),
        ('image-unreadable', row('<image>What is it?', 'A cell.', images=[None])),
        ('image-unreadable', row('<image>What is it?', 'A cell.', images=[5])),
        ('mask-file', seg(images=[image()], masks=[{
            'path': 'https://nowhere.invalid/mask.png'
        }])),
        ('image-tags', row('<image>What is it?', 'A cell.')),
        ('image-tags', row('<image><image>Segment it.', 'The cell: [SEG].', images=[image()], masks=[mask()])),
        ('video-tags', row('<video><image>What is it?', 'A cell.', images=[image()])),
    ]


@pytest.fixture(scope='module')
def mixed(tmp_path_factory) -> tuple[Path, dict[int, str]]:
    """A file with good rows of every kind, bad ones among them and blank lines; the line and kind of each bad one."""
    folder = tmp_path_factory.mktemp('mixed')
    maker = Maker(folder / 'images')
    good = maker.every_kind()
    lines: list[Any] = ['', '  ']
    bad = {}
    for i, (kind, row) in enumerate(bad_rows(maker)):
        lines += [good[i % len(good)], '', row]
        bad[len(lines)] = kind
    lines += good
    return write(folder / 'mixed.jsonl', lines), bad


def shown(out: str, label: str) -> int:
    """The number that the printed report gives for `label`."""
    return next(int(line[26:].replace(',', '')) for line in out.splitlines() if line[:26].strip() == label)


# ---- failing rows


def test_every_bad_row_is_named(mixed, tmp_path, capsys):
    file, bad = mixed
    status, report, out = check(capsys, tmp_path, file)
    assert status == 1
    assert {failure['line']: failure['kind'] for failure in report['failures']} == bad
    assert report['failing_rows'] == len(report['failures']) == len(bad)
    assert report['failures_by_kind'] == Counter(bad.values())
    listing = out.partition('Failing rows:\n')[2].splitlines()
    assert [line.split('  ')[:2] for line in listing] == [[f'mixed.jsonl:{n}', f'[{kind}]'] for n, kind in bad.items()]
    for line, failure in zip(listing, report['failures']):
        # The row once, then problem and remedy.
        assert line.endswith(failure['message']) and line.count('mixed.jsonl') == 1
    counts = out.partition('Failing rows by kind')[2].partition('Failing rows:')[0]
    for kind, count in Counter(bad.values()).items():
        assert [str(count), kind] in [line.split() for line in counts.splitlines()]
    # Nothing is lost between good, bad and blank.
    num_rows = sum(bool(line.strip()) for line in file.read_bytes().splitlines())
    assert report['rows'] == num_rows == report['ordinary_rows'] + report['mask_rows'] + report['failing_rows']


def test_processes_change_nothing(mixed, tmp_path, capsys):
    file, _ = mixed
    alone = check(capsys, tmp_path, file)
    together = check(capsys, tmp_path, file, '--num-proc', 2)
    assert alone[2].splitlines() == together[2].splitlines()
    assert alone == together


def test_errors_are_those_of_training(mixed, tmp_path, capsys, caplog):
    file, _ = mixed
    with caplog.at_level('WARNING'):
        columns, bad, num_rows = scan_jsonl(str(file), strict=False)
    _, report, _ = check(capsys, tmp_path, file)
    assert report['rows'] == num_rows and {'messages', 'masks'} <= set(columns)
    failures = {failure['line']: f'{failure["row"]}: {failure["message"]}' for failure in report['failures']}
    assert len(bad) > 12 and set(bad) < set(failures)
    skips = [record.getMessage().partition(' so far): ')[2] for record in caplog.records]
    assert [' '.join(skip.split()) for skip in skips if skip] == [failures[line] for line in bad]


@pytest.mark.parametrize('lines, num_rows', [([], 0), (['', ' '], 0), (['not json', 'nor this'], 2)])
def test_file_without_a_good_row_fails(lines, num_rows, tmp_path, capsys):
    status, report, out = check(capsys, tmp_path, write(tmp_path / 'rows.jsonl', lines))
    assert status == 1
    assert report['rows'] == report['failing_rows'] == len(report['failures']) == num_rows
    assert ('has no rows' in out) == (num_rows == 0)
    assert 'All rows are good' not in out


def test_failure_log_keeps_whatever_a_line_held():
    failures = [RowFailure(i, f'a:{i}', 'kind', text) for i, text in enumerate(['\udcff', '{"\n', '细胞核', ''])]
    with FailureLog() as log:
        for failure in failures:
            log.add(failure)
        assert [RowFailure(**values) for values in log] == failures
        assert [RowFailure(**values) for values in log] == failures


# ---- counts


def good_rows(maker: Maker) -> list[dict[str, Any]]:
    """Twelve rows of every kind, one with an empty mask and one whose mask is smaller than a target's pixel."""
    empty = rle(np.zeros((SMALL, SMALL), np.uint8))
    speck = rle(box_mask((2048, 2048), (1, 0, 2, 1)))
    again = maker.image()
    return [
        *maker.every_kind(),
        maker.row('<image>Segment the bone.', 'Bone: [SEG].', images=[again], masks=[empty]),
        maker.row('<image>Segment the bone.', 'Bone: [SEG].', images=[maker.image(2048, 2048)], masks=[speck]),
        maker.row('<image>What is it?', 'A bone. [SEG] [SEG]', images=again),
    ]


EXPECTED = {
    'rows': 15,
    'ordinary_rows': 6,
    'mask_rows': 9,
    'failing_rows': 0,
    'multi_image_rows': 2,
    'images': 13,
    'distinct_images': 12,
    'videos': 2,
    'masks': 13,
    'empty_masks': 1,
    'lost_masks': 1,
    'elsewhere_masks': 2,
    'text_seg_tokens': 3,
}


def test_counts_and_json_agree_with_print(tmp_path, capsys):
    file = write(tmp_path / 'good.jsonl', good_rows(Maker(tmp_path / 'images')))
    status, report, out = check(capsys, tmp_path, file)
    assert status == 0 and report['failures'] == [] and report['tokens'] is None
    assert {key: report[key] for key in EXPECTED} == EXPECTED
    labels = [
        'rows', 'ordinary', 'with masks', 'failing', 'rows with several images', 'images', 'distinct', 'videos',
        'masks', 'empty ("not present")', 'empty at target size', 'on an image not named', '[SEG] as text alone'
    ]
    assert [shown(out, label) for label in labels] == list(EXPECTED.values())
    assert 'All rows are good' in out


def test_limit(tmp_path, capsys):
    maker = Maker(tmp_path / 'images')
    file = write(tmp_path / 'rows.jsonl', [maker.every_kind()[0], '', maker.every_kind()[2], 'not json'])
    status, report, out = check(capsys, tmp_path, file, '--limit', 2)
    assert (status, report['rows'], report['mask_rows']) == (0, 2, 1)
    assert 'Only the first 2 rows' in out


@pytest.mark.parametrize('lengths', [[7], [3, 9], [5, 1, 4, 1, 5, 9, 2, 6], list(range(1, 1001)), [2] * 99 + [50]])
def test_percentiles(lengths):
    expected = {
        name: int(np.percentile(lengths, q, method='inverted_cdf'))
        for name, q in [('min', 0), ('p50', 50), ('p90', 90), ('p99', 99), ('max', 100)]
    }
    assert length_percentiles(Counter(lengths)) == expected
    assert length_percentiles(Counter()) is None


# ---- images and sentences


def test_images_are_found_where_ms_swift_finds_them(tmp_path, monkeypatch):
    import base64
    from swift.template import vision_utils
    maker = Maker(tmp_path / 'root' / 'images')
    path = Path(maker.image())
    monkeypatch.chdir(tmp_path)
    text = base64.b64encode(path.read_bytes()).decode()
    here = [str(path), 'root/images/image_0.png', f'data:image/png;base64,{text}', text]
    for reference in here:
        assert np.array_equal(
            np.array(open_image(reference).convert('RGB')),
            np.array(vision_utils.load_image(reference))), reference[:40]
    with pytest.raises(FileNotFoundError):
        open_image('images/image_0.png')
    monkeypatch.setenv('ROOT_IMAGE_DIR', str(tmp_path / 'root'))
    assert np.array_equal(
        np.array(open_image('images/image_0.png')), np.array(vision_utils.load_image('images/image_0.png')))


def test_sentences_name_each_mask():
    messages: list[dict[str, Any]] = [{
        'role': 'user',
        'content': 'Segment [SEG].'
    }, {
        'role': 'assistant',
        'content': 'A 3.5 mm cyst. Bone [SEG] and vessels [SEG]. Done!\nNerve:\n[SEG]'
    }, {
        'role': 'assistant',
        'content': [{
            'type': 'text',
            'text': '细胞核：[SEG]。血管。'
        }]
    }]
    assert seg_sentences(messages) == [
        'Bone [SEG] and vessels [ ].', 'Bone [ ] and vessels [SEG].', '[SEG]', '细胞核：[SEG]。'
    ]


# ---- pictures


@pytest.mark.parametrize('count', [1, 2, 5, 7, 20])
def test_spread_is_even_and_deterministic(count):
    values = [n * n for n in range(7)]
    chosen = evenly_spaced(values, count)
    assert len(chosen) == min(count, 7) and sorted(set(chosen)) == chosen and set(chosen) <= set(values)
    assert chosen[0] == values[0] and (count == 1 or chosen[-1] == values[-1])
    gaps = np.diff([values.index(value) for value in chosen])
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_pictures(tmp_path, capsys):
    # A grey image, so that whatever has colour is a mask.
    image = tmp_path / 'grey.png'
    Image.fromarray(np.full((60, 120, 3), 128, np.uint8)).save(image)
    row = Maker(tmp_path).row
    left, right = box_mask((60, 120), (10, 10, 50, 50)), box_mask((60, 120), (70, 20, 110, 40))
    rows = [row('<image>Go.', 'Left [SEG], 右 [SEG].', images=[str(image)], masks=[rle(left), rle(right)])] * 6
    rows.insert(3, row('<image>What is it?', 'Grey.', images=[str(image)]))
    folder = tmp_path / 'pictures'
    status, report, out = check(capsys, tmp_path, write(tmp_path / 'rows.jsonl', rows), '--pictures', folder,
                                '--num-pictures', 3)
    assert status == 0
    assert [Path(path).name for path in report['pictures']] == ['row_1.png', 'row_3.png', 'row_7.png', 'sheet.png']
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ['row_1.png', 'row_3.png', 'row_7.png', 'sheet.png', 'captions.txt'])
    assert (folder / 'captions.txt').read_text(encoding='utf-8').splitlines()[3:6] == [
        'rows.jsonl:3, 120 x 60', 'masks[0]: Left [SEG], 右 [ ].', 'masks[1]: Left [ ], 右 [SEG].'
    ]
    picture = np.array(Image.open(folder / 'row_1.png').convert('RGB')).astype(int)
    assert picture.shape[1] == 512 and 512 < picture.shape[0] < 700
    # 120 x 60 on a square of 512: 4.27 times as large, with white above and below.
    drawn = picture[128:384]
    coloured = drawn.max(axis=2) - drawn.min(axis=2) > 10
    scale = 512 / 120
    inside = np.zeros_like(coloured)
    for x0, y0, x1, y1 in ((10, 10, 50, 50), (70, 20, 110, 40)):
        inside[round(y0 * scale):round(y1 * scale), round(x0 * scale):round(x1 * scale)] = True
    assert (coloured != inside).mean() < 0.01
    # A colour for each mask.
    first, second = drawn[round(30 * scale), round(30 * scale)], drawn[round(30 * scale), round(90 * scale)]
    assert np.abs(first - second).max() > 50
    sheet = Image.open(folder / 'sheet.png')
    assert sheet.width == 3 * 256 + 2 * 4 and 256 < sheet.height < 400


def test_no_mask_rows_no_pictures(tmp_path, capsys):
    file = write(tmp_path / 'rows.jsonl', [Maker(tmp_path).row('Hello?', 'Hello.')])
    status, report, _ = check(capsys, tmp_path, file, '--pictures', tmp_path / 'pictures')
    assert (status, report['pictures']) == (0, []) and not (tmp_path / 'pictures').exists()


def test_speck_shows_in_a_picture(tmp_path, capsys):
    maker = Maker(tmp_path / 'images')
    image = tmp_path / 'grey.png'
    Image.fromarray(np.full((2048, 2048, 3), 128, np.uint8)).save(image)
    speck = rle(box_mask((2048, 2048), (1001, 501, 1002, 502)))
    file = write(tmp_path / 'rows.jsonl', [maker.row('<image>Go.', '[SEG]', images=[str(image)], masks=[speck])])
    check(capsys, tmp_path, file, '--pictures', tmp_path)
    drawn = np.array(Image.open(tmp_path / 'row_1.png').convert('RGB')).astype(int)[:512]
    assert np.argwhere(drawn.max(axis=2) - drawn.min(axis=2) > 10).tolist() == [[501 // 4, 1001 // 4]]


# ---- with a model


def ms_swift_rows(maker: Maker) -> list[tuple[str, Any]]:
    """Rows that keep the row contract, and that ms-swift refuses all the same."""
    row = maker.row
    return [
        ('preprocessor', {
            'messages': [{
                'role': 'someone',
                'content': 'Hello?'
            }, {
                'role': 'assistant',
                'content': 'Yes.'
            }]
        }),
        ('MaxLengthError', row('Count.', 'one two ' * 600)),
        # In a file whose other rows have 'messages' and 'images', ms-swift drops the one row and the other's image.
        ('messages', {
            'query': 'Hello?',
            'response': 'Hello.'
        }),
        ('images', row('What is it?', 'A cell.', image=maker.image())),
        ('video-unreadable', row('<video>What moves?', 'The cell.', videos=['none.mp4'])),
    ]


def trained_on(line: str, folder: Path, template: Any) -> bool:
    """Whether a training run takes the row: ms-swift's own loading of a file with it, then the template."""
    from swift.dataset import load_dataset
    turns = [{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': 'b'}]
    other = json.dumps({'messages': turns, 'images': []})
    file = folder / 'one.jsonl'
    # A row that is good beside it, so that the columns are those of the file.
    file.write_bytes(f'{line.strip()}\n{other}\n'.encode('utf-8', 'surrogateescape'))
    try:
        dataset, _ = load_dataset([str(file)], strict=True, load_from_cache_file=False, shuffle=False)
        return len(dataset) == 2 and bool(template.encode(dataset[0], return_length=True))
    except (ValueError, AssertionError, AttributeError, KeyError, TypeError, RecursionError):
        return False


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('MODELSCOPE_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setenv('HF_DATASETS_CACHE', str(tmp_path / 'cache'))


def test_verdict_is_that_of_training(tiny_checkpoint, tmp_path, capsys, fresh_cache):
    from swift.model import get_model_processor
    from swift.template import get_template

    from swift_citrusv.plugin.datasets import patch_dataset_loading
    from swift_citrusv.plugin.register import register_model, register_template
    maker = Maker(tmp_path / 'images')
    wrong = [*bad_rows(maker), *ms_swift_rows(maker)]
    file = write(tmp_path / 'rows.jsonl', [*maker.every_kind(), *(row for _, row in wrong)])
    status, report, out = check(capsys, tmp_path, file, '--model', tiny_checkpoint, '--max-length', 1000)
    failures = {failure['line']: failure['kind'] for failure in report['failures']}
    assert status == 1
    assert failures == {13 + i: kind for i, (kind, _) in enumerate(wrong)}
    register_model()
    register_template()
    patch_dataset_loading()
    _, processor = get_model_processor(tiny_checkpoint, model_type='citrusv', load_model=False)
    template = get_template(processor, max_length=1000)
    template.set_mode('train')
    good = {number: trained_on(line, tmp_path, template) for number, line in read_lines(str(file))}
    assert good == {number: number not in failures for number in good}


def test_lengths_are_those_of_the_template(tiny_checkpoint, tmp_path, capsys):
    rows = [*good_rows(Maker(tmp_path / 'images')), Maker(tmp_path).row('Count.', 'one ' * 3000)]
    file = write(tmp_path / 'rows.jsonl', rows)
    status, report, out = check(capsys, tmp_path, file, '--model', tiny_checkpoint, '--max-length', 8192)
    assert status == 0 and report['max_length'] == 8192
    # As without a model, but for the targets of the tiny preset, in which a mask of one pixel in 2048 is lost too.
    assert {key: report[key] for key in EXPECTED} == {**EXPECTED, 'rows': 16, 'ordinary_rows': 7}
    tokens = report['tokens']
    assert list(tokens) == ['min', 'p50', 'p90', 'p99', 'max']
    assert ', '.join(f'{name} {value:,}' for name, value in tokens.items()) in out
    # A row that does not fit still counts, with its full length.
    status, shorter, _ = check(capsys, tmp_path, file, '--model', tiny_checkpoint, '--max-length', tokens['max'] - 1)
    assert status == 1 and shorter['tokens'] == tokens
    assert [(f['line'], f['kind']) for f in shorter['failures']] == [(14, 'MaxLengthError')]
    assert str(
        tokens['max']) in shorter['failures'][0]['message'] and '--max_length' in shorter['failures'][0]['message']


def test_plain_mllm_is_enough(tiny_mllm, tmp_path, capsys, monkeypatch):
    import os
    monkeypatch.delenv('SAM2', raising=False)
    maker = Maker(tmp_path / 'images')
    rows = maker.every_kind()
    file = write(tmp_path / 'rows.jsonl', rows)
    status, report, out = check(capsys, tmp_path, file, '--model', tiny_mllm)
    assert (status, report['rows'], report['mask_rows']) == (0, len(rows), 7)
    assert 'SAM2 is not set: masks are checked for sam2.1_hiera_l' in out
    assert 'SAM2' not in os.environ


def test_model_in_two_processes(tiny_checkpoint, tmp_path, capsys):
    maker = Maker(tmp_path / 'images')
    file = write(tmp_path / 'rows.jsonl', [*maker.every_kind(), *(row for _, row in ms_swift_rows(maker))])
    arguments = (file, '--model', tiny_checkpoint, '--max-length', 1000)
    assert check(capsys, tmp_path, *arguments) == check(capsys, tmp_path, *arguments, '--num-proc', 2)


# ---- what the user can get wrong


@pytest.mark.parametrize('arguments, message', [
    (['{tmp}/none.jsonl'], '{tmp}/none.jsonl: no such file'),
    (['{tmp}'], '{tmp}: not a file'),
    (['{tmp}/rows.jsonl', '--max-length', '8'], '--max-length 8 needs --model'),
    (['{tmp}/rows.jsonl', '--model', '{tmp}/none'], '--model {tmp}/none holds no config.json'),
    (['{tmp}/rows.jsonl', '--model', '{tmp}/llama'], 'holds a llama'),
    (['{tmp}/rows.jsonl', '--model', '{tmp}/broken'], 'config.json is not JSON'),
    (['{tmp}/rows.jsonl', '--model', '{tmp}/no_tokenizer'], '--model {tmp}/no_tokenizer cannot be loaded'),
    (['{tmp}/rows.jsonl', '--json', '{tmp}/rows.jsonl/report.json'], 'rows.jsonl: '),
])
def test_errors(arguments, message, tmp_path, tiny_checkpoint, capsys):
    write(tmp_path / 'rows.jsonl', [Maker(tmp_path).row('Hello?', 'Hello.')])
    config = Path(tiny_checkpoint, 'config.json').read_text()
    for name, text in (('llama', '{"model_type": "llama"}'), ('broken', '{'), ('no_tokenizer', config)):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'config.json').write_text(text)
    status = main(['check-data', *(word.replace('{tmp}', str(tmp_path)) for word in arguments)])
    captured = capsys.readouterr()
    assert status == 2
    last = captured.err.splitlines()[-1]
    assert last.startswith('citrusv: error: ') and message.replace('{tmp}', str(tmp_path)) in last
