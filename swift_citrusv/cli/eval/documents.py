"""`citrusv eval documents`: lab reports and other medical documents (MedDocBench)."""
import argparse
from typing import Any

from ..options import add_option, require_environment_variable, require_file

NAME = 'documents'
HELP = 'score medical documents (MedDocBench): lab report parsing and questions, by rules and an LLM judge'


def add_arguments(parser: Any) -> None:
    """Adds the options of the task to a parser or an argument group."""
    parser.add_argument(
        '--subtask',
        choices=('parsing', 'simple_qa', 'complex_qa', 'gmd_simple_qa', 'gmd_complex_qa', 'gmd'),
        help="the subtask of all rows (default: the column 'subtask' of each row)")
    add_option(
        parser,
        '--name-threshold',
        type=float,
        default=0.6,
        metavar='X',
        help='minimum similarity to match two different test names (default: 0.6)')
    parser.add_argument(
        '--judge',
        metavar='URL',
        help='an OpenAI-compatible server that judges answers the rules reject, and scores gmd (default: only rules)')
    add_option(parser, '--judge-model', metavar='NAME', help='name of the judge model on the server')
    add_option(
        parser,
        '--judge-api-key-env',
        metavar='VARIABLE',
        help='environment variable with the API key of the server (default: no key)')
    add_option(
        parser,
        '--judge-record',
        metavar='FILE',
        help='JSONL file to store the replies of the judge; stored replies are reused')
    add_option(
        parser,
        '--judge-replay',
        metavar='FILE',
        help='a file of --judge-record to take replies from; without --judge no server is needed')
    add_option(
        parser,
        '--judge-concurrency',
        type=int,
        default=8,
        metavar='N',
        help='concurrent requests to the judge (default: 8)')


def options(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments of `DocumentsTask`.

    Raises:
        ValueError: The environment variable of the API key is missing.
        FileNotFoundError: The replay file is missing.
    """
    # Fails here rather than after hours of prediction.
    if args.judge_api_key_env is not None:
        require_environment_variable(args.judge_api_key_env, '--judge-api-key-env')
    if args.judge_replay is not None:
        require_file(args.judge_replay, '--judge-replay')
    return {
        name: getattr(args, name)
        for name in ('subtask', 'name_threshold', 'judge', 'judge_model', 'judge_api_key_env', 'judge_record',
                     'judge_replay', 'judge_concurrency')
    }
