"""`swift deploy`: every client gets the text and the masks of its own request."""
import asyncio
import json
import openai
import os
import pytest
import signal
import subprocess
import sys
import time
import torch
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from PIL import Image
from support.chat_requests import (GREEDY, MAX_TOKENS, as_openai, data_url, image_part, pipeline_answer, read_json,
                                   read_stream, read_whole, user)
from support.engine_control import batches_of
from support.requests_with_images import mixed_requests
from support.serving import assert_same, of_stream
from swift.infer_engine import InferRequest, RequestConfig
from swift.pipelines.infer.deploy import SwiftDeploy
from swift.utils import find_free_port
from typing import Any

from swift_citrusv import CitrusVPipeline

# The command starts slowly, so it starts before the first test.
pytestmark = pytest.mark.usefixtures('command')


@pytest.fixture(scope='module')
def command(talkative_checkpoint, tmp_path_factory) -> Iterator[tuple[subprocess.Popen, int, Path]]:
    """A server as a user starts it: its process, its port and a folder with its log."""
    folder = tmp_path_factory.mktemp('command')
    port = find_free_port(8500)
    arguments = [
        'deploy', '--model', talkative_checkpoint, '--torch_dtype', 'float32', '--host', '127.0.0.1', '--port',
        str(port), '--api_key', 'secret', '--served_model_name', 'citrusv', '--model_kwargs',
        json.dumps({'overlay_dir': str(folder / 'overlays')})
    ]
    with open(folder / 'log', 'w') as log:
        process = subprocess.Popen([str(Path(sys.executable).parent / 'swift'), *arguments],
                                   env={
                                       **os.environ, 'CUDA_VISIBLE_DEVICES': ''
                                   },
                                   cwd=folder,
                                   stdout=log,
                                   stderr=subprocess.STDOUT,
                                   start_new_session=True)
    try:
        yield process, port, folder
    finally:
        # `swift` itself starts the process that serves.
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def test_32_clients_at_once(server, single, monkeypatch):
    requests = mixed_requests()

    def ask(number: int) -> dict[str, Any]:
        messages = as_openai(requests[number % 8])
        client = server.client()
        if number // 8 % 2:
            return read_stream(client.chat.completions.create(messages=messages, stream=True, **GREEDY))
        return read_whole(client.chat.completions.create(messages=messages, **GREEDY))

    with batches_of(server.engine, monkeypatch, 32) as sizes, ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, range(32)))
    assert sizes == [8] * 4
    assert sum(bool(answer['masks']) for answer in answers) > 16
    for number, answer in enumerate(answers):
        expected = single[number % 8]
        assert_same(answer, of_stream(expected) if number // 8 % 2 else expected)


def test_async_clients_with_their_own_settings(server, pipe):
    """Requests with different settings are in different batches, and no kind waits for all of another."""
    request = mixed_requests()[0]

    async def ask(client: Any, max_tokens: int) -> dict[str, Any]:
        settings = {**GREEDY, 'max_tokens': None, 'max_completion_tokens': max_tokens, 'stop': '。'}
        return read_whole(await client.chat.completions.create(messages=as_openai(request), **settings))

    async def ask_all() -> list[dict[str, Any]]:
        async with openai.AsyncOpenAI(base_url=f'{server.url}/v1', api_key='none', max_retries=0) as client:
            return await asyncio.gather(*(ask(client, length) for length in (3, 5, 7, 3, 5, 7)))

    lengths = (3, 5, 7, 3, 5, 7)
    for length, answer in zip(lengths, asyncio.run(ask_all())):
        assert_same(answer, pipeline_answer(pipe, request, max_tokens=length, stop=['。']))


def test_no_kind_waits_for_all_of_another(server, monkeypatch):

    async def ask(max_tokens: int) -> Any:
        request = InferRequest(messages=[{'role': 'user', 'content': 'Hm?'}])
        return await server.engine.infer_async(request, RequestConfig(max_tokens=max_tokens, temperature=0))

    async def ask_all() -> list[Any]:
        return await asyncio.gather(*(ask(1) for _ in range(24)), ask(2))

    with batches_of(server.engine, monkeypatch, 25) as sizes:
        assert [response.usage.completion_tokens for response in asyncio.run(ask_all())] == [1] * 24 + [2]
    assert sizes == [8, 1, 8, 8]


def test_several_answers_and_other_endpoints(server, pipe, single):
    request = mixed_requests()[2]
    settings = {**GREEDY, 'temperature': 1.0, 'seed': 5, 'n': 3}
    response = server.client().chat.completions.create(messages=as_openai(request), **settings)
    choices = [choice.message for choice in response.choices]
    assert len({message.content for message in choices}) == 3 and sum(len(message.masks) for message in choices) > 3
    for message in choices:
        assert [message.content[mask['offset']:][:5] for mask in message.masks] == ['[SEG]'] * len(message.masks)
        assert message.content.count('[SEG]') == len(message.masks)
    # The text endpoint, and ms-swift's own; images beside the text.
    images = [data_url(mixed_requests()[0][0])]
    body = {**GREEDY, 'prompt': mixed_requests()[0][1], 'images': images}
    assert_same(read_json(server.post(body, '/v1/completions')), single[0])
    assert_same(read_json(server.post({**body, 'stream': True}, '/v1/completions')), of_stream(single[0]))
    request = {'messages': [{'role': 'user', 'content': mixed_requests()[0][1]}], 'images': images}
    body = {'infer_requests': [request, request], 'request_config': {'temperature': 0, 'max_tokens': MAX_TOKENS}}
    for response in server.post(body, '/infer/').json():
        (choice, ) = response['choices']
        found = {'text': choice['message']['content'], 'masks': choice['message']['masks']}
        assert_same({**found, 'end': choice['finish_reason']}, single[0])


def test_adapters_draw_with_their_own_modules(server, talkative_checkpoint, single, monkeypatch):
    adapters = server.deploy.args.adapter_mapping
    assert set(adapters) == {'a', 'b'}
    requests = mixed_requests()[:3]
    seen = []
    for name, folder in adapters.items():
        alone = CitrusVPipeline(talkative_checkpoint, device='cpu', dtype=torch.float32, adapters=[folder])
        expected = [pipeline_answer(alone, request) for request in requests]
        seen.append(expected)

        def ask(request: Any, name: str = name) -> dict[str, Any]:
            return read_whole(server.client().chat.completions.create(
                messages=as_openai(request), **{**GREEDY, 'model': name}))  # yapf: disable

        # All in one batch, the first that this adapter answers.
        with batches_of(server.engine, monkeypatch, 3) as sizes, ThreadPoolExecutor(3) as pool:
            for answer, wanted in zip(pool.map(ask, requests), expected, strict=True):
                assert_same(answer, wanted)
        assert sizes == [3]
    assert seen[0] != seen[1] and sum(len(answer['masks']) for answer in seen[0] + seen[1]) >= 2
    # The model itself is unchanged.
    response = server.client().chat.completions.create(messages=as_openai(requests[0]), **GREEDY)
    assert_same(read_whole(response), single[0])


# ---- as a user starts it


def test_the_command(command, single):
    """Bare `swift deploy`, which finds the plugin by its import hook; with a key, which is a middleware."""
    process, port, folder = command
    client: Any = openai.OpenAI(base_url=f'http://127.0.0.1:{port}/v1', api_key='secret', max_retries=0)
    deadline = time.monotonic() + 120
    while True:
        try:
            client.models.list()
            break
        except openai.APIConnectionError:
            assert process.poll() is None and time.monotonic() < deadline, (folder / 'log').read_text()[-3000:]
            time.sleep(0.2)
    messages = as_openai(mixed_requests()[0])
    response = client.chat.completions.create(messages=messages, **GREEDY)
    assert_same(read_whole(response), single[0])
    assert Image.open(response.choices[0].message.overlays[0]['path']).width == 320
    stream = client.chat.completions.create(messages=messages, stream=True, **GREEDY)
    assert_same(read_stream(stream), of_stream(single[0]))
    with pytest.raises(openai.BadRequestError, match='no such file'):
        client.chat.completions.create(messages=user(image_part('/no/such.png'))['messages'], **GREEDY)
    with pytest.raises(openai.APIStatusError, match='API key'):
        client.with_options(api_key='guessed').chat.completions.create(messages=messages, **GREEDY)


def test_other_backends_are_refused_at_once(talkative_checkpoint):
    with pytest.raises(ValueError, match='citrusv segment --text-from'):
        SwiftDeploy(['--model', talkative_checkpoint, '--infer_backend', 'vllm'])
