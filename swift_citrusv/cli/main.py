"""`citrusv`: parses the command line and runs a subcommand.

Each subcommand is a module with NAME, HELP, DESCRIPTION, `add_arguments` and `run`. Only `run` imports anything
heavy, so `citrusv --help` is fast.
"""
import argparse
import os
import sys
from collections.abc import Sequence
from types import TracebackType

from .. import __version__
from ..errors import CompatibilityError, RowError
from ..settings import SettingError
from . import app, build, check_data, compare, convert, estimate, pack_report, segment, templates, try_rows, volume
from .data import command as data
from .eval import command as evaluate

_PACKAGE = __name__.partition('.')[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: The arguments without the program name; by default those of the process.

    Returns:
        The exit status: 0; 1 if `check-data` finds failing rows; 2 after an error that the user can fix. (argparse also
        exits with 2, if it cannot parse the arguments.)
    """
    args = _parser().parse_args(argv)
    try:
        status = args.run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The reader (`| head`) has closed the pipe. Python flushes stdout again at exit, which would print an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (CompatibilityError, OSError, ValueError) as error:
        if args.traceback or not _is_expected(error):
            raise
        print(f'citrusv: error: {_message(error)}', file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='citrusv', description='Tools for Citrus-V with ms-swift. To train, use `swift sft --model_type citrusv`.')
    parser.add_argument('--version', action='version', version=f'citrusv {__version__}')
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument('--traceback', action='store_true', help='show the traceback of an error')
    subcommands = parser.add_subparsers(title='subcommands', required=True, metavar='COMMAND')
    for module in (app, build, convert, check_data, data, estimate, evaluate, compare, pack_report, segment, templates,
                   try_rows, volume):
        subparser = subcommands.add_parser(
            module.NAME, parents=[common], help=module.HELP, description=module.DESCRIPTION)
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser


def _is_expected(error: Exception) -> bool:
    """Whether the user can fix the error. A ValueError raised outside this package may be a bug of ours."""
    if isinstance(error, (CompatibilityError, OSError, RowError, SettingError)):
        return True
    traceback: TracebackType | None = error.__traceback__
    name = ''
    while traceback is not None:
        name = traceback.tb_frame.f_globals.get('__name__', '')
        traceback = traceback.tb_next
    return name.startswith(f'{_PACKAGE}.')


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f'{error.filename}: {error.strerror}.'
    return ' '.join(str(error).split()) or type(error).__name__
