"""`citrusv segment`: answers the rows of a file with masks; the text comes from the model, a server or a file."""
import argparse
import os
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import (add_adapters_option, add_device_options, add_model_option, add_option, boolean, load_pipeline,
                      positive_int, require_directory_or_hub_name, require_environment_variable, require_file)
from .row_input import row_files

if TYPE_CHECKING:
    from ..inference.text_client import ServedText, TextServer
    from ..pipeline import CitrusVPipeline
    from .segment_masks import RowWithText
    from .segment_rows import ResultFile, RowRequest

NAME = 'segment'
HELP = 'answer rows with text and masks; the text may come from vLLM, SGLang or a file'
DESCRIPTION = (
    'Answers each row of a JSONL file with text and masks, in the format of `swift infer`. With --text-from, an '
    'OpenAI-compatible server writes the text; with --text, a file holds it. The masks then need only one '
    'forward pass over question and answer. Rows that are already in the output are skipped.')
_GENERATION_OPTIONS = ('max_tokens', 'temperature', 'top_p', 'seed', 'stop')
_SERVER_OPTIONS = ('served_model', 'api_key_env', 'concurrency', 'retries', 'timeout')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = partial(add_option, parser)
    add_model_option(parser)
    add_adapters_option(parser)
    add('--data', required=True, metavar='FILE', help='JSONL rows; a final assistant turn is taken as the label')
    add('--output', required=True, type=Path, metavar='FILE', help='JSONL results; existing results are kept')
    source = parser.add_mutually_exclusive_group()
    add_option(source, '--text-from', metavar='URL', help='an OpenAI-compatible server, e.g. http://host:8000')
    source.add_argument(
        '--text',
        metavar='FILE',
        help="JSONL answers with 'response', matched to the rows by 'citrusv_row' or else by order")
    add('--served-model', metavar='NAME', help='name of the model on the server (default: its only model)')
    add('--api-key-env', metavar='VAR', help='environment variable with the API key of the server')
    add('--concurrency', type=positive_int, metavar='N', help='concurrent requests (default: 16)')
    add('--retries', type=int, metavar='N', help='retries after status 429, 5xx or a lost connection (default: 8)')
    add('--timeout', type=float, metavar='SECONDS', help='time limit for one answer (default: 600)')
    add('--overlay-dir', metavar='DIR', help='write pictures of the masks on their images to this directory')
    add('--batch-size', type=positive_int, default=8, metavar='N', help='answers per batch (default: 8)')
    add('--max-tokens', type=positive_int, metavar='N', help='maximum tokens per answer (default: 512)')
    add('--temperature', type=float, help='sampling temperature; 0: greedy decoding (default: 0)')
    add('--top-p', type=float, help="nucleus sampling (default: the model's own value)")
    add('--seed', type=int, help='random seed for sampling')
    add('--stop', nargs='+', metavar='TEXT', help='strings that end an answer')
    add('--strict',
        type=boolean,
        default=True,
        metavar='BOOL',
        help='false: skip rows that cannot be answered and count them (default: true, stop at the first one)')
    add_device_options(parser)


def run(args: argparse.Namespace, pipe: 'CitrusVPipeline | None' = None) -> int:
    """Runs the command.

    Args:
        args: Parsed arguments.
        pipe: The model; by default the one that `args` name.
    """
    from ..inference.overlays import check_overlay_dir
    from ..rows.skips import SkipCounter
    from .segment_masks import RowSegmenter
    from .segment_rows import ResultFile, read_texts
    _check_arguments(args)
    results, skips = ResultFile(args.output), SkipCounter()
    try:
        names, todo = _check_rows(args, results, skips)
        num_rows = len(names) + skips.counts.total()
        file_texts = None if args.text is None else read_texts(args.text, names)
        if args.overlay_dir is not None:
            check_overlay_dir(args.overlay_dir)
        # Connects before the model is loaded, which takes long.
        server = None if args.text_from is None or not todo else _server(args)
        num_before = len(results)
        print(f'{num_rows} rows, {num_before} of them already in {args.output}', flush=True)
        if todo:
            pipe = pipe or load_pipeline(args, batch_size=args.batch_size)
            segmenter = RowSegmenter(
                pipe,
                results,
                skips,
                strict=args.strict,
                batch_size=args.batch_size,
                overlay_dir=args.overlay_dir,
                generation=_generation(args))
            segmenter.run(_rows_with_text(args, todo, pipe, server, file_texts), len(todo))
            print(segmenter.summary())
        skips.report(args.data, num_rows)
    finally:
        results.close()
    return 0


def _check_arguments(args: argparse.Namespace) -> None:
    row_files(args.data, '--data')
    if args.text is not None:
        require_file(args.text, '--text')
    require_directory_or_hub_name(args.model, '--model')
    if args.api_key_env is not None:
        require_environment_variable(args.api_key_env, '--api-key-env')
    for name in _SERVER_OPTIONS:
        if args.text_from is None and getattr(args, name) is not None:
            raise ValueError(f'--{name.replace("_", "-")} {getattr(args, name)} is only for --text-from.')
    for name in _GENERATION_OPTIONS:
        if args.text is not None and getattr(args, name) is not None:
            raise ValueError(
                f'--{name.replace("_", "-")} {getattr(args, name)}: --text gives the text, so nothing is generated.')


def _generation(args: argparse.Namespace) -> dict[str, Any]:
    given = {name: getattr(args, name) for name in _GENERATION_OPTIONS if getattr(args, name) is not None}
    return {'max_tokens': 512, 'temperature': 0., **given}


def _server(args: argparse.Namespace) -> 'TextServer':
    from ..inference.text_client import TextServer
    optional = {name: getattr(args, name) for name in ('retries', 'timeout') if getattr(args, name) is not None}
    key = None if args.api_key_env is None else os.environ[args.api_key_env]
    return TextServer(args.text_from, args.served_model, api_key=key, generation=_generation(args), **optional)


def _check_rows(args: argparse.Namespace, results: 'ResultFile', skips: Any) -> tuple[list[str], set[str]]:
    """Checks every row before any is answered; returns the names of the good rows and of those to be answered."""
    from tqdm import tqdm

    from .segment_rows import read_requests
    names, todo = [], set()
    for request in tqdm(read_requests(args.data), desc=f'Checking {os.path.basename(args.data)}', unit=' rows'):
        if isinstance(request, Exception):
            if args.strict:
                raise request
            skips.add(request)
            continue
        names.append(request.name)
        if not results.has(request):
            todo.add(request.name)
    results.check_names(set(names))
    if not names:
        raise ValueError(f'--data {args.data} has no row that can be answered.')
    return names, todo


# ---- the text


def _rows_with_text(args: argparse.Namespace, todo: set[str], pipe: 'CitrusVPipeline', server: 'TextServer | None',
                    file_texts: 'dict[str, ServedText] | None') -> 'Iterator[RowWithText]':
    """Yields the rows to be answered, in order, each with its text, an error, or None."""
    from ..errors import RowError
    from .segment_rows import read_requests
    requests = (request for request in read_requests(args.data)
                if not isinstance(request, Exception) and request.name in todo)  # yapf: disable
    if server is not None:
        return _rows_with_served_text(args, requests, pipe, server)
    if file_texts is None:
        return ((request, None) for request in requests)
    return ((request,
             file_texts.get(request.name)
             or RowError(request.name, f'{args.text} has no answer to it.', 'Give one answer per row.', 'text'))
            for request in requests)  # yapf: disable


def _rows_with_served_text(args: argparse.Namespace, requests: 'Iterator[RowRequest]', pipe: 'CitrusVPipeline',
                           server: 'TextServer') -> 'Iterator[RowWithText]':
    from concurrent.futures import Future, ThreadPoolExecutor

    from ..inference.teacher_forcing import chat_messages
    template = pipe.engine.template

    def ask(request: 'RowRequest') -> 'ServedText':
        return server.ask(chat_messages(template, request.row, request.name), request.name)

    concurrency = args.concurrency or 16
    # Enough requests in flight to keep the server busy while masks are drawn here.
    ahead = 2 * concurrency + 2 * args.batch_size
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix='citrusv-text')
    waiting: deque[tuple[RowRequest, Future[ServedText]]] = deque()

    def first() -> 'RowWithText':
        request, future = waiting.popleft()
        error = future.exception()
        if error is None:
            return request, future.result()
        if not isinstance(error, (ValueError, OSError)):
            raise error
        return request, error

    try:
        for request in requests:
            waiting.append((request, pool.submit(ask, request)))
            if len(waiting) >= ahead:
                yield first()
        while waiting:
            yield first()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
