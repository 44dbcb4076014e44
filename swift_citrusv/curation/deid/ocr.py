"""Text in images, read by the engines that ship their weights inside of a package."""
import numpy as np
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple

from ...settings import SettingError

# Engines: PP-OCRv6 in rapidocr, PP-OCRv4 in rapidocr-onnxruntime.
ENGINES = ('rapidocr', 'rapidocr_onnxruntime')
# What is read less surely than this is no text.
SURE = .5
# The side of what is read at a time. Longer images are read in tiles, which overlap, and once as a whole, made smaller;
# shorter ones are enlarged. Measured on 'NERISSA 77' in letters of 14 to 34 pixels, alone in a grey image: PP-OCRv6
# reads all of them in images of 736 x 736, and none of up to 26 pixels in 1280 x 1000.
_SIDE, _OVERLAP = 736, 160


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


def is_installed(engine: str) -> bool:
    """Whether the package of an engine is there."""
    return find_spec(engine) is not None


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
                one = {f'EngineConfig.onnxruntime.{name}_op_num_threads': 1 for name in ('intra', 'inter')}
                sensitive = {'Det.thresh': .2, 'Det.box_thresh': .3}
                self._engine: Any = RapidOCR(params={'Global.log_level': 'critical', **sensitive, **one})
            else:
                from rapidocr_onnxruntime import RapidOCR as OlderRapidOCR
                self._engine = OlderRapidOCR(intra_op_num_threads=1, inter_op_num_threads=1)
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
        tiles = [(top, left) for top in _starts(height) for left in _starts(width)]
        found = list(self._read(image)) if len(tiles) > 1 else []
        for top, left in tiles:
            tile = np.ascontiguousarray(image[top:top + _SIDE, left:left + _SIDE])
            found += [Text((box[0] + left, box[1] + top, box[2] + left, box[3] + top), text, score)
                      for box, text, score in self._read(tile)]  # yapf: disable
        return found

    def _read(self, image: np.ndarray) -> Iterator[Text]:
        import cv2
        height, width = image.shape[:2]
        scale = min(4., _SIDE / max(height, width))
        if scale != 1:
            size = (max(round(width * scale), 1), max(round(height * scale), 1))
            image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
        if self._name == ENGINES[0]:
            result = self._engine(image)
            parts = [] if result.boxes is None else list(zip(result.boxes, result.txts, result.scores))
        else:
            parts = self._engine(image)[0] or []
        for corners, text, score in parts:
            low = np.floor(np.min(corners, axis=0) / scale).astype(int)
            high = np.ceil(np.max(corners, axis=0) / scale).astype(int)
            box = (max(int(low[0]), 0), max(int(low[1]), 0), min(int(high[0]) + 1,
                                                                 width), min(int(high[1]) + 1, height))
            if box[0] < box[2] and box[1] < box[3] and float(score) >= SURE and str(text).strip():
                yield Text(box, str(text).strip(), float(score))


def _starts(length: int) -> list[int]:
    if length <= _SIDE:
        return [0]
    count = -(-(length - _OVERLAP) // (_SIDE - _OVERLAP))
    return [round(place * (length - _SIDE) / (count - 1)) for place in range(count)]
