"""Decides on the images of a row."""
import numpy as np
import os
from collections.abc import Iterator, Sequence
from typing import Any

from ...files.errors import IMAGE_ERRORS
from ...files.images import open_image, to_rgb
from ...files.rules import FileRules
from ..images import remembered
from ..step import Decision
from .rule_file import FilterRules

# Grey levels around the median that count as the same: the noise of JPEG.
_LEVELS = 2


class ImageJudge:
    """Applies the rules to images, each file once.

    Args:
        rules: The rules.
        files: What rows may name.
    """

    def __init__(self, rules: FilterRules, files: FileRules) -> None:
        self._rules, self._files = rules, files
        self._remembered = remembered(self._decide)

    def decide(self, images: Sequence[Any]) -> Iterator[Decision]:
        """Yields the decisions on the images of a row."""
        for number, image in enumerate(images, start=1):
            decision = self._remembered(image)
            if decision is not None:
                name = image if isinstance(image, str) and len(image) < 200 else f'image {number}'
                yield decision._replace(evidence_id=name)

    def _decide(self, image: Any) -> Decision | None:
        rules = self._rules
        try:
            opened = open_image(image, self._files)
            width, height = opened.size
            if width * height < rules.min_pixels:
                return Decision(
                    'small-image', 'dropped', width * height, rules.min_pixels, detail=f'{width} x {height} pixels.')
            pixels = np.asarray(to_rgb(opened))
        except IMAGE_ERRORS as error:
            return Decision('undecodable-image', 'dropped', detail=self._problem(error, image))
        if (pixels == pixels[0, 0]).all():
            return Decision('single-colour', 'dropped', detail=f'all pixels are {tuple(int(v) for v in pixels[0, 0])}.')
        grey = pixels.mean(-1)
        share = float((np.abs(grey - np.median(grey)) <= _LEVELS).mean())
        if share >= rules.blank_share:
            return Decision('blank-image', 'dropped', round(share, 5), rules.blank_share)
        return None

    def _problem(self, error: BaseException, image: Any) -> str:
        """The error in words, without the folder that the files lie in: the ledger does not depend on it."""
        if isinstance(error, FileNotFoundError):
            return 'there is no such file.'
        text = f'{type(error).__name__}: {" ".join(str(error).split())}'
        if isinstance(image, str):
            name = image.split('#')[0]
            for path in self._files.candidate_paths(name):
                for place in (os.path.abspath(path), os.path.realpath(path)):
                    text = text.replace(place, name)
        return text[:240]
