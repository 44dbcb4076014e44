"""The import hook behind bare `swift sft --model_type citrusv`.

`swift_citrusv.pth` (written by `_build.py`) calls `install()` at the start of every Python process, so this module
imports nothing that a bare interpreter has not loaded already, and nothing of ours before ms-swift itself is imported.
A process that never imports ms-swift pays for one small finder on `sys.meta_path`.
"""
import os
import sys
from _thread import get_ident  # `threading` would cost more than all the rest of this hook.

DISABLE_VARIABLE = 'SWIFT_CITRUSV_DISABLE'
# The modules of ms-swift whose execution `register.on_import` wants to hear of.
WATCHED = ('swift.model', 'swift.template', 'swift.loss', 'swift.optimizers', 'swift.callbacks', 'swift.metrics',
           'swift.trainers.seq2seq_trainer', 'swift.arguments', 'swift.pipelines.train.sft',
           'swift.infer_engine.transformers_engine', 'swift.pipelines.infer.infer', 'swift.pipelines.infer.deploy',
           'swift.pipelines.app.app')

_OURS = __name__.rpartition('.')[0] + '.'
_pending = set(WATCHED)  # Not yet handled.
_executed: list[str] = []  # Executed, and waiting for `on_import`.
_inside: set[int] = set()  # The threads that are inside `on_import`, or in the middle of a module of ours.


class _Finder:
    """Finds nothing of its own: asks the other finders and wraps the loader of a watched module, or of one of ours."""

    def find_spec(self, name, path=None, target=None):
        if name not in _pending and not name.startswith(_OURS):
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, 'find_spec'):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, 'exec_module'):
                    spec.loader = _Loader(name, spec.loader)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    """Stands in for a module's loader until the module is executed, then takes itself out again."""

    def __init__(self, name, loader):
        self._name = name
        self._loader = loader

    def __getattr__(self, name):
        # Whoever only looks (runpy, inspect, importlib.resources) meets the true loader.
        return getattr(self._loader, name)

    def exec_module(self, module):
        # The true loader goes back first, so that the module itself, a reload and inspect never see this one.
        module.__loader__ = self._loader
        module.__spec__.loader = self._loader
        if self._name in WATCHED:
            self._loader.exec_module(module)
            _wait(self._name)
            try:
                _handle_executed()
            except BaseException:
                # The import system throws this module away, whichever module the error is about.
                _pending.add(self._name)
                raise
        else:
            outermost = _enter()
            try:
                self._loader.exec_module(module)
            finally:
                if outermost:
                    _inside.discard(get_ident())
            _handle_executed()


_finder = _Finder()


def install() -> None:
    """Calls `register.on_import(name)` once for each module in `WATCHED`, as soon as that module has been executed.

    A module that was imported earlier is handled at once. A second call changes nothing. `on_import` is never entered
    by an import of its own, nor in the middle of a module of ours (`swift_citrusv.template` imports `swift.template`,
    and `on_import('swift.template')` needs the whole of `swift_citrusv.template`): then it waits until that is over.

    Raises:
        CompatibilityError: From `on_import`, here for a module that was imported earlier, otherwise out of the
            `import` statement that the hook answers. A failed module is tried again at its next import.
    """
    if os.environ.get(DISABLE_VARIABLE, '').lower() in {'1', 'true', 'yes', 'on'}:
        return
    if _pending and _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    for name in WATCHED:
        if name in sys.modules:
            _wait(name)
    _handle_executed()


def _wait(name: str) -> None:
    if name in _pending and name not in _executed:
        _executed.append(name)


def _enter() -> bool:
    """Marks this thread as inside; False if it was already, so that only the outermost caller takes the mark off."""
    if get_ident() in _inside:
        return False
    _inside.add(get_ident())
    return True


def _handle_executed() -> None:
    if not _executed or not _enter():
        return
    try:
        while _executed:
            _handle(_executed.pop(0))
    finally:
        _inside.discard(get_ident())


def _handle(name: str) -> None:
    # A module whose `on_import` failed was taken out of sys.modules by the import system, and will be executed again.
    if name not in sys.modules:
        return
    try:
        from .plugin.register import on_import
        on_import(name)
    except BaseException:
        _executed.insert(0, name)
        raise
    _pending.discard(name)
    if not _pending:
        # A new list: another thread may be in the middle of a walk over the old one, and would skip a finder.
        sys.meta_path = [finder for finder in sys.meta_path if finder is not _finder]
