"""The web server of the page, for `citrusv app` and for `swift app` with Citrus-V models.

It serves only its own files, and its headers forbid browsers to load anything from other hosts. Questions and uploads
stay on this machine. The files of a session need its token, which only the visitor's own page has.
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
from fastapi.responses import PlainTextResponse
from pathlib import Path
from starlette.datastructures import MutableHeaders
from typing import Any
from urllib.parse import quote

from ..constants import IMAGE_PLACEHOLDER
from ..package_files import templates_dir
from .downloads import make_download
from .session import Session
from .view import OPACITY, ROUTE

# Gradio needs 'unsafe-eval' and inline styles.
_POLICY = ("default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
           "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; object-src 'none'; "
           "base-uri 'self'; form-action 'self'")
_HEADERS = {
    'Content-Security-Policy': _POLICY,
    'Referrer-Policy': 'no-referrer',
    'X-Content-Type-Options': 'nosniff',
}
_PNG_NAME = re.compile(r'[A-Za-z0-9_]+\.png')
_MAX_UPLOAD = '4gb'
_LOOPBACK = ('127.0.0.1', 'localhost', '::1')
# Structures for the questions of `templates/prompts.yaml`, by language.
_STRUCTURES = {'english': ('liver', 'left lung', 'lesion'), 'chinese': ('肝脏', '左肺', '病灶')}


def listen(host: str, port: int) -> socket.socket:
    """Opens the port, before a model is loaded.

    Raises:
        OSError: The port is in use, or the host does not exist.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as e:
        raise OSError(
            f'Cannot listen on {host}:{port}: {e.strerror or e}. Give another --port (0: any free port).') from e


@contextmanager
def served_page(pipe: Any, **settings: Any) -> Iterator[FastAPI]:
    """Makes the page as an application for uvicorn, and deletes all its files at the end.

    Args:
        pipe: A `CitrusVPipeline`.
        settings: Arguments of `page.Page`.
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
    from .layout import page_css, page_head
    from .page import Page, gr
    page = Page(pipe, folder, **settings)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(_SecurityHeaders)

    @app.get(f'/{ROUTE}/{{token}}/file/{{name}}')
    def send_file(token: str, name: str) -> Response:
        session = page.sessions.get(token)
        path = None if session is None or not _PNG_NAME.fullmatch(name) else session.path(name)
        try:
            # As a whole: another request may delete it between two readings.
            content = b'' if path is None else Path(path).read_bytes()
        except OSError:
            content = b''
        if not content:
            return PlainTextResponse(page.texts.lost, 404)
        return Response(content, media_type='image/png', headers={'Cache-Control': 'no-store'})

    @app.get(f'/{ROUTE}/{{token}}/download/{{index}}/{{kind}}')
    def send_download(token: str,
                      index: int,
                      kind: str,
                      ticked: str | None = None,
                      opacity: float = OPACITY) -> Response:
        session = page.sessions.get(token)
        if session is None or not 0 <= index < len(session.turns):
            return PlainTextResponse(page.texts.lost, 404)
        return _download_response(session, index, kind, ticked, opacity)

    theme = gr.themes.Default(
        font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace'], spacing_size='sm')
    # No history in the browser, no links to other sites.
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
        css=page_css(),
        head=page_head())


def _download_response(session: Session, index: int, kind: str, ticked: str | None, opacity: float) -> Response:
    numbers = None if ticked is None else {int(number) for number in ticked.split(',') if number.isdecimal()}
    try:
        file = make_download(session, session.turns[index], kind, numbers, min(max(opacity, 0.), 1.))
    except (ValueError, OSError) as e:
        return PlainTextResponse(str(e), 422)
    headers = {'Content-Disposition': f"attachment; filename*=utf-8''{quote(file.name)}", 'Cache-Control': 'no-store'}
    return Response(file.content, media_type=file.media_type, headers=headers)


class _SecurityHeaders:
    """Adds `_HEADERS` to every response."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:

        async def send_with_headers(message: Any) -> None:
            if message['type'] == 'http.response.start':
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self.app(scope, receive, send_with_headers)


def serve(pipe: Any, listener: socket.socket, **settings: Any) -> None:
    """Serves the page until SIGINT or SIGTERM.

    Args:
        pipe: A `CitrusVPipeline`.
        listener: From `listen`.
        settings: Arguments of `page.Page`.
    """
    host, port = listener.getsockname()[:2]
    with served_page(pipe, **settings) as app:
        print(f'The page is at http://{f"[{host}]" if ":" in host else host}:{port}', flush=True)
        if host not in _LOOPBACK:
            print('Anybody who can reach this machine can use it, without a password. To keep it private, use '
                  '--host 127.0.0.1 and an SSH tunnel (ssh -L).')
        server = uvicorn.Server(uvicorn.Config(app, log_level='warning', timeout_graceful_shutdown=3))
        if threading.current_thread() is threading.main_thread():
            # uvicorn raises the signal again after its shutdown, before the files of the sessions are deleted.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            pass


def model_name(model: str) -> str:
    """Returns the name of a model on the page: the last two parts of its path."""
    return '/'.join(Path(model).parts[-2:])


def example_questions() -> Sequence[str]:
    """Returns the questions of `templates/prompts.yaml`."""
    prompts = yaml.safe_load((templates_dir() / 'prompts.yaml').read_text(encoding='utf-8'))
    return [question.replace(IMAGE_PLACEHOLDER, '').format(name=names[i % len(names)])
            for language, names in _STRUCTURES.items()
            for i, question in enumerate(prompts[language]['questions'])]  # yapf: disable
