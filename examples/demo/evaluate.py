"""Scores the answers of a checkpoint to the demo's held-out questions, and draws its masks."""
import json
import numpy as np
from collections import defaultdict
from pathlib import Path
from PIL import Image, ImageDraw
from pycocotools import mask as coco
from typing import Any

from swift_citrusv.model.overlap_metrics import dice_score
from swift_citrusv.rows.drawing import captioned, colour, overlay, tile

TILE_SIDE = 224


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


def _mask(entry: dict[str, Any]) -> np.ndarray:
    return coco.decode({'size': entry['size'], 'counts': entry['counts'].encode()})


def _mean(values: list[float]) -> float:
    return round(float(np.mean(values)), 4) if values else float('nan')


def answered(rows: list[dict[str, Any]], lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Joins rows with their answers from `swift infer`, line by line.

    An answer without exactly one `[SEG]` to a question about one structure gives an empty mask, which scores 0.

    Args:
        rows: The rows of the held-out file.
        lines: Of the result file: `response`, `masks` (the answer's) and `label_masks` (the row's).
    """
    results = []
    for row, line in zip(rows, lines, strict=True):
        entries = row.get('masks') or []
        # Masks of earlier turns belong to the question.
        first = max(len(entries) - row['messages'][-1]['content'].count('[SEG]'), 0)
        targets = [_mask(entry) for entry in entries[first:]]
        masks = [_mask(mask['rle']) for mask in line['masks']]
        result = {
            'kind': row['kind'],
            'right_text': line['response'] == row['messages'][-1]['content'],
            'wanted': (row.get('mask_images') or [0] * len(entries))[first:],
            'chosen': [mask['image_index'] for mask in line['masks']],
            'targets': targets,
            'predictions': masks,
        }
        if row['kind'] == 'single':
            right = len(masks) == 1
            result |= {
                'image': row['images'][0],
                'source': row['source'],
                'structure': row['structure'][0],
                'answered': right,
                'target': targets[0],
                'prediction': masks[0] if right else np.zeros_like(targets[0]),
            }
        results.append(result)
    return results


def free_running(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Scores of `swift infer` on all held-out rows, by kind.

    Answers are generated, so a `[SEG]` may be missing, surplus, or on another image; such a mask scores 0.
    """
    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        kinds[result['kind']].append(result)
        kinds['all'].append(result)

    def dice(group: list[dict[str, Any]]) -> list[float]:
        values = []
        for result in group:
            drawn = list(zip(result['predictions'], result['chosen']))
            for i, (target, image) in enumerate(zip(result['targets'], result['wanted'])):
                same = i < len(drawn) and drawn[i][1] == image
                values.append(dice_score(drawn[i][0], target) if same else 0.)
            # A surplus mask scores 0.
            values += [0.] * max(len(drawn) - len(result['targets']), 0)
        return values

    return {
        kind: {
            'rows': len(group),
            'masks': sum(len(result['targets']) for result in group),
            'right_number_of_seg': _mean([float(len(r['predictions']) == len(r['targets'])) for r in group]),
            'dice': _mean(dice(group)) if any(result['targets'] for result in group) else None,
            'word_for_word': _mean([float(result['right_text']) for result in group]),
        }
        for kind, group in sorted(kinds.items())
    }


def scores(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Dice overall and by structure, and Dice of predictions against another structure's mask on the same image."""
    by_structure: dict[str, list[float]] = defaultdict(list)
    by_image: dict[str, dict[str, Any]] = defaultdict(dict)
    for result in results:
        by_structure[result['structure']].append(dice_score(result['prediction'], result['target']))
        by_image[result['image']][result['structure']] = result
    swapped = [
        dice_score(first['prediction'], second['target']) for group in by_image.values()
        for name, first in group.items() for other, second in group.items() if name != other
    ]
    everything = [value for values in by_structure.values() for value in values]
    return {
        'held_out_dice': {
            'overall': _mean(everything),
            'by_structure': {
                name: _mean(values)
                for name, values in sorted(by_structure.items())
            },
        },
        'prompt_swap_dice': _mean(swapped),
        'num_held_out_masks': len(everything),
        'num_held_out_tiles': len(by_image),
        'num_swapped_pairs': len(swapped),
        'answers_with_one_seg': _mean([float(r['answered']) for r in results]),
        'answers_word_for_word': _mean([float(r['right_text']) for r in results]),
    }


def draw(results: list[dict[str, Any]], path: Path, tiles_per_source: int = 2) -> None:
    """Draws image, targets and predictions of a few held-out tiles of each source, one colour per structure."""
    groups: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        groups[result['source']][result['image']].append(result)
    pictures = []
    for source in sorted(groups):
        names = sorted({r['structure'] for group in groups[source].values() for r in group})
        # Tiles with the most structures, spread evenly over the file.
        full = max(len(group) for group in groups[source].values())
        chosen = [item for item in groups[source].items() if len(item[1]) == full]
        step = max(1, len(chosen) // tiles_per_source)
        for image_path, group in chosen[::step][:tiles_per_source]:
            pictures += _row(Image.open(image_path).convert('RGB'), source, names, group)
    tile(pictures, columns=3 * tiles_per_source).save(path, optimize=True)


def _row(image: Image.Image, source: str, names: list[str], group: list[dict[str, Any]]) -> list[Image.Image]:
    pixels = np.array(image.resize((TILE_SIDE, TILE_SIDE), Image.Resampling.BICUBIC))
    dice = {r['structure']: dice_score(r['prediction'], r['target']) for r in group}
    captions = {
        'target': 'targets',
        'prediction': 'predictions, Dice ' + ' '.join(f'{dice[name]:.2f}' for name in names if name in dice),
    }
    columns = [captioned(pixels, f'held-out tile, {source}')]
    for key, caption in captions.items():
        masks = [np.zeros((TILE_SIDE, TILE_SIDE), np.uint8) for _ in names]
        for result in group:
            enlarged = Image.fromarray(result[key]).resize((TILE_SIDE, TILE_SIDE), Image.Resampling.NEAREST)
            masks[names.index(result['structure'])] |= np.array(enlarged)
        picture = captioned(overlay(pixels, masks, opacity=0.3), caption)
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
