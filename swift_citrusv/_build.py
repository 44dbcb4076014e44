"""setuptools commands that put `swift_citrusv.pth` beside the package, in plain and in editable wheels.

Used at build time only (`cmdclass` in setup.cfg names the classes). setuptools runs this file without the package, so
it imports nothing of ours.
"""
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

import base64
import hashlib
import os
import zipfile
from pathlib import Path

PTH_NAME = 'swift_citrusv.pth'
# Mapped to the top level by `package_dir`.
TEMPLATES = 'swift_citrusv.templates'
# One line, as `site` executes lines one by one. ImportError is what is left when the package is gone but this file is
# not (an editable checkout that was moved): Python starts in silence. `site` itself reports any other error, and goes
# on.
PTH_LINE = (r'import sys; exec("try:\n from swift_citrusv import _hook\n'
            r'except ImportError: pass\nelse: _hook.install()")')


class BuildPy(build_py):
    """Adds `templates/` to the packages, and the .pth to the root of the build, from where it goes to site-packages."""

    def finalize_options(self) -> None:
        # `packages = find:` in setup.cfg sees folders inside the package alone.
        if TEMPLATES not in self.distribution.packages:
            self.distribution.packages.append(TEMPLATES)
        super().finalize_options()

    @property
    def _pth(self) -> str:
        return os.path.join(self.build_lib, PTH_NAME)

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            Path(self.build_lib).mkdir(parents=True, exist_ok=True)
            Path(self._pth).write_text(PTH_LINE + '\n', encoding='utf-8')

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        outputs = super().get_outputs(include_bytecode)
        return outputs if self.editable_mode else [*outputs, self._pth]


class EditableWheel(editable_wheel):
    """Adds the .pth to the finished wheel, and links `templates/` into the package in place.

    An editable wheel holds only what setuptools' own strategy writes; nothing public lets a command add a file before
    the wheel is closed. And the import finder that it writes cannot find a mapped folder that has no `__init__.py`:
    with the link, `importlib.resources.files('swift_citrusv') / 'templates'` is right after either kind of install.
    """

    def run(self) -> None:
        super().run()
        link = Path(self.project_dir, 'swift_citrusv', 'templates')
        if not link.exists():
            link.unlink(missing_ok=True)  # A link that leads nowhere.
            link.symlink_to(Path('..', 'templates'), target_is_directory=True)
        wheels = list(Path(self.dist_dir).glob('swift_citrusv-*.editable-*.whl'))
        if not wheels:
            # An editable install without the hook would look fine until `swift sft` knows no `citrusv`.
            raise FileNotFoundError(f'setuptools left no editable wheel in {self.dist_dir}, so {PTH_NAME} has no home.')
        for wheel in wheels:
            _add_to_wheel(wheel, PTH_NAME, f'{PTH_LINE}\n'.encode())


def _add_to_wheel(wheel: Path, name: str, data: bytes) -> None:
    """Adds a file to a wheel and to its RECORD (so that an uninstall removes it); no change if it is there."""
    with zipfile.ZipFile(wheel) as old:
        files = {info: old.read(info) for info in old.infolist()}
    if any(info.filename == name for info in files):
        return
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()
    with zipfile.ZipFile(wheel, 'w', zipfile.ZIP_DEFLATED) as new:
        new.writestr(name, data)
        for info, content in files.items():
            if info.filename.endswith('.dist-info/RECORD'):
                content = f'{name},sha256={digest},{len(data)}\n'.encode() + content
            new.writestr(info, content)
