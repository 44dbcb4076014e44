"""Evaluations of discs, shared by the tests of the report's modules."""
import pytest
from collections.abc import Callable
from support.discs import evaluate_discs
from typing import Any

from swift_citrusv.scoring.evaluate import Evaluation


@pytest.fixture
def evaluated(tmp_path) -> Callable[..., Evaluation]:
    """`evaluate_discs` in a new folder each time: reports read the rows again."""

    def run(*args: Any, **settings: Any) -> Evaluation:
        folder = tmp_path / f'{len([*tmp_path.iterdir()])}'
        folder.mkdir()
        return evaluate_discs(folder, *args, **settings)

    return run
