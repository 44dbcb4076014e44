"""`swift deploy`: everybody's own text and masks, a reason for every refusal, and a server that goes on."""
import asyncio
import base64
import httpx
import io
import json
import openai
import os
import pytest
import signal
import subprocess
import sys
import threading
import time
import torch
import uvicorn
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from PIL import Image
from support.faults import one_colour_png
from support.requests_with_images import mixed_requests, picture
from support.serving import assert_same, build_adapter, of_stream
from swift.infer_engine import InferRequest, RequestConfig
from swift.pipelines.infer.deploy import SwiftDeploy
from swift.utils import find_free_port
from typing import Any

from swift_citrusv import CitrusVPipeline

MAX_TOKENS = 24
GREEDY = {'model': 'citrusv', 'temperature': 0, 'max_tokens': MAX_TOKENS}


@dataclass
class Server:
    """A server in this process, so that tests can look into it and break it."""
    url: str
    deploy: SwiftDeploy

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
def serving(*arguments: str) -> Iterator[Server]:
    environment = dict(os.environ)
    port = find_free_port(8300)
    deploy = SwiftDeploy([
        '--torch_dtype', 'float32', '--device_map', 'cpu', '--served_model_name', 'citrusv', '--max_batch_size', '8',
        '--verbose', 'false', '--log_interval', '-1', '--port',
        str(port), *arguments
    ])
    deploy.jsonl_writer = None
    server = uvicorn.Server(uvicorn.Config(deploy.app, host='127.0.0.1', port=port, log_level='warning'))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    try:
        yield Server(f'http://127.0.0.1:{port}', deploy)
    finally:
        server.should_exit = True
        thread.join()
        os.environ.clear()
        os.environ.update(environment)


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


# (It takes long to start, and does so beside the first tests.)
@pytest.fixture(scope='module')
def server(command, talkative_checkpoint, tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp('adapters')
    adapters = [f'{name}={build_adapter(talkative_checkpoint, str(folder / name), seed)}'
                for seed, name in enumerate('ab')]  # yapf: disable
    with serving('--model', talkative_checkpoint, '--adapters', *adapters) as running:
        yield running


@pytest.fixture(scope='module')
def pipe(talkative_checkpoint) -> CitrusVPipeline:
    """What answers one request at a time, nothing of the server in it."""
    return CitrusVPipeline(talkative_checkpoint, device='cpu', dtype=torch.float32)


@pytest.fixture(scope='module')
def single(pipe) -> list[dict[str, Any]]:
    return [said(pipe, request) for request in mixed_requests()]


def said(pipe: CitrusVPipeline, request: tuple[Any, Any], **generation: Any) -> dict[str, Any]:
    answer = pipe(*request, **{'max_tokens': MAX_TOKENS, **generation})
    return {'text': answer.text, 'masks': [mask.to_dict() for mask in answer.masks], 'end': answer.finish_reason}


def data_url(image: Image.Image) -> str:
    content = io.BytesIO()
    image.save(content, 'PNG')
    return 'data:image/png;base64,' + base64.b64encode(content.getvalue()).decode()


def as_openai(request: tuple[Any, Any]) -> list[dict[str, Any]]:
    """A request of the pipeline as messages of OpenAI's API."""
    images, prompt = request
    images = iter([] if images is None else images if isinstance(images, list) else [images])
    if isinstance(prompt, str):
        parts = [{'type': 'image_url', 'image_url': {'url': data_url(image)}} for image in images]
        return [{'role': 'user', 'content': [*parts, {'type': 'text', 'text': prompt}]}]
    messages = []
    for message in prompt:
        first, *rest = message['content'].split('<image>')
        parts = [{'type': 'text', 'text': first}] if first else []
        for text in rest:
            parts += [{'type': 'image', 'image': data_url(next(images))}, {'type': 'text', 'text': text}]
        messages.append({'role': message['role'], 'content': parts})
    return messages


def read_json(response: httpx.Response) -> dict[str, Any]:
    """An answer that the server has given, whole or as a stream."""
    assert response.status_code == 200, response.text[:500]
    if not response.text.startswith('data: '):
        choice = response.json()['choices'][0]
        message = choice.get('message') or {'content': choice['text'], 'masks': choice['masks']}
        return {'text': message['content'], 'masks': message['masks'], 'end': choice['finish_reason']}
    assert response.text.endswith('data: [DONE]\n\n')
    pieces = [json.loads(piece)['choices'][0] for piece in response.text.split('data: ')[1:-1]]
    deltas = [piece.get('delta') or {'content': piece['text'], 'masks': piece.get('masks')} for piece in pieces]
    text = ''.join(delta['content'] or '' for delta in deltas)
    return {'text': text, 'masks': deltas[-1]['masks'], 'end': pieces[-1]['finish_reason']}


def read_stream(stream: Any) -> dict[str, Any]:
    """What a stream says; its masks are in its last piece and in no other."""
    text, masks, end = '', None, None
    for chunk in stream:
        assert end is None
        choice = chunk.choices[0]
        text += choice.delta.content or ''
        masks, end = getattr(choice.delta, 'masks', None), choice.finish_reason
        assert (masks is not None) == (end is not None)
    return {'text': text, 'masks': masks, 'end': end}


def read_whole(response: Any) -> dict[str, Any]:
    choice = response.choices[0]
    return {'text': choice.message.content, 'masks': choice.message.masks, 'end': choice.finish_reason}


@contextmanager
def batches_of(engine: Any, monkeypatch: pytest.MonkeyPatch, size: int) -> Iterator[list[int]]:
    """Has the engine wait for the first `size` requests; yields the sizes of its batches."""
    fetch, infer = engine._fetch_infer_requests, engine._infer
    sizes: list[int] = []

    def waiting():
        return None if not sizes and engine._queue.qsize() < size else fetch()

    def counting(infer_requests, *args, **kwargs):
        sizes.append(len(infer_requests))
        return infer(infer_requests, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(engine, '_fetch_infer_requests', waiting)
        patch.setattr(engine, '_infer', counting)
        yield sizes


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
    """Other settings are other batches; none waits for all of another kind."""
    request = mixed_requests()[0]

    async def ask(client: Any, max_tokens: int) -> dict[str, Any]:
        settings = {**GREEDY, 'max_tokens': None, 'max_completion_tokens': max_tokens, 'stop': '。'}
        return read_whole(await client.chat.completions.create(messages=as_openai(request), **settings))

    async def ask_all() -> list[dict[str, Any]]:
        async with openai.AsyncOpenAI(base_url=f'{server.url}/v1', api_key='none', max_retries=0) as client:
            return await asyncio.gather(*(ask(client, length) for length in (3, 5, 7, 3, 5, 7)))

    lengths = (3, 5, 7, 3, 5, 7)
    for length, answer in zip(lengths, asyncio.run(ask_all())):
        assert_same(answer, said(pipe, request, max_tokens=length, stop=['。']))


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


# ---- requests that cannot be answered


def user(*content: Any, **settings: Any) -> dict[str, Any]:
    parts = [{'type': 'text', 'text': part} if isinstance(part, str) else part for part in content]
    return {**GREEDY, 'messages': [{'role': 'user', 'content': parts}], **settings}


def image_part(content: bytes | str) -> dict[str, Any]:
    if isinstance(content, bytes):
        content = 'data:image/png;base64,' + base64.b64encode(content).decode()
    return {'type': 'image_url', 'image_url': {'url': content}}


def bad_requests() -> dict[str, tuple[Any, str]]:
    """Bodies, and a word of the reason."""
    whole = data_url(picture(1))
    cut = whole[:-400]
    large = image_part(one_colour_png(13_000, 13_000))
    message = {'role': 'user', 'content': 'Hm?'}
    return {
        'half a body': (b'{"messages": [', 'not JSON'),
        'not UTF-8': (b'{"model": "\xff"}', 'not JSON'),
        'nested too deeply': (b'[' * 100_000, 'not JSON'),
        'a list': ([1], 'a list, not a JSON object'),
        'no messages': ({'model': 'citrusv'}, "'messages' is missing"),
        'no message': (user() | {'messages': []}, "'messages' is empty"),
        'no content': (user() | {'messages': [{'role': 'user'}]}, "'content' of messages[0] is missing"),
        'no such role': (user() | {'messages': [{**message, 'role': 'doctor'}]}, "'doctor'"),
        'nothing to answer': (user() | {'messages': [message, {**message, 'role': 'assistant'}]}, 'nothing to answer'),
        'no model': ({'messages': [message]}, 'model'),
        'another model': (user('Hm?', model='gpt'), '`gpt` is not in the model_list'),
        'unknown field': (user('Hm?', max_token=5), "Unknown field 'max_token'"),
        'wrong type': (user('Hm?', max_tokens='five'), "'max_tokens' is a string"),
        'out of range': (user('Hm?', temperature=-1), "'temperature' is -1, out of range"),
        'not a number': (user('Hm?', top_p=float('nan')), "'top_p' is nan"),
        'not supported': (user('Hm?', frequency_penalty=0.5), "'frequency_penalty' is not supported"),
        'too many answers': (user('Hm?', n=2), 'num_return_sequences'),
        'a stream of beams': (user('Hm?', stream=True, num_beams=2), 'beam search'),
        'too long': (user('one two ' * 3000), 'max_length'),
        'too long, a stream': (user('one two ' * 3000, stream=True), 'max_length'),
        'part of no kind': (user({'type': 'sound', 'sound': 'a'}), "the type 'sound'"),
        'part without a value': (user({'type': 'image_url'}), "has no 'image_url'"),
        'sound': (user({'type': 'audio', 'audio': 'a.wav'}), 'audio input is not supported'),
        'not base64': (user(image_part('data:image/png;base64,!!!'), 'Hm?'), 'cannot identify'),
        'no image': (user(image_part(b'<html>404</html>'), 'Hm?'), 'cannot identify'),
        'cut short': (user(image_part(cut), 'Hm?'), 'truncated'),
        'cut short, a stream': (user(image_part(cut), 'Hm?', stream=True), 'truncated'),
        'missing file': (user(image_part('/no/such.png'), 'Hm?'), 'no such file'),
        'file that is no image': (user(image_part('/etc/passwd'), 'Hm?'), 'cannot identify'),
        'URL': (user(image_part('http://127.0.0.1:9/a.png'), 'Hm?'), 'URLs are not allowed on this server'),
        'URL beside the text': (user('Hm?', images=['HTTP://127.0.0.1:9/a.png']), 'URLs are not allowed on this server'),
        'video at a URL': (user({'type': 'video_url', 'video_url': {'url': 'https://127.0.0.1:9/a.mp4'}}), 'URLs'),
        '20,000 x 20,000': (user(image_part(one_colour_png(20_000, 20_000)), 'Hm?'), 'max_image_pixels'),
        'large ones together': (user(large, large, 'Hm?'), '338000000 pixels together'),
        'more tags than images': (user('<image>Hm?', image_part(whole)), '<image> 2 times'),
        'a file by a side door': (user('Hm?', chat_template_kwargs={'image': '/etc/passwd'}), "'image'"),
    }  # yapf: disable


def test_bad_requests_get_a_reason(server, single):
    for name, (body, reason) in bad_requests().items():
        response = server.post(body)
        assert 400 <= response.status_code < 500, f'{name}: {response.text[:300]}'
        answer = response.json()
        assert answer['object'] == 'error' and reason in answer['message'], f'{name}: {answer["message"][:300]}'
        # No whole image comes back.
        assert len(answer['message']) < 1000, name
    for path, body in (('/v1/embeddings', {
            'model': 'citrusv',
            'input': 'Hm?'
    }), ('/infer/', {
            'infer_requests': 5
    }), ('/infer/', {
            'infer_requests': [{
                'messages': [],
                'images': []
            }]
    }), ('/v1/completions', {
            'model': 'citrusv',
            'prompt': ['Hm?']
    })):
        response = server.post(body, path)
        assert response.status_code == 400 and response.json()['object'] == 'error', path
    assert server.post(user('Hm?'), headers={'Content-Type': 'text/plain'}).status_code == 400
    with pytest.raises(openai.BadRequestError, match='no such file'):
        server.client().chat.completions.create(
            messages=user(image_part('/no/such.png'))['messages'], stream=True, **GREEDY)
    response = server.client().chat.completions.create(messages=as_openai(mixed_requests()[0]), **GREEDY)
    assert_same(read_whole(response), single[0])


def test_a_request_of_100_images(server):
    small = [image_part(data_url(picture(seed, 60, 60))) for seed in range(100)]
    answer = read_json(server.post(user(*small, 'Segment the cell in image 7.')))
    assert all(mask['image_index'] < 100 for mask in answer['masks'])
    # 4,096 tokens are all that the model takes.
    large = image_part(data_url(picture(1, 240, 240)))
    response = server.post(user(*[large] * 100, 'Segment the cell.'))
    assert response.status_code == 400 and 'max_length' in response.json()['message']


def test_files_of_the_server_follow_its_rules(server, single, tmp_path, monkeypatch):
    """A name inside data_root works, relative ones too; a name outside is refused before ms-swift reads the file."""
    root = tmp_path / 'root'
    root.mkdir()
    for folder in (root, tmp_path):
        mixed_requests()[0][0].save(folder / 'a.png')
    monkeypatch.setenv('DATA_ROOT', str(root))
    for name in ('a.png', str(root / 'a.png')):
        for body in (user(image_part(name), 'Segment the cell.'), user('Segment the cell.', images=[name])):
            assert_same(read_json(server.post(body)), single[0])
    for name in ('../a.png', str(tmp_path / 'a.png')):
        for body in (user(image_part(name), 'Segment the cell.'), user('Segment the cell.', images=[name])):
            response = server.post(body)
            assert response.status_code == 400 and 'data_root' in response.json()['message']
    # ms-swift's own rule holds too.
    monkeypatch.setenv('SWIFT_MEDIA_ALLOWED_DIRS', str(tmp_path / 'other'))
    response = server.post(user(image_part('a.png'), 'Segment the cell.'))
    assert response.status_code == 400 and 'SWIFT_MEDIA_ALLOWED_DIRS' in response.json()['message']


def test_urls_where_they_are_allowed(server, single, tmp_path, monkeypatch):
    """ms-swift's own fetcher looks at the address too."""
    mixed_requests()[0][0].save(tmp_path / 'a.png')
    port = find_free_port(8400)
    files = subprocess.Popen(
        [sys.executable, '-m', 'http.server', str(port), '--bind', '127.0.0.1'],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL)
    try:
        body = user(image_part(f'http://127.0.0.1:{port}/a.png'), 'Segment the cell.')
        monkeypatch.setenv('ALLOW_URLS', 'true')
        # Even under a data_root, which is about files.
        monkeypatch.setenv('DATA_ROOT', str(tmp_path))
        response = server.post(body)
        assert response.status_code == 400 and 'internal' in response.json()['message'].lower()
        monkeypatch.setenv('SWIFT_ALLOW_INTERNAL_URL', '1')
        deadline = time.monotonic() + 20
        while (response := server.post(body)).status_code != 200 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert_same(read_json(response), single[0])
    finally:
        files.kill()
        files.wait()


# ---- what goes wrong among others


def test_a_bad_request_among_good_ones(server, single, monkeypatch):
    bad = [body for name, (body, _) in bad_requests().items() if name.startswith(('cut short', 'too long'))]

    def ask(body: Any) -> httpx.Response:
        return server.post(body)

    for stream in (False, True):
        good = [{**GREEDY, 'messages': as_openai(request), 'stream': stream} for request in mixed_requests()[:6]]
        among = [*good[:2], {**bad[0], 'stream': stream}, *good[2:4], {**bad[2], 'stream': stream}, *good[4:]]
        with batches_of(server.engine, monkeypatch, 8) as sizes, ThreadPoolExecutor(8) as pool:
            responses = list(pool.map(ask, among))
        assert sizes == [8]
        assert [response.status_code for response in responses] == [200, 200, 400, 200, 200, 400, 200, 200]
        for response, expected in zip((r for r in responses if r.status_code == 200), single):
            assert_same(read_json(response), of_stream(expected) if stream else expected)


@contextmanager
def breaking(server: Server,
             monkeypatch: pytest.MonkeyPatch,
             *,
             poison: str | None = None,
             step: int = 0) -> Iterator[threading.Event]:
    """Lets the model fail from a step of a generation on; with `poison` only where a prompt of the batch has it.

    A later step than the first fails when the event is set that this yields.
    """
    model = server.engine.template.get_base_model(server.engine.model)
    prepare = model.prepare_inputs_for_generation
    num_steps, allowed = 0, threading.Event()

    def failing(input_ids, *args, **kwargs):
        nonlocal num_steps
        num_steps += 1
        texts = server.engine.tokenizer.batch_decode(input_ids)
        if num_steps > step and (poison is None or any(poison in text for text in texts)):
            assert step == 0 or allowed.wait(30)
            raise RuntimeError('the device is on fire')
        return prepare(input_ids, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(model, 'prepare_inputs_for_generation', failing)
        yield allowed


def test_a_failure_is_no_hang_and_no_answer(server, single, monkeypatch):
    client = server.client()
    messages = as_openai(mixed_requests()[0])
    with breaking(server, monkeypatch):
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError, match='on fire'):
                client.chat.completions.create(messages=messages, stream=stream, **GREEDY)
    # In the middle of a stream, whose head has been sent: it breaks off, and does not look like a whole one.
    with breaking(server, monkeypatch, step=8) as allowed:
        stream = client.chat.completions.create(messages=messages, stream=True, **GREEDY)
        allowed.set()
        with pytest.raises((openai.APIError, httpx.TransportError)):
            list(stream)
    assert_same(read_whole(client.chat.completions.create(messages=messages, **GREEDY)), single[0])


def test_a_failure_of_one_request_is_not_its_neighbours(server, single, monkeypatch):

    def ask(body: Any) -> httpx.Response:
        return server.post(body)

    for stream in (False, True):
        bodies = [{**GREEDY, 'messages': as_openai(request), 'stream': stream} for request in mixed_requests()[:3]]
        with breaking(server, monkeypatch, poison='mushroom'), \
                batches_of(server.engine, monkeypatch, 4) as sizes, ThreadPoolExecutor(4) as pool:
            responses = list(pool.map(ask, [*bodies, user('Eat the mushroom.', stream=stream)]))
        assert sizes == [4, 1, 1, 1, 1]
        assert [response.status_code for response in responses] == [200, 200, 200, 500]
        for response, expected in zip(responses[:3], single):
            assert_same(read_json(response), of_stream(expected) if stream else expected)


def test_a_client_that_goes(server, single, monkeypatch):
    """The generation ends with its last client, in a stream and without one, and one that still waits is not begun."""
    model = server.engine.template.get_base_model(server.engine.model)
    prepare = model.prepare_inputs_for_generation
    num_steps = 0

    def slow(*args, **kwargs):
        nonlocal num_steps
        num_steps += 1
        time.sleep(0.01)
        return prepare(*args, **kwargs)

    messages = as_openai(mixed_requests()[3])
    settings = {**GREEDY, 'max_tokens': 3000}
    with monkeypatch.context() as patch:
        patch.setattr(model, 'prepare_inputs_for_generation', slow)
        stream = server.client().chat.completions.create(messages=messages, stream=True, **settings)
        next(iter(stream))
        stream.close()
        with pytest.raises(openai.APITimeoutError):
            server.client().with_options(timeout=1.).chat.completions.create(messages=messages, **settings)
        begun = time.monotonic()
        response = server.client().chat.completions.create(messages=as_openai(mixed_requests()[0]), **GREEDY)
        assert time.monotonic() - begun < 15
    assert_same(read_whole(response), single[0])
    assert num_steps < 600


def test_adapters_draw_with_their_own_modules(server, talkative_checkpoint, single, monkeypatch):
    adapters = server.deploy.args.adapter_mapping
    assert set(adapters) == {'a', 'b'}
    requests = mixed_requests()[:3]
    seen = []
    for name, folder in adapters.items():
        alone = CitrusVPipeline(talkative_checkpoint, device='cpu', dtype=torch.float32, adapters=[folder])
        expected = [said(alone, request) for request in requests]
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
    # The model itself is what it was.
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
