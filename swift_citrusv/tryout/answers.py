"""Answers of a checkpoint to held-out questions, by stock `swift infer`, and their scores."""
import json
import numpy as np
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..model.overlap_metrics import dice_score
from ..scoring.evaluate import EvaluationSettings, evaluate, evaluation_json
from ..scoring.html_report.report import write_report
from ..scoring.mask_rows import predicted_masks, target_masks
from ..scoring.masks.mask_matching import match_masks
from ..scoring.masks.segmentation import SegmentationTask
from ..scoring.row_images import images_of
from ..scoring.rows import question_of
from .naming import text_of
from .processes import SwiftProcesses
from .user_rows import UserMask

# The name of masks near which no word names a structure.
UNNAMED = '(no name)'
_MOST_TOKENS = 512


@dataclass(frozen=True, eq=False)
class Drawn:
    """A target of a held-out row, and what the model drew for it in its own answer.

    Attributes:
        row: Index of the row.
        image: The image, as the row names it.
        name: Of the structure.
        question, answer: Texts.
        target: bool [h, w].
        prediction: bool [h, w]; None if the answer has no `[SEG]` for it, or one on another image.
        dice: 0 to 1; 0 without a prediction.
    """
    row: int
    image: Any
    name: str
    question: str
    answer: str
    target: np.ndarray
    prediction: np.ndarray | None
    dice: float


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines() if line.strip()]


def infer(processes: SwiftProcesses, checkpoint: str, dataset: Path, output: Path, *arguments: str) -> Path:
    """Answers all questions of a file; writes `answers.jsonl` below `output` and returns its path.

    Raises:
        RunError: The run failed.
    """
    result = output / 'answers.jsonl'
    result.unlink(missing_ok=True)
    # A token has at least one byte.
    longest = max(len(text_of(row['messages'][-1]['content']).encode()) for row in read_jsonl(dataset))
    processes.swift('infer', [
        '--model', checkpoint, '--val_dataset',
        str(dataset), '--result_path',
        str(result), '--max_batch_size', '8', '--max_new_tokens',
        str(min(longest + 8, _MOST_TOKENS)), '--temperature', '0', '--torch_dtype', 'float32', '--device_map', 'cpu',
        *arguments
    ], output / 'infer.log')
    return result


def score(dataset: Path, answers: Path, folder: Path, by: Sequence[str] | None = None) -> dict[str, Any]:
    """Scores answers as `citrusv eval segmentation` does; writes `scores.json` and `report.html` into `folder`.

    Returns:
        The content of `scores.json`.
    """
    settings = EvaluationSettings(by=None if by is None else tuple(by))
    evaluation = evaluate(SegmentationTask(), str(dataset), str(answers), settings)
    content = evaluation_json(evaluation, __version__)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'scores.json').write_text(json.dumps(content, ensure_ascii=False, allow_nan=False), encoding='utf-8')
    write_report(evaluation, str(folder / 'report.html'), __version__)
    return content


def drawn_masks(rows: Sequence[dict[str, Any]], lines: Sequence[dict[str, Any]]) -> list[Drawn]:
    """Joins held-out rows with their answers, line by line.

    Args:
        rows: The held-out rows, with a name for each mask in `structures` or `structure`.
        lines: The lines of the result file of `swift infer`.
    """
    found = []
    for index, (row, line) in enumerate(zip(rows, lines, strict=True)):
        name = f'row {index + 1}'
        targets = target_masks(row, name)
        predicted = predicted_masks(line, row, targets, name) or []
        for match in match_masks(targets, predicted, 'order'):
            if match.target is None:
                continue
            drawn = None if match.predicted is None or match.on_wrong_image else match.predicted.array
            dice = 0. if drawn is None else dice_score(drawn, match.target.array)
            found.append(
                Drawn(index,
                      images_of(row)[match.target.image], match.target.name, question_of(row),
                      str(line.get('response') or ''), match.target.array, drawn, dice))
    return found


def scores_by_name(content: dict[str, Any], train: Sequence[UserMask],
                   held_out: Sequence[UserMask]) -> dict[str, dict[str, Any]]:
    """The scores of each name, beside two figures that say what they are worth.

    Args:
        content: Of `scores.json`.
        train: The masks of the training rows.
        held_out: The masks of the held-out rows.

    Returns:
        For each name the number of held-out masks, `dice`, `average_mask` (Dice of the mean training mask of that
        name, which looks at no image) and `ceiling` (about the best that masks of 64 x 64 pixels can reach).
    """
    groups = content['groups'].get('structure', {})
    smalls: dict[str, list[np.ndarray]] = defaultdict(list)
    for mask in train:
        smalls[mask.name].append(mask.small)
    means = {name: np.mean(values, axis=0) > .5 for name, values in smalls.items()}
    own: dict[str, list[UserMask]] = defaultdict(list)
    for mask in held_out:
        own[mask.name].append(mask)
    found = {}
    for name, masks in sorted(own.items()):
        blind = [dice_score(means[name], mask.small > .5) for mask in masks] if name in means else []
        dice = groups.get(name or UNNAMED, {}).get('dice', {})
        found[name or UNNAMED] = {
            # Those of earlier turns belong to the question, and are not scored.
            'masks': dice.get('count', 0),
            'dice': _rounded(dice.get('value')),
            'average_mask': _rounded(float(np.mean(blind)) if blind else None),
            'ceiling': _rounded(float(np.mean([mask.ceiling for mask in masks]))),
        }
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
