"""`citrusv eval detection`: boxes of answers against boxes of rows.

The paper gives Precision@0.5 on MedSAM2 (section 5.2.5, table 9) and does not define it. It is read here as in the
grounding of expressions, where it comes from: the share of the questions that are answered with a right box.
"""
import json
import math
import numpy as np
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..cases import Case, Pair, PredictionError
from ..image_facts import images_of
from ..mask_rows import predicted_of
from ..rows import question_of, response_of, without_reasoning
from ..task import Corpus, Measure, Shown, f1, mean, ratio
from .average_precision import AveragePrecision
from .box_matching import IOU_THRESHOLDS, MatchedRow, iou_table, match_boxes
from .box_rows import BOX_COLUMNS, Coordinates, Form, boxes_of_masks, image_of_text, reference_boxes
from .box_text import Box, normalised, parse_boxes

if TYPE_CHECKING:
    from ..table import Table


@dataclass(frozen=True)
class _Answer:
    """What a prediction says.

    Attributes:
        boxes: In pixels of their images, upright.
        flags: What is remarkable about it.
        is_read: Whether there is an answer, and none of it looks like a box that cannot be read.
    """
    boxes: list[Box]
    flags: tuple[str, ...]
    is_read: bool


@dataclass(frozen=True)
class DetectionTask:
    """Scores boxes. A case is a row: an image with a question.

    Attributes:
        coordinates, min_pixels, max_pixels: Of the boxes in answers: see `box_rows.Coordinates`.
        boxes_from: 'answer': its text, without the reasoning; 'masks': the boxes around the masks of the prediction.
        ref_boxes: Where the boxes of the reference are: see `box_rows.reference_boxes`.
        ignore_labels: A box is right whatever its label says.

    Raises:
        ValueError: An option has no such value.
    """
    coordinates: Form = 'resized'
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
    def measures(self) -> tuple[Measure | Corpus, ...]:
        """The paper's Precision@0.5 first."""
        # What one finds out about the boxes, the other uses.
        area = AveragePrecision()
        return (mean('precision_at_0.5', 'precision'), ratio('micro_precision_at_0.5', 'hits', 'predicted'),
                ratio('recall_at_0.5', 'hits', 'actual'), f1('f1_at_0.5', 'hits', 'predicted', 'actual'),
                ratio('mean_iou', 'iou', 'actual'),
                Corpus('map_at_0.5', lambda data, weights: area.score(data, weights, 1)),
                Corpus('map_at_0.5_to_0.95',
                       lambda data, weights: area.score(data, weights, len(IOU_THRESHOLDS))))  # yapf: disable

    @property
    def rules(self) -> dict[str, str]:
        """See `docs/evaluation.md`."""
        labels = ('are not looked at' if self.ignore_labels else
                  'must be equal (NFKC, without case, _ and - as blanks), unless a reference box of the row has none; '
                  'where all of a row have the same, a predicted box without a label has it too, and else it is wrong '
                  '(flagged unlabelled)')
        form = {
            'pixels': 'pixels of the image itself',
            'resized': f'pixels of the image as qwen_vl_utils resizes it for Qwen2.5-VL (min_pixels '
                       f'{self.min_pixels or "by default"}, max_pixels {self.max_pixels or "by default"})',
            'norm1000': 'width and height of the image are 1000',
            'norm1': 'width and height of the image are 1'
        }  # yapf: disable
        source = {'answer': f'the text of the answer without its reasoning; {form[self.coordinates]}',
                  'masks': 'around the masks of the prediction; an empty mask has none'}  # yapf: disable
        return {
            'case': 'a row: an image with a question',
            'predicted boxes': source[self.boxes_from],
            'reference boxes': f'{self.ref_boxes}; columns are in pixels of the image' if self.ref_boxes != 'auto' else
                               f'the first of {", ".join(BOX_COLUMNS)} that a row has; columns are in pixels of the '
                               'image',
            'labels': labels,
            'right': 'as in COCO: boxes in the order of their scores, and of the answer where those are equal; each '
                     'takes the reference box of its label that is left with the highest IoU, if that is 0.5 or more',
            'precision_at_0.5': 'the mean over the rows of right boxes / predicted boxes (paper, table 9); a row whose '
                                'answer has no box is 0, so that silence does not pay',
            'micro_precision_at_0.5': 'right boxes / predicted boxes, of all rows; rows without predicted boxes add '
                                      'nothing',
            'recall_at_0.5': 'right boxes / reference boxes, of all rows',
            'nothing to find': 'no reference box: an answer without a box has the precision 1, with one 0; nothing is '
                               'added to right and reference boxes',
            'no answer': 'no prediction, a failed or malformed one: precision 0, even where there is nothing to find',
            'unparsable': 'what looks like a box and cannot be read is flagged; the other boxes of the answer count. '
                          'Without any, the precision is 0, even where there is nothing to find',
            'other_label': 'flagged where more boxes would be right if labels did not count (--ignore-labels)',
            'corners': 'in any order (flagged swapped_corners where the second is left of or above the first); a box '
                       'without area is wrong (flagged degenerate); nothing is cut off at the border of the image',
            'mean_iou': 'the mean over the reference boxes of the IoU with their predicted box, each box in one pair, '
                        'pairs chosen for the highest sum within a label (SciPy); 0 for one that is missed',
            'map': 'pycocotools, 101 recalls, at most 100 boxes of a label in an image, mean over the labels that have '
                   'a reference box. A box without a score has 1.0: without scores the order of the rows decides, and '
                   'F1 says more',
        }  # yapf: disable

    def score(self, pair: Pair) -> list[Case]:
        """One case.

        Raises:
            RowError: The row cannot be read, or has boxes on several images and none of them named by the answer.
            PredictionError: The prediction cannot.
        """
        references, answer, matched = self._matched(pair)
        predicted, actual = len(answer.boxes), len(references)
        flags = [*answer.flags, *self._wrong_labels(references, answer, matched)]
        label = self._label_of(references)
        if any(map(label, references)) and not all(map(label, answer.boxes)):
            flags.append('unlabelled')
        if not actual:
            flags.append('nothing_to_find')
        if predicted:
            precision = matched.hits / predicted
        else:
            precision = float(answer.is_read and not actual)
            if actual and answer.is_read:
                flags.append('no_box')
        values = {'precision': precision, 'hits': float(matched.hits), 'predicted': float(predicted),
                  'actual': float(actual), 'iou': float(matched.ious.sum())}  # yapf: disable
        return [Case(values, tuple(flags), data=matched.records)]

    def complete(self, table: 'Table') -> None:
        """Every column is there already."""

    def show(self, pair: Pair, index: int) -> Shown:
        """The image with both kinds of boxes."""
        from .box_pictures import boxes_picture

        problem = ''
        try:
            references, answer, matched = self._matched(pair)
        except PredictionError as e:
            problem = str(e)
            references, answer, matched = self._matched(replace(pair, prediction=None))
        image = next((box.image for box in (*references, *answer.boxes)), 0)
        sources = images_of(pair.reference)
        picture, no_image = boxes_picture(sources[image] if image < len(sources) else None, image, references,
                                          answer.boxes, matched.is_hit)  # yapf: disable
        lines = {
            'question': question_of(pair.reference),
            'answer': str((pair.prediction or {}).get('response') or ''),
            'reference boxes': box_lines(references, 'R'),
            'predicted boxes': box_lines(answer.boxes, 'P', iou_table(references, answer.boxes)),
            'remarks': ', '.join([*answer.flags, *self._wrong_labels(references, answer, matched)]),
            'problem': problem,
            'picture': no_image,
        }
        title = f'{pair.name}: {matched.hits} of {len(answer.boxes)} right, {len(references)} to find'
        return Shown(title, picture, tuple((caption, text) for caption, text in lines.items() if text))

    # ---- one row

    def _matched(self, pair: Pair) -> tuple[list[Box], _Answer, MatchedRow]:
        references = reference_boxes(pair.reference, pair.name, self.ref_boxes, self._coordinates)
        answer = self._answer(pair, references)
        return references, answer, match_boxes(references, answer.boxes, self._label_of(references))

    @staticmethod
    def _wrong_labels(references: Sequence[Box], answer: _Answer, matched: MatchedRow) -> list[str]:
        if matched.hits == min(len(references), len(answer.boxes)):
            return []
        return ['other_label'] if match_boxes(references, answer.boxes, lambda box: '').hits > matched.hits else []

    def _label_of(self, references: Sequence[Box]) -> Callable[[Box], str]:
        """The label of a box of a row, as it is compared."""
        labels = {normalised(box.label) for box in references}
        if self.ignore_labels or '' in labels:
            return lambda box: ''
        own = next(iter(labels)) if len(labels) == 1 else ''
        return lambda box: normalised(box.label) or own

    def _answer(self, pair: Pair, references: Sequence[Box]) -> _Answer:
        if self.boxes_from == 'masks':
            masks = predicted_of(pair.prediction, pair.reference, (), pair.name)
            if masks is None:
                return _Answer([], ('no_answer', ), False)
            boxes = [replace(box, score=score)
                     for mask, score in zip(masks, _mask_scores(pair.prediction, len(masks)))
                     for box in boxes_of_masks([mask])]  # yapf: disable
            return _Answer(boxes, (), True)
        response = response_of(pair.prediction)
        if response is None:
            return _Answer([], ('no_answer', ), False)
        parsed = parse_boxes(without_reasoning(response))
        image = image_of_text(references, pair.name)
        scale = self._coordinates.scale(pair.reference, image, pair.name) if parsed.boxes else (1., 1.)
        boxes = [replace(box, image=image).scaled(*scale) for box in parsed.boxes]
        flags = {'unparsable': bool(parsed.unreadable),
                 'swapped_corners': any(box.is_swapped for box in boxes),
                 'degenerate': any(box.is_degenerate for box in boxes)}  # yapf: disable
        return _Answer([box.upright() for box in boxes], tuple(name for name, is_so in flags.items() if is_so),
                       not parsed.unreadable)  # yapf: disable


TASK = DetectionTask


def box_lines(boxes: Sequence[Box], letter: str, ious: np.ndarray | None = None) -> str:
    """Boxes for people to read: 'P1 liver [12, 30, 50, 60] IoU 0.83 with R1; ...', rounded to pixels.

    Args:
        boxes: To be named letter1, letter2, ....
        letter: 'R' or 'P'.
        ious: float64 [number of references, number of boxes], to name the nearest reference.
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
    """The score of each mask of a prediction, as `swift infer` writes it; None where there is none."""
    entries = (prediction or {}).get('masks')
    entries = json.loads(entries) if isinstance(entries, str) else entries or []
    scores = [entry.get('score') if isinstance(entry, Mapping) else None for entry in entries]
    assert len(scores) in (0, num_masks)
    return [
        float(score) if isinstance(score, (int, float)) and math.isfinite(score) else None
        for score in scores or [None] * num_masks
    ]
