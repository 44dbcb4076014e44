"""The server of the page: `citrusv app`, and `swift app` for Citrus-V models.

It answers with its own files alone, and tells browsers to load nothing from elsewhere; what is typed and uploaded stays
here. Files of a session are reached by its token, which only the visitor's own page has.
"""
import os
import re
import shutil
import signal
import socket
import tempfile
import threading
import uvicorn
import yaml
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fastapi import FastAPI, Response
from fastapi.responses import FileResponse, PlainTextResponse
from pathlib import Path
from starlette.datastructures import MutableHeaders
from typing import Any
from urllib.parse import quote

from ..package_files import templates_dir
from ..rows.target_image import IMAGE_TAG
from .downloads import download
from .session import Session
from .style import CSS, HEAD
from .view import OPACITY, ROUTE

# Gradio makes functions of text, and puts styles into elements.
_POLICY = ("default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
           "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; object-src 'none'; "
           "base-uri 'self'; form-action 'self'")
_HEADERS = {
    'Content-Security-Policy': _POLICY,
    'Referrer-Policy': 'no-referrer',
    'X-Content-Type-Options': 'nosniff',
}
_FILE = re.compile(r'[A-Za-z0-9_]+\.png')
_MAX_UPLOAD = '4gb'
_LOOPBACK = ('127.0.0.1', 'localhost', '::1')
# What the examples of `templates/prompts.yaml` ask for.
_STRUCTURES = {'english': 'lesion', 'chinese': '病灶'}


def listen(host: str, port: int) -> socket.socket:
    """Takes the port, before a model is loaded.

    Raises:
        OSError: It is taken, or there is no such host.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as e:
        raise OSError(f'Nothing can be served at {host}:{port}: {e.strerror or e}. Name another --port (0: any that is '
                      'free).') from e


@contextmanager
def served_page(pipe: Any, **settings: Any) -> Iterator[FastAPI]:
    """The page, as an application for uvicorn; all its files are deleted at the end.

    Args:
        pipe: A `CitrusVPipeline`.
        settings: Of `app.Page`.
    """
    folder = tempfile.mkdtemp(prefix='citrusv-app-')
    before = os.environ.get('GRADIO_TEMP_DIR')
    uploads = os.path.join(folder, 'uploads')
    os.environ['GRADIO_TEMP_DIR'] = uploads
    try:
        yield _application(pipe, folder, settings)
    finally:
        if before is None:
            del os.environ['GRADIO_TEMP_DIR']
        else:
            os.environ['GRADIO_TEMP_DIR'] = before
        shutil.rmtree(folder, ignore_errors=True)


def _application(pipe: Any, folder: str, settings: dict[str, Any]) -> FastAPI:
    from .page import Page, gr
    page = Page(pipe, folder, **settings)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(_WithHeaders)

    @app.get(f'/{ROUTE}/{{token}}/file/{{name}}')
    def give_file(token: str, name: str) -> Response:
        session = page.sessions.get(token)
        path = None if session is None or not _FILE.fullmatch(name) else session.path(name)
        if path is None or not os.path.isfile(path):
            return PlainTextResponse(page.words.lost, 404)
        return FileResponse(path, headers={'Cache-Control': 'no-store'})

    @app.get(f'/{ROUTE}/{{token}}/download/{{index}}/{{kind}}')
    def give_download(token: str,
                      index: int,
                      kind: str,
                      ticked: str | None = None,
                      opacity: float = OPACITY) -> Response:
        session = page.sessions.get(token)
        if session is None or not 0 <= index < len(session.turns):
            return PlainTextResponse(page.words.lost, 404)
        return _download(session, index, kind, ticked, opacity)

    theme = gr.themes.Default(
        font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace'], spacing_size='sm')
    # No record of questions and answers in the browser, no link to elsewhere.
    return gr.mount_gradio_app(
        app,
        page.blocks,
        path='/',
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=_MAX_UPLOAD,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=theme,
        css=CSS,
        head=HEAD)


def _download(session: Session, index: int, kind: str, ticked: str | None, opacity: float) -> Response:
    numbers = None if ticked is None else {int(number) for number in ticked.split(',') if number.isdecimal()}
    try:
        file = download(session, session.turns[index], kind, numbers, min(max(opacity, 0.), 1.))
    except (ValueError, OSError) as e:
        return PlainTextResponse(str(e), 422)
    headers = {'Content-Disposition': f"attachment; filename*=utf-8''{quote(file.name)}", 'Cache-Control': 'no-store'}
    return Response(file.content, media_type=file.media_type, headers=headers)


class _WithHeaders:
    """Adds `_HEADERS` to every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:

        async def send_more(message: Any) -> None:
            if message['type'] == 'http.response.start':
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self.app(scope, receive, send_more)


def serve(pipe: Any, listener: socket.socket, **settings: Any) -> None:
    """Serves the page until it is interrupted, or told to end (SIGTERM).

    Args:
        pipe: A `CitrusVPipeline`.
        listener: As `listen` gives it.
        settings: Of `app.Page`.
    """
    host, port = listener.getsockname()[:2]
    with served_page(pipe, **settings) as app:
        print(f'The page is at http://{f"[{host}]" if ":" in host else host}:{port}', flush=True)
        if host not in _LOOPBACK:
            print('It is open to all who reach this machine, without a password. For yourself alone: --host 127.0.0.1, '
                  'and a tunnel (ssh -L).')
        server = uvicorn.Server(uvicorn.Config(app, log_level='warning', timeout_graceful_shutdown=3))
        if threading.current_thread() is threading.main_thread():
            # uvicorn ends, and then raises the signal again: before the files of the visitors are deleted.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            pass


def model_name(model: str) -> str:
    """How the page calls a model: by the last parts of its path."""
    return '/'.join(Path(model).parts[-2:])


def examples() -> Sequence[str]:
    """Questions of `templates/prompts.yaml`."""
    prompts = yaml.safe_load((templates_dir() / 'prompts.yaml').read_text(encoding='utf-8'))
    return [question.replace(IMAGE_TAG, '').format(name=name) for language, name in _STRUCTURES.items()
            for question in prompts[language]['questions']]  # yapf: disable
