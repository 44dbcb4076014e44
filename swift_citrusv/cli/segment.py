"""`citrusv segment`: masks for every row of a file, their text from this model, from a server, or from a file."""
import argparse
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..inference.text_client import ServedText, TextServer
    from ..pipeline import CitrusVPipeline
    from .segment_masks import Said
    from .segment_rows import Question, ResultFile

NAME = 'segment'
HELP = 'answer rows with text and masks; the text may come from vLLM, SGLang, ... or a file'
DESCRIPTION = ('Answers each row of a JSONL file with text and masks, in lines as `swift infer` writes them. With '
               '--text-from an OpenAI-compatible server writes the text, with --text a file has it; the masks then '
               'take one pass over question and answer here. Rows that the output has already are not asked again.')
_DTYPES = ('bfloat16', 'float16', 'float32')
_GENERATION = ('max_tokens', 'temperature', 'top_p', 'seed', 'stop')
_OF_SERVER = ('served_model', 'api_key_env', 'concurrency', 'retries', 'timeout')


def add_arguments(parser: argparse.ArgumentParser) -> None:

    def add(name: str, **kwargs: Any) -> None:
        names = [name, *([f'--{name[2:].replace("-", "_")}'] if '-' in name[2:] else [])]
        parser.add_argument(*names, **kwargs)

    add('--model', required=True, metavar='DIR', help='a Citrus-V checkpoint, or a hub name')
    add('--adapters', nargs='+', default=[], metavar='DIR', help='LoRA adapters on top of it')
    add('--data', required=True, metavar='FILE', help='JSONL rows; a last turn of the assistant is the label')
    add('--output', required=True, type=Path, metavar='FILE', help='JSONL results; what is there already stays')
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        '--text-from', '--text_from', metavar='URL', help='an OpenAI-compatible server, e.g. http://host:8000')
    source.add_argument('--text', metavar='FILE', help="JSONL answers: 'response', and 'citrusv_row' or in order")
    add('--served-model', metavar='NAME', help='the name of the model on the server (default: the only one)')
    add('--api-key-env', metavar='VAR', help='the environment variable with the key for the server')
    add('--concurrency', type=_positive, metavar='N', help='requests at a time (default: 16)')
    add('--retries', type=int, metavar='N', help='of a request after 429, 5xx or no connection (default: 8)')
    add('--timeout', type=float, metavar='SECONDS', help='for one answer (default: 600)')
    add('--overlay-dir', metavar='DIR', help='pictures of the masks on their images go there')
    add('--batch-size', type=_positive, default=8, metavar='N', help='answers drawn at a time (default: 8)')
    add('--max-tokens', type=_positive, metavar='N', help='of an answer (default: 512)')
    add('--temperature', type=float, help='0 takes the likeliest token (default: 0)')
    add('--top-p', type=float, help='(default: that of the model)')
    add('--seed', type=int, help='of what is drawn at random')
    add('--stop', nargs='+', metavar='TEXT', help='ends an answer')
    add('--strict',
        type=_bool,
        default=True,
        metavar='BOOL',
        help='false: rows that cannot be answered are counted and left out')
    add('--device', help="'cpu', 'cuda', 'cuda:1', ... (default: the best there is)")
    add('--dtype', choices=_DTYPES, help="of the language model (default: the checkpoint's own)")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{text} is not positive')
    return value


def _bool(text: str) -> bool:
    if text.lower() not in ('true', 'false'):
        raise argparse.ArgumentTypeError(f'{text} is neither true nor false')
    return text.lower() == 'true'


def run(args: argparse.Namespace, pipe: 'CitrusVPipeline | None' = None) -> int:
    """Runs the command.

    Args:
        args: Parsed arguments.
        pipe: The model; by default that of `args`.
    """
    from ..inference.overlays import check_overlay_dir
    from ..rows.skips import Skips
    from .segment_masks import RowSegmenter
    from .segment_rows import ResultFile, read_answers
    _check(args)
    results, skips = ResultFile(args.output), Skips()
    try:
        names, todo = _scan(args, results, skips)
        num_rows = len(names) + skips.counts.total()
        given = None if args.text is None else read_answers(args.text, names)
        if args.overlay_dir is not None:
            check_overlay_dir(args.overlay_dir)
        # Before the time that a model takes to load.
        server = None if args.text_from is None or not todo else _server(args)
        num_before = len(results)
        print(f'{num_rows} rows, {num_before} of them in {args.output} already', flush=True)
        if todo:
            pipe = pipe or _pipeline(args)
            segmenter = RowSegmenter(
                pipe,
                results,
                skips,
                strict=args.strict,
                batch_size=args.batch_size,
                overlay_dir=args.overlay_dir,
                generation=_generation(args))
            segmenter.run(_said(args, todo, pipe, server, given), len(todo))
            print(segmenter.summary())
        skips.report(args.data, num_rows)
    finally:
        results.close()
    return 0


def _check(args: argparse.Namespace) -> None:
    for flag, name in (('--data', args.data), ('--text', args.text)):
        if name is not None and not os.path.isfile(name):
            raise FileNotFoundError(f'{flag} {name}: no such file.')
    if not os.path.isdir(args.model) and (os.path.isabs(args.model) or args.model.startswith('.')):
        raise FileNotFoundError(f'--model {args.model}: no such directory.')
    if args.api_key_env is not None and not os.environ.get(args.api_key_env):
        raise ValueError(f'--api-key-env {args.api_key_env}: the environment has no such variable.')
    for name in _OF_SERVER:
        if args.text_from is None and getattr(args, name) is not None:
            raise ValueError(f'--{name.replace("_", "-")} {getattr(args, name)} is for --text-from alone.')
    for name in _GENERATION:
        if args.text is not None and getattr(args, name) is not None:
            raise ValueError(f'--{name.replace("_", "-")} {getattr(args, name)}: the text of --text is written.')


def _generation(args: argparse.Namespace) -> dict[str, Any]:
    given = {name: getattr(args, name) for name in _GENERATION if getattr(args, name) is not None}
    return {'max_tokens': 512, 'temperature': 0., **given}


def _pipeline(args: argparse.Namespace) -> 'CitrusVPipeline':
    import torch

    from ..pipeline import CitrusVPipeline
    dtype = None if args.dtype is None else getattr(torch, args.dtype)
    return CitrusVPipeline(
        args.model, adapters=args.adapters, device=args.device, dtype=dtype, batch_size=args.batch_size)


def _server(args: argparse.Namespace) -> 'TextServer':
    from ..inference.text_client import TextServer
    optional = {name: getattr(args, name) for name in ('retries', 'timeout') if getattr(args, name) is not None}
    key = None if args.api_key_env is None else os.environ[args.api_key_env]
    return TextServer(args.text_from, args.served_model, api_key=key, generation=_generation(args), **optional)


def _scan(args: argparse.Namespace, results: 'ResultFile', skips: Any) -> tuple[list[str], set[str]]:
    """Checks every row before any is asked; the names of the good ones, and of those still to be answered."""
    from tqdm import tqdm

    from .segment_rows import read_questions
    names, todo = [], set()
    for question in tqdm(read_questions(args.data), desc=f'Checking {os.path.basename(args.data)}', unit=' rows'):
        if isinstance(question, Exception):
            if args.strict:
                raise question
            skips.add(question)
            continue
        names.append(question.name)
        if not results.has(question):
            todo.add(question.name)
    results.check_names(set(names))
    if not names:
        raise ValueError(f'--data {args.data} has no row that can be answered.')
    return names, todo


# ---- the text


def _said(args: argparse.Namespace, todo: set[str], pipe: 'CitrusVPipeline', server: 'TextServer | None',
          given: 'dict[str, ServedText] | None') -> 'Iterator[Said]':
    """The rows that are to be answered, in order, each with its text, the error in its place, or None."""
    from ..errors import RowError
    from .segment_rows import read_questions
    questions = (question for question in read_questions(args.data)
                 if not isinstance(question, Exception) and question.name in todo)  # yapf: disable
    if server is not None:
        return _served(args, questions, pipe, server)
    if given is None:
        return ((question, None) for question in questions)
    return ((question,
             given.get(question.name)
             or RowError(question.name, f'{args.text} has no answer to it.', 'Bring one for each row.', 'text'))
            for question in questions)  # yapf: disable


def _served(args: argparse.Namespace, questions: 'Iterator[Question]', pipe: 'CitrusVPipeline',
            server: 'TextServer') -> 'Iterator[Said]':
    from concurrent.futures import Future, ThreadPoolExecutor

    from ..inference.teacher_forcing import chat_messages
    template = pipe.engine.template

    def ask(question: 'Question') -> 'ServedText':
        return server.ask(chat_messages(template, question.row, question.name), question.name)

    concurrency = args.concurrency or 16
    # So many are asked ahead that the server has work while the masks are drawn here.
    ahead = 2 * concurrency + 2 * args.batch_size
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix='citrusv-text')
    waiting: deque[tuple[Question, Future[ServedText]]] = deque()

    def first() -> 'Said':
        question, future = waiting.popleft()
        error = future.exception()
        if error is None:
            return question, future.result()
        if not isinstance(error, (ValueError, OSError)):
            raise error
        return question, error

    try:
        for question in questions:
            waiting.append((question, pool.submit(ask, question)))
            if len(waiting) >= ahead:
                yield first()
        while waiting:
            yield first()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
