"""Requests with pictures, for the tests of answers."""
import numpy as np
from PIL import Image
from typing import Any


def picture(seed: int, width: int = 84, height: int = 84) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def mixed_requests() -> list[tuple[Any, Any]]:
    """Eight of mixed lengths and kinds."""
    return [
        (picture(1), 'Segment the cell.'),
        (None, 'What is a cell? ' * 6),
        (picture(2, 200, 120), 'Segment the nucleus.'),
        ([picture(3), picture(4, 60, 90)], 'Segment the cell in image 1 and in image 2.'),
        (picture(5), 'What does [SEG] mean? [SEG] [SEG]'),
        (picture(6, 120, 60), 'Please. ' * 20 + 'Segment the dark spot.'),
        ([picture(7), picture(8)], [{
            'role': 'user',
            'content': '<image>Segment the cell.'
        }, {
            'role': 'assistant',
            'content': 'The cell: [SEG].'
        }, {
            'role': 'user',
            'content': '<image>And here?'
        }]),
        (picture(1), 'Segment the vessel.'),
    ]
