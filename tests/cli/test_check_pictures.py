"""The pictures of `citrusv check-data --pictures`."""
import numpy as np
import pytest
from pathlib import Path
from PIL import Image
from support.check_data import check, write_lines
from support.rows import Maker, box_mask, rle

from swift_citrusv.cli.check_pictures import evenly_spaced


@pytest.mark.parametrize('count', [1, 2, 5, 7, 20])
def test_evenly_spaced_values(count):
    values = [n * n for n in range(7)]
    chosen = evenly_spaced(values, count)
    assert len(chosen) == min(count, 7) and sorted(set(chosen)) == chosen and set(chosen) <= set(values)
    assert chosen[0] == values[0] and (count == 1 or chosen[-1] == values[-1])
    gaps = np.diff([values.index(value) for value in chosen])
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_masks_are_drawn_at_their_place(tmp_path):
    # A grey image, so that any colour is a mask.
    image = tmp_path / 'grey.png'
    Image.fromarray(np.full((60, 120, 3), 128, np.uint8)).save(image)
    row = Maker(tmp_path).row
    left, right = box_mask((60, 120), (10, 10, 50, 50)), box_mask((60, 120), (70, 20, 110, 40))
    rows = [row('<image>Go.', 'Left [SEG], 右 [SEG].', images=[str(image)], masks=[rle(left), rle(right)])] * 6
    rows.insert(3, row('<image>What is it?', 'Grey.', images=[str(image)]))
    folder = tmp_path / 'pictures'
    status, report, out = check(tmp_path, write_lines(tmp_path / 'rows.jsonl', rows), '--pictures', folder,
                                '--num-pictures', 3)
    assert status == 0
    assert [Path(path).name for path in report['pictures']] == ['row_1.png', 'row_3.png', 'row_7.png', 'sheet.png']
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ['row_1.png', 'row_3.png', 'row_7.png', 'sheet.png', 'captions.txt'])
    assert (folder / 'captions.txt').read_text(encoding='utf-8').splitlines()[3:6] == [
        f'{tmp_path.name}/rows.jsonl:3, 120 x 60', 'masks[0]: Left [SEG], 右 [ ].', 'masks[1]: Left [ ], 右 [SEG].'
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
    # Each mask has its own colour.
    first, second = drawn[round(30 * scale), round(30 * scale)], drawn[round(30 * scale), round(90 * scale)]
    assert np.abs(first - second).max() > 50
    sheet = Image.open(folder / 'sheet.png')
    assert sheet.width == 3 * 256 + 2 * 4 and 256 < sheet.height < 400


def test_no_pictures_without_masks(tmp_path):
    file = write_lines(tmp_path / 'rows.jsonl', [Maker(tmp_path).row('Hello?', 'Hello.')])
    status, report, _ = check(tmp_path, file, '--pictures', tmp_path / 'pictures')
    assert (status, report['pictures']) == (0, []) and not (tmp_path / 'pictures').exists()


def test_one_pixel_mask_is_visible(tmp_path):
    maker = Maker(tmp_path / 'images')
    image = tmp_path / 'grey.png'
    Image.fromarray(np.full((2048, 2048, 3), 128, np.uint8)).save(image)
    speck = rle(box_mask((2048, 2048), (1001, 501, 1002, 502)))
    file = write_lines(tmp_path / 'rows.jsonl', [maker.row('<image>Go.', '[SEG]', images=[str(image)], masks=[speck])])
    check(tmp_path, file, '--pictures', tmp_path)
    drawn = np.array(Image.open(tmp_path / 'row_1.png').convert('RGB')).astype(int)[:512]
    assert np.argwhere(drawn.max(axis=2) - drawn.min(axis=2) > 10).tolist() == [[501 // 4, 1001 // 4]]
