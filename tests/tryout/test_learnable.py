"""What keeps rows from being learned is said before training, with the reason."""
import numpy as np
import pytest
from PIL import Image
from support.rows import box_mask, rle, write_jsonl
from support.try_rows import make_row, shape_rows, shapes

from swift_citrusv.tryout.learnable import check_rows
from swift_citrusv.tryout.run import NotLearnable, plan_rows
from swift_citrusv.tryout.user_rows import masks_of, read_rows


@pytest.fixture
def images(tmp_path):
    """Twelve images of 96 x 96 and the masks of each."""
    rng = np.random.default_rng(1)
    found = []
    for index in range(12):
        pixels, masks = shapes(rng)
        path = tmp_path / f'i{index}.png'
        Image.fromarray(pixels).save(path)
        found.append((str(path), {name: rle(mask) for name, mask in masks.items()}))
    return found


def findings(folder, rows, needs_split=True):
    checked = read_rows(write_jsonl(folder / 'rows.jsonl', rows))
    return {(item.level, item.kind): str(item) for item in check_rows(checked, masks_of(checked), needs_split)}


def asked(images, question, answer):
    return [make_row(path, f'<image>{question.format(name)}', answer.format(name), mask)
            for path, masks in images for name, mask in masks.items()]  # yapf: disable


def test_good_rows_have_no_findings(tmp_path):
    found = findings(tmp_path, shape_rows(tmp_path, 40))
    assert not found, found


def test_what_stops(tmp_path, images):
    empty, whole = rle(np.zeros((96, 96), np.uint8)), rle(box_mask((96, 96), (5, 5, 60, 60)))
    dot = rle(box_mask((96, 96), (40, 40, 41, 41)))
    good = asked(images, 'Segment the {}.', 'The {}: [SEG].')
    cases = {
        'no-masks': ([{key: value for key, value in row.items() if key != 'masks'} for row in good],
                     '24 of 24 rows have [SEG]'),
        'empty-masks': ([make_row(path, '<image>The cell?', '[SEG]', empty) for path, _ in images],
                        'All 12 masks are empty'),
        'one-image': (good[:2], 'All 2 masks are on one image'),
        'few-images': (good[:6], '3 images: too few'),
        'no-name': (asked(images, 'Segment it.', 'Here: [SEG].'), '24 of 24 masks'),
        'equal-masks': ([make_row(path, f'<image>Segment the {name}.', f'The {name}: [SEG].', whole)
                         for path, _ in images for name in ('liver', 'spleen')], 'On 12 of 12 images'),
        'vanishing-masks': ([make_row(path, '<image>Segment the spot.', 'The spot: [SEG].', dot)
                             for path, _ in images], '12 of 12 masks vanish'),
    }  # yapf: disable
    for kind, (rows, text) in cases.items():
        found = findings(tmp_path, rows)
        assert ('stop', kind) in found, (kind, found)
        assert text in found['stop', kind], found
        with pytest.raises(NotLearnable, match='cannot be learned'):
            plan_rows(str(tmp_path / 'rows.jsonl'), None, 1000, 200)
    # Held-out rows of their own: one image is then too few, but not for want of a split.
    assert ('stop', 'few-images') in findings(tmp_path, cases['one-image'][0], needs_split=False)
    no_rows = tmp_path / 'none.jsonl'
    no_rows.write_text('\n')
    with pytest.raises(NotLearnable, match='has no rows'):
        plan_rows(str(no_rows), None, 1000, 200)


def test_what_is_doubtful_goes_on(tmp_path, images):
    good = asked(images, 'Segment the {}.', 'The {}: [SEG].')
    dot, full = rle(box_mask((96, 96), (40, 40, 41, 41))), rle(np.ones((96, 96), np.uint8))
    empty = rle(np.zeros((96, 96), np.uint8))
    path = images[0][0]
    cases = {
        'few-images': (good, '12 images'),
        'few-masks': ([*good, make_row(path, '<image>Segment the rare thing.', 'The rare thing: [SEG].', full)],
                      '"rare thing" 1'),
        'vanishing-masks': ([*good, make_row(path, '<image>Segment the dot.', 'The dot: [SEG].', dot)],
                            '"dot" 1 of 1'),
        'question-without-name': (asked(images, 'Segment it.', 'The {}: [SEG].'), 'Segment it.'),
        'no-name': ([*good, make_row(path, '<image>Segment it.', '[SEG]', full),
                     make_row(path, '<image>Segment it.', '[SEG]', dot)], '2 of 26 masks'),
        'empty-masks': ([make_row(p, '<image>The cell?', 'The cell: [SEG].', empty if index % 4 else full)
                         for index, (p, _) in enumerate(images)], '9 of 12 masks are empty'),
        'seg-without-masks': ([*good, make_row(path, '<image>Segment the nerve.', 'The nerve: [SEG].')],
                              '1 of 25 rows'),
        'full-masks': ([make_row(p, '<image>The cell?', 'The cell: [SEG].', full) for p, _ in images],
                       '12 of 12 masks cover'),
    }  # yapf: disable
    for kind, (rows, text) in cases.items():
        found = findings(tmp_path, rows)
        assert ('doubt', kind) in found and text in found['doubt', kind], (kind, found)
        assert not [key for key in found if key[0] == 'stop'], found


def test_one_kind_of_structure_needs_no_name(tmp_path, images):
    rows = [make_row(path, '<image>Segment.', '[SEG]', masks['pale disc']) for path, masks in images]
    found = findings(tmp_path, rows)
    assert not [key for key in found if key[0] == 'stop'] and ('doubt', 'no-name') in found
