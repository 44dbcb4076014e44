"""Every command and every Python block of the README and the docs runs.

`citrusv` and Python: here, in a folder with the files that they name; `citrusv try` and the README's Python by
`tests/runs/test_try.py`. `swift`: by the scripts in `examples/`, or by the tests of `swift infer`, `deploy` and `app`,
with the same flags. `make`: by CI.
`pip`: by the packaging tests.
"""
import ast
import os
import pytest
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from support.docs import PAGES, ROOT, Command, blocks_of, commands_of
from support.docs_workspace import STAND_INS, make_workspace
from support.serving import answering

from swift_citrusv import __version__
from swift_citrusv.cli.main import main

ALL = [command for page in PAGES for command in commands_of(page)]
CITRUSV = {command.words: command for command in ALL
           if command.program == 'citrusv' and command.whole and command.words[1] != 'try'}  # yapf: disable
PYTHON = [(page, text) for page in PAGES if page != 'README.md' for language, text in blocks_of(page)
          if language == 'python']  # yapf: disable
SERVER = 'http://host:8000'
# The walk of docs/data.md: what must have run before a command that names its output.
TRAINABLE = 'output/trainable'
BEFORE = {
    'output/series': 'citrusv data dicom scans --output output/series',
    TRAINABLE: f'citrusv data run clean.yaml reports.jsonl --output {TRAINABLE}',
}
# A recipe that names an output.
NAMED_BY = {'clean.yaml': 'output/series', TRAINABLE: 'output/series'}
# Only in prose, and run by tests of their own.
PAGE, VERSION = 'citrusv app --model DIR'.split(), 'citrusv --version'.split()
# What runs `citrusv try`, whole, and gives it its flags.
TRY_TESTS = ('tests/runs/test_try.py', 'tests/cli/test_try_rows.py')
# Which files run a subcommand of `swift`, and give it its flags.
SWIFT_TESTS = {
    'infer': ('tests/support/infer_run.py', 'tests/runs/test_infer.py'),
    'deploy': ('tests/support/serving.py', 'tests/runs/conftest.py', 'tests/runs/test_deploy.py'),
    'app': ('tests/app', ),
    'rlhf': ('tests/plugin/test_rlhf.py', ),
}
# What makes them run it.
SWIFT_CALLS = {'infer': 'infer_main(', 'deploy': 'SwiftDeploy(', 'app': 'SwiftApp(', 'rlhf': 'rlhf=True'}


@pytest.fixture(scope='module')
def workspace(tmp_path_factory, tiny_mllm, tiny_checkpoint, talkative_checkpoint) -> Path:
    return make_workspace(tmp_path_factory.mktemp('docs'), tiny_mllm, tiny_checkpoint, talkative_checkpoint)


@pytest.fixture
def inside(workspace, monkeypatch) -> Path:
    monkeypatch.chdir(workspace)
    return workspace


@pytest.fixture(scope='module')
def server() -> Iterator[str]:
    with answering(lambda body, number: (200, 'The cell: [SEG].')) as (url, _):
        yield url


def outputs_of(words: list[str]) -> list[Path]:
    """What a command writes, where it names it."""
    named = [words[i + 1] for i, word in enumerate(words) if word in ('--output', '--pictures')]
    return [Path(name) for name in named] or ([Path(f'output/eval-{words[1]}')] if words[0] == 'eval' else [])


def answers_first(command: Command) -> bool:
    """Whether a model answers the rows, in a process of `swift infer`: `tests/cli/test_predict.py` holds that."""
    return command.words[1] == 'eval' and '--model' in command.words


def starts_ray(command: Command) -> bool:
    """Whether a command starts a cluster, which takes a minute."""
    return 'ray' in command.words


@pytest.fixture
def sbatch(tmp_path, monkeypatch) -> None:
    """A stand-in for Slurm's command, which takes the jobs and runs none."""
    (tmp_path / 'sbatch').write_text('#!/bin/sh\necho Submitted batch job 1\n')
    (tmp_path / 'sbatch').chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')


@pytest.mark.parametrize('command', [
    pytest.param(command, marks=pytest.mark.slow if answers_first(command) or starts_ray(command) else (),
                 id=' '.join(command.words)) for command in CITRUSV.values()])  # yapf: disable
def test_citrusv(command, inside, server, sbatch, monkeypatch):
    words = [STAND_INS.get(word, server if word == SERVER else word) for word in command.words[1:]]
    if words[0] == 'compare':
        for run, answers in (('a', 'out.jsonl'), ('b', 'answers.jsonl')):
            evaluation = f'eval segmentation --pred {answers} --ref rows.jsonl --no-report --output output/{run}'
            assert main(evaluation.split()) == 0
    if 'filter_rules.yaml' in words and not Path('filter_rules.yaml').exists():
        assert main('templates filter_rules --copy .'.split()) == 0
    outputs = outputs_of(words)
    for name, command_before in BEFORE.items():
        named = any(word.startswith(name) or NAMED_BY.get('/'.join(word.split('/')[:2])) == name for word in words)
        if named and Path(name) not in outputs and not Path(name).exists():
            assert main(command_before.split()[1:]) == 0
    if words[-1].startswith(f'{TRAINABLE}/'):
        monkeypatch.setenv('ROOT_IMAGE_DIR', TRAINABLE)
    if words[:2] in (['data', 'why'], ['data', 'verify']) and not Path(words[2]).exists():
        assert main(['data', 'filter', 'rows.jsonl', '--output', words[2]]) == 0
    if words[0] == 'templates':
        Path('filter_rules.yaml').unlink(missing_ok=True)
        Path('deid_rules.yaml').unlink(missing_ok=True)
    for path in outputs_of(words):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    assert main(words) == 0
    for path in outputs_of(words):
        assert path.exists(), f'{path} was not written'


def test_citrusv_app(inside, monkeypatch):
    from swift_citrusv.app import server
    served = []
    monkeypatch.setattr(server, 'serve', lambda pipe, listener, **settings: served.append(pipe))
    assert main([*PAGE[1:], '--port', '0']) == 0
    assert len(served) == 1


def test_citrusv_version(capsys):
    with pytest.raises(SystemExit, match='^0$'):
        main(VERSION[1:])
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize('page, text', PYTHON, ids=[f'{page}-{i}' for i, (page, _) in enumerate(PYTHON)])
def test_python(page, text, inside):
    exec(compile(text, page, 'exec'), {})


# ---- who runs a command


@pytest.mark.parametrize('page', PAGES)
def test_every_command_is_run(page):
    commands = commands_of(page)
    for command in commands:
        assert runner_of(command) is not None, f'{page}: no test runs `{shlex.join(command.words)}` with these flags'
    # A parser that finds nothing would pass.
    assert commands or page == 'docs/module_names.md'


def runner_of(command: Command) -> str | None:
    """Who runs a command with all of its flags; None: nobody."""
    program, first = command.words[:2]
    if program == 'citrusv':
        if command.words[1] == 'try':
            given = {word for file in TRY_TESTS for word in string_words((ROOT / file).read_text(encoding='utf-8'))}
            return ', '.join(TRY_TESTS) if command.flags <= given else None
        runs = [*CITRUSV, tuple(PAGE), tuple(VERSION)]
        return next(('this file' for run in runs if covers(run, command)), None)
    if program == 'swift':
        return swift_runner(command)
    if program == 'make':
        return 'CI' if first in made_by_ci() else 'by hand' if first in ('bench', 'clean', 'help') else None
    if program == 'bash':
        return 'test_examples' if Path(first).name in scripts_that_are_run() else None
    if program == 'pip':
        return 'test_packaging' if first == 'install' and all(map(is_installable, command.words[2:])) else None
    # pre-commit, build, and pytest on parts of the tests: tools of others, with files of ours.
    files = [word for word in command.words if word.startswith('tests/')]
    return 'others' if all((ROOT / file).exists() for file in files) else None


def covers(run: tuple[str, ...], command: Command) -> bool:
    """Whether a command that is run has the subcommands and all the flags of another."""
    flags = {word for word in run if word.startswith('--')}
    same = run[1] == command.words[1]
    if same and run[1] == 'eval' and len(command.words) > 2 and not command.words[2].startswith('-'):
        same = run[2] == command.words[2]
    return same and command.flags <= flags


def swift_runner(command: Command) -> str | None:
    name = command.words[1]
    lines = [line for text in map(Path.read_text, (ROOT / 'examples').glob('*.sh'))
             for line in text.replace('\\\n', ' ').splitlines()]  # yapf: disable
    for line in lines:
        match = re.match(rf'(?:\w+=\S+\s+)*swift {name} .*', line.strip())
        if match and command.flags <= set(re.findall(r'--\w+', line)):
            return 'test_examples'
    files = [file for entry in SWIFT_TESTS.get(name, ()) for path in [ROOT / entry]
             for file in ([path] if path.is_file() else sorted(path.glob('*.py')))]  # yapf: disable
    texts = [file.read_text(encoding='utf-8') for file in files]
    if not any(SWIFT_CALLS[name] in text for text in texts):
        return None
    given = {word for text in texts for word in string_words(text)}
    return ', '.join(SWIFT_TESTS[name]) if command.flags <= given else None


def string_words(source: str) -> set[str]:
    """The words of all string constants of a file but its docstrings."""
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = [node.value for node in ast.walk(tree)
                 if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
                 ]  # yapf: disable
    return {word for text in constants for word in text.split()}


def made_by_ci() -> set[str]:
    """The targets that `.ci/run` makes, and what they need."""
    targets = dict(re.findall(r'^([\w-]+):([^=#\n]*)', (ROOT / 'Makefile').read_text(encoding='utf-8'), re.MULTILINE))
    made = re.findall(r'^make ([\w-]+)', (ROOT / '.ci' / 'run').read_text(encoding='utf-8'), re.MULTILINE)
    for target in made:
        made += [name for name in targets[target].split() if name in targets and name not in made]
    return set(made)


def scripts_that_are_run() -> set[str]:
    tree = ast.parse((ROOT / 'tests/project/test_examples.py').read_text(encoding='utf-8'))
    table = next(node.value for node in tree.body
                 if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == 'RECIPES')  # yapf: disable
    return set(ast.literal_eval(table))


def is_installable(name: str) -> bool:
    """Whether it is `.`, a wheel, or `swift-citrusv[app]` with extras that exist."""
    extras = re.fullmatch(r"swift-citrusv\[([\w,]+)\]", name)
    setup = (ROOT / 'setup.cfg').read_text(encoding='utf-8').partition('[options.extras_require]')[2]
    if extras is None:
        return name in ('.', 'dist/*.whl')
    known = setup.partition('\n[')[0]
    return all(f'\n{extra} =' in known for extra in extras[1].split(','))


def test_unknown_commands_are_found():
    """The checks above can fail."""
    lines = ('citrusv eval segmentation --model DIR --nothing 1', 'citrusv nothing',
             'citrusv try rows.jsonl --nothing 1', 'swift infer --nothing 1',
             'swift rlhf --nothing 1', 'swift sft --nothing 1', 'make nothing', 'bash examples/nothing.sh',
             'pip install swift-citrusv[nothing]', 'pytest tests/nothing')  # yapf: disable
    for line in lines:
        assert runner_of(Command('', tuple(line.split()), True)) is None, line
