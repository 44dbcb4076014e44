"""The import hook: what Python loads at its start, and when `on_import` is called; in plain and editable installs.

`plugin.register` and ms-swift are stand-ins that import in milliseconds.
"""
import pytest
import sys
from support.packaging import KINDS, Environment

from swift_citrusv._hook import WATCHED

WORKER = '''
import multiprocessing
import sys

def work(queue):
    before = 'swift.model' in sys.modules
    import swift.model
    from swift_citrusv import _hook
    queue.put((before, 'swift.model' in _hook._pending))

if __name__ == '__main__':
    context = multiprocessing.get_context(sys.argv[1])
    queue = context.Queue()
    process = context.Process(target=work, args=(queue,))
    process.start()
    print(queue.get())
    process.join()
'''


@pytest.mark.parametrize('kind', KINDS)
def test_start_of_python_loads_the_hook_alone(environment, kind):
    ours = "sorted(name for name in sys.modules if name.split('.')[0] in {'swift_citrusv', 'swift', 'torch'})"
    loaded = environment(kind).check('-c', f'import sys; print({ours}); import swift_citrusv; print({ours})')
    assert loaded.splitlines() == ["['swift_citrusv', 'swift_citrusv._hook']"] * 2


@pytest.mark.parametrize('kind', KINDS)
def test_import_is_fast(environment, kind):

    def milliseconds() -> float:
        lines = environment(kind).run('-X', 'importtime', '-c', 'import swift_citrusv').stderr.splitlines()
        rows = [[column.strip() for column in line.split('|')] for line in lines]
        times = {name: int(cumulative) for _, cumulative, name in rows[1:]}
        return (times['swift_citrusv'] + times['swift_citrusv._hook']) / 1000

    # The best of several: the others measure the load of the machine.
    assert min(milliseconds() for _ in range(5)) < 50


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('method', ['fork', 'spawn', 'forkserver'])
def test_hook_works_in_workers(environment, kind, method, fake_swift, tmp_path):
    script = tmp_path / 'script.py'
    script.write_text(WORKER)
    lines = environment(kind).check(script, method, PYTHONPATH=fake_swift).splitlines()
    assert lines == ['begin swift.model', 'end swift.model', '(False, False)']


@pytest.mark.parametrize('kind', KINDS)
def test_every_watched_module_is_handled_once(environment, kind, fake_swift):
    code = '''
import importlib, sys
from swift_citrusv import _hook
for name in _hook.WATCHED * 2:
    importlib.import_module(name)
assert _hook._finder not in sys.meta_path
_hook.install()
assert _hook._finder not in sys.meta_path
'''
    lines = environment(kind).check('-c', code, PYTHONPATH=fake_swift).splitlines()
    assert sorted(lines) == sorted(f'{step} {name}' for step in ('begin', 'end') for name in WATCHED)


def test_nested_import_waits_its_turn(environment, fake_swift):
    code = 'import swift.loss'
    lines = environment('plain').check('-c', code, PYTHONPATH=fake_swift).splitlines()
    assert lines == ['begin swift.loss', 'end swift.loss', 'begin swift.metrics', 'end swift.metrics']


def test_import_inside_a_watched_module_is_handled_first(environment, fake_swift):
    lines = environment('plain').check('-c', 'import swift.pipelines.train.sft', PYTHONPATH=fake_swift).splitlines()
    names = ['swift.arguments', 'swift.model', 'swift.pipelines.train.sft']
    assert lines == [f'{step} {name}' for name in names for step in ('begin', 'end')]


def test_a_half_imported_module_of_ours_is_never_used(environment, fake_swift):
    # `needs_template` imports `swift.template`, and `on_import` for that needs all of `needs_template`.
    code = 'import swift_citrusv.needs_template as m; print(m.VALUE)'
    lines = environment('plain').check('-c', code, PYTHONPATH=fake_swift).splitlines()
    assert lines == ['begin swift.template', 'end swift.template', '2']


def test_modules_imported_before_the_hook(environment, fake_swift):
    code = '''
import os, swift.model
del os.environ['SWIFT_CITRUSV_DISABLE']
from swift_citrusv import _hook
_hook.install()
_hook.install()
'''
    lines = environment('plain').check('-c', code, PYTHONPATH=fake_swift, SWIFT_CITRUSV_DISABLE='1').splitlines()
    assert lines == ['begin swift.model', 'end swift.model']


@pytest.mark.parametrize(('value', 'is_disabled'), [('1', True), ('true', True), ('YES', True), ('On', True),
                                                    ('0', False), ('', False)])
def test_disable(environment, fake_swift, value, is_disabled):
    lines = environment('plain').check('-c', 'import swift.model', PYTHONPATH=fake_swift, SWIFT_CITRUSV_DISABLE=value)
    assert lines == ('' if is_disabled else 'begin swift.model\nend swift.model\n')


def test_error_reaches_the_importer_each_time(environment, fake_swift):
    code = '''
import os
from swift_citrusv.errors import CompatibilityError
for _ in range(2):
    try:
        import swift.model
    except CompatibilityError as error:
        print(error, flush=True)
import swift.callbacks
del os.environ['FAKE_FAILURE']
import swift.model
'''
    lines = environment('plain').check('-c', code, PYTHONPATH=fake_swift, FAKE_FAILURE='swift.model').splitlines()
    assert lines == ['begin swift.model', 'swift.model has changed'] * 2 + [
        'begin swift.callbacks', 'end swift.callbacks', 'begin swift.model', 'end swift.model'
    ]


def test_error_of_a_nested_import_is_not_lost(environment, fake_swift):
    code = '''
import os
from swift_citrusv.errors import CompatibilityError
try:
    import swift.loss
except CompatibilityError as error:
    print(error, flush=True)
del os.environ['FAKE_FAILURE']
import swift.loss
'''
    lines = environment('plain').check('-c', code, PYTHONPATH=fake_swift, FAKE_FAILURE='swift.metrics').splitlines()
    # `swift.loss` was removed with the error, so the second import makes a new module that must be handled too.
    assert lines == [
        'begin swift.loss', 'end swift.loss', 'begin swift.metrics', 'swift.metrics has changed', 'begin swift.metrics',
        'end swift.metrics', 'begin swift.loss', 'end swift.loss'
    ]


def test_module_looks_untouched(environment, fake_swift):
    code = '''
import importlib.util, inspect, pickle, runpy
from importlib.machinery import SourceFileLoader
spec = importlib.util.find_spec('swift.metrics')   # This does not import it.
assert spec.origin.endswith('metrics.py') and spec.loader.get_source('swift.metrics') == 'VALUE = 1\\n'
import swift.metrics as module
assert type(module.__loader__) is SourceFileLoader and module.__spec__.loader is module.__loader__
assert 'exec_module' not in vars(module.__loader__)
assert inspect.getsource(module) == 'VALUE = 1\\n'
assert pickle.loads(pickle.dumps(module.__spec__.origin)) == spec.origin
assert importlib.reload(module) is module
assert runpy.run_module('swift.callbacks')['VALUE'] == 1
'''
    lines = environment('plain').check('-c', code, PYTHONPATH=fake_swift).splitlines()
    assert lines == ['begin swift.metrics', 'end swift.metrics']


def test_threads(environment, fake_swift):
    code = '''
import importlib, sys, threading
from swift_citrusv import _hook
sys.setswitchinterval(1e-6)
start = threading.Barrier(len(_hook.WATCHED))
def work(name):
    start.wait()
    importlib.import_module(name)
threads = [threading.Thread(target=work, args=(name,)) for name in _hook.WATCHED]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not _hook._pending, _hook._pending
'''
    for _ in range(3):
        lines = environment('plain').check('-c', code, PYTHONPATH=fake_swift).splitlines()
        assert sorted(lines) == sorted(f'{step} {name}' for step in ('begin', 'end') for name in WATCHED)


def test_environments_do_not_inherit_our_own_hook(tmp_path, monkeypatch):
    outer = tmp_path / 'site-packages'
    outer.mkdir()
    (outer / 'probe.py').touch()
    (outer / 'probe.pth').write_text('import sys; sys.probe = True\n')
    monkeypatch.setattr(sys, 'path', [*sys.path, str(outer)])
    made = Environment(tmp_path / 'env')
    code = "import sys, probe; print(hasattr(sys, 'probe'), 'swift_citrusv' in sys.modules)"
    assert made.check('-c', code) == 'False False\n'
