"""Text in images, read by the engines that ship their weights inside of a package."""
import numpy as np
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from ...settings import SettingError

# Engines: PP-OCRv6 in rapidocr, PP-OCRv4 in rapidocr-onnxruntime.
ENGINES = ('rapidocr', 'rapidocr_onnxruntime')
# What is read less surely than this is no text.
SURE = .5
# Longer images are read in tiles of this side, which overlap.
_TILE, _OVERLAP = 1280, 160
# Shorter ones are enlarged: the detectors miss small letters.
_SMALL = 736


class Text(NamedTuple):
    """A text in an image.

    Attributes:
        box: [x0, y0, x1, y1] in pixels, x1 and y1 excluded.
        text: What was read.
        score: How surely, from 0 to 1.
    """
    box: tuple[int, int, int, int]
    text: str
    score: float


@lru_cache
def reader(engine: str) -> 'Reader':
    """The reader of this process."""
    return Reader(engine)


class Reader:
    """Reads text with an engine.

    Args:
        engine: One of `ENGINES`.

    Raises:
        SettingError: Its package is not installed.
    """

    def __init__(self, engine: str) -> None:
        import logging
        try:
            if engine == ENGINES[0]:
                from rapidocr import RapidOCR
                self._engine: Any = RapidOCR(params={
                    'Global.log_level': 'critical', 'EngineConfig.onnxruntime.intra_op_num_threads': 1,
                    'EngineConfig.onnxruntime.inter_op_num_threads': 1})  # yapf: disable
            else:
                from rapidocr_onnxruntime import RapidOCR
                self._engine = RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1)
        except ImportError as error:
            how = "pip install 'swift-citrusv[deid]'" if engine == ENGINES[0] else (
                'pip install --no-deps rapidocr-onnxruntime==1.4.4')
            raise SettingError(f'{error.name} is missing: {how}') from error
        logging.getLogger('RapidOCR').setLevel(logging.CRITICAL)
        self._name = engine

    def read(self, image: np.ndarray) -> list[Text]:
        """The texts of an image.

        Args:
            image: uint8 [h, w, 3].
        """
        height, width = image.shape[:2]
        found = []
        for top, left in _tiles(height, width):
            tile = np.ascontiguousarray(image[top:top + _TILE, left:left + _TILE])
            found += [Text((box[0] + left, box[1] + top, box[2] + left, box[3] + top), text, score)
                      for box, text, score in self._read(tile)]  # yapf: disable
        return found

    def _read(self, image: np.ndarray) -> Iterator[Text]:
        import cv2
        height, width = image.shape[:2]
        scale = max(1., min(4., _SMALL / min(height, width)))
        if scale > 1:
            size = (round(width * scale), round(height * scale))
            image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
        if self._name == ENGINES[0]:
            result = self._engine(image)
            parts = [] if result.boxes is None else list(zip(result.boxes, result.txts, result.scores))
        else:
            parts = self._engine(image)[0] or []
        for corners, text, score in parts:
            low = np.floor(np.min(corners, axis=0) / scale).astype(int)
            high = np.ceil(np.max(corners, axis=0) / scale).astype(int)
            box = (max(int(low[0]), 0), max(int(low[1]), 0), min(int(high[0]) + 1, width), min(int(high[1]) + 1, height))
            if box[0] < box[2] and box[1] < box[3] and float(score) >= SURE and str(text).strip():
                yield Text(box, str(text).strip(), float(score))


def _tiles(height: int, width: int) -> list[tuple[int, int]]:
    return [(top, left) for top in _starts(height) for left in _starts(width)]


def _starts(length: int) -> list[int]:
    if length <= _TILE:
        return [0]
    count = -(-(length - _OVERLAP) // (_TILE - _OVERLAP))
    return [round(place * (length - _TILE) / (count - 1)) for place in range(count)]
