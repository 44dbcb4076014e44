"""`citrusv app`: errors on the command line. `tests/app` tests the page."""
import socket
import sys

from swift_citrusv.cli.main import main


def test_port_in_use_and_missing_gradio(capsys, monkeypatch):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        assert main(['app', '--model', 'none', '--port', str(port)]) == 2
    assert f'127.0.0.1:{port}' in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, 'gradio', None)
    assert main(['app', '--model', 'none']) == 2
    assert "pip install 'swift-citrusv[app]'" in capsys.readouterr().err
