"""Nothing of a patient's header is printed, logged or written beside a mask, by any command that reads DICOM."""
import json
import os
import pydicom
import subprocess
import sys
from pathlib import Path
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from support.rows import write_jsonl
from support.scans import series
from support.volumes import voxels

# Valid values, and those that make libraries warn and raise with the value in the text.
PLANTED = {
    'PatientName': 'ZQXNAME^ERIKA=ZQXNAME2', 'PatientID': 'ZQXPATIENT-0815-' + '9' * 60, 'PatientBirthDate': 'ZQXBIRTH',
    'PatientSex': 'ZQXSEX', 'PatientAge': 'ZQXAGE', 'OtherPatientIDs': 'ZQXOTHER', 'PatientAddress': 'ZQXSTREET 7',
    'PatientWeight': 'ZQXWEIGHT', 'ReferringPhysicianName': 'ZQXDOCTOR^' + 'X' * 70, 'OperatorsName': 'ZQXOPERATOR',
    'InstitutionName': 'ZQXHOSPITAL', 'InstitutionAddress': 'ZQXTOWN', 'AccessionNumber': 'ZQXACCESSION-123456789',
    'StudyID': 'ZQXSTUDY-1234567890123', 'StudyDate': 'ZQXDATE', 'StudyTime': 'ZQXTIME', 'StudyDescription': 'ZQXKNEE',
    'PatientComments': 'ZQXCOMMENT', 'PerformingPhysicianName': 'ZQXSURGEON', 'ContentDate': 'ZQXCONTENT'
}  # yapf: disable
# In a process of its own: pytest replaces the filters of warnings and the handlers of logs.
COMMANDS = '''
import contextlib, json, logging, sys, warnings
from types import SimpleNamespace

tests, folder, lists, arguments = json.loads(sys.argv[1])
sys.path.insert(0, tests)
logging.basicConfig(level=logging.DEBUG)
from support.volumes import segment_bright_and_dark
from swift_citrusv.app.uploads import Upload, UploadError
from swift_citrusv.cli import volume
from swift_citrusv.cli.main import _parser, main
from swift_citrusv.files.rules import file_rules
for given in arguments:
    print('----', given[0], given[-1])
    if given[0] == 'volume':
        with contextlib.suppress(ValueError):
            try:
                volume.run(_parser().parse_args(given), segment_bright_and_dark())
            except ValueError as e:
                print(e)
                raise
    else:
        main(given)
for name in lists:
    try:
        upload = Upload(name, file_rules())
        upload.open(upload.middle_slice())
    except UploadError as e:
        print(e)
'''


def plant(path: str, **more: str | None) -> None:
    """Writes the values into a file as they are."""
    data = pydicom.dcmread(path)
    for name, text in {**PLANTED, **more}.items():
        if text is None:
            del data[name]
            continue
        tag, raw = Tag(name), text.encode() + b' ' * (len(text) % 2)
        data[tag] = RawDataElement(tag, pydicom.datadict.dictionary_VR(tag), len(raw), raw, 0, False, True)
    data.save_as(path)


def test_no_value_leaves_the_header(tmp_path):
    series(tmp_path / 'good', voxels())
    for name, more in (('good', {}), ('nowhere', {
            'ImagePositionPatient': None
    }), ('frames', {
            'NumberOfFrames': 'two'
    }), ('window', {
            'WindowCenter': 'mid'
    }), ('cut', {
            'PixelData': None
    })):
        for path in series(tmp_path / name, voxels()) if name != 'good' else map(str, (tmp_path / 'good').iterdir()):
            plant(path, **more)
    first = {name: str(next((tmp_path / name).iterdir())) for name in ('good', 'nowhere', 'frames', 'window', 'cut')}
    mask = {'size': [20, 24], 'counts': [100, 50, 330]}
    rows = [{'id': name, 'messages': [{'role': 'user', 'content': '<image>Segment.'},
                                      {'role': 'assistant', 'content': '[SEG]'}], 'images': [path], 'masks': [mask]}
            for name, path in first.items()]  # yapf: disable
    dataset = write_jsonl(tmp_path / 'rows.jsonl', rows)
    answers = write_jsonl(tmp_path / 'out.jsonl', [{
        'id': row['id'],
        'response': '[SEG]',
        'masks': [mask]
    } for row in rows])
    ask = ['volume', '--model', 'm', '--prompt', 'Segment.', '--volume']
    output = tmp_path / 'written'
    arguments = [
        *([*ask, str(tmp_path / name), '--output', str(output / f'{name}{suffix}')]
          for name in first for suffix in ('.dcm', '.nii.gz')),
        ['check-data', dataset, '--pictures', str(output / 'pictures'), '--json', str(output / 'report.json')],
        ['eval', 'segmentation', '--pred', answers, '--ref', dataset, '--output', str(output / 'eval')],
        ['eval', 'volume', '--pred', str(output / 'good.dcm'), '--ref', str(output / 'good.nii.gz'), '--output',
         str(output / 'volumes')],
    ]  # yapf: disable
    task = json.dumps([str(Path(__file__).parents[1]), str(tmp_path), [*first.values()], arguments])
    done = subprocess.run([sys.executable, '-W', 'always', '-c', COMMANDS, task], capture_output=True, text=True,
                          cwd=tmp_path, env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})  # yapf: disable
    assert done.returncode == 0, done.stderr[-3000:]
    assert (output / 'good.dcm').exists() and done.stdout.count('----') == len(arguments)
    # The segmentation is the patient's.
    assert 'ZQXNAME' in str(pydicom.dcmread(output / 'good.dcm').PatientName)
    texts = {'stdout': done.stdout, 'stderr': done.stderr}
    for path in output.rglob('*'):
        if path.is_file() and path.suffix not in ('.dcm', ):
            texts[path.name] = path.read_bytes().decode('latin-1')
    assert len(texts) > 6
    for name, text in texts.items():
        place = text.find('ZQX')
        assert place < 0, f'{name}: ...{text[max(place - 200, 0):place + 80]}'
