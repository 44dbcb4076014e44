"""Pictures of answers: what is tinted and outlined, the legend, and names of files that never collide."""
import numpy as np
import pytest
import warnings
from concurrent.futures import ThreadPoolExecutor
from PIL import Image, ImageDraw
from support.requests_with_images import picture

from swift_citrusv.inference import overlays
from swift_citrusv.inference.overlays import check_overlay_dir, draw_overlay, mask_colour, outline, save_overlays
from swift_citrusv.inference.results import MaskResult, box_of
from swift_citrusv.rows.masks import encode_rle
from swift_citrusv.settings import SettingError


def result(mask: np.ndarray, phrase: str = 'the cell', image: int = 0) -> MaskResult:
    rle = encode_rle(mask)
    score = 0.9 if mask.any() else 0.
    return MaskResult(rle, box_of(rle), int(mask.sum()), score, 0.5, 0.5, False, phrase, image, 'only', 0)


def disc(width: int, height: int, x: int, y: int, radius: int) -> np.ndarray:
    canvas = Image.new('L', (width, height))
    ImageDraw.Draw(canvas).ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    return np.array(canvas)


def edge_by_hand(mask: np.ndarray, thickness: int) -> np.ndarray:
    """The pixels of a mask with a pixel outside it in the square of `thickness` around them."""
    height, width = mask.shape
    edge = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            around = mask[max(y - thickness, 0):y + thickness + 1, max(x - thickness, 0):x + thickness + 1]
            edge[y, x] = mask[y, x] and not around.all()
    return edge * 255


@pytest.mark.parametrize('thickness', [1, 2, 3, 7])
def test_outlines_are_those_of_a_slow_definition(thickness):
    rng = np.random.default_rng(thickness)
    for number in range(12):
        height, width = rng.integers(1, 40, 2)
        mask = disc(width, height, *rng.integers(0, 40, 3))
        if number % 3 == 0:
            mask = (rng.random((height, width)) < 0.9).astype(np.uint8)
        if not mask.any():
            continue
        left, top, w, h = (round(value) for value in box_of(encode_rle(mask)))
        drawn = np.zeros_like(mask)
        box = np.ascontiguousarray(mask[top:top + h, left:left + w])
        drawn[top:top + h, left:left + w] = outline(box, thickness, (top, left, height, width))
        np.testing.assert_array_equal(drawn, edge_by_hand(mask, thickness))


def test_the_picture_is_the_image_but_for_the_masks():
    image = picture(1, 640, 400)
    masks = [disc(640, 400, 200, 200, 90), disc(640, 400, 260, 200, 90), np.zeros((400, 640), np.uint8)]
    drawn = draw_overlay(image, list(enumerate(map(result, masks), 1)))
    assert drawn.width == 640 and drawn.height > 400
    before, after = np.asarray(image), np.asarray(drawn)[:400]
    outside = (masks[0] | masks[1]) == 0
    np.testing.assert_array_equal(after[outside], before[outside])
    # min(640, 400) / 300: one pixel. The tint of the second mask does not cover the outline of the first.
    for mask, number in ((masks[0], 1), (masks[1], 2)):
        edge = edge_by_hand(mask, 1) > 0
        if number == 1:
            edge &= edge_by_hand(masks[1], 1) == 0
        assert (after[edge] == mask_colour(number)).all()
    alone = (masks[0] > masks[1]) & (edge_by_hand(masks[0], 1) == 0)
    tinted = before[alone] + (np.array(mask_colour(1)) - before[alone]) * (89 / 255)
    assert np.abs(after[alone] - tinted).max() <= 1
    # A legend on white, with the colours of all three.
    legend = np.asarray(drawn)[400:].reshape(-1, 3)
    assert (legend == 255).all(1).mean() > 0.7
    assert all((legend == mask_colour(number)).all(1).sum() > 100 for number in (1, 2, 3))


def test_a_small_image_stays_small_above_its_legend():
    drawn = draw_overlay(picture(2, 60, 40), [(1, result(disc(60, 40, 20, 20, 10), 'a phrase ' * 12))])
    assert drawn.width == 320 and (np.asarray(drawn)[:40, 60:] == 255).all()
    assert drawn.height > 40 + 3 * 18


def test_twenty_masks_have_twenty_colours():
    assert len({mask_colour(number) for number in range(1, 201)}) == 200


def test_a_large_image():
    """36 megapixels; all at once in floats it would be several gigabytes."""
    image = Image.new('RGB', (7200, 5000), (90, 90, 90))
    masks = [disc(7200, 5000, 3000, 2500, 2400), disc(7200, 5000, 7190, 10, 400)]
    drawn = draw_overlay(image, list(enumerate(map(result, masks), 1)))
    assert drawn.size[0] == 7200 and drawn.height > 5000
    assert drawn.getpixel((3000, 110)) == mask_colour(1) and drawn.getpixel((10, 10)) == (90, 90, 90)
    # The outline is as wide for the eye as on a small image.
    assert drawn.getpixel((3000, 100 + 15)) == mask_colour(1) != drawn.getpixel((3000, 100 + 40))
    # At the border of the image there is none.
    assert drawn.getpixel((7199, 0)) != mask_colour(2)


def test_what_no_font_shows_is_a_box_and_is_said(monkeypatch):
    own = overlays._fonts()[:1]
    monkeypatch.setattr(overlays, '_fonts', lambda: own)
    with pytest.warns(UserWarning, match='细胞.*fonts-noto-cjk'):
        draw_overlay(picture(1), [(1, result(disc(84, 84, 40, 40, 20), '细胞'))])
    text, font = overlays._readable('the 5 µm line', 13)
    assert text == 'the 5 µm line' and 'DejaVu' in str(font.path)


def test_chinese_where_a_font_has_it(monkeypatch):
    fonts = [
        path for path in overlays._fonts() if {ord(character)
                                               for character in '细胞核'} <= overlays._characters(path)
    ]
    if not fonts:
        pytest.skip('no font with Chinese is installed (Debian: fonts-wqy-microhei)')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        text, font = overlays._readable('1  细胞核 nucleus (1,234 px)', 13)
    assert '□' not in text and font.path in fonts


def test_lines_are_cut_to_the_width():
    _, font = overlays._readable('x', 13)
    for text in ('a phrase of several words ' * 5, 'x' * 300, '细胞核' * 40):
        lines = overlays._wrapped(text, font, 200)
        assert len(lines) > 2 and all(font.getlength(line) <= 200 for line in lines)
        assert ''.join(lines).replace(' ', '') == text.replace(' ', '')


# ---- files


def test_names_never_collide(tmp_path):
    images, masks = [picture(1), picture(2)], [result(disc(84, 84, 40, 40, 20), image=index) for index in (1, 0, 1)]
    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(lambda _: save_overlays(str(tmp_path), 'rows.jsonl:12', images, masks), range(8)))
    paths = [entry['path'] for entries in written for entry in entries]
    assert len(set(paths)) == 16 == len(list(tmp_path.iterdir()))
    assert [entry['image_index'] for entry in written[0]] == [0, 1]
    assert (tmp_path / 'rows.jsonl-12_image1.png').exists() and (tmp_path / 'rows.jsonl-12_image2_8.png').exists()
    # The name of a row is no path.
    (entry, ) = save_overlays(str(tmp_path / 'new'), '../../etc/a b', images, masks[1:2])
    assert entry['path'] == str(tmp_path / 'new' / '..-..-etc-a-b_image1.png')
    assert Image.open(entry['path']).size[0] == 320
    assert save_overlays(str(tmp_path), None, images, []) == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(SettingError, match='overlay_dir=.*cannot be created'):
        check_overlay_dir(str(tmp_path / 'file' / 'folder'))
    check_overlay_dir(str(tmp_path / 'a' / 'b'))
    assert (tmp_path / 'a' / 'b').is_dir()
