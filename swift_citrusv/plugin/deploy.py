"""The patches for `swift deploy`, and for the engine's worker thread.

Replaces `swift.arguments.InferArguments._init_vllm_async_engine`; `_infer_worker`, `infer_async` and `_batch_encode` of
`swift.infer_engine.transformers_engine.TransformersEngine`; `SwiftDeploy._register_app` in
`swift.pipelines.infer.deploy`; and `to_cmpl_choice` of `ChatCompletionResponseChoice` and
`ChatCompletionResponseStreamChoice` in `swift.infer_engine.protocol`.
"""
import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from ..constants import MODEL_TYPE, ROW_COLUMN
from ..errors import ROW_ERRORS, RowError
from ..settings import Settings
from .wrapping import is_citrusv, wrap

# Seconds between two checks whether a waiting client is still connected.
_POLL_SECONDS = 0.2


def patch_infer_arguments() -> None:
    """Refuses arguments of `swift infer` and `swift deploy` before anything is loaded."""
    from swift.arguments import InferArguments

    # Why: it is the first step at which the model type is known.
    def init_async_engine(original):

        def patched(self):
            if self.model_type == MODEL_TYPE:
                if self.infer_backend != 'transformers':
                    raise ValueError(
                        f'--infer_backend {self.infer_backend} generates text and no masks. Leave it out; or generate '
                        'the text with that engine and draw the masks afterwards: citrusv segment --text-from URL.')
                folder = Settings.from_env().overlay_dir
                if folder is not None:
                    from ..inference.overlays import check_overlay_dir
                    check_overlay_dir(folder)
            original(self)

        return patched

    wrap(InferArguments, '_init_vllm_async_engine', ('self', ), init_async_engine)


# ---- swift.infer_engine.transformers_engine


def patch_engine_worker() -> None:
    """Replaces the thread that answers requests: see `inference.request_queue`."""
    from swift.infer_engine.transformers_engine import TransformersEngine

    # Why: an error of one request fails its whole batch, and an error during a stream's generation ends nothing.
    def infer_worker(original):

        def patched(self):
            if not is_citrusv(self.template):
                return original(self)
            from ..inference.request_queue import work
            work(self)

        return patched

    def infer_async(original):

        async def patched(self, infer_request, request_config=None, **kwargs):
            if not is_citrusv(self.template):
                return await original(self, infer_request, request_config, **kwargs)
            from ..inference.request_queue import answer
            return await answer(self, infer_request, request_config, **kwargs)

        return patched

    # Why: a server raises the first error for all requests of a batch; and a prompt that leaves no room for an answer
    # is only noticed after the batch has been collated.
    def batch_encode(original):

        def patched(self, infer_requests, strict):
            if not is_citrusv(self.template):
                return original(self, infer_requests, strict)
            from ..inference.request_queue import in_worker
            return _encode_each(self, original, infer_requests, strict and not in_worker())

        return patched

    wrap(TransformersEngine, '_infer_worker', ('self', ), infer_worker)
    wrap(TransformersEngine, 'infer_async', ('self', 'infer_request', 'request_config', 'adapter_request'), infer_async)
    wrap(TransformersEngine, '_batch_encode', ('self', 'infer_requests', 'strict'), batch_encode)


def _encode_each(engine: Any, encode: Callable, requests: list[Any], strict: bool) -> tuple[list[Any], list[Any]]:
    """As ms-swift's method: the encoded requests, and the errors by index; with `strict` the first error is raised."""
    encoded, errors = encode(engine, requests, strict)
    failed = {i: _request_error(e, requests[i]) for i, e in errors}
    room = engine.max_model_len
    good = []
    for i, inputs in zip([i for i in range(len(requests)) if i not in failed], encoded, strict=True):
        if room is None or len(inputs['input_ids']) < room:
            good.append(inputs)
            continue
        failed[i] = RowError(
            'The request', f'its {len(inputs["input_ids"])} tokens leave no room for an answer: the limit of the model '
            f'is {room}.', 'Send fewer or smaller images, or less text.', 'too-long')
        if strict:
            raise failed[i]
    return good, sorted(failed.items())


def _request_error(error: Exception, request: Any) -> Exception:
    """The error to report for a request that cannot be encoded; a row of a file keeps its name."""
    if isinstance(request, dict) and request.get(ROW_COLUMN):
        return error
    if isinstance(error, RowError):
        return RowError('The request', error.problem, error.remedy, error.kind)
    if isinstance(error, ROW_ERRORS) and not isinstance(error, ValueError):
        return RowError('The request', f'{type(error).__name__}: {error}.', 'Compare it with the API.', 'encode')
    return error


# ---- swift.pipelines.infer.deploy


def patch_deploy() -> None:
    """Gives bad requests a status and a reason, and cancels the requests of clients that disconnect."""
    from swift.infer_engine.protocol import ChatCompletionResponseChoice, ChatCompletionResponseStreamChoice
    from swift.pipelines.infer.deploy import SwiftDeploy

    # Why: with a route class of our own, a request is checked before ms-swift handles it.
    def register_app(original):

        def patched(self):
            if is_citrusv(self.template):
                self.app.router.route_class = _route_class(self.create_error_response)
            original(self)

        return patched

    wrap(SwiftDeploy, '_register_app', ('self', ), register_app)

    # Why: /v1/completions builds its answers from the text alone.
    def to_cmpl_choice(original):

        def patched(self):
            choice = original(self)
            message: Any = getattr(self, 'message', None) or getattr(self, 'delta', None)
            if getattr(message, 'masks', None) is None:
                return choice
            from ..inference.generation import SegCompletionChoice
            return SegCompletionChoice(**vars(choice), masks=message.masks, overlays=message.overlays)

        return patched

    for choice in (ChatCompletionResponseChoice, ChatCompletionResponseStreamChoice):
        wrap(choice, 'to_cmpl_choice', ('self', ), to_cmpl_choice)


def _route_class(error_response: Callable) -> type:
    """The class of the server's routes: checks requests first, and gives every error a status and a reason.

    Args:
        error_response: Makes a response from a status and a text.
    """
    from fastapi import HTTPException
    from fastapi.exceptions import RequestValidationError
    from fastapi.routing import APIRoute
    from starlette.requests import ClientDisconnect

    from ..inference.request_checks import check_media, check_request
    from ..inference.request_queue import FAULTS, is_request_error, logger

    class Route(APIRoute):

        def get_route_handler(self):
            handle = super().get_route_handler()
            if 'POST' not in (self.methods or ()) or self.path == '/ping':
                return handle

            async def checked(request):
                faults: list[BaseException] = []
                FAULTS.set(faults)
                try:
                    body = await _read_body(request)
                    check_request(self.path, body)
                    # In a thread, because it reads files.
                    await asyncio.to_thread(check_media, body)
                    response = await _while_connected(request, handle(request))
                except RequestValidationError as e:
                    return error_response(400, _validation_message(e.errors()))
                except HTTPException as e:
                    return error_response(e.status_code, str(e.detail))
                except ClientDisconnect:
                    return error_response(400, 'The client has disconnected.')
                except ROW_ERRORS as e:
                    if is_request_error(e):
                        return error_response(400, str(e))
                    logger.exception('A request failed.')
                    return error_response(500, f'{type(e).__name__}: {e}')
                if faults:
                    # ms-swift answers every error with a status of 400.
                    response.status_code = 500
                return response

            return checked

    return Route


async def _read_body(request: Any) -> Any:
    """The JSON body of a request. Starlette caches it, so FastAPI gets the same object."""
    from ..inference.request_checks import RequestError
    kind = request.headers.get('content-type', '')
    if not kind.partition(';')[0].strip().lower().endswith('json'):
        raise RequestError(
            f'The content type of the body is {kind!r}. Send JSON with the header "Content-Type: application/json".')
    try:
        return await request.json()
    except (ValueError, RecursionError) as e:
        raise RequestError(f'The body is not JSON: {e}.') from e


def _validation_message(errors: Any) -> str:
    """pydantic's errors without the values, which may be whole images."""
    return '; '.join(f'{".".join(str(part) for part in error["loc"][1:])}: {error["msg"]}' for error in errors[:5])


async def _while_connected(request: Any, answer: Coroutine[Any, Any, Any]) -> Any:
    """Awaits the answer, and cancels it when the client disconnects; only polling notices that.

    Raises:
        ClientDisconnect: The client has disconnected.
    """
    from starlette.requests import ClientDisconnect
    task = asyncio.ensure_future(answer)
    try:
        while not task.done():
            await asyncio.wait([task], timeout=_POLL_SECONDS)
            if not task.done() and await request.is_disconnected():
                raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
