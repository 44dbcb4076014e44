"""Rows that a tiny model can learn: a bright disc and a dark block on each image, in words of our own."""
import numpy as np
from pathlib import Path
from PIL import Image
from support.rows import rle
from typing import Any

NAMES = ('pale disc', 'dark block')
QUESTIONS = ('Please show me the {name}.', 'Which part is the {name}?')


def shapes(rng: np.random.Generator, side: int = 96) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """An image uint8 [side, side, 3], and the mask of each name, uint8 [side, side]."""
    y, x = np.mgrid[:side, :side]
    radius = int(rng.integers(side // 8, side // 5))
    centre = rng.integers(radius, side // 2 - radius + 9, 2)
    left, top = rng.integers(side // 2 + 8, side - 20, 2)
    masks = {
        NAMES[0]: (np.hypot(x - centre[0], y - centre[1]) < radius).astype(np.uint8),
        NAMES[1]: ((abs(x - left - 8) < 9) & (abs(y - top - 8) < 9)).astype(np.uint8),
    }
    pixels = 120 + rng.normal(0, 6, (side, side))
    pixels[masks[NAMES[0]] > 0] += 90
    pixels[masks[NAMES[1]] > 0] -= 90
    return np.repeat(pixels.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2), masks


def shape_rows(folder: Path, num_images: int, seed: int = 0) -> list[dict[str, Any]]:
    """Two rows an image, one a name; the answer is 'Here is the NAME: [SEG].'"""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(num_images):
        pixels, masks = shapes(rng)
        path = folder / f'shape_{seed}_{index}.png'
        Image.fromarray(pixels).save(path)
        for name, mask in masks.items():
            question = QUESTIONS[int(rng.integers(2))].format(name=name)
            rows.append(make_row(str(path), f'<image>{question}', f'Here is the {name}: [SEG].', rle(mask)))
    return rows


def make_row(image: str, question: str, answer: str, *masks: Any, **columns: Any) -> dict[str, Any]:
    """A row of one question."""
    messages = [{'role': 'user', 'content': question}, {'role': 'assistant', 'content': answer}]
    return {'messages': messages, 'images': [image], **({'masks': list(masks)} if masks else {}), **columns}
