"""Rows of every kind for `citrusv data`: good, bad, broken, in both languages, with and without images."""
import json
import numpy as np
from pathlib import Path
from PIL import Image
from typing import Any

GOOD_ANSWER = 'The lungs are clear. There is no pleural effusion and no pneumothorax in this picture.'


def row(question: str, answer: str | None, image: str | None = None, **more: Any) -> dict[str, Any]:
    messages = [{'role': 'user', 'content': f'{"<image>" if image else ""}{question}'}]
    if answer is not None:
        messages.append({'role': 'assistant', 'content': answer})
    return {'messages': messages, **({'images': [image]} if image else {}), **more}


def write_images(folder: Path) -> None:
    """Writes ok.png and one image of each fault."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 255, (80, 80, 3), dtype=np.uint8)).save(folder / 'ok.png')
    Image.fromarray(np.full((80, 80, 3), 7, np.uint8)).save(folder / 'single.png')
    blank = np.full((200, 200, 3), 250, np.uint8)
    blank[:2, :5] = 0
    Image.fromarray(blank).save(folder / 'blank.png')
    Image.fromarray(rng.integers(0, 255, (63, 65, 3), dtype=np.uint8)).save(folder / 'small.png')
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / 'just.png')
    (folder / 'broken.png').write_bytes(b'\x89PNG\r\n\x1a\n and no more')


def write_rows(path: Path, count: int, seed: int = 0) -> int:
    """Writes lines of every kind at random; returns the number of rows (blank lines are none)."""
    rng = np.random.default_rng(seed)
    lines: list[bytes] = []
    for number in range(count):
        kind = rng.integers(12)
        question = f'What does film {number} show in the left lung?'
        made: Any = row(question, GOOD_ANSWER)
        if kind == 0:
            made = row('Is it?', 'No.')
        elif kind == 1:
            made = row(question, 'As an AI language model I cannot see pictures, please ask a doctor.')
        elif kind == 2:
            made = row(f'请描述第{number}张胸片的主要表现。', '双肺纹理清晰，未见明显实变，心影大小正常。', id=number)
        elif kind == 3:
            made = row(question, f'<b>Clear</b> lungs &nbsp; on both sides {number}')
        elif kind == 4:
            made = {'query': question, 'response': GOOD_ANSWER, 'score': .1}
        text = json.dumps(made, ensure_ascii=bool(kind % 2)).encode()
        if kind == 5:
            text = text[:int(rng.integers(1, len(text)))]
        elif kind == 6:
            text = b'{"messages": "none", "n": NaN}'
        elif kind == 7:
            text = b' ' * int(rng.integers(3)) + text + b'\t\r'
        elif kind == 8:
            text = b'\xff\xfe' + text
        elif kind == 9:
            lines.append(b'')
        lines.append(text)
    path.write_bytes(b'\n'.join(lines) + (b'\n' if seed % 2 else b''))
    return sum(bool(line.strip()) for line in lines)
