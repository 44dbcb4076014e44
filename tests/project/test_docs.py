"""What the README and the docs name exists: rows, flags, settings, files, modules, messages, targets of make."""
import argparse
import ast
import json
import pytest
import re
import subprocess
import yaml
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from support.docs import PAGES, ROOT, blocks_of, commands_of, text_of
from support.docs_workspace import CLEAN, RECIPE
from support.faults import Faults
from typing import Any

from swift_citrusv.cli import main as cli
from swift_citrusv.rows.contract import parse_row
from swift_citrusv.settings import Settings

PACKAGE = ROOT / 'swift_citrusv'
FOLDERS = ('templates', 'examples', 'tests', 'swift_citrusv', 'docs', '.ci')
# In architecture.md the template's methods are written without its module.
SHORT_NAMES = {'CitrusVTemplate': 'encoding.template.CitrusVTemplate'}

# ---- blocks and commands


@pytest.mark.parametrize('page', PAGES)
def test_blocks_can_be_read(page):
    for language, text in blocks_of(page):
        if language == 'python':
            ast.parse(text)
        elif language == 'json':
            assert parse_row(json.loads(text), row_id=page).masks
        elif language == 'yaml':
            # The only YAML of the docs are recipes of `citrusv data run`, which the documented commands run.
            assert yaml.safe_load(text) in [yaml.safe_load(recipe) for recipe in (RECIPE, CLEAN)]
        elif language == 'bash':
            subprocess.run(['bash', '-n'], input=text, text=True, check=True)
        else:
            assert language == '', language


def test_the_row_is_shown():
    assert 'json' in dict(blocks_of('README.md')) and 'json' in dict(blocks_of('docs/data.md'))


@pytest.mark.parametrize('page', PAGES)
def test_commands_are_understood(page):
    """By the parsers themselves: of `citrusv` all of it, of `swift` the names of its flags."""
    from swift.arguments import (AppArguments, DeployArguments, ExportArguments, InferArguments, RLHFArguments,
                                 SftArguments)
    classes = {'sft': SftArguments, 'rlhf': RLHFArguments, 'infer': InferArguments, 'deploy': DeployArguments,
               'app': AppArguments, 'export': ExportArguments}  # yapf: disable
    for command in commands_of(page):
        if command.program == 'citrusv' and command.words[1] != '--version':
            # In prose a command is shortened to what is spoken of.
            name, *words = command.words[1:]
            args, unknown = citrusv_parser(name).parse_known_args(words)
            assert not unknown, (name, unknown)
        elif command.program == 'swift':
            known = {f'--{field.name}' for field in fields(classes[command.words[1]])}
            assert command.flags <= known, (command.words, command.flags - known)


def citrusv_parser(name: str) -> Any:
    """Of a subcommand, without what it requires."""
    commands = next(action for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction))
    parser = commands.choices[name]
    for action in parser._actions:
        action.required = False
        if not action.option_strings and action.nargs is None:
            action.nargs = '?'
    return parser


def test_settings_table_is_complete():
    table = re.findall(r'^\| (`.*?) \|', text_of('docs/settings.md'), flags=re.MULTILINE)
    named = [name for cell in table for name in re.findall(r'`(\w+)`', cell)]
    assert sorted(named) == sorted(Settings.__dataclass_fields__)


def test_make_help_lists_all_targets():
    makefile = text_of('Makefile')
    phony = re.search(r'^\.PHONY: (.*)$', makefile, flags=re.MULTILINE)
    assert phony is not None
    described = re.findall(r'^([a-z-]+):.*## \S', makefile, flags=re.MULTILINE)
    assert sorted(described) == sorted(phony[1].split())
    for page in PAGES:
        for command in commands_of(page):
            assert command.program != 'make' or command.words[1] in described, command


# ---- files and links


@pytest.mark.parametrize('page', [*PAGES, 'CHANGELOG.md'])
def test_files_that_are_named_exist(page):
    text = text_of(page)
    for name in re.findall(rf'(?<![\w./])((?:{"|".join(map(re.escape, FOLDERS))})/[\w./]+)', text):
        assert (ROOT / name.rstrip('.').replace('stageN', 'stage1')).exists(), name
    for name in re.findall(r'`(bench_\w+\.py)', text):
        assert (ROOT / 'tests/bench' / name).exists(), name
    for name, anchor in re.findall(r'\]\(([^)#:]*)#?([^):]*)\)', text):
        target = (ROOT / page).parent.joinpath(name) if name else ROOT / page
        assert target.exists(), name
        assert not anchor or anchor in anchors(target), (name, anchor)


def anchors(path: Path) -> set[str]:
    """Of the headings of a page, as GitHub makes them."""
    headings = re.findall(r'^#+ (.*)$', path.read_text(encoding='utf-8'), flags=re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


def test_every_page_is_in_the_index():
    index, readme = text_of('docs/README.md'), text_of('README.md')
    for page in PAGES:
        name = Path(page).name
        # The list of old names is linked from architecture.md and CHANGELOG.md.
        if page.startswith('docs/') and name not in ('README.md', 'module_names.md'):
            assert f']({name})' in index and f'](docs/{name})' in readme, page


# ---- modules


@pytest.mark.parametrize('page', [page for page in PAGES if page != 'docs/module_names.md'])
def test_modules_that_are_named_exist(page):
    for name in names_of(page):
        assert exists(name), f'{page} names {name}'


def test_new_module_names_exist():
    rows = re.findall(r'^\| `([\w.]+)` \| (.*) \|$', text_of('docs/module_names.md'), flags=re.MULTILINE)
    names = {f'{room}.{new}' for room, cells in rows for new in re.findall(r'→ `(\w+)`', cells)}
    assert len(names) > 90
    for name in names:
        assert exists(name), name


def names_of(page: str) -> Iterator[str]:
    """Names below `swift_citrusv`, dotted: written with the package, or after a room."""
    rooms = '|'.join(path.stem for path in PACKAGE.iterdir() if path.suffix == '.py' or (path / '__init__.py').exists())
    for name in re.findall(r'`([\w.]+)`', text_of(page)):
        name = name.removeprefix('swift_citrusv.')
        short, _, rest = name.partition('.')
        if short in SHORT_NAMES and rest:
            yield f'{SHORT_NAMES[short]}.{rest}'
        elif re.fullmatch(rf'(?:{rooms})\.\w[\w.]*', name) and not name.endswith('.py'):
            yield name


def exists(name: str) -> bool:
    """Whether a module, or a class, function, method or constant in one, has this dotted name."""
    path, parts = PACKAGE, name.split('.')
    while parts and (path / parts[0]).is_dir():
        path = path / parts.pop(0)
    module = path / f'{parts.pop(0)}.py' if parts and (path / f'{parts[0]}.py').exists() else path / '__init__.py'
    body: list[ast.stmt] = ast.parse(module.read_text(encoding='utf-8')).body
    for part in parts:
        found = next((node for node in body if part in defined(node)), None)
        if found is None:
            return False
        body = getattr(found, 'body', [])
    return True


def defined(node: ast.stmt) -> set[str]:
    """The names that a statement defines."""
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
        return {node.name}
    if isinstance(node, ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


def test_names_are_really_looked_up():
    assert exists('rows.contract.parse_row') and exists('encoding.template.CitrusVTemplate.encode')
    assert exists('scoring.masks') and exists('settings.Settings.from_env') and exists('volumes.Volume')
    for name in ('rows.nothing', 'rows.contract.nothing', 'encoding.template.CitrusVTemplate.nothing',
                 'rows.masks.a.b'):
        assert not exists(name), name
    assert len(set(names_of('docs/architecture.md'))) > 50


def test_table_of_floors_is_that_of_the_rooms():
    """docs/architecture.md and `FLOORS` of test_rooms.py."""
    tree = ast.parse(text_of('tests/project/test_rooms.py'))
    floors = next(ast.literal_eval(node.value) for node in tree.body
                  if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == 'FLOORS'
                  and node.value is not None)  # yapf: disable
    rows = re.findall(r'^\| (\d+) \| (.*?) \|', text_of('docs/architecture.md'), flags=re.MULTILINE)
    table = {int(floor): set(re.findall(r'`(\w+)`', rooms)) for floor, rooms in rows}
    assert table == {floor: set(rooms) for floor, rooms in enumerate(floors)}


# ---- messages


def test_table_of_faults_is_that_of_the_tests(tmp_path):
    """docs/robustness.md says of every fault what the tests check."""
    table = re.findall(
        r'^\| (.+?)( ¹)? \| `([\w-]+)` \| (line|header|pixels) \|$', text_of('docs/robustness.md'), flags=re.MULTILINE)
    faults = [(fault.name, ' ¹' if fault.needs_model else '', fault.kind, fault.found)
              for fault in Faults(tmp_path / 'files').bad()]
    assert table == faults


def test_messages_that_are_quoted_are_those_of_the_code():
    texts = [literal for path in PACKAGE.rglob('*.py') for literal in literals(path)]
    quoted = re.findall(r'\*\*.*?`(.+?)`\.\*\*', text_of('docs/troubleshooting.md'))
    resumed = re.findall(r'^ {4}(output/run/checkpoint.*)$', text_of('docs/robustness.md'), flags=re.MULTILINE)
    fragments = [fragment for message in [*quoted, *resumed] for fragment in fixed_parts(message)]
    assert len(quoted) > 4 and len(resumed) == 1 and len(fragments) > 5
    for fragment in fragments:
        assert any(fragment in text for text in texts), f'no message of the code has {fragment!r}'


def literals(path: Path) -> Iterator[str]:
    """The texts of a file, those with values in them with `{}` for each value."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.JoinedStr):
            yield ''.join(str(part.value) if isinstance(part, ast.Constant) else '{}' for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def fixed_parts(message: str) -> Iterator[str]:
    """What a message has beside its values: pieces of four words or more, without the first, which may be a value."""
    for part in re.split(r'\.\.\.|\(.*?\)|\S*\d\S*', message):
        words = part.split()
        if len(words) > 3:
            yield ' '.join(words[1:])
