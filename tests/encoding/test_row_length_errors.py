"""Measuring lengths: the errors are those of the full encode, and nothing is decoded."""
import json
import numpy as np
import os
import pytest
from pathlib import Path
from PIL import Image, ImageFile, TiffImagePlugin
from support.bad_rows import BAD_ROWS
from support.image_kinds import noise, write_images
from support.lengths import ask, assert_equal_lengths, full_lengths, measured_lengths, other_rows, outcome, video_rows
from support.rows import Maker, box_mask

from swift_citrusv.constants import ROW_COLUMN
from swift_citrusv.encoding.row_length import MeasuringTemplate, measure
from swift_citrusv.errors import RowError

# BAD_ROWS that only pixels give away, or that end before any template sees them.
PIXELS_ONLY = {'RLE with a broken string', 'polygon outside the image', 'label in a colour file', 'image truncated'}
# Messages that name an object of PIL by its address.
OTHER_TEXT = {'image is a web page', 'image of zero bytes'}


@pytest.fixture(scope='module')
def template(make_template):
    return make_template(40000)


@pytest.fixture(scope='module')
def image_files(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp('images'))


# ---- bad rows


@pytest.mark.parametrize('name', [name for name, (row, _) in BAD_ROWS.items() if isinstance(row, dict)])
def test_bad_row(name, make_template, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    noise(84, 84).save('good.png')
    Image.fromarray(np.full((84, 84, 3), 255, np.uint8)).save('colour_mask.png')
    Image.fromarray(np.full((40, 60), 255, np.uint8)).save('small_mask.png')
    Path('truncated.png').write_bytes(Path('good.png').read_bytes()[:-400])
    Path('empty.png').write_bytes(b'')
    Path('page.png').write_text('<html>404 Not Found</html>')
    Path('folder.png').mkdir()
    template = make_template(512)
    row = {key: value for key, value in BAD_ROWS[name][0].items() if value is not None} | {ROW_COLUMN: 'train.jsonl:2'}
    full, measured = outcome(full_lengths, template, row), outcome(measured_lengths, template, row)
    if name in PIXELS_ONLY:
        assert full[0] is RowError and measured[0][0] > 10
    elif name in OTHER_TEXT:
        assert measured[0] is full[0] is RowError and BAD_ROWS[name][1][0] in measured[1]
    else:
        # The few good ones have been refused by a preprocessor.
        assert measured == full and (isinstance(full, tuple) or 'where other rows have' in name)


def test_forged_sizes(template, tmp_path, monkeypatch):
    """Bombs are told by their header, and a ratio beyond 200 by the arithmetic, in the words of the full encode."""
    maker = Maker(tmp_path)
    line, small, large = str(tmp_path / 'line.png'), maker.image(60, 60), maker.image(300, 300)
    Image.new('L', (3, 1000)).save(line)
    rows = [ask(line), ask(line, objects={'ref': [], 'bbox': [[1]]})]
    rows += [maker.row('<video>What?', 'It.', videos=[frames]) for frames in ([], [line], [small, large])]
    outcomes = assert_equal_lengths(template, rows)
    monkeypatch.setenv('CITRUSV_MAX_IMAGE_PIXELS', '80000')
    outcomes += assert_equal_lengths(template, [ask(large)])
    assert [chunks[0] for chunks in outcomes] == [RowError] * 6
    assert 'aspect ratio' in outcomes[0][1] and 'max_image_pixels' in outcomes[-1][1]


def test_a_pipe_is_no_image(template, tmp_path):
    os.mkfifo(tmp_path / 'pipe.png')
    with pytest.raises(RowError, match='pipe.png.*not a regular file'):
        measure(template, ask(str(tmp_path / 'pipe.png')))


# ---- nothing is decoded


def test_no_pixel_and_no_mask_is_decoded(template, image_files, tmp_path, monkeypatch):
    decodable = [path for path in image_files if Path(path).name not in ('plain.ico', 'plain.tga', 'huge.png')]
    maker = Maker(tmp_path)
    Image.fromarray(box_mask((84, 84), (1, 1, 9, 9))).save(tmp_path / 'mask.png')
    file_mask = maker.row(
        '<image>Segment.', '[SEG]', images=[maker.image()], masks=[{
            'path': str(tmp_path / 'mask.png')
        }])
    rows = maker.every_kind() + other_rows(maker) + [ask(path) for path in decodable] + video_rows(tmp_path)[:5]
    rows.append(file_mask)
    expected = [full_lengths(template, row) for row in rows]

    def decoded(*args, **kwargs):
        raise AssertionError('decoded')

    loaders = {cls for cls in _subclasses(Image.Image) if 'load' in vars(cls) and cls.__name__ != '_SizeOnly'}
    assert ImageFile.ImageFile in loaders and TiffImagePlugin.TiffImageFile in loaders
    for cls in loaders:
        monkeypatch.setattr(cls, 'load', decoded)
    monkeypatch.setattr('swift_citrusv.encoding.seg_tensors.decode_mask', decoded)
    monkeypatch.setattr('swift_citrusv.rows.masks.decode_mask', decoded)
    monkeypatch.setattr('pycocotools.mask.decode', decoded)
    monkeypatch.setattr('numpy.asarray', _refuse_images(np.asarray))
    for row, lengths in zip(rows, expected):
        assert measured_lengths(template, row) == lengths
    # The patches do catch what decodes.
    with pytest.raises(RowError, match='decoded'):
        template.encode(ask(decodable[0]))
    with pytest.raises(RowError, match='decoded'):
        measure(template, ask(next(path for path in image_files if path.endswith('.ico'))))


def _subclasses(cls: type) -> set[type]:
    children: list[type] = cls.__subclasses__()
    return {cls}.union(*map(_subclasses, children))


def _refuse_images(asarray):

    def refusing(value, *args, **kwargs):
        assert not isinstance(value, Image.Image), 'decoded'
        return asarray(value, *args, **kwargs)

    return refusing


def test_template_is_left_alone(template, tmp_path):
    before = {name: id(value) for name, value in vars(template).items()}
    row = Maker(tmp_path).every_kind()[4]
    content = json.dumps(row)
    MeasuringTemplate(template).measure(row)
    assert {name: id(value) for name, value in vars(template).items()} == before and json.dumps(row) == content
    assert callable(template.processor.image_processor.preprocess)
    assert len(template.encode(row)['masks']) == 3
