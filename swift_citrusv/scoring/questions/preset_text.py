"""Readers of the text benchmarks of section 5.1 of the paper, and of MedXpertQA MM.

Each reader converts the records of a split to rows with `id`, `kind`, `question`, `options`, `answer` (a letter), and
the benchmark's attributes of the question.
"""
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...errors import RowError
from .preset_files import CompanionFiles, Record

LETTERS = 'ABCDEFGHIJ'
_CMMLU_MEDICAL = ('anatomy', 'clinical_knowledge', 'college_medicine', 'genetics', 'nutrition',
                  'traditional_chinese_medicine', 'virology')  # yapf: disable
_CHOICES_IN_QUESTION = re.compile(r'\s*\n?Answer Choices:.*\Z', re.DOTALL)


def text_of(record: Record, *columns: str) -> str:
    """The text of the first non-empty column.

    Raises:
        RowError: All of them are missing or empty.
    """
    for column in columns:
        value = record.values.get(column)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, str) and value.strip():
            return value.strip()
    raise RowError(record.name, f'the row has no {" or ".join(map(repr, columns))}; it has '
                   f'{", ".join(map(str, record.values)) or "nothing"}.', 'Use the published file.',
                   'preset-columns')  # yapf: disable


def choice_row(record: Record, key: str, question: str, options: Sequence[str], letter: str,
               **about: Any) -> dict[str, Any]:  # yapf: disable
    """A row of a multiple-choice question.

    Raises:
        RowError: The letter is not one of the options.
    """
    letter = letter.strip().upper()
    if len(options) < 2 or letter not in LETTERS[:len(options)] or len(letter) != 1:
        raise RowError(record.name, f'the answer {letter!r} is not one of the {len(options)} options.',
                       'Use the published file; a split without public answers cannot be scored.',
                       'preset-answer')  # yapf: disable
    about = {column: value for column, value in about.items() if value not in (None, '')}
    return {'id': key, 'kind': 'choice', 'question': question, 'options': list(options), 'answer': letter, **about}


def options_of(record: Record, given: Any) -> dict[str, str]:
    """Options by letter, from texts by letter, a list of texts, or a list of objects with a key and a value.

    Raises:
        RowError: `given` has another format.
    """
    if isinstance(given, Mapping):
        # Parquet adds the letters of other rows with null values.
        return {str(letter): str(text) for letter, text in sorted(given.items()) if text is not None}
    if isinstance(given, list) and all(isinstance(option, Mapping) and len(option) == 2 for option in given):
        return dict(sorted((str(key), str(text)) for key, text in (option.values() for option in given)))
    if isinstance(given, list):
        return dict(zip(LETTERS, map(str, given)))
    raise RowError(record.name, f'the options are {str(given)[:60]!r}.', 'Use the published file.',
                   'preset-columns')  # yapf: disable


def _letter_of(record: Record, options: Mapping[str, str], letter: Any, text: Any) -> str:
    if isinstance(letter, str) and letter.strip().upper() in options:
        return letter.strip().upper()
    if isinstance(text, list) and len(text) == 1:
        text = text[0]
    if isinstance(text, str) and text.strip().upper() in options:
        return text.strip().upper()
    found = [key for key, value in options.items() if isinstance(text, str) and value.strip() == text.strip()]
    if len(found) != 1:
        raise RowError(record.name, f'the answer {str(letter or text)[:60]!r} is not one of the options '
                       f'{", ".join(options)}.', 'Use the published file.', 'preset-answer')  # yapf: disable
    return found[0]


def pubmedqa(records: Iterator[Record], split: str, companions: CompanionFiles) -> Iterator[dict[str, Any]]:
    """PubMedQA (PQA-L), https://github.com/pubmedqa/pubmedqa.

    `ori_pqal.json` and `test_set.json` are {pmid: {QUESTION, CONTEXTS, final_decision, ...}}; the Parquet files have
    `pubid`, `question`, `context` and `final_decision`, or `data` with `Question`, `Context`, `Options` and
    `Correct Option`. The options A, B and C are always yes, no and maybe.
    """
    chosen: set[str] | None = None
    for record in records:
        values = record.values.get('data') or record.values
        key = str(record.key or values.get('pubid') or values.get('pmid') or record.values.get('id') or record.number)
        if split == 'test' and not record.file.rpartition('/')[2].lower().startswith('test'):
            if chosen is None:
                truth = companions.read_json('test_ground_truth.json')
                if truth is None:
                    raise ValueError(f'{record.name.rpartition(":")[0]} has all 1,000 questions: put '
                                     'test_ground_truth.json of https://github.com/pubmedqa/pubmedqa beside it, which '
                                     'lists the 500 test questions, or give --split all.')
                chosen = set(truth)
            if key not in chosen:
                continue
        whole = Record(record.name, record.number, record.key, record.file, values)
        context = values.get('CONTEXTS') or values.get('Context') or values.get('context') or []
        context = context.get('contexts', []) if isinstance(context, Mapping) else context
        decision = text_of(whole, 'final_decision', 'Correct Answer').lower()
        if decision not in ('yes', 'no', 'maybe'):
            raise RowError(record.name, f'final_decision is {decision!r}, not yes, no or maybe.',
                           'Use PQA-L, the labelled part.', 'preset-answer')  # yapf: disable
        yield choice_row(
            whole,
            key,
            text_of(whole, 'QUESTION', 'question', 'Question'), ('yes', 'no', 'maybe'),
            'ABC'[('yes', 'no', 'maybe').index(decision)],
            context='\n'.join(map(str, context)))


def medmcqa(records: Iterator[Record], split: str, companions: CompanionFiles) -> Iterator[dict[str, Any]]:
    """MedMCQA, https://medmcqa.github.io: `question`, `opa` ... `opd`, `cop`, `subject_name`, `topic_name`, `id`.

    `cop` is the right option, counted from 1 in the JSON files and from 0 in the Parquet files. The values of the file
    decide: only the latter have 0, only the former have 4; without either, the file format decides.
    """
    rows = list(records)
    values = {record.values.get('cop') for record in rows}
    if values <= {None, -1, ''}:
        raise ValueError(f'{rows[0].name.rpartition(":")[0]} has no answers, like the test split of MedMCQA: use '
                         'the dev split.')  # yapf: disable
    numbers = {str(value) for value in values}
    if {'0', '4'} <= numbers:
        raise ValueError(f"{rows[0].name.rpartition(':')[0]} has 0 and 4 as 'cop': it mixes two releases.")
    first = 0 if '0' in numbers or ('4' not in numbers and rows[0].file.lower().endswith('.parquet')) else 1
    for record in rows:
        cop = text_of(record, 'cop')
        place = int(cop) - first if cop.lstrip('-').isdecimal() else -1
        options = [text_of(record, column) for column in ('opa', 'opb', 'opc', 'opd')]
        yield choice_row(
            record,
            str(record.values.get('id') or record.number),
            text_of(record, 'question'),
            options,
            LETTERS[place] if 0 <= place < 4 else cop,
            topic=record.values.get('subject_name'))


def medqa(records: Iterator[Record], split: str, companions: CompanionFiles) -> Iterator[dict[str, Any]]:
    """MedQA, https://github.com/jind11/MedQA: `question`, `options` by letter, `answer_idx`, `meta_info`.

    Parquet files have the options as a list of keys and values, or all columns in `data`.
    """
    for record in records:
        values = record.values.get('data') or record.values
        whole = Record(record.name, record.number, record.key, record.file, values)
        options = options_of(record, values.get('options', values.get('Options')))
        letter = _letter_of(record, options, values.get('answer_idx', values.get('Correct Option')),
                            values.get('answer', values.get('Correct Answer')))
        yield choice_row(record, str(record.values.get('id') or record.number),
                         text_of(whole, 'question', 'Question'), list(options.values()), letter,
                         topic=values.get('meta_info'))  # yapf: disable


def medxpertqa(records: Iterator[Record], split: str, companions: CompanionFiles) -> Iterator[dict[str, Any]]:
    """MedXpertQA, https://huggingface.co/datasets/TsinghuaC3I/MedXpertQA: `id`, `question`, `options` by letter,
    `label`, `medical_task`, `body_system`, `question_type`, in MM also `images`.

    The copy of the options after 'Answer Choices:' in the question is removed.
    """
    for record in records:
        options = options_of(record, record.values.get('options'))
        letter = _letter_of(record, options, record.values.get('label'), None)
        question = _CHOICES_IN_QUESTION.sub('', text_of(record, 'question'))
        row = choice_row(record, text_of(record, 'id'), question, list(options.values()), letter,
                         question_type=record.values.get('question_type'), topic=record.values.get('medical_task'),
                         body_system=record.values.get('body_system'))  # yapf: disable
        if 'images' in record.values:
            row['images'] = [companions.image_path(name, record) for name in record.values['images'] or []]
        yield row


def cmmlu(records: Iterator[Record], split: str, companions: CompanionFiles) -> Iterator[dict[str, Any]]:
    """CMMLU, https://github.com/haonan-li/CMMLU: a CSV file per subject with `Question`, `A` ... `D` and `Answer`.

    Only the seven medical subjects of 67 are used; the paper names none, but its scores are counts over their 1,333
    questions.
    """
    for record in records:
        path = record.file.removesuffix('.csv').removesuffix('.parquet').split('/')
        subject = str(record.values.get('task') or next((part for part in path if part in _CMMLU_MEDICAL), path[-1]))
        if subject not in _CMMLU_MEDICAL:
            continue
        options = [text_of(record, column) for column in 'ABCD']
        yield choice_row(record, f'{subject}-{record.number}', text_of(record, 'Question'), options,
                         text_of(record, 'Answer'), topic=subject, language='zh')  # yapf: disable


def medbullets(records: Iterator[Record], split: str, companions: CompanionFiles) -> Iterator[dict[str, Any]]:
    """Medbullets, https://github.com/HanjieChen/ChallengeClinicalQA: `question`, `opa` ... `ope`, `answer_idx`.

    A CSV file, or a JSON file by columns. The fork on the hub has `options` by letter.
    """
    for record in records:
        given = record.values.get('options')
        columns = ('opa', 'opb', 'opc', 'opd', 'ope')
        if given is None:
            texts = [str(record.values.get(column) or '').strip() for column in columns]
            given = texts if all(texts) else texts[:4]
            if not all(given):
                text_of(record, *[column for column, text in zip(columns, texts) if not text][:1])
        options = options_of(record, given)
        if split == 'op5' and len(options) != 5 or split == 'op4' and len(options) != 4:
            raise RowError(record.name, f'the question has {len(options)} options.', f'Give the file of {split}, or '
                           f'--split op{len(options)}.', 'preset-split')  # yapf: disable
        letter = _letter_of(record, options, record.values.get('answer_idx'), record.values.get('answer'))
        yield choice_row(record, str(record.number), text_of(record, 'question'), list(options.values()), letter)


def supergpqa(records: Iterator[Record], split: str, companions: CompanionFiles) -> Iterator[dict[str, Any]]:
    """SuperGPQA, https://huggingface.co/datasets/m-a-p/SuperGPQA: `uuid`, `question`, `options` (four to ten texts),
    `answer_letter`, `discipline`, `field`, `difficulty`. Only the discipline 'Medicine' is used.
    """
    for record in records:
        if text_of(record, 'discipline') != 'Medicine':
            continue
        options = options_of(record, record.values.get('options'))
        letter = _letter_of(record, options, record.values.get('answer_letter'), record.values.get('answer'))
        yield choice_row(
            record,
            text_of(record, 'uuid'),
            text_of(record, 'question'),
            list(options.values()),
            letter,
            topic=record.values.get('field'),
            difficulty=record.values.get('difficulty'))
