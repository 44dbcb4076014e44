"""One wheel, and one environment for each kind of install, for all tests of packaging and of the import hook."""
import pytest
from collections.abc import Callable
from pathlib import Path
from support.packaging import KINDS, Environment, copy_with_stand_ins, make_wheel

from swift_citrusv._hook import WATCHED


@pytest.fixture(scope='session')
def repo(tmp_path_factory) -> Path:
    """A copy of the repository in which `plugin.register` is a stand-in."""
    return copy_with_stand_ins(tmp_path_factory.mktemp('source') / 'repo')


@pytest.fixture(scope='session')
def editable(repo, tmp_path_factory) -> Environment:
    """An editable install of `repo`, which links `templates/` into the package."""
    environment = Environment(tmp_path_factory.mktemp('editable') / 'env')
    environment.install('--editable', repo)
    return environment


@pytest.fixture(scope='session')
def wheel(repo, editable, tmp_path_factory) -> Path:
    """The wheel of `repo`; built after the editable install, whose link must not get into it."""
    assert (repo / 'swift_citrusv' / 'templates').is_symlink()
    return make_wheel(repo, tmp_path_factory.mktemp('dist') / 'wheels')


@pytest.fixture(scope='session')
def environment(editable, wheel, tmp_path_factory) -> Callable[[str], Environment]:
    """The environment of a kind, 'plain' or 'editable'."""
    plain = Environment(tmp_path_factory.mktemp('plain') / 'env')
    plain.install(wheel)
    return dict(zip(KINDS, (plain, editable))).__getitem__


@pytest.fixture(scope='session')
def fake_swift(tmp_path_factory) -> Path:
    """A folder with a package `swift` that has every watched module; `swift.pipelines.train.sft` imports some."""
    folder = tmp_path_factory.mktemp('fake')
    for name in WATCHED:
        file = folder / (name.replace('.', '/') + '.py')
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text('VALUE = 1\n')
    for package in ('swift', 'swift/pipelines', 'swift/pipelines/train'):
        (folder / package / '__init__.py').touch()
    (folder / 'swift/pipelines/train/sft.py').write_text('import swift.arguments\nimport swift.model\n')
    return folder
