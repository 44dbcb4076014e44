"""A folder with the files that the commands of the documentation name, so that they run in it as they stand."""
import json
import numpy as np
import pydicom
import shutil
from pathlib import Path
from PIL import Image
from support.lab_reports import BLOOD, markdown
from support.published_checkpoint import tiny_published, write_published
from support.rows import Maker, write_jsonl
from support.scans import nifti, series
from typing import Any

# What the documentation takes from a hub.
STAND_INS = {'Qwen/Qwen2.5-VL-7B-Instruct': 'mllm', 'facebook/sam2.1-hiera-large': 'tiny'}
# The recipe of docs/curation.md.
RECIPE = '- filter:\n    min_tokens: 5\n    no_images: true\n- dedup:\n    exact: true\n    no_images: true\n'
# Those of docs/data.md.
CLEAN = '''- filter:
    series: output/series
    min_tokens: 3
- dedup
- leaks:
    against: held-out.jsonl
- deid:
    keep: [descriptors, patient]
'''
# What the slices of `scans` show; the sixth is long enough to be a leak by itself.
_FINDINGS = ('a bright ball in the middle.', 'no fracture of any rib.', 'a clear airway above the ball.',
             'dense tissue around its edge.', 'an even grey behind it.',
             'a sharp border between the ball and the darker tissue that lies around it on every side.',
             'some noise in the corners.', 'two levels of grey only.', 'a smooth outline without spicules.',
             'nothing in front of the ball.', 'a brighter half towards the left.', 'an empty last slice above.')
_REPORT = {'findings': 'The heart is normal in size today.', 'impression': 'No acute disease in the chest.'}


def make_workspace(folder: Path, mllm: str, checkpoint: str, talkative: str) -> Path:
    """Writes the files.

    Args:
        folder: Where to.
        mllm: A plain tiny Qwen2.5-VL.
        checkpoint: A tiny Citrus-V.
        talkative: A tiny Citrus-V whose answers have `[SEG]`.
    """
    # Copied, because a command builds it anew.
    shutil.copytree(checkpoint, folder / 'tiny-citrusv')
    for name, target in (('mllm', mllm), ('DIR', talkative), ('output/run', talkative), ('output/first/last-checkpoint',
                                                                                         talkative)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(target)
    write_published(folder / 'Citrus-V-8B', tiny_published(mllm, False), mllm)
    rows = _rows(Maker(folder / 'images'))
    write_jsonl(folder / 'rows.jsonl', rows)
    Image.open(rows[1]['images'][0]).save(folder / 'image.png')
    write_jsonl(folder / 'out.jsonl', [_answer(row) for row in rows])
    _write_boxes_and_reports(folder)
    _write_questions(folder, rows)
    values = np.random.default_rng(0).integers(0, 2000, (24, 4, 4)).astype(np.int16)
    nifti(folder / 'scan.nii.gz', values, np.diag([1., 1., 2., 1.]))
    series(folder / 'dicom_folder', values[:3, :, :].repeat(4, axis=1).repeat(4, axis=2))
    _write_volumes(folder)
    (folder / 'recipe.yaml').write_text(RECIPE)
    _write_reports(folder)
    return folder


def _write_reports(folder: Path) -> None:
    """A series in `scans`, reports about it with names, and a held-out one."""
    y, x = np.mgrid[:64, :64]
    ball = 60 + 1000 * ((y - 32)**2 + (x - 32)**2 < 600)
    voxels = np.stack([ball + 3 * number * (x > 30) for number in range(12)]).astype(np.int16)
    tags = {'PatientName': 'ROE^JANE', 'PatientID': '4711', 'SpacingBetweenSlices': 5}
    files = series(folder / 'scans', voxels, spacing=(5, 5), step=5, first=(-160, -160, 0), **tags)
    for number, path in enumerate(files, start=1):
        data = pydicom.dcmread(path)
        data.InstanceNumber = number
        data.save_as(path)
    names = [Path(path).relative_to(folder) for path in files]
    rows = [{'messages': [{'role': 'user', 'content': '<image>What does the slice show?'},
                          {'role': 'assistant', 'content': f'Jane Roe has {_FINDINGS[number]}'}],
             'images': [str(name)], 'patient': '4711'} for number, name in enumerate(names)]  # yapf: disable
    write_jsonl(folder / 'reports.jsonl', rows)
    messages = [{'role': 'user', 'content': 'Report:'}, {'role': 'assistant', 'content': f'She has {_FINDINGS[5]}'}]
    write_jsonl(folder / 'held-out.jsonl', [{'id': 'h1', 'messages': messages}])
    (folder / 'clean.yaml').write_text(CLEAN)


def _write_volumes(folder: Path) -> None:
    """Two label maps in `predicted` and in `references`, with names and patients."""
    values = np.zeros((8, 8, 4), np.uint8)
    values[2:6, 2:5, 1:3], values[6:, 6:, 2:] = 1, 2
    for name in ('predicted', 'references'):
        (folder / name).mkdir()
        for case in ('case_1', 'case_2'):
            nifti(folder / name / f'{case}.nii.gz', values, np.diag([1., 1., 2., 1.]))
    (folder / 'labels.csv').write_text('label,name\n1,liver\n2,tumour\n')
    (folder / 'cases.csv').write_text('id,patient,scanner\ncase_1,p1,A\ncase_2,p2,B\n')


def _rows(maker: Maker) -> list[dict[str, Any]]:
    rows = [row for row in maker.every_kind() if 'videos' not in row]
    columns = {'modality': 'CT', 'spacing': [0.5, 0.5]}
    return [{'id': f'r{i}', 'organ': ('bone', 'lung')[i % 2], **columns, **row} for i, row in enumerate(rows)]


def _answer(row: dict[str, Any]) -> dict[str, Any]:
    """A line of `swift infer` that answers a row perfectly."""
    response = row['messages'][-1]['content']
    masks = row.get('masks', [])
    count = response.count('[SEG]') if masks else 0
    images = row.get('mask_images', [0] * len(masks))
    drawn = [{'rle': mask, 'image_index': image, 'phrase': 'cell'} for mask, image in zip(masks, images)]
    return {'id': row['id'], 'response': response, 'masks': drawn[len(drawn) - count:]}


def _write_boxes_and_reports(folder: Path) -> None:
    """test.jsonl and predictions.jsonl, for detection, documents, reports and grounding."""
    maker, box = Maker(folder / 'boxes'), [12, 30, 50, 60]
    part = json.dumps({'Part': 'rib', 'bbox': str(box)})
    text = ' '.join(f'{name.upper()}: {words}' for name, words in _REPORT.items())
    table = markdown(BLOOD)
    response = f'<think>Look at the <bbox>{part}</bbox>.</think><answer>{text} {box}\n\n{table}\n</answer>'
    columns = {'messages': [{'role': 'user', 'content': '<image>Report.'}], 'bboxes': [box], 'answer': table, **_REPORT}
    steps = [{'Part': 'rib', 'bbox': box}]
    rows = [{'id': f't{i}', 'images': [maker.image()], 'steps': steps, **columns} for i in range(3)]
    write_jsonl(folder / 'test.jsonl', rows)
    write_jsonl(folder / 'predictions.jsonl', [{'id': row['id'], 'response': response} for row in rows])


def _write_questions(folder: Path, rows: list[dict[str, Any]]) -> None:
    """questions.jsonl, the benchmarks dev.json, RAD and SLAKE, and answers.jsonl to all of them and to the rows."""
    messages = [{'role': 'user', 'content': 'Which?'}]
    question = {'messages': messages, 'options': ['bone', 'lung'], 'answer': 'A'}
    write_jsonl(folder / 'questions.jsonl', [{'id': f'q{i}', **question} for i in range(3)])
    choices = {'opa': 'w', 'opb': 'x', 'opc': 'y', 'opd': 'z', 'choice_type': 'single', 'subject_name': 'Anatomy'}
    write_jsonl(folder / 'dev.json', [{'id': f'q{i}', 'question': 'Which?', 'cop': cop, **choices}
                                      for i, cop in enumerate((1, 4))])  # yapf: disable
    shared = {'answer_type': 'OPEN', 'question': 'What is it?', 'answer': 'MRI'}
    radiology = {'qid': 2, 'phrase_type': 'test_freeform', 'image_name': 'a.jpg', 'image_organ': 'HEAD', **shared}
    slake = {
        'qid': 5,
        'img_id': 1,
        'img_name': 'a.jpg',
        'q_lang': 'en',
        'location': 'Head',
        'modality': 'MRI',
        **shared
    }
    for name, content in (('RAD/VQA_RAD Dataset Public.json', radiology), ('SLAKE/test.json', slake)):
        (folder / name).parent.mkdir()
        (folder / name).write_text(json.dumps([content]), encoding='utf-8')
    for name in ('RAD/VQA_RAD Image Folder/a.jpg', 'SLAKE/imgs/a.jpg'):
        (folder / name).parent.mkdir()
        Image.new('RGB', (28, 28)).save(folder / name)
    names = [*(f'q{i}' for i in range(3)), 'vqa-rad:2', 'slake:5']
    answers = [{'id': name, 'response': 'The answer is A.'} for name in names]
    write_jsonl(folder / 'answers.jsonl', [*map(_answer, rows), *answers])
