"""Finds the data files that ship with the package: stage files and prompts."""
from collections.abc import Iterator
from importlib import resources
from pathlib import Path


def templates_dir() -> Path:
    """The folder of stage files and prompts: inside an installed package, beside the package in a source checkout.

    Raises:
        FileNotFoundError: The installation lacks them.
    """
    package = Path(str(resources.files('swift_citrusv')))
    for folder in (package / 'templates', package.parent / 'templates'):
        if any(shipped_files(folder)):
            return folder
    raise FileNotFoundError(f'The installation in {package} has no templates. Reinstall swift-citrusv.')


def shipped_files(folder: Path) -> Iterator[Path]:
    """All data files below `folder` (no Python files), sorted by path."""
    paths = sorted(folder.rglob('*'))
    return (path for path in paths if path.is_file() and path.suffix != '.py' and '__pycache__' not in path.parts)
