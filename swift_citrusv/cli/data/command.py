"""`citrusv data`: cleans rows, with a record of every decision."""
import argparse
import sys
from typing import Any

from ..options import add_option, positive_int
from . import dedup, deid, dicom
from . import filter as filter_rows
from . import leaks, stats

NAME = 'data'
HELP = 'clean data before training: series, rows, copies, leaks; with a record of every decision'
DESCRIPTION = (
    'Cleans rows before training. Every step writes the rows that go on (rows/), a ledger of every decision '
    '(ledger/), rows for a person to look at (review/), summary.json and report.html. An interrupted command '
    'goes on when it is repeated.')
_ROWS = 'files of rows (.jsonl, .jsonl.gz, .parquet, ...), folders of them, or outputs of earlier steps'
# In the order in which one uses them.
_STEPS = (dicom, deid, filter_rows, dedup, leaks)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title='steps', required=True, metavar='STEP', dest='data_step')
    for module in _STEPS:
        step = commands.add_parser(module.NAME, help=module.HELP, description=module.DESCRIPTION)
        _add_common(step, getattr(module, 'FOLDERS', _ROWS))
        module.add_arguments(step.add_argument_group(module.NAME))
        step.set_defaults(action=_run_step, make_step=module.make_step,
                          check_result=getattr(module, 'check_result', None))  # yapf: disable
    run = commands.add_parser(
        'run',
        help='several steps in order, from a recipe',
        description=(
            'Runs the steps of a recipe. The recipe is a YAML list of steps, each with its options: '
            '`- filter: {min_tokens: 5}`. Each step has a folder in the output; the rows of the last one are in rows/.'
        ))
    run.add_argument('recipe', metavar='RECIPE', help='the recipe (.yaml)')
    _add_common(run, f'{_ROWS}; where the first step is dicom or deid, folders of images')
    run.set_defaults(action=_run_recipe)
    why = commands.add_parser('why', help='the history of a row', description='Prints what became of a row, and why.')
    _add_folder(why)
    why.add_argument('row', metavar='ROW', help='its row_id, the first digits of it, or FILE:LINE of the input')
    why.set_defaults(action=_why)
    verify = commands.add_parser(
        'verify',
        help='check that no row was lost',
        description=(
            'Checks the hash of every file, and that every row of the input has one verdict and is where it says. '
            'Exit status: 0; 1 if something is wrong.'))
    _add_folder(verify)
    verify.set_defaults(action=_verify)
    counts = commands.add_parser(stats.NAME, help=stats.HELP, description=stats.DESCRIPTION)
    stats.add_arguments(counts)
    counts.set_defaults(action=stats.run)


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('folder', metavar='DIR', help='the output of a step or of a run')
    parser.add_argument('--traceback', action='store_true', help='show the traceback of an error')


def _add_common(parser: argparse.ArgumentParser, inputs: str) -> None:
    parser.add_argument('inputs', nargs='+', metavar='IN', help=inputs)
    parser.add_argument('--output', required=True, metavar='DIR', help='the folder to write')
    parser.add_argument('--workers', type=positive_int, default=1, metavar='N', help='processes (default: 1)')
    parser.add_argument('--executor', choices=('local', 'slurm', 'ray'), default='local',
                        help='where they run, by datatrove (default: local)')  # yapf: disable
    add_option(parser, '--executor-options', nargs='+', default=[], metavar='NAME=VALUE',
               help="arguments of datatrove's executor, e.g. partition=cpu time=10:00:00 for Slurm")  # yapf: disable
    add_option(parser, '--shard-mib', type=positive_int, default=16, metavar='N',
               help='size of the parts of the input that run at a time, in MiB (default: 16)')  # yapf: disable
    parser.add_argument('--traceback', action='store_true', help='show the traceback of an error')


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    try:
        import datatrove  # noqa: F401
        import duckdb  # noqa: F401
    except ImportError as error:
        raise ValueError(f"{error.name} is missing: pip install 'swift-citrusv[data]'") from error
    status: int = args.action(args)
    return status


def _run_step(args: argparse.Namespace) -> int:
    return _run(args, [args.make_step(args)], False, args.check_result)


def _run_recipe(args: argparse.Namespace) -> int:
    from ...curation.recipe import read_recipe
    steps = [_step_of(args.recipe, name, options) for name, options in read_recipe(args.recipe)]
    return _run(args, steps, True)


def _step_of(recipe: str, name: str, options: dict[str, Any]) -> Any:
    """A step with the options of a recipe, which are those of the command line."""
    from ...settings import SettingError
    module = next((module for module in _STEPS if module.NAME == name), None)
    if module is None:
        raise SettingError(f'{recipe}: there is no step {name!r}. Steps: {", ".join(step.NAME for step in _STEPS)}.')
    parser = _RecipeParser(prog=f'{recipe}: {name}', add_help=False, allow_abbrev=False)
    module.add_arguments(parser)
    words = []
    for key, value in options.items():
        flag = f'--{key.replace("_", "-")}'
        if value is True:
            words.append(flag)
        elif value is not False and value is not None:
            words += [flag, *map(str, value if isinstance(value, list) else [value])]
    return module.make_step(parser.parse_args(words))


class _RecipeParser(argparse.ArgumentParser):

    def error(self, message: str) -> Any:
        from ...settings import SettingError
        raise SettingError(f'{self.prog}: {message}.')


def _run(args: argparse.Namespace, steps: list[Any], is_recipe: bool, check_result: Any = None) -> int:
    from ...curation.engine import Engine, StageError
    from ...curation.run import run_steps
    engine = Engine(args.executor, args.workers, dict(_option(text) for text in args.executor_options))
    try:
        summary = run_steps(steps, args.inputs, args.output, engine, is_recipe=is_recipe,
                            shard_bytes=args.shard_mib << 20)  # yapf: disable
    except StageError as error:
        if args.traceback:
            raise
        print(f'citrusv: error: {error}', file=sys.stderr)
        return 2
    if summary is None:
        print(f'Submitted. When the jobs have ended: citrusv data verify {args.output}')
        return 0
    from ...curation.summary_text import summary_lines
    print('\n'.join(summary_lines(summary, args.output)))
    return check_result(summary, args.output) if check_result is not None else 0


def _option(text: str) -> tuple[str, Any]:
    import yaml

    from ...settings import SettingError
    name, sign, value = text.partition('=')
    if not sign:
        raise SettingError(f'--executor-options {text}: write NAME=VALUE.')
    # `10:00:00` is a number to YAML 1.1.
    return name, value if ':' in value else yaml.safe_load(value)


def _why(args: argparse.Namespace) -> int:
    from ...curation.why import history
    print('\n'.join(history(args.folder, args.row)))
    return 0


def _verify(args: argparse.Namespace) -> int:
    from ...curation.verify import problems, read_summary
    found = problems(args.folder)
    for problem in found:
        print(problem, file=sys.stderr)
    if not found:
        summary = read_summary(args.folder)
        print(f'{args.folder}: {summary["in"]:,} rows in, each with one verdict; every file has its hash.')
    return 1 if found else 0
