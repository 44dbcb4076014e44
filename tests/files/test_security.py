"""Untrusted datasets cannot read other files, connect to servers, exhaust memory or start programs."""
import base64
import json
import os
import pytest
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from support.faults import Faults
from support.raised import raised_by
from support.rows import Maker, write_jsonl
from support.swift_run import run_sft
from threading import Thread
from typing import Any

from swift_citrusv.cli.main import main
from swift_citrusv.constants import ROW_COLUMN
from swift_citrusv.encoding.row_length import measure
from swift_citrusv.errors import RowError
from swift_citrusv.files.images import checked_frame, checked_video, open_image
from swift_citrusv.files.rules import FileRules, file_rules
from swift_citrusv.settings import SettingError

ROW = 'train.jsonl:7'

# Every field of a row that may name a file: name -> a function that makes the row.
FIELDS: dict[str, Callable[[str], dict[str, Any]]] = {
    'images': lambda name: _row('<image>What?', images=[name]),
    'images, as objects': lambda name: _row('<image>What?', images=[{'bytes': None, 'path': name}]),
    'a part of a message': lambda name: _row([{'type': 'image', 'image': name}, {'type': 'text', 'text': 'What?'}]),
    'a URL in a message': lambda name: _row([{'type': 'image_url', 'image_url': {'url': name}},
                                             {'type': 'text', 'text': 'What?'}]),
    'a tag': lambda name: _row(f'<img>{name}</img>What?'),
    'frames': lambda name: _row('<video>What?', videos=[['inside.png', name]]),
    'a video': lambda name: _row('<video>What?', videos=[name]),
    'a mask': lambda name: _row('<image>What?', 'It: [SEG].', images=['inside.png'], masks=[{'path': name}]),
}  # yapf: disable


def _row(question: Any, answer: str = 'It.', **columns: Any) -> dict[str, Any]:
    messages = [{'role': 'user', 'content': question}, {'role': 'assistant', 'content': answer}]
    return {'messages': messages, **columns, ROW_COLUMN: ROW}


def rejections(template, row: dict[str, Any], tmp_path: Path, capsys) -> list[tuple[str, str]]:
    """Kind and text of the errors in training, in the length pass and in `citrusv check-data`."""
    found = []
    for function in (template.encode, partial(measure, template)):
        with pytest.raises(RowError) as error:
            function(row)
        assert error.value.row == ROW
        found.append((error.value.kind, f'{error.value.problem} {error.value.remedy}'))
    file = write_jsonl(tmp_path / 'train.jsonl', [{key: row[key] for key in row if key != ROW_COLUMN}])
    assert main(['check-data', file, '--json', str(tmp_path / 'report.json')]) == 1
    capsys.readouterr()
    failure, = json.loads((tmp_path / 'report.json').read_text())['failures']
    return [*found, (failure['kind'], failure['message'])]


# ---- data_root


@pytest.fixture
def folders(tmp_path, monkeypatch) -> Path:
    """A data root with an image, links out of it, and images outside; the working directory is elsewhere."""
    root, other, elsewhere = (tmp_path / name for name in ('root', 'root_2', 'elsewhere'))
    for folder in (root / 'a', other, elsewhere):
        folder.mkdir(parents=True)
    inside = Path(Maker(tmp_path / 'images').image())
    for path in (root / 'inside.png', root / 'a' / 'inside.png', other / 'outside.png', elsewhere / 'inside.png'):
        shutil.copy(inside, path)
    (root / 'link.png').symlink_to(other / 'outside.png')
    (root / 'folder').symlink_to(other)
    (root / 'within.png').symlink_to(root / 'a' / 'inside.png')
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv('CITRUSV_DATA_ROOT', str(root))
    monkeypatch.delenv('ROOT_IMAGE_DIR', raising=False)
    return root


OUTSIDE = ('{other}/outside.png', '../root_2/outside.png', 'a/../../root_2/outside.png', 'link.png',
           'folder/outside.png', 'a/../link.png', 'file://{other}/outside.png', 'file://../root_2/outside.png',
           '{root}/../root_2/outside.png', '/etc/passwd', '../nowhere.png', '{root}_2/outside.png')

_opened: list[str] = []


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """The files that Python opens during the test."""
    if not hasattr(sys, '_citrusv_audit'):
        # An audit hook cannot be removed.
        sys.addaudithook(lambda event, args: _opened.append(str(args[0])) if event == 'open' else None)
        setattr(sys, '_citrusv_audit', True)
    _opened.clear()
    yield _opened


def test_no_file_outside_the_root(folders, template, tmp_path, capsys, opened):
    for pattern in OUTSIDE:
        name = pattern.format(root=folders, other=tmp_path / 'root_2')
        for field, make in FIELDS.items():
            row = make(name)
            if name.startswith('file://') and field == 'a tag':
                assert f'<img>{name}' in row['messages'][0]['content']
            for kind, message in rejections(template, row, tmp_path, capsys):
                assert kind == 'outside-root', (name, field, message)
                assert repr(name) in message and f'data_root={str(folders)!r}' in message, (field, message)
                assert message.endswith('data_root.'), (name, field, message)
        assert not [path for path in opened if path.endswith(('outside.png', 'passwd'))], name
        assert any(path.endswith('inside.png') for path in opened), name
        opened.clear()


INSIDE = ('inside.png', './a/inside.png', 'within.png', '{root}/a/inside.png', 'a/../inside.png',
          'file://{root}/inside.png', ' inside.png ')


def test_relative_names_start_at_the_root(folders, template, opened):
    for pattern in INSIDE:
        name = pattern.format(root=folders)
        for field, make in FIELDS.items():
            if field != 'a video':
                lengths = template.encode(make(name), return_length=True)['lengths']
                assert lengths == [measure(template, make(name))[0].length], (name, field)
        assert not [path for path in opened if 'elsewhere' in path], name


def test_a_root_that_is_a_link(folders, template, tmp_path, monkeypatch):
    (tmp_path / 'link').symlink_to(folders)
    monkeypatch.setenv('CITRUSV_DATA_ROOT', str(tmp_path / 'link'))
    assert template.encode(FIELDS['images']('inside.png'))
    with pytest.raises(RowError, match='outside of data_root'):
        template.encode(FIELDS['images']('../root/inside.png/../../root_2/outside.png'))


def test_inference_respects_the_root(folders, template, monkeypatch):
    monkeypatch.setattr(template, 'mode', 'transformers')
    with pytest.raises(RowError, match='outside of data_root'):
        template.encode(FIELDS['images']('../root_2/outside.png'))


def test_a_row_cannot_name_another_file_by_its_settings(folders, template, tmp_path, capsys):
    for key in ('image', 'image_url', 'video'):
        row = {
            **FIELDS['frames']('inside.png'), 'chat_template_kwargs': {
                key: str(tmp_path / 'root_2' / 'outside.png')
            }
        }
        for function in (template.encode, partial(measure, template)):
            with pytest.raises(RowError, match=f"'{key}'.*would take the place of a file") as error:
                function(row)
            assert error.value.kind == 'media-settings'


def test_settings_of_the_root(tmp_path, monkeypatch):
    monkeypatch.setenv('CITRUSV_DATA_ROOT', str(tmp_path / 'nowhere'))
    with pytest.raises(SettingError, match='data_root=.*nowhere.*not a folder'):
        file_rules()
    monkeypatch.setenv('CITRUSV_DATA_ROOT', str(tmp_path))
    monkeypatch.setenv('ROOT_IMAGE_DIR', '/data')
    with pytest.raises(SettingError, match='ROOT_IMAGE_DIR'):
        file_rules()


def test_a_run_with_a_root(folders, tiny_checkpoint, tmp_path):
    """With `--model_kwargs`."""
    rows = [_row('<image>What?', images=['inside.png']), _row('<image>What?', images=['../root_2/outside.png'])]
    rows = [{key: row[key] for key in row if key != ROW_COLUMN} for row in rows]
    del os.environ['CITRUSV_DATA_ROOT']
    arguments = ('--model', tiny_checkpoint, '--model_type', 'citrusv', '--tuner_type', 'full', '--dataset',
                 write_jsonl(tmp_path / 'train.jsonl', rows), '--output_dir', str(tmp_path / 'out'), '--model_kwargs',
                 json.dumps({'data_root': str(folders)}), '--per_device_train_batch_size', '1', '--freeze_parameters',
                 'seg_projector', 'segmenter')
    with pytest.raises(RowError, match='train.jsonl:2: .*outside of data_root'):
        run_sft(*arguments)


# ---- URLs


class _Handler(SimpleHTTPRequestHandler):
    paths: list[str] = []

    def do_GET(self) -> None:
        self.paths.append(self.path)
        super().do_GET()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[str]:
    shutil.copy(Maker(tmp_path / 'images').image(), tmp_path / 'inside.png')
    monkeypatch.chdir(tmp_path)
    _Handler.paths.clear()
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(_Handler, directory=str(tmp_path)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}/inside.png'
    server.shutdown()


def test_urls_are_not_fetched_unless_allowed(server, template, tmp_path, capsys, monkeypatch):
    for field, make in FIELDS.items():
        for kind, message in rejections(template, make(server), tmp_path, capsys):
            assert kind == ('mask-file' if field == 'a mask' else 'url'), message
            assert repr(server) in message
            assert 'no such file' in message if field == 'a mask' else 'allow_urls' in message
    assert not _Handler.paths
    monkeypatch.setenv('CITRUSV_ALLOW_URLS', 'true')
    for field, make in FIELDS.items():
        if field not in ('a mask', 'a video'):
            assert template.encode(make(server))
    assert _Handler.paths
    with pytest.raises(RowError, match='masks.*no such file'):
        template.encode(FIELDS['a mask'](server))


def test_downloads_are_limited(server, template, monkeypatch):
    monkeypatch.setenv('CITRUSV_ALLOW_URLS', 'true')
    monkeypatch.setenv('CITRUSV_MAX_IMAGE_PIXELS', '10')
    with pytest.raises(RowError, match='more than 80 bytes'):
        template.encode(FIELDS['images'](server))


def test_bytes_and_data_urls_are_always_allowed(template, tmp_path, monkeypatch):
    content = Path(Maker(tmp_path).image()).read_bytes()
    monkeypatch.setenv('CITRUSV_DATA_ROOT', str(tmp_path))
    text = base64.b64encode(content).decode()
    for image in (content, {'bytes': content, 'path': '/elsewhere/a.png'}, f'data:image/png;base64,{text}', text):
        assert template.encode(_row('<image>What?', images=[image]))


# ---- bombs


def test_more_pixels_than_allowed(template, tmp_path, capsys, monkeypatch):
    maker = Maker(tmp_path)
    small, large = maker.image(30, 30), maker.image(84, 84)
    monkeypatch.setenv('CITRUSV_MAX_IMAGE_PIXELS', '1000')
    embedded = f'data:image/png;base64,{base64.b64encode(Path(large).read_bytes()).decode()}'
    rows = [
        _row('<image>What?', images=[large]),
        _row('<image>What?', images=[embedded]),
        _row('<video>What?', videos=[[small, large]]),
        _row('<video>What?', videos=[[small, embedded]]),
        _row('<image>What?', '[SEG]', images=[small], masks=[{
            'path': large
        }]),
        _row('<image>What?', '[SEG]', images=[small], masks=[{
            'size': [84, 84],
            'counts': [84 * 84]
        }]),
        _row('<image>What?', '[SEG]', images=[small], masks=[{
            'size': [84, 84],
            'counts': 'PR3'
        }]),
    ]
    for row in rows:
        for kind, message in rejections(template, row, tmp_path, capsys):
            assert kind == 'too-many-pixels' and 'max_image_pixels=1000' in message and 'raise' in message
    assert template.encode(_row('<image>What?', images=[small]))
    row = _row('<image>What?', images=[small], chat_template_kwargs={'min_pixels': 10**9, 'max_pixels': 10**10})
    with pytest.raises(RowError, match="'min_pixels': 1000000000, which is more than max_image_pixels=1000"):
        template.encode(row)


def test_a_higher_limit_than_that_of_pil(tmp_path, monkeypatch):
    from PIL import Image
    path = Faults(tmp_path).image('large.png', Image.new('1', (300, 300)))
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 20_000)
    monkeypatch.setenv('CITRUSV_MAX_IMAGE_PIXELS', '100000')
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
    assert open_image(path).size == (300, 300) and Image.MAX_IMAGE_PIXELS == 20_000
    # qwen_vl_utils would open the frame under PIL's limit, so it gets an open image.
    assert isinstance(checked_frame(path), Image.Image)


def test_no_other_program_is_started(tmp_path, template, monkeypatch):
    path = tmp_path / 'a.png'
    path.write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 84 84\n%%EndComments\n(x) run\nshowpage\n')
    monkeypatch.setattr(subprocess, 'check_call', lambda *args, **kwargs: pytest.fail('a program was started'))
    with pytest.raises(RowError, match='would start Ghostscript'):
        template.encode(_row('<image>What?', images=[str(path)]))


PLAYLISTS = ('#EXTM3U\n#EXTINF:1\n/etc/passwd\n', 'ffconcat version 1.0\nfile /etc/passwd\n',
             '  <?xml version="1.0"?><MPD/>', 'v=0\nc=IN IP4 10.0.0.1\n')


def test_playlists_are_rejected(tmp_path, template):
    for content in PLAYLISTS:
        (tmp_path / 'a.mp4').write_text(content)
        error = raised_by(RowError, template.encode, _row('<video>What?', videos=[str(tmp_path / 'a.mp4')]))
        assert error.kind == 'video-playlist' and 'a playlist, which refers to other files' in str(error), content
    assert checked_video([], FileRules()) == []
