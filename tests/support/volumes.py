"""Random volumes, masks of their bright pixels, and a segmentation function for their slices."""
import numpy as np
from PIL import Image
from types import SimpleNamespace
from typing import Any

from swift_citrusv.volumes.volume import Volume

PLANES = ('axial', 'coronal', 'sagittal')


def voxels(shape: tuple[int, int, int] = (5, 20, 24), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2000, shape).astype(np.int16)


def bright(image: Image.Image, least: int = 128) -> np.ndarray:
    """A mask of the bright pixels."""
    return (np.array(image)[..., 0] >= least).astype(np.uint8)


def put_all(volume: Volume, masks: np.ndarray, label: str = 'mask') -> None:
    """Adds a mask to each slice: uint8 or bool {0, 1} [slices, h, w]."""
    for index, mask in zip(range(len(volume)), masks, strict=True):
        volume.put(index, mask, label)


def segment_bright_and_dark(calls: list[int] | None = None) -> Any:
    """Segments bright and dark pixels, with phrases that vary from slice to slice; `calls` gets the batch sizes."""

    def segment(requests: list[tuple[Image.Image, str]]) -> list[Any]:
        if calls is not None:
            calls.append(len(requests))
        answers = []
        for image, prompt in requests:
            assert prompt == 'Segment.'
            pixels = np.array(image)[..., 0]
            masks = [
                SimpleNamespace(
                    array=bright(image), phrase=('The liver', 'liver', ' a  Liver')[pixels[0, 0] % 3], score=.9),
                SimpleNamespace(array=(pixels < 20).astype(np.uint8), phrase='背景', score=.8)
            ]
            answers.append(SimpleNamespace(text=f'{pixels[0, 0]}', masks=masks[:1 + int(pixels[0, 1]) % 2]))
        return answers

    return segment
