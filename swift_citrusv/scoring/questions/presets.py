"""Converts the published files of question benchmarks (section 5.1 of the paper) to rows.

Each row is both a reference row of `citrusv eval qa` and an input of `swift infer`: it has `messages` with the prompt,
`images`, and `id`, `dataset`, `kind`, `question`, `options` and `answer`.
"""
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .preset_files import CompanionFiles, Record, read_records
from .preset_images import path_vqa, pmc_vqa, slake, vqa_rad
from .preset_text import cmmlu, medbullets, medmcqa, medqa, medxpertqa, pubmedqa, supergpqa
from .yes_no import is_yes_or_no

QUESTIONS = 'questions.jsonl'


@dataclass(frozen=True)
class Preset:
    """A benchmark.

    Attributes:
        name: The value of `--preset`.
        title: Its name in the paper's tables.
        source: Where it is published.
        read: Converts the records of a split to rows without `messages`, `dataset` and the prefix of `id`.
        files: By split, patterns of file names (`read_records`); the first split is that of the paper's tables.
        counts: By split, the published number of questions.
        image_folders: The published folders of its images, relative to its files.
        note: Its conventions.
    """
    name: str
    title: str
    source: str
    read: Callable[[Iterator[Record], str, CompanionFiles], Iterator[dict[str, Any]]]
    files: Mapping[str, Sequence[str]]
    counts: Mapping[str, int] = field(default_factory=dict)
    image_folders: Sequence[str] = ()
    note: str = ''


_HUB = 'https://huggingface.co/datasets/'
_ALL = (
    Preset(
        'vqa-rad', 'VQA-RAD', 'https://osf.io/89kps and ' + _HUB + 'flaviagiammarino/vqa-rad', vqa_rad,
        {'test': ('vqa_rad*.json', 'test*.parquet', 'test*.json*'),
         'train': ('vqa_rad*.json', 'train*.parquet', 'train*.json*')}, {'test': 451},
        ('VQA_RAD Image Folder', 'images'),
        "test: the rows whose phrase_type starts with 'test'; closed by answer_type, else if the answer is yes or no"),
    Preset(
        'slake', 'SLAKE', 'https://www.med-vqa.com/slake and ' + _HUB + 'BoKelvin/SLAKE', slake,
        {'test': ('test.json', ), 'validation': ('validate.json', 'validation.json'), 'train': ('train.json', )},
        {'test': 2094}, ('imgs', ), 'English and Chinese; closed by answer_type'),
    Preset(
        'path-vqa', 'PATH-VQA', _HUB + 'flaviagiammarino/path-vqa', path_vqa,
        {'test': ('test*.parquet', 'test*.json*'), 'validation': ('validation*.parquet', 'val*.json*'),
         'train': ('train*.parquet', 'train*.json*')}, {'test': 6719}, ('images', ),
        'closed if the answer is yes or no'),
    Preset(
        'pmc-vqa', 'PMC-VQA', _HUB + 'RadGenome/PMC-VQA', pmc_vqa,
        {'test_2': ('test_2.csv', 'test2.csv'), 'test': ('test.csv', ), 'test_clean': ('test_clean.csv', )},
        {'test_2': 33430, 'test_clean': 2000}, ('images', 'figures'), 'test_2: the subfigures of version 2'),
    Preset(
        'medxpertqa-mm', 'MedXpertQA MM', _HUB + 'TsinghuaC3I/MedXpertQA', medxpertqa,
        {'test': ('mm/test.jsonl', 'mm/test*.parquet'), 'dev': ('mm/dev.jsonl', 'mm/dev*.parquet')}, {'test': 2000},
        ('images', '../images'), 'five options'),
    Preset(
        'medxpertqa-text', 'MedXpertQA Text', _HUB + 'TsinghuaC3I/MedXpertQA', medxpertqa,
        {'test': ('text/test.jsonl', 'text/test*.parquet'), 'dev': ('text/dev.jsonl', 'text/dev*.parquet')},
        {'test': 2450}, (), 'ten options'),
    Preset(
        'pubmedqa', 'PubMedQA', 'https://github.com/pubmedqa/pubmedqa and ' + _HUB + 'qiaojin/PubMedQA', pubmedqa,
        {'test': ('test_set.json', 'ori_pqal.json', 'test*.parquet'), 'all': ('ori_pqal.json', 'train*.parquet')},
        {'test': 500, 'all': 1000}, (), 'yes, no and maybe are options A, B and C after the abstract; '
        'ori_pqal.json needs test_ground_truth.json beside it, which lists the 500 test rows'),
    Preset(
        'medmcqa', 'MedMCQA', 'https://medmcqa.github.io and ' + _HUB + 'openlifescienceai/medmcqa', medmcqa,
        {'dev': ('dev.json*', 'validation*.parquet', 'validation*.json*'), 'train': ('train.json*', 'train*.parquet')},
        {'dev': 4183}, (), 'the dev split, because the test answers are not public; cop counts from 1 in JSON files '
        'and from 0 in Parquet files'),
    Preset(
        'medqa', 'MedQA', 'https://github.com/jind11/MedQA and ' + _HUB + 'GBaker/MedQA-USMLE-4-options', medqa,
        {'test': ('us/4_options/phrases_no_exclude_test.jsonl', 'phrases_no_exclude_test.jsonl', 'us/test.jsonl',
                  'test.jsonl', 'test*.parquet'),
         'dev': ('us/4_options/phrases_no_exclude_dev.jsonl', 'phrases_no_exclude_dev.jsonl', 'us/dev.jsonl',
                 'dev.jsonl', 'dev*.parquet', 'validation*.parquet')}, {'test': 1273}, (),
        'USMLE with four options'),
    Preset(
        'cmmlu', 'CMMLU', 'https://github.com/haonan-li/CMMLU and ' + _HUB + 'haonan-li/cmmlu', cmmlu,
        {'test': ('test/*.csv', '*.csv', '*test*.parquet'), 'dev': ('dev/*.csv', '*dev*.parquet')}, {'test': 1333}, (),
        'the seven medical subjects: anatomy, clinical_knowledge, college_medicine, genetics, nutrition, '
        'traditional_chinese_medicine, virology'),
    Preset(
        'medbullets', 'Medbullets', 'https://github.com/HanjieChen/ChallengeClinicalQA', medbullets,
        {'op5': ('medbullets_op5.csv', 'medbullets_op5.json', 'op5*.parquet'),
         'op4': ('medbullets_op4.csv', 'medbullets_op4.json', 'op4*.parquet')}, {'op5': 308, 'op4': 308}, (),
        "table 5 has the five options (its column is 'Op5' of table 13)"),
    Preset(
        'supergpqa', 'SuperGPQA', _HUB + 'm-a-p/SuperGPQA', supergpqa,
        {'all': ('supergpqa-all.jsonl', 'supergpqa*.jsonl', 'train*.parquet')}, {'all': 2755}, (),
        "the discipline 'Medicine'"),
)  # yapf: disable
QA_PRESETS = {preset.name: preset for preset in _ALL}


def preset_rows(preset: str, path: str, split: str | None = None, images: str | None = None,
                image_output: str | None = None) -> Iterator[dict[str, Any]]:  # yapf: disable
    """The rows of a benchmark.

    Args:
        preset: A key of `QA_PRESETS`.
        path: Its published file, or a folder or zip file with it. Nothing is downloaded.
        split: A split of the preset; None: that of the paper's tables.
        images: The folder of its images; None: the published folders beside its files.
        image_output: The folder to which images in Parquet files are written; None: such rows have no images.

    Yields:
        Rows with `id` ('medmcqa:...'), `dataset`, `kind`, `question`, `options` (a list of texts; only for multiple
        choice), `answer`, the benchmark's attributes of the question, `images` (paths) and `messages`.

    Raises:
        RowError: A row differs from the published format.
        ValueError: The preset, the split or the file does not exist, or the file has no rows of the split.
    """
    chosen = QA_PRESETS.get(preset)
    if chosen is None:
        raise ValueError(f'There is no preset {preset!r}: give one of {", ".join(QA_PRESETS)}.')
    split = split or next(iter(chosen.files))
    if split not in chosen.files:
        raise ValueError(f'{preset} has no split {split!r}: give one of {", ".join(chosen.files)}.')
    companions = CompanionFiles(path, chosen.image_folders, images, image_output)
    times: Counter[str] = Counter()
    for row in chosen.read(_nonempty(read_records(path, chosen.files[split]), path), split, companions):
        name = f'{preset}:{row.pop("id")}'
        times[name] += 1
        # The file may repeat an id.
        row = {'id': name if times[name] == 1 else f'{name}#{times[name]}', 'dataset': preset, **row}
        yield {**row, 'messages': [{'role': 'user', 'content': _prompt(row)}]}
    if not times:
        raise ValueError(f'{path} has no question of the split {split!r} of {preset} ({chosen.note or chosen.title}).')


def _nonempty(found: Iterator[Record], path: str) -> Iterator[Record]:
    any_row = False
    for record in found:
        any_row = True
        yield record
    if not any_row:
        raise ValueError(f'{path} has no rows.')


_INSTRUCTIONS = {
    'en': {'choice': 'Answer with the letter of the right option.',
           'yes_or_no': 'Answer with yes or no.',
           'short': 'Answer with a single word or a short phrase.'},
    'zh': {'choice': '请直接给出正确选项的字母。',
           'yes_or_no': '请用一个词回答。',
           'short': '请用一个词或短语回答。'}
}  # yapf: disable


def _prompt(row: Mapping[str, Any]) -> str:
    """The prompt of a row: images, context, question, options by letter, and an instruction."""
    instructions = _INSTRUCTIONS['zh' if row.get('language') == 'zh' else 'en']
    lines = [f'{row["context"]}\n'] if row.get('context') else []
    lines.append(row['question'])
    lines += [f'{letter}. {text}' for letter, text in zip('ABCDEFGHIJKLMNOPQRSTUVWXYZ', row.get('options') or [])]
    if row['kind'] == 'choice':
        lines.append(instructions['choice'])
    else:
        by_word = row['kind'] == 'closed' and is_yes_or_no(row['answer'])
        lines.append(instructions['yes_or_no' if by_word else 'short'])
    return '<image>' * len(row.get('images') or []) + '\n'.join(lines)


def write_rows(chosen: Sequence[tuple[str, str]], split: str | None, images: str | None, folder: str) -> list[str]:
    """Writes the rows of benchmarks to one file.

    Args:
        chosen: (preset, path) pairs.
        split, images: As in `preset_rows`, for every preset.
        folder: The output folder: `questions.jsonl`, and `images` for images from Parquet files.

    Returns:
        A line per benchmark with its number of questions, and the published number if it differs.

    Raises:
        RowError, ValueError: As in `preset_rows`.
    """
    lines = []
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, QUESTIONS)
    pictures = os.path.join(folder, 'images')
    with open(f'{path}.part', 'w', encoding='utf-8', errors='backslashreplace') as file:
        for name, source in chosen:
            number = 0
            for row in preset_rows(name, source, split, images, pictures):
                file.write(json.dumps(row, ensure_ascii=False) + '\n')
                number += 1
            which = split or next(iter(QA_PRESETS[name].files))
            published = QA_PRESETS[name].counts.get(which)
            beside = '' if published in (None, number) else f'; the published split has {published:,}'
            lines.append(f'{name}, {which}: {number:,} questions{beside}')
    os.replace(f'{path}.part', path)
    return lines
