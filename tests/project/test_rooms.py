"""The rooms of the package and their floors (`docs/architecture.md`), held by reading every import of every file."""
import ast
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGE = 'swift_citrusv'
ROOT = Path(__file__).resolve().parents[2] / PACKAGE

# The files at the top, and the rooms, by floor: each may import what stands on lower floors. `scoring` is one room.
FLOORS: tuple[tuple[str, ...], ...] = (
    ('__init__', '_build', 'constants', 'errors'),
    ('settings', 'package_files', 'packing'),
    ('files', 'model'),
    ('rows', 'volumes', 'estimate'),
    ('encoding', 'scoring'),
    ('training', 'inference', 'curation'),
    ('plugin', 'app'),
    ('pipeline', 'register', '_hook', 'tryout'),
    ('cli', ),
)
# Never import ms-swift: they stay usable, and testable, without it.
WITHOUT_SWIFT = {
    '__init__', '_build', '_hook', 'constants', 'errors', 'settings', 'package_files', 'packing', 'files', 'model',
    'rows', 'volumes', 'estimate', 'scoring', 'curation'
}
# Beyond the floors: the package imports its public names at their first use.
ALLOWED = {('__init__', 'pipeline'), ('__init__', 'volumes'), ('__init__', 'rows')}
# A folder of `scoring` imports its own files, those of `scoring` itself, and no other folder.
TASKS = {'boxes', 'documents', 'html_report', 'masks', 'questions', 'radiology_reports'}


@dataclass(frozen=True)
class Import:
    """One imported module: `name` is absolute ('swift_citrusv.rows.masks', 'torch.nn')."""
    name: str
    line: int


def imports_of(source: str, package: str) -> list[Import]:
    """All imports of a module, late ones and those for type checkers too; `from a import b` gives 'a' and 'a.b'.

    A text that names a module of ours counts as well: `Deferred('training.optimizer', ...)`, `import_module('...')`.

    Args:
        source: The code.
        package: The package that relative imports start from.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split('.')[:len(package.split('.')) + 1 - node.level] if node.level else []
            base = '.'.join([*above, *([node.module] if node.module else [])])
            found += [Import(base, node.lineno)]
            found += [Import(f'{base}.{alias.name}', node.lineno) for alias in node.names]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function, name = ast.unparse(node.func), node.args[0].value
            if isinstance(name, str) and function.rpartition('.')[2] in {'import_module', '__import__'}:
                start = package if name.startswith('.') else ''
                found.append(Import(f'{start}{name}', node.lineno))
    return found


def modules() -> dict[str, Path]:
    """The modules of the package, by their names below it; a package has the name of its `__init__`."""
    paths = [path for path in sorted(ROOT.rglob('*.py')) if 'templates' not in path.relative_to(ROOT).parts]
    return {'.'.join(path.relative_to(ROOT).with_suffix('').parts): path for path in paths}


def graph_of(sources: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """For each module the modules of ours that it imports, with a line."""
    graph: dict[str, dict[str, int]] = {}
    for module, source in sources.items():
        package = '.'.join([PACKAGE, *module.split('.')[:-1]])
        graph[module] = {}
        for item in imports_of(source, package):
            target = item.name.removeprefix(f'{PACKAGE}.')
            if item.name.startswith(f'{PACKAGE}.') and target in sources and target != module:
                graph[module].setdefault(target, item.line)
    return graph


def room_of(module: str) -> str:
    return module.partition('.')[0]


def floor_of(room: str) -> int | None:
    return next((floor for floor, rooms in enumerate(FLOORS) if room in rooms), None)


def violations(graph: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """Imports against the floors, a line each."""
    for module, targets in graph.items():
        room = room_of(module)
        if floor_of(room) is None:
            yield f'{module} stands in no room of FLOORS'
            continue
        for target, line in targets.items():
            other = room_of(target)
            if other != room and (room, other) not in ALLOWED:
                here, there = floor_of(room), floor_of(other)
                if here is None or there is None or there >= here:
                    yield f'{module}:{line} (floor {here}) imports {target} (floor {there})'
            task, other_task = (name.split('.')[1] if name.count('.') == 2 else None for name in (module, target))
            if room == other == 'scoring' and task in TASKS and other_task in TASKS - {task}:
                yield f'{module}:{line} imports {target}: a task imports no other'


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Circles of imports, each as the modules along it, its first one again at its end; [] where there is none."""
    done: set[str] = set()
    found: list[list[str]] = []

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append([*path[path.index(module):], module])
        elif module not in done:
            for target in sorted(graph.get(module, ())):
                visit(target, [*path, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return found


def test_the_rooms_and_their_floors():
    sources = {module: path.read_text(encoding='utf-8') for module, path in modules().items()}
    graph = graph_of(sources)
    # A reader that finds no imports would find no violation either.
    assert len(graph) > 150 and sum(map(len, graph.values())) > 2 * len(graph)
    problems = list(violations(graph)) + [' -> '.join(circle) for circle in circles(graph)]
    for module, source in sources.items():
        if room_of(module) in WITHOUT_SWIFT:
            package = '.'.join([PACKAGE, *module.split('.')[:-1]])
            problems += [
                f'{module}:{item.line} imports {item.name}, but {room_of(module)} never imports ms-swift'
                for item in imports_of(source, package) if item.name.split('.')[0] == 'swift'
            ]
    assert not problems, '\n'.join(problems)


def test_the_folders_are_easy_to_survey():
    paths = modules()
    lengths = {module: len(path.read_text(encoding='utf-8').splitlines()) for module, path in paths.items()}
    assert sum('.' not in module for module in paths) <= 12
    assert len(FLOORS) <= 9
    assert not {module: length for module, length in lengths.items() if length > 400}
    assert sum(length < 300 for length in lengths.values()) >= .9 * len(lengths)
    folders = [path.parent for path in paths.values()]
    assert max(map(folders.count, folders)) <= 24
    for folder in set(folders):
        room = folder / '__init__.py'
        assert ast.get_docstring(ast.parse(room.read_text(encoding='utf-8'))), f'{room} does not say what it is for'


def test_the_reader_sees_every_form():
    source = '''
import os, torch.nn as nn
from . import masks
from ..model.losses import dice
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from ..cli.main import main
try:
    import yaml
except ImportError:
    from swift_citrusv.packing import packs
class A:
    def f(self):
        from swift_citrusv import pipeline
        importlib.import_module('swift_citrusv.training.resume')
        return import_module('.contract', __package__)
'''
    names = {item.name for item in imports_of(source, 'swift_citrusv.rows')}
    assert names >= {
        'os', 'torch.nn', 'yaml', 'swift_citrusv.rows.masks', 'swift_citrusv.model.losses', 'swift_citrusv.cli.main',
        'swift_citrusv.packing.packs', 'swift_citrusv.pipeline', 'swift_citrusv.training.resume',
        'swift_citrusv.rows.contract'
    }


def test_violations_and_circles_are_found():
    sources = {
        'constants': 'from .errors import x',
        'rows.masks': 'from ..files import images\nfrom ..settings import Settings',
        'files.images': 'def f():\n    from ..rows.masks import x',
        'scoring.boxes.detection': 'from ..task import Task\nfrom ..masks.segmentation import x',
        'scoring.masks.segmentation': '',
        'scoring.task': '',
        'errors': '',
        'settings': '',
        'attic.old': '',
    }
    graph = graph_of(sources)
    assert list(violations(graph)) == [
        'constants:1 (floor 0) imports errors (floor 0)',
        'files.images:2 (floor 2) imports rows.masks (floor 3)',
        'scoring.boxes.detection:2 imports scoring.masks.segmentation: a task imports no other',
        'attic.old stands in no room of FLOORS',
    ]
    assert circles(graph) == [['files.images', 'rows.masks', 'files.images']]


def test_no_two_test_files_have_one_name():
    """pytest takes them for one module, and stops."""
    names = Counter(path.name for path in (ROOT.parent / 'tests').rglob('test_*.py'))
    assert not [name for name, count in names.items() if count > 1]
