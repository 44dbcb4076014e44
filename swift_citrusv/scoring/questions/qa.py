"""`citrusv eval qa`: multiple-choice, yes-or-no and open questions (tables 5, 6, 11 and 13 of the paper)."""
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import RowError
from ..cases import Case, Pair
from ..row_images import first_thumbnail
from ..rows import answer_of, question_of, response_of, without_reasoning
from ..task import CaseCard, Measure, mean
from .choices import find_choice
from .final_answer import final_answer, strip_markup
from .open_answers import same_words, token_overlap
from .yes_no import is_yes_or_no, yes_or_no

QUESTION_KINDS = ('choice', 'multi', 'closed', 'open')
_LETTERS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'
# Columns that group the scores.
_GROUPS = ('dataset', 'language', 'answer_type', 'question_type')
_OPTION_COLUMNS = ('options', 'choices')
_OPTION_LINE = re.compile(r'^\s*[(\[]?([A-Z])(?:[)\]]\s*[.:]?|[.:、)])\s*(\S.*)$', re.MULTILINE)
_SHOWN = 512


@dataclass(frozen=True)
class Question:
    """The question of a reference row.

    Attributes:
        kind: One of `QUESTION_KINDS`.
        text: The question.
        options: Text by letter; empty for closed and open questions.
        answer: The right letters in alphabetical order ('BD'), or the right answer as written.
    """
    kind: str
    text: str
    options: Mapping[str, str]
    answer: str


@dataclass(frozen=True)
class ScoredAnswer:
    """The answer of a prediction, compared with the reference.

    Attributes:
        extracted: Its letters, 'yes' or 'no', or its text; empty without an answer.
        correct: Whether it is right.
        rule: The name of the rule that found it.
        flags: 'no_answer', 'ambiguous', 'only_reasoning'.
    """
    extracted: str
    correct: bool
    rule: str = ''
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class QATask:
    """Question answering.

    Attributes:
        kind: The kind of all questions; None: inferred from each row (`read_question`).
        preset: The names of the benchmarks, for the report; '' for other rows.
    """
    NAME: ClassVar[str] = 'qa'
    TITLE: ClassVar[str] = 'Question answering'
    kind: str | None = None
    preset: str = ''

    def __post_init__(self) -> None:
        if self.kind is not None and self.kind not in QUESTION_KINDS:
            raise ValueError(f'The kind of question is {self.kind!r}: give one of {", ".join(QUESTION_KINDS)}.')

    @property
    def measures(self) -> tuple[Measure, ...]:
        return (mean('accuracy', 'correct'), mean('choice_accuracy',
                                                  'choice_correct'), mean('closed_accuracy', 'closed_correct'),
                mean('open_accuracy', 'open_correct'), mean('f1'), mean('recall'), mean('answered'))

    @property
    def rules(self) -> dict[str, str]:
        rules = {
            'accuracy':
            'the share of right answers: the right option, the right yes or no, the same words',
            'choice':
            'the one option that the answer names by letter or by text; several or none are wrong, flagged '
            'ambiguous or no_answer',
            'multi':
            'exactly the right set of options',
            'closed':
            "yes or no by the first word of the answer, its end ('so yes') or what it states of the question; other "
            'closed answers are scored like open ones',
            'open':
            'exact match after normalisation (case, punctuation, articles, full-width forms, numbers) of the '
            "text in \\boxed{} or after 'the answer is', or else of the whole answer",
            'f1, recall':
            "open questions: SQuAD's token F1, and the share of the reference's words in the answer; "
            'Chinese by characters',
            'reasoning':
            '<think> is removed; the last <answer> counts',
            'no prediction':
            'wrong',
            'mean over dataset':
            "the unweighted mean of the benchmarks, 'Avg.' in the paper's tables"
        }
        if self.preset:
            rules['preset'] = self.preset
        return rules

    def score(self, pair: Pair) -> list[Case]:
        question = read_question(pair.reference, pair.name, self.kind)
        response = response_of(pair.prediction)
        answer = score_answer(question, response)
        values = {
            'correct': float(answer.correct),
            'choice_correct': math.nan,
            'closed_correct': math.nan,
            'open_correct': math.nan,
            'f1': math.nan,
            'recall': math.nan,
            'answered': float(bool(answer.extracted)),
        }
        part = 'choice' if question.kind == 'multi' else question.kind
        values[f'{part}_correct'] = float(answer.correct)
        if question.kind == 'open':
            values['f1'], values['recall'] = token_overlap(answer.extracted,
                                                           question.answer) if answer.extracted else (0.0, 0.0)
        groups = {'kind': question.kind}
        groups.update((column, str(pair.reference[column])) for column in _GROUPS if pair.reference.get(column))
        return [Case(values, answer.flags, groups)]

    def complete(self, table: Any) -> None:
        pass

    def show(self, pair: Pair, index: int) -> CaseCard:
        question = read_question(pair.reference, pair.name, self.kind)
        response = response_of(pair.prediction)
        answer = score_answer(question, response)
        picture, problem = first_thumbnail(pair.reference, _SHOWN, _SHOWN)
        lines = [('question', question.text)]
        if question.options:
            lines.append(('options', '\n'.join(f'{letter}. {text}' for letter, text in question.options.items())))
        lines.append(('answer', 'none' if response is None else response))
        lines.append(('read as', f'{answer.extracted or "nothing"}{f" ({answer.rule})" if answer.rule else ""}'))
        lines.append(('reference', question.answer))
        if problem:
            lines.append(('image', problem))
        return CaseCard(f'{pair.name}: {"right" if answer.correct else "wrong"}', picture, tuple(lines))


TASK = QATask


def read_question(reference: Mapping[str, Any], row: str, kind: str | None = None) -> Question:
    """The question of a reference row.

    The kind is the argument, the column `kind`, or inferred: with options 'choice', or 'multi' if the answer has
    several letters; without options 'closed' if `answer_type` is or the answer is yes or no; else 'open'. Options are
    in `options` or `choices` (a list of texts, texts by letter, or objects with a key and a value), or in the question
    as lines 'A. text'.

    Raises:
        RowError: The answer is missing or not one of the options, or a column is invalid.
    """
    # The rows of a preset have the question itself besides the prompt.
    own = reference.get('question')
    text = own if isinstance(own, str) else question_of(reference)
    kind = kind or reference.get('kind') or None
    if kind is not None and kind not in QUESTION_KINDS:
        raise RowError(row, f'the kind of question is {kind!r}.', f'Give one of {", ".join(QUESTION_KINDS)}.',
                       'eval-kind')
    options = {} if kind in ('closed', 'open') else _options(reference, text, row)
    given = _answer(reference, row)
    if kind is None and not options:
        kind = _kind_without_options(reference, given)
    if kind in ('closed', 'open'):
        if not given.strip():
            raise RowError(row, 'the answer of the reference is empty.', 'Write the right answer.', 'eval-answer')
        return Question(kind, text, {}, given)
    # Without option texts only letters are compared.
    options = options or dict.fromkeys(_LETTERS[:10], '')
    letters = _right_letters(given, options)
    if not letters or (kind == 'choice' and len(letters) > 1):
        one = 'one' if kind == 'choice' else 'any'
        raise RowError(row, f'the answer {given!r} is not {one} of the options {", ".join(options)}.',
                       "Write the letter of the right option, or several as 'ABD' with the kind multi.", 'eval-answer')
    return Question(kind or ('choice' if len(letters) == 1 else 'multi'), text, options, letters)


def score_answer(question: Question, response: str | None) -> ScoredAnswer:
    """Extracts the answer from a response and compares it with the reference.

    Args:
        question: The question.
        response: The response of the model; None without one.
    """
    if response is None:
        return ScoredAnswer('', False)
    text = without_reasoning(response)
    if not text:
        return ScoredAnswer('', False, '', ('no_answer', 'only_reasoning') if response.strip() else ('no_answer', ))
    if question.kind in ('choice', 'multi'):
        choice = find_choice(text, question.options, question.kind == 'multi')
        flags = (choice.problem, ) if choice.problem else ()
        return ScoredAnswer(choice.letters, choice.letters == question.answer, choice.rule, flags)
    if question.kind == 'closed' and is_yes_or_no(question.answer):
        extracted = yes_or_no(text, question.text)
        if extracted in ('yes', 'no'):
            return ScoredAnswer(extracted, extracted == yes_or_no(question.answer), 'yes or no')
        return ScoredAnswer('', False, '', (extracted or 'no_answer', ))
    extracted = final_answer(text)
    if not extracted:
        return ScoredAnswer('', False, '', ('no_answer', ))
    return ScoredAnswer(extracted, same_words(extracted, question.answer),
                        '' if extracted == strip_markup(text) else 'statement')


# ---- the reference


def _options(reference: Mapping[str, Any], question: str, row: str) -> dict[str, str]:
    given = next((reference[column] for column in _OPTION_COLUMNS if reference.get(column)), None)
    if given is None:
        return _options_in(question)
    if isinstance(given, Mapping):
        # Arrow adds the letters of other rows with null values.
        return {str(letter).strip().upper(): str(text) for letter, text in given.items() if text is not None}
    if isinstance(given, list) and len(given) <= len(_LETTERS):
        if all(isinstance(option, Mapping) for option in given):
            pairs = [[str(value) for value in option.values()] for option in given]
            if all(len(pair) == 2 and pair[0] in _LETTERS for pair in pairs):
                return {pair[0]: pair[1] for pair in pairs}
        elif all(isinstance(option, (str, int, float)) for option in given):
            return {letter: str(text) for letter, text in zip(_LETTERS, given)}
    raise RowError(row, f'the options are {str(given)[:80]!r}.',
                   'Write them as a list of texts, or as texts by letter: {"A": "...", "B": "..."}.', 'eval-options')


def _options_in(question: str) -> dict[str, str]:
    """The lines 'A. text' of a question; {} unless there are at least two, from 'A' without gaps."""
    found = dict(_OPTION_LINE.findall(question))
    if len(found) < 2 or not _LETTERS.startswith(''.join(found)):
        return {}
    return {letter: text.strip() for letter, text in found.items()}


def _answer(reference: Mapping[str, Any], row: str) -> str:
    given = reference.get('answer')
    if isinstance(given, list) and given and all(isinstance(letter, str) for letter in given):
        return ', '.join(given)
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        return str(given)
    return without_reasoning(answer_of(reference, row))


def _kind_without_options(reference: Mapping[str, Any], answer: str) -> str | None:
    answer_type = str(reference.get('answer_type') or '').strip().lower()
    if answer_type in ('open', 'closed'):
        return answer_type
    if is_yes_or_no(answer):
        return 'closed'
    # A single letter: the options are in an image, or in the question in another form.
    return 'choice' if re.fullmatch(r'\(?[A-J]\)?[.)]?', answer.strip()) else 'open'


def _right_letters(answer: str, options: Mapping[str, str]) -> str:
    exact = [letter for letter, text in options.items() if text and text.strip() == answer.strip()]
    if len(exact) == 1 and answer.strip() not in options:
        return exact[0]
    return find_choice(answer, options, several=True).letters
