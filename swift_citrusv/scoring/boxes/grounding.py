"""`citrusv eval grounding`: reasoning that cites boxes, against the reasoning of rows.

In the paper (section 3.2.4, figure 8, appendix A) an answer is `<think>`, a sequence of steps that cite the parts of
the image they look at, each with its box, and then `<answer>`.
"""
import math
import numpy as np
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import RowError
from ...rows.mask_format import shown
from ..cases import Case, Pair, PredictionError
from ..image_facts import images_of
from ..rows import question_of, response_of
from ..task import Measure, Shown, divided, mean, ratio
from .box_matching import iou_table
from .box_rows import Coordinates, Form, has_boxes, image_of_text, reference_boxes
from .box_text import Box, ParsedBoxes, boxes_of_json, normalised, parse_boxes
from .detection import box_lines
from .reasoning import final_answer, is_well_formed, order_of, reasoning_of, right_answer

if TYPE_CHECKING:
    from ..table import Table

# Where the cited parts of a reference may stand, in the order in which they win.
PART_COLUMNS = ('steps', 'bboxes', 'boxes', 'bbox', 'objects', 'answer')
_IOU = 0.5
_STEPS_REMEDY = ("Write 'steps' as a list, in their order, of {'Part': name, 'bbox': [x1, y1, x2, y2]} in pixels, or "
                 'of lists of such.')  # yapf: disable


@dataclass(frozen=True)
class _Read:
    """A row and its prediction.

    Attributes:
        references, cited: Their parts, each name with each of its boxes once, in the order of the text; all in the
            same coordinates, on one image.
        in_pixels: Whether those are pixels of the image; else they are the model's.
        image: Which one.
        ious: float64 [number of references, number cited]; 0 for parts of different names.
        text: The answer; None where there is none.
        flags: What is remarkable about it.
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
        coordinates, min_pixels, max_pixels: Of the boxes in answers: see `box_rows.Coordinates`. They matter for rows
            whose own boxes are in pixels, and for pictures.
        ref_parts: One of `PART_COLUMNS`, or 'auto' for the first of them that a row has. All but the answer are in
            pixels of the image.
        think_in_prompt: The chat template writes the opening `<think>`, so that answers have none.
        answers: Whether the final answers are compared, too.

    Raises:
        ValueError: An option has no such value.
    """
    coordinates: Form = 'resized'
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
        """The share of the cited parts that are where they are said to be first."""
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
            'cited parts': 'the boxes, with their names, between <think> and </think>, or, without these tags, before '
                           '<answer>; a name with the same box counts once, however often it is cited',
            'reference parts': 'read from the right answer in the same way, or from a column in pixels of the image '
                               f'({self.ref_parts})',
            'names': 'are equal after NFKC, without case, _ and - as blanks',
            'coordinates': 'where both are read from answers, they are compared as they stand; else those of answers '
                           f'are {self.coordinates}',
            'right': 'a cited part whose box has an IoU of 0.5 or more with a box of the part of that name in the '
                     'reference; a name that the reference has not is wrong',
            'precision_at_0.5': 'right cited parts / cited parts, of all rows; a row without citations adds nothing',
            'recall_at_0.5': 'reference parts that a cited part finds, in the same sense / reference parts, of all '
                             'rows',
            'mean_iou': 'the mean over the reference parts of the highest IoU with a cited part of that name; 0 for '
                        'one that is not cited',
            'parts_named': 'the share of the names of the reference that are cited, wherever their boxes are',
            'order': "Kendall's tau (SciPy), 1 to -1, of the places of first citation of the names that both have; "
                     'the mean over the rows that have two such names, others are left out',
            'well_formed': 'the answer is exactly one <think>...</think> and then one <answer>...</answer>, neither '
                           'empty, with nothing around them but blanks' +
                           ('; the opening <think> stands in the prompt' if self.think_in_prompt else ''),
            'no answer': 'cites nothing, is not well-formed, and has no order',
            'unparsable': 'what looks like a box and cannot be read is flagged; the other boxes count',
        }  # yapf: disable
        if self.answers:
            rules['answer_match'] = ('the final answers are equal after NFKC, without case, *, double blanks and a '
                                     'full stop at the end')  # yapf: disable
        return rules

    def score(self, pair: Pair) -> list[Case]:
        """One case.

        Raises:
            RowError: The row cannot be read.
            PredictionError: The prediction cannot.
        """
        read = self._read(pair)
        right = float((read.ious >= _IOU).any(axis=0).sum())
        found = float((read.ious >= _IOU).any(axis=1).sum())
        names = [list(dict.fromkeys(normalised(box.label) for box in boxes)) for boxes in (read.references, read.cited)]
        values = {
            'right': right,
            'cited': float(len(read.cited)),
            'found': found,
            'actual': float(len(read.references)),
            'iou': float(read.ious.max(axis=1, initial=0).sum()),
            'named': float(len({*names[0]} & {*names[1]})),
            'parts': float(len(names[0])),
            'order': order_of(*names),
            'well_formed': float(is_well_formed(read.text, self.think_in_prompt)),
        }
        counts = [values[name] for name in ('right', 'cited', 'found', 'actual')]
        values['f1'] = float(_f1(np.repeat(counts, 2)))
        if self.answers:
            ours, theirs = (final_answer(text) for text in (read.text or '', right_answer(pair.reference, pair.name)))
            values['answer_match'] = float(ours == theirs and read.text is not None)
        return [Case(values, tuple(read.flags))]

    def complete(self, table: 'Table') -> None:
        """Every column is there already."""

    def show(self, pair: Pair, index: int) -> Shown:
        """The image with the parts of both, and what they say."""
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
            'right answer': right_answer(pair.reference, pair.name, needed=False),
            'reference parts': box_lines(boxes[0], 'R'),
            'cited parts': box_lines(boxes[1], 'P', read.ious),
            'scores': scores,
            'remarks': ', '.join(read.flags),
            'problem': problem,
            'picture': no_image,
        }
        title = f'{pair.name}: {values["right"]:.0f} of {len(read.cited)} cited parts right'
        return Shown(f'{title}, {len(read.references)} wanted', picture,
                     tuple((caption, text) for caption, text in lines.items() if text))  # yapf: disable

    # ---- one row

    def _read(self, pair: Pair) -> _Read:
        references, in_pixels = self._references(pair.reference, pair.name)
        image = image_of_text(references, pair.name)
        text = response_of(pair.prediction)
        parsed = parse_boxes(reasoning_of(text or ''))
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
            scale = self._coordinates.scale(pair.reference, image, pair.name)
            cited = [box.scaled(*scale) for box in cited]
        references, cited = _distinct(references), _distinct(cited)
        ious = iou_table(references, cited)
        names = [[normalised(box.label) for box in boxes] for boxes in (references, cited)]
        if ious.size:
            ious = ious * np.array([[ours == theirs for theirs in names[1]] for ours in names[0]])
        return _Read(references, cited, in_pixels, image, ious, text,
                     [name for name, is_so in flags.items() if is_so])  # yapf: disable

    def _references(self, reference: Mapping[str, Any], row: str) -> tuple[list[Box], bool]:
        """The parts of a reference, and whether their boxes are in pixels."""
        column = self.ref_parts
        if column == 'auto':
            column = next((name for name in PART_COLUMNS[:-1] if has_boxes(reference, name)), 'answer')
        if column == 'answer':
            boxes = _parts(parse_boxes(reasoning_of(right_answer(reference, row))), column, row)
        elif column == 'steps':
            steps = reference.get('steps')
            if not isinstance(steps, list):
                raise RowError(row, f"'steps' is {shown(steps)}.", _STEPS_REMEDY, 'eval-boxes')
            boxes = _parts(boxes_of_json(steps), column, row)
        else:
            boxes = reference_boxes(reference, row, column, self._coordinates)
        for box in boxes:
            if box.is_degenerate or not normalised(box.label):
                raise RowError(row, f'the part {box.label!r} of {column!r} has the box {list(box.corners)}.',
                               'Give each part a name, and a box of some area.', 'eval-boxes')  # yapf: disable
        return boxes, column != 'answer'

    @property
    def _coordinates(self) -> Coordinates:
        return Coordinates(self.coordinates, self.min_pixels, self.max_pixels)

    def _picture(self, pair: Pair, read: _Read) -> tuple[Any, str, list[list[Box]]]:
        """The picture, what is wrong with it, and the boxes of both as they are named in it."""
        from .box_pictures import boxes_picture

        boxes = [read.references, read.cited]
        if not read.in_pixels:
            try:
                scale = self._coordinates.scale(pair.reference, read.image, pair.name)
            except RowError as e:
                return None, str(e), boxes
            boxes = [[box.scaled(*scale) for box in ones] for ones in boxes]
        sources = images_of(pair.reference)
        is_right: list[bool] = (read.ious >= _IOU).any(axis=0).tolist()  # type: ignore[assignment]
        source = sources[read.image] if read.image < len(sources) else None
        return *boxes_picture(source, read.image, boxes[0], boxes[1], is_right), boxes


TASK = GroundingTask


def _parts(parsed: ParsedBoxes, column: str, row: str) -> list[Box]:
    if parsed.unreadable:
        raise RowError(row, f'{column!r} has {parsed.unreadable[0]!r}, which is no box.', _STEPS_REMEDY, 'eval-boxes')
    return list(parsed.boxes)


def _f1(sums: np.ndarray) -> np.ndarray:
    """The harmonic mean of right / cited and found / actual; 0 where only one of them has anything to divide by."""
    right, cited, found, actual = (sums[..., i] for i in (0, 2, 4, 6))
    value = np.nan_to_num(divided(2 * right * found, right * actual + found * cited))
    return np.where((cited == 0) & (actual == 0), np.nan, value)


def _distinct(boxes: Sequence[Box]) -> list[Box]:
    """Each name with each of its boxes once, upright."""
    found: dict[tuple[Any, ...], Box] = {}
    for box in map(Box.upright, boxes):
        found.setdefault((normalised(box.label), box.corners), box)
    return list(found.values())
