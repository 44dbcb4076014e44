"""Mask files with lossy compression, against the mask that was saved."""
import numpy as np
from pathlib import Path
from PIL import Image
from scipy.ndimage import gaussian_filter
from support.decoded import decode, error_of
from typing import Any

from swift_citrusv.files import notices

ROWS, COLUMNS = np.mgrid[:96, :110]
DISK = (ROWS - 47)**2 + (COLUMNS - 50)**2 <= 15**2
LOSSY: dict[str, dict[str, Any]] = {
    'JPEG': {},
    'JPEG 30': {'quality': 30},
    'JPEG 95': {'quality': 95},
    'JPEG progressive': {'progressive': True},
    'WEBP': {'quality': 50},
    'TIFF': {'compression': 'jpeg'},
    'JPEG2000': {'irreversible': True, 'quality_mode': 'rates', 'quality_layers': [20]},
    'JPEG2000 reversible': {'quality_mode': 'rates', 'quality_layers': [20]},
}  # yapf: disable


def save(path: Path, pixels: np.ndarray, name: str, **options: Any) -> str:
    kind = name.split()[0]
    image = Image.fromarray(pixels)
    (image.convert('RGB') if kind in ('WEBP', 'AVIF') else image).save(path, kind, **options)
    return str(path)


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def test_a_disk_keeps_its_pixels(tmp_path):
    assert DISK.sum() == 709
    for name, options in LOSSY.items():
        for colour in (False, True):
            for level in (255, 128):
                pixels = DISK.astype(np.uint8) * level
                if colour:
                    # Red on black, with half as many colour values as pixels.
                    pixels = np.stack([pixels, np.zeros_like(pixels), np.zeros_like(pixels)], axis=-1)
                path = save(tmp_path / 'm.img', pixels, name, **options)
                mask = decode({'path': path}, DISK.shape).astype(bool)
                exact = level == 255 and not colour and name.split()[0] != 'JPEG2000' and '30' not in name
                least = 1 if exact else .96
                assert dice(mask, DISK) >= least, (name, colour, level, mask.sum())
                with Image.open(path) as image:
                    values = np.asarray(image)
                if not colour:
                    assert dice((values if values.ndim == 2 else values.max(axis=-1)) > 0, DISK) < .95, name


def test_thin_and_ragged_masks(tmp_path):
    rng = np.random.default_rng(0)
    noise = gaussian_filter(rng.normal(size=(200, 301)), 3)
    blobs = noise > np.quantile(noise, .85)
    lines = np.zeros((200, 301), bool)
    for column in range(301):
        lines[int(100 + 60 * np.sin(column / 20)), column] = lines[int(column * .6), column] = True
    for mask in (blobs, lines, np.ones_like(lines), np.zeros_like(lines)):
        for quality in (30, 75):
            path = save(tmp_path / 'm.jpg', mask.astype(np.uint8) * 255, 'JPEG', quality=quality)
            read = decode({'path': path}, mask.shape).astype(bool)
            assert np.array_equal(read, mask) or dice(read, mask) > .99, quality


def test_labels_and_levels_are_refused(tmp_path):
    labels = np.zeros((100, 120), np.uint8)
    labels[10:50, 10:50], labels[10:50, 60:100], labels[60:90, 20:60] = 1, 2, 3
    for name in ('JPEG', 'WEBP', 'TIFF'):
        for scale, quality in ((1, 75), (50, 75), (80, 30), (127, 95)):
            options = {'compression': 'jpeg'} if name == 'TIFF' else {'quality': quality}
            path = save(tmp_path / 'm.img', np.minimum(labels * float(scale), 255).astype(np.uint8), name, **options)
            for entry in ({'path': path}, {'path': path, 'label': 3}):
                error = error_of(entry, labels.shape)
                assert error.kind == 'mask-lossy' and 'PNG' in error.remedy and path in error.problem, (name, scale)
        # As faint as the errors of the compression.
        error = error_of({'path': save(tmp_path / 'm.img', DISK.astype(np.uint8), name, **options)}, DISK.shape)
        assert error.kind == 'mask-lossy' and 'as small as' in error.problem


def test_lossless_files_keep_the_old_rule(tmp_path):
    """All pixels that are not 0, with exact labels, also in formats that may be lossy."""
    labels = np.zeros((100, 120), np.uint8)
    labels[10:50, 10:50], labels[60:90, 20:60], labels[5, 100] = 1, 40, 255
    formats: dict[str, dict[str, Any]] = {
            'PNG': {}, 'WEBP': {'lossless': True}, 'JPEG2000': {}, 'TIFF': {'compression': 'tiff_lzw'}, 'GIF': {},
            'BMP': {}}  # yapf: disable
    for name, options in formats.items():
        path = save(tmp_path / 'm.img', labels, name, **options)
        assert np.array_equal(decode({'path': path}, labels.shape), labels > 0), name
        if name not in ('WEBP', 'GIF'):
            assert np.array_equal(decode({'path': path, 'label': 40}, labels.shape), labels == 40), name


def test_it_is_said_once_for_each_format(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(notices, '_shown', set())
    for number in range(3):
        for name in ('JPEG', 'WEBP', 'PNG'):
            decode({'path': save(tmp_path / f'{number}.{name}', DISK.astype(np.uint8) * 255, name)}, DISK.shape)
    messages = [record.message for record in caplog.records]
    assert len(messages) == 2 and 'is a JPEG' in messages[0] and 'is a lossy WebP' in messages[1]
    assert "0.JPEG'" in messages[0] and 'above 127.5' in messages[0] and 'train.jsonl:12' in messages[0]
