"""`citrusv templates`."""
import pytest
import yaml
from pathlib import Path
from support.command_line import run_citrusv

from swift_citrusv import package_files

STAGES = {'stage1', 'stage2', 'stage3', 'stage4'}


def test_templates_are_listed(capsys):
    status, out, _ = run_citrusv(capsys, 'templates')
    assert status == 0
    assert STAGES < {line.split()[0] for line in out.splitlines() if line.strip()}


@pytest.mark.parametrize('name', sorted(STAGES) + ['stage1.yaml'])
def test_template_path_is_printed_alone(name, capsys):
    status, out, err = run_citrusv(capsys, 'templates', name)
    path = Path(out.removesuffix('\n'))
    assert (status, err) == (0, '')
    assert path.stem == name.removesuffix('.yaml')
    assert yaml.safe_load(path.read_text(encoding='utf-8'))['model_type'] == 'citrusv'


def test_templates_are_copied_and_never_overwritten(tmp_path, capsys):
    target = tmp_path / 'new' / 'folder'
    assert run_citrusv(capsys, 'templates', 'stage4', '--copy', target)[0] == 0
    assert [path.name for path in target.iterdir()] == ['stage4.yaml']
    (target / 'stage4.yaml').write_text('mine')
    status, _, err = run_citrusv(capsys, 'templates', '--copy', target)
    assert status == 2 and 'stage4.yaml would be overwritten' in err
    # No file was copied.
    assert [path.name for path in target.iterdir()] == ['stage4.yaml']
    assert (target / 'stage4.yaml').read_text() == 'mine'
    assert run_citrusv(capsys, 'templates', '--copy', tmp_path / 'all')[0] == 0
    source = package_files.templates_dir()
    assert {
        path.name: path.read_bytes()
        for path in (tmp_path / 'all').iterdir()
    } == {
        path.name: path.read_bytes()
        for path in source.iterdir() if path.is_file()
    }


def test_templates_dir_inside_and_beside_the_package(tmp_path, monkeypatch):
    package = tmp_path / 'swift_citrusv'
    package.mkdir()
    monkeypatch.setattr(package_files.resources, 'files', lambda name: package)
    with pytest.raises(FileNotFoundError, match='Reinstall swift-citrusv'):
        package_files.templates_dir()
    for folder in (tmp_path / 'templates', package / 'templates'):
        folder.mkdir()
        (folder / 'stage1.yaml').write_text('')
        assert package_files.templates_dir() == folder
