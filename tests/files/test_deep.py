"""16-bit, 32-bit and float images: their full range, and windows, against a loop-free formula."""
import base64
import io
import numpy as np
import pytest
from PIL import Image
from support.image_kinds import orientation, raw_png
from support.lengths import ask, assert_equal_lengths
from support.medical_images import by_percentile, close, linear
from support.raised import raised_by

from swift_citrusv.errors import RowError
from swift_citrusv.files import notices
from swift_citrusv.files.errors import FileError
from swift_citrusv.files.images import checked_frame, open_image, open_label_map, to_rgb

# 12 bits, as a radiograph from a 12-bit detector.
VALUES = np.random.default_rng(0).integers(0, 4096, (56, 84)).astype(np.uint16)


def shown(reference) -> np.ndarray:
    image = np.array(to_rgb(open_image(reference)))
    assert np.array_equal(image[..., 0], image[..., 1]) and np.array_equal(image[..., 0], image[..., 2])
    return image[..., 0]


@pytest.fixture
def paths(tmp_path):
    """The same values as PNG and TIFF of 16 bits, and as TIFF of 32 bits, integers and floats."""
    found = {}
    for name, array in (('png', VALUES), ('tif', VALUES), ('int.tif', VALUES.astype(np.int32)),
                        ('float.tif', VALUES.astype(np.float32))):
        found[name] = str(tmp_path / f'xray.{name}')
        Image.fromarray(array).save(found[name])
    return found


def test_without_a_window_the_high_byte_and_a_warning(paths, monkeypatch, caplog):
    monkeypatch.setattr(notices, '_shown', set())
    for name in ('png', 'tif'):
        assert np.array_equal(shown(paths[name]), VALUES >> 8)
    [message] = [record.message for record in caplog.records]
    for part in ('xray.png', '4095', '15 of 255', '2048,4096 (12 bits)', 'percentile', 'image_window'):
        assert part in message
    for name in ('int.tif', 'float.tif'):
        error = raised_by(FileError, open_image, paths[name])
        assert error.kind == 'image-mode' and '#window=percentile' in error.remedy


def test_an_image_on_the_full_range_is_as_before(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(notices, '_shown', set())
    path = str(tmp_path / 'a.png')
    for values in (VALUES * 16, np.zeros_like(VALUES)):
        Image.fromarray(values).save(path)
        assert np.array_equal(shown(path), values >> 8)
    assert not caplog.records


def test_windows_of_the_name_and_of_the_setting(paths, monkeypatch):
    expected = {
        '2048,4096': linear(VALUES, 2048, 4096),
        '1000,500': linear(VALUES, 1000, 500),
        'percentile': by_percentile(VALUES),
        'auto': by_percentile(VALUES)
    }
    for window, grey in expected.items():
        for path in paths.values():
            tolerance = 0 if ',' in window else 1
            named = f'{path}#window={window}'
            assert close(shown(named), grey, tolerance), named
            # The name takes precedence over the setting.
            monkeypatch.setenv('CITRUSV_IMAGE_WINDOW', '7,9')
            assert close(shown(named), grey, tolerance), named
            monkeypatch.setenv('CITRUSV_IMAGE_WINDOW', window)
            content = io.BytesIO()
            Image.open(path).save(content, Image.open(path).format)
            url = f'data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}'
            for reference in (path, content.getvalue(), url, Image.open(path)):
                assert close(shown(reference), grey, tolerance), (window, path)
            monkeypatch.delenv('CITRUSV_IMAGE_WINDOW')
            assert close(shown(f'{url}#window={window}'), grey, tolerance), (window, path)


def test_what_has_no_window(paths, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(notices, '_shown', set())
    eight = str(tmp_path / 'a.png')
    Image.fromarray(VALUES.astype(np.uint8)).save(eight)
    error = raised_by(FileError, open_image, f'{eight}#window=percentile')
    assert error.kind == 'image-fragment' and '8-bit' in str(error)
    for fragment, kind in (('window=lung', 'image-window'), ('window=soft', 'image-window'), ('index=3',
                                                                                              'image-fragment')):
        assert raised_by(FileError, open_image, f'{paths["png"]}#{fragment}').kind == kind
    assert raised_by(FileError, open_label_map, f'{paths["png"]}#window=auto').kind == 'image-fragment'
    # The setting does not reach 8-bit images and masks; a preset of it is for CT.
    for window in ('100,50', 'lung'):
        monkeypatch.setenv('CITRUSV_IMAGE_WINDOW', window)
        assert np.array_equal(shown(eight), VALUES.astype(np.uint8))
        assert np.array_equal(np.asarray(open_label_map(paths['png'])), VALUES)
    assert np.array_equal(shown(paths['png']), VALUES >> 8)
    assert 'Hounsfield' in caplog.text and '4095' in caplog.text


def test_mllm_and_sam2_see_the_same_pixels(template, paths, tmp_path, monkeypatch):
    """In training: those of an 8-bit file of the windowed image; also turned, and as frames of a video."""
    plain = str(tmp_path / 'plain.png')
    Image.fromarray(linear(VALUES, 2048, 4096).astype(np.uint8)).save(plain)
    turned = str(tmp_path / 'turned.png')
    Image.fromarray(VALUES.T).save(turned, exif=orientation(5))
    monkeypatch.setenv('CITRUSV_IMAGE_WINDOW', '2048,4096')
    rows = []
    for path in (plain, paths['png'], paths['float.tif'], turned):
        row = {**ask(path), 'masks': [[[3, 5, 30, 5, 30, 20, 3, 20]]]}
        row['messages'][1]['content'] = '[SEG]'
        rows.append(row)
    encoded = [template.encode(row) for row in rows]
    for other in encoded[1:]:
        for key in ('pixel_values', 'g_pixel_values', 'masks'):
            assert np.array_equal(np.asarray(encoded[0][key]), np.asarray(other[key])), key
    assert_equal_lengths(template, rows)
    assert np.array_equal(np.array(checked_frame(turned).convert('RGB')), np.array(Image.open(plain).convert('RGB')))
    error = raised_by(RowError, template.encode, ask(f'{plain}#window=auto'))
    assert error.kind == 'image-fragment'


def test_16_bit_colours(tmp_path, monkeypatch, caplog):
    """PIL keeps the high byte; a dark file is named."""
    monkeypatch.setattr(notices, '_shown', set())
    for factor in (16, 1):
        rows = [(row[:, None] * np.array([factor, 0, 0])).astype('>u2').tobytes() for row in VALUES]
        path = raw_png(tmp_path / f'{factor}.png', 16, 2, rows, VALUES.shape[1])
        assert np.array_equal(np.array(to_rgb(open_image(path)))[..., 0], VALUES * factor >> 8)
    [message] = [record.message for record in caplog.records]
    assert '1.png has 16-bit colours' in message and '15 of 255' in message
