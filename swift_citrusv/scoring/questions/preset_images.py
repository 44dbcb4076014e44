"""Readers of the visual benchmarks of section 5.1 of the paper.

Each reader converts the records of a split to rows with `id`, `kind`, `question`, `answer`, `images`, and the
benchmark's attributes of the question. Both parts of MedXpertQA are in `preset_text`.
"""
import re
from collections.abc import Iterator, Mapping
from typing import Any

from .preset_files import CompanionFiles, Record
from .preset_text import choice_row, text_of

# 'A:Focal uptake', ' B: None'.
_LETTERED = re.compile(r'^\s*[A-D]\s*:\s*')


def vqa_rad(records: Iterator[Record], split: str, companions: CompanionFiles) -> Iterator[dict[str, Any]]:
    """VQA-RAD, https://osf.io/89kps: a JSON list with `qid`, `phrase_type`, `image_name`, `image_organ`, `question`,
    `question_type`, `answer` and `answer_type` ('OPEN', 'CLOSED', some with trailing spaces).

    The test split is the rows whose phrase_type starts with 'test'. The Parquet files have only `image`, `question` and
    `answer`; questions whose answer is yes or no are closed.
    """
    for record in records:
        values = record.values
        if 'phrase_type' in values and (str(values['phrase_type']).startswith('test') != (split == 'test')):
            continue
        yield _row(record, companions, str(values.get('qid') or record.number), values.get('image_name'),
                   organ=values.get('image_organ'), question_type=values.get('question_type'))  # yapf: disable


def slake(records: Iterator[Record], split: str, companions: CompanionFiles) -> Iterator[dict[str, Any]]:
    """SLAKE, https://www.med-vqa.com/slake: a JSON list with `img_name`, `question`, `answer`, `q_lang` ('en', 'zh'),
    `answer_type` ('OPEN', 'CLOSED'), `location`, `modality`, `content_type` and `qid`.

    Both languages are used: the paper's scores are counts over all 2,094 questions, not over the 1,061 English ones.
    """
    for record in records:
        values = record.values
        yield _row(record, companions, str(values.get('qid') or record.number), text_of(record, 'img_name'),
                   language=values.get('q_lang'), organ=values.get('location'), modality=values.get('modality'),
                   question_type=values.get('content_type'))  # yapf: disable


def path_vqa(records: Iterator[Record], split: str, companions: CompanionFiles) -> Iterator[dict[str, Any]]:
    """PathVQA, https://huggingface.co/datasets/flaviagiammarino/path-vqa: Parquet files with `image`, `question` and
    `answer`; questions whose answer is yes or no are closed. The pickles of the first release are not supported.
    """
    for record in records:
        yield _row(record, companions, str(record.number), None)


def _row(record: Record, companions: CompanionFiles, key: str, name: str | None, **about: Any) -> dict[str, Any]:
    values: Mapping[str, Any] = record.values
    answer = text_of(record, 'answer')
    kind = str(values.get('answer_type') or '').strip().lower()
    if kind not in ('open', 'closed'):
        kind = 'closed' if answer.lower() in ('yes', 'no') else 'open'
    about = {column: value for column, value in about.items() if value not in (None, '')}
    row = {'id': key, 'kind': kind, 'question': text_of(record, 'question'), 'answer': answer, **about}
    if name is None and isinstance(values.get('image'), str):
        name = values['image']
    if name is not None:
        row['images'] = [companions.image_path(name, record)]
    elif values.get('image') is not None:
        row['images'] = companions.write_image(values['image'], record)
    return row


def pmc_vqa(records: Iterator[Record], split: str, companions: CompanionFiles) -> Iterator[dict[str, Any]]:
    """PMC-VQA, https://huggingface.co/datasets/RadGenome/PMC-VQA: CSV files with `Figure_path`, `Question`,
    `Choice A` ... `Choice D`, and `Answer`.

    Version 1 has choices with the prefix 'A:', the text of the right one in `Answer` and its letter in `Answer_label`;
    version 2 (`test_2.csv`) has the letter in `Answer`.
    """
    for record in records:
        options = [_LETTERED.sub('', text_of(record, f'Choice {letter}')) for letter in 'ABCD']
        letter = text_of(record, 'Answer_label', 'Anwser_label', 'Answer', 'Anwser').strip().upper()
        if len(letter) > 1:
            answer = _LETTERED.sub('', text_of(record, 'Answer', 'Anwser')).strip()
            fitting = [letter for letter, option in zip('ABCD', options) if option.strip() == answer]
            letter = fitting[0] if len(fitting) == 1 else letter
        row = choice_row(record, str(record.number), text_of(record, 'Question'), options, letter)
        row['images'] = [companions.image_path(text_of(record, 'Figure_path'), record)]
        yield row
