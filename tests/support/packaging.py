"""Builds and installs the package in throw-away environments that share this environment's other packages."""
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KINDS = ('plain', 'editable')
_PIP = ['--no-deps', '--no-build-isolation', '--no-index']

# A stand-in for `plugin.register`, which imports in milliseconds: prints its calls, imports another watched module
# inside one of them, and in another one needs a module of ours that imports a watched module itself.
REGISTER = '''
import os
import sys
from ..errors import CompatibilityError

def say(line):
    sys.stdout.write(line + '\\n')  # One call: threads would mix the parts of a `print`.
    sys.stdout.flush()

def on_import(name):
    say(f'begin {name}')
    assert name in sys.modules
    if name == os.environ.get('FAKE_FAILURE'):
        raise CompatibilityError(f'{name} has changed')
    if name == 'swift.loss':
        # Not `import swift.metrics` and `swift.metrics.VALUE`: while another thread imports a module, Python lets this
        # one go on before the parent package has the attribute. `from` looks the module up in `sys.modules`.
        from swift.metrics import VALUE
        assert VALUE == 1
    if name == 'swift.template':
        from ..needs_template import VALUE
    say(f'end {name}')
'''
NEEDS_TEMPLATE = 'from swift.template import VALUE\nVALUE += 1\n'


class Environment:
    """A virtual environment for the distribution."""

    def __init__(self, folder: Path):
        # Without its own pip, which would take longer to install than everything else here.
        venv.create(folder, symlinks=True)
        self.folder = folder
        self.python = folder / 'bin' / 'python'
        self.site = next(folder.glob('lib/python3*/site-packages'))
        # A path from a .pth file is searched for modules, but the .pth files in it are not executed: these environments
        # have our packages, but not our own install of the plugin.
        packages = [path for path in sys.path if Path(path).name in {'site-packages', 'dist-packages'}]
        (self.site / 'stack.pth').write_text('\n'.join(packages))

    def pip(self, *arguments: str | Path) -> None:
        done = subprocess.run([sys.executable, '-m', 'pip', '--python', self.python, *arguments],
                              env=clean_environ(),
                              cwd=self.folder,
                              capture_output=True,
                              text=True)
        assert done.returncode == 0, done.stderr

    def install(self, *what: str | Path) -> None:
        """Installs a wheel, an sdist or a source folder; with '--editable' before the folder in place."""
        self.pip('install', *_PIP, '--ignore-installed', '--no-warn-script-location', *what)

    def run(self, *arguments: str | Path, **environ: str | Path) -> subprocess.CompletedProcess:
        return subprocess.run([self.python, *arguments],
                              env=clean_environ(**environ),
                              cwd=self.folder,
                              capture_output=True,
                              text=True)

    def check(self, *arguments: str | Path, **environ: str | Path) -> str:
        """Stdout of a run that must succeed and print nothing on stderr."""
        result = self.run(*arguments, **environ)
        assert result.returncode == 0 and not result.stderr, result.stderr
        return result.stdout

    def files(self) -> set[Path]:
        return {path.relative_to(self.folder) for path in self.folder.rglob('*')}


def clean_environ(**environ: str | Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in {'PYTHONPATH', 'SWIFT_CITRUSV_DISABLE'}}
    return kept | {name: str(value) for name, value in environ.items()}


def copy_of_the_checkout(folder: Path) -> Path:
    """What a clone would contain: every file that git tracks or would add, and nothing that it ignores."""
    command = ['git', 'ls-files', '--cached', '--others', '--exclude-standard', '-z']
    names = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout.split('\0')
    for name in filter(None, names):
        # A file may be deleted but not committed.
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def copy_with_stand_ins(folder: Path) -> Path:
    """What the build reads, with `REGISTER`, a short README, and one template of each suffix."""
    copy_of_the_checkout(folder)
    for name in ('tests', 'docs', 'examples'):
        shutil.rmtree(folder / name)
    (folder / 'README.md').write_text('# The long description\n')
    (folder / 'swift_citrusv' / 'plugin' / 'register.py').write_text(REGISTER)
    (folder / 'swift_citrusv' / 'needs_template.py').write_text(NEEDS_TEMPLATE)
    prompts = folder / 'templates' / 'test_prompts'
    prompts.mkdir(parents=True)
    for suffix in ('yaml', 'jsonl', 'txt', 'md'):
        (prompts / f'probe.{suffix}').write_text('probe')
    return folder


def shipped_files(repo: Path) -> set[str]:
    """All files of a source tree that an install must contain, as paths below site-packages: every module and data file
    of the package, found by walking the tree, and every template."""
    package = {path for path in (repo / 'swift_citrusv').rglob('*') if path.is_file()}
    templates = {path for path in (repo / 'templates').rglob('*') if path.is_file()}
    link = repo / 'swift_citrusv' / 'templates'
    names = {
        str(path.relative_to(repo))
        for path in package if '__pycache__' not in path.parts and link not in path.parents
    }
    return names | {f'swift_citrusv/{path.relative_to(repo)}' for path in templates}


def make_wheel(source: Path, folder: Path) -> Path:
    command: list[str | Path] = [sys.executable, '-m', 'pip', 'wheel', *_PIP, '--wheel-dir', folder, source]
    done = subprocess.run(command, env=clean_environ(), cwd=folder.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(folder.glob('*.whl'))


def make_sdist(repo: Path, folder: Path) -> Path:
    code = f'from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})'
    done = subprocess.run([sys.executable, '-c', code], cwd=repo, env=clean_environ(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(folder.glob('*.tar.gz'))


def names_in_wheel(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert len(names) == len(set(names))
    return set(names)
