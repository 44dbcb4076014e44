"""The text of an answer that reasons: its two parts, their tags, the order of what it names."""
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..rows import ANSWER_COLUMNS, answer_of, without_reasoning
from .box_text import normalised

_BODY = r'((?:(?!</?(?:think|answer)>).)*)'
_WELL_FORMED = re.compile(rf'\s*<think>{_BODY}</think>\s*<answer>{_BODY}</answer>\s*', re.DOTALL)


def is_well_formed(text: str | None, think_in_prompt: bool = False) -> bool:
    """Whether an answer is one `<think>...</think>` and then one `<answer>...</answer>`, neither blank, nothing around.

    Args:
        text: Of the answer; None: there is none, and it is not.
        think_in_prompt: The opening `<think>` stands in the prompt, and not in the answer.
    """
    if text is None:
        return False
    match = _WELL_FORMED.fullmatch('<think>' + text if think_in_prompt else text)
    return match is not None and all(part.strip() for part in match.groups())


def reasoning_of(text: str) -> str:
    """What a model thinks: from the first `<think>`, or the start, to `</think>`, or else to `<answer>` or the end."""
    rest = text.partition('<think>')[2] if '<think>' in text else text
    return rest.partition('</think>' if '</think>' in rest else '<answer>')[0]


def order_of(wanted: Sequence[str], given: Sequence[str]) -> float:
    """Kendall's tau of the places of the names that are in both; NaN with fewer than two.

    Args:
        wanted, given: Names, each once.
    """
    from scipy.stats import kendalltau

    places = {name: place for place, name in enumerate(given)}
    common = [places[name] for name in wanted if name in places]
    return float(kendalltau(range(len(common)), common).statistic) if len(common) > 1 else math.nan


def right_answer(reference: Mapping[str, Any], row: str, needed: bool = True) -> str:
    """The right answer of a row, with its reasoning where there is some: a column may hold the answer alone.

    Args:
        reference: The row.
        row: Its name.
        needed: Without it, '' where there is none.

    Raises:
        RowError: It is needed, and there is none.
    """
    turns = reference.get('messages') or [{}]
    last = turns[-1] if isinstance(turns, list) and isinstance(turns[-1], Mapping) else {}
    texts = {column: reference[column] for column in ANSWER_COLUMNS if isinstance(reference.get(column), str)}
    if last.get('role') == 'assistant' and isinstance(last.get('content'), str):
        # A result of `swift infer` has a response too, and both are the model's.
        if 'response' not in reference:
            texts['messages'] = last['content']
    reasoned = next((text for text in texts.values() if '</think>' in text), None)
    if reasoned is not None and 'labels' not in texts:
        return reasoned
    return answer_of(reference, row) if needed or texts else ''


def final_answer(text: str) -> str:
    """What an answer says in the end, as it is compared."""
    return normalised(without_reasoning(text).replace('*', '')).rstrip('.。 ')
