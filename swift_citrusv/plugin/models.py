"""The patch for loading models: code in a checkpoint directory and unconverted checkpoints are refused.

Replaces `swift.model.model_meta._get_model_info`.
"""
import json
import os
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
            config = _config_of(model_dir) if model_type in (None, MODEL_TYPE) else {}
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


def _config_of(model_dir: str) -> dict[str, Any]:
    try:
        with open(os.path.join(model_dir, 'config.json'), encoding='utf-8') as file:
            config = json.load(file)
    except (OSError, ValueError, RecursionError):  # ms-swift reports it.
        return {}
    return config if isinstance(config, dict) else {}
