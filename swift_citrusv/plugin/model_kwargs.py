"""The patch for `--model_kwargs`: our settings get the prefix `CITRUSV_` in the environment.

Replaces `BaseArguments._init_model_kwargs` in `swift.arguments`.
"""
import os
from dataclasses import fields

from ..constants import MODEL_TYPE
from ..settings import Settings, variable
from .wrapping import wrap


def patch_model_kwargs() -> None:
    """Writes the keys of `--model_kwargs` that are settings of ours under the names that `settings.variable` gives.

    Raises:
        CompatibilityError: ms-swift has changed.
    """
    from swift.arguments import BaseArguments

    # Why: ms-swift copies each key into the environment in upper case. Names such as DATA_ROOT and SAM2 are common on
    # clusters, so our settings are read with a prefix, while the keys of --model_kwargs stay short.
    def init_model_kwargs(original):

        def patched(self):
            from swift.utils import json_parse_to_dict

            # The model type is not known yet where config.json tells it.
            if self.model_type not in {None, MODEL_TYPE}:
                return original(self)
            settings = {spec.name for spec in fields(Settings)}
            given = json_parse_to_dict(self.model_kwargs)
            # A JSON null is the default, as with ms-swift's own keys.
            ours = {key: str(value) for key, value in given.items() if key.lower() in settings}
            self.model_kwargs = {key: value for key, value in given.items() if key not in ours}
            original(self)
            os.environ.update({variable(key.lower()): text for key, text in ours.items()})
            self.model_kwargs = given

        return patched

    wrap(BaseArguments, '_init_model_kwargs', ('self', ), init_model_kwargs)
