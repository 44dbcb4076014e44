"""The patch for loading models, as in `patches`: its reason, symbol and check."""
import json
import os
from typing import Any

from ..constants import MODEL_TYPE
from ..model.published_layout import refuse_published
from .wrapping import wrap


def patch_model_info() -> None:
    """No code out of a checkpoint directory (see `trust`), and no published checkpoint that is not converted."""
    from swift.model import model_meta

    # Why: it is the first to look into a model directory, and lets Transformers run the code in it. Of a published
    # checkpoint it would say no more than that it does not know the architecture.
    def model_info(original):

        def patched(model_dir, model_type, *args, **kwargs):
            config = _config_of(model_dir) if model_type in (None, MODEL_TYPE) else {}
            refuse_published(config, model_dir)
            if model_type == MODEL_TYPE or config.get('model_type') == MODEL_TYPE:
                from ..model.safe_loading import refuse_code
                refuse_code(model_dir)
            return original(model_dir, model_type, *args, **kwargs)

        return patched

    wrap(model_meta, '_get_model_info', ('model_dir', 'model_type'), model_info)


def _config_of(model_dir: str) -> dict[str, Any]:
    try:
        with open(os.path.join(model_dir, 'config.json'), encoding='utf-8') as file:
            config = json.load(file)
    except (OSError, ValueError, RecursionError):  # ms-swift will say so
        return {}
    return config if isinstance(config, dict) else {}
