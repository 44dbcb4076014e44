"""What determines the length of a row: a key of its content, and a text of all settings."""
import hashlib
import json
import os
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from qwen_vl_utils import vision_process
from typing import Any

from ..constants import CHUNKS_COLUMN, ROW_COLUMN
from ..encoding.row_media import IMAGE_TAG
from ..files.rules import FileRules, file_rules

# ms-swift's name for the column of token counts.
LENGTHS_COLUMN = 'lengths'
# The name of a row, and what the length pass adds to it, are not its content.
_NOT_CONTENT = (ROW_COLUMN, LENGTHS_COLUMN, CHUNKS_COLUMN)
# The code that determines a length: modules of this package, and other packages (PIL reads image headers).
_SOURCES = ('constants', 'encoding/template', 'encoding/chunks', 'encoding/row_length', 'encoding/row_media',
            'encoding/seg_tensors', 'encoding/too_long', 'files/deep', 'files/dicom', 'files/dicom_header',
            'files/dicom_size', 'files/errors', 'files/images', 'files/lazy', 'files/lookup_table', 'files/medical',
            'files/nifti', 'files/orientation', 'files/other_formats', 'files/pil_limit', 'files/rules', 'files/slices',
            'rows/contract', 'rows/mask_format', 'rows/masks', 'training/length_keys')
_PACKAGES = ('ms-swift', 'transformers', 'tokenizers', 'qwen-vl-utils', 'pillow')
_PACKAGE = Path(__file__).parents[1]
# Settings of the template that do not change a length.
_IRRELEVANT_SETTINGS = {
    'packing', 'padding_free', 'padding_side', 'sequence_parallel_size', 'use_megatron', 'input_side', 'mask_side'
}


def settings_text(template: Any) -> str:
    """All that determines the length of a row besides the row itself, as JSON."""
    tokenizer, processor = template.tokenizer, template.processor
    constants = {name: value for name, value in vars(vision_process).items() if name.isupper()}
    versions = {name: version(name) for name in _PACKAGES} | {'swift-citrusv': _source_digest()}
    # The pickled state has no models and no hooks, which are not settings. Neither are caches.
    state = template.__getstate__()
    settings = {
        key: value
        for key, value in state.items() if key not in _IRRELEVANT_SETTINGS and not key.endswith('_cache')
    }
    return json.dumps(
        {
            'versions': versions,
            'template': _plain_values(settings),
            'template_meta': _plain_values(vars(template.template_meta)),
            'tokenizer': hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
            'chat_template': tokenizer.chat_template,
            'image_processor': _plain_values(processor.image_processor.to_dict()),
            'video_processor': _plain_values(processor.video_processor.to_dict()),
            'qwen_vl_utils': _plain_values(constants),
            'files': asdict(file_rules()),
        },
        sort_keys=True)


def _source_digest() -> str:
    # Two commits may have the same version number.
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((_PACKAGE / f'{name}.py').read_bytes())
    return digest.hexdigest()


def _plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that JSON can hold; models, caches and functions are not settings."""
    plain = {}
    for name, value in values.items():
        try:
            plain[name] = json.loads(json.dumps(value))
        except (TypeError, ValueError):
            continue
    return plain


def row_key(row: dict[str, Any]) -> bytes:
    """A key of 16 bytes, which changes with the row and with its image, video and mask files."""
    content = [(name, row[name]) for name in sorted(row) if name not in _NOT_CONTENT]
    text = json.dumps(content, ensure_ascii=False, default=_as_json)
    digest = hashlib.blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=16)
    rules = file_rules()
    for name in _file_names(row):
        digest.update(repr(_stamp(name, rules)).encode())
    return digest.digest()


def _as_json(value: Any) -> Any:
    content = value if isinstance(value, bytes) else pickle.dumps(value)
    return [type(value).__name__, hashlib.blake2b(content, digest_size=16).hexdigest()]


def _file_names(row: dict[str, Any]) -> Iterator[str]:
    """Every string of the row that may name an image, video or mask file. The row need not keep the row contract."""
    for column, value in row.items():
        if column.endswith(('images', 'videos')):
            yield from _texts(value)
        elif column.endswith('messages'):
            for message in value if isinstance(value, (list, tuple)) else ():
                content = message.get('content') if isinstance(message, dict) else None
                yield from IMAGE_TAG.findall(content) if isinstance(content, str) else _texts(content)
        elif column == 'masks':
            yield from _mask_files(value)


def _mask_files(masks: Any) -> Iterator[str]:
    # JSON text in an Arrow column. Most masks are RLEs, without a file.
    if isinstance(masks, str):
        try:
            masks = json.loads(masks) if '"path"' in masks else None
        except (ValueError, RecursionError):  # measuring reports it
            return
    for entry in masks if isinstance(masks, (list, tuple)) else ():
        if isinstance(entry, dict):
            yield from _texts(entry.get('path'))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def _stamp(name: str, rules: FileRules) -> tuple[int, int] | None:
    """Size and modification time of the named file; None where there is no such file."""
    # A slice is named behind a '#', but the file's own name may contain one too.
    base = name.rpartition('#')[0]
    for path in rules.candidate_paths(name) + (rules.candidate_paths(base) if base else []):
        try:
            stat = os.stat(path)
        except (OSError, ValueError):  # ValueError: a name that no file can have
            continue
        return stat.st_size, stat.st_mtime_ns
    return None
