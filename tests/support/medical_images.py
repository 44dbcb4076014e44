"""DICOM and NIfTI images as rows see them, and windows written out value by value."""
import numpy as np
import pytest
from typing import Any

from swift_citrusv.files.errors import FileError
from swift_citrusv.files.images import open_image, to_rgb
from swift_citrusv.files.rules import FileRules

RULES = FileRules()


def grey(reference: Any, rules: FileRules = RULES) -> np.ndarray:
    """A grey image as in a row: uint8 [h, w]."""
    image = to_rgb(open_image(reference, rules))
    assert image.mode == 'RGB'
    pixels = np.array(image)
    assert (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()
    return pixels[..., 0]


def colours(reference: Any) -> np.ndarray:
    """An image as in a row: uint8 RGB [h, w, 3]."""
    return np.array(to_rgb(open_image(reference, RULES)))


def rejected(reference: Any, rules: FileRules = RULES) -> FileError:
    """The error of opening and loading, which must have a remedy."""
    with pytest.raises(FileError) as error:
        to_rgb(open_image(reference, rules))
    assert error.value.remedy and 'Traceback' not in str(error.value)
    return error.value


def linear(values: np.ndarray, level: float, width: float) -> np.ndarray:
    """LINEAR_EXACT of the DICOM standard, value by value."""
    out = np.empty(values.shape, np.uint8)
    for index, value in np.ndenumerate(values.astype(float)):
        share = (value - (level - width / 2)) / width
        out[index] = round(255 * min(max(share, 0), 1))
    return out


def by_percentile(values: np.ndarray) -> np.ndarray:
    """`linear` between the percentiles 0.5 and 99.5."""
    low, high = np.percentile(values.astype(float), (.5, 99.5))
    return linear(values, (low + high) / 2, high - low)


def close(one: np.ndarray, other: np.ndarray, most: int = 0) -> bool:
    """Whether images are equal, up to rounding between two grey levels, or to `most` levels."""
    if one.shape != other.shape:
        return False
    off = np.abs(one.astype(int) - other.astype(int))
    return int(off.max()) <= max(most, 1) and (most > 0 or float((off > 0).mean()) < .02)
