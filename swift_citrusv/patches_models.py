"""The patch for loading models, as in `patches`: its reason, symbol and check."""
import json
import os

from .constants import MODEL_TYPE
from .patches import _wrap


def patch_model_info() -> None:
    """No code out of a checkpoint directory: see `trust`."""
    from swift.model import model_meta

    # Why: it is the first to look into a model directory, and lets Transformers run the code in it.
    def model_info(original):

        def patched(model_dir, model_type, *args, **kwargs):
            if model_type == MODEL_TYPE or model_type is None and _is_citrusv_dir(model_dir):
                from .trust import refuse_code
                refuse_code(model_dir)
            return original(model_dir, model_type, *args, **kwargs)

        return patched

    _wrap(model_meta, '_get_model_info', ('model_dir', 'model_type'), model_info)


def _is_citrusv_dir(model_dir: str) -> bool:
    try:
        with open(os.path.join(model_dir, 'config.json'), encoding='utf-8') as file:
            config = json.load(file)
    except (OSError, ValueError, RecursionError):  # ms-swift will say so
        return False
    return isinstance(config, dict) and config.get('model_type') == MODEL_TYPE
