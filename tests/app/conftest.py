"""A session of the page with a folder of its own; a server of the page and visitors in a browser."""
import os
import pytest
import threading
import time
from collections.abc import Iterator
from support.page import DESKTOP, MAX_TOKENS, Served, Visitor
from typing import Any
from unittest import mock

from swift_citrusv.app.session import Session


@pytest.fixture
def session(tmp_path) -> Session:
    session = Session()
    session.create_folder(str(tmp_path))
    return session


@pytest.fixture(scope='module')
def served(talkative_checkpoint) -> Iterator[Served]:
    """Stock `swift app` of a tiny model, in a thread of this process."""
    import uvicorn
    from swift.pipelines.app.app import SwiftApp

    from swift_citrusv.app import server as app_server
    from swift_citrusv.plugin.register import register
    register()
    found: dict[str, Any] = {}
    serve = app_server.serve

    class Server(uvicorn.Server):

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            found['server'] = self

    def serve_and_record(pipe: Any, listener: Any, **settings: Any) -> None:
        found.update(pipe=pipe, port=listener.getsockname()[1])
        serve(pipe, listener, **settings)

    with pytest.MonkeyPatch.context() as patch, mock.patch.dict(os.environ):  # ms-swift changes it
        patch.setattr(uvicorn, 'Server', Server)
        patch.setattr(app_server, 'serve', serve_and_record)
        # Uploads do not depend on the root folder of datasets.
        os.environ['CITRUSV_DATA_ROOT'] = os.path.dirname(talkative_checkpoint)
        # Gradio deletes the state of a closed page after a second instead of an hour.
        os.environ['GRADIO_IS_E2E_TEST'] = '1'
        app = SwiftApp([
            '--model', talkative_checkpoint, '--model_type', 'citrusv', '--torch_dtype', 'float32', '--device_map',
            'cpu', '--lang', 'en', '--max_new_tokens', f'{MAX_TOKENS}'
        ])
        thread = threading.Thread(target=app.run, daemon=True)
        thread.start()
        while not getattr(found.get('server'), 'started', False):
            assert thread.is_alive(), 'the server has not started'
            time.sleep(0.01)
        yield Served(f'http://127.0.0.1:{found["port"]}', found['pipe'])
        found['server'].should_exit = True
        thread.join(30)


@pytest.fixture
def visit(browser, served) -> Iterator[Any]:
    visitors = []

    def new(viewport: dict[str, int] = DESKTOP) -> Visitor:
        visitors.append(Visitor(browser, served.url, viewport))
        return visitors[-1]

    yield new
    for visitor in visitors:
        assert not visitor.errors
        assert not [url for url in visitor.requested if not url.startswith((served.url, 'blob:', 'data:'))]
        visitor.context.close()
