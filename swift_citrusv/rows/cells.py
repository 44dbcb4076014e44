"""The cells of a table as the values of a row: JSON in a CSV cell, and the fields that Arrow adds to structs."""
import ast
import base64
import json
from collections.abc import Mapping
from typing import Any

# Columns that hold lists or objects; a cell of text has them as JSON, or as Python (pandas) writes them.
_STRUCTURED = frozenset(('messages', 'conversations', 'conversation', 'rejected_messages', 'positive_messages',
                         'negative_messages', 'history', 'images', 'image', 'rejected_images', 'videos', 'video',
                         'audios', 'audio', 'objects', 'tools', 'chat_template_kwargs', 'masks', 'mask_images'))
# Columns of numbers or booleans.
_SCALARS = frozenset(('label', 'margin'))
_CHATS = frozenset(
    ('messages', 'conversations', 'conversation', 'rejected_messages', 'positive_messages', 'negative_messages'))


def decode_cells(row: dict[str, Any]) -> dict[str, Any]:
    """The row with lists and objects in place of their text, and without the None fields that Arrow adds.

    Nothing else changes: text that is neither JSON nor a Python literal stays as it is, and 'a.png' is one image.
    """
    return {key: _decoded(key.lower(), value) for key, value in row.items()}


def _decoded(key: str, value: Any) -> Any:
    if isinstance(value, str):
        if key in _STRUCTURED:
            value = _literal(value.strip()) if value.strip()[:1] in ('[', '{', '"', 'n', 'N', '') else value
        elif key in _SCALARS:
            value = _literal(value.strip())
        elif key in ('system', 'system_prompt'):
            # A table cannot leave a cell out.
            value = value or None
    if key == 'masks' and isinstance(value, list):
        return [_mask_entry(entry) for entry in value]
    if key in _CHATS and isinstance(value, list):
        return [_message(message) for message in value]
    if key == 'objects' and isinstance(value, Mapping):
        return _without_none(value)
    # pandas writes NaN for a missing value.
    return None if isinstance(value, float) and value != value else value


def _literal(text: str) -> Any:
    if not text:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return text
    return list(value) if isinstance(value, tuple) else value


def _without_none(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: entry for key, entry in value.items() if entry is not None}


def _mask_entry(entry: Any) -> Any:
    if isinstance(entry, str) and entry.strip()[:1] in ('[', '{'):
        entry = _literal(entry.strip())
    if not isinstance(entry, Mapping):
        return entry
    entry = _without_none(entry)
    if isinstance(entry.get('counts'), bytes):
        # As pycocotools has them.
        entry['counts'] = entry['counts'].decode('ascii', 'backslashreplace')
    return entry


def _message(message: Any) -> Any:
    if not isinstance(message, Mapping):
        return message
    message = _without_none(message)
    content = message.get('content')
    if isinstance(content, list):
        message['content'] = [_without_none(part) if isinstance(part, Mapping) else part for part in content]
    return message


def inline_images(row: dict[str, Any]) -> dict[str, Any]:
    """The row with data URLs in place of the bytes of its images, which JSON cannot hold; other bytes are left out."""
    images = row.get('images')
    if isinstance(images, list):
        row = {**row, 'images': [_data_url(image) for image in images]}
    return {key: value for key, value in row.items() if not isinstance(value, bytes)}


def _data_url(image: Any) -> Any:
    content = image.get('bytes') if isinstance(image, Mapping) else image
    if not isinstance(content, bytes):
        return image
    kind = 'jpeg' if content[:2] == b'\xff\xd8' else 'png'
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'
