"""Warnings about files that are shown once in a process, for the first file that they concern."""
import logging

# A child of ms-swift's logger: it inherits handlers and level if ms-swift is loaded.
logger = logging.getLogger('swift.citrusv')
_shown: set[str] = set()


def warn_once(kind: str, message: str) -> None:
    """Logs a warning, unless one of this kind was logged before."""
    if kind not in _shown:
        _shown.add(kind)
        logger.warning(message)
