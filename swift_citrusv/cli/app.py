"""`citrusv app`: a web page to ask a model about images, and to view and save its masks."""
import argparse
from dataclasses import asdict
from typing import Any

from .options import add_adapters_option, add_device_options, add_model_option, load_pipeline

NAME = 'app'
HELP = 'serve a web page to ask about images, and to view and save coloured masks'
DESCRIPTION = ('Serves a web page to upload images and ask about them. It streams the answers, draws the masks on the '
               'images, and saves them as PNG, RLE or NIfTI. It needs no network access.')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_option(parser)
    add_adapters_option(parser)
    parser.add_argument(
        '--host',
        default='127.0.0.1',
        help='address to listen on; 0.0.0.0 accepts other machines (default: 127.0.0.1, this machine only)')
    parser.add_argument('--port', type=int, default=7860, help='port to listen on; 0: any free port (default: 7860)')
    parser.add_argument('--lang', choices=('en', 'zh'), default='en', help='language of the page (default: en)')
    add_device_options(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    try:
        import gradio  # noqa: F401
    except ImportError as e:
        raise ValueError(f"The page needs Gradio ({e}): pip install 'swift-citrusv[app]'.") from e

    from ..app.server import example_questions, listen, model_name, serve
    with listen(args.host, args.port) as listener:
        pipe = load_pipeline(args)
        serve(pipe, listener, name=model_name(args.model), language=args.lang, examples=example_questions())
    return 0


def serve_swift_app(args: Any) -> None:
    """Runs `swift app` for a Citrus-V model.

    Args:
        args: ms-swift's AppArguments.

    Raises:
        ValueError: An argument is not supported by this page.
    """
    from swift.pipelines.infer.infer import SwiftInfer

    from ..app.server import example_questions, listen, model_name, serve
    from ..pipeline import CitrusVPipeline
    if args.base_url:
        raise ValueError(f'--base_url {args.base_url}: the page of a Citrus-V model draws the masks itself. Remove it, '
                         'and give the --model.')
    if args.share:
        raise ValueError('--share true would expose this page and all uploads to the internet. Remove it.')
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
        examples=example_questions(),
        system=args.system,
        generation=generation)
