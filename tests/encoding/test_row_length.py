"""Lengths from headers and text, row by row against the full encode, and that nothing is decoded on the way."""
import base64
import io
import json
import numpy as np
import os
import pytest
import threading
import torch
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from PIL import Image, ImageFile, TiffImagePlugin
from support.bad_rows import BAD_ROWS
from support.rows import Maker, box_mask, rle
from swift.template import MaxLengthError
from typing import Any

from swift_citrusv.constants import ROW_COLUMN
from swift_citrusv.encoding.row_length import MeasuringTemplate, measure
from swift_citrusv.errors import RowError

# BAD_ROWS that only pixels give away, or that end before any template sees them.
PIXELS_ONLY = {'RLE with a broken string', 'polygon outside the image', 'label in a colour file', 'image truncated'}
# Messages that name an object of PIL by its address.
OTHER_TEXT = {'image is a web page', 'image of zero bytes'}
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'


@pytest.fixture(scope='module')
def make_template(tiny_checkpoint):
    from swift.model import get_model_processor
    from swift.template import get_template

    from swift_citrusv.plugin.register import register
    register()
    _, processor = get_model_processor(tiny_checkpoint, model_type='citrusv', load_model=False)

    def make(max_length: int | None = None, mode: str = 'train', **kwargs):
        template = get_template(processor, max_length=max_length, **kwargs)
        template.set_mode(mode)
        return template

    return make


@pytest.fixture(scope='module')
def template(make_template):
    return make_template(40000)


def noise(height: int, width: int) -> Image.Image:
    rng = np.random.default_rng(height * width)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def oriented_tiff(value: int) -> TiffImagePlugin.ImageFileDirectory_v2:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[0x0112] = value
    return tags


def xmp_tiff() -> TiffImagePlugin.ImageFileDirectory_v2:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype[700] = 1
    tags[700] = XMP
    return tags


def write_images(folder: Path) -> list[str]:
    """One file of every kind that could have another size after loading than its header says, or than it looks."""
    folder.mkdir(exist_ok=True)
    wide = noise(100, 300)
    grey = wide.convert('L')
    files: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        'plain.jpg': (wide, {}),
        'grey.jpg': (grey, {}),
        'turned.jpg': (wide, {'exif': orientation(6)}),
        'cmyk.jpg': (wide.convert('CMYK'), {}),
        'progressive.jpg': (wide, {'progressive': True}),
        'frames.mpo': (wide, {'save_all': True, 'append_images': [noise(50, 60)]}),
        'plain.png': (wide, {}),
        'turned.png': (wide, {'exif': orientation(6)}),
        'palette.png': (wide.quantize(16), {}),
        'clear.png': (wide.quantize(16), {'transparency': 0}),
        'deep.png': (Image.fromarray(np.arange(30000, dtype=np.uint16).reshape(100, 300)), {}),
        'alpha.png': (wide.convert('RGBA'), {}),
        'grey_alpha.png': (wide.convert('LA'), {}),
        'bits.png': (wide.convert('1'), {}),
        'plain.tif': (wide, {}),
        'turned.tif': (wide, {'tiffinfo': oriented_tiff(6)}),
        'turned_lzw.tif': (wide, {'tiffinfo': oriented_tiff(8), 'compression': 'tiff_lzw'}),
        'mirrored.tif': (wide, {'tiffinfo': oriented_tiff(2)}),
        'turned_xmp.tif': (wide, {'tiffinfo': xmp_tiff()}),
        'pages.tif': (wide, {'save_all': True, 'append_images': [noise(50, 60)]}),
        'plain.gif': (wide, {}),
        'plain.bmp': (wide, {}),
        'plain.webp': (wide, {}),
        'plain.jp2': (wide, {}),
        'plain.ppm': (wide, {}),
        'plain.ico': (wide, {'sizes': [(64, 64), (16, 32)]}),
        'plain.tga': (wide, {}),
        'dot.png': (noise(1, 1), {}),
        'small.png': (noise(9, 31), {}),
        'narrow.png': (noise(2, 300), {}),
        'huge.png': (Image.new('P', (9000, 4000), 3), {}),
        'long.png': (Image.new('L', (12000, 61), 3), {}),
    }  # yapf: disable
    for name, (image, kwargs) in files.items():
        image.save(folder / name, **kwargs)
    return [str(folder / name) for name in files]


@pytest.fixture(scope='module')
def image_files(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp('images'))


def full_lengths(template, row) -> list[tuple[int, int, int]]:
    """Length, vision tokens and segmentation images of each piece, from the tensors of the full encode."""
    encoded = template.encode(row, return_length=True)
    pieces = encoded if isinstance(encoded, list) else [encoded]
    vision = (template.image_token_id, template.video_token_id)
    return [(piece['lengths'][0], sum(token in vision
                                      for token in piece['input_ids']), len(piece.get('g_pixel_values', ())))
            for piece in pieces]


def measured_lengths(template, row) -> list[tuple[int, int, int]]:
    return [(piece.length, piece.vision_tokens, piece.seg_images) for piece in measure(template, row)]


def outcome(lengths, template, row):
    """What `lengths(template, row)` gives, or how it ends."""
    try:
        return lengths(template, row)
    except (RowError, MaxLengthError) as e:
        return type(e), str(e)


def assert_equal_lengths(template, rows) -> list:
    """Measures every row and encodes it; returns what both give."""
    outcomes = [outcome(full_lengths, template, row) for row in rows]
    for row, full in zip(rows, outcomes):
        assert outcome(measured_lengths, template, row) == full, row
    return outcomes


def tokens(outcomes: list) -> list[int]:
    """The lengths, where every row has one piece."""
    assert all(isinstance(pieces, list) for pieces in outcomes), outcomes
    return [length for pieces in outcomes for length, _, _ in pieces]


def ask(*images, **columns):
    return Maker(Path('.')).row('<image>' * len(images) + 'What is it?', 'A cell.', images=list(images), **columns)


# ---- equal lengths


def test_every_kind_of_row(template, tmp_path):
    assert len(set(tokens(assert_equal_lengths(template, Maker(tmp_path / 'images').every_kind())))) > 6


def test_every_kind_of_image(template, image_files):
    rows = [ask(path) for path in image_files] + [ask(*image_files[:5])]
    lengths = dict(zip([Path(path).name for path in image_files], tokens(assert_equal_lengths(template, rows))))
    # The files say what they are meant to say: PIL turns a TIFF upright, and a JPEG not.
    assert lengths['huge.png'] > 10000 and lengths['dot.png'] < lengths['small.png'] < 50
    for path in image_files:
        if 'turned' in path:
            assert Image.open(path).convert('RGB').size == ((100, 300) if path.endswith('tif') else (300, 100))


@pytest.mark.parametrize('settings', [{
    'IMAGE_MAX_TOKEN_NUM': 24,
    'VIDEO_MAX_TOKEN_NUM': 140
}, {
    'IMAGE_MIN_TOKEN_NUM': 50,
    'FRAME_FACTOR': 4
}, {
    'SPATIAL_MERGE_SIZE': 4
}, {
    'VIDEO_MIN_TOKEN_NUM': 30,
    'MODEL_SEQ_LEN': 300
}])
def test_settings_of_qwen_vl_utils(settings, make_template, image_files, tmp_path, monkeypatch):
    """They come from environment variables, which ms-swift reads once, when it loads a processor."""
    from qwen_vl_utils import vision_process
    for name, value in settings.items():
        monkeypatch.setattr(vision_process, name, value)
    rows = [ask(path) for path in image_files if Path(path).stem in ('plain', 'dot', 'narrow', 'turned')]
    tokens(assert_equal_lengths(make_template(40000), rows + video_rows(tmp_path)))


@pytest.mark.parametrize('max_pixels', [40, 5000, 20000])
def test_max_pixels(max_pixels, make_template, image_files):
    """Of the long image nothing is left at 40 pixels, which is PIL's error in both."""
    rows = [ask(path) for path in image_files if not path.endswith('huge.png')]
    outcomes = assert_equal_lengths(make_template(40000, max_pixels=max_pixels), rows)
    assert sum(isinstance(pieces, tuple) for pieces in outcomes) == (2 if max_pixels == 40 else 0)


@pytest.mark.parametrize('settings', [{
    'max_pixels': 50 * 784
}, {
    'min_pixels': 200 * 784
}, {
    'resized_height': 99,
    'resized_width': 333
}, {
    'total_pixels': 400 * 784,
    'min_pixels': 20 * 784
}])
def test_settings_of_a_row(settings, template, image_files, tmp_path):
    rows = [ask(image_files[0])] + video_rows(tmp_path)[:3]
    outcomes = assert_equal_lengths(template, [{**row, 'chat_template_kwargs': settings} for row in rows])
    assert outcomes != assert_equal_lengths(template, rows)


def video_rows(folder: Path) -> list[dict]:
    """Frames of several sizes and numbers; even, odd and single."""
    maker = Maker(folder / 'frames')

    def frames(count: int, height: int, width: int) -> list[str]:
        return [maker.image(height, width) for _ in range(count)]

    named = frames(2, 64, 48)
    return [
        maker.row('<video>What moves?', 'The cell.', videos=[frames(2, 84, 84)]),
        maker.row('<video>What moves?', 'The cell.', videos=[frames(5, 120, 200)]),
        maker.row('<video>What moves?', 'The cell.', videos=[frames(1, 300, 90)]),
        maker.row('<video><video>And here?', 'The cell.', videos=[frames(3, 60, 60),
                                                                  frames(7, 300, 420)]),
        maker.row('<video>What moves?', 'The cell.', videos=[[f'file://{name}' for name in named]]),
        maker.row('<video>What moves?', 'The cell.', videos=[[Image.open(name) for name in named]]),
        maker.row('<video>What moves?', 'The cell.', videos=[[data_url(named[0]), named[1]]]),
    ]


def data_url(path: str) -> str:
    return f'data:image/png;base64,{base64.b64encode(Path(path).read_bytes()).decode()}'


def test_frames_of_another_release(template, tmp_path, monkeypatch):
    """With a release of qwen-vl-utils that nobody has looked at, the frames are decoded."""
    rows = video_rows(tmp_path)[:4]
    expected = tokens(assert_equal_lengths(template, rows))
    monkeypatch.setattr('swift_citrusv.encoding.row_length._KNOWN_QWEN_VL_UTILS', 'none')
    monkeypatch.setattr('swift_citrusv.encoding.row_length._video_size', None)
    assert tokens(assert_equal_lengths(template, rows)) == expected


def test_frames_of_an_oriented_tiff(template, image_files):
    turned = [path for path in image_files if path.endswith('turned.tif')]
    assert_equal_lengths(template, [Maker(Path('.')).row('<video>What?', 'It.', videos=[turned * 2])])


def test_video_file(template, tmp_path, monkeypatch):
    """A video file is decoded: the reader is a stand-in, as its packages are not always there."""
    from qwen_vl_utils import vision_process
    reader = vision_process.get_video_reader_backend()
    monkeypatch.setitem(vision_process.VIDEO_READER_BACKENDS, reader, lambda video: (torch.zeros(
        (6, 3, 100, 300), dtype=torch.uint8), {}, 2.))
    (tmp_path / 'video.mp4').write_bytes(b'0')
    row = Maker(tmp_path).row('<video>What?', 'It moves.', videos=[str(tmp_path / 'video.mp4')])
    tokens(assert_equal_lengths(template, [row]))


def test_every_way_to_give_an_image(template, image_files, tmp_path, monkeypatch):
    turned = next(path for path in image_files if path.endswith('turned.tif'))
    content = Path(turned).read_bytes()
    monkeypatch.setenv('ROOT_IMAGE_DIR', str(Path(turned).parent))
    monkeypatch.setenv('ALLOW_URLS', 'true')
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(_QuietHandler, directory=str(Path(turned).parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        ways = [
            {'bytes': content, 'path': None},
            {'bytes': content, 'path': 'elsewhere.png'},
            {'bytes': None, 'path': turned},
            {'path': turned, 'bytes': b''},
            content,
            f' {turned} ',
            Path(turned).name,
            Image.open(turned),
            Image.open(io.BytesIO(content)).convert('L'),
            data_url(turned),
            base64.b64encode(content).decode(),
            f'http://127.0.0.1:{server.server_port}/{Path(turned).name}',
        ]  # yapf: disable
        lengths = tokens(assert_equal_lengths(template, [ask(way) for way in ways]))
    finally:
        server.shutdown()
        server.server_close()
    assert len(set(lengths)) == 1
    question = {'role': 'user', 'content': [{'type': 'image', 'image': turned}, {'type': 'text', 'text': 'What?'}]}
    tagged = {'role': 'user', 'content': f'<img>{turned}</img>What?'}
    answer = {'role': 'assistant', 'content': 'It.'}
    rows = [{'messages': [turn, answer]} for turn in (question, tagged)]
    assert len(set(tokens(assert_equal_lengths(template, rows)))) == 1


class _QuietHandler(SimpleHTTPRequestHandler):

    def log_message(self, *args):
        pass


def other_rows(maker: Maker) -> list[dict]:
    """Tools, boxes, systems, weights of the loss, empty masks and everything else that changes the text."""
    image = maker.image(100, 300)
    tool = {'name': 'measure', 'description': 'Measures.', 'parameters': {'type': 'object', 'properties': {}}}
    calls = [{
        'role': 'user',
        'content': '<image>How large is it? Not [SEG].'
    }, {
        'role': 'tool_call',
        'content': '{"name": "measure", "arguments": {"unit": "mm"}}'
    }, {
        'role': 'tool_response',
        'content': '{"size": 12}'
    }, {
        'role': 'assistant',
        'content': 'Twelve: [SEG].'
    }]
    return [
        {'messages': calls, 'tools': json.dumps([tool]), 'images': [image], 'masks': [maker.mask(100, 300)]},
        maker.row('<image>Find <ref-object>.', 'It is at <bbox>.', images=[image],
                  objects={'ref': ['the cell'], 'bbox': [[10, 20, 299, 99]]}),
        maker.row('<image>Find <ref-object>.', 'It is at <bbox>.', images=[image],
                  objects={'ref': ['the cell'], 'bbox': [[.1, .2, .9, .9]], 'bbox_type': 'norm1'}),
        maker.row('Without a tag.', 'An answer.', images=[image, image]),
        {'messages': [{'role': 'system', 'content': 'You see [SEG].'}, *maker.row('Hi', 'Hello')['messages']]},
        maker.row('<image>Is it there?', 'No: [SEG].', images=[image], masks=[rle(np.zeros((100, 300)))]),
        maker.row('<image>Segment.', '[SEG]', images=[image],
                  masks=json.dumps([[[1, 1, 60, 1, 60, 60]]]), mask_images='[0]'),
    ]  # yapf: disable


def test_other_rows(template, make_template, tmp_path):
    rows = other_rows(Maker(tmp_path))
    for other in (template, make_template(40000, max_pixels=9000), make_template(40000, loss_scale='all')):
        tokens(assert_equal_lengths(other, rows))


@pytest.mark.parametrize('strategy', ['left', 'right', 'split', 'raise'])
@pytest.mark.parametrize('max_length', [30, 64, 120])
def test_truncation(strategy, max_length, make_template, tmp_path):
    """The same pieces, or the same error."""
    template = make_template(max_length, truncation_strategy=strategy)
    maker = Maker(tmp_path)
    long = ' '.join(['bone', 'vessel', 'cell'] * 25)
    rows = maker.every_kind() + other_rows(maker) + [
        maker.row('Tell me all.', long, long, long),
        maker.row(
            f'{long}<image>', f'It is [SEG]. {long}', images=[maker.image(112, 140)], masks=[maker.mask(112, 140)]),
    ]
    rows = [{**row, ROW_COLUMN: f'train.jsonl:{i + 1}'} for i, row in enumerate(rows)]
    outcomes = assert_equal_lengths(template, rows)
    errors = [pieces[1] for pieces in outcomes if isinstance(pieces, tuple)]
    assert all(error.startswith('train.jsonl:') for error in errors)
    # Truncation loses a [SEG], and an image does not fit.
    assert errors
    if strategy == 'split':
        assert any(len(pieces) > 2 for pieces in outcomes)
        for row, pieces in zip(rows, outcomes):
            # They stand where the template cuts.
            for piece in measure(template, row) if isinstance(pieces, list) else ():
                assert template.encode_piece(row, piece)['length'] == piece.length


def test_rlhf_mode(make_template, tmp_path):
    """DPO's rows have two lengths, and keep ms-swift's order."""
    template = make_template(4000, mode='rlhf')
    row = ask(Maker(tmp_path).image(200, 90), rejected_response='No, it is a bone, or perhaps a vessel.')
    lengths = template.encode(dict(row), return_length=True)['lengths']
    assert [piece.length for piece in measure(template, row)] == lengths and len(set(lengths)) == 2


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
    monkeypatch.setenv('MAX_IMAGE_PIXELS', '80000')
    outcomes += assert_equal_lengths(template, [ask(large)])
    assert [pieces[0] for pieces in outcomes] == [RowError] * 6
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
    monkeypatch.setattr('swift_citrusv.encoding.template.decode_mask', decoded)
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
