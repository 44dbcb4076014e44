"""What the README and the docs tell people to do works: rows, commands, Python, and the names of files."""
import argparse
import ast
import json
import os
import pytest
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from support.faults import Faults
from support.rows import Maker, write_jsonl
from typing import Any

from swift_citrusv.cli import main as cli
from swift_citrusv.rows.contract import parse_row
from swift_citrusv.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / 'README.md').read_text(encoding='utf-8')
BLOCKS = re.findall(r'```(\w*)\n(.*?)```', README, flags=re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


def test_rows_keep_the_contract():
    rows = [json.loads(text) for text in blocks('json')]
    assert rows
    for row in rows:
        assert parse_row(row, row_id='README').masks


def test_every_command_is_run_somewhere():
    """make by CI, pip by the packaging tests, recipes by test_examples, the laptop block below."""
    recipes = {path.name for path in (ROOT / 'examples').glob('*.sh')}
    makefile = (ROOT / 'Makefile').read_text()
    for line in ''.join(blocks('bash')).replace('\\\n', ' ').splitlines():
        words = [word for word in line.split() if not re.match(r'[A-Z]+=', word)]
        if words[0] == 'make':
            assert re.search(rf'^{words[1]}:', makefile, flags=re.MULTILINE)
        elif words[0] == 'bash':
            assert Path(words[1]).name in recipes
        else:
            assert words[0] in {'pip', 'citrusv', 'swift'}, line


def test_settings_table_is_complete():
    for name in Settings.__dataclass_fields__:
        assert f'`{name}`' in README, name


PAGES = ['README.md', *sorted(str(path.relative_to(ROOT)) for path in (ROOT / 'docs').glob('*.md'))]


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding='utf-8')


@pytest.mark.parametrize('page', PAGES)
def test_files_that_are_named_exist(page):
    text = text_of(page)
    for name in re.findall(r'(?:templates|examples|tests|swift_citrusv|docs)/[\w./]+\.(?:yaml|sh|py|png|md)', text):
        assert (ROOT / name.replace('stageN', 'stage1')).exists(), name
    for name in re.findall(r'\]\(([^)#:]+)\)', text):
        assert (ROOT / page).parent.joinpath(name).exists(), name


def commands_of(page: str) -> list[list[str]]:
    """The words of each `citrusv` and `swift` command: in blocks, indented, or in a line of prose."""
    text = text_of(page).replace('\\\n', ' ')
    lines = re.findall(r'^ {0,4}((?:citrusv|swift) .*)$', text, flags=re.MULTILINE)
    lines += re.findall(r'`((?:citrusv|swift) [^`]*--[^`]*)`', text.replace('\n', ' '))
    chosen = [line for line in lines if not line.startswith('swift infer`')]
    return [shlex.split(line.replace(' ...', ''), comments=True) for line in chosen]


@pytest.mark.parametrize('page', PAGES)
def test_commands_are_understood(page):
    """By the parsers themselves: of `citrusv` all of it, of `swift` the names of its flags."""
    from swift.arguments import AppArguments, DeployArguments, ExportArguments, InferArguments, SftArguments
    classes = {'sft': SftArguments, 'infer': InferArguments, 'deploy': DeployArguments, 'app': AppArguments,
               'export': ExportArguments}  # yapf: disable
    for program, name, *words in commands_of(page):
        if program == 'citrusv':
            # In prose a command is shortened to what is spoken of.
            args, unknown = citrusv_parser(name).parse_known_args(words)
            assert not unknown, (name, unknown)
        else:
            known = {field.name for field in fields(classes[name])}
            flags = {word[2:] for word in words if word.startswith('--')}
            assert flags <= known, (name, flags - known)


def citrusv_parser(name: str) -> Any:
    """Of a subcommand, without what it requires."""
    commands = next(action for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction))
    parser = commands.choices[name]
    for action in parser._actions:
        action.required = False
        if not action.option_strings and action.nargs is None:
            action.nargs = '?'
    return parser


@pytest.mark.parametrize('page', PAGES)
def test_blocks_can_be_read(page):
    found = re.findall(r'```(\w*)\n(.*?)```', text_of(page), flags=re.DOTALL)
    for language, text in found:
        if language == 'python':
            ast.parse(text)
        elif language == 'json':
            assert parse_row(json.loads(text), row_id=page)
        elif language == 'bash':
            subprocess.run(['bash', '-n'], input=text, text=True, check=True)
        else:
            assert language == '', language


def test_laptop_block(tmp_path):
    """The commands and the Python of "Your own rows, on a laptop", as they stand."""
    maker = Maker(tmp_path / 'images')
    write_jsonl(tmp_path / 'rows.jsonl', [row for row in maker.every_kind() if 'videos' not in row])
    Path(maker.image()).rename(tmp_path / 'image.png')
    environment = {**os.environ, 'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}'}
    commands = next(text for text in blocks('bash') if 'swift sft' in text)
    check = next(text for text in blocks('bash') if text.startswith('citrusv check-data'))
    for command in (['bash', '-euc', check + commands], [sys.executable, '-c', blocks('python')[0]]):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, errors='replace')
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert list((tmp_path / 'pictures').glob('*.png'))
    assert list((tmp_path / 'output' / 'first' / 'images').glob('eval_step_*.png'))


def test_table_of_faults_is_that_of_the_tests(tmp_path):
    """docs/robustness.md says of every fault what the tests hold."""
    text = (ROOT / 'docs' / 'robustness.md').read_text(encoding='utf-8')
    table = re.findall(r'^\| (.+?)( ¹)? \| `([\w-]+)` \| (line|header|pixels) \|$', text, flags=re.MULTILINE)
    faults = [(fault.name, ' ¹' if fault.needs_model else '', fault.kind, fault.found)
              for fault in Faults(tmp_path / 'files').bad()]
    assert table == faults
    for name in re.findall(r'tests/\w+\.py', text):
        assert (ROOT / name).exists(), name
