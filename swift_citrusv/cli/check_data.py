"""`citrusv check-data`: finds every row of a dataset that training would reject."""
import argparse
import dataclasses
import json
import os
import tempfile
from array import array
from collections import Counter, deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import positive_int
from .row_input import named_files, placed_records, row_files

if TYPE_CHECKING:
    from ..rows.columns import ColumnRules
    from ..rows.records import Record
    from .check_rows import CheckResult, RowChecker, RowFailure

NAME = 'check-data'
HELP = 'find every row of a dataset that training would reject'
DESCRIPTION = (
    'Reads the rows of a file or folder, opens their images, decodes their masks and lists every row that fails. '
    'With --model it also encodes each row as training does, and counts tokens. Exit status: 0 if all rows '
    'are good, 1 if any row fails, 2 if the check cannot run.')
# Rows per task of a worker process.
_CHUNK_ROWS = 16
_LABELS = {
    'rows': 'rows',
    'ordinary_rows': '  ordinary',
    'mask_rows': '  with masks',
    'failing_rows': '  failing',
    'multi_image_rows': 'rows with several images',
    'images': 'images',
    'distinct_images': '  distinct',
    'videos': 'videos',
    'masks': 'masks',
    'empty_masks': '  empty ("not present")',
    'lost_masks': '  empty at target size',
    'elsewhere_masks': '  on an image not named',
    'text_seg_tokens': '[SEG] as text alone',
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'file', metavar='FILE', help='a file (.jsonl, .json, .csv, .parquet, .arrow, .txt) or a folder of them')
    parser.add_argument(
        '--columns',
        metavar='JSON',
        help="as --columns of `swift sft`: new names of columns, e.g. '{\"segmentations\": \"masks\"}'")
    parser.add_argument('--model', metavar='DIR', help='a Citrus-V or Qwen2.5-VL directory; its weights are not read')
    parser.add_argument(
        '--max-length',
        type=positive_int,
        metavar='N',
        help="as --max_length of `swift sft` (default: the model's limit)")
    parser.add_argument('--limit', type=positive_int, metavar='N', help='check only the first N rows')
    parser.add_argument(
        '--num-proc', type=positive_int, default=1, metavar='N', help='number of processes (default: 1)')
    parser.add_argument('--json', metavar='FILE', type=Path, help='write the report to this file, as JSON')
    parser.add_argument(
        '--pictures',
        metavar='DIR',
        type=Path,
        help='draw the masks of some rows into this directory; sheet.png shows them all')
    parser.add_argument(
        '--num-pictures',
        type=positive_int,
        default=16,
        metavar='N',
        help='number of rows to draw, evenly spaced over the file (default: 16)')


def run(args: argparse.Namespace) -> int:
    args.files = row_files(args.file)
    from ..rows.columns import ColumnRules, parse_mapping
    args.rules = ColumnRules.from_mapping(parse_mapping(args.columns) if args.columns else None)
    if args.max_length is not None and args.model is None:
        raise ValueError(f'--max-length {args.max_length} needs --model, because its tokenizer counts the tokens.')
    from ..settings import variable
    from .encoder import DEFAULT_SAM2, checking_environment, model_type_of
    plain = args.model is not None and model_type_of(args.model) != 'citrusv'
    if plain and not os.environ.get(variable('sam2')):
        print(f'{args.model} is a plain Qwen2.5-VL. The setting sam2 is not given: masks are checked for '
              f'{DEFAULT_SAM2}.')
    with FailureLog() as failures, checking_environment():
        report = _check_rows_of_file(args, failures)
        if args.pictures is not None:
            from .check_pictures import draw_rows
            drawn = draw_rows(args.files, report.pop('mask_lines'), args.num_pictures, args.pictures, args.rules)
            report['pictures'] = [str(path) for path in drawn]
        report.pop('mask_lines', None)
        _print_report(args, report, failures)
        if args.json is not None:
            _write_json(args.json, report, failures)
    return int(report['failing_rows'] > 0 or report['rows'] == report['failing_rows'])


class FailureLog:
    """The failing rows, on disk. With a wrong image folder, every row of a large file fails."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()

    def __enter__(self) -> 'FailureLog':
        self._file = tempfile.TemporaryFile('w+', encoding='utf-8')
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, failure: 'RowFailure') -> None:
        self.kinds[failure.kind] += 1
        # JSON in ASCII also holds the surrogates of a broken line.
        self._file.write(json.dumps(dataclasses.asdict(failure)) + '\n')

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._file.seek(0)
        return map(json.loads, self._file)


# ---- checking, in one process or several


def _check_rows_of_file(args: argparse.Namespace, failures: FailureLog) -> dict[str, Any]:
    """Returns the report without the failures; 'mask_lines' has the places of the good rows with masks."""
    from tqdm import tqdm

    from .check_rows import RowCounts
    counts, lengths, image_keys, mask_lines = RowCounts(), Counter[int](), set[bytes](), array('Q')
    total, columns = _scan_columns(args)
    checker_args = (named_files(args.files), args.model, args.max_length, columns, args.rules)
    with tqdm(desc=f'Checking {os.path.basename(args.file)}', unit=' rows', total=total) as progress:
        for result in _check_results(args, checker_args):
            counts.add(result.counts)
            lengths.update(result.lengths)
            image_keys |= result.image_keys
            mask_lines.extend(result.mask_lines)
            for failure in result.failures:
                failures.add(failure)
            progress.update(result.counts.rows)
    return {
        'file': args.file,
        'model': args.model,
        'max_length': args.max_length,
        'limit': args.limit,
        **dataclasses.asdict(counts),
        'distinct_images': len(image_keys),
        'tokens': length_percentiles(lengths),
        'failures_by_kind': dict(failures.kinds.most_common()),
        'mask_lines': mask_lines,
    }


def _limited_records(args: argparse.Namespace) -> 'Iterator[tuple[int, Record]]':
    return islice(placed_records(args.files), args.limit)


def _scan_columns(args: argparse.Namespace) -> tuple[int, tuple[str, ...]]:
    """Returns the number of rows and the columns of the files, which decide how ms-swift reads each row."""
    from tqdm import tqdm

    from ..errors import RowError
    from ..rows.records import parse_record
    columns: dict[str, None] = {}
    num_rows = 0
    for _, record in tqdm(_limited_records(args), desc='Reading the columns', unit=' rows'):
        num_rows += 1
        try:
            columns.update(dict.fromkeys(parse_record(record, '', args.rules)))
        except RowError:
            # Training ignores the columns of such a row too. The check itself reports it.
            continue
    return num_rows, tuple(columns)


def _check_results(args: argparse.Namespace, checker_args: tuple) -> Iterator['CheckResult']:
    records = _limited_records(args)
    chunks = iter(lambda: list(islice(records, _CHUNK_ROWS)), [])
    if args.num_proc == 1:
        checker = _make_checker(*checker_args)
        yield from map(checker.check, chunks)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    # Forking is unsafe with threads, and tqdm starts one.
    spawn = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(args.num_proc, mp_context=spawn, initializer=_init_worker, initargs=checker_args) as pool:
        # `pool.map` would read the whole file first.
        waiting = deque(pool.submit(_check_in_worker, chunk) for chunk in islice(chunks, 3 * args.num_proc))
        try:
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(_check_in_worker, chunk) for chunk in islice(chunks, 1))
        finally:
            for future in waiting:
                future.cancel()


def _make_checker(names: list[str], model: str | None, max_length: int | None, columns: tuple[str, ...],
                  rules: 'ColumnRules') -> 'RowChecker':
    from .check_rows import RowChecker
    if model is None:
        return RowChecker(names, columns=columns, rules=rules)
    from .encoder import TrainingEncoder
    return RowChecker(names, TrainingEncoder(model, max_length, columns), columns, rules)


# State of a worker process: the arguments of its checker, then the checker. It is made with the first chunk, because an
# error in the initializer would reach the user as a broken pool.
_worker: dict[str, Any] = {}


def _init_worker(*checker_args: Any) -> None:
    _worker['checker_args'] = checker_args


def _check_in_worker(chunk: 'list[tuple[int, Record]]') -> 'CheckResult':
    if 'checker' not in _worker:
        _worker['checker'] = _make_checker(*_worker['checker_args'])
        if _worker['checker_args'][1] is not None:
            import torch

            # The worker processes already use all cores.
            torch.set_num_threads(1)
    return _worker['checker'].check(chunk)


# ---- the report


def length_percentiles(lengths: Counter[int]) -> dict[str, int] | None:
    """Minimum, median, 90th and 99th percentile and maximum, by nearest rank.

    Args:
        lengths: The number of rows with each length.

    Returns:
        None if there is no row.
    """
    total = lengths.total()
    if not total:
        return None
    result, seen = {}, 0
    ranks = {
        'min': 1,
        'p50': -(-total * 50 // 100),
        'p90': -(-total * 90 // 100),
        'p99': -(-total * 99 // 100),
        'max': total
    }
    wanted = list(ranks.items())
    for length in sorted(lengths):
        seen += lengths[length]
        while wanted and seen >= wanted[0][1]:
            result[wanted.pop(0)[0]] = length
    return result


def _print_report(args: argparse.Namespace, report: dict[str, Any], failures: FailureLog) -> None:
    for key, label in _LABELS.items():
        print(f'{label:<26}{report[key]:>12,}')
    if report['tokens']:
        values = ', '.join(f'{name} {value:,}' for name, value in report['tokens'].items())
        print(f'{"tokens in a row":<26}{values}')
    if report['elsewhere_masks']:
        print(f'{report["elsewhere_masks"]:,} masks are on another image than the text of their answer implies. At '
              'inference only the text selects the image: name it before [SEG] ("in image 2"), counted from 1.')
    if args.limit is not None:
        print(f'Only the first {args.limit:,} rows were checked (--limit).')
    if args.model is None:
        print(
            "Without --model, token lengths and ms-swift's own rules were not checked, and no video file was decoded.")
    if args.pictures is not None:
        print(f'{len(report["pictures"])} pictures in {args.pictures}')
    if not report['rows']:
        print(f'{args.file} has no rows.')
    elif not report['failing_rows']:
        print('All rows are good.')
        return
    if report['failing_rows']:
        print(f'\nFailing rows by kind, {report["failing_rows"]:,} in all:')
        for kind, count in report['failures_by_kind'].items():
            print(f'{count:>8,}  {kind}')
        print('\nFailing rows:')
        for failure in failures:
            print(f'{failure["row"]}  [{failure["kind"]}]  {_printable(failure["message"])}')


def _printable(text: str) -> str:
    return text.encode('utf-8', 'backslashreplace').decode('utf-8')


def _write_json(path: Path, report: dict[str, Any], failures: FailureLog) -> None:
    """Writes the report as one JSON object, its 'failures' one by one to save memory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'w', encoding='utf-8') as file:
        file.write(json.dumps(report, indent=2).removesuffix('\n}') + ',\n  "failures": [')
        for i, failure in enumerate(failures):
            file.write((',' if i else '') + '\n    ' + json.dumps(failure))
        file.write('\n  ]\n}\n' if report['failing_rows'] else ']\n}\n')
