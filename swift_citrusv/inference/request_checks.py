"""Checks of requests to `swift deploy`, made before ms-swift processes them.

ms-swift ignores unknown fields, returns a server error for a message without content, and reads files and URLs that a
request names without the checks of `files.rules.FileRules`.
"""
import base64
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields
from swift.infer_engine import RequestConfig
from swift.infer_engine.protocol import ChatCompletionRequest, CompletionRequest, RolloutInferRequest
from swift.utils import SafeMediaPath, SafeUrlFetcher
from typing import Any, NamedTuple

from ..files.errors import IMAGE_ERRORS, FileError, file_repr, unreadable_file
from ..files.images import checked_video, open_image
from ..files.rules import FileRules, file_rules

_ROLES = ('system', 'user', 'assistant', 'tool')
_URL = ('http://', 'https://')
_MEDIA = {'image': 'images', 'video': 'videos', 'audio': 'audios'}
# Fields of OpenAI's API that do not change an answer.
_WITHOUT_EFFECT = {
    'user', 'metadata', 'store', 'service_tier', 'stream_options', 'safety_identifier', 'prompt_cache_key',
    'parallel_tool_calls'
}
# ms-swift accepts these, but its Transformers engine ignores them.
_NOT_SUPPORTED = ('min_p', 'best_of', 'presence_penalty', 'frequency_penalty', 'prompt_logprobs',
                  'structured_outputs_regex')
_RANGES: dict[str, tuple[float, float]] = {
    'max_tokens': (1, math.inf),
    'temperature': (0, 100),
    'top_p': (0, 1),
    'top_k': (-1, math.inf),
    'repetition_penalty': (1e-3, 1e3),
    'length_penalty': (-100, 100),
    'num_beams': (1, 128),
    'n': (1, 128),
    'top_logprobs': (0, math.inf),
    # The range of torch.manual_seed.
    'seed': (-2**63, 2**64 - 1),
}
_INTEGERS = {'max_tokens', 'top_k', 'num_beams', 'n', 'top_logprobs', 'seed'}
_SWITCHES = ('stream', 'logprobs', 'return_details')


class RequestError(ValueError):
    """An invalid request. The message is sent to the client."""


def check_request(path: str, body: Any) -> None:
    """Checks the JSON body of a request; `check_media` checks its files.

    OpenAI's synonyms of ms-swift's fields are renamed, in place.

    Args:
        path: Path of the endpoint.
        body: The parsed JSON.

    Raises:
        RequestError: A field is unknown, missing or out of range.
    """
    if not isinstance(body, dict):
        raise RequestError(f'The body is {_kind(body)}, not a JSON object.')
    if path == '/infer/':
        _check_fields(body, {'infer_requests', 'request_config'})
        config = body.get('request_config') or {}
        if not isinstance(config, dict):
            raise RequestError(f"'request_config' is {_kind(config)}, not an object.")
        _check_settings(config)
        _check_fields(config, _names(RequestConfig))
        requests = body.get('infer_requests')
        if not isinstance(requests, list) or not all(isinstance(request, dict) for request in requests):
            raise RequestError("'infer_requests' is not a list of objects.")
        for request in requests:
            _check_fields(request, _names(RolloutInferRequest))
            _check_messages(request)
    elif path == '/v1/completions':
        _check_settings(body)
        _check_fields(body, _names(CompletionRequest) | _WITHOUT_EFFECT)
        if not isinstance(body.get('prompt'), str):
            raise RequestError(f"'prompt' is {_kind(body.get('prompt'))}, not a string.")
    elif path == '/v1/chat/completions':
        _check_settings(body)
        _check_fields(body, _names(ChatCompletionRequest) | _WITHOUT_EFFECT)
        _check_messages(body)
    else:
        raise RequestError(f'{path} is not supported. Use /v1/chat/completions.')


def _check_fields(given: Mapping[str, Any], known: set[str]) -> None:
    unknown = [key for key in given if key not in known]
    if unknown:
        raise RequestError(f'Unknown field {unknown[0]!r}. Known fields: {", ".join(sorted(known))}.')


def _check_settings(body: dict[str, Any]) -> None:
    longest = body.pop('max_completion_tokens', None)
    if longest is not None:
        if body.get('max_tokens') not in (None, longest):
            raise RequestError("'max_tokens' and 'max_completion_tokens' differ. Leave one of them out.")
        body['max_tokens'] = longest
    if body.get('response_format') == {'type': 'text'}:
        del body['response_format']
    if isinstance(body.get('stop'), str):
        body['stop'] = [body['stop']]
    stop = body.get('stop')
    if stop is not None and not (isinstance(stop, list) and all(isinstance(word, str) and word for word in stop)):
        raise RequestError(f"'stop' is {file_repr(stop)}, not a string or a list of strings.")
    for name in _SWITCHES:
        if not isinstance(body.get(name, False), bool):
            raise RequestError(f'{name!r} is {_kind(body[name])}, not true or false.')
    for name, (low, high) in _RANGES.items():
        value = body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int if name in _INTEGERS else (int, float)):
            raise RequestError(f'{name!r} is {_kind(value)}, not {"an integer" if name in _INTEGERS else "a number"}.')
        # `not low <= value` also refuses NaN.
        if not low <= value <= high:
            raise RequestError(
                f'{name!r} is {value}, out of range (from {low}{"" if high == math.inf else f" to {high}"}).')
    defaults = RequestConfig()
    for name in _NOT_SUPPORTED:
        if body.get(name) not in (None, getattr(defaults, name)):
            raise RequestError(f'{name!r} is not supported by this server. Leave it out.')
    if body.get('stream') and body.get('n') not in (None, 1):
        raise RequestError("A stream supports one answer only: set 'n' to 1, or 'stream' to false.")


def _check_messages(request: dict[str, Any]) -> None:
    messages = request.get('messages')
    if not isinstance(messages, list) or not messages:
        raise RequestError(f"'messages' is {_kind(messages)}, not a list of at least one message.")
    for i, message in enumerate(messages):
        name = f'messages[{i}]'
        if not isinstance(message, dict):
            raise RequestError(f'{name} is {_kind(message)}, not an object.')
        if message.get('role') not in _ROLES:
            raise RequestError(
                f'{name} has the role {file_repr(message.get("role"))}. Known roles: {", ".join(_ROLES)}.')
        content = message.get('content')
        if content is None and message.get('tool_calls'):
            continue
        if not isinstance(content, (str, list)) or not content and message['role'] == 'user':
            raise RequestError(f"The 'content' of {name} is {_kind(content)}, not a text or a list of parts.")
        for j, part in enumerate(content if isinstance(content, list) else ()):
            _check_part(part, f"{name}['content'][{j}]")
    if messages[-1]['role'] == 'assistant':
        raise RequestError('The last message has the role assistant: there is nothing to answer.')


def _check_part(part: Any, name: str) -> None:
    kind = part.get('type') if isinstance(part, dict) else None
    known = ['text', *_MEDIA, *(f'{medium}_url' for medium in _MEDIA)]
    if kind not in known:
        raise RequestError(f'{name} has the type {file_repr(kind)}. Known types: {", ".join(known)}.')
    value = part.get(kind)
    if isinstance(value, dict):
        value = value.get('url')
    if not isinstance(value, str):
        raise RequestError(f'{name} has no {kind!r}, or it is {_kind(value)}.')


def _names(request: Any) -> set[str]:
    return {field.name for field in fields(request)}


def _kind(value: Any) -> str:
    if value is None:
        return 'missing or null'
    if isinstance(value, (list, str)) and not value:
        return 'empty'
    names = {
        dict: 'an object',
        list: 'a list',
        str: 'a string',
        bool: 'true or false',
        int: 'a number',
        float: 'a number'
    }
    return names.get(type(value), type(value).__name__)


# ---- files


class _Reference(NamedTuple):
    """A file in a request: its medium, the object and key that hold it, and the name of that place for errors."""
    medium: str
    holder: Any
    key: Any
    name: str


def check_media(body: dict[str, Any]) -> None:
    """Checks the files of a request under `files.rules.FileRules`, and inlines them.

    Afterwards the request holds images as data: URLs, and names no local image file or image URL. This may take long:
    call it in a thread.

    Args:
        body: The body after `check_request`.

    Raises:
        RowError: A file cannot be read or is refused.
        RequestError: The images together have too many pixels.
    """
    rules = file_rules()
    # The sum over the request: many images within the limit could still fill the memory.
    pixels = 0
    for reference in _references(body):
        value = reference.holder[reference.key]
        try:
            if reference.medium == 'image':
                value, size = _image(value, rules)
                pixels += size
            elif reference.medium == 'video':
                value = checked_video(value, rules)
            else:
                raise ValueError('audio input is not supported')
        except IMAGE_ERRORS as e:
            error = unreadable_file('The request', f'{reference.name}={file_repr(value)}', e,
                                    f'{reference.medium}-unreadable')
            raise error from e
        reference.holder[reference.key] = value
        if pixels > rules.max_pixels:
            raise RequestError(f'The images up to {reference.name} have {pixels} pixels together, more than '
                               f'max_image_pixels={rules.max_pixels}. Send fewer, or smaller ones.')


def _references(body: dict[str, Any]) -> Iterator[_Reference]:
    for request in body.get('infer_requests', [body]):
        for medium, column in _MEDIA.items():
            files = request.get(column)
            if isinstance(files, str):
                files = request[column] = [files]
            if files is not None and not isinstance(files, list):
                raise RequestError(f'{column!r} is {_kind(files)}, not a list.')
            yield from (_Reference(medium, files, i, f'{column}[{i}]') for i in range(len(files or ())))
        for i, message in enumerate(request.get('messages', ())):
            content = message.get('content')
            for j, part in enumerate(content if isinstance(content, list) else ()):
                medium = part['type'].removesuffix('_url')
                if medium in _MEDIA:
                    holder, key = (part[part['type']],
                                   'url') if isinstance(part[part['type']], dict) else (part, part['type'])
                    yield _Reference(medium, holder, key, f"messages[{i}]['content'][{j}]")


def _image(value: Any, rules: FileRules) -> tuple[str, int]:
    """Returns an image as a data: URL or base64 text, and its number of pixels."""
    if not isinstance(value, str):
        raise TypeError(f'it is {_kind(value)}, not a string')
    text = value.strip()
    if text.lower().startswith(_URL):
        if not rules.allow_urls:
            raise FileError('URLs are not allowed on this server', 'Send the image itself, as a data: URL.', 'url')
        url, _, fragment = text.partition('#')
        seconds = float(os.environ.get('SWIFT_TIMEOUT', '20'))
        text = _inlined(SafeUrlFetcher.read(url, timeout=seconds if seconds > 0 else None), fragment)
    path = fragment = ''
    if not text.startswith('data:'):
        try:
            path, fragment = rules.resolve_image(text)
        except (OSError, ValueError):
            # The image itself in base64, or a bad name, for which `open_image` raises the error.
            pass
        else:
            # The check that ms-swift applies to file names.
            SafeMediaPath.check(path)
    with open_image(text, rules) as image:
        pixels = image.width * image.height
    if path:
        num_bytes = os.path.getsize(path)
        if num_bytes > 8 * rules.max_pixels:
            raise FileError(f'it has {num_bytes} bytes', 'Send the image itself, as a data: URL.', 'too-many-pixels')
        with open(path, 'rb') as file:
            text = _inlined(file.read(), fragment)
    return text, pixels


def _inlined(content: bytes, fragment: str) -> str:
    url = f'data:application/octet-stream;base64,{base64.b64encode(content).decode()}'
    return f'{url}#{fragment}' if fragment else url
