"""What the wheel and the sdist contain, and what plain and editable installs and uninstalls do."""
import importlib.metadata
import json
import pytest
import tarfile
import zipfile
from email.message import Message
from email.parser import HeaderParser
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.packaging import (KINDS, ROOT, Environment, copy_of_the_checkout, copy_with_stand_ins, make_sdist,
                               names_in_wheel, shipped_files)

from swift_citrusv import __version__
from swift_citrusv._build import PTH_NAME

# Suffixes of the data files that the package needs.
DATA = {'.css', '.js', '.yaml', '.txt', '.md', '.jsonl', '.typed'}


@pytest.fixture(scope='module')
def metadata(wheel) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith('.dist-info/METADATA'))
        return HeaderParser().parsestr(archive.read(name).decode())


def test_the_walk_finds_every_room_and_kind_of_file(repo):
    """The expectation of the tests below does not pass vacuously."""
    files = shipped_files(repo)
    rooms = {path.name for path in (ROOT / 'swift_citrusv').iterdir() if (path / '__init__.py').is_file()}
    assert len(rooms) >= 13 and {'model', 'plugin', 'scoring', 'app', 'cli'} <= rooms
    for room in rooms:
        assert f'swift_citrusv/{room}/__init__.py' in files, room
    assert {f'.{name.rpartition(".")[2]}' for name in files} == DATA | {'.py'}
    assert sum(name.endswith('.py') for name in files) > 150
    assert sum(name.startswith('swift_citrusv/templates/') for name in files) >= 9


def test_wheel_contents(wheel, repo):
    names = names_in_wheel(wheel)
    info = 'swift_citrusv-{}.dist-info'.format(wheel.name.split('-')[1])
    assert {name for name in names if not name.startswith(info)} == shipped_files(repo) | {PTH_NAME}
    with zipfile.ZipFile(wheel) as archive:
        pth = archive.read(PTH_NAME).decode()
        assert pth.startswith('import ') and pth.count('\n') == 1 and pth.endswith('\n')
        assert f'\n{PTH_NAME},sha256=' in '\n' + archive.read(f'{info}/RECORD').decode()
        assert archive.read(f'{info}/licenses/LICENSE') == (ROOT / 'LICENSE').read_bytes()
        entry_points = archive.read(f'{info}/entry_points.txt').decode()
    assert 'citrusv = swift_citrusv.cli.main:main' in entry_points.splitlines()


@pytest.mark.parametrize('kind', KINDS)
def test_installs_contain_every_file(environment, kind, repo):
    """As Python code finds them: through `importlib.resources`, and each module through the import system."""
    code = '''
import importlib.util, json, os, sys
from importlib.resources import files
root = str(files('swift_citrusv'))
paths = [os.path.join(folder, name) for folder, _, names in os.walk(root, followlinks=True) for name in names]
found = sorted(os.path.relpath(path, os.path.dirname(root)) for path in paths if '__pycache__' not in path)
modules = [name[:-3].replace('/', '.').removesuffix('.__init__') for name in found if name.endswith('.py')]
missing = [name for name in modules if importlib.util.find_spec(name) is None]
print(json.dumps([found, missing]))
'''
    found, missing = json.loads(environment(kind).check('-c', code))
    assert set(found) == shipped_files(repo) and missing == []


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('folder', ["files('swift_citrusv') / 'templates'", "files('swift_citrusv.templates')"])
def test_templates_are_found(environment, kind, folder):
    code = f"from importlib.resources import files; print(({folder} / 'test_prompts' / 'probe.txt').read_text())"
    assert environment(kind).check('-c', code) == 'probe\n'


def test_a_clean_clone_installs_and_makes_the_whole_sdist(tmp_path):
    """With the real modules: from the files that git has, by way of the sdist, as a package index would serve it."""
    clone = copy_of_the_checkout(tmp_path / 'clone')
    expected = shipped_files(clone)
    sdist = make_sdist(clone, tmp_path)
    with tarfile.open(sdist) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    templates = {name for name in expected if name.startswith('swift_citrusv/templates/')}
    assert expected - templates | {name.removeprefix('swift_citrusv/') for name in templates} <= names
    assert {'setup.cfg', 'pyproject.toml', 'README.md', 'LICENSE'} <= names
    for name, source in (('from_sdist', sdist), ('from_clone', clone)):
        made = Environment(tmp_path / name)
        made.install(source)
        installed = {
            str(path.relative_to(made.site))
            for path in (made.site / 'swift_citrusv').rglob('*') if path.is_file() and path.suffix != '.pyc'
        }
        assert installed == expected, name
        assert (made.site / PTH_NAME).is_file()
    result = made.run(made.folder / 'bin' / 'citrusv', '--version')
    assert result.returncode == 0 and __version__ in result.stdout, result.stderr


def test_metadata(metadata):
    assert metadata['Name'] == 'swift-citrusv'
    assert metadata['License-Expression'] == 'Apache-2.0'
    assert metadata['Requires-Python'] == '>=3.10'
    assert metadata.get_payload().strip() == '# The long description'


def test_requirements_have_both_bounds_and_hold_here(metadata):
    requirements = [Requirement(line) for line in metadata.get_all('Requires-Dist')]
    assert {'ms-swift', 'torch', 'transformers', 'sam2'} <= {canonicalize_name(item.name) for item in requirements}
    for requirement in requirements:
        if requirement.name == 'swift-citrusv':
            continue
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators == {'=='} or operators == {'>=', '<'}, f'{requirement} leaves a bound open'
        if requirement.marker is None:
            version = importlib.metadata.version(requirement.name)
            assert requirement.specifier.contains(version), f'{requirement}, but the tests run with {version}'


@pytest.mark.parametrize('kind', KINDS)
def test_moved_and_uninstalled(kind, wheel, tmp_path):
    """Python starts silently while the package is gone but its .pth is not; an uninstall leaves nothing."""
    made = Environment(tmp_path / 'env')
    before = made.files()
    package = made.site / 'swift_citrusv'
    if kind == 'editable':
        package = copy_with_stand_ins(tmp_path / 'repo')
        made.install('--editable', package)
    else:
        made.install(wheel)
    assert made.files() > before
    made.check('-c', 'import swift_citrusv')
    package.rename(tmp_path / 'moved')
    assert made.check('-c', 'print(1)') == '1\n'
    assert made.run('-c', 'import swift_citrusv').returncode != 0, 'it was found elsewhere'
    (tmp_path / 'moved').rename(package)
    made.pip('uninstall', '--yes', 'swift-citrusv')
    assert made.files() == before
