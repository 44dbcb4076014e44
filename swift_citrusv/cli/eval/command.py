"""`citrusv eval`: scores a prediction file, or first predicts with a model."""
import argparse
import os
from collections.abc import Callable
from typing import Any

from ... import __version__
from ..options import add_option
from . import detection, documents, grounding, qa, reports, segmentation, volume

NAME = 'eval'
HELP = 'score predictions: segmentation, volumes, detection, question answering, documents, reports, grounding'
DESCRIPTION = ('Scores a prediction file against a reference file, overall and in groups, each score with a 95 % '
               'interval. Writes scores.json and report.html. With --model, it first lets the model answer the rows.')
_TASKS = (segmentation, volume, detection, qa, documents, reports, grounding)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    tasks = parser.add_subparsers(title='tasks', required=True, metavar='TASK', dest='task')
    for task in _TASKS:
        subparser = tasks.add_parser(task.NAME, help=task.HELP, description=task.HELP)
        _add_common(subparser)
        task.add_arguments(subparser.add_argument_group(f'{task.NAME}'))
        subparser.set_defaults(options=task.options, prepare=getattr(task, 'prepare', None))


def _add_common(parser: argparse.ArgumentParser) -> None:
    files = parser.add_argument_group('files')
    files.add_argument(
        '--pred', metavar='FILE', help="JSONL predictions with 'response' and 'masks', as `swift infer` writes them")
    files.add_argument(
        '--ref',
        '--data',
        metavar='FILE',
        dest='ref',
        help='JSONL rows with the correct answers; not needed if the predictions include them, as `swift infer` '
        'writes them')
    files.add_argument(
        '--id',
        metavar='COLUMN',
        help='the column that identifies rows in both files (default: id, citrusv_row, or else the line number)')
    files.add_argument(
        '--output', metavar='DIR', help='directory for scores.json and report.html (default: output/eval-TASK)')
    how = parser.add_argument_group('scoring')
    how.add_argument(
        '--by',
        metavar='COLUMNS',
        help='columns to group by, separated by commas (default: dataset, modality and organ, if present)')
    how.add_argument(
        '--cluster',
        metavar='COLUMN',
        help='the column whose values the bootstrap resamples as clusters (default: patient, subject or study, if '
        'present, or else the images of a row)')
    how.add_argument(
        '--repeats',
        type=int,
        default=1000,
        metavar='N',
        help='number of resamplings for the intervals; 0: no intervals (default: 1000)')
    how.add_argument('--seed', type=int, default=0, help='random seed of resamplings and examples (default: 0)')
    how.add_argument(
        '--workers',
        type=int,
        default=min(os.cpu_count() or 1, 8),
        metavar='N',
        help='number of scoring processes, used from 1,000 rows on (default: one per core, at most 8)')
    add_option(how, '--no-report', action='store_true', help='write only scores.json')
    how.add_argument('--traceback', action='store_true', help='show the traceback of an error')
    model = parser.add_argument_group('prediction')
    model.add_argument(
        '--model',
        metavar='DIR',
        help='a Citrus-V checkpoint that answers the rows of --data; an interrupted run resumes')
    add_option(
        model,
        '--text-from',
        metavar='URL',
        help='an OpenAI-compatible server that writes the text, while the model draws the masks')
    model.add_argument(
        '--ranks', type=int, default=1, metavar='N', help='number of processes, one per device (default: 1)')
    add_option(model, '--batch-size', type=int, default=8, metavar='N', help='rows per batch (default: 8)')
    add_option(
        model, '--max-new-tokens', type=int, default=512, metavar='N', help='maximum tokens per answer (default: 512)')
    add_option(
        model,
        '--infer-args',
        default='',
        metavar='TEXT',
        help="more flags for `swift infer`, e.g. '--temperature 0.7 --torch_dtype bfloat16'")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from ...settings import SettingError
    if args.repeats < 0 or args.workers < 1:
        raise SettingError(
            f'--repeats is {args.repeats} and --workers is {args.workers}: give at least 0 and at least 1.')
    # Only a benchmark: write its questions, to be answered elsewhere.
    only_questions = bool(getattr(args, 'preset', None)) and args.pred is None and args.model is None
    if not only_questions and (args.pred is None) == (args.model is None):
        raise SettingError('Give --pred FILE with predictions, or --model DIR and --data FILE.')
    folder = args.output or os.path.join('output', f'eval-{args.task}')
    os.makedirs(folder, exist_ok=True)
    if args.prepare is not None:
        args.prepare(args, folder)
    if only_questions:
        print(f'{args.ref}: let a model answer these rows, and give its answers with --pred.')
        return 0
    if args.model is not None and args.ref is None:
        raise SettingError('Give --data FILE with the rows for the model to answer.')
    from ...scoring.compare import task_class
    task = task_class(args.task)(**args.options(args))
    predictions = args.pred if args.pred is not None else _predict(args, folder)
    from ...scoring.evaluate import EvaluationSettings, evaluate, evaluation_json
    from ...scoring.terminal import evaluation_lines
    by = None if args.by is None else tuple(filter(None, args.by.split(',')))
    settings = EvaluationSettings(args.id, by, args.cluster, args.repeats, args.seed, args.workers)
    evaluation = evaluate(task, args.ref, predictions, settings)
    write_json(evaluation_json(evaluation, __version__), os.path.join(folder, 'scores.json'))
    print('\n'.join(evaluation_lines(evaluation)))
    print(os.path.join(folder, 'scores.json'))
    if not args.no_report:
        from ...scoring.html_report.report import write_report
        write_report(evaluation, os.path.join(folder, 'report.html'), __version__)
        print(os.path.join(folder, 'report.html'))
    return 0


def write_json(content: dict[str, Any], path: str) -> None:
    """Writes scores.json: the scores indented, the cases with one column per line."""
    import json
    cases = content.pop('per_case')
    text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False)
    dump: Callable[[Any], str] = lambda value: json.dumps(value, ensure_ascii=False, allow_nan=False)
    columns = ',\n'.join(f'   {dump(name)}: {dump(values)}' for name, values in cases['columns'].items())
    rest = ',\n'.join(f'  {dump(key)}: {dump(cases[key])}' for key in cases if key != 'columns')
    with open(path, 'w', encoding='utf-8', errors='backslashreplace') as file:
        file.write(f'{text[:-2]},\n "per_case": {{\n{rest},\n  "columns": {{\n{columns}\n  }}\n }}\n}}\n')


def _predict(args: argparse.Namespace, folder: str) -> str:
    import shlex

    from .predict import predict
    return predict(
        args.ref,
        os.path.join(folder, 'predictions.jsonl'),
        model=args.model,
        engine='server' if args.text_from else 'swift',
        server=args.text_from,
        ranks=args.ranks,
        batch_size=args.batch_size,
        max_new_tokens=args.max_new_tokens,
        extra=shlex.split(args.infer_args))
