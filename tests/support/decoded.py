"""`decode_mask` with the checks that every result and every error must pass."""
import numpy as np
from support.raised import raised_by
from typing import Any

from swift_citrusv.errors import RowError
from swift_citrusv.rows.masks import decode_mask

ROW = 'train.jsonl:12'


def decode(entry: Any, size: tuple[int, int], **kwargs: Any) -> np.ndarray:
    mask = decode_mask(entry, size=size, row=ROW, position=2, **kwargs)
    assert mask.dtype == np.uint8 and mask.shape == size and mask.flags.c_contiguous and mask.flags.writeable
    assert set(np.unique(mask)) <= {0, 1}
    return mask


def error_of(entry: Any, size: tuple[int, int], **kwargs: Any) -> RowError:
    error = raised_by(RowError, decode_mask, entry, size=size, row=ROW, position=2, **kwargs)
    assert str(error).startswith(f'{ROW}: masks[2]') and error.problem.endswith('.') and error.remedy.endswith('.')
    assert len(error.remedy) > 15
    return error


def random_mask(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) < 0.4).astype(np.uint8)
