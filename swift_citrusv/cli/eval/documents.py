"""`citrusv eval documents`: MedDocBench, lab reports and other medical documents."""
import argparse
from typing import Any

NAME = 'documents'
HELP = 'medical documents: lab reports read into tables, questions about them, a judge where rules fail (MedDocBench)'


def add_arguments(parser: Any) -> None:
    """Adds the options of the task to a parser, or to a group of one."""
    parser.add_argument(
        '--subtask',
        choices=('parsing', 'simple_qa', 'complex_qa', 'gmd_simple_qa', 'gmd_complex_qa', 'gmd'),
        help="what all rows ask for (default: what the column 'subtask' of each row says)")
    parser.add_argument(
        '--name-threshold',
        '--name_threshold',
        type=float,
        default=0.6,
        metavar='X',
        help='similarity from which two names of tests may be matched, where they are not the same (default: 0.6)')
    parser.add_argument(
        '--judge',
        metavar='URL',
        help='an OpenAI-compatible server that judges what the rules call wrong, and scores gmd (default: rules alone)')
    parser.add_argument('--judge-model', '--judge_model', metavar='NAME', help='of the judge on its server')
    parser.add_argument(
        '--judge-api-key-env',
        '--judge_api_key_env',
        metavar='VARIABLE',
        help='the environment variable that holds the key of the server (default: none is sent)')
    parser.add_argument(
        '--judge-record',
        '--judge_record',
        metavar='FILE',
        help='JSONL that the replies of the judge are added to; those that are in it already are not asked for again')
    parser.add_argument(
        '--judge-replay',
        '--judge_replay',
        metavar='FILE',
        help='replies of --judge-record; without --judge no server is asked')
    parser.add_argument(
        '--judge-concurrency',
        '--judge_concurrency',
        type=int,
        default=8,
        metavar='N',
        help='questions to the judge under way at a time (default: 8)')


def options(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of the task.

    Raises:
        ValueError: The environment has no such key.
        FileNotFoundError: There is no such cassette.
    """
    import os

    # A model may answer for hours before the judge is asked.
    if args.judge_api_key_env is not None and not os.environ.get(args.judge_api_key_env):
        raise ValueError(f'--judge-api-key-env {args.judge_api_key_env}: the environment has no such variable.')
    if args.judge_replay is not None and not os.path.isfile(args.judge_replay):
        raise FileNotFoundError(f'--judge-replay {args.judge_replay}: no such file.')
    return {
        name: getattr(args, name)
        for name in ('subtask', 'name_threshold', 'judge', 'judge_model', 'judge_api_key_env', 'judge_record',
                     'judge_replay', 'judge_concurrency')
    }
