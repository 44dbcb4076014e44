"""Options that several subcommands share, and what they stand for."""
import argparse
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..pipeline import CitrusVPipeline

DTYPES = ('bfloat16', 'float16', 'float32')


def add_option(parser: Any, name: str, **settings: Any) -> None:
    """Adds an option in both spellings, `--max-tokens` and ms-swift's `--max_tokens`.

    Args:
        parser: A parser or an argument group.
        name: The option with hyphens.
        settings: Arguments of `add_argument`.
    """
    spellings = dict.fromkeys((name, f'--{name[2:].replace("-", "_")}'))
    parser.add_argument(*spellings, **settings)


def add_model_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--model', required=True, metavar='DIR', help='a Citrus-V checkpoint, or a hub name')


def add_adapters_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--adapters', nargs='+', default=[], metavar='DIR', help='LoRA adapters for the model')


def add_device_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--device', help="'cpu', 'cuda', 'cuda:1', ... (default: the best one available)")
    parser.add_argument(
        '--dtype', choices=DTYPES, help='dtype of the language model (default: the dtype of the checkpoint)')


def load_pipeline(args: argparse.Namespace, **settings: Any) -> 'CitrusVPipeline':
    """Loads the model of `--model` and `--adapters` on `--device` in `--dtype`.

    Args:
        args: Parsed arguments; `adapters` may be missing.
        settings: More arguments of `CitrusVPipeline`.
    """
    import torch

    from ..pipeline import CitrusVPipeline
    dtype = None if args.dtype is None else getattr(torch, args.dtype)
    return CitrusVPipeline(
        args.model, adapters=getattr(args, 'adapters', []), device=args.device, dtype=dtype, **settings)


def positive_int(text: str) -> int:
    """An argparse type: an integer of 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{text} is not positive')
    return value


def boolean(text: str) -> bool:
    """An argparse type: 'true' or 'false' in any case, as ms-swift writes booleans."""
    if text.lower() not in ('true', 'false'):
        raise argparse.ArgumentTypeError(f'{text!r} is neither true nor false')
    return text.lower() == 'true'


def require_share(value: float | None, flag: str) -> None:
    """Raises a SettingError if a threshold is not above 0 and at most 1; None: it was not given."""
    from ..settings import SettingError
    if value is not None and not 0 < value <= 1:
        raise SettingError(f'{flag} is {value}: give a number above 0 and at most 1.')


def require_file(path: str, flag: str = '') -> None:
    """Raises a FileNotFoundError that names the flag if `path` is not a file."""
    if not os.path.isfile(path):
        problem = 'not a file' if os.path.exists(path) else 'no such file'
        raise FileNotFoundError(f'{flag} {path}: {problem}.'.lstrip())


def require_directory_or_hub_name(name: str, flag: str) -> None:
    """Raises a FileNotFoundError for a missing directory. No hub name is absolute or starts with a dot.

    Without this check the hub would be queried, which takes long to fail.
    """
    if not os.path.isdir(name) and (os.path.isabs(name) or name.startswith('.')):
        raise FileNotFoundError(f'{flag} {name}: no such directory.')


def require_environment_variable(name: str, flag: str) -> None:
    """Raises a ValueError that names the flag if the environment variable is missing or empty."""
    if not os.environ.get(name):
        raise ValueError(f'{flag} {name}: the environment has no such variable.')
