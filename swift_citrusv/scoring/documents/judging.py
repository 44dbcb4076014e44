"""Asks a judge about documents and updates the cases with its verdicts."""
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..judge import Judge, Messages, answer_question, field_question, parse_score, parse_verdict, score_question
from .lab_counts import JudgeQuestion, document_scores

if TYPE_CHECKING:
    from ..table import CaseTable


def judge_cases(table: 'CaseTable', judge: Judge, prefix_of: Callable[[int], str]) -> dict[str, str | None]:
    """Asks a judge the questions in the data of all cases, and updates their columns.

    The scores by rules are kept in columns that end in '_by_rules'. Cases get the flags 'judged', 'judge_unparsable'
    and 'judge_refused'; each question in their data gets its `verdict`.

    Args:
        table: All cases.
        judge: The judge.
        prefix_of: The column prefix of a case, by its index.

    Returns:
        The replies by `Judge.key`; None if the server refused.

    Raises:
        ConnectionError: The server cannot be reached.
        ValueError: A recorded reply is missing.
    """
    for column in [*table.columns]:
        if column.endswith(('tp', 'correct')):
            table.columns[f'{column}_by_rules'] = table.columns[column].copy()
    replies: dict[str, str | None] = {}
    flags: dict[tuple[int, str], None] = {}
    todo = [(case, question) for case, asked in enumerate(table.data) for question in asked or ()]
    # Names first; the follow-up questions of matching names are asked in a second round.
    while todo:
        questions = [judge_messages(question) for _, question in todo]
        received = judge.ask(questions)
        replies.update(zip(map(judge.key, questions), received))
        further = []
        for (case, question), reply in zip(todo, received):
            flags[(case, 'judged')] = None
            problem = _apply(table, case, question, reply, prefix_of(case))
            if problem:
                flags[(case, problem)] = None
            if question['verdict']:
                further += [(case, then) for then in question.get('then', ())]
        todo = further
    for case, flag in flags:
        table.add_flag(case, flag)
    return replies


def judge_messages(question: JudgeQuestion) -> Messages:
    """The chat messages of a question of `FieldCounts.questions`, or about a whole answer ('answer', 'score')."""
    if question['kind'] == 'answer':
        return answer_question(question['question'], question['gold'], question['predicted'])
    if question['kind'] == 'score':
        return score_question(question['question'], question['gold'], question['predicted'])
    return field_question(question['kind'], question['gold'], question['predicted'])


def _apply(table: 'CaseTable', case: int, question: JudgeQuestion, reply: str | None, prefix: str) -> str | None:
    """Updates a case by a reply and stores the verdict in `question`; returns a flag if there is no verdict."""
    columns = table.columns
    verdict = parse_score(reply) if question['kind'] == 'score' else parse_verdict(reply)
    question['verdict'] = verdict
    if verdict is None:
        return 'judge_refused' if reply is None else 'judge_unparsable'
    if question['kind'] == 'score':
        columns[f'{prefix}score'][case] = verdict
    elif question['kind'] == 'answer':
        columns[f'{prefix}correct'][case] = float(verdict)
    elif verdict:
        for name in (question['kind'], *question.get('right', ())):
            # Names of complex answers are matched, but not scored.
            if f'{prefix}tp_{name}' in columns:
                columns[f'{prefix}tp_{name}'][case] += 1
                columns[f'{prefix}tp'][case] += 1
        counts = [columns[f'{prefix}{name}'][case] for name in ('tp', 'predicted', 'gold')]
        for name, value in document_scores(*counts).items():
            columns[f'{prefix}{name}'][case] = value
    return None
