"""Questions with a right answer: multiple choice, yes or no, and open ones (tables 5, 6, 11 and 13 of the paper)."""
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import RowError
from ..cases import Case, Pair
from ..image_facts import first_picture
from ..rows import answer_of, question_of, response_of, without_reasoning
from ..task import Measure, Shown, mean
from .choices import choose
from .final_answer import plain, stated
from .open_answers import overlap, same
from .yes_no import is_polar, polarity

KINDS = ('choice', 'multi', 'closed', 'open')
_LETTERS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'
# Of the row; they are groups of the scores, where the row has them.
_GROUPS = ('dataset', 'language', 'answer_type', 'question_type')
_OPTION_COLUMNS = ('options', 'choices')
_OPTION_LINE = re.compile(r'^\s*[(\[]?([A-Z])(?:[)\]]\s*[.:]?|[.:、)])\s*(\S.*)$', re.MULTILINE)
_SHOWN = 512


@dataclass(frozen=True)
class Question:
    """What a reference row asks.

    Attributes:
        kind: One of `KINDS`.
        text: The question.
        options: Text by letter; empty for closed and open questions.
        answer: The right letters in alphabetical order ('BD'), or the right answer as the row has it.
    """
    kind: str
    text: str
    options: Mapping[str, str]
    answer: str


@dataclass(frozen=True)
class Answer:
    """What a prediction says to a question.

    Attributes:
        said: Its letters, 'yes' or 'no', or its text; empty where it says nothing.
        correct: Whether it is right.
        how: The rule that read it.
        flags: 'no_answer', 'ambiguous', 'only_reasoning'.
    """
    said: str
    correct: bool
    how: str = ''
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class QATask:
    """Question answering.

    Attributes:
        kind: Of all questions; None: that of the row, or what its options and its answer show (`question_of_row`).
        preset: The benchmarks whose files were read, for the report; '' for rows of one's own.
    """
    NAME: ClassVar[str] = 'qa'
    TITLE: ClassVar[str] = 'Question answering'
    kind: str | None = None
    preset: str = ''

    def __post_init__(self) -> None:
        if self.kind is not None and self.kind not in KINDS:
            raise ValueError(f'The kind of question is {self.kind!r}: give one of {", ".join(KINDS)}.')

    @property
    def measures(self) -> tuple[Measure, ...]:
        return (mean('accuracy', 'correct'), mean('choice_accuracy',
                                                  'choice_correct'), mean('closed_accuracy', 'closed_correct'),
                mean('open_accuracy', 'open_correct'), mean('f1'), mean('recall'), mean('answered'))

    @property
    def rules(self) -> dict[str, str]:
        rules = {
            'accuracy': 'right answers over all questions: the right option, the right yes or no, the same words',
            'choice':
            'the one option that the answer names by letter or by text; several named or none: wrong, counted '
            'as ambiguous or no_answer',
            'multi': 'the set of options must be the right one',
            'closed': 'yes or no by the first word of the answer; other closed answers as open ones',
            'open': 'exact match after normalisation (case, punctuation, articles, full-width forms, numbers), of what '
            "stands in a box or behind 'the answer is', or else of the whole answer",
            'f1, recall':
            'open questions: token F1 as SQuAD has it, share of the words of the reference that are in the '
            'answer; Chinese by characters',
            'reasoning': 'what stands in <think> is left out; the last <answer> counts',
            'no prediction': 'wrong',
            'mean over dataset': "the unweighted mean of the benchmarks, 'Avg.' in the paper's tables"
        }
        if self.preset:
            rules['preset'] = self.preset
        return rules

    def score(self, pair: Pair) -> list[Case]:
        question = question_of_row(pair.reference, pair.name, self.kind)
        response = response_of(pair.prediction)
        answer = answer_to(question, response)
        values = {
            'correct': float(answer.correct),
            'choice_correct': math.nan,
            'closed_correct': math.nan,
            'open_correct': math.nan,
            'f1': math.nan,
            'recall': math.nan,
            'answered': float(bool(answer.said)),
        }
        part = 'choice' if question.kind == 'multi' else question.kind
        values[f'{part}_correct'] = float(answer.correct)
        if question.kind == 'open':
            values['f1'], values['recall'] = overlap(answer.said, question.answer) if answer.said else (0.0, 0.0)
        groups = {'kind': question.kind}
        groups.update((column, str(pair.reference[column])) for column in _GROUPS if pair.reference.get(column))
        return [Case(values, answer.flags, groups)]

    def complete(self, table: Any) -> None:
        pass

    def show(self, pair: Pair, index: int) -> Shown:
        question = question_of_row(pair.reference, pair.name, self.kind)
        response = response_of(pair.prediction)
        answer = answer_to(question, response)
        picture, problem = first_picture(pair.reference, _SHOWN, _SHOWN)
        lines = [('question', question.text)]
        if question.options:
            lines.append(('options', '\n'.join(f'{letter}. {text}' for letter, text in question.options.items())))
        lines.append(('answer', 'there is none' if response is None else response))
        lines.append(('read as', f'{answer.said or "nothing"}{f" ({answer.how})" if answer.how else ""}'))
        lines.append(('reference', question.answer))
        if problem:
            lines.append(('image', problem))
        return Shown(f'{pair.name}: {"right" if answer.correct else "wrong"}', picture, tuple(lines))


TASK = QATask


def question_of_row(reference: Mapping[str, Any], row: str, kind: str | None = None) -> Question:
    """Reads a reference row.

    The kind is that of the argument, of the column `kind`, or: with options a choice, of several where the answer has
    several letters; without, closed where `answer_type` says so or the answer is a yes or a no; else open. Options
    stand in `options` or `choices` (texts in their order, texts by letter, or objects with a key and a value), or as
    lines 'A. text' in the question.

    Raises:
        RowError: There is no answer, or it is none of the options.
    """
    # A preset's row has the question itself beside the prompt.
    own = reference.get('question')
    text = own if isinstance(own, str) else question_of(reference)
    kind = kind or reference.get('kind') or None
    if kind is not None and kind not in KINDS:
        raise RowError(row, f'the kind of question is {kind!r}.', f'Give one of {", ".join(KINDS)}.', 'eval-kind')
    options = {} if kind in ('closed', 'open') else _options(reference, text, row)
    given = _answer(reference, row)
    if kind is None and not options:
        kind = _kind_without_options(reference, given)
    if kind in ('closed', 'open'):
        if not given.strip():
            raise RowError(row, 'the answer of the reference is empty.', 'Write the right answer.', 'eval-answer')
        return Question(kind, text, {}, given)
    # Without texts the letters themselves are the options.
    options = options or dict.fromkeys(_LETTERS[:10], '')
    letters = _right_letters(given, options)
    if not letters or (kind == 'choice' and len(letters) > 1):
        one = 'one' if kind == 'choice' else 'any'
        raise RowError(row, f'the answer {given!r} is not {one} of the options {", ".join(options)}.',
                       "Write the letter of the right option, or several as 'ABD' with the kind multi.", 'eval-answer')
    return Question(kind or ('choice' if len(letters) == 1 else 'multi'), text, options, letters)


def answer_to(question: Question, response: str | None) -> Answer:
    """Reads an answer, and says whether it is right.

    Args:
        question: What was asked.
        response: As the model wrote it; None: there is none.
    """
    if response is None:
        return Answer('', False)
    text = without_reasoning(response)
    if not text:
        return Answer('', False, '', ('no_answer', 'only_reasoning') if response.strip() else ('no_answer', ))
    if question.kind in ('choice', 'multi'):
        choice = choose(text, question.options, question.kind == 'multi')
        flags = (choice.problem, ) if choice.problem else ()
        return Answer(choice.letters, choice.letters == question.answer, choice.how, flags)
    if question.kind == 'closed' and is_polar(question.answer):
        said = polarity(text)
        if said in ('yes', 'no'):
            return Answer(said, said == polarity(question.answer), 'first word')
        return Answer('', False, '', (said or 'no_answer', ))
    said = stated(text)
    if not said:
        return Answer('', False, '', ('no_answer', ))
    return Answer(said, same(said, question.answer), '' if said == plain(text) else 'statement')


# ---- the reference


def _options(reference: Mapping[str, Any], question: str, row: str) -> dict[str, str]:
    given = next((reference[column] for column in _OPTION_COLUMNS if reference.get(column)), None)
    if given is None:
        return _options_in(question)
    if isinstance(given, Mapping):
        # Arrow fills the letters that other rows have.
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
    """Lines 'A. text' of a question, from 'A' on without gaps, two at least."""
    found = dict(_OPTION_LINE.findall(question))
    letters = ''.join(found)
    return {
        letter: text.strip()
        for letter, text in found.items()
    } if letters in _LETTERS and len(letters) > 1 and letters[0] == 'A' else {}


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
    if is_polar(answer):
        return 'closed'
    # A letter alone: the options are in a picture, or in the question in some other form.
    return 'choice' if re.fullmatch(r'\(?[A-J]\)?[.)]?', answer.strip()) else 'open'


def _right_letters(answer: str, options: Mapping[str, str]) -> str:
    exact = [letter for letter, text in options.items() if text and text.strip() == answer.strip()]
    if len(exact) == 1 and answer.strip() not in options:
        return exact[0]
    return choose(answer, options, several=True).letters


# ---- the picture
