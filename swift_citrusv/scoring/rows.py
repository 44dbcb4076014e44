"""What rows of references and predictions say: questions, answers, images."""
import re
from collections.abc import Mapping
from typing import Any

from ..errors import RowError
from .cases import PredictionError

# Where the answer of a reference may stand, in the order in which they win.
ANSWER_COLUMNS = ('answer', 'solution', 'labels')
_THINK = re.compile(r'<think>.*?</think>', re.DOTALL)
_ANSWER = re.compile(r'<answer>(.*?)</answer>', re.DOTALL)


def answer_of(reference: Mapping[str, Any], row: str) -> str:
    """The right answer of a reference row: a column of `ANSWER_COLUMNS`, or else its last turn of the assistant.

    In ms-swift's layout of `query` and `response` it is the latter.

    Args:
        reference: The row.
        row: Its name.

    Raises:
        RowError: There is none.
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
    # Beside `messages` a response is the model's, and `swift infer` makes it their last turn.
    raise RowError(row, 'the row has no answer to compare with.',
                   f"Write it as the last turn of 'messages', or as one of {', '.join(ANSWER_COLUMNS)}.", 'eval-answer')


def question_of(reference: Mapping[str, Any]) -> str:
    """The last question of a row, without tags of images; empty where there is none. For people to read."""
    turns = [turn.get('content') for turn in reference.get('messages') or []
             if isinstance(turn, Mapping) and turn.get('role') == 'user']  # yapf: disable
    question = turns[-1] if turns else reference.get('question', reference.get('query'))
    return question.replace('<image>', '').strip() if isinstance(question, str) else ''


def response_of(prediction: Mapping[str, Any] | None) -> str | None:
    """The answer of a model as it wrote it; None where there is no prediction, or it has an `error`.

    Raises:
        PredictionError: `response` is no text.
    """
    if prediction is None or (prediction.get('error') and not prediction.get('response')):
        return None
    response = prediction.get('response')
    if not isinstance(response, str):
        raise PredictionError(f"'response' is {str(response)[:80]!r}, not a text")
    return response


def without_reasoning(text: str) -> str:
    """What a model says in the end: the inside of its last `<answer>`, or else all that stands outside of `<think>`.

    A `<think>` that is never closed is reasoning to the end of the text: such an answer is empty.
    """
    rest = _THINK.sub('', text)
    answers = _ANSWER.findall(rest)
    if answers:
        return answers[-1].strip()
    # Templates put the opening tag into the prompt: then only the closing one is in the text.
    rest = rest.rpartition('</think>')[2].partition('<think>')[0]
    return rest.replace('<answer>', '').replace('</answer>', '').strip()
