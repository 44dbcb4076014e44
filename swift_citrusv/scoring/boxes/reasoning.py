"""Reasoning and final answer in the text of an answer, their tags, and the order of citations."""
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..rows import ANSWER_COLUMNS, answer_of, without_reasoning
from .box_text import normalised_label

_BODY = r'((?:(?!</?(?:think|answer)>).)*)'
_WELL_FORMED = re.compile(rf'\s*<think>{_BODY}</think>\s*<answer>{_BODY}</answer>\s*', re.DOTALL)


def is_well_formed(text: str | None, think_in_prompt: bool = False) -> bool:
    """Whether an answer is exactly one `<think>...</think>` and one `<answer>...</answer>`, neither blank.

    Args:
        text: The answer; None, a missing one, is not well-formed.
        think_in_prompt: Whether the opening `<think>` is in the prompt instead of the answer.
    """
    if text is None:
        return False
    match = _WELL_FORMED.fullmatch('<think>' + text if think_in_prompt else text)
    return match is not None and all(part.strip() for part in match.groups())


def reasoning_text(text: str) -> str:
    """The reasoning: from the first `<think>` or the start, to `</think>`, or else to `<answer>` or the end."""
    rest = text.partition('<think>')[2] if '<think>' in text else text
    return rest.partition('</think>' if '</think>' in rest else '<answer>')[0]


def order_correlation(expected: Sequence[str], actual: Sequence[str]) -> float:
    """Kendall's tau between the orders of the common names, in [-1, 1]; NaN with fewer than two.

    Args:
        expected, actual: Names without repetitions.
    """
    from scipy.stats import kendalltau

    places = {name: place for place, name in enumerate(actual)}
    common = [places[name] for name in expected if name in places]
    return float(kendalltau(range(len(common)), common).statistic) if len(common) > 1 else math.nan


def reference_answer(reference: Mapping[str, Any], row: str, needed: bool = True) -> str:
    """The reference answer of a row; a column with reasoning takes precedence over one with the answer only.

    Args:
        reference: The row.
        row: The name of the row.
        needed: Whether an answer is required; else '' without one.

    Raises:
        RowError: A required answer is missing.
    """
    turns = reference.get('messages') or [{}]
    last = turns[-1] if isinstance(turns, list) and isinstance(turns[-1], Mapping) else {}
    texts = {column: reference[column] for column in ANSWER_COLUMNS if isinstance(reference.get(column), str)}
    if last.get('role') == 'assistant' and isinstance(last.get('content'), str):
        # In a result of `swift infer`, the last turn and `response` are the model's.
        if 'response' not in reference:
            texts['messages'] = last['content']
    reasoned = next((text for text in texts.values() if '</think>' in text), None)
    if reasoned is not None and 'labels' not in texts:
        return reasoned
    return answer_of(reference, row) if needed or texts else ''


def normalised_final_answer(text: str) -> str:
    """The final answer in the form used for comparison."""
    return normalised_label(without_reasoning(text).replace('*', '')).rstrip('.。 ')
