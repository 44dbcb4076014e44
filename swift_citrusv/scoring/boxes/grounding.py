"""`citrusv eval grounding`: the boxes cited in the reasoning of an answer.

In the paper (section 3.2.4, figure 8, appendix A) an answer has reasoning steps in `<think>`, which cite parts of the
image with their boxes, and then `<answer>`.
"""
import math
import numpy as np
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import RowError
from ...rows.mask_format import short_repr
from ..cases import Case, Pair, PredictionError
from ..row_images import images_of
from ..rows import question_of, response_of
from ..task import CaseCard, Measure, divide_or_nan, mean, ratio
from .box_matching import box_ious
from .box_rows import Coordinates, CoordinateSystem, has_boxes, reference_boxes, single_image
from .box_text import Box, ParsedBoxes, boxes_of_json, normalised_label, parse_boxes
from .detection import describe_boxes
from .reasoning import is_well_formed, normalised_final_answer, order_correlation, reasoning_text, reference_answer

if TYPE_CHECKING:
    from ..table import CaseTable

# Columns with the cited parts of a reference, by precedence.
PART_COLUMNS = ('steps', 'bboxes', 'boxes', 'bbox', 'objects', 'answer')
_IOU_THRESHOLD = 0.5
_STEPS_REMEDY = ("Write 'steps' as an ordered list of {'Part': name, 'bbox': [x1, y1, x2, y2]} in pixels, or of lists "
                 'of these.')  # yapf: disable


@dataclass(frozen=True)
class _GroundedRow:
    """A row and its prediction.

    Attributes:
        references, cited: The parts of both without repetitions, in the order of the text; in the same coordinates, on
            one image.
        in_pixels: Whether the coordinates are pixels of the image; else they are the model's.
        image: The index of the image.
        ious: float64 [number of references, number of cited parts]; 0 for parts of different names.
        text: The answer; None without one.
        flags: Flags of the case.
    """
    references: list[Box]
    cited: list[Box]
    in_pixels: bool
    image: int
    ious: np.ndarray
    text: str | None
    flags: list[str]


@dataclass(frozen=True)
class GroundingTask:
    """Scores the boxes that the reasoning of an answer cites. A case is a row.

    Attributes:
        coordinates, min_pixels, max_pixels: The coordinates of the boxes in answers; see `box_rows.Coordinates`. Used
            for rows with boxes in pixels, and for pictures.
        ref_parts: One of `PART_COLUMNS`, or 'auto' for the first one in the row. All except the answer are in pixels of
            the image.
        think_in_prompt: Whether the prompt ends with the opening `<think>`, so that answers lack it.
        answers: Whether to compare the final answers too.

    Raises:
        ValueError: An option is invalid.
    """
    coordinates: CoordinateSystem = 'resized'
    min_pixels: int | None = None
    max_pixels: int | None = None
    ref_parts: str = 'auto'
    think_in_prompt: bool = False
    answers: bool = False

    NAME: ClassVar[str] = 'grounding'
    TITLE: ClassVar[str] = 'Reasoning grounded in boxes'

    def __post_init__(self) -> None:
        if self.ref_parts not in ('auto', *PART_COLUMNS):
            raise ValueError(f'ref_parts is {self.ref_parts!r}: give one of auto, {", ".join(PART_COLUMNS)}.')
        Coordinates(self.coordinates, self.min_pixels, self.max_pixels)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """All measures; the precision of the cited parts is the first."""
        matched = mean('answer_match')
        return (ratio('precision_at_0.5', 'right', 'cited'), ratio('recall_at_0.5', 'found', 'actual'),
                Measure('f1_at_0.5', ('right', 'cited', 'found', 'actual'), _f1, per_case='f1'),
                ratio('mean_iou', 'iou', 'actual'), ratio('parts_named', 'named', 'parts'),
                mean('order', percent=False, digits=3), mean('well_formed'),
                *([matched] if self.answers else []))  # yapf: disable

    @property
    def rules(self) -> dict[str, str]:
        """See `docs/evaluation.md`."""
        rules = {
            'case': 'a row',
            'cited parts': 'the named boxes between <think> and </think>, or, without these tags, before <answer>; '
                           'the same name with the same box counts once',
            'reference parts': 'parsed from the reference answer in the same way, or from a column in pixels of the '
                               f'image ({self.ref_parts})',
            'names': 'equal after NFKC and case folding, with _ and - as spaces',
            'coordinates': 'compared unchanged if both sides are parsed from answers; else those of answers are '
                           f'{self.coordinates}',
            'right': 'a cited part whose box has an IoU of at least 0.5 with a reference box of the same name; a name '
                     'that is not in the reference is wrong',
            'precision_at_0.5': 'right cited parts / cited parts, over all rows',
            'recall_at_0.5': 'reference parts with a right cited part / reference parts, over all rows',
            'mean_iou': 'the mean over the reference parts of the highest IoU with a cited part of that name; 0 if it '
                        'is not cited',
            'parts_named': 'the share of the reference names that are cited, with any box',
            'order': "Kendall's tau (SciPy), from 1 to -1, between the orders of first citation of the common names; "
                     'the mean over the rows with at least two common names',
            'well_formed': 'the answer is exactly one <think>...</think> and then one <answer>...</answer>, neither '
                           'empty, with only whitespace around' +
                           ('; the opening <think> is in the prompt' if self.think_in_prompt else ''),
            'no answer': 'no citations, not well-formed, no order',
            'unparsable': 'flags an answer with a box that cannot be parsed; its other boxes count',
        }  # yapf: disable
        if self.answers:
            rules['answer_match'] = ('the final answers are equal after NFKC and case folding, without *, repeated '
                                     'spaces and a final full stop')  # yapf: disable
        return rules

    def score(self, pair: Pair) -> list[Case]:
        """One case.

        Raises:
            RowError: The row is invalid.
            PredictionError: The prediction is invalid.
        """
        read = self._read(pair)
        right = float((read.ious >= _IOU_THRESHOLD).any(axis=0).sum())
        found = float((read.ious >= _IOU_THRESHOLD).any(axis=1).sum())
        names = [
            list(dict.fromkeys(normalised_label(box.label) for box in boxes)) for boxes in (read.references, read.cited)
        ]
        values = {
            'right': right,
            'cited': float(len(read.cited)),
            'found': found,
            'actual': float(len(read.references)),
            'iou': float(read.ious.max(axis=1, initial=0).sum()),
            'named': float(len({*names[0]} & {*names[1]})),
            'parts': float(len(names[0])),
            'order': order_correlation(*names),
            'well_formed': float(is_well_formed(read.text, self.think_in_prompt)),
        }
        counts = [values[name] for name in ('right', 'cited', 'found', 'actual')]
        values['f1'] = float(_f1(np.repeat(counts, 2)))
        if self.answers:
            ours, theirs = (
                normalised_final_answer(text)
                for text in (read.text or '', reference_answer(pair.reference, pair.name)))
            values['answer_match'] = float(ours == theirs and read.text is not None)
        return [Case(values, tuple(read.flags))]

    def complete(self, table: 'CaseTable') -> None:
        """Every column is there already."""

    def show(self, pair: Pair, index: int) -> CaseCard:
        """The image with the reference and cited parts, and both texts."""
        problem = ''
        try:
            read = self._read(pair)
        except PredictionError as e:
            problem = str(e)
            pair = replace(pair, prediction=None)
            read = self._read(pair)
        values = self.score(pair)[0].values
        picture, no_image, boxes = self._picture(pair, read)
        scores = ' '.join(f'{name} {values[name]:.3f}' for name in ('f1', 'order') if not math.isnan(values[name]))
        lines = {
            'question': question_of(pair.reference),
            'answer': read.text or '',
            'right answer': reference_answer(pair.reference, pair.name, needed=False),
            'reference parts': describe_boxes(boxes[0], 'R'),
            'cited parts': describe_boxes(boxes[1], 'P', read.ious),
            'scores': scores,
            'remarks': ', '.join(read.flags),
            'problem': problem,
            'picture': no_image,
        }
        title = f'{pair.name}: {values["right"]:.0f} of {len(read.cited)} cited parts right'
        return CaseCard(f'{title}, {len(read.references)} in the reference', picture,
                        tuple((caption, text) for caption, text in lines.items() if text))  # yapf: disable

    # ---- one row

    def _read(self, pair: Pair) -> _GroundedRow:
        references, in_pixels = self._references(pair.reference, pair.name)
        image = single_image(references, pair.name)
        text = response_of(pair.prediction)
        parsed = parse_boxes(reasoning_text(text or ''))
        cited = [replace(box, image=image) for box in parsed.boxes]
        flags = {'no_answer': text is None,
                 'no_citation': text is not None and not cited and bool(references),
                 'unparsable': bool(parsed.unreadable),
                 'malformed_tags': text is not None and not is_well_formed(text, self.think_in_prompt),
                 'unnamed_part': any(not box.label for box in cited),
                 'swapped_corners': any(box.is_swapped for box in cited),
                 'degenerate': any(box.is_degenerate for box in cited),
                 'no_reference_parts': not references}  # yapf: disable
        if in_pixels and cited:
            scale = self._coordinates.scale_to_pixels(pair.reference, image, pair.name)
            cited = [box.scaled(*scale) for box in cited]
        references, cited = _distinct(references), _distinct(cited)
        ious = box_ious(references, cited)
        names = [[normalised_label(box.label) for box in boxes] for boxes in (references, cited)]
        if ious.size:
            ious = ious * np.array([[ours == theirs for theirs in names[1]] for ours in names[0]])
        return _GroundedRow(references, cited, in_pixels, image, ious, text,
                            [name for name, is_set in flags.items() if is_set])  # yapf: disable

    def _references(self, reference: Mapping[str, Any], row: str) -> tuple[list[Box], bool]:
        """The reference parts, and whether their boxes are in pixels."""
        column = self.ref_parts
        if column == 'auto':
            column = next((name for name in PART_COLUMNS[:-1] if has_boxes(reference, name)), 'answer')
        if column == 'answer':
            boxes = _parts(parse_boxes(reasoning_text(reference_answer(reference, row))), column, row)
        elif column == 'steps':
            steps = reference.get('steps')
            if not isinstance(steps, list):
                raise RowError(row, f"'steps' is {short_repr(steps)}.", _STEPS_REMEDY, 'eval-boxes')
            boxes = _parts(boxes_of_json(steps), column, row)
        else:
            boxes = reference_boxes(reference, row, column, self._coordinates)
        for box in boxes:
            if box.is_degenerate or not normalised_label(box.label):
                raise RowError(row, f'the part {box.label!r} of {column!r} has the box {list(box.corners)}.',
                               'Give each part a name and a box with an area.', 'eval-boxes')  # yapf: disable
        return boxes, column != 'answer'

    @property
    def _coordinates(self) -> Coordinates:
        return Coordinates(self.coordinates, self.min_pixels, self.max_pixels)

    def _picture(self, pair: Pair, read: _GroundedRow) -> tuple[Any, str, list[list[Box]]]:
        """The picture, its problem if any, and the reference and cited boxes in its order."""
        from .box_pictures import draw_boxes

        boxes = [read.references, read.cited]
        if not read.in_pixels:
            try:
                scale = self._coordinates.scale_to_pixels(pair.reference, read.image, pair.name)
            except RowError as e:
                return None, str(e), boxes
            boxes = [[box.scaled(*scale) for box in ones] for ones in boxes]
        sources = images_of(pair.reference)
        is_right: list[bool] = (read.ious >= _IOU_THRESHOLD).any(axis=0).tolist()  # type: ignore[assignment]
        source = sources[read.image] if read.image < len(sources) else None
        return *draw_boxes(source, read.image, boxes[0], boxes[1], is_right), boxes


TASK = GroundingTask


def _parts(parsed: ParsedBoxes, column: str, row: str) -> list[Box]:
    if parsed.unreadable:
        raise RowError(row, f'{column!r} has {parsed.unreadable[0]!r}, which is not a box.', _STEPS_REMEDY,
                       'eval-boxes')
    return list(parsed.boxes)


def _f1(sums: np.ndarray) -> np.ndarray:
    """The harmonic mean of right / cited and found / actual; 0 if one denominator is 0, NaN if both are."""
    right, cited, found, actual = (sums[..., i] for i in (0, 2, 4, 6))
    value = np.nan_to_num(divide_or_nan(2 * right * found, right * actual + found * cited))
    return np.where((cited == 0) & (actual == 0), np.nan, value)


def _distinct(boxes: Sequence[Box]) -> list[Box]:
    """The boxes without repetitions of name and corners, the upper left corner first."""
    found: dict[tuple[Any, ...], Box] = {}
    for box in map(Box.upright, boxes):
        found.setdefault((normalised_label(box.label), box.corners), box)
    return list(found.values())
