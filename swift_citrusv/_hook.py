"""The import hook that makes `swift sft --model_type citrusv` work without further flags.

`swift_citrusv.pth` (written by `_build.py`) calls `install()` at the start of every Python process. So this module
imports only what a bare interpreter has loaded already, and the rest of the package only after ms-swift is imported. In
a process that never imports ms-swift, the hook costs one small finder on `sys.meta_path`.
"""
import os
import sys
from _thread import get_ident  # `threading` would cost more than the rest of this hook.

DISABLE_VARIABLE = 'SWIFT_CITRUSV_DISABLE'
# The modules of ms-swift for which `plugin.register.on_import` is called.
WATCHED = ('swift.model', 'swift.template', 'swift.loss', 'swift.optimizers', 'swift.callbacks', 'swift.metrics',
           'swift.trainers.seq2seq_trainer', 'swift.arguments', 'swift.pipelines.train.sft',
           'swift.pipelines.train.rlhf', 'swift.infer_engine.transformers_engine', 'swift.pipelines.infer.infer',
           'swift.pipelines.infer.deploy', 'swift.pipelines.app.app')

_OURS = __name__.rpartition('.')[0] + '.'
_pending = set(WATCHED)  # Not yet handled.
_executed: list[str] = []  # Executed, but `on_import` has not been called.
_inside: set[int] = set()  # The threads that are executing `on_import`, or a module of ours.


class _Finder:
    """Wraps the loaders that other finders return for watched modules and for modules of ours."""

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
    """Replaces a module's loader until the module is executed, and then restores it."""

    def __init__(self, name, loader):
        self._name = name
        self._loader = loader

    def __getattr__(self, name):
        # Code that only inspects (runpy, inspect, importlib.resources) gets the original loader.
        return getattr(self._loader, name)

    def exec_module(self, module):
        # The original loader is restored first, so that the module itself, a reload and inspect never see this one.
        module.__loader__ = self._loader
        module.__spec__.loader = self._loader
        if self._name in WATCHED:
            self._loader.exec_module(module)
            _enqueue(self._name)
            try:
                _handle_executed()
            except BaseException:
                # The import system removes this module, whichever module the error belongs to.
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
    """Calls `plugin.register.on_import(name)` once for each module in `WATCHED`, as soon as it has been executed.

    A module that was imported earlier is handled at once. The function is idempotent. `on_import` is not called while
    it is running, nor during the execution of a module of ours (`encoding.template` imports `swift.template`, and
    `on_import('swift.template')` may need all of `encoding.template`): the call then follows afterwards.

    Raises:
        CompatibilityError: From `on_import`: here for a module that was imported earlier, otherwise from the `import`
            statement. A failed module is tried again at its next import.
    """
    if os.environ.get(DISABLE_VARIABLE, '').lower() in {'1', 'true', 'yes', 'on'}:
        return
    if _pending and _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    for name in WATCHED:
        if name in sys.modules:
            _enqueue(name)
    _handle_executed()


def _enqueue(name: str) -> None:
    if name in _pending and name not in _executed:
        _executed.append(name)


def _enter() -> bool:
    """Marks this thread as inside; False if it was marked, so that only the outermost caller removes the mark."""
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
    # The import system removed a module whose `on_import` failed from sys.modules; it will be executed again.
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
        # A new list: another thread may be iterating over the old one, and would skip a finder.
        sys.meta_path = [finder for finder in sys.meta_path if finder is not _finder]
