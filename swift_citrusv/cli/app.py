"""`citrusv app`: a page to ask a model about images, and to see and save its masks."""
import argparse
from dataclasses import asdict
from typing import Any

NAME = 'app'
HELP = 'a page in the browser: ask about images, see coloured masks, save them'
DESCRIPTION = ('Serves a page on which images are uploaded and asked about. It shows the answers as they are written, '
               'the masks on the images, and gives them away as PNG, RLE or NIfTI. It works without a network.')
_DTYPES = ('bfloat16', 'float16', 'float32')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--model', required=True, metavar='DIR', help='a Citrus-V checkpoint, or a hub name')
    parser.add_argument('--adapters', nargs='+', default=[], metavar='DIR', help='LoRA adapters on top of it')
    parser.add_argument('--host', default='127.0.0.1', help='0.0.0.0: for all who reach this machine '
                        '(default: 127.0.0.1, for this machine alone)')  # yapf: disable
    parser.add_argument('--port', type=int, default=7860, help='0: any that is free (default: 7860)')
    parser.add_argument('--lang', choices=('en', 'zh'), default='en', help='of the page (default: en)')
    parser.add_argument('--device', help="'cpu', 'cuda', 'cuda:1', ... (default: the best there is)")
    parser.add_argument('--dtype', choices=_DTYPES, help="of the language model (default: the checkpoint's own)")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    try:
        import gradio  # noqa: F401
    except ImportError as e:
        raise ValueError(f"The page needs Gradio ({e}): pip install 'swift-citrusv[app]'.") from e
    import torch

    from ..app.server import examples, listen, model_name, serve
    from ..pipeline import CitrusVPipeline
    with listen(args.host, args.port) as listener:
        dtype = None if args.dtype is None else getattr(torch, args.dtype)
        pipe = CitrusVPipeline(args.model, adapters=args.adapters, device=args.device, dtype=dtype)
        serve(pipe, listener, name=model_name(args.model), language=args.lang, examples=examples())
    return 0


def serve_swift_app(args: Any) -> None:
    """What `swift app` does for a Citrus-V model.

    Args:
        args: ms-swift's AppArguments.

    Raises:
        ValueError: They ask for what this page does not have.
    """
    from swift.pipelines.infer.infer import SwiftInfer

    from ..app.server import examples, listen, model_name, serve
    from ..pipeline import CitrusVPipeline
    if args.base_url:
        raise ValueError(f'--base_url {args.base_url}: the page of a Citrus-V model draws the masks itself. Leave it '
                         'out, and name the --model.')
    if args.share:
        raise ValueError('--share true would show this page, and what is uploaded, to the whole net. Leave it out.')
    listener = listen(args.server_name, args.server_port)
    infer = SwiftInfer(args)
    pipe = CitrusVPipeline(infer.infer_engine.model, infer.template)
    generation = {name: value for name, value in asdict(args.get_request_config()).items()
                  if value is not None and name != 'stream'}  # yapf: disable
    serve(
        pipe,
        listener,
        name=args.studio_title or model_name(args.model),
        language=args.lang,
        examples=examples(),
        system=args.system,
        generation=generation)
