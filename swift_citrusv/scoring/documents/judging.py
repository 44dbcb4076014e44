"""Questions about documents put to a judge, and its verdicts brought into the columns of the cases."""
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..judge import Judge, Messages, answer_question, field_question, score_of, score_question, verdict_of
from .lab_counts import Ask, document_scores

if TYPE_CHECKING:
    from ..table import Table


def judge_cases(table: 'Table', judge: Judge, prefix_of: Callable[[int], str]) -> dict[str, str | None]:
    """Asks a judge what stands in the data of all cases, and corrects their columns.

    What the rules said stays in columns that end in '_by_rules'. Cases get the flags 'judged', 'judge_unparsable' and
    'judge_refused'; each question in their data gets its `verdict`.

    Args:
        table: Of all cases.
        judge: That is asked.
        prefix_of: Of the columns of a case.

    Returns:
        The replies by `Judge.key`; None where the server refused.

    Raises:
        ConnectionError: The server cannot be reached.
        ValueError: A cassette has not all replies.
    """
    for column in [*table.columns]:
        if column.endswith(('tp', 'correct')):
            table.columns[f'{column}_by_rules'] = table.columns[column].copy()
    replies: dict[str, str | None] = {}
    flags: dict[tuple[int, str], None] = {}
    todo = [(case, ask) for case, asks in enumerate(table.data) for ask in asks or ()]
    # Names first; what follows from two names that are one is asked in a second round.
    while todo:
        questions = [messages_of(ask) for _, ask in todo]
        said = judge.ask(questions)
        replies.update(zip(map(judge.key, questions), said))
        further = []
        for (case, ask), reply in zip(todo, said):
            flags[(case, 'judged')] = None
            problem = _apply(table, case, ask, reply, prefix_of(case))
            if problem:
                flags[(case, problem)] = None
            if ask['verdict']:
                further += [(case, then) for then in ask.get('then', ())]
        todo = further
    for case, flag in flags:
        table.add_flag(case, flag)
    return replies


def messages_of(ask: Ask) -> Messages:
    """The question of `Counted.asks`, or one about an answer as a whole ('answer', 'score'), as a judge gets it."""
    if ask['kind'] == 'answer':
        return answer_question(ask['question'], ask['gold'], ask['predicted'])
    if ask['kind'] == 'score':
        return score_question(ask['question'], ask['gold'], ask['predicted'])
    return field_question(ask['kind'], ask['gold'], ask['predicted'])


def _apply(table: 'Table', case: int, ask: Ask, reply: str | None, prefix: str) -> str | None:
    """Corrects the columns of a case by one verdict, which is noted in `ask`; the flag of a verdict that is none."""
    columns = table.columns
    verdict = score_of(reply) if ask['kind'] == 'score' else verdict_of(reply)
    ask['verdict'] = verdict
    if verdict is None:
        return 'judge_refused' if reply is None else 'judge_unparsable'
    if ask['kind'] == 'score':
        columns[f'{prefix}score'][case] = verdict
    elif ask['kind'] == 'answer':
        columns[f'{prefix}correct'][case] = float(verdict)
    elif verdict:
        for name in (ask['kind'], *ask.get('right', ())):
            # A complex answer has names to be matched by, which are no fields that score.
            if f'{prefix}tp_{name}' in columns:
                columns[f'{prefix}tp_{name}'][case] += 1
                columns[f'{prefix}tp'][case] += 1
        counts = [columns[f'{prefix}{name}'][case] for name in ('tp', 'predicted', 'gold')]
        for name, value in document_scores(*counts).items():
            columns[f'{prefix}{name}'][case] = value
    return None
