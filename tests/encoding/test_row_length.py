"""Lengths from headers and text, row by row against the full encode."""
import base64
import io
import pytest
import threading
import torch
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from PIL import Image
from support.image_kinds import write_images
from support.lengths import ask, assert_equal_lengths, data_url, other_rows, tokens, video_rows
from support.rows import Maker

from swift_citrusv.constants import ROW_COLUMN
from swift_citrusv.encoding.row_length import measure

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
    assert sum(isinstance(chunks, tuple) for chunks in outcomes) == (2 if max_pixels == 40 else 0)


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
    monkeypatch.setenv('CITRUSV_ALLOW_URLS', 'true')
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


def test_other_rows(template, make_template, tmp_path):
    rows = other_rows(Maker(tmp_path))
    for other in (template, make_template(40000, max_pixels=9000), make_template(40000, loss_scale='all')):
        tokens(assert_equal_lengths(other, rows))


@pytest.mark.parametrize('strategy', ['left', 'right', 'split', 'raise'])
@pytest.mark.parametrize('max_length', [30, 64, 120])
def test_truncation(strategy, max_length, make_template, tmp_path):
    """The same chunks, or the same error."""
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
    errors = [chunks[1] for chunks in outcomes if isinstance(chunks, tuple)]
    assert all(error.startswith('train.jsonl:') for error in errors)
    # Truncation loses a [SEG], and an image does not fit.
    assert errors
    if strategy == 'split':
        assert any(len(chunks) > 2 for chunks in outcomes)
        for row, chunks in zip(rows, outcomes):
            # They stand where the template cuts.
            for chunk in measure(template, row) if isinstance(chunks, list) else ():
                assert template.encode_chunk(row, chunk)['length'] == chunk.length


def test_rlhf_mode(make_template, tmp_path):
    """DPO's rows have two lengths, and keep ms-swift's order."""
    template = make_template(4000, mode='rlhf')
    row = ask(Maker(tmp_path).image(200, 90), rejected_response='No, it is a bone, or perhaps a vessel.')
    lengths = template.encode(dict(row), return_length=True)['lengths']
    assert [chunk.length for chunk in measure(template, row)] == lengths and len(set(lengths)) == 2
