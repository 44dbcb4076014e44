"""The patch for the web page of `swift app`.

Replaces `swift.pipelines.app.app.SwiftApp.run`.
"""
from collections.abc import Callable
from typing import Any

from ..constants import MODEL_TYPE
from .wrapping import wrap


def patch_app_page(serve: Callable[[Any], None]) -> None:
    """Replaces ms-swift's page with ours.

    Args:
        serve: Takes ms-swift's `AppArguments` and serves the page until it is stopped.
    """
    from swift.pipelines.app.app import SwiftApp

    # Why: ms-swift's page reads only `delta.content` of what the server sends, shows it as text, and has no element for
    # masks.
    def run(original):

        def patched(self):
            if self.args.model_type != MODEL_TYPE:
                return original(self)
            return serve(self.args)

        return patched

    wrap(SwiftApp, 'run', ('self', ), run)
