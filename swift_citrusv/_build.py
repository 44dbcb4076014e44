"""setuptools commands that put `swift_citrusv.pth` beside the package, in plain and in editable wheels.

Used at build time only (`cmdclass` in setup.cfg names the classes). setuptools runs this file without the package, so
it imports no other module of the package.
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
# One line, because `site` executes line by line. If the package is gone but this file is not (a moved editable
# checkout), the ImportError is ignored, so that Python starts silently. `site` itself reports any other error.
PTH_LINE = (r'import sys; exec("try:\n from swift_citrusv import _hook\n'
            r'except ImportError: pass\nelse: _hook.install()")')


class BuildPy(build_py):
    """Adds `templates/` to the packages, and the .pth file to the root of the build, which becomes site-packages."""

    def finalize_options(self) -> None:
        # `packages = find:` in setup.cfg only finds folders inside the package.
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
    """Adds the .pth file to the finished wheel, and links `templates/` into the package of the checkout.

    setuptools has no public way for a command to add a file to an editable wheel before it is closed. And its import
    finder does not find a mapped folder without `__init__.py`; with the link,
    `importlib.resources.files('swift_citrusv') / 'templates'` exists after both kinds of install.
    """

    def run(self) -> None:
        super().run()
        link = Path(self.project_dir, 'swift_citrusv', 'templates')
        if not link.exists():
            link.unlink(missing_ok=True)  # A dangling link.
            link.symlink_to(Path('..', 'templates'), target_is_directory=True)
        wheels = list(Path(self.dist_dir).glob('swift_citrusv-*.editable-*.whl'))
        if not wheels:
            # Without the hook, the install would succeed and `swift sft` would not find `citrusv`.
            raise FileNotFoundError(f'setuptools wrote no editable wheel to {self.dist_dir}, so {PTH_NAME} cannot be '
                                    'added. Install setuptools >=77,<100.')
        for wheel in wheels:
            _add_to_wheel(wheel, PTH_NAME, f'{PTH_LINE}\n'.encode())


def _add_to_wheel(wheel: Path, name: str, data: bytes) -> None:
    """Adds a file to a wheel and to its RECORD, so that an uninstall removes it; does nothing if it is there."""
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
