"""`citrusv eval detection`: predicted against reference boxes.

The paper reports Precision@0.5 on MedSAM2 (section 5.2.5, table 9) without defining it. Here it is, as in referring
expression comprehension, the share of the questions that are answered with a right box.
"""
import json
import math
import numpy as np
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..cases import Case, Pair, PredictionError
from ..mask_rows import predicted_masks
from ..row_images import images_of
from ..rows import question_of, response_of, without_reasoning
from ..task import CaseCard, CorpusMeasure, Measure, f1, mean, ratio
from .average_precision import AveragePrecision
from .box_matching import IOU_THRESHOLDS, MatchedRow, box_ious, match_boxes
from .box_rows import BOX_COLUMNS, Coordinates, CoordinateSystem, boxes_of_masks, reference_boxes, single_image
from .box_text import Box, normalised_label, parse_boxes

if TYPE_CHECKING:
    from ..table import CaseTable


@dataclass(frozen=True)
class _PredictedBoxes:
    """The boxes of a prediction.

    Attributes:
        boxes: In pixels of their images, the upper left corner first.
        flags: Flags of the case.
        is_readable: Whether there is an answer without unreadable boxes.
    """
    boxes: list[Box]
    flags: tuple[str, ...]
    is_readable: bool


@dataclass(frozen=True)
class DetectionTask:
    """Scores boxes. A case is a row: an image with a question.

    Attributes:
        coordinates, min_pixels, max_pixels: The coordinates of the boxes in answers; see `box_rows.Coordinates`.
        boxes_from: 'answer': the text without reasoning; 'masks': the bounding boxes of the predicted masks.
        ref_boxes: The column of the reference boxes; see `box_rows.reference_boxes`.
        ignore_labels: Whether to match boxes regardless of their labels.

    Raises:
        ValueError: An option is invalid.
    """
    coordinates: CoordinateSystem = 'resized'
    min_pixels: int | None = None
    max_pixels: int | None = None
    boxes_from: Literal['answer', 'masks'] = 'answer'
    ref_boxes: str = 'auto'
    ignore_labels: bool = False

    NAME: ClassVar[str] = 'detection'
    TITLE: ClassVar[str] = 'Detection'

    def __post_init__(self) -> None:
        choices = {'boxes_from': ('answer', 'masks'), 'ref_boxes': ('auto', *BOX_COLUMNS)}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f'{name} is {getattr(self, name)!r}: give one of {", ".join(allowed)}.')
        Coordinates(self.coordinates, self.min_pixels, self.max_pixels)

    @property
    def _coordinates(self) -> Coordinates:
        return Coordinates(self.coordinates, self.min_pixels, self.max_pixels)

    @property
    def measures(self) -> tuple[Measure | CorpusMeasure, ...]:
        """All measures; the paper's Precision@0.5 is the first."""
        # Both mean average precisions share the sorted boxes.
        area = AveragePrecision()
        return (mean('precision_at_0.5', 'precision'), ratio('micro_precision_at_0.5', 'hits', 'predicted'),
                ratio('recall_at_0.5', 'hits', 'actual'), f1('f1_at_0.5', 'hits', 'predicted', 'actual'),
                ratio('mean_iou', 'iou', 'actual'),
                CorpusMeasure('map_at_0.5', lambda data, weights: area.score(data, weights, 1)),
                CorpusMeasure('map_at_0.5_to_0.95',
                              lambda data, weights: area.score(data, weights, len(IOU_THRESHOLDS))))  # yapf: disable

    @property
    def rules(self) -> dict[str, str]:
        """See `docs/evaluation.md`."""
        labels = ('ignored' if self.ignore_labels else
                  'must be equal (NFKC, case-folded, _ and - as spaces), unless a reference box of the row has none. A '
                  'predicted box without a label has the common label of the reference boxes; if these differ, it is '
                  'wrong (flagged unlabelled)')
        systems = {
            'pixels': 'pixels of the image itself',
            'resized': f'pixels of the image as qwen_vl_utils resizes it for Qwen2.5-VL (min_pixels '
                       f'{self.min_pixels or "by default"}, max_pixels {self.max_pixels or "by default"})',
            'norm1000': 'fractions of width and height, times 1000',
            'norm1': 'fractions of width and height'
        }  # yapf: disable
        source = {'answer': f'in the text of the answer, without reasoning; {systems[self.coordinates]}',
                  'masks': 'the bounding boxes of the predicted masks, none for an empty mask'}  # yapf: disable
        return {
            'case': 'a row: an image with a question',
            'predicted boxes': source[self.boxes_from],
            'reference boxes': f'{self.ref_boxes}; columns are in pixels of the image' if self.ref_boxes != 'auto' else
                               f'the first of {", ".join(BOX_COLUMNS)} that a row has; columns are in pixels of the '
                               'image',
            'labels': labels,
            'right': 'as in COCO: boxes by descending score, ties in the order of the answer; each takes the unmatched '
                     'reference box of its label with the highest IoU, if that is at least 0.5',
            'precision_at_0.5': 'the mean over the rows of right boxes / predicted boxes (paper, table 9); 0 for a row '
                                'without predicted boxes',
            'micro_precision_at_0.5': 'right boxes / predicted boxes, over all rows',
            'recall_at_0.5': 'right boxes / reference boxes, over all rows',
            'nothing to find': 'a row without reference boxes: precision 1 without a predicted box, else 0; right and '
                               'reference boxes stay unchanged',
            'no answer': 'a missing, failed or malformed prediction: precision 0, even if there is nothing to find',
            'unparsable': 'flags an answer with a box that cannot be parsed; its other boxes count. Without any, the '
                          'precision is 0, even if there is nothing to find',
            'other_label': 'flags rows with more right boxes if labels are ignored (--ignore-labels)',
            'corners': 'in any order (flagged swapped_corners if the second is left of or above the first); a box '
                       'without area is wrong (flagged degenerate); boxes are not clipped to the image',
            'mean_iou': 'the mean over the reference boxes of the IoU with the assigned predicted box, in the '
                        'one-to-one assignment with the highest sum within a label (SciPy); 0 for a missed box',
            'map': 'pycocotools, 101 recalls, at most 100 boxes of a label in an image, mean over the labels with a '
                   'reference box. The default score is 1.0; without scores the result depends on the order of the '
                   'rows: prefer F1',
        }  # yapf: disable

    def score(self, pair: Pair) -> list[Case]:
        """One case.

        Raises:
            RowError: The row is invalid, or has boxes on several images.
            PredictionError: The prediction is invalid.
        """
        references, answer, matched = self._matched(pair)
        predicted, actual = len(answer.boxes), len(references)
        flags = [*answer.flags, *self._wrong_labels(references, answer, matched)]
        label = self._label_key(references)
        if any(map(label, references)) and not all(map(label, answer.boxes)):
            flags.append('unlabelled')
        if not actual:
            flags.append('nothing_to_find')
        if predicted:
            precision = matched.hits / predicted
        else:
            precision = float(answer.is_readable and not actual)
            if actual and answer.is_readable:
                flags.append('no_box')
        values = {'precision': precision, 'hits': float(matched.hits), 'predicted': float(predicted),
                  'actual': float(actual), 'iou': float(matched.ious.sum())}  # yapf: disable
        return [Case(values, tuple(flags), data=matched.records)]

    def complete(self, table: 'CaseTable') -> None:
        """Every column is there already."""

    def show(self, pair: Pair, index: int) -> CaseCard:
        """The image with the reference and predicted boxes."""
        from .box_pictures import draw_boxes

        problem = ''
        try:
            references, answer, matched = self._matched(pair)
        except PredictionError as e:
            problem = str(e)
            references, answer, matched = self._matched(replace(pair, prediction=None))
        image = next((box.image for box in (*references, *answer.boxes)), 0)
        sources = images_of(pair.reference)
        picture, no_image = draw_boxes(sources[image] if image < len(sources) else None, image, references,
                                       answer.boxes, matched.is_hit)  # yapf: disable
        lines = {
            'question': question_of(pair.reference),
            'answer': str((pair.prediction or {}).get('response') or ''),
            'reference boxes': describe_boxes(references, 'R'),
            'predicted boxes': describe_boxes(answer.boxes, 'P', box_ious(references, answer.boxes)),
            'remarks': ', '.join([*answer.flags, *self._wrong_labels(references, answer, matched)]),
            'problem': problem,
            'picture': no_image,
        }
        title = f'{pair.name}: {matched.hits} of {len(answer.boxes)} right, {len(references)} to find'
        return CaseCard(title, picture, tuple((caption, text) for caption, text in lines.items() if text))

    # ---- one row

    def _matched(self, pair: Pair) -> tuple[list[Box], _PredictedBoxes, MatchedRow]:
        references = reference_boxes(pair.reference, pair.name, self.ref_boxes, self._coordinates)
        answer = self._answer(pair, references)
        return references, answer, match_boxes(references, answer.boxes, self._label_key(references))

    @staticmethod
    def _wrong_labels(references: Sequence[Box], answer: _PredictedBoxes, matched: MatchedRow) -> list[str]:
        if matched.hits == min(len(references), len(answer.boxes)):
            return []
        return ['other_label'] if match_boxes(references, answer.boxes, lambda box: '').hits > matched.hits else []

    def _label_key(self, references: Sequence[Box]) -> Callable[[Box], str]:
        """The function from a box to its label as it is compared."""
        labels = {normalised_label(box.label) for box in references}
        if self.ignore_labels or '' in labels:
            return lambda box: ''
        own = next(iter(labels)) if len(labels) == 1 else ''
        return lambda box: normalised_label(box.label) or own

    def _answer(self, pair: Pair, references: Sequence[Box]) -> _PredictedBoxes:
        if self.boxes_from == 'masks':
            masks = predicted_masks(pair.prediction, pair.reference, (), pair.name)
            if masks is None:
                return _PredictedBoxes([], ('no_answer', ), False)
            boxes = [replace(box, score=score)
                     for mask, score in zip(masks, _mask_scores(pair.prediction, len(masks)))
                     for box in boxes_of_masks([mask])]  # yapf: disable
            return _PredictedBoxes(boxes, (), True)
        response = response_of(pair.prediction)
        if response is None:
            return _PredictedBoxes([], ('no_answer', ), False)
        parsed = parse_boxes(without_reasoning(response))
        image = single_image(references, pair.name)
        scale = self._coordinates.scale_to_pixels(pair.reference, image, pair.name) if parsed.boxes else (1., 1.)
        boxes = [replace(box, image=image).scaled(*scale) for box in parsed.boxes]
        flags = {'unparsable': bool(parsed.unreadable),
                 'swapped_corners': any(box.is_swapped for box in boxes),
                 'degenerate': any(box.is_degenerate for box in boxes)}  # yapf: disable
        present = tuple(name for name, is_set in flags.items() if is_set)
        return _PredictedBoxes([box.upright() for box in boxes], present, not parsed.unreadable)


TASK = DetectionTask


def describe_boxes(boxes: Sequence[Box], letter: str, ious: np.ndarray | None = None) -> str:
    """Boxes as text, rounded to pixels: 'P1 liver [12, 30, 50, 60] IoU 0.83 with R1; ...'.

    Args:
        boxes: The boxes.
        letter: 'R' (reference) or 'P' (predicted), the start of their names.
        ious: float64 [number of references, number of boxes], to name the best reference of each box.
    """
    texts = []
    for i, box in enumerate(boxes):
        text = ' '.join(filter(None, [f'{letter}{i + 1}', box.label, str([round(side) for side in box.corners])]))
        if box.score is not None:
            text += f' score {box.score:.2f}'
        if ious is not None and ious[:, i].max(initial=0) > 0:
            text += f' IoU {ious[:, i].max():.2f} with R{int(np.argmax(ious[:, i])) + 1}'
        texts.append(text)
    return '; '.join(texts)


def _mask_scores(prediction: Mapping[str, Any] | None, num_masks: int) -> list[float | None]:
    """The score of each predicted mask in a result of `swift infer`; None without one."""
    entries = (prediction or {}).get('masks')
    entries = json.loads(entries) if isinstance(entries, str) else entries or []
    scores = [entry.get('score') if isinstance(entry, Mapping) else None for entry in entries]
    assert len(scores) in (0, num_masks)
    return [
        float(score) if isinstance(score, (int, float)) and math.isfinite(score) else None
        for score in scores or [None] * num_masks
    ]
