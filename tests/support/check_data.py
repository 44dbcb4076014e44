"""Runs `citrusv check-data`, with files of good and bad rows."""
import contextlib
import io
import json
import numpy as np
from pathlib import Path
from support.rows import Maker, box_mask, rle
from typing import Any

from swift_citrusv.cli.main import main

SMALL = 84


def write_lines(path: Path, lines: list[Any]) -> Path:
    """Writes rows as JSON, and str and bytes unchanged, one per line."""
    data = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
    path.write_bytes(b''.join((line.encode() if isinstance(line, str) else line) + b'\n' for line in data))
    return path


def check(folder: Path, file: Path, *arguments: object) -> tuple[int, dict[str, Any], str]:
    """Runs `citrusv check-data`; returns its exit status, JSON report and stdout."""
    report = folder / 'reports' / 'report.json'
    with contextlib.redirect_stdout(io.StringIO()) as out:
        status = main(['check-data', str(file), '--json', str(report), *map(str, arguments)])
    return status, json.loads(report.read_text(encoding='utf-8')), out.getvalue()


def bad_rows(maker: Maker) -> list[tuple[str, Any]]:
    """One row for each error that is found without a model, with the kind of the error."""
    image, mask, row = maker.image, maker.mask, maker.row
    broken = maker.folder / 'broken.png'
    broken.write_bytes(Path(image()).read_bytes()[:200])

    def seg(**columns: Any) -> dict[str, Any]:
        return row('<image>Segment the cell.', 'The cell: [SEG].', **columns)

    return [
        ('not-json', 'not json'),
        ('not-json', '{"messages": ['),
        ('not-json', '["a", "list"]'),
        ('not-json', b'{"messages": "\xff"}'),
        ('not-json', '{"number": ' + 5000 * '9' + '}'),
        ('not-json', 3000 * '[{"a":' + '1'),
        ('messages', {
            'messages': []
        }),
        ('message', {
            'messages': [{
                'role': 'user'
            }]
        }),
        ('mask-count', seg(images=[image()], masks=[mask(), mask()])),
        ('mask-count', row('<image>Segment [SEG].', 'No.', images=[image()], masks=[mask()])),
        ('mask-images-missing', seg(images=[image(), image()], masks=[mask()])),
        ('mask-images-value', seg(images=[image()], masks=[mask()], mask_images=[1])),
        ('masks-without-image', seg(masks=[mask()])),
        ('mask-form', seg(images=[image()], masks=[{
            'size': [SMALL, SMALL]
        }])),
        ('mask-size', seg(images=[image()], masks=[mask(50, SMALL)])),
        ('mask-file', seg(images=[image()], masks=[{
            'path': 'none.png'
        }])),
        ('mask-outside', seg(images=[image()], masks=[[[200, 200, 210, 200, 210, 210]]])),
        ('image-unreadable', seg(images=['none.png'], masks=[mask()])),
        ('image-unreadable', seg(images=[str(broken)], masks=[mask()])),
        ('image-unreadable', row('<image>What is it?', 'A cell.', images=[str(broken)])),
        ('image-unreadable', row('<image>What is it?', 'A cell.', images=['data:image/png;base64,AAAA'])),
        ('image-unreadable', row('<image>What is it?', 'A cell.', images=[None])),
        ('image-unreadable', row('<image>What is it?', 'A cell.', images=[5])),
        ('mask-file', seg(images=[image()], masks=[{
            'path': 'https://nowhere.invalid/mask.png'
        }])),
        ('image-tags', row('<image>What is it?', 'A cell.')),
        ('image-tags', row('<image><image>Segment it.', 'The cell: [SEG].', images=[image()], masks=[mask()])),
        ('video-tags', row('<video><image>What is it?', 'A cell.', images=[image()])),
    ]


def good_rows(maker: Maker) -> list[dict[str, Any]]:
    """Rows of every kind, one with an empty mask and one whose mask vanishes at the target size."""
    empty = rle(np.zeros((SMALL, SMALL), np.uint8))
    speck = rle(box_mask((2048, 2048), (1, 0, 2, 1)))
    again = maker.image()
    return [
        *maker.every_kind(),
        maker.row('<image>Segment the bone.', 'Bone: [SEG].', images=[again], masks=[empty]),
        maker.row('<image>Segment the bone.', 'Bone: [SEG].', images=[maker.image(2048, 2048)], masks=[speck]),
        maker.row('<image>What is it?', 'A bone. [SEG] [SEG]', images=again),
    ]


# The counts of `good_rows`.
GOOD_COUNTS = {
    'rows': 15,
    'ordinary_rows': 6,
    'mask_rows': 9,
    'failing_rows': 0,
    'multi_image_rows': 2,
    'images': 13,
    'distinct_images': 12,
    'videos': 2,
    'masks': 13,
    'empty_masks': 1,
    'lost_masks': 1,
    'elsewhere_masks': 2,
    'text_seg_tokens': 3,
}
