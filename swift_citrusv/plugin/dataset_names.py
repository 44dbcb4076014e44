"""The patch for misspelled names of datasets: refused when the arguments are read.

Replaces `DataArguments.__post_init__` in `swift.arguments`.
"""
import os
from typing import Any

from ..constants import MODEL_TYPE
from .wrapping import wrap

# The flags, and whether a name may be that of a dataset on a hub.
_FLAGS = {'dataset': True, 'val_dataset': True, 'cached_dataset': False, 'cached_val_dataset': False}


def patch_dataset_names() -> None:
    """Refuses names of local files that do not exist, in every command of ms-swift that reads datasets."""
    from swift.arguments import DataArguments

    # Why: ms-swift takes every name without a file for a dataset on a hub, and a typo ends in a download error after
    # a minute. Afterwards, because the original registers the names of --custom_dataset_info.
    def names_post_init(original):

        def patched(self):
            original(self)
            if getattr(self, 'model_type', None) == MODEL_TYPE:
                check_names(self)

        return patched

    wrap(DataArguments, '__post_init__', ('self', ), names_post_init)


def check_names(args: Any) -> None:
    """Checks the names of all datasets in a run's arguments.

    Raises:
        FileNotFoundError: Names of local files and folders that do not exist, all of them.
    """
    problems = []
    for flag, may_be_on_hub in _FLAGS.items():
        names = getattr(args, flag, None) or []
        for given in [names] if isinstance(names, str) else names:
            problem = None if os.path.exists(given) else _problem(given, f'--{flag}', may_be_on_hub)
            problems += [problem] if problem else []
    if problems:
        raise FileNotFoundError('\n'.join(problems))


def _problem(given: str, flag: str, may_be_on_hub: bool) -> str | None:
    """What is wrong with a name that is not itself a path: `hf::owner/name:subset#100`, `rows.jsonl#100`, or a typo."""
    from swift.dataset import DATASET_MAPPING, DatasetSyntax

    from ..files.dataset_names import is_data_file, missing_dataset
    path, sign, number = given.rpartition('#')
    if sign and not number.strip().isdecimal():
        return f'{flag} {given}: a number of rows belongs behind the #, not {number!r}.'
    path = path if sign else given
    if not may_be_on_hub:
        return missing_dataset(path, flag, may_be_on_hub=False)
    syntax = DatasetSyntax.parse(given)
    known = DATASET_MAPPING.get(syntax.dataset)
    if known is not None and syntax.use_hf is None and known.dataset_path is not None:
        return missing_dataset(known.dataset_path, f'{flag} {syntax.dataset}, dataset_path', may_be_on_hub=False)
    ids = {name for meta in DATASET_MAPPING.values() for name in (meta.ms_dataset_id, meta.hf_dataset_id)}
    if known is not None or syntax.use_hf is not None or syntax.dataset in ids:
        return None
    # A colon may stand in a path too.
    return missing_dataset(path if '://' in path or is_data_file(path) else syntax.dataset, flag)
