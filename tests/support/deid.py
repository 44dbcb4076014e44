"""Images with text of nobody, and cleaners for tests."""
import numpy as np
import pytest
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from swift_citrusv.curation.deid.clean import FileCleaner, Options
from swift_citrusv.curation.deid.ocr import ENGINES
from swift_citrusv.curation.deid.text import read_rules
from swift_citrusv.package_files import templates_dir

KEY = b'a key of the tests'
RULES = read_rules(str(templates_dir() / 'deid_rules.yaml'))


def options(**values: Any) -> Options:
    """The options with both engines."""
    return Options(RULES, KEY, **values)


def cleaner(folder: Path, **values: Any) -> FileCleaner:
    return FileCleaner(options(**values), str(folder))


def without_pixels(folder: Path, **values: Any) -> FileCleaner:
    """A cleaner that reads no text in pixels, which is quick."""
    return cleaner(folder, engines=(), **values)


def require_engines() -> None:
    """Skips a test without both engines."""
    for engine in ENGINES:
        if find_spec(engine) is None:
            pytest.skip(f'{engine} is not installed')


def samples() -> Path:
    """The folder of `deid-data`: invented patients' names in pixels and headers."""
    spec = find_spec('deid_data')
    if spec is None or spec.origin is None:
        pytest.skip('deid-data is not installed: pip install --no-deps deid-data==0.0.20')
    return Path(spec.origin).parent / 'data'


def outside(shape: tuple[int, ...], boxes: list[tuple[int, int, int, int]]) -> np.ndarray:
    """Where no box lies: bool [h, w]."""
    free = np.ones(shape[:2], bool)
    for x0, y0, x1, y1 in boxes:
        free[y0:y1, x0:x1] = False
    return free
