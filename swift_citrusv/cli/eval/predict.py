"""Lets a model answer the rows of a file before they are scored, and goes on where a run was broken off.

`swift infer` itself does the work, in a process of its own, or `citrusv segment` where a server writes the text.
"""
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tqdm import tqdm
from typing import Any, Literal

from ...constants import ROW_COLUMN
from ...errors import RowError
from ...rows.jsonl import parse_line, read_lines
from ...settings import SettingError

_ID = 'id'
# Batches of each rank between two writes: what a kill can lose.
_BATCHES_A_WRITE = 4
_SECONDS_A_LOOK = 0.5
_LOG_LINES = 30
# Waits for a line; where the pipe ends without one, whoever held it is gone, and the group of processes ends too.
_GUARD = 'read -r line || kill -s TERM -- "-$0"'


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
    """Answers the rows of a file, those alone that have no answer yet.

    Args:
        data: JSONL rows; a last turn of the assistant is never shown to the model.
        output: Where the answers go, a line for each row in the order of the rows, as `swift infer` writes them, with
            `citrusv_row` and the row's `id` where it has one. A row that cannot be answered has `error`, and
            is not asked again as long as that line is there.
        model: A Citrus-V checkpoint.
        engine: 'swift': `swift infer` writes text and masks. 'server': a server writes the text, `citrusv segment`
            draws the masks.
        server: Its URL.
        ranks: Processes, one a device; for 'swift'.
        batch_size: Rows at a time.
        max_new_tokens: Of an answer.
        extra: Further flags of the program.

    Returns:
        `output`.

    Raises:
        SettingError: `output` has answers of another model, other rows or other settings, or is being written.
        RuntimeError: The program has failed; the message has the end of its log.
    """
    if not os.path.isfile(data):
        raise FileNotFoundError(f'--data {data}: no such file.')
    if engine == 'server' and ranks != 1:
        raise SettingError(f'--ranks is {ranks}, but a server writes the text and one process draws: leave it out.')
    if (engine == 'server') != (server is not None):
        raise SettingError(f'The engine is {engine!r} and the URL of the server {server!r}: give both, or none.')
    work = Path(f'{output}.work')
    work.mkdir(parents=True, exist_ok=True)
    with _locked(work / 'lock', output):
        asked = {
            # What `last-checkpoint` stands for changes with every checkpoint.
            'model': os.path.realpath(model) if os.path.exists(model) else model,
            'files': [_files_digest(folder) for folder in (model, *extra) if os.path.isdir(folder)],
            'data': os.path.basename(data),
            'sha256': _digest(data),
            'engine': engine,
            'server': server,
            'max_new_tokens': max_new_tokens,
            'flags': list(extra)
        }
        _check_same(asked, work / 'asked.json', output)
        _answer_rest(asked, data, output, work, model=model, ranks=ranks, batch_size=batch_size)
    return output


def _answer_rest(asked: dict[str, Any], data: str, output: str, work: Path, *, model: str, ranks: int,
                 batch_size: int) -> None:
    lines = dict(_rows(data))
    answers = _Answers(output, [*lines], _ids(lines.values()))
    part = work / 'part.jsonl'
    # Of a run that was killed.
    answers.take(part)
    # Not left to the program, which refuses a file without any good row: the last rows of a resumed run may be bad.
    for name, line in lines.items():
        if name not in answers and (problem := _unreadable(line, name)):
            answers.add(name, {'error': problem})
    todo = [name for name in lines if name not in answers]
    print(f'{len(lines):,} rows, {len(lines) - len(todo):,} of them answered already', flush=True)
    if todo:
        # Under the name of the data, and with blank lines for what is answered: results name the lines of the data.
        remaining = work / os.path.basename(data)
        remaining.write_text(_blanked(data, set(todo)), encoding='utf-8', errors='surrogateescape')
        environment = {**os.environ, **({'NPROC_PER_NODE': str(ranks)} if ranks > 1 else {})}
        command = _command(asked, model, str(remaining), str(part), batch_size, ranks)
        _run(command, environment, part, work / 'log.txt', len(todo))
        answers.take(part)
    for name in todo:
        if name not in answers:
            answers.add(name, {
                'error': f'{name}: it was left out; see {work / "log.txt"}. It is asked again when this line is gone '
                         f'from {output}.'
            })  # yapf: disable
    answers.write()


def _command(asked: dict[str, Any], model: str, data: str, output: str, batch_size: int, ranks: int) -> list[str]:
    folder = Path(sys.executable).parent
    if asked['engine'] == 'swift':
        chunk = _BATCHES_A_WRITE * batch_size * ranks
        words = [
            folder / 'swift', 'infer', '--model', model, '--val_dataset', data, '--result_path', output,
            '--write_batch_size', chunk, '--max_batch_size', batch_size, '--max_new_tokens', asked['max_new_tokens'],
            '--temperature', 0, '--strict', 'false', *asked['flags']
        ]  # yapf: disable
    else:
        words = [
            folder / 'citrusv', 'segment', '--model', model, '--text-from', asked['server'], '--data', data, '--output',
            output, '--batch-size', batch_size, '--max-tokens', asked['max_new_tokens'], '--strict', 'false',
            *asked['flags']
        ]  # yapf: disable
    return [str(word) for word in words]


class _Answers:
    """Lines of answers by the rows that they answer, kept in a file in the order of the rows."""

    def __init__(self, path: str, names: list[str], ids: list[Any]) -> None:
        self.path, self._names, self._ids = Path(path), names, dict(zip(names, ids))
        self._lines: dict[str, str] = {}
        for line in _whole_lines(self.path):
            self._keep(line)

    def __contains__(self, name: str) -> bool:
        return name in self._lines

    def _keep(self, line: dict[str, Any]) -> None:
        if line.get(ROW_COLUMN) in self._ids:
            self.add(line[ROW_COLUMN], line)

    def add(self, name: str, line: dict[str, Any]) -> None:
        """Keeps an answer; the first one counts."""
        named = {ROW_COLUMN: name, **({} if self._ids[name] is None else {_ID: self._ids[name]})}
        self._lines.setdefault(name, json.dumps({**line, **named}, ensure_ascii=False))

    def take(self, part: Path) -> None:
        """Moves the answers of a run, broken off or not, into the file."""
        for line in _whole_lines(part):
            self._keep(line)
        self.write()
        part.unlink(missing_ok=True)

    def write(self) -> None:
        """At once or not at all."""
        new = self.path.with_name(f'{self.path.name}.new')
        with new.open('w', encoding='utf-8', errors='surrogateescape') as file:
            file.writelines(f'{self._lines[name]}\n' for name in self._names if name in self._lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self.path)


def _whole_lines(path: Path) -> Iterable[dict[str, Any]]:
    if not path.is_file():
        return
    for _, text in read_lines(str(path)):
        try:
            line = json.loads(text)
        except ValueError:
            # The last line of a run that was killed while it wrote.
            continue
        if isinstance(line, dict):
            yield line


def _rows(data: str) -> Iterable[tuple[str, str]]:
    base = os.path.basename(data)
    return ((f'{base}:{number}', line) for number, line in read_lines(data))


def _ids(lines: Iterable[str]) -> list[Any]:
    """The `id` of each row; None where it has none, or cannot be read."""
    found = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        found.append(row.get(_ID) if isinstance(row, dict) else None)
    return found


def _blanked(data: str, names: set[str]) -> str:
    base = os.path.basename(data)
    with open(data, encoding='utf-8-sig', errors='surrogateescape') as file:
        return ''.join(line if f'{base}:{number}' in names else '\n' for number, line in enumerate(file, 1))


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for block in iter(lambda: file.read(2**20), b''):
            digest.update(block)
    return digest.hexdigest()


def _files_digest(folder: str) -> str:
    """Of the names, sizes and times of the files of a model, which are too large to be read for this."""
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
                f'Another run is writing {output}. Wait for its end, or name another --output.') from None
        yield


def _check_same(asked: dict[str, Any], path: Path, output: str) -> None:
    if path.is_file() and os.path.exists(output):
        before = json.loads(path.read_text(encoding='utf-8'))
        for key, value in asked.items():
            if before.get(key) != value:
                now = f'{key} was {before.get(key)}, and is {value} now'
                what = {'sha256': 'the rows have changed', 'files': 'the files of the model have changed'}.get(key, now)
                raise SettingError(f'{output} has answers of another run: {what}. Name another --output, or remove '
                                   f'{output} to ask anew.')
        return
    if os.path.exists(output):
        raise SettingError(f'{output} is there already, and nothing says what was asked for it. Name another --output, '
                           'or score it with --pred.')
    path.write_text(json.dumps(asked, indent=1), encoding='utf-8')


def _run(command: list[str], environment: dict[str, str], part: Path, log: Path, total: int) -> None:
    """Runs a program with a bar over the lines that it has written."""
    with log.open('w', encoding='utf-8') as file, tqdm(total=total, desc='answering', unit='row', disable=None) as bar:
        # In a group of its own: torchrun's children end with it.
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
        seen = 0
        with _guarded(process):
            running = True
            while running:
                time.sleep(_SECONDS_A_LOOK)
                running = process.poll() is None
                num_lines, seen = _new_lines(part, seen)
                bar.update(num_lines)
    if process.returncode:
        tail = log.read_text(encoding='utf-8', errors='replace').splitlines()[-_LOG_LINES:]
        raise RuntimeError('\n'.join([
            *tail, f'{" ".join(command[:2])} has failed with status {process.returncode}; the '
            f'whole log is {log}. What is answered is kept: the same command goes on.'
        ]))


@contextmanager
def _guarded(process: 'subprocess.Popen[bytes]') -> Iterator[None]:
    """Whatever ends this process, kill -9 too, ends the other one and its children."""
    guard = subprocess.Popen(['sh', '-c', _GUARD, str(process.pid)],
                             stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)  # yapf: disable
    try:
        yield
    finally:
        if process.poll() is None:
            _end(process)
        guard.communicate(b'ended\n')


def _end(process: 'subprocess.Popen[bytes]') -> None:
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _new_lines(path: Path, start: int) -> tuple[int, int]:
    """The number of lines that end behind `start`, a place in bytes, and where the file ends."""
    if not path.is_file():
        return 0, start
    count = 0
    with path.open('rb') as file:
        file.seek(start)
        while block := file.read(2**20):
            count += block.count(b'\n')
            start += len(block)
    return count, start


def _unreadable(line: str, name: str) -> str:
    """What is wrong with a line that is no row; '' where nothing is."""
    try:
        parse_line(line, name)
    except RowError as e:
        return str(e)
    return ''
