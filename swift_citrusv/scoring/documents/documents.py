"""`citrusv eval documents`: MedDocBench, the parsing of lab reports and questions about medical documents.

Sections 3.2.2 and 5.1.1 of the paper, tables 3 and 7. The paper gives no code, prompt or threshold;
`DocumentsTask.rules` defines what it leaves open.
"""
import numpy as np
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from ...errors import RowError
from ..cases import Case, Pair, PredictionError
from ..judge import Judge, RecordedReplies
from ..row_images import first_thumbnail
from ..rows import ANSWER_COLUMNS, answer_of, question_of, response_of, without_reasoning
from ..task import CaseCard, Measure, mean
from .canonical import same_short_answer
from .judging import judge_cases, judge_messages
from .lab_counts import FieldCounts, JudgeQuestion, count_fields
from .lab_result_parser import UnreadableAnswer, lab_results_from_json, lab_results_from_tables, lab_results_from_value
from .lab_results import LabResult
from .measures import ROWS, SCORED_FIELDS, SUBTASKS, average_over_subtasks, subtask_measures

if TYPE_CHECKING:
    from ..table import CaseTable

_ALIASES = {'full_parsing': 'parsing', 'extract': 'parsing', 'ltr': 'parsing'}
_WIDTH, _HEIGHT = 512, 4096
_MAX_LINES = 40


@dataclass(frozen=True)
class DocumentsTask:
    """Scores answers about documents. A case is a row.

    Attributes:
        subtask: One of `SUBTASKS` for all rows; None: the column `subtask` of each row.
        name_threshold: The lowest similarity of two test names that may be matched; see `lab_results.name_similarity`.
        judge_model: The model of the judge; None: rules only.
        judge: URL of its server; None: only recorded replies are used.
        judge_api_key_env: The environment variable with the API key of the server.
        judge_record: A file of recorded replies that is replayed, and extended with new replies.
        judge_replay: A file of recorded replies that is replayed only.
        judge_concurrency: The number of concurrent requests.

    Raises:
        ValueError: Invalid or conflicting options.
    """
    subtask: str | None = None
    name_threshold: float = 0.6
    judge_model: str | None = None
    # Two runs with the same judge are comparable, wherever its replies come from.
    judge: str | None = field(default=None, compare=False)
    judge_api_key_env: str | None = field(default=None, compare=False)
    judge_record: str | None = field(default=None, compare=False)
    judge_replay: str | None = field(default=None, compare=False)
    judge_concurrency: int = field(default=8, compare=False)

    NAME: ClassVar[str] = 'documents'
    TITLE: ClassVar[str] = 'Medical documents'

    def __post_init__(self) -> None:
        if self.subtask is not None and self.subtask not in SUBTASKS:
            raise ValueError(f'--subtask is {self.subtask!r}: give one of {", ".join(SUBTASKS)}.')
        if not 0 < self.name_threshold <= 1:
            raise ValueError(f'--name-threshold is {self.name_threshold}: give a number above 0, at most 1.')
        if self.judge_concurrency < 1:
            raise ValueError(f'--judge-concurrency is {self.judge_concurrency}: give 1 or more.')
        source = self.judge or self.judge_replay
        if source and not self.judge_model:
            raise ValueError(f'The judge {source} needs --judge-model NAME: recorded replies belong to a model.')
        if not source and (self.judge_model or self.judge_record):
            raise ValueError(f'The judge {self.judge_model or self.judge_record} needs --judge URL or --judge-replay '
                             'FILE.')
        if (self.subtask or '').startswith('gmd') and not self.judge_model:
            raise ValueError(f'--subtask {self.subtask}: only a judge can score these answers (paper, section 5.1.1). '
                             'Give --judge URL --judge-model NAME, or --judge-replay FILE --judge-model NAME.')

    @property
    def measures(self) -> tuple[Measure, ...]:
        """All measures of one subtask; for several, the main measures of each and their average, as in table 7."""
        if self.subtask is not None:
            return subtask_measures(self.subtask, '', self.judge_model is not None)
        main = [measure for subtask in SUBTASKS[:3] for measure in subtask_measures(subtask, f'{subtask}_', False)
                if measure.name in ('parsing_f1', 'parsing_macro_f1', 'simple_qa_accuracy', 'complex_qa_f1',
                                    'complex_qa_macro_f1')]  # yapf: disable
        gmd = [mean(f'{subtask}_score') for subtask in SUBTASKS[3:]] if self.judge_model else []
        return (average_over_subtasks(), *main, *gmd)

    @property
    def rules(self) -> dict[str, str]:
        """See `docs/evaluation.md`."""
        judge = (f'{self.judge_model} at temperature 0, asked only if the rules find a mismatch and neither side is '
                 'empty; YES or NO per cell, name or answer') if self.judge_model else \
            'none: rules only; the flag not_judged counts the cases with questions for a judge'  # yapf: disable
        return {
            'case': 'a row: a document with its question',
            'table': 'Markdown or HTML, columns by heading; an answer without a table, or without JSON, is malformed '
                     'and scores 0',
            'fields': 'parsing: entry_name, result, reference, unit; complex_qa: result, reference, abnormality; '
                      'empty cells do not count',
            'canonical form': 'full-width forms, case, dashes, brackets, units, ranges and comparisons are normalised; '
                              'numbers by value (5.0 is 5.00); no synonyms, no unit conversion',
            'flags beside results': 'not part of the value; wrong only if one says high and the other low',
            'matching': 'equal canonical names, then the assignment with the highest sum of similarities (difflib) '
                        f'of at least {self.name_threshold:g}; the rest is unmatched',
            'precision, recall, f1': 'micro: over the fields of all documents',
            'macro': 'the mean of the scores of each document; 0 if one side is empty, 1 if both are',
            'simple_qa': 'the share of answers that equal the reference in canonical form',
            'judge': judge,
            'no verdict': 'a reply that is neither YES nor NO, or a refusal: the rules decide (judge_unparsable, '
                          'judge_refused); for gmd the case is excluded from the mean',
            'gmd': "the mean of the judge's scores from 0 to 1; without the judge: 1 for an answer equal to the "
                   'reference in canonical form, 0 for no answer',
            'no answer': 'a missing, failed or malformed prediction scores 0, flagged no_answer; an answer with '
                         'reasoning only is flagged empty_answer',
            'average': 'without --subtask, as in table 7: the mean of parsing f1, simple_qa accuracy, complex_qa f1 '
                       'and the gmd scores that have rows',
        }  # yapf: disable

    def score(self, pair: Pair) -> list[Case]:
        """One case; its `data` are the questions for a judge.

        Raises:
            RowError: The reference is invalid, or needs a judge and there is none.
            PredictionError: The answer lacks the required table or JSON.
        """
        subtask = self._subtask(pair)
        response = _response(pair)
        flags: tuple[str, ...] = ('no_answer', ) if response is None else () if response else ('empty_answer', )
        if subtask in SCORED_FIELDS:
            counted, more = self._count_fields(pair, subtask)
            values, questions, flags = counted.values(), counted.questions, (*flags, *sorted(more))
        else:
            values, questions = self._score_short_answer(pair, subtask, response)
        if self.subtask is not None:
            return [Case(values, flags, {}, questions)]
        named = {f'{subtask}_{name}': value for name, value in values.items()}
        return [Case({ROWS: 1., **named}, flags, {'subtask': subtask}, questions)]

    def complete(self, table: 'CaseTable') -> None:
        """Asks the judge about all cases, and updates their columns.

        Raises:
            ConnectionError: The judge cannot be reached.
            ValueError: A recorded reply is missing.
        """
        if not self.judge_model:
            for case, questions in enumerate(table.data):
                if questions:
                    table.add_flag(case, 'not_judged')
            return
        recorded = RecordedReplies(self.judge_replay, self.judge_record)
        try:
            self._replies.update(judge_cases(table, self._judge(recorded), lambda case: self._prefix(table, case)))
        finally:
            recorded.close()

    def show(self, pair: Pair, index: int) -> CaseCard:
        """The first page, the question, both answers, and the errors by the rules and by the judge."""
        subtask = self._subtask(pair)
        lines = {'question': question_of(pair.reference), 'answer': '', 'reference': _shown_reference(pair)}
        questions: list[JudgeQuestion] = []
        title = pair.name
        try:
            response = _response(pair)
            lines['answer'] = response or ''
            if subtask in SCORED_FIELDS:
                counted, more = self._count_fields(pair, subtask)
                lines['wrong by the rules'] = _joined(counted.wrong)
                lines['remarks'] = ', '.join(sorted(more))
                questions = counted.questions
                title += f': F1 {counted.values()["document_f1"]:.3f} by the rules'
            else:
                values, questions = self._score_short_answer(pair, subtask, response)
                known = next(iter(values.values()))
                title += ': right by the rules' if known == 1 else ': wrong by the rules' if known == 0 else ''
        except PredictionError as e:
            lines['answer'] = str((pair.prediction or {}).get('response', ''))
            lines['problem'] = str(e)
        lines['judge'] = _joined(self._verdict_lines(questions))
        picture, lines['picture'] = first_thumbnail(pair.reference, _WIDTH, _HEIGHT)
        return CaseCard(title, picture, tuple((caption, text) for caption, text in lines.items() if text))

    # ---- one row

    def _subtask(self, pair: Pair) -> str:
        if self.subtask is not None:
            return self.subtask
        given = pair.reference.get('subtask')
        name = re.sub(r'[\s-]+', '_', str(given).strip().casefold()).removeprefix('ltr_')
        name = _ALIASES.get(name, name)
        if name not in SUBTASKS:
            raise RowError(pair.name, f"'subtask' is {given!r}.",
                           f'Write one of {", ".join(SUBTASKS)}, or give --subtask for all rows.', 'eval-subtask')
        if name.startswith('gmd') and not self.judge_model:
            raise RowError(pair.name, f'only a judge can score the subtask {name}.',
                           'Give --judge URL --judge-model NAME, or --judge-replay FILE --judge-model NAME, or remove '
                           'such rows.', 'eval-judge')  # yapf: disable
        return name

    def _count_fields(self, pair: Pair, subtask: str) -> tuple[FieldCounts, set[str]]:
        try:
            gold = _gold_results(pair, subtask)
        except UnreadableAnswer as e:
            raise RowError(pair.name, f'the reference cannot be read: {e}.',
                           'Write a table with the headings entry_name, result, reference, unit.' if subtask ==
                           'parsing' else 'Write JSON with result, reference and abnormality.',
                           'eval-answer') from e  # yapf: disable
        response = _response(pair)
        predicted: list[LabResult] = []
        flags: set[str] = set()
        try:
            if response is not None and subtask == 'parsing':
                predicted, flags = lab_results_from_tables(response)
            elif response is not None:
                predicted = lab_results_from_json(response)
        except UnreadableAnswer as e:
            raise PredictionError(str(e)) from e
        return count_fields(gold, predicted, SCORED_FIELDS[subtask], self.name_threshold), flags

    def _score_short_answer(self, pair: Pair, subtask: str,
                            response: str | None) -> tuple[dict[str, float], list[JudgeQuestion]]:
        """The columns of a question with a short answer, and the questions for a judge."""
        gold = without_reasoning(answer_of(pair.reference, pair.name))
        is_gmd = subtask != 'simple_qa'
        column = 'score' if is_gmd else 'correct'
        if not response:
            return {column: 0.}, []
        if same_short_answer(gold, response):
            return {column: 1.}, []
        question = {'kind': 'score' if is_gmd else 'answer', 'question': question_of(pair.reference), 'gold': gold,
                    'predicted': response}  # yapf: disable
        return {column: np.nan if is_gmd else 0.}, [question]

    # ---- the judge

    @cached_property
    def _replies(self) -> dict[str, str | None]:
        """The replies of the judge by `Judge.key`, for the report."""
        return {}

    def _judge(self, recorded: RecordedReplies) -> Judge:
        key = os.environ.get(self.judge_api_key_env) if self.judge_api_key_env else None
        return Judge(self.judge_model or '', recorded, url=self.judge, api_key=key, concurrency=self.judge_concurrency)

    def _prefix(self, table: 'CaseTable', case: int) -> str:
        return '' if self.subtask is not None else f'{table.groups["subtask"][case]}_'

    def _verdict_lines(self, questions: Sequence[JudgeQuestion]) -> list[str]:
        """The replies to these questions and their follow-ups."""
        lines = []
        judge = Judge(self.judge_model or '', RecordedReplies())
        for question in questions:
            key = judge.key(judge_messages(question))
            if key not in self._replies:
                continue
            reply = self._replies[key]
            answer = 'refused' if reply is None else without_reasoning(reply)[:80] or 'nothing'
            about = f'{question["kind"]} {question["predicted"]!r} for {question["gold"]!r}: '
            lines.append(answer if question['kind'] in ('answer', 'score') else about + answer)
            lines += self._verdict_lines(question.get('then', ()))
        return lines


TASK = DocumentsTask


def _response(pair: Pair) -> str | None:
    """The answer without reasoning; None if there is none."""
    response = response_of(pair.prediction)
    return None if response is None else without_reasoning(response)


def _gold_results(pair: Pair, subtask: str) -> list[LabResult]:
    value = next((pair.reference[column] for column in ANSWER_COLUMNS if pair.reference.get(column) is not None), None)
    if isinstance(value, (dict, list)):
        results = lab_results_from_value(value)
        if results is None:
            raise UnreadableAnswer(f'it has none of the fields: {str(value)[:80]!r}')
        return results
    text = without_reasoning(answer_of(pair.reference, pair.name))
    return lab_results_from_tables(text)[0] if subtask == 'parsing' else lab_results_from_json(text)


def _shown_reference(pair: Pair) -> str:
    value = next((pair.reference[column] for column in ANSWER_COLUMNS if pair.reference.get(column) is not None), None)
    return str(value) if isinstance(value, (dict, list)) else without_reasoning(answer_of(pair.reference, pair.name))


def _joined(lines: Sequence[str]) -> str:
    more = len(lines) - _MAX_LINES
    return '\n'.join([*lines[:_MAX_LINES], *([f'and {more} more'] if more > 0 else [])])
