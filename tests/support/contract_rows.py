"""A row that keeps the row contract, and the checks that every error of a row must pass."""
import copy
import pickle
from typing import Any

from swift_citrusv.errors import RowError

ROW = 'train.jsonl:12'
RLE = {'size': [2, 3], 'counts': [1, 2, 3]}
POLYGON = [[0, 0, 2, 0, 2, 2]]
# As a value of `make_row`: removes the key.
GONE = object()


def make_row(**changes: Any) -> dict[str, Any]:
    """A valid row with two masks on one image, with some keys replaced."""
    row = {
        'messages': [{'role': 'user', 'content': '<image>Segment both [SEG].'},
                     {'role': 'assistant', 'content': 'Left [SEG], right [SEG].'}],
        'images': ['a.png'],
        'masks': [copy.deepcopy(RLE), copy.deepcopy(POLYGON)],
    }  # yapf: disable
    row.update(changes)
    return {key: value for key, value in row.items() if value is not GONE}


def turn(content: Any, role: str = 'assistant') -> dict[str, Any]:
    return {'role': role, 'content': content}


def check_error(error: RowError, kind: str, value: str, case: object = '') -> None:
    """The message has the row, the value and a remedy, and survives pickling (DataLoader workers).

    Args:
        error: The error.
        kind: Its expected kind.
        value: A part of the problem that it must name.
        case: Names the case if the check fails.
    """
    assert error.kind == kind, (case, str(error))
    assert error.row == ROW and str(error).startswith(f'{ROW}: '), (case, str(error))
    assert value in error.problem and error.problem.endswith('.'), (case, value, error.problem)
    assert len(error.remedy) > 15 and error.remedy.endswith('.') and str(error).endswith(error.remedy), case
    assert len(str(error)) < 700, case
    assert str(pickle.loads(pickle.dumps(error))) == str(error), case
