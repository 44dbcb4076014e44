"""`swift deploy`: a reason for every refusal, and a server that keeps answering when a request or the model fails."""
import httpx
import openai
import pytest
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from support.chat_requests import GREEDY, as_openai, bad_requests, data_url, image_part, read_json, read_whole, user
from support.engine_control import batches_of, breaking
from support.requests_with_images import mixed_requests, picture
from support.serving import assert_same, of_stream
from swift.utils import find_free_port
from typing import Any


def test_bad_requests_get_a_reason(server, single):
    for name, (body, reason) in bad_requests().items():
        response = server.post(body)
        assert 400 <= response.status_code < 500, f'{name}: {response.text[:300]}'
        answer = response.json()
        assert answer['object'] == 'error' and reason in answer['message'], f'{name}: {answer["message"][:300]}'
        # The message does not repeat the image.
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
    # The model takes at most 4,096 tokens.
    large = image_part(data_url(picture(1, 240, 240)))
    response = server.post(user(*[large] * 100, 'Segment the cell.'))
    assert response.status_code == 400 and 'max_length' in response.json()['message']


def test_files_of_the_server_follow_its_rules(server, single, tmp_path, monkeypatch):
    """A path inside data_root works, relative ones too; a path outside is rejected before ms-swift reads the file."""
    root = tmp_path / 'root'
    root.mkdir()
    for folder in (root, tmp_path):
        mixed_requests()[0][0].save(folder / 'a.png')
    monkeypatch.setenv('CITRUSV_DATA_ROOT', str(root))
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
    """ms-swift's own fetcher checks the address too."""
    mixed_requests()[0][0].save(tmp_path / 'a.png')
    port = find_free_port(8400)
    files = subprocess.Popen(
        [sys.executable, '-m', 'http.server', str(port), '--bind', '127.0.0.1'],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL)
    try:
        body = user(image_part(f'http://127.0.0.1:{port}/a.png'), 'Segment the cell.')
        monkeypatch.setenv('CITRUSV_ALLOW_URLS', 'true')
        # Even with a data_root, which concerns files only.
        monkeypatch.setenv('CITRUSV_DATA_ROOT', str(tmp_path))
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


# ---- failures beside good requests


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


def test_a_failure_is_no_hang_and_no_answer(server, single, monkeypatch):
    client = server.client()
    messages = as_openai(mixed_requests()[0])
    with breaking(server, monkeypatch):
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError, match='on fire'):
                client.chat.completions.create(messages=messages, stream=stream, **GREEDY)
    # In the middle of a stream, after its head: it breaks off, and does not look like a complete one.
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
    """Generation stops when its last client leaves, streaming or not, and a waiting request is not started."""
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
