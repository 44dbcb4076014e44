"""Images with an EXIF orientation, against a transposition by numpy, wherever one is opened."""
import base64
import io
import json
import numpy as np
import pickle
import pytest
from copy import deepcopy
from pathlib import Path
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from support.image_kinds import noise, orientation
from support.lengths import ask, assert_equal_lengths
from support.raised import raised_by
from support.rows import box_mask, rle
from support.turned import FORMATS, SUFFIXES, TURNS, encoded, one_chunk, pixels, stored

from swift_citrusv.errors import RowError
from swift_citrusv.files import notices
from swift_citrusv.files.images import checked_frame, open_image, open_label_map, to_rgb
from swift_citrusv.files.orientation import ImageSize
from swift_citrusv.rows.masks import decode_mask

HEIGHT, WIDTH = 56, 84


def write(path: Path, turn: int, name: str = 'JPEG', image: Image.Image | None = None) -> tuple[str, np.ndarray]:
    """Writes a file, asymmetric; returns its name and its upright pixels."""
    image = noise(HEIGHT, WIDTH) if image is None else image
    path = path.with_suffix('.' + SUFFIXES.get(name.split()[0], 'png'))
    path.write_bytes(encoded(image, name, turn))
    return str(path), TURNS[turn](stored(encoded(image, name, 1)))


def test_every_orientation_in_every_format(tmp_path):
    for name in FORMATS:
        for turn in TURNS:
            path, upright = write(tmp_path / f'{name}_{turn}', turn, name)
            content, case = Path(path).read_bytes(), (name, turn)
            text = base64.b64encode(content).decode()
            references = [path, Image.open(path)]
            if turn in (1, 6):
                references += [f'file://{path}', content, io.BytesIO(content), {'bytes': content}, {'path': path}]
                references += [f'data:image/x;base64,{text}', text, Image.open(path).copy(), deepcopy(Image.open(path))]
                references += [pickle.loads(pickle.dumps(Image.open(path))), Image.open(path).convert('RGB')]
            for reference in references:
                with open_image(reference) as image:
                    assert (image.height, image.width) == upright.shape[:2] == tuple(ImageSize.of(image)), case
                    rgb = to_rgb(image)
                assert np.array_equal(pixels(rgb), upright), case
                # Nothing turns it again.
                assert np.array_equal(pixels(to_rgb(open_image(rgb))), upright), case
                assert pickle.loads(pickle.dumps(ImageSize.of(rgb))).orientation == turn or 'TIFF' in name, case
            frame = checked_frame(path)
            assert np.array_equal(pixels(Image.open(frame) if isinstance(frame, str) else frame), upright), case


def test_a_large_file_is_searched_behind_its_pixels(tmp_path, monkeypatch):
    """Without decoding a file that has nothing there."""
    image = noise(300, 400)
    path, upright = write(tmp_path / 'late', 6, 'PNG behind the pixels', image)
    assert len(Path(path).read_bytes()) > 3 << 16
    assert np.array_equal(pixels(open_image(path)), upright)
    # The pixels in one chunk, and more than the searched end of the file in the chunk behind them.
    content = one_chunk(Path(path).read_bytes())
    Path(path).write_bytes(content)
    assert np.array_equal(pixels(open_image(path)), upright)
    plain, _ = write(tmp_path / 'plain', 1, 'PNG', image)
    content = Path(plain).read_bytes()
    monkeypatch.setattr(PngImageFile, 'load', lambda image: pytest.fail('the pixels were decoded'))
    for data in (content, one_chunk(content)):
        assert open_image(data).size == (400, 300)


def test_other_modes_keep_their_values(tmp_path):
    """Palettes, 16 bits, one bit, alpha; XMP; metadata that cannot be read."""
    values = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)
    grey = (values % 251).astype(np.uint8)
    for turn, turned in TURNS.items():
        for image in (Image.fromarray(values), Image.fromarray(grey), Image.fromarray(grey % 2 * 255).convert('1'),
                      Image.fromarray(grey).convert('LA'), Image.fromarray(grey).convert('RGBA')):
            path = str(tmp_path / 'a.png')
            image.save(path, exif=orientation(turn))
            opened = open_image(path)
            assert np.array_equal(np.asarray(opened), turned(np.asarray(image))), (turn, image.mode)
            assert opened.mode == image.mode
        palette = Image.fromarray(grey % 7).convert('P')
        palette.putpalette([n * 9 for n in range(21)])
        palette.save(path, exif=orientation(turn), transparency=3)
        assert np.array_equal(np.asarray(open_label_map(path)), turned(np.asarray(palette))), turn
        assert np.array_equal(pixels(to_rgb(open_image(path))), turned(pixels(palette))), turn
    broken = tmp_path / 'broken.jpg'
    noise(HEIGHT, WIDTH).save(broken, exif=b'Exif\0\0II*\0\xff\xff\xff\xff')
    assert open_image(str(broken)).size == (WIDTH, HEIGHT)
    noise(HEIGHT, WIDTH).save(broken, exif=orientation(9))
    assert open_image(str(broken)).size == (WIDTH, HEIGHT)


def test_a_turned_image_trains_as_the_upright_one(template, tmp_path):
    """MLLM pixels, SAM2 pixels, masks and length; polygons, RLE and mask files, turned or not."""
    polygon = [3, 5, 30, 5, 30, 20, 3, 20]
    for turn in (2, 3, 5, 6, 7, 8):
        path, upright = write(tmp_path / f'photo{turn}', turn, 'PNG')
        plain = str(tmp_path / 'upright.png')
        Image.fromarray(upright).save(plain)
        mask = box_mask(upright.shape[:2], (3, 5, 31, 21))
        # A mask file with the same orientation: its stored pixels are the mask turned back.
        back = {6: 8, 8: 6}.get(turn, turn)
        Image.fromarray(np.ascontiguousarray(TURNS[back](mask) * 200)).save(
            tmp_path / 'mask.png', exif=orientation(turn))
        Image.fromarray(mask * 200).save(tmp_path / 'plain_mask.png')
        masks = [[polygon], rle(mask), {'path': str(tmp_path / 'mask.png'), 'label': 200},
                 {'path': str(tmp_path / 'plain_mask.png')}]  # yapf: disable
        rows = [{
            'messages': [{
                'role': 'user',
                'content': '<image>Where?'
            }, {
                'role': 'assistant',
                'content': '[SEG]' * 4
            }],
            'images': [image],
            'masks':
            masks
        } for image in (path, plain)]
        encoded_rows = [template.encode(row) for row in rows]
        for key in ('input_ids', 'pixel_values', 'image_grid_thw', 'g_pixel_values', 'masks', 'mask_image_index'):
            first, second = (np.asarray(row[key]) for row in encoded_rows)
            assert np.array_equal(first, second), (turn, key)
        assert (np.asarray(encoded_rows[0]['masks'])[1:] == np.asarray(encoded_rows[0]['masks'])[1]).all()
        assert_equal_lengths(template, rows + [ask(path, path)])


def test_a_mask_of_the_stored_size(template, tmp_path, capsys):
    from swift_citrusv.cli import main
    path, upright = write(tmp_path / 'photo', 6)
    mask = np.ones((HEIGHT, WIDTH), np.uint8)
    Image.fromarray(mask).save(tmp_path / 'raw.png')
    for entry in (rle(mask), {'path': str(tmp_path / 'raw.png')}):
        row = {**ask(path), 'masks': [entry]}
        row['messages'][1]['content'] = '[SEG]'
        error = raised_by(RowError, template.encode, row)
        assert error.kind == 'mask-size' and 'EXIF orientation 6' in str(error) and 'exif_transpose' in str(error)
        assert f'{[HEIGHT, WIDTH]}' in str(error) and f'{[WIDTH, HEIGHT]}' in str(error)
        assert_equal_lengths(template, [row])
        rows = tmp_path / 'rows.jsonl'
        rows.write_text(json.dumps(row) + '\n')
        assert main.main(['check-data', str(rows)]) != 0
        assert 'EXIF orientation 6' in capsys.readouterr().out
    # Another size than both, or an image that is not turned: the usual error.
    error = raised_by(RowError, decode_mask, rle(mask), size=(5, 6), row='r', position=0)
    assert 'EXIF' not in str(error)


def test_pictures_servers_pages_and_reports(tmp_path):
    from swift_citrusv.app.uploads import Upload
    from swift_citrusv.cli.check_pictures import _panels
    from swift_citrusv.cli.check_rows import image_sizes
    from swift_citrusv.files.rules import file_rules
    from swift_citrusv.inference.request_checks import _image
    from swift_citrusv.inference.text_client import data_url
    from swift_citrusv.rows.columns import ColumnRules
    from swift_citrusv.scoring.row_images import image_size_of, open_rgb
    for turn in (3, 6):
        path, upright = write(tmp_path / 'photo', turn)
        row = {**ask(path), 'masks': [rle(box_mask(upright.shape[:2], (1, 2, 9, 9)))]}
        row['messages'][1]['content'] = '[SEG]'
        [(drawn, masks, _)] = _panels(json.dumps(row), 'rows:1', ColumnRules())
        assert np.array_equal(drawn, upright) and masks[0].shape == upright.shape[:2]
        assert image_sizes([path], 'r', decode=True) == image_sizes([path], 'r', decode=False) == [upright.shape[:2]]
        assert image_size_of({'images': [path]}, 0, (), 'r') == upright.shape[:2]
        assert np.array_equal(pixels(open_rgb(path)[0]), upright)
        assert np.array_equal(pixels(Upload(path, file_rules()).open(None)), upright)
        sent = stored(base64.b64decode(data_url(path).partition(',')[2]))
        assert np.array_equal(sent, upright)
        assert np.array_equal(pixels(open_image(_image(path, file_rules())[0])), upright)


def test_it_is_said_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(notices, '_shown', set())
    for number in range(3):
        open_image(write(tmp_path / f'photo{number}', 3)[0])
        open_image(write(tmp_path / f'plain{number}', 1)[0])
    [message] = [record.message for record in caplog.records if 'EXIF' in record.message]
    assert 'photo0.jpg has the EXIF orientation 3' in message and 'upright' in message


def test_the_image_of_the_caller_stays_open(tmp_path):
    path, upright = write(tmp_path / 'photo', 6)
    mine = Image.open(path)
    with open_image(mine) as opened:
        assert np.array_equal(pixels(opened), upright)
    opened.close()
    with open_image(mine) as opened:
        pass
    assert np.array_equal(pixels(opened), upright)
    assert mine.size == (WIDTH, HEIGHT) and mine.getpixel((0, 0)) is not None
    with pytest.raises(OSError, match='truncated'):
        Path(path).write_bytes(Path(path).read_bytes()[:2000])
        to_rgb(open_image(path))


def test_a_request_is_answered_on_the_upright_image(make_template, tmp_path):
    from swift.template import StdTemplateInputs

    from swift_citrusv.constants import SEG_REQUEST_KEY
    template = make_template(mode='transformers')
    turned, upright = write(tmp_path / 'photo', 7, 'PNG')
    plain = str(tmp_path / 'upright.png')
    Image.fromarray(upright).save(plain)
    requests = [
        StdTemplateInputs.from_dict({
            **ask(image), 'messages': ask(image)['messages'][:1]
        }) for image in (plain, turned, Image.open(turned))
    ]
    pixel_values = [np.asarray(template._encode_truncated(request)['pixel_values']) for request in requests]
    for name, request, values in zip(("plain", "turned", "object"), requests, pixel_values):
        assert np.array_equal(values, pixel_values[0]), name
        assert np.array_equal(pixels(request.extra_kwargs[SEG_REQUEST_KEY].images[0]), upright)
