"""Names of settings: unknown keys of `--model_kwargs`, variables `CITRUSV_*` and `ENV:` entries of stage files.

ms-swift writes every key of `--model_kwargs` into the environment and reads it nowhere else, so that a misspelt one has
no effect.
"""
import difflib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from ...settings import SettingError, Settings, variable

# Read for Qwen2.5-VL: `patch_qwen_vl_utils` and `compat_qwen_vl_utils` in swift.model.models.qwen.
_QWEN_VL_UTILS = ('image_factor', 'min_pixels', 'max_pixels', 'video_min_pixels', 'video_max_pixels',
                  'video_total_pixels', 'max_ratio', 'frame_factor', 'fps', 'fps_min_frames', 'fps_max_frames',
                  'image_max_token_num', 'image_min_token_num', 'spatial_merge_size', 'video_max_token_num',
                  'video_min_token_num', 'model_seq_len', 'torchcodec_num_threads', 'force_qwenvl_video_reader')
# By Qwen2VLTemplate in swift.template.templates.qwen, and for any model in swift.template and swift.infer_engine.
_TEMPLATE = ('qwenvl_bbox_format', 'root_image_dir', 'swift_debug', 'swift_timeout', 'swift_allow_internal_url',
             'swift_url_allowed_hosts', 'swift_media_allowed_dirs', 'video_load_backend', 'random_dataset_response',
             'log_level')
# Keys of --model_kwargs, in lower case, that something besides this plugin reads.
READ_BY_OTHERS = frozenset(_QWEN_VL_UTILS + _TEMPLATE)
SETTINGS = tuple(spec.name for spec in fields(Settings))
_PREFIX = variable('')
# Of the test suite.
_TESTS = variable('test_')


def check_names(args: Any, environ: Mapping[str, str] | None = None) -> None:
    """Refuses names that look like settings and are none.

    Args:
        args: ms-swift's arguments.
        environ: The environment; `os.environ` by default.

    Raises:
        SettingError: A key of `--model_kwargs`, a variable `CITRUSV_*` or an `ENV:` entry of the stage file is unknown.
    """
    environ = os.environ if environ is None else environ
    problems = [
        *_unknown_keys(args.model_kwargs or {}),
        *_unknown_variables(environ),
        *_unknown_entries(environ.get('SWIFT_CONFIG_FILE')),
    ]
    if problems:
        raise SettingError(' '.join(dict.fromkeys(problems)))


def _unknown_keys(keys: Iterable[str]) -> list[str]:
    known = {*SETTINGS, *READ_BY_OTHERS}
    # ms-swift writes the keys to the environment in upper case.
    known |= {variable(name).lower() for name in SETTINGS}
    return [
        f'--model_kwargs has the key {key!r}, which nothing reads.{_meant(key.lower(), known, str)} docs/settings.md '
        'has all settings; a variable for another program belongs into the environment.' for key in keys
        if key.lower() not in known
    ]


def _unknown_variables(environ: Mapping[str, str]) -> list[str]:
    known = {variable(name) for name in SETTINGS}
    return [
        f'The environment variable {name} is not a setting of swift-citrusv, and nothing reads it.'
        f'{_meant(name, known, str)} docs/settings.md has all settings.' for name in sorted(environ)
        if name.startswith(_PREFIX) and name not in known and not name.startswith(_TESTS)
    ]


def _unknown_entries(path: str | None) -> list[str]:
    """The entries of `ENV:` that look like a setting without its prefix; those with it are in the environment."""
    problems = []
    for name in _entries(path):
        if name.startswith(_PREFIX) or name.lower() in READ_BY_OTHERS:
            continue
        near = difflib.get_close_matches(name.lower(), SETTINGS, 1, .8)
        if near:
            problems.append(f'{path}: ENV has the entry {name}, which nothing reads. Did you mean {variable(near[0])}?')
    return problems


def _entries(path: str | None) -> list[str]:
    if path is None or not os.path.isfile(path):
        return []
    import yaml
    with open(path, encoding='utf-8') as file:
        content = json.load(file) if path.endswith('.json') else yaml.safe_load(file)
    entries = content.get('ENV') if isinstance(content, dict) else None
    return [str(name) for name in entries] if isinstance(entries, dict) else []


def _meant(name: str, known: Iterable[str], form: Any) -> str:
    near = difflib.get_close_matches(name, sorted(known), 1, .6)
    return f' Did you mean {form(near[0])!r}?' if near else ''
