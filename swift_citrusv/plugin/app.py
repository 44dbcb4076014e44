"""The patch for `swift app`, as in `patches`: with its reason, symbol and check."""
from collections.abc import Callable
from typing import Any

from ..constants import MODEL_TYPE
from .wrapping import wrap


def patch_app(serve: Callable[[Any], None]) -> None:
    """Our page in the place of ms-swift's.

    Args:
        serve: Serves the page of ms-swift's AppArguments.
    """
    from swift.pipelines.app.app import SwiftApp

    # Why: ms-swift's page keeps `delta.content` alone of what its server sends, shows it as text, and has no element
    # that could hold a mask.
    def run(original):

        def patched(self):
            if self.args.model_type != MODEL_TYPE:
                return original(self)
            return serve(self.args)

        return patched

    wrap(SwiftApp, 'run', ('self', ), run)
