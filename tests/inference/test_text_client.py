"""Images that a text server receives."""
import base64
import numpy as np
import pytest
from io import BytesIO
from PIL import Image

from swift_citrusv.files.images import open_image, to_rgb
from swift_citrusv.inference.text_client import data_url


@pytest.mark.parametrize(('suffix', 'mode', 'unchanged'), [('png', 'RGB', True), ('png', 'L', True),
                                                           ('jpg', 'RGB', True), ('png', 'P', False),
                                                           ('png', 'RGBA', False), ('png', 'I;16', False),
                                                           ('bmp', 'RGB', False), ('jpg', 'CMYK', False)])
def test_server_gets_the_pixels_of_the_model(suffix, mode, unchanged, tmp_path):
    path = tmp_path / f'a.{suffix}'
    array = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    image = Image.fromarray(array[..., 0].astype(np.uint16) * 200) if mode == 'I;16' else Image.fromarray(array)
    image = image.convert('RGBA') if mode == 'RGBA' else image if mode == 'I;16' else image.convert(mode)
    image.save(path)
    head, _, text = data_url(str(path)).partition(',')
    content = base64.b64decode(text)
    assert (content == path.read_bytes()) is unchanged
    with Image.open(BytesIO(content)) as sent:
        assert sent.format is not None
        assert head == f'data:image/{sent.format.lower()};base64'
        assert np.array_equal(np.array(sent.convert('RGB')), np.array(to_rgb(open_image(str(path)))))
