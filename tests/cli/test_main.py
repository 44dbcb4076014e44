"""`citrusv`: imports, usage, exit status and errors."""
import argparse
import json
import pytest
import subprocess
import sys
from pathlib import Path
from support.command_line import run_citrusv

from swift_citrusv import __version__
from swift_citrusv.cli import templates
from swift_citrusv.cli.main import _parser, main

# Every subcommand and task, and commands that only print files.
LIGHT_COMMANDS = [
    ['--help'], ['--version'], ['templates'], ['templates', 'stage4'],
    *([name, '--help'] for name in ('app', 'build', 'convert', 'check-data', 'data', 'estimate', 'eval',
                                    'compare', 'pack-report', 'segment', 'templates', 'try', 'volume')),
    *(['eval', task, '--help'] for task in ('segmentation', 'volume', 'detection', 'qa', 'documents', 'reports',
                                            'grounding')),
    *(['data', step, '--help'] for step in ('dicom', 'deid', 'filter', 'dedup', 'leaks', 'stats', 'run', 'why',
                                            'verify')),
]  # yapf: disable


def test_light_commands_import_nothing_heavy():
    code = f'''
import contextlib, io, sys
from swift_citrusv.cli.main import main
HEAVY = {{'torch', 'transformers', 'swift', 'numpy', 'PIL', 'matplotlib', 'pandas', 'datasets', 'gradio'}}
for arguments in {LIGHT_COMMANDS!r}:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            status = main(arguments)
        except SystemExit as leave:
            status = leave.code
    assert not status and out.getvalue(), arguments
    assert not HEAVY & set(sys.modules), (arguments, HEAVY & set(sys.modules))
'''
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr


def test_light_commands_are_all_commands():
    names = {arguments[0] for arguments in LIGHT_COMMANDS if arguments[-1] == '--help' and len(arguments) > 1}
    tasks = {arguments[1] for arguments in LIGHT_COMMANDS if arguments[0] == 'eval' and len(arguments) > 2}
    steps = {arguments[1] for arguments in LIGHT_COMMANDS if arguments[0] == 'data' and len(arguments) > 2}
    commands = subcommands(_parser())
    assert names == set(commands)
    assert (tasks, steps) == (set(subcommands(commands['eval'])), set(subcommands(commands['data'])))


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction)).choices


def test_version(capsys):
    with pytest.raises(SystemExit) as leave:
        main(['--version'])
    assert leave.value.code == 0
    assert capsys.readouterr().out == f'citrusv {__version__}\n'


@pytest.mark.parametrize(
    'arguments', [[], ['no-such-command'], ['build', '--mllm', 'tiny'],
                  ['build', '--mllm', 'tiny', '--sam2', 'tiny', '--output', 'x', '--dtype', 'int8'], ['check-data'],
                  ['check-data', 'x.jsonl', '--num-proc', '0'], ['check-data', 'x.jsonl', '--limit', 'many']])
def test_bad_usage_is_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as leave:
        main(arguments)
    assert leave.value.code == 2
    assert 'usage: citrusv' in capsys.readouterr().err


def test_expected_errors_are_one_line(capsys):
    status, out, err = run_citrusv(capsys, 'templates', 'stage9')
    assert (status, out) == (2, '')
    assert err.startswith("citrusv: error: There is no template 'stage9'.") and err.count('\n') == 1


def test_traceback_shows_expected_errors():
    with pytest.raises(ValueError, match='stage9'):
        main(['templates', 'stage9', '--traceback'])


@pytest.mark.parametrize('bug', [KeyError('a bug'), ZeroDivisionError('a bug'), RuntimeError('a bug')])
def test_bugs_are_not_hidden(bug, monkeypatch):

    def broken(*_):
        raise bug

    monkeypatch.setattr(templates, 'run', broken)
    with pytest.raises(type(bug), match='a bug'):
        main(['templates'])


def test_value_error_of_a_library_is_not_a_user_error(monkeypatch):
    monkeypatch.setattr(templates, 'run', lambda args: json.loads('{'))
    with pytest.raises(json.JSONDecodeError):
        main(['templates'])


def test_closed_pipe_prints_nothing():
    code = 'import sys; from swift_citrusv.cli.main import main; sys.exit(main(["templates"]))'
    process = subprocess.Popen([sys.executable, '-c', code],
                               stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE,
                               cwd=Path(__file__).parents[2])
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b''
    process.stderr.close()
    assert process.wait() == 1
