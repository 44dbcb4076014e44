"""`citrusv eval segmentation`: predicted against reference masks.

The paper reports Dice on MeCoVQA-G+ and MedSegBench (section 5, tables 9, 10 and 12); gIoU and cIoU are LISA's.
"""
import math
import numpy as np
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..cases import Case, Pair, PredictionError
from ..mask_rows import ImageMask, predicted_masks, target_masks
from ..row_images import images_of, spacing_of
from ..task import CaseCard, Measure, mean, ratio
from .mask_matching import MaskMatch, MatchingRule, match_masks
from .surface_distance import image_diagonal, surface_distances

if TYPE_CHECKING:
    from ..table import CaseTable

_COLUMNS = ('dice', 'iou', 'precision', 'recall', 'nsd', 'hd95', 'intersection', 'union')


@dataclass(frozen=True)
class SegmentationTask:
    """Scores masks. A case is a target mask, or an extra predicted mask.

    Attributes:
        match: 'order' or 'hungarian'; see `mask_matching.match_masks`.
        extra: 'penalise': an extra mask is a case that scores 0; 'count': a case without values.
        tolerance: The inclusive tolerance of the NSD, in `unit`.
        unit: The unit of distances: 'pixel' or 'mm'.
        spacing: The distances between rows and between columns in mm, for rows without a column `spacing`; only with
            'mm'.

    Raises:
        ValueError: An option is invalid.
    """
    match: MatchingRule = 'order'
    extra: Literal['penalise', 'count'] = 'penalise'
    tolerance: float = 2.0
    unit: Literal['pixel', 'mm'] = 'pixel'
    spacing: tuple[float, float] | None = None

    NAME: ClassVar[str] = 'segmentation'
    TITLE: ClassVar[str] = 'Segmentation'

    def __post_init__(self) -> None:
        choices = {'match': ('order', 'hungarian'), 'extra': ('penalise', 'count'), 'unit': ('pixel', 'mm')}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f'{name} is {getattr(self, name)!r}: give one of {", ".join(allowed)}.')
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(f'The tolerance is {self.tolerance}: give 0 or more, in {self.unit}.')
        if self.spacing is None:
            return
        # JSON has no tuples.
        object.__setattr__(self, 'spacing', tuple(self.spacing))
        if len(self.spacing) != 2 or not all(0 < side < math.inf for side in self.spacing):
            raise ValueError(f'The spacing is {self.spacing}: give two positive numbers, rows and columns, in mm.')
        if self.unit == 'pixel':
            raise ValueError(f'The spacing is {self.spacing}, but distances are in pixels: add --unit mm.')

    @property
    def measures(self) -> tuple[Measure, ...]:
        """All measures; Dice is the first."""
        unit = 'mm' if self.unit == 'mm' else 'px'
        return (mean('dice'), mean('iou'), mean('giou', 'iou'), ratio('ciou', 'intersection', 'union'),
                mean('precision'), mean('recall'), mean('nsd', unit=f'{self.tolerance:g} {unit}'),
                mean('hd95', percent=False, higher_is_better=False, unit=unit))  # yapf: disable

    @property
    def rules(self) -> dict[str, str]:
        """See `docs/evaluation.md`."""
        unit = f'in mm, by the column spacing{f" or else {self.spacing}" if self.spacing else ""}' \
            if self.unit == 'mm' else 'in pixels'  # yapf: disable
        matched = {
            'order': 'predicted and target masks are matched by position',
            'hungarian': 'on each image to maximise the sum of IoUs (SciPy); the rest by position'
        }
        extra = {'penalise': 'a separate case that scores 0', 'count': 'flagged extra_seg, not scored'}
        return {
            'case': 'a mask that the last answer of a row should have; all means are over cases',
            'gIoU': "the mean IoU of all cases, as in LISA's code; equals iou",
            'cIoU': 'the sum of all intersections over the sum of all unions',
            'both masks empty': 'dice, iou, precision, recall, nsd 1; hd95 0; cIoU is unchanged',
            'one mask empty': 'dice, iou, precision, recall, nsd 0; hd95 is the diagonal of the image, here and below '
                              'flagged hd95_diagonal',
            'missing [SEG]': 'the answer has no mask for the target: scored as an empty mask, flagged missing_seg',
            'no answer': 'a missing, failed or malformed prediction: 0 even if the target is empty; hd95 is the '
                         'diagonal; flagged no_answer',
            'extra [SEG]': f'a predicted mask without a target: {extra[self.extra]}',
            'wrong image': 'a mask whose image_index is not that of its target: 0, hd95 is the diagonal, flagged '
                           'wrong_image; both areas count in the union of cIoU',
            'matching': matched[self.match],
            'nsd': f'the share of both outlines within {self.tolerance:g} of the other (inclusive), {unit}; the '
                   'outline is the set of pixels with a 4-neighbour outside the mask or the image',
            'hd95': f'the larger of the two directed 95th percentiles of distances between outlines, {unit}',
        }  # yapf: disable

    def score(self, pair: Pair) -> list[Case]:
        """One case per target, then one per extra mask.

        Raises:
            RowError: The row is invalid.
            PredictionError: The prediction is invalid, or the size of a mask differs from that of its image.
        """
        matches, answered = self._matched(pair)
        return [self._case(pair, item, answered) for item in matches]

    def complete(self, table: 'CaseTable') -> None:
        """Every column is there already."""

    def show(self, pair: Pair, index: int) -> CaseCard:
        """The image, and the image with true positives, false negatives and false positives."""
        from ..rows import question_of
        from .mask_pictures import draw_comparison

        problem = ''
        try:
            matches, answered = self._matched(pair)
        except PredictionError as e:
            problem = str(e)
            matches, answered = self._matched(Pair(pair.name, pair.reference, None))
        item = matches[index]
        case = self._case(pair, item, answered)
        predicted = None if item.on_wrong_image or item.predicted is None else item.predicted.array
        images = images_of(pair.reference)
        source = images[item.mask.image] if item.mask.image < len(images) else None
        picture, no_image = draw_comparison(source, item.target.array if item.target else None, predicted)
        scores = ' '.join(f'{name} {case.values[name]:.3f}' for name in ('dice', 'iou', 'precision', 'recall', 'nsd'))
        lines = {
            'question': question_of(pair.reference),
            'target': item.target.name if item.target else 'none: an extra mask',
            'answer': _response(pair.prediction),
            'phrase': item.predicted.name if item.predicted else '',
            'scores': f'{scores} hd95 {case.values["hd95"]:.2f} {self.unit}',
            'remarks': ', '.join(case.flags),
            'problem': problem,
            'picture': no_image,
        }
        if item.on_wrong_image and item.target and item.predicted:
            lines['drawn on'] = f'image {item.predicted.image + 1}, not image {item.target.image + 1}'
        dice = case.values['dice']
        title = item.mask.name or pair.name
        return CaseCard(f'{title}: Dice {dice:.3f}' if dice == dice else f'{title}: not scored', picture,
                        tuple((caption, text) for caption, text in lines.items() if text))  # yapf: disable

    # ---- one row

    def _matched(self, pair: Pair) -> tuple[list[MaskMatch], bool]:
        """The matches, and whether there is an answer."""
        targets = target_masks(pair.reference, pair.name)
        predicted = predicted_masks(pair.prediction, pair.reference, targets, pair.name)
        return match_masks(targets, predicted or [], self.match), predicted is not None

    def _case(self, pair: Pair, item: MaskMatch, answered: bool) -> Case:
        target, predicted = item.target, item.predicted
        spacing = (1., 1.)
        if self.unit == 'mm':
            spacing = spacing_of(pair.reference, item.mask.image, self.spacing, pair.name)
        groups = {'structure': target.name} if target and target.name else {}
        if target is None:
            flags = ['extra_seg']
        else:
            flags = [name for name, given in (('no_answer', not answered), ('missing_seg', answered and not predicted),
                                              ('wrong_image', item.on_wrong_image),
                                              ('empty_target', not target.array.any())) if given]  # yapf: disable
        if target is None and self.extra == 'count':
            return Case(dict.fromkeys(_COLUMNS, math.nan), tuple(flags), groups)
        farthest = image_diagonal(item.mask.array.shape, spacing)
        if target is None or not answered or item.on_wrong_image:
            values = _failed_values(target, predicted, farthest)
        else:
            drawn = predicted.array if predicted else np.zeros_like(target.array)
            values = mask_values(drawn, target.array, spacing, self.tolerance)
            if predicted and not drawn.any():
                flags.append('empty_prediction')
        if values['hd95'] == farthest:
            flags.append('hd95_diagonal')
        return Case(values, tuple(flags), groups)


TASK = SegmentationTask


def mask_values(predicted: np.ndarray, target: np.ndarray, spacing: tuple[float, float],
                tolerance: float) -> dict[str, float]:
    """All columns of a case.

    Args:
        predicted, target: bool [h, w]. If both are empty, all scores are 1 and hd95 is 0; if one is, all scores are 0
            and hd95 is the diagonal of the image.
        spacing: The distances between rows and between columns, in the unit of the result.
        tolerance: The inclusive tolerance of the NSD, in the same unit.

    Returns:
        dice, iou, precision, recall, nsd from 0 to 1; hd95 in the unit of `spacing`; intersection and union in pixels.
    """
    shape = target.shape
    either = predicted | target
    union = int(np.count_nonzero(either))
    if not union:
        return dict.fromkeys(_COLUMNS, 1.) | {'hd95': 0., 'intersection': 0., 'union': 0.}
    # Crop to the bounding box of both masks.
    box = tuple(slice(places[0], places[-1] + 1) for places in map(np.flatnonzero, (either.any(1), either.any(0))))
    predicted, target = predicted[box], target[box]
    intersection = int(np.count_nonzero(predicted & target))
    areas = int(np.count_nonzero(predicted)), int(np.count_nonzero(target))
    if not all(areas):
        return dict.fromkeys(_COLUMNS, 0.) | {'hd95': image_diagonal(shape, spacing), 'union': float(union)}
    distances = surface_distances(predicted, target, spacing)
    return {
        'dice': 2 * intersection / sum(areas),
        'iou': intersection / union,
        'precision': intersection / areas[0],
        'recall': intersection / areas[1],
        'nsd': distances.nsd(tolerance),
        'hd95': distances.hd95(),
        'intersection': float(intersection),
        'union': float(union)
    }


def _failed_values(target: ImageMask | None, predicted: ImageMask | None, hd95: float) -> dict[str, float]:
    """The columns of a case that scores 0 whatever its masks are."""
    union = sum(int(np.count_nonzero(mask.array)) for mask in (target, predicted) if mask is not None)
    return dict.fromkeys(_COLUMNS, 0.) | {'hd95': hd95, 'union': float(union)}


def _response(prediction: Mapping[str, Any] | None) -> str:
    response = (prediction or {}).get('response')
    return response if isinstance(response, str) else ''
