"""Mask files: grey, palette and colour images, labels, damaged files, and where files are looked for."""
import io
import numpy as np
import os
import pytest
import warnings
from pathlib import Path as FilePath
from PIL import Image
from support.decoded import decode, error_of
from support.image_kinds import raw_png
from typing import Any

from swift_citrusv.errors import RowError

LABELS = np.random.default_rng(1).choice(np.array([0, 1, 3, 200], np.uint8), (31, 123))


def save(path: FilePath, pixels: np.ndarray, mode: str | None = None, **kwargs: Any) -> str:
    Image.fromarray(pixels).convert(mode).save(path, **kwargs)
    return str(path)


@pytest.mark.parametrize('name', ['m.png', 'm.bmp', 'm.tif'])
def test_grey_file(tmp_path, name):
    path = save(tmp_path / name, LABELS)
    assert np.array_equal(decode({'path': path}, (31, 123)), LABELS != 0)
    assert np.array_equal(decode({'path': path, 'size': None, 'label': None}, (31, 123)), LABELS != 0)
    for label in (0, 1, 3, 200):
        assert np.array_equal(decode({'path': path, 'label': label}, (31, 123)), LABELS == label)
    assert not decode({'path': path, 'label': 65535}, (31, 123)).any()


def test_palette_file_is_read_by_index(tmp_path):
    image = Image.new('P', (123, 31))
    image.putdata(LABELS.ravel().tolist())
    # Index 0 is white and index 3 black, the opposite of the labels.
    palette = [255, 255, 255] + [7, 7, 7] * 255
    palette[9:12] = [0, 0, 0]
    image.putpalette(palette)
    image.save(tmp_path / 'm.png')
    path = str(tmp_path / 'm.png')
    assert np.array_equal(decode({'path': path}, (31, 123)), LABELS != 0)
    assert np.array_equal(decode({'path': path, 'label': 3}, (31, 123)), LABELS == 3)


def test_bilevel_file(tmp_path):
    path = save(tmp_path / 'm.png', (LABELS > 1).astype(np.uint8) * 255, '1')
    assert np.array_equal(decode({'path': path}, (31, 123)), LABELS > 1)
    assert np.array_equal(decode({'path': path, 'label': 1}, (31, 123)), LABELS > 1)
    assert not decode({'path': path, 'label': 255}, (31, 123)).any()


@pytest.mark.parametrize('dtype', [np.uint16, np.int32, '>u2'])
def test_wide_grey_file(tmp_path, dtype):
    labels = LABELS.astype(np.int64) * 300  # 0, 300, 900, 60000
    path = save(tmp_path / ('m.png' if dtype == np.uint16 else 'm.tif'), labels.astype(dtype))
    assert np.array_equal(decode({'path': path}, (31, 123)), labels != 0)
    assert np.array_equal(decode({'path': path, 'label': 60000}, (31, 123)), labels == 60000)


@pytest.mark.parametrize('bit_depth', [2, 4])
def test_narrow_grey_png_keeps_its_labels(tmp_path, bit_depth):
    # PIL scales these to 0-255.
    row = bytes([0b00011011]) if bit_depth == 2 else bytes([0x01, 0x2F])
    path = raw_png(tmp_path / 'm.png', bit_depth, 0, [row], 4)
    labels = [0, 1, 2, 3 if bit_depth == 2 else 15]
    for label in range(16):
        assert decode({'path': path, 'label': label}, (1, 4)).tolist() == [[int(label == x) for x in labels]]
    assert decode({'path': path}, (1, 4)).tolist() == [[0, 1, 1, 1]]


def test_colour_file(tmp_path):
    pixels = np.zeros((3, 47, 4), np.uint8)
    pixels[0, 1, 0] = pixels[1, 5, 1] = pixels[2, 9, 2] = 1
    pixels[0, 30] = (0, 0, 0, 255)  # Opaque black is background.
    expected = np.zeros((3, 47), np.uint8)
    expected[[0, 1, 2], [1, 5, 9]] = 1
    assert np.array_equal(decode({'path': save(tmp_path / 'a.png', pixels)}, (3, 47)), expected)
    path = save(tmp_path / 'b.png', pixels[..., :3])
    assert np.array_equal(decode({'path': path}, (3, 47)), expected)
    error = error_of({'path': path, 'label': 3}, (3, 47))
    assert error.kind == 'mask-mode' and "'RGB'" in error.problem and path in error.problem


def test_grey_file_with_alpha(tmp_path):
    path = save(tmp_path / 'm.png', np.stack([LABELS, np.full_like(LABELS, 255)], axis=-1))
    assert Image.open(path).mode == 'LA'
    assert np.array_equal(decode({'path': path}, (31, 123)), LABELS != 0)
    assert np.array_equal(decode({'path': path, 'label': 3}, (31, 123)), LABELS == 3)


def truncated(path: FilePath) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (31, 123), np.uint8)
    data = io.BytesIO()
    Image.fromarray(noise).save(data, 'PNG')
    path.write_bytes(data.getvalue()[:len(data.getvalue()) // 2])


def frames(path: FilePath) -> None:
    images = [Image.fromarray(np.full((31, 123), x, np.uint8)) for x in (0, 90, 200)]
    images[0].save(path, 'TIFF', save_all=True, append_images=images[1:])


# name: (how to make the file, kind, a part of the message)
BAD_FILES = {
    'missing': (lambda path: None, 'mask-file', 'no such file'),
    'directory': (lambda path: path.mkdir(), 'file-format', 'a folder'),
    'nrrd': (lambda path: path.write_bytes(b'NRRD0004' + bytes(99)), 'file-format', 'NRRD'),
    'pipe': (os.mkfifo, 'mask-file', 'not a regular file'),
    'zero-bytes': (lambda path: path.write_bytes(b''), 'mask-file', 'empty'),
    'text': (lambda path: path.write_text('no image'), 'mask-file', 'cannot identify'),
    'truncated': (truncated, 'mask-file', 'truncated'),
    'header-only': (lambda path: path.write_bytes(b'\x89PNG\r\n\x1a\n'), 'mask-file', 'cannot be read'),
    'other-size': (lambda path: save(path, LABELS.T, format='PNG'), 'mask-size', '[123, 31]'),
    'bomb': (lambda path: raw_png(path, 8, 0, [b''] * 0, 2**31 - 1), 'mask-file', 'cannot be read'),
    'frames': (frames, 'mask-mode', '3 frames'),
    'float': (lambda path: save(path, LABELS.astype(np.float32), format='TIFF'), 'mask-mode', "'F'"),
    'cmyk': (lambda path: save(path, LABELS, 'CMYK', format='TIFF'), 'mask-mode', "'CMYK'"),
    '16-bit-colour': (lambda path: raw_png(path, 16, 2, [bytes(123 * 6)] * 31, 123), 'mask-mode', "'RGB;16B'"),
}


def test_bad_files(tmp_path):
    for name, (make, kind, value) in BAD_FILES.items():
        path = tmp_path / f'{name}.img'
        make(path)
        error = error_of({'path': str(path)}, (31, 123))
        assert error.kind == kind and value in error.problem and str(path) in error.problem, (name, error.problem)


def test_strange_paths():
    assert error_of({'path': '.'}, (31, 123)).kind == 'file-format'
    for path in ('a\x00b.png', 'x' * 5000, '\udc80.png', '/dev/zero', 'no/such.png'):
        assert error_of({'path': path}, (31, 123)).kind == 'mask-file', path


def test_the_size_is_compared_before_the_pixels_are_decoded(tmp_path):
    # The header is valid and the pixels are cut off: only the size can be checked.
    truncated(tmp_path / 'm.png')
    assert error_of({'path': str(tmp_path / 'm.png')}, (31, 124)).kind == 'mask-size'


def test_files_under_root_image_dir(tmp_path, monkeypatch):
    """A file relative to the working directory takes precedence, as in ms-swift."""
    (tmp_path / 'root').mkdir()
    monkeypatch.chdir(tmp_path)
    Image.fromarray(LABELS).save(tmp_path / 'root' / 'm.png')
    assert 'ROOT_IMAGE_DIR' in error_of({'path': 'm.png'}, (31, 123)).problem
    for folder in (str(tmp_path / 'root'), 'root'):
        monkeypatch.setenv('ROOT_IMAGE_DIR', folder)
        assert np.array_equal(decode({'path': 'm.png', 'label': 3}, (31, 123)), LABELS == 3)
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('ROOT_IMAGE_DIR', '~/root')
    assert np.array_equal(decode({'path': 'm.png', 'label': 3}, (31, 123)), LABELS == 3)
    Image.fromarray(np.zeros_like(LABELS)).save(tmp_path / 'm.png')
    assert not decode({'path': 'm.png'}, (31, 123)).any()


def test_load_image_is_used_and_its_errors_are_named():
    names = []

    def load_image(path: str) -> Image.Image:
        names.append(path)
        return Image.fromarray(LABELS)

    assert np.array_equal(decode({'path': 'oss://m.png', 'label': 3}, (31, 123), load_image=load_image), LABELS == 3)
    assert names == ['oss://m.png']

    def fail(path: str) -> Image.Image:
        raise ConnectionError('the bucket is offline')

    error = error_of({'path': 'oss://m.png'}, (31, 123), load_image=fail)
    assert error.kind == 'mask-file' and 'the bucket is offline' in error.problem and 'oss://m.png' in error.problem


def test_damaged_images_never_get_past_row_error(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / 'm.img'
    sources = []
    for file_format in ('PNG', 'TIFF', 'GIF', 'BMP', 'JPEG', 'WEBP', 'PPM', 'TGA', 'DDS'):
        whole = io.BytesIO()
        Image.fromarray(LABELS).convert('RGB' if file_format == 'WEBP' else 'L').save(whole, file_format)
        sources.append(whole.getvalue())
    verdicts = {'read': 0, 'rejected': 0}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for i in range(900):
            data = bytearray(sources[i % len(sources)])
            for _ in range(rng.integers(0, 4)):
                data[rng.integers(0, min(len(data), 200))] = rng.integers(0, 256)
            if rng.random() < 0.4:
                del data[rng.integers(0, len(data)):]
            path.write_bytes(data)
            try:
                decode({'path': str(path)}, (31, 123))
                verdicts['read'] += 1
            except RowError as error:
                assert error.kind in ('mask-file', 'mask-size', 'mask-mode', 'mask-lossy', 'too-many-pixels',
                                      'image-format')
                verdicts['rejected'] += 1
    assert min(verdicts.values()) > 100
