"""Finds columns of the row contract under another name: `mask` in place of `masks`.

ms-swift drops columns that it does not know, so such a row would train without its masks.
"""
import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from ..constants import SEG_TOKEN
from ..errors import RowError
from .contract import count_seg_tokens
from .mask_format import short_repr

# Columns of ms-swift, of this package's own results, and others that are none of these.
USUAL_COLUMNS = frozenset(
    ('messages', 'conversations', 'conversation', 'query', 'response', 'system', 'images', 'image', 'videos', 'video',
     'audios', 'audio', 'masks', 'mask_images', 'mask_turns', 'label_masks', 'label_mask_images', 'label_turns',
     'objects', 'tools', 'citrusv_row', 'row_id', 'id', 'dataset', 'attention_mask', 'loss_mask', 'padding_mask',
     'token_type_ids', 'position_ids', 'task', 'tasks'))
_MASK_PARTS = ('mask', 'segment', 'polygon', 'contour')
_MASK_WORDS = frozenset(('seg', 'segs', 'rle', 'rles', 'msk', 'msks', 'poly', 'polys'))
# Words that make `mask_id` or `segmentation_model` something else.
_ABOUT_WORDS = frozenset(('id', 'ids', 'model', 'type', 'types', 'label', 'labels', 'class', 'classes', 'count', 'num',
                          'score', 'scores', 'size', 'sizes', 'prompt', 'question', 'text', 'caption', 'category',
                          'area', 'bbox', 'box', 'boxes', 'source', 'date', 'author', 'tool', 'task', 'version'))
_IMAGE_WORDS = frozenset(
    ('img', 'imgs', 'image', 'images', 'picture', 'pictures', 'photo', 'photos', 'scan', 'scans', 'slice', 'slices'))
# Words beside an image word that leave it a file: `image_path`, but not `image_id`.
_FILE_WORDS = frozenset(('path', 'paths', 'file', 'files', 'filename', 'name', 'names', 'url', 'urls', 'list', 'input'))


@lru_cache(maxsize=4096)
def meant_column(key: str) -> str | None:
    """The column that a name probably means, 'masks', 'mask_images' or 'images'; None for any other name."""
    if key in USUAL_COLUMNS:
        return None
    words = [word.lower() for word in re.findall(r'[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+', key)]
    name = ''.join(words)
    if get_close_matches(
            name, ('maskimages', 'maskimage', 'maskimageindex', 'maskimageindices'),
            cutoff=0.9) or ('mask' in name and words[-1:] in (['index'], ['indices'], ['idx'])):
        return 'mask_images'
    if words[-1:] and words[-1] in _ABOUT_WORDS:
        return None
    if any(part in name for part in _MASK_PARTS) or _MASK_WORDS & set(words):
        return 'masks'
    if name[:1] == 'm' and get_close_matches(name, ('masks', 'mask'), cutoff=0.75):
        return 'masks'
    pictured = _IMAGE_WORDS & set(words)
    if pictured and not set(words) - pictured - _FILE_WORDS or get_close_matches(name, ('images', 'image'), cutoff=0.8):
        return 'images'
    return None


def check_misnamed(row: Mapping[str, Any], standard: Mapping[str, Any], row_id: str) -> None:
    """Rejects a row with `[SEG]` in an answer whose masks or images are under a name that nothing reads.

    A row without masks is legal (text supervision). `"masks": []` in it says that another column is not meant.

    Args:
        row: The row as it is in the file, after `--columns`.
        standard: The same row from `layouts.standard_row`.
        row_id: The row's name.

    Raises:
        RowError: Kind 'columns'.
    """
    found = {meant_column(key): key for key, value in row.items() if meant_column(key) and _may_be_media(value)}
    if not found or not _says_seg(standard.get('messages')):
        return
    has_masks = bool(row.get('masks'))
    if not has_masks and row.get('masks') != [] and 'masks' in found:
        _raise(row, found['masks'], 'masks', f'{SEG_TOKEN} in an answer and no', row_id)
    if not has_masks and row.get('masks') != [] and 'mask_images' in found and _has_files(row[found['mask_images']]):
        _raise(row, found['mask_images'], 'masks', f'{SEG_TOKEN} in an answer and no', row_id)
    if not standard.get('images') and not standard.get('videos') and 'images' in found:
        _raise(row, found['images'], 'images', f'{SEG_TOKEN} in an answer and no', row_id)
    if has_masks and not row.get('mask_images') and len(standard.get('images') or ()) > 1 and 'mask_images' in found:
        _raise(row, found['mask_images'], 'mask_images', 'several images and no', row_id)


def _says_seg(messages: Any) -> bool:
    if not isinstance(messages, (list, tuple)) or not all(isinstance(m, Mapping) and 'role' in m for m in messages):
        # `contract.parse_row` rejects it.
        return False
    return count_seg_tokens(messages) > 0


def _may_be_media(value: Any) -> bool:
    return isinstance(value, (str, bytes, list, tuple, Mapping)) and bool(value)


def _has_files(value: Any) -> bool:
    """Whether a value is file names or mask entries, not indices."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return not all(isinstance(entry, int) for entry in values)


def _raise(row: Mapping[str, Any], key: str, meant: str, why: str, row_id: str) -> None:
    empty = ', or add "masks": [] if it is something else' if meant == 'masks' else ''
    raise RowError(row_id,
                   f"the row has {why} {meant!r}, but the column {key!r}: {short_repr(row[key])}, which is not read.",
                   f'Rename it to {meant!r}, or give --columns \'{{"{key}": "{meant}"}}\'{empty}.', 'columns')
