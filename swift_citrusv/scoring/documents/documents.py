"""`citrusv eval documents`: MedDocBench, the reading of lab reports and of other medical documents.

Sections 3.2.2 and 5.1.1 of the paper, tables 3 and 7. The paper gives no code, prompt or threshold: what it leaves open
is decided in `DocumentsTask.rules`.
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
from ..image_facts import first_picture
from ..judge import Cassette, Judge
from ..rows import ANSWER_COLUMNS, answer_of, question_of, response_of, without_reasoning
from ..task import Measure, Shown, mean
from .canonical import same_answer
from .judging import judge_cases, messages_of
from .lab_counts import Ask, Counted, count_fields
from .lab_result_parser import UnreadableAnswer, entries_of_json, entries_of_tables, entries_of_value
from .lab_results import Entry
from .measures import ROWS, SCORED_FIELDS, SUBTASKS, average, measures_of

if TYPE_CHECKING:
    from ..table import Table

_ALIASES = {'full_parsing': 'parsing', 'extract': 'parsing', 'ltr': 'parsing'}
_WIDTH, _HEIGHT = 512, 4096
_MAX_LINES = 40


@dataclass(frozen=True)
class DocumentsTask:
    """Scores answers about documents. A case is a row.

    Attributes:
        subtask: One of `SUBTASKS` for all rows; None: each row says it in its column `subtask`.
        name_threshold: Similarity from which two names of tests may be matched; see `entries.similarity`.
        judge_model: The name of the judge; None: rules alone.
        judge: URL of its server; None: only recorded replies are used.
        judge_api_key_env: The environment variable that holds the key of the server.
        judge_record: A cassette that new replies are added to, and whose replies are used.
        judge_replay: A cassette that is only read.
        judge_concurrency: Questions under way at a time.

    Raises:
        ValueError: The options do not fit each other.
    """
    subtask: str | None = None
    name_threshold: float = 0.6
    judge_model: str | None = None
    # Where the same verdicts come from is of no account when two runs are compared.
    judge: str | None = field(default=None, compare=False)
    judge_api_key_env: str | None = field(default=None, compare=False)
    judge_record: str | None = field(default=None, compare=False)
    judge_replay: str | None = field(default=None, compare=False)
    judge_concurrency: int = field(default=8, compare=False)

    NAME: ClassVar[str] = 'documents'
    TITLE: ClassVar[str] = 'Medical documents'

    def __post_init__(self) -> None:
        if self.subtask is not None and self.subtask not in SUBTASKS:
            raise ValueError(f'--subtask {self.subtask!r} is none of {", ".join(SUBTASKS)}.')
        if not 0 < self.name_threshold <= 1:
            raise ValueError(f'--name-threshold is {self.name_threshold}: give more than 0, and 1 at most.')
        if self.judge_concurrency < 1:
            raise ValueError(f'--judge-concurrency is {self.judge_concurrency}: give 1 or more.')
        source = self.judge or self.judge_replay
        if source and not self.judge_model:
            raise ValueError(f'The judge {source} needs --judge-model NAME: replies are kept by model.')
        if not source and (self.judge_model or self.judge_record):
            raise ValueError(f'The judge {self.judge_model or self.judge_record} needs --judge URL or --judge-replay '
                             'FILE.')
        if (self.subtask or '').startswith('gmd') and not self.judge_model:
            raise ValueError(f'--subtask {self.subtask}: such answers are scored by a judge alone (paper, section '
                             '5.1.1). Give --judge URL --judge-model NAME, or --judge-replay FILE --judge-model NAME.')

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Of one subtask all; of several the main ones of each, and their average as in table 7."""
        if self.subtask is not None:
            return measures_of(self.subtask, '', self.judge_model is not None)
        main = [measure for subtask in SUBTASKS[:3] for measure in measures_of(subtask, f'{subtask}_', False)
                if measure.name in ('parsing_f1', 'parsing_macro_f1', 'simple_qa_accuracy', 'complex_qa_f1',
                                    'complex_qa_macro_f1')]  # yapf: disable
        gmd = [mean(f'{subtask}_score') for subtask in SUBTASKS[3:]] if self.judge_model else []
        return (average(), *main, *gmd)

    @property
    def rules(self) -> dict[str, str]:
        """See `docs/evaluation.md`."""
        judge = (f'{self.judge_model} at temperature 0, asked only where the rules say no and both sides say '
                 'something; YES or NO per cell, name or answer') if self.judge_model else \
            'none: rules alone; the flag not_judged counts cases that it would have been asked about'  # yapf: disable
        return {
            'case': 'a row: a document with its question',
            'table': 'Markdown or HTML, columns by their headings; an answer without a table, or without JSON, is '
                     'malformed and scores 0',
            'fields': 'parsing: entry_name, result, reference, unit; complex_qa: result, reference, abnormality; a '
                      'cell that is empty counts on neither side',
            'canonical form': 'full-width forms, case, dashes, brackets, units, ranges and comparisons in one form; '
                              'numbers by value (5.0 is 5.00); no synonyms, no conversion of units',
            'flags beside results': 'no part of the value; wrong only where both have one and they contradict',
            'matching': 'equal canonical names, then the assignment with the highest sum of similarities (difflib) '
                        f'of at least {self.name_threshold:g}; the rest is unmatched',
            'precision, recall, f1': 'micro: over the fields of all documents',
            'macro': 'the mean over documents of their own; 0 where one side is empty, 1 where both are',
            'simple_qa': 'the share of answers that equal the reference in canonical form',
            'judge': judge,
            'no verdict': 'a reply that is neither YES nor NO, or a refusal: the rules stand (judge_unparsable, '
                          'judge_refused); for gmd the case is left out of the mean',
            'gmd': 'the mean of the scores from 0 to 1 of the judge; 1 for an answer that is canonically the '
                   'reference, 0 for none, unasked',
            'no answer': 'no prediction, a failed or a malformed one: nothing is right; flagged no_answer; one that is '
                         'nothing but reasoning: empty_answer',
            'average': 'of table 7, without --subtask: the mean of parsing f1, simple_qa accuracy, complex_qa f1 and '
                       'the gmd scores, of those that there are',
        }  # yapf: disable

    def score(self, pair: Pair) -> list[Case]:
        """One case. What a judge has to be asked stands in its `data`.

        Raises:
            RowError: The reference cannot be read, or needs a judge and there is none.
            PredictionError: The answer has no table or JSON where it should have.
        """
        subtask = self._subtask(pair)
        response = _response(pair)
        flags: tuple[str, ...] = ('no_answer', ) if response is None else () if response else ('empty_answer', )
        if subtask in SCORED_FIELDS:
            counted, more = self._counted(pair, subtask)
            values, asks, flags = counted.values(), counted.asks, (*flags, *sorted(more))
        else:
            values, asks = self._answered(pair, subtask, response)
        if self.subtask is not None:
            return [Case(values, flags, {}, asks)]
        named = {f'{subtask}_{name}': value for name, value in values.items()}
        return [Case({ROWS: 1., **named}, flags, {'subtask': subtask}, asks)]

    def complete(self, table: 'Table') -> None:
        """Asks the judge about all cases, and corrects their columns by its verdicts.

        Raises:
            ConnectionError: The judge cannot be reached.
            ValueError: A cassette has not all replies.
        """
        open_asks = [(case, ask) for case, asks in enumerate(table.data) for ask in asks or ()]
        if not self.judge_model:
            for case in dict.fromkeys(case for case, _ in open_asks):
                table.add_flag(case, 'not_judged')
            return
        cassette = Cassette(self.judge_replay, self.judge_record)
        try:
            self._replies.update(judge_cases(table, self._judge(cassette), lambda case: self._prefix(table, case)))
        finally:
            cassette.close()

    def show(self, pair: Pair, index: int) -> Shown:
        """The first page, the question, both answers, and what is wrong by the rules and by the judge."""
        subtask = self._subtask(pair)
        lines = {'question': question_of(pair.reference), 'answer': '', 'reference': _shown_reference(pair)}
        asks: list[Ask] = []
        title = pair.name
        try:
            response = _response(pair)
            lines['answer'] = response or ''
            if subtask in SCORED_FIELDS:
                counted, more = self._counted(pair, subtask)
                lines['wrong by the rules'] = _joined(counted.wrong)
                lines['remarks'] = ', '.join(sorted(more))
                asks = counted.asks
                title += f': F1 {counted.values()["document_f1"]:.3f} by the rules'
            else:
                values, asks = self._answered(pair, subtask, response)
                known = next(iter(values.values()))
                title += ': right by the rules' if known == 1 else ': wrong by the rules' if known == 0 else ''
        except PredictionError as e:
            lines['answer'] = str((pair.prediction or {}).get('response', ''))
            lines['problem'] = str(e)
        lines['judge'] = _joined(self._verdict_lines(asks))
        picture, lines['picture'] = first_picture(pair.reference, _WIDTH, _HEIGHT)
        return Shown(title, picture, tuple((caption, text) for caption, text in lines.items() if text))

    # ---- one row

    def _subtask(self, pair: Pair) -> str:
        if self.subtask is not None:
            return self.subtask
        said = pair.reference.get('subtask')
        name = re.sub(r'[\s-]+', '_', str(said).strip().casefold()).removeprefix('ltr_')
        name = _ALIASES.get(name, name)
        if name not in SUBTASKS:
            raise RowError(pair.name, f"the row's 'subtask' is {said!r}.",
                           f'Write one of {", ".join(SUBTASKS)}, or give --subtask for all rows.', 'eval-subtask')
        if name.startswith('gmd') and not self.judge_model:
            raise RowError(pair.name, f'the row is of {name}, which a judge alone can score.',
                           'Give --judge URL --judge-model NAME, or --judge-replay FILE --judge-model NAME, or leave '
                           'such rows out.', 'eval-judge')  # yapf: disable
        return name

    def _counted(self, pair: Pair, subtask: str) -> tuple[Counted, set[str]]:
        try:
            gold = _gold_entries(pair, subtask)
        except UnreadableAnswer as e:
            raise RowError(pair.name, f'the reference cannot be read: {e}.',
                           'Write a table with the headings entry_name, result, reference, unit.' if subtask ==
                           'parsing' else 'Write JSON with result, reference and abnormality.',
                           'eval-answer') from e  # yapf: disable
        response = _response(pair)
        predicted: list[Entry] = []
        flags: set[str] = set()
        try:
            if response is not None and subtask == 'parsing':
                predicted, flags = entries_of_tables(response)
            elif response is not None:
                predicted = entries_of_json(response)
        except UnreadableAnswer as e:
            raise PredictionError(str(e)) from e
        return count_fields(gold, predicted, SCORED_FIELDS[subtask], self.name_threshold), flags

    def _answered(self, pair: Pair, subtask: str, response: str | None) -> tuple[dict[str, float], list[Ask]]:
        """The columns of a question with one answer, and what has to be asked."""
        gold = without_reasoning(answer_of(pair.reference, pair.name))
        is_gmd = subtask != 'simple_qa'
        column = 'score' if is_gmd else 'correct'
        if not response:
            return {column: 0.}, []
        if same_answer(gold, response):
            return {column: 1.}, []
        ask = {'kind': 'score' if is_gmd else 'answer', 'question': question_of(pair.reference), 'gold': gold,
               'predicted': response}  # yapf: disable
        return {column: np.nan if is_gmd else 0.}, [ask]

    # ---- the judge

    @cached_property
    def _replies(self) -> dict[str, str | None]:
        """Of the judge, for the pictures of the report."""
        return {}

    def _judge(self, cassette: Cassette) -> Judge:
        key = os.environ.get(self.judge_api_key_env) if self.judge_api_key_env else None
        return Judge(self.judge_model or '', cassette, url=self.judge, api_key=key, concurrency=self.judge_concurrency)

    def _prefix(self, table: 'Table', case: int) -> str:
        return '' if self.subtask is not None else f'{table.groups["subtask"][case]}_'

    def _verdict_lines(self, asks: Sequence[Ask]) -> list[str]:
        """What the judge has said so far."""
        lines = []
        judge = Judge(self.judge_model or '', Cassette())
        for ask in asks:
            key = judge.key(messages_of(ask))
            if key not in self._replies:
                continue
            reply = self._replies[key]
            said = 'refused' if reply is None else without_reasoning(reply)[:80] or 'nothing'
            lines.append(said if ask['kind'] in ('answer', 'score') else f'{ask["kind"]} {ask["predicted"]!r} for '
                         f'{ask["gold"]!r}: {said}')  # yapf: disable
            lines += self._verdict_lines(ask.get('then', ()))
        return lines


TASK = DocumentsTask


def _response(pair: Pair) -> str | None:
    """The answer without reasoning; None where there is none."""
    response = response_of(pair.prediction)
    return None if response is None else without_reasoning(response)


def _gold_entries(pair: Pair, subtask: str) -> list[Entry]:
    value = next((pair.reference[column] for column in ANSWER_COLUMNS if pair.reference.get(column) is not None), None)
    if isinstance(value, (dict, list)):
        entries = entries_of_value(value)
        if entries is None:
            raise UnreadableAnswer(f'it has none of the fields: {str(value)[:80]!r}')
        return entries
    text = without_reasoning(answer_of(pair.reference, pair.name))
    return entries_of_tables(text)[0] if subtask == 'parsing' else entries_of_json(text)


def _shown_reference(pair: Pair) -> str:
    value = next((pair.reference[column] for column in ANSWER_COLUMNS if pair.reference.get(column) is not None), None)
    return str(value) if isinstance(value, (dict, list)) else without_reasoning(answer_of(pair.reference, pair.name))


def _joined(lines: Sequence[str]) -> str:
    more = len(lines) - _MAX_LINES
    return '\n'.join([*lines[:_MAX_LINES], *([f'and {more} more'] if more > 0 else [])])
