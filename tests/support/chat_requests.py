"""Requests to `swift deploy` in the form of OpenAI's API, good and bad, and what its answers say."""
import base64
import httpx
import io
import json
from PIL import Image
from support.faults import one_colour_png
from support.requests_with_images import picture
from typing import Any

from swift_citrusv import CitrusVPipeline

MAX_TOKENS = 24
GREEDY = {'model': 'citrusv', 'temperature': 0, 'max_tokens': MAX_TOKENS}


def pipeline_answer(pipe: CitrusVPipeline, request: tuple[Any, Any], **generation: Any) -> dict[str, Any]:
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


def user(*content: Any, **settings: Any) -> dict[str, Any]:
    parts = [{'type': 'text', 'text': part} if isinstance(part, str) else part for part in content]
    return {**GREEDY, 'messages': [{'role': 'user', 'content': parts}], **settings}


def image_part(content: bytes | str) -> dict[str, Any]:
    if isinstance(content, bytes):
        content = 'data:image/png;base64,' + base64.b64encode(content).decode()
    return {'type': 'image_url', 'image_url': {'url': content}}


def bad_requests() -> dict[str, tuple[Any, str]]:
    """Bodies, and a part of the error message."""
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
        'URL beside the text': (user('Hm?', images=['HTTP://127.0.0.1:9/a.png']), 'URLs are not allowed on this'),
        'video at a URL': (user({'type': 'video_url', 'video_url': {'url': 'https://127.0.0.1:9/a.mp4'}}), 'URLs'),
        '20,000 x 20,000': (user(image_part(one_colour_png(20_000, 20_000)), 'Hm?'), 'max_image_pixels'),
        'large ones together': (user(large, large, 'Hm?'), '338000000 pixels together'),
        'more tags than images': (user('<image>Hm?', image_part(whole)), '<image> 2 times'),
        'a file by a side door': (user('Hm?', chat_template_kwargs={'image': '/etc/passwd'}), "'image'"),
    }  # yapf: disable


def read_json(response: httpx.Response) -> dict[str, Any]:
    """The answer in a response of the server, whole or a stream."""
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
    """The answer of a stream; its masks are in its last chunk and in no other."""
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
