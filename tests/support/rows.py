"""Small rows of every kind of the row contract, with their files, for tests."""
import json
import numpy as np
from pathlib import Path
from PIL import Image
from pycocotools import mask as coco
from typing import Any


def rle(mask: np.ndarray) -> dict[str, Any]:
    """A compressed COCO RLE, straight from pycocotools."""
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {'size': [int(v) for v in encoded['size']], 'counts': encoded['counts'].decode()}


def box_mask(size: tuple[int, int], box: tuple[int, int, int, int]) -> np.ndarray:
    """uint8 [h, w] with ones in x0, y0, x1, y1."""
    mask = np.zeros(size, np.uint8)
    x0, y0, x1, y1 = box
    mask[y0:y1, x0:x1] = 1
    return mask


class Maker:
    """Writes images and rows; every image differs, so that a mix-up is visible."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder = folder
        self.rng = np.random.default_rng(seed)
        self.num_images = 0
        folder.mkdir(parents=True, exist_ok=True)

    def image(self, height: int = 84, width: int = 84) -> str:
        path = self.folder / f'image_{self.num_images}.png'
        self.num_images += 1
        base = self.rng.integers(0, 255, (3, 3, 3), dtype=np.uint8)
        Image.fromarray(base).resize((width, height), Image.Resampling.BICUBIC).save(path)
        return str(path)

    def mask(self, height: int = 84, width: int = 84) -> dict[str, Any]:
        x0, y0 = int(self.rng.integers(0, width // 2)), int(self.rng.integers(0, height // 2))
        x1, y1 = x0 + int(self.rng.integers(5, width // 2)), y0 + int(self.rng.integers(5, height // 2))
        return rle(box_mask((height, width), (x0, y0, x1, y1)))

    def row(self, *turns: str, **columns: Any) -> dict[str, Any]:
        roles = ('user', 'assistant')
        messages = [{'role': roles[i % 2], 'content': text} for i, text in enumerate(turns)]
        return {'messages': messages, **columns}

    def every_kind(self) -> list[dict[str, Any]]:
        """Twelve rows: text only, image without mask, one and several masks, several images, video, multi-turn."""
        image, mask, row = self.image, self.mask, self.row
        return [
            row('What is a nucleus?', 'A part of the cell.'),
            row('<image>What is it?', 'A cell.', images=[image()]),
            row('<image>Segment the cell.', 'The cell: [SEG].', images=[image()], masks=[mask()]),
            row('<image>Segment both.', 'Bone [SEG] and vessels [SEG].', images=[image()], masks=[mask(),
                                                                                                  mask()]),
            row('<image><image>Compare.',
                'First [SEG], second [SEG], and first again [SEG].',
                images=[image(), image()],
                masks=[mask(), mask(), mask()],
                mask_images=[0, 1, 0]),
            row('<image><image>Segment it in the second.',
                'It is [SEG].',
                images=[image(), image(56, 112)],
                masks=[mask(56, 112)],
                mask_images=[1]),
            row('<video><image>Segment the vessel.',
                'The vessel: [SEG].',
                images=[image()],
                videos=[[image(), image(), image(), image()]],
                masks=[mask()]),
            row('<image>Segment the bone.',
                'Bone: [SEG].',
                'And the soft tissue?',
                'Soft tissue: [SEG].',
                images=[image()],
                masks=[mask(), mask()]),
            row('What does [SEG] mean?', 'The word [SEG] asks for a mask.'),
            row('<image>请分割细胞核。[SEG]', '细胞核：[SEG]。', images=[image(112, 84)], masks=[mask(112, 84)]),
            row('<video>What moves?', 'The cell.', videos=[[image(), image()]]),
            row('Is bone hard?', 'Yes.', 'Is it white on CT?', 'Yes, it is.'),
        ]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text('\n'.join(json.dumps(row, ensure_ascii=False) for row in rows) + '\n', encoding='utf-8')
    return str(path)
