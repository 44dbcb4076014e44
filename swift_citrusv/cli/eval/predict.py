"""Lets a model answer the rows of a file before they are scored; an interrupted run resumes.

Runs `swift infer` in a subprocess, or `citrusv segment` if a server writes the text.
"""
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tqdm import tqdm
from typing import Any, Literal

from ...constants import ROW_COLUMN
from ...errors import RowError
from ...rows.cells import decode_cells, inline_images
from ...rows.jsonl import parse_line, read_lines
from ...rows.names import RowNames
from ...rows.records import Unreadable, is_row_file, named_records
from ...settings import SettingError
from ..options import require_file

_ID = 'id'
# The end of the name of a file whose rows were written as JSONL.
_AS_JSONL = '.rows.jsonl'
# Batches per rank between two writes: the most that a kill loses.
_BATCHES_PER_WRITE = 4
_POLL_SECONDS = 0.5
_LOG_LINES = 30
# Waits for a line. If the pipe closes without one, this process was killed, and the process group is terminated.
_GUARD_SCRIPT = 'read -r line || kill -s TERM -- "-$0"'


def predict(data: str,
            output: str,
            *,
            model: str,
            engine: Literal['swift', 'server'] = 'swift',
            server: str | None = None,
            ranks: int = 1,
            batch_size: int = 8,
            max_new_tokens: int = 512,
            extra: Sequence[str] = ()) -> str:
    """Answers the rows of a file that have no answer yet.

    Args:
        data: Rows in any format; a final assistant turn is not shown to the model.
        output: The output file: one line per row in row order, as `swift infer` writes them, with `citrusv_row` and
            the row's `id` if it has one. A row that cannot be answered gets `error`, and is not retried while that
            line exists.
        model: A Citrus-V checkpoint.
        engine: 'swift': `swift infer` writes text and masks. 'server': a server writes the text and `citrusv segment`
            draws the masks.
        server: URL of the server, for 'server'.
        ranks: Number of processes, one per device, for 'swift'.
        batch_size: Rows per batch.
        max_new_tokens: Maximum number of tokens of an answer.
        extra: More flags for the program.

    Returns:
        `output`.

    Raises:
        SettingError: `output` has answers of another model, other rows or other settings, or another run is writing
            it.
        RuntimeError: The program failed; the message has the end of its log.
    """
    require_file(data, '--data')
    if engine == 'server' and ranks != 1:
        raise SettingError(f'--ranks is {ranks}, but with a server only one process draws masks: remove it.')
    if (engine == 'server') != (server is not None):
        raise SettingError(f'The engine is {engine!r} and the URL of the server {server!r}: give both or none.')
    work = Path(f'{output}.work')
    work.mkdir(parents=True, exist_ok=True)
    with _locked(work / 'lock', output):
        request = {
            # Resolves links such as `last-checkpoint`, whose target changes.
            'model': os.path.realpath(model) if os.path.exists(model) else model,
            'files': [_model_files_digest(folder) for folder in (model, *extra) if os.path.isdir(folder)],
            'data': os.path.basename(data),
            'sha256': _file_digest(data),
            'engine': engine,
            'server': server,
            'max_new_tokens': max_new_tokens,
            'flags': list(extra)
        }
        _check_same_run(request, work / 'asked.json', output)
        _answer_rest(request, data, output, work, model=model, ranks=ranks, batch_size=batch_size)
    return output


def _answer_rest(request: dict[str, Any], data: str, output: str, work: Path, *, model: str, ranks: int,
                 batch_size: int) -> None:
    lines = dict(_named_lines(data))
    answers = _AnswerFile(output, [*lines], _row_ids(lines.values()))
    part = work / 'part.jsonl'
    # From a run that was killed.
    answers.move_from(part)
    # The program rejects a file without any good row, and the remaining rows of a resumed run may all be bad.
    for name, line in lines.items():
        if name not in answers and (problem := _row_problem(line, name)):
            answers.add(name, {'error': problem})
    todo = [name for name in lines if name not in answers]
    print(f'{len(lines):,} rows, {len(lines) - len(todo):,} of them already answered', flush=True)
    if todo:
        # Same folder, file name and line numbers as the data, because results name them: answered rows become blank
        # lines.
        folder = work / os.path.basename(os.path.dirname(os.path.abspath(data)))
        folder.mkdir(exist_ok=True)
        remaining = folder / _jsonl_name(data)
        remaining.write_text(_with_blank_lines(lines, set(todo)), encoding='utf-8', errors='surrogateescape')
        environment = {**os.environ, **({'NPROC_PER_NODE': str(ranks)} if ranks > 1 else {})}
        command = _command(request, model, str(remaining), str(part), batch_size, ranks)
        _run_program(command, environment, part, work / 'log.txt', len(todo))
        answers.move_from(part)
    for name in todo:
        if name not in answers:
            answers.add(name, {
                'error': f'{name}: it was left out; see {work / "log.txt"}. To retry it, remove this line from '
                         f'{output}.'
            })  # yapf: disable
    answers.write()


def _command(request: dict[str, Any], model: str, data: str, output: str, batch_size: int, ranks: int) -> list[str]:
    folder = Path(sys.executable).parent
    if request['engine'] == 'swift':
        chunk = _BATCHES_PER_WRITE * batch_size * ranks
        words = [
            folder / 'swift', 'infer', '--model', model, '--val_dataset', data, '--result_path', output,
            '--write_batch_size', chunk, '--max_batch_size', batch_size, '--max_new_tokens', request['max_new_tokens'],
            '--temperature', 0, '--strict', 'false', *request['flags']
        ]  # yapf: disable
    else:
        words = [
            folder / 'citrusv', 'segment', '--model', model, '--text-from', request['server'], '--data', data,
            '--output', output, '--batch-size', batch_size, '--max-tokens', request['max_new_tokens'], '--strict',
            'false', *request['flags']
        ]  # yapf: disable
    return [str(word) for word in words]


class _AnswerFile:
    """Answers by row name, kept in a file in row order."""

    def __init__(self, path: str, names: list[str], ids: list[Any]) -> None:
        self.path, self._names, self._ids = Path(path), names, dict(zip(names, ids))
        self._known = RowNames(names)
        self._lines: dict[str, str] = {}
        for line in _parsed_lines(self.path):
            self._add_line(line)

    def __contains__(self, name: str) -> bool:
        return name in self._lines

    def _add_line(self, line: dict[str, Any]) -> None:
        # The rows of another format have been written as JSONL.
        given = str(line.get(ROW_COLUMN))
        name = self._known.find(given) or self._known.find(given.replace(f'{_AS_JSONL}:', ':'))
        if name is not None:
            self.add(name, line)

    def add(self, name: str, line: dict[str, Any]) -> None:
        """Adds an answer, unless the row has one."""
        named = {ROW_COLUMN: name, **({} if self._ids[name] is None else {_ID: self._ids[name]})}
        self._lines.setdefault(name, json.dumps({**line, **named}, ensure_ascii=False))

    def move_from(self, part: Path) -> None:
        """Moves the answers of a finished or interrupted run into the file."""
        for line in _parsed_lines(part):
            self._add_line(line)
        self.write()
        part.unlink(missing_ok=True)

    def write(self) -> None:
        """Writes the file atomically."""
        new = self.path.with_name(f'{self.path.name}.new')
        with new.open('w', encoding='utf-8', errors='surrogateescape') as file:
            file.writelines(f'{self._lines[name]}\n' for name in self._names if name in self._lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self.path)


def _parsed_lines(path: Path) -> Iterable[dict[str, Any]]:
    if not path.is_file():
        return
    for _, text in read_lines(str(path)):
        try:
            line = json.loads(text)
        except ValueError:
            # The truncated last line of a killed run.
            continue
        if isinstance(line, dict):
            yield line


def _jsonl_name(data: str) -> str:
    name = os.path.basename(data)
    return f'{name}{_AS_JSONL}' if is_row_file(data) and not name.endswith('.jsonl') else name


def _named_lines(data: str) -> Iterable[tuple[str, str]]:
    """The rows of a file as lines of JSONL, by name; a row that is damaged becomes a line that is not JSON."""
    for name, _, record in named_records(data):
        if isinstance(record, Unreadable):
            line = f'{record.problem} {record.remedy}'
        else:
            line = record if isinstance(record, str) else json.dumps(inline_images(decode_cells(record)), default=str)
        yield name, line.replace('\r', ' ').replace('\n', ' ') + '\n'


def _row_ids(lines: Iterable[str]) -> list[Any]:
    """Returns the `id` of each row; None if it has none or cannot be read."""
    found = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        found.append(row.get(_ID) if isinstance(row, dict) else None)
    return found


def _with_blank_lines(lines: Mapping[str, str], names: set[str]) -> str:
    text, next_number = [], 1
    for name, line in lines.items():
        number = int(name.rpartition(':')[2])
        text.append('\n' * (number - next_number) + (line if name in names else '\n'))
        next_number = number + 1
    return ''.join(text)


def _file_digest(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for block in iter(lambda: file.read(2**20), b''):
            digest.update(block)
    return digest.hexdigest()


def _model_files_digest(folder: str) -> str:
    """Digest of names, sizes and times of a model's files, which are too large to read."""
    files = sorted(entry for entry in Path(folder).iterdir() if entry.is_file())
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


@contextmanager
def _locked(path: Path, output: str) -> Iterator[None]:
    with path.open('w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingError(
                f'Another run is writing {output}. Wait until it ends, or give another --output.') from None
        yield


def _check_same_run(request: dict[str, Any], path: Path, output: str) -> None:
    if path.is_file() and os.path.exists(output):
        before = json.loads(path.read_text(encoding='utf-8'))
        for key, value in request.items():
            if before.get(key) != value:
                now = f'{key} was {before.get(key)} and is {value} now'
                what = {'sha256': 'the rows have changed', 'files': 'the files of the model have changed'}.get(key, now)
                raise SettingError(f'{output} has answers of another run: {what}. Give another --output, or remove '
                                   f'{output} to start over.')
        return
    if os.path.exists(output):
        raise SettingError(
            f'{output} exists already, without a record of the run that wrote it. Give another --output, '
            'or score it with --pred.')
    path.write_text(json.dumps(request, indent=1), encoding='utf-8')


def _run_program(command: list[str], environment: dict[str, str], part: Path, log: Path, total: int) -> None:
    """Runs a program, with a progress bar over the lines in its output file."""
    with log.open('w', encoding='utf-8') as file, tqdm(total=total, desc='Answering', unit='row', disable=None) as bar:
        # A process group of its own, so that torchrun's children end with it.
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
        seen = 0
        with _terminated_with_us(process):
            running = True
            while running:
                time.sleep(_POLL_SECONDS)
                running = process.poll() is None
                num_lines, seen = _new_lines(part, seen)
                bar.update(num_lines)
    if process.returncode:
        tail = log.read_text(encoding='utf-8', errors='replace').splitlines()[-_LOG_LINES:]
        raise RuntimeError('\n'.join([
            *tail, f'{" ".join(command[:2])} failed with status {process.returncode}; the whole '
            f'log is {log}. The answers so far are kept: the same command resumes.'
        ]))


@contextmanager
def _terminated_with_us(process: 'subprocess.Popen[bytes]') -> Iterator[None]:
    """Terminates the process and its children when this process ends, even by kill -9."""
    guard = subprocess.Popen(['sh', '-c', _GUARD_SCRIPT, str(process.pid)],
                             stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)  # yapf: disable
    try:
        yield
    finally:
        if process.poll() is None:
            _terminate(process)
        guard.communicate(b'ended\n')


def _terminate(process: 'subprocess.Popen[bytes]') -> None:
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _new_lines(path: Path, start: int) -> tuple[int, int]:
    """Returns the number of lines that end after the byte offset `start`, and the size of the file."""
    if not path.is_file():
        return 0, start
    count = 0
    with path.open('rb') as file:
        file.seek(start)
        while block := file.read(2**20):
            count += block.count(b'\n')
            start += len(block)
    return count, start


def _row_problem(line: str, name: str) -> str:
    """Returns why a line is not a valid row, or ''."""
    try:
        parse_line(line, name)
    except RowError as e:
        return str(e)
    return ''
