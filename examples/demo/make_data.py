"""Makes the demo data: tiles of four medical images, their masks, and rows with questions about them.

    python examples/demo/make_data.py --output DIR [--seed 0]

writes `train.jsonl`, `val.jsonl`, `images/*.png`, `contact_sheet.png` (look at it) and `data.json` (counts). Each
source image is split by region: held-out tiles come from a rectangle that no training tile touches.

Besides the usual columns, each row has `kind`, `language`, `structure` (one id for each mask), `modality`,
`source` and `box` (for each image `[x0, y0, x1, y1]` in source pixels).
"""
import argparse
import json
import numpy as np
import wording
from collections import Counter
from collections.abc import Iterable
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from pathlib import Path
from pycocotools import mask as coco_mask
from structures import STRUCTURES, Source, load_sources
from tiles import Tile, cut_tiles
from typing import Any

CHINESE_SHARE = 1 / 3
# Rows of each kind other than single segmentations, for (train, val).
NUM_ROWS = {
    'pair': (110, 8),
    'multi_turn': (30, 6),
    'second_image': (24, 6),
    'both_images': (24, 6),
    'seg_in_question': (24, 6),
    'modality': (60, 8),
    'description': (50, 8),
    'presence': (60, 10),
    'text': (50, 8),
}


def make_data(output: str | Path, seed: int = 0) -> dict[str, Any]:
    """Writes the demo data below `output` and returns the contents of `data.json`.

    Args:
        output: folder, created if necessary; rows name images by absolute paths below it.
        seed: the same seed writes the same rows and pixels.
    """
    output = Path(output).resolve()
    (output / 'images').mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    sources = load_sources()
    tiles: dict[str, list[Tile]] = {}
    rows: dict[str, list[dict[str, Any]]] = {}
    for split in ('train', 'val'):
        tiles[split] = [tile for source in sources for tile in cut_tiles(source, split, output / 'images', rng)]
        rows[split] = _make_rows(tiles[split], split, rng)
        lines = (json.dumps(row, ensure_ascii=False) for row in rows[split])
        (output / f'{split}.jsonl').write_text('\n'.join(lines) + '\n', encoding='utf-8')
    _draw_contact_sheet(sources, tiles, output / 'contact_sheet.png')
    summary = {
        'seed': seed,
        'sources': {
            source.name: {
                'origin': source.origin,
                'held_out': source.held_out
            }
            for source in sources
        },
        'structures': {
            structure.id: structure.english
            for structure in STRUCTURES.values()
        },
        'splits': {
            split: _count(tiles[split], rows[split])
            for split in rows
        },
    }
    (output / 'data.json').write_text(json.dumps(summary, indent=1, ensure_ascii=False), encoding='utf-8')
    return summary


def _make_rows(tiles: list[Tile], split: str, rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for tile in tiles:
        names = list(tile.masks)
        # Held-out rows ask for every structure; training rows for two, the smallest (learned last) and another.
        asked = names
        if split == 'train':
            smallest = min(names, key=lambda name: tile.masks[name].sum())
            asked = [smallest, _pick([name for name in names if name != smallest], rng)]
        rows += [_row('single', [tile], [(0, name)], rng) for name in asked]
    for kind, (num_train, num_val) in NUM_ROWS.items():
        for index in range(num_train if split == 'train' else num_val):
            rows.append(_other_row(kind, index, tiles, rng))
    return [rows[i] for i in rng.permutation(len(rows))] if split == 'train' else rows


def _other_row(kind: str, index: int, tiles: list[Tile], rng: np.random.Generator) -> dict[str, Any]:
    # Sources alternate, and so do the languages of the definitions.
    names = sorted({tile.source.name for tile in tiles})
    own = [tile for tile in tiles if tile.source.name == names[index % len(names)]]
    first, second = (own[i] for i in rng.choice(len(own), 2, replace=False))
    if kind in ('second_image', 'both_images'):
        targets = [(1, _pick(second.masks, rng))]
        if kind == 'both_images':
            targets.insert(0, (0, _pick(first.masks, rng)))
        return _row(kind, [first, second], targets, rng)
    if kind in ('pair', 'multi_turn'):
        return _row(kind, [first], [(0, str(name)) for name in rng.permutation(list(first.masks))[:2]], rng)
    if kind == 'seg_in_question':
        return _row(kind, [first], [(0, _pick(first.masks, rng))], rng)
    return _row(kind, [] if kind == 'text' else [first], [], rng, index)


def _row(kind: str,
         tiles: list[Tile],
         targets: list[tuple[int, str]],
         rng: np.random.Generator,
         index: int = 0) -> dict[str, Any]:
    """Builds one row; `targets` are pairs of image index and structure id, in the order of the answer."""
    language = 'zh' if rng.random() < CHINESE_SHARE else 'en'
    turns = _write_turns(kind, tiles, targets, language, rng, index)
    messages: list[dict[str, str]] = []
    for question, answer in turns:
        images = '<image>' * len(tiles) if not messages else ''
        messages += [{'role': 'user', 'content': images + question}, {'role': 'assistant', 'content': answer}]
    row: dict[str, Any] = {'messages': messages}
    if tiles:
        row['images'] = [tile.path for tile in tiles]
    if targets:
        row['masks'] = [_encode(tiles[image].masks[name]) for image, name in targets]
    if len(tiles) > 1:
        row['mask_images'] = [image for image, _ in targets]
    return row | {
        'kind': kind,
        'language': language,
        'structure': [name for _, name in targets],
        'modality': tiles[0].source.modality if tiles else 'text',
        'source': tiles[0].source.name if tiles else 'text',
        'box': [list(tile.box) for tile in tiles],
    }


def _write_turns(kind: str, tiles: list[Tile], targets: list[tuple[int, str]], language: str, rng: np.random.Generator,
                 index: int) -> list[tuple[str, str]]:
    """The questions and answers of one row."""
    asked = [STRUCTURES[name] for _, name in targets]
    if kind in ('single', 'seg_in_question'):
        questions = wording.SEGMENT_QUESTIONS if kind == 'single' else wording.TOKEN_QUESTIONS
        question = wording.ask(_pick(questions[language], rng), asked[0], language)
        return [(question, wording.answer_masks(asked, language))]
    if kind == 'multi_turn':
        question = _pick(wording.MODALITY_QUESTIONS[language], rng)
        turns = [(question, wording.answer_modality(tiles[0].source.modality, language))]
        for structure in asked:
            question = wording.ask(_pick(wording.SEGMENT_QUESTIONS[language], rng), structure, language)
            turns.append((question, wording.answer_masks([structure], language)))
        return turns
    if kind == 'pair':
        first, second = (wording.name_of(structure, language) for structure in asked)
        question = _pick(wording.PAIR_QUESTIONS[language], rng).format(first=first, second=second)
        return [(question, wording.answer_masks(asked, language))]
    if kind == 'second_image':
        question = wording.ask(_pick(wording.SECOND_IMAGE_QUESTIONS[language], rng), asked[0], language)
        return [(question, wording.answer_images([(1, asked[0])], language))]
    if kind == 'both_images':
        first, second = (wording.name_of(structure, language) for structure in asked)
        question = _pick(wording.BOTH_IMAGES_QUESTIONS[language], rng).format(first=first, second=second)
        return [(question, wording.answer_images([(0, asked[0]), (1, asked[1])], language))]
    if kind == 'modality':
        question = _pick(wording.MODALITY_QUESTIONS[language], rng)
        return [(question, wording.answer_modality(tiles[0].source.modality, language))]
    if kind == 'description':
        covers = [(STRUCTURES[name], float(mask.mean())) for name, mask in tiles[0].masks.items()]
        return [(_pick(wording.DESCRIBE_QUESTIONS[language], rng), wording.describe(covers, language))]
    if kind == 'presence':
        # The four sources alternate, so yes and no alternate after each round of four.
        present = index // 4 % 2 == 0
        structure = STRUCTURES[_pick(tiles[0].masks if present else wording.ABSENT[tiles[0].source.name], rng)]
        question = wording.ask(_pick(wording.PRESENCE_QUESTIONS[language], rng), structure, language)
        return [(question, wording.answer_presence(structure, present, language))]
    assert kind == 'text', kind
    definitions = wording.DEFINITIONS[language]
    return [definitions[index % len(definitions)]]


def _pick(options: Iterable[str], rng: np.random.Generator) -> str:
    options = list(options)
    return options[rng.integers(len(options))]


def _encode(mask: np.ndarray) -> dict[str, Any]:
    """Compressed COCO RLE of a bool `[h, w]`, with counts as text for JSON."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {'size': [int(side) for side in rle['size']], 'counts': rle['counts'].decode('ascii')}


def _count(tiles: list[Tile], rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        'tiles': dict(Counter(tile.source.name for tile in tiles)),
        'num_rows': len(rows),
        'num_masks': sum(len(row.get('masks', [])) for row in rows),
        'rows_by_kind': dict(Counter(row['kind'] for row in rows)),
        'rows_by_language': dict(Counter(row['language'] for row in rows)),
        'masks_by_structure': dict(Counter(name for row in rows for name in row['structure'])),
    }


def _draw_contact_sheet(sources: list[Source], tiles: dict[str, list[Tile]], path: Path, num_columns: int = 8) -> None:
    """Draws, for each source and split, a row of tiles with their mask outlines and fills."""
    figure = Figure(figsize=(2 * num_columns, 8.9 * len(sources)))
    axes = figure.subplots(4 * len(sources), num_columns)
    for axis in axes.flat:
        axis.axis('off')
    for row, (source, split) in enumerate((source, split) for source in sources for split in ('train', 'val')):
        own = [tile for tile in tiles[split] if tile.source.name == source.name]
        shown = [own[i] for i in np.linspace(0, len(own) - 1, num_columns).round().astype(int)]
        for column, tile in enumerate(shown):
            plain, drawn = axes[2 * row, column], axes[2 * row + 1, column]
            plain.imshow(tile.image)
            drawn.imshow(tile.image)
            for name, mask in tile.masks.items():
                colour = np.array(STRUCTURES[name].colour) / 255
                drawn.imshow(np.dstack([np.broadcast_to(colour, (*mask.shape, 3)), 0.35 * mask]))
                drawn.contour(mask, [0.5], colors=[colour], linewidths=1)
        asked = [STRUCTURES[name] for name in source.masks]
        handles = [Patch(color=np.array(structure.colour) / 255, label=structure.english) for structure in asked]
        axes[2 * row, 0].set_title(f'{source.name}, {split} ({len(own)} tiles)', loc='left', fontsize=11)
        axes[2 * row, 3].legend(
            handles=handles, ncols=3, loc='lower left', bbox_to_anchor=(0, 1), frameon=False, borderpad=0.1)
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.985, wspace=0.03, hspace=0.16)
    figure.savefig(path, dpi=70)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--output', required=True, help='folder to write')
    parser.add_argument('--seed', type=int, default=0)
    arguments = parser.parse_args()
    print(json.dumps(make_data(arguments.output, arguments.seed)['splits'], indent=1))


if __name__ == '__main__':
    main()
