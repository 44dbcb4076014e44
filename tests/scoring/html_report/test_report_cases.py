"""Which cases the report shows, and their pictures."""
import base64
import io
import math
import numpy as np
import pytest
from PIL import Image
from support.discs import disc_rows, page_of, picture_of

from swift_citrusv.scoring.html_report.report_cases import image_data_url, select_cases


def test_selection_of_cases():
    for values, higher_is_better, best, worst, num_others in (
        ([.1 * i for i in range(20)], True, [19, 18, 17, 16, 15, 14], [0, 1, 2, 3, 4, 5], 6),
        ([.1 * i for i in range(20)], False, [0, 1, 2, 3, 4, 5], [19, 18, 17, 16, 15, 14], 6),
        ([3, 1, 2], True, [0, 2], [1], 0),
        ([math.nan, 1, 2, math.inf], True, [2], [1], 2),
        ([5], True, [], [], 1),
        ([1] * 9, True, [], [], 6),
        ([math.nan] * 3, True, [], [], 3),
        (None, True, [], [], 6),
    ):  # yapf: disable
        size = 8 if values is None else len(values)
        column = None if values is None else np.array(values, float)
        chosen = select_cases(column, higher_is_better, size, seed=3)
        assert [*chosen.best] == best and [*chosen.worst] == worst and len(chosen.others) == num_others, values
        everything = [*chosen.best, *chosen.worst, *chosen.others]
        assert len(set(everything)) == len(everything) and all(0 <= case < size for case in everything), values
        assert select_cases(column, higher_is_better, size, seed=3) == chosen, values


def test_ties_are_broken_at_random():
    values = np.array([1.] * 100 + [0.] * 3)
    chosen = select_cases(values, True, 103, 0)
    assert set(chosen.worst) >= {100, 101, 102} and [*chosen.best] != [0, 1, 2, 3, 4, 5]
    assert select_cases(values, True, 103, 1).best != chosen.best


def test_pictures_are_those_of_the_cases(evaluated):
    rows = disc_rows(30)
    evaluation = evaluated(rows)
    page = page_of(evaluation)
    dice, cases = evaluation.table.columns['dice'], evaluation.table
    order = np.argsort(dice)
    images = page.named('img')
    for image, case in zip(images, [*order[::-1][:6], *order[:6]]):
        content = image['src'].removeprefix('data:image/png;base64,')
        found = np.array(Image.open(io.BytesIO(base64.b64decode(content))))
        row, index = int(cases.rows[case]), int(cases.indices[case])
        expected = picture_of(evaluation.pairs.pair(row), index)
        np.testing.assert_array_equal(found, np.array(expected))
        # By the row's own id, with its line.
        assert f'r{row} (ref.jsonl:{row + 1}), disc {index}' in image['alt']
    assert [image['alt'].split()[0] for image in images] == ['best'] * 6 + ['worst'] * 6 + ['random'] * 6


def test_any_picture_fits():
    generator = np.random.default_rng(0)
    for size in ((1, 1), (64, 48), (3000, 20), (20, 3000), (2000, 1500), (800, 412)):
        noise = Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), np.uint8))
        head, _, content = image_data_url(noise).partition(';base64,')
        found = Image.open(io.BytesIO(base64.b64decode(content)))
        assert len(content) <= 140_000 and max(found.size) <= 800, size
        assert head == f'data:image/{str(found.format).lower()}', size
        # A narrow picture keeps at least a pixel.
        if min(size) > 40:
            assert found.width / found.height == pytest.approx(size[0] / size[1], rel=.02), size
        plain = image_data_url(Image.new('L', size, 7))
        assert plain.startswith('data:image/png') and len(plain) < 6000, size
