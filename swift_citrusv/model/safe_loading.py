"""Refuses checkpoint directories with code: only installed code runs.

Transformers runs Python files of a model directory that its JSON files name under `auto_map`, and
`custom_generate/generate.py` by default. ms-swift allows it for every model (`trust_remote_code=True`).
"""
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_REMEDY = ('With --model_type citrusv no code from a checkpoint is run. Remove the entry, or use a checkpoint without '
           'code.')


def refuse_remote_code(model_dir: str) -> None:
    """Checks a model directory before Transformers reads it.

    Args:
        model_dir: The directory.

    Raises:
        ValueError: A file in it names code: `auto_map` in a JSON file, a `custom_generate` folder, or an attention
            implementation from a model hub.
    """
    folder = Path(model_dir)
    if (folder / 'custom_generate').exists():
        raise ValueError(f'{folder / "custom_generate"} contains code for generation. {_REMEDY}')
    for path in sorted(folder.glob('*config*.json')):
        try:
            content = json.loads(path.read_text(encoding='utf-8'))
        except (ValueError, RecursionError, OSError) as e:
            raise ValueError(f'{path} cannot be read as JSON: {e}. Download the checkpoint again.') from e
        for key, value in _entries(content):
            if key == 'auto_map':
                raise ValueError(f'{path} names code ("auto_map": {json.dumps(value)[:200]}). {_REMEDY}')
            if 'attn_implementation' in key and isinstance(value, str) and '/' in value:
                raise ValueError(
                    f'{path} names an attention from a model hub ("{key}": {json.dumps(value)[:200]}). {_REMEDY}')


def _entries(content: Any) -> Iterator[tuple[str, Any]]:
    """All keys of a JSON value, with their values, at any depth."""
    stack = [content]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            yield from part.items()
            stack.extend(part.values())
        elif isinstance(part, list):
            stack.extend(part)
