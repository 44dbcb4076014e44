"""No code out of a checkpoint directory: a model is weights and numbers, and what runs is what is installed.

Transformers runs Python files of a model directory that its JSON files name under `auto_map`, and
`custom_generate/generate.py` without being asked. ms-swift allows it for every model (`trust_remote_code=True`).
"""
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_REMEDY = ('No code of a checkpoint is run with --model_type citrusv: take the entry out, or take the checkpoint from '
           'a source that has none.')


def refuse_code(model_dir: str) -> None:
    """Checks a model directory before Transformers looks into it.

    Args:
        model_dir: The directory.

    Raises:
        ValueError: Something in it names code: `auto_map` in a JSON file, a `custom_generate` folder, or an attention
            that would be fetched from a hub; says which file.
    """
    folder = Path(model_dir)
    if (folder / 'custom_generate').exists():
        raise ValueError(f'{folder / "custom_generate"} holds code that would draw up the answers. {_REMEDY}')
    for path in sorted(folder.glob('*config*.json')):
        try:
            content = json.loads(path.read_text(encoding='utf-8'))
        except (ValueError, RecursionError, OSError) as e:
            raise ValueError(f'{path} cannot be read as JSON: {e}. Download the checkpoint again.') from e
        for key, value in _entries(content):
            if key == 'auto_map':
                raise ValueError(f'{path} names code of its own ("auto_map": {json.dumps(value)[:200]}). {_REMEDY}')
            if 'attn_implementation' in key and isinstance(value, str) and '/' in value:
                raise ValueError(f'{path} names an attention of a hub ("{key}": {json.dumps(value)[:200]}). {_REMEDY}')


def _entries(content: Any) -> Iterator[tuple[str, Any]]:
    """All keys with their values, at any depth."""
    waiting = [content]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield from part.items()
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
