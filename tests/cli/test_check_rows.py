"""Row checks: references of images, and the sentence of each `[SEG]`."""
import base64
import numpy as np
import pytest
from pathlib import Path
from support.rows import Maker
from swift.template import vision_utils
from typing import Any

from swift_citrusv.cli.check_rows import seg_sentences
from swift_citrusv.files.images import open_image


def test_images_are_those_of_ms_swift(tmp_path, monkeypatch):
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


def test_sentence_of_each_seg_token():
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
