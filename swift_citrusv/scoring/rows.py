"""Questions, reference answers and model responses of rows."""
import re
from collections.abc import Mapping
from typing import Any

from ..errors import RowError
from .cases import PredictionError

# Columns that may hold the reference answer, in order of precedence.
ANSWER_COLUMNS = ('answer', 'solution', 'labels')
_THINK = re.compile(r'<think>.*?</think>', re.DOTALL)
_ANSWER = re.compile(r'<answer>(.*?)</answer>', re.DOTALL)


def answer_of(reference: Mapping[str, Any], row: str) -> str:
    """The reference answer of a row: a column of `ANSWER_COLUMNS`, or else its last assistant turn.

    In ms-swift's `query` and `response` layout, it is `response`.

    Args:
        reference: The row.
        row: The row's name.

    Raises:
        RowError: The row has no answer.
    """
    for column in ANSWER_COLUMNS:
        if isinstance(reference.get(column), str):
            return reference[column]
    if not isinstance(reference.get('response'), str):
        last = (reference.get('messages') or [{}])[-1]
        if isinstance(last, Mapping) and last.get('role') == 'assistant' and isinstance(last.get('content'), str):
            return last['content']
    elif isinstance(reference.get('query'), str):
        return reference['response']
    # Next to `messages`, `response` is the model's answer, which `swift infer` also appends to the messages.
    raise RowError(row, 'the row has no answer to compare with.',
                   f"Write it as the last turn of 'messages', or as one of {', '.join(ANSWER_COLUMNS)}.", 'eval-answer')


def question_of(reference: Mapping[str, Any]) -> str:
    """The last question of a row without image tags, for display; '' if there is none."""
    turns = [turn.get('content') for turn in reference.get('messages') or []
             if isinstance(turn, Mapping) and turn.get('role') == 'user']  # yapf: disable
    question = turns[-1] if turns else reference.get('question', reference.get('query'))
    return question.replace('<image>', '').strip() if isinstance(question, str) else ''


def response_of(prediction: Mapping[str, Any] | None) -> str | None:
    """The model's response, unchanged; None if there is no prediction, or it has only an `error`.

    Raises:
        PredictionError: `response` is not a string.
    """
    if prediction is None or (prediction.get('error') and not prediction.get('response')):
        return None
    response = prediction.get('response')
    if not isinstance(response, str):
        raise PredictionError(f"'response' is {str(response)[:80]!r}, not a string")
    return response


def without_reasoning(text: str) -> str:
    """The final answer of a response: the content of its last `<answer>`, or else everything outside `<think>`.

    An unclosed `<think>` extends to the end of the text: the answer is then empty.
    """
    rest = _THINK.sub('', text)
    answers = _ANSWER.findall(rest)
    if answers:
        return answers[-1].strip()
    # If the template puts the opening tag into the prompt, the response has only the closing one.
    rest = rest.rpartition('</think>')[2].partition('<think>')[0]
    return rest.replace('<answer>', '').replace('</answer>', '').strip()
