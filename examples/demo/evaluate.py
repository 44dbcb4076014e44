"""Scores the demo's held-out answers by kind of question and by structure, and draws its masks."""
import numpy as np
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from PIL import Image, ImageDraw
from typing import Any

from swift_citrusv.model.overlap_metrics import dice_score
from swift_citrusv.rows.drawing import captioned, colour, overlay, tile
from swift_citrusv.tryout.answers import Drawn

TILE_SIDE = 224


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4) if values else float('nan')


def by_kind(rows: list[dict[str, Any]], lines: list[dict[str, Any]], evaluation: dict[str, Any]) -> dict[str, Any]:
    """Scores of `swift infer` on all held-out rows, by kind of row.

    Args:
        rows: The held-out rows.
        lines: Of the result file.
        evaluation: The scores of `citrusv eval segmentation` by `kind`: a mask that is missing, surplus, or on another
            image scores 0.
    """
    kinds: dict[str, list[tuple[bool, bool, int]]] = defaultdict(list)
    for row, line in zip(rows, lines, strict=True):
        answer = row['messages'][-1]['content']
        num_masks = answer.count('[SEG]') if row.get('masks') else 0
        result = (len(line['masks']) == num_masks, line['response'] == answer, num_masks)
        for kind in (row['kind'], 'all'):
            kinds[kind].append(result)
    dice = {kind: scores['dice']['value'] for kind, scores in evaluation['groups']['kind'].items()}
    dice['all'] = evaluation['scores']['dice']['value']
    asked = {kind: sum(num_masks for *_, num_masks in group) for kind, group in kinds.items()}
    return {
        kind: {
            'rows': len(group),
            'masks': asked[kind],
            'right_number_of_seg': _mean([float(right) for right, _, _ in group]),
            'dice': round(dice[kind], 4) if asked[kind] else None,
            'word_for_word': _mean([float(same) for _, same, _ in group]),
        }
        for kind, group in sorted(kinds.items())
    }


def single_masks(rows: list[dict[str, Any]], masks: list[Drawn]) -> list[Drawn]:
    """The masks of the questions about one structure."""
    return [mask for mask in masks if rows[mask.row]['kind'] == 'single']


def scores(masks: list[Drawn]) -> dict[str, Any]:
    """Dice overall and by structure, and Dice of predictions against another structure's mask on the same image."""
    by_structure: dict[str, list[float]] = defaultdict(list)
    by_image: dict[str, dict[str, Drawn]] = defaultdict(dict)
    for mask in masks:
        by_structure[mask.name].append(mask.dice)
        by_image[mask.image][mask.name] = mask
    swapped = [
        0. if first.prediction is None else dice_score(first.prediction, second.target) for group in by_image.values()
        for name, first in group.items() for other, second in group.items() if name != other
    ]
    return {
        'held_out_dice': {
            'overall': _mean([mask.dice for mask in masks]),
            'by_structure': {
                name: _mean(values)
                for name, values in sorted(by_structure.items())
            },
        },
        'prompt_swap_dice': _mean(swapped),
        'num_held_out_masks': len(masks),
        'num_held_out_tiles': len(by_image),
        'num_swapped_pairs': len(swapped),
        'answers_with_one_seg': _mean([float(mask.answer.count('[SEG]') == 1) for mask in masks]),
    }


def draw(masks: list[Drawn], sources: dict[str, str], path: Path, tiles_per_source: int = 2) -> None:
    """Draws image, targets and predictions of a few held-out tiles of each source, one colour per structure.

    Args:
        masks: The masks of the questions about one structure.
        sources: The source of each image.
        path: The picture.
        tiles_per_source: Tiles of each source.
    """
    groups: dict[str, dict[str, list[Drawn]]] = defaultdict(lambda: defaultdict(list))
    for mask in masks:
        groups[sources[mask.image]][mask.image].append(mask)
    pictures = []
    for source in sorted(groups):
        names = sorted({mask.name for group in groups[source].values() for mask in group})
        # Tiles with the most structures, spread evenly over the file.
        full = max(len(group) for group in groups[source].values())
        chosen = [item for item in groups[source].items() if len(item[1]) == full]
        step = max(1, len(chosen) // tiles_per_source)
        for image_path, group in chosen[::step][:tiles_per_source]:
            pictures += _row(Image.open(image_path).convert('RGB'), source, names, group)
    tile(pictures, columns=3 * tiles_per_source).save(path, optimize=True)


def _row(image: Image.Image, source: str, names: list[str], group: list[Drawn]) -> list[Image.Image]:
    pixels = np.array(image.resize((TILE_SIDE, TILE_SIDE), Image.Resampling.BICUBIC))
    dice = {mask.name: mask.dice for mask in group}
    captions = {
        'target': 'targets',
        'prediction': 'predictions, Dice ' + ' '.join(f'{dice[name]:.2f}' for name in names if name in dice),
    }
    columns = [captioned(pixels, f'held-out tile, {source}')]
    for key, caption in captions.items():
        shown = [np.zeros((TILE_SIDE, TILE_SIDE), np.uint8) for _ in names]
        for mask in group:
            array = getattr(mask, key)
            if array is not None:
                small = Image.fromarray(array.astype(np.uint8))
                enlarged = small.resize((TILE_SIDE, TILE_SIDE), Image.Resampling.NEAREST)
                shown[names.index(mask.name)] |= np.array(enlarged)
        picture = captioned(overlay(pixels, shown, opacity=0.3), caption)
        if key == 'target':
            _add_legend(picture, names)
        columns.append(picture)
    return columns


def _add_legend(picture: Image.Image, names: list[str]) -> None:
    canvas = ImageDraw.Draw(picture)
    for index, name in enumerate(names):
        top = picture.height - 14 * (len(names) - index)
        canvas.rectangle((2, top, picture.width // 2 + 20, top + 13), fill='white')
        canvas.rectangle((5, top + 3, 12, top + 10), fill=colour(index))
        canvas.text((17, top + 1), name.replace('_', ' '), fill='black')
