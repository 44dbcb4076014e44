"""`citrusv build`: builds a Citrus-V checkpoint from a Qwen2.5-VL and a SAM2."""
import argparse
import json
import os
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import RowError
from .options import DTYPES, require_directory_or_hub_name

if TYPE_CHECKING:
    from ..model.modeling import CitrusVForConditionalGeneration

NAME = 'build'
HELP = 'build a Citrus-V checkpoint from a Qwen2.5-VL and a SAM2'
DESCRIPTION = ('Combines a Qwen2.5-VL and a SAM2 into one checkpoint directory, with [SEG] in its tokenizer. '
               '`--mllm tiny --sam2 tiny` builds a random model of about 1.4 M parameters, for tests and laptops.')
# The first matching prefix decides.
_PARTS = {
    'model.language_model.': 'language model',
    'lm_head.': 'language model',
    'model.visual.merger.': 'aligner',
    'model.visual.': 'vision encoder',
    'seg_projector.': 'segmentation projector',
    'segmenter.image_encoder.': 'SAM2 image encoder',
    'segmenter.sam_mask_decoder.': 'SAM2 mask decoder',
    'segmenter.': 'SAM2 prompt encoder',
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--mllm',
        required=True,
        metavar='SOURCE',
        help="a Qwen2.5-VL directory, a hub name, or 'tiny' (random weights)")
    parser.add_argument(
        '--sam2',
        required=True,
        metavar='SOURCE',
        help='a .pt file, a hub name (facebook/sam2.1-hiera-large), or a preset name (random weights): '
        'sam2.1_hiera_l, ..., tiny')
    parser.add_argument(
        '--output', required=True, metavar='DIR', help='the new checkpoint directory; must not hold a model')
    parser.add_argument(
        '--sam2-preset', metavar='PRESET', help='the preset of a .pt file, if its name does not show it')
    parser.add_argument(
        '--multimask-output', action='store_true', help='use the best of the three multimask outputs of SAM2')
    parser.add_argument(
        '--dtype', choices=DTYPES, help='dtype of the MLLM (default: the dtype of its checkpoint); SAM2 stays float32')
    parser.add_argument(
        '--corpus',
        metavar='FILE',
        help='texts that train the tokenizer of --mllm tiny: a .jsonl file of rows, or lines of text')
    parser.add_argument('--seed', type=int, default=0, help='seed of the random initialisation (default: 0)')


def run(args: argparse.Namespace) -> int:
    corpus = _corpus(args)
    _check_mllm(args.mllm)
    import torch

    from ..plugin.register import register_transformers
    register_transformers()
    from ..model.build import build_checkpoint
    mllm = args.mllm
    if mllm != 'tiny' and not os.path.isdir(mllm):
        from swift.utils import safe_snapshot_download
        mllm = safe_snapshot_download(mllm, download_model=True)
    settings: dict[str, Any] = {} if corpus is None else {'corpus': corpus}
    model = build_checkpoint(
        mllm,
        args.sam2,
        args.output,
        sam2_preset=args.sam2_preset,
        multimask_output=args.multimask_output,
        dtype=getattr(torch, args.dtype) if args.dtype else None,
        seed=args.seed,
        **settings)
    print(_build_summary(model, args))
    return 0


def _check_mllm(mllm: str) -> None:
    if os.path.isdir(mllm):
        if not os.path.isfile(os.path.join(mllm, 'config.json')):
            raise ValueError(f'--mllm {mllm} is a directory without a config.json. Give one that holds a Qwen2.5-VL.')
    else:
        require_directory_or_hub_name(mllm, '--mllm')


def _corpus(args: argparse.Namespace) -> list[str] | None:
    if args.corpus is None:
        return None
    if args.mllm != 'tiny':
        raise ValueError(
            f'--corpus {args.corpus} is for the tokenizer of --mllm tiny; {args.mllm} has its own. Remove it.')
    # A list, because the tokenizer trainer hides errors that a generator raises.
    texts = list(read_corpus(args.corpus))
    if not texts:
        raise ValueError(f'--corpus {args.corpus} holds no text. Give rows with messages (.jsonl) or lines of text.')
    return texts


def read_corpus(path: str) -> Iterator[str]:
    """Reads the texts of a file: all messages of a `.jsonl` file, else the lines. Skips blank lines.

    Raises:
        RowError: A line of a `.jsonl` file holds no messages.
    """
    with open(path, encoding='utf-8') as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                if path.endswith('.jsonl'):
                    yield from _message_texts(line, f'{os.path.basename(path)}:{number}')
                else:
                    yield line.rstrip('\n')


def _message_texts(line: str, row_id: str) -> Iterator[str]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise RowError(row_id, f'the line is not JSON ({error}): {line.strip()[:80]!r}.',
                       'Write one JSON object a line.', 'not-json') from error
    messages = row.get('messages') if isinstance(row, dict) else None
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise RowError(row_id, f"the line has no list of 'messages': {line.strip()[:80]!r}.",
                       "Write {'messages': [{'role': ..., 'content': ...}]}, or give lines of text (.txt).", 'messages')
    for message in messages:
        yield from _content_texts(message.get('content'))


def _content_texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, dict) and isinstance(part.get('text'), str):
                yield part['text']


def count_parameters(model: 'CitrusVForConditionalGeneration') -> Counter[str]:
    """Counts the parameters of each part; tied parameters count once."""
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        counts[next(part for prefix, part in _PARTS.items() if name.startswith(prefix))] += parameter.numel()
    return counts


def _build_summary(model: 'CitrusVForConditionalGeneration', args: argparse.Namespace) -> str:
    config = model.config
    counts = count_parameters(model)
    rows = [('MLLM', args.mllm), ('SAM2', f'{args.sam2} (preset {config.sam2_preset})')]
    rows += [(f'  {part}', f'{counts[part]:>13,} parameters') for part in dict.fromkeys(_PARTS.values())]
    rows += [('  total', f'{counts.total():>13,} parameters'),
             ('dtype of the MLLM', str(config.dtype).removeprefix('torch.')),
             ('multimask output', 'yes' if config.multimask_output else 'no'), ('[SEG] id', str(config.seg_token_id)),
             ('output', args.output)]
    return '\n'.join(f'{name:<26}{value}' for name, value in rows)
