"""Servers for tests, in threads of this process: `swift deploy`, and one that gives the answers of a function."""
import httpx
import json
import openai
import os
import socket
import threading
import time
import torch
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from peft import LoraConfig, get_peft_model
from support.closeness import assert_same_mask
from typing import Any
from unittest import mock

from swift_citrusv.model.modeling import CitrusVForConditionalGeneration


@dataclass
class Server:
    """A server in this process, whose engine tests can patch."""
    url: str
    deploy: Any

    @property
    def engine(self) -> Any:
        return self.deploy.infer_engine

    def client(self) -> Any:
        return openai.OpenAI(base_url=f'{self.url}/v1', api_key='none', max_retries=0, timeout=120)

    def post(self, body: Any, path: str = '/v1/chat/completions', **settings: Any) -> httpx.Response:
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        headers = {'Content-Type': 'application/json', **settings.pop('headers', {})}
        return httpx.post(self.url + path, content=body, headers=headers, timeout=120, **settings)


@contextmanager
def deployed(model: str, *flags: str) -> Iterator[Server]:
    """`swift deploy` of a checkpoint on the CPU in float32.

    Args:
        model: A directory.
        flags: More of the command line.
    """
    import uvicorn
    from swift.pipelines.infer.deploy import SwiftDeploy

    from swift_citrusv.plugin.register import register
    register()
    # ms-swift writes into the environment.
    with mock.patch.dict(os.environ), socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        port = listener.getsockname()[1]
        deploy = SwiftDeploy([
            '--model', model, '--torch_dtype', 'float32', '--device_map', 'cpu', '--host', '127.0.0.1',
            '--log_interval', '-1', '--verbose', 'false', *flags
        ])
        # Else its `run` does so, which takes a port and no socket.
        deploy.jsonl_writer = None
        server = uvicorn.Server(uvicorn.Config(deploy.app, log_level='warning'))
        thread = threading.Thread(target=server.run, kwargs={'sockets': [listener]}, daemon=True)
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), 'the server has not started'
                time.sleep(0.01)
            yield Server(f'http://127.0.0.1:{port}', deploy)
        finally:
            server.should_exit = True
            thread.join(30)


@contextmanager
def answering(
    answer: Callable[[dict[str, Any], int], tuple[int, Any]], models: tuple[str, ...] = ('m', )
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server of chat completions; its URL, and the requests that come in.

    Args:
        answer: Makes status and body from a request's body and its number, from 0; a text is a whole completion.
        models: Names of the models that it lists.
    """
    seen: list[dict[str, Any]] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):

        def do_GET(self):
            self._send(200, {'object': 'list', 'data': [{'id': name, 'object': 'model'} for name in models]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
            with lock:
                number = len(seen)
                seen.append({**body, 'authorization': self.headers['Authorization'], 'path': self.path})
            status, content = answer(body, number)
            if isinstance(content, str):
                message = {'role': 'assistant', 'content': content}
                content = {'choices': [{'index': 0, 'message': message, 'finish_reason': 'stop'}]}
            self._send(status, content)

        def _send(self, status: int, content: Any) -> None:
            encoded = json.dumps(content).encode()
            self.send_response(status)
            self.send_header('Content-Type', 'application/json')
            self.send_header('Content-Length', str(len(encoded)))
            # To a client that will ask again.
            self.send_header('retry-after-ms', '1')
            self.end_headers()
            self.wfile.write(encoded)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f'http://127.0.0.1:{server.server_address[1]}', seen
    finally:
        server.shutdown()
        server.server_close()


def build_adapter(source: str, folder: str, seed: int) -> str:
    """A LoRA adapter as training with --tuner_type lora leaves it, with random weights."""
    torch.manual_seed(seed)
    model = CitrusVForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
    tokens = {name: [model.config.seg_token_id] for name in ('embed_tokens', 'lm_head')}
    config = LoraConfig(
        r=4,
        target_modules=['q_proj', 'v_proj'],
        modules_to_save=['seg_projector', 'segmenter'],
        trainable_token_indices=tokens,
        init_lora_weights=False)
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if 'seg_projector.modules_to_save' in name and weight.ndim > 1:
                weight.add_(torch.randn_like(weight) * weight.std())
    adapted.save_pretrained(folder)
    return folder


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert (found['text'], found['end']) == (expected['text'], expected['end'])
    for mask, wanted in zip(found['masks'], expected['masks'], strict=True):
        assert_same_mask(mask, wanted)


def of_stream(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer as ms-swift streams it: without white space at its beginning."""
    blanks = len(answer['text']) - len(answer['text'].lstrip())
    masks = [{**mask, 'offset': mask['offset'] - blanks} for mask in answer['masks']]
    return {**answer, 'text': answer['text'].lstrip(), 'masks': masks}
