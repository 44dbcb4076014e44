"""The patches for loading models: code in a checkpoint directory and unconverted checkpoints are refused.

Replaces `swift.model.model_meta._get_model_info`, `TemplateArguments.__post_init__` in
`swift.arguments.base_args.template_args`, `swift.arguments.BaseArguments.get_model_processor` and
`TransformersEngine._get_model_processor` in `swift.infer_engine.transformers_engine`.
"""
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ..constants import MODEL_TYPE
from ..model.published_layout import refuse_published
from .quiet import without_messages
from .wrapping import wrap


def patch_model_info() -> None:
    """Refuses code in a checkpoint directory (`model.safe_loading`), and published checkpoints before conversion."""
    from swift.model import model_meta

    # Why: it reads a model directory first, and lets Transformers run the code in it. For a published checkpoint it
    # would only report an unknown architecture.
    def model_info(original):

        def patched(model_dir, model_type, *args, **kwargs):
            config = config_of(model_dir) if model_type in (None, MODEL_TYPE) else {}
            refuse_published(config, model_dir)
            if model_type == MODEL_TYPE or config.get('model_type') == MODEL_TYPE:
                from ..model.safe_loading import refuse_remote_code
                refuse_remote_code(model_dir)
                # Why: ms-swift says that code of the checkpoint runs, which was just ruled out. And it reads the old
                # name of `dtype` itself: the warning is not about --torch_dtype.
                with without_messages('swift', 'Loading model from'), \
                        without_messages('transformers.configuration_utils', '`torch_dtype` is deprecated'):
                    return original(model_dir, model_type, *args, **kwargs)
            return original(model_dir, model_type, *args, **kwargs)

        return patched

    wrap(model_meta, '_get_model_info', ('model_dir', 'model_type'), model_info)


def patch_template_default() -> None:
    """Makes `--template citrusv` the default of a Citrus-V model."""
    from swift.arguments.base_args.template_args import TemplateArguments

    # Why: ms-swift's default is the template in args.json of the model directory. A Qwen2.5-VL that it trained has
    # another one there, with which no mask would be trained.
    def post_init(original):

        def patched(self):
            if getattr(self, 'model_type', None) == MODEL_TYPE and self.template is None:
                self.template = MODEL_TYPE
            original(self)

        return patched

    wrap(TemplateArguments, '__post_init__', ('self', ), post_init)


# Folders of adapters or of a checkpoint that are loaded after the model that is being loaded.
_LOADED_NEXT: ContextVar[tuple[str, ...]] = ContextVar('citrusv_loaded_next', default=())


def loaded_next() -> tuple[str, ...]:
    """The folders of adapters, or of a checkpoint to resume from, that are loaded after the current model."""
    return _LOADED_NEXT.get()


@contextmanager
def loading_before(folders: Iterable[str | None]) -> Iterator[None]:
    """Tells the loader what is loaded after the models that are loaded inside; names that are no folders are left out.
    """
    token = _LOADED_NEXT.set(tuple(path for path in folders if path and os.path.isdir(path)))
    try:
        yield
    finally:
        _LOADED_NEXT.reset(token)


def patch_loading_arguments() -> None:
    """Lets the loader know the adapters and the checkpoint of `swift sft`, `swift infer` and `swift export`."""
    from swift.arguments import BaseArguments

    # Why: the loader is not told, and reports a segmentation head from random initialisation, which an adapter replaces
    # a moment later.
    def arguments_model(original):

        def patched(self, *args, **kwargs):
            with loading_before([*self.adapters, getattr(self, 'resume_from_checkpoint', None)]):
                return original(self, *args, **kwargs)

        return patched

    wrap(BaseArguments, 'get_model_processor', ('self', 'model'), arguments_model)


def patch_loading_engine() -> None:
    """As `patch_loading_arguments`, for the inference engine."""
    from swift.infer_engine.transformers_engine import TransformersEngine

    # Why: as in `patch_loading_arguments`.
    def engine_model(original):

        def patched(self, *args, **kwargs):
            with loading_before(self.adapters):
                return original(self, *args, **kwargs)

        return patched

    wrap(TransformersEngine, '_get_model_processor', ('self', 'model_id_or_path'), engine_model)


def config_of(model_dir: str) -> dict[str, Any]:
    """The config.json of a model directory; {} where there is none."""
    try:
        with open(os.path.join(model_dir, 'config.json'), encoding='utf-8') as file:
            config = json.load(file)
    except (OSError, ValueError, RecursionError):  # ms-swift reports it.
        return {}
    return config if isinstance(config, dict) else {}
