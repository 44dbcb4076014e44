"""Presets on the command line of `citrusv eval qa`."""
import argparse
import json
import pytest
from pathlib import Path
from support.benchmark_files import medmcqa_rows, write_json, write_lines

from swift_citrusv.cli.eval import qa as _cli_eval_qa
from swift_citrusv.scoring.questions.presets import QA_PRESETS
from swift_citrusv.scoring.questions.qa import QATask
from swift_citrusv.settings import SettingError


def _args(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument('--ref')
    _cli_eval_qa.add_arguments(parser)
    return parser.parse_args(words)


def test_the_command_line_knows_all_presets():
    assert _cli_eval_qa.PRESET_NAMES == tuple(QA_PRESETS)
    assert all(preset.source.startswith('https://') and set(preset.counts) <= set(preset.files)
               for preset in QA_PRESETS.values())  # yapf: disable


def test_prepare(tmp_path, capsys):
    medmcqa = write_lines(tmp_path / 'dev.json', medmcqa_rows(1, 4))
    slake = write_json(tmp_path / 'test.json', [{'img_name': 'a.jpg', 'question': 'x', 'answer': 'y', 'q_lang': 'en'}])
    args = _args('--preset', f'medmcqa={medmcqa}', '--preset', f'slake={slake}')
    _cli_eval_qa.prepare(args, str(tmp_path / 'out'))
    assert args.ref == str(tmp_path / 'out' / 'questions.jsonl')
    ids = [json.loads(line)['id'] for line in Path(args.ref).read_text(encoding='utf-8').splitlines()]
    assert ids == ['medmcqa:q0', 'medmcqa:q1', 'slake:1']
    assert capsys.readouterr().out.splitlines() == [
        'medmcqa, dev: 2 questions; the published split has 4,183',
        'slake, test: 1 questions; the published split has 2,094',
    ]
    assert QATask(**_cli_eval_qa.options(args)).preset == 'medmcqa, slake'
    args = _args('--preset', 'medmcqa', '--ref', str(medmcqa))
    _cli_eval_qa.prepare(args, str(tmp_path / 'out'))
    assert args.ref == str(tmp_path / 'out' / 'questions.jsonl')
    args = _args('--ref', str(medmcqa))
    _cli_eval_qa.prepare(args, str(tmp_path / 'out'))
    assert args.ref == str(medmcqa)


@pytest.mark.parametrize('words, said', [
    (('--preset', 'medqa'), 'Give the file of medqa'), (('--split', 'dev'), 'need a benchmark'),
    (('--preset', 'medqa', '--preset', 'slake=x', '--ref', 'y'), 'Give the file of medqa'),
    (('--preset', 'medqa=x', '--ref', 'y'), 'remove --ref y'),
])  # yapf: disable
def test_options_that_do_not_fit(tmp_path, words, said):
    with pytest.raises(SettingError, match=said):
        _cli_eval_qa.prepare(_args(*words), str(tmp_path))
    with pytest.raises(SystemExit):
        _args('--preset', 'medqb')
