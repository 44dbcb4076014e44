"""Decoding, resizing and encoding of masks, against slow loops, PIL, torch and matplotlib."""
import io
import json
import numpy as np
import os
import pytest
import struct
import torch
import warnings
import zlib
from fractions import Fraction
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.path import Path as Outline
from pathlib import Path as FilePath
from PIL import Image
from pycocotools import mask as coco_mask
from typing import Any

from swift_citrusv.errors import RowError
from swift_citrusv.rows.masks import decode_mask, encode_rle, resize_mask

ROW = 'train.jsonl:12'
SHAPES = [(1, 1), (3, 47), (31, 123), (1, 64), (64, 1), (256, 200)]
MASKS = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 1))


def decode(entry: Any, size: tuple[int, int], **kwargs: Any) -> np.ndarray:
    mask = decode_mask(entry, size=size, row=ROW, position=2, **kwargs)
    assert mask.dtype == np.uint8 and mask.shape == size and mask.flags.c_contiguous and mask.flags.writeable
    assert set(np.unique(mask)) <= {0, 1}
    return mask


def error_of(entry: Any, size: tuple[int, int], **kwargs: Any) -> RowError:
    with pytest.raises(RowError) as caught:
        decode_mask(entry, size=size, row=ROW, position=2, **kwargs)
    error = caught.value
    assert str(error).startswith(f'{ROW}: masks[2]') and error.problem.endswith('.') and error.remedy.endswith('.')
    assert len(error.remedy) > 15
    return error


def random_mask(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) < 0.4).astype(np.uint8)


def slow_counts(mask: np.ndarray) -> list[int]:
    """Run lengths, column by column, zeros first; a plain loop."""
    counts, value, run = [], 0, 0
    for x in range(mask.shape[1]):
        for y in range(mask.shape[0]):
            if mask[y, x] != value:
                counts.append(run)
                value, run = 1 - value, 0
            run += 1
    return counts + [run]


def slow_paint(counts: list[int], size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    pixel = 0
    for i, count in enumerate(counts):
        for _ in range(count):
            mask[pixel % size[0], pixel // size[0]] = i % 2
            pixel += 1
    return mask


def slow_compress(counts: list[int]) -> str:
    """COCO's string of run lengths, written after its published description and not after our reader."""
    text = ''
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        while True:
            low, value = value % 32, value // 32
            done = (value == 0 and low < 16) or (value == -1 and low >= 16)
            text += chr(48 + low + (0 if done else 32))
            if done:
                break
    return text


# ---- RLE


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('fill', ['random', 'empty', 'full'])
def test_rle_against_loops(shape, fill):
    mask = {'random': random_mask(shape), 'empty': np.zeros(shape, np.uint8), 'full': np.ones(shape, np.uint8)}[fill]
    counts = slow_counts(mask)
    size = list(shape)
    assert np.array_equal(decode({'size': size, 'counts': counts}, shape), mask)
    assert np.array_equal(decode({'size': size, 'counts': slow_compress(counts)}, shape), mask)
    assert encode_rle(mask) == {'size': size, 'counts': slow_compress(counts)}
    assert encode_rle(mask.astype(bool)) == encode_rle(mask)


@given(MASKS)
def test_rle_round_trip(mask):
    rle = json.loads(json.dumps(encode_rle(mask)))
    assert np.array_equal(decode(rle, mask.shape), mask)
    assert np.array_equal(decode({'size': list(mask.shape), 'counts': slow_counts(mask)}, mask.shape), mask)


@settings(deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=30).filter(any), st.integers(1, 7))
def test_rle_with_zero_runs(counts, height):
    # Legal, though nobody's encoder writes them; values go down as well as up, so the differences change sign.
    counts = counts + [-sum(counts) % height]
    size = (height, sum(counts) // height)
    for form in (counts, slow_compress(counts)):
        assert np.array_equal(decode({'size': list(size), 'counts': form}, size), slow_paint(counts, size))


def test_rle_of_a_large_image():
    # Runs of up to five characters.
    mask = np.zeros((2000, 3000), np.uint8)
    mask[100:1900, 1:2990] = 1
    mask[:, 1500:2000] = 1
    assert np.array_equal(decode(encode_rle(mask), mask.shape), mask)


BAD_COUNTS = {
    'illegal-low': ('06/', "'/'"),
    'illegal-high': ('06p', "'p'"),
    'illegal-unicode': ('0６', "'６'"),
    'nul': ('06\x00', "'\\x00'"),
    'unterminated': ('06P', "'06P'"),
    'too-many-characters': ('06' + 'P' * 6 + '0', 'six characters'),
    'bomb-of-characters': ('o' * 10**6, 'six characters'),
    'negative': ('O7', '-1'),
    'negative-difference': ('0330L', '-1'),
    'too-few-pixels': ('05', 'sum to 5'),
    'too-many-pixels': ('0T61', 'sum to'),
    'overflow-in-c': ('0' + 'oooooO' + 'ooooo?' * 9, 'run length'),
    'wraps-at-32-bits': ('0' + 'ooooo?' * 3, 'sum to'),
}


@pytest.mark.parametrize(('counts', 'value'), BAD_COUNTS.values(), ids=BAD_COUNTS.keys())
def test_bad_compressed_counts(counts, value):
    error = error_of({'size': [2, 3], 'counts': counts}, (2, 3))
    assert error.kind == 'mask-rle' and value in error.problem
    assert 'pycocotools' in error.remedy


HUGE = 10**5000


@pytest.mark.parametrize('entry', [{'size': [256, 256], 'counts': [65536]}, {'size': [123, 31], 'counts': [3813]}],
                         ids=['other', 'transposed'])  # yapf: disable
def test_rle_of_another_size(entry):
    error = error_of(entry, (31, 123))
    assert error.kind == 'mask-size' and '[31, 123]' in error.problem


@pytest.mark.parametrize(
    'entry', [{
        'size': [10**9, 10**9],
        'counts': '0'
    }, {
        'size': [HUGE, 1],
        'counts': [HUGE]
    }],
    ids=['bomb', 'unprintable'])
def test_rle_bomb(entry):
    error = error_of(entry, (31, 123))
    assert error.kind == 'too-many-pixels' and 'max_image_pixels=178956970' in error.problem
    assert str(entry['size'][1]) in error.problem or 'huge' in error.problem


def test_an_image_too_large_for_rle():
    error = error_of({'size': [2**15, 2**14], 'counts': '0'}, (2**15, 2**14))
    assert error.kind == 'mask-size' and '32768' in error.problem and 'tiles' in error.remedy


@settings(max_examples=500, deadline=None)
@given(st.text('0123456OPQo/p', max_size=8) | st.text(max_size=8), st.integers(1, 3), st.integers(1, 3))
def test_any_counts_decode_exactly_or_raise(counts, height, width):
    try:
        mask = decode({'size': [height, width], 'counts': counts}, (height, width))
    except RowError as error:
        assert error.kind == 'mask-rle'
        return
    # What we let through, pycocotools' own reader takes the same way; of most others it returns stray memory.
    assert np.array_equal(coco_mask.decode({'size': [height, width], 'counts': counts}), mask)


@pytest.mark.parametrize('mask', [
    np.zeros((2, 3), np.float32), np.zeros((2, 3, 1), np.uint8), np.zeros((0, 3), np.uint8),
    np.full((2, 3), 2, np.uint8),
], ids=['float', 'three-axes', 'no-pixels', 'value-2'])  # yapf: disable
def test_encode_rle_refuses(mask):
    with pytest.raises(ValueError, match='give'):
        encode_rle(mask)


# ---- polygons


def star(seed: int, num_points: int, height: int, width: int) -> list[float]:
    """A star-shaped polygon about the image's centre; parts of it may lie outside."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.random(num_points)) * 2 * np.pi
    radii = 0.2 + 0.5 * rng.random(num_points)
    return np.stack([width / 2 + radii * width * np.cos(angles), height / 2 + radii * height * np.sin(angles)],
                    axis=1).ravel().tolist()


def pixel_centres(size: tuple[int, int]) -> np.ndarray:
    y, x = np.mgrid[:size[0], :size[1]]
    return np.stack([x.ravel() + 0.5, y.ravel() + 0.5], axis=1)


def distance_to_outline(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    start, end = polygon, np.roll(polygon, -1, axis=0)
    along = ((points[:, None] - start) * (end - start)).sum(-1) / ((end - start)**2).sum(-1)
    nearest = start + along.clip(0, 1)[..., None] * (end - start)
    return np.linalg.norm(points[:, None] - nearest, axis=-1).min(axis=1)


@pytest.mark.parametrize('size', [(13, 47), (31, 123), (128, 96)])
@pytest.mark.parametrize('num_points', [3, 5, 12])
def test_polygons_against_point_in_polygon(size, num_points):
    for seed in range(8):
        flat = star(seed, num_points, *size)
        polygon = np.array(flat).reshape(-1, 2)
        mask = decode([flat], size).ravel()
        expected = Outline(polygon).contains_points(pixel_centres(size))
        # Only pixels whose centre lies on the outline, to within the rasteriser's steps, may differ.
        differ = mask != expected
        assert distance_to_outline(pixel_centres(size)[differ], polygon).max(initial=0) < 0.75
        assert abs(int(mask.sum()) - int(expected.sum())) <= 0.05 * expected.sum() + num_points


def test_a_box_is_exact_and_polygons_unite():
    expected = np.zeros((31, 123), np.uint8)
    expected[5:20, 10:30] = 1
    box = [10, 5, 30, 5, 30, 20, 10, 20]
    assert np.array_equal(decode([box], (31, 123)), expected)
    assert np.array_equal(decode([box, box], (31, 123)), expected)
    expected[18:31, 100:123] = 1
    assert np.array_equal(decode([box, [100, 18, 123, 18, 123, 31, 100, 31]], (31, 123)), expected)
    assert np.array_equal(decode([[0, 0, 1, 0, 1, 1, 0, 1]], (1, 1)), [[1]])


def test_a_polygon_partly_outside_is_clipped():
    expected = np.zeros((31, 123), np.uint8)
    expected[:10, 113:] = 1
    assert np.array_equal(decode([[113, -50, 500, -50, 500, 10, 113, 10]], (31, 123)), expected)


BAD_POLYGONS = {
    'left': ([[-9, 0, -1, 0, -1, 9]], 'mask-outside', '-9.0'),
    'right': ([[123, 0, 130, 0, 130, 9]], 'mask-outside', '130.0'),
    'above': ([[0, -9, 9, -9, 9, 0]], 'mask-outside', '-9.0'),
    'below': ([[0, 31, 9, 31, 9, 40]], 'mask-outside', '40.0'),
    'second-outside': ([[0, 0, 9, 0, 9, 9], [200, 0, 201, 0, 201, 9]], 'mask-outside', 'polygon 1'),
    'around-the-corner': ([[-9, 3, 3, -9, -9, -9]], 'mask-outside', '[[-9, 3, 3'),
    'a-line': ([[5, 5, 5, 20, 5, 10]], 'mask-outside', '[[5, 5, 5'),
    'between-centres': ([[5.6, 5.6, 5.8, 5.6, 5.8, 5.8]], 'mask-outside', '5.6'),
    'too-long': ([[0, 0, 10**8, 0, 10**8, 5]], 'mask-polygon', '2e+08'),
    'too-long-together': ([[0, 0, 200, 5] * 3000], 'mask-polygon', 'outlines'),
    'too-far': ([[0, 0, 2**29, 0, 5, 5]], 'mask-polygon', '536870912'),
}


@pytest.mark.parametrize(('entry', 'kind', 'value'), BAD_POLYGONS.values(), ids=BAD_POLYGONS.keys())
def test_bad_polygons(entry, kind, value):
    error = error_of(entry, (31, 123))
    assert error.kind == kind and value in error.problem


# ---- files

LABELS = np.random.default_rng(1).choice(np.array([0, 1, 3, 200], np.uint8), (31, 123))


def save(path: FilePath, pixels: np.ndarray, mode: str | None = None, **kwargs: Any) -> str:
    Image.fromarray(pixels).convert(mode).save(path, **kwargs)
    return str(path)


def raw_png(path: FilePath, bit_depth: int, colour_type: int, rows: list[bytes], width: int) -> str:
    """A PNG as PIL does not write it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))

    header = struct.pack('>IIBBBBB', width, len(rows), bit_depth, colour_type, 0, 0, 0)
    data = zlib.compress(b''.join(b'\x00' + row for row in rows))
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', data) + chunk(b'IEND', b''))
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
    # Index 0 is white and index 3 black: the colours say the opposite of the labels.
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
    # PIL stretches these to 0-255.
    row = bytes([0b00011011]) if bit_depth == 2 else bytes([0x01, 0x2F])
    path = raw_png(tmp_path / 'm.png', bit_depth, 0, [row], 4)
    labels = [0, 1, 2, 3 if bit_depth == 2 else 15]
    for label in range(16):
        assert decode({'path': path, 'label': label}, (1, 4)).tolist() == [[int(label == x) for x in labels]]
    assert decode({'path': path}, (1, 4)).tolist() == [[0, 1, 1, 1]]


def test_colour_file(tmp_path):
    pixels = np.zeros((3, 47, 4), np.uint8)
    pixels[0, 1, 0] = pixels[1, 5, 1] = pixels[2, 9, 2] = 1
    pixels[0, 30] = (0, 0, 0, 255)  # Opaque black is not mask.
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


# name: (how to make the file, kind, what the message must hold)
BAD_FILES = {
    'missing': (lambda path: None, 'mask-file', 'no such file'),
    'directory': (lambda path: path.mkdir(), 'mask-file', 'not a regular file'),
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


@pytest.mark.parametrize(('make', 'kind', 'value'), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_bad_files(tmp_path, make, kind, value):
    path = tmp_path / 'm.img'
    make(path)
    error = error_of({'path': str(path)}, (31, 123))
    assert error.kind == kind and value in error.problem and str(path) in error.problem


@pytest.mark.parametrize('path', ['a\x00b.png', 'x' * 5000, '\udc80.png', '/dev/zero', '.', 'no/such.png'])
def test_strange_paths(path):
    assert error_of({'path': path}, (31, 123)).kind == 'mask-file'


def test_the_size_is_compared_before_the_pixels_are_decoded(tmp_path):
    # The header is whole and the pixels are not: only the size can be complained about.
    truncated(tmp_path / 'm.png')
    assert error_of({'path': str(tmp_path / 'm.png')}, (31, 124)).kind == 'mask-size'


def test_files_under_root_image_dir(tmp_path, monkeypatch):
    """Of a file that is there too, the name as it is wins, as in ms-swift."""
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
    asked = []

    def load_image(path: str) -> Image.Image:
        asked.append(path)
        return Image.fromarray(LABELS)

    assert np.array_equal(decode({'path': 'oss://m.png', 'label': 3}, (31, 123), load_image=load_image), LABELS == 3)
    assert asked == ['oss://m.png']

    def fail(path: str) -> Image.Image:
        raise ConnectionError('the bucket is away')

    error = error_of({'path': 'oss://m.png'}, (31, 123), load_image=fail)
    assert error.kind == 'mask-file' and 'the bucket is away' in error.problem and 'oss://m.png' in error.problem


def test_damaged_images_never_get_past_row_error(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / 'm.img'
    sources = []
    for file_format in ('PNG', 'TIFF', 'GIF', 'BMP', 'JPEG', 'WEBP', 'PPM', 'TGA', 'DDS'):
        whole = io.BytesIO()
        Image.fromarray(LABELS).convert('RGB' if file_format == 'WEBP' else 'L').save(whole, file_format)
        sources.append(whole.getvalue())
    verdicts = {'read': 0, 'refused': 0}
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
                assert error.kind in ('mask-file', 'mask-size', 'mask-mode', 'too-many-pixels', 'image-format')
                verdicts['refused'] += 1
    assert min(verdicts.values()) > 100


# ---- junk

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.binary(max_size=4)
    | st.integers(-2, 7) | st.sampled_from(['06', 'm.png', '.', 10**400]))
KEYS = st.sampled_from(['size', 'counts', 'path', 'label']) | st.text(max_size=3)
JUNK = st.recursive(SCALARS, lambda x: st.lists(x, max_size=4) | st.dictionaries(KEYS, x, max_size=4), max_leaves=10)
NUMBERS = st.integers(-3, 8) | st.floats(-5, 10) | st.floats()
JUNK_POLYGONS = st.lists(st.lists(NUMBERS, min_size=5, max_size=9), min_size=1, max_size=3)
JUNK_COUNTS = JUNK | st.text('0123456789OPo', max_size=8) | st.lists(st.integers(0, 4), max_size=5)
JUNK_RLES = st.fixed_dictionaries({'size': st.just([2, 3]) | JUNK, 'counts': JUNK_COUNTS})
JUNK_FILES = st.fixed_dictionaries({'path': JUNK}, optional={'label': JUNK})


@settings(max_examples=800, deadline=None)
@given(JUNK | JUNK_POLYGONS | JUNK_RLES | JUNK_FILES)
def test_any_entry_is_decoded_or_gets_a_row_error(entry):
    try:
        mask = decode_mask(entry, size=(2, 3), row=ROW, position=0)
    except RowError as error:
        assert ROW in str(error) and 'masks[0]' in error.problem and error.remedy
        return
    assert mask.shape == (2, 3) and mask.dtype == np.uint8 and mask.max() <= 1


# ---- resize


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('size', [256, (31, 123), (47, 3), (1, 1), (5, 512)])
def test_resize_against_pil_and_torch(shape, size):
    mask = random_mask(shape)
    resized = resize_mask(mask, size)
    height, width = (size, size) if isinstance(size, int) else size
    assert resized.dtype == np.uint8 and resized.shape == (height, width) and resized.flags.c_contiguous
    pil = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    tensor = torch.from_numpy(mask)[None, None]
    exact = torch.nn.functional.interpolate(tensor, size=(height, width), mode='nearest-exact')[0, 0].numpy()
    # A centre that falls between two pixels of an uneven scale is rounded either way by floats.
    clear = np.ix_(*([i for i in range(new) if (2 * i + 1) * old % (2 * new) or old % (2 * new) == 0]
                     for old, new in zip(shape, (height, width))))
    assert clear[0].size * clear[1].size >= 0.4 * height * width
    assert np.array_equal(resized[clear], pil[clear])
    assert np.array_equal(resized[clear], exact[clear])


@given(MASKS, st.integers(1, 40), st.integers(1, 40))
def test_resize_against_a_loop(mask, height, width):

    def source(i: int, old: int, new: int) -> int:
        centre = Fraction(2 * i + 1, 2) * Fraction(old, new)
        return next(pixel for pixel in range(old) if pixel <= centre < pixel + 1)

    rows = [source(y, mask.shape[0], height) for y in range(height)]
    columns = [source(x, mask.shape[1], width) for x in range(width)]
    assert resize_mask(mask, (height, width)).tolist() == [[mask[y, x] for x in columns] for y in rows]


def test_resize_keeps_areas_and_does_not_dilate():
    # The fork resized bilinearly and took > 0, which grows a structure by a ring of pixels.
    mask = np.zeros((512, 512), np.uint8)
    mask[100:300, 60:200] = 1
    small = resize_mask(mask, 256)
    assert small.sum() == 100 * 70 and np.array_equal(resize_mask(small, 512), mask)


def test_resize_to_the_same_size_is_a_copy():
    mask = random_mask((31, 123))
    resized = resize_mask(mask, (31, 123))
    assert np.array_equal(resized, mask) and not np.shares_memory(resized, mask)


@pytest.mark.parametrize(('mask', 'size'), [
    (np.zeros((2, 3), np.int64), 4), (np.zeros((1, 2, 3), np.uint8), 4), (np.zeros((0, 3), np.uint8), 4),
    (np.zeros((2, 3), np.uint8), 0), (np.zeros((2, 3), np.uint8), (4, -1)),
], ids=['int64', 'three-axes', 'no-pixels', 'zero', 'negative'])  # yapf: disable
def test_resize_refuses(mask, size):
    with pytest.raises(ValueError, match='give'):
        resize_mask(mask, size)
