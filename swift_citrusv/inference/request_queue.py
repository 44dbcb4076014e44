"""The queue of requests to an engine, and the worker thread that answers them in batches.

ms-swift's own worker raises the error of one request for its whole batch, hangs if the generation of a stream fails,
continues to generate for disconnected clients, and lets one kind of request starve the others. Here each request has a
`Ticket`, and:

- a request fails with its own error only; if a batch fails as a whole, its requests are answered one by one;
- a stream's response starts with its first chunk, so an earlier error still becomes an HTTP status;
- a generation is cancelled when all its clients have disconnected.
"""
import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from swift.infer_engine import RequestConfig
from swift.utils import get_logger
from typing import Any

from ..errors import RowError
from ..model.seg_states import GenerationCancelled

logger = get_logger()

_IDLE_SECONDS = 0.01
_start_lock = threading.Lock()
# Whether all clients of the batch that this thread works on have disconnected.
_cancelled: ContextVar[Callable[[], bool] | None] = ContextVar('citrusv_cancelled', default=None)
# Server faults of the current HTTP request: errors that the request itself did not cause.
FAULTS: ContextVar[list[BaseException] | None] = ContextVar('citrusv_faults', default=None)


def cancellation() -> Callable[[], bool] | None:
    """Returns the function that tells `SegStates` whether the current generation is cancelled."""
    return _cancelled.get()


def in_worker() -> bool:
    """Whether this is the worker thread of an engine."""
    return _cancelled.get() is not None


def is_request_error(error: BaseException) -> bool:
    """Whether the request caused an error, and not the server."""
    return isinstance(error, (RowError, ValueError))


class Ticket:
    """A request that waits for its answer. Create it in the event loop that waits."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[Any] = asyncio.Queue()
        # Whether the client has disconnected.
        self.cancelled = False
        self.num_chunks, self.ended = 0, False

    @property
    def is_open(self) -> bool:
        return not (self.cancelled or self.ended)

    def put(self, item: Any, last: bool = True) -> None:
        """Delivers a chunk, a whole answer, None for the end of a stream, or an error. Thread-safe."""
        if self.ended:
            return
        self.num_chunks += 1
        self.ended = last or isinstance(item, BaseException)
        try:
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)
        except RuntimeError:  # the event loop is closed
            self.cancelled = True

    async def get(self) -> Any:
        """Waits for the next chunk.

        Raises:
            The error that ended the request.
        """
        item = await self._items.get()
        if isinstance(item, BaseException):
            faults = FAULTS.get()
            if faults is not None and not is_request_error(item):
                faults.append(item)
            raise item
        return item


# ---- the event loop


async def answer(engine: Any,
                 infer_request: Any,
                 request_config: RequestConfig | None = None,
                 *,
                 adapter_request: Any = None,
                 pre_infer_hook: Callable | None = None) -> Any:
    """Replaces `TransformersEngine.infer_async`: returns the response, or an iterator over the chunks of a stream.

    Raises:
        RowError, ValueError: The request is invalid; for a stream, if this is known before the first chunk.
        RuntimeError and others: The server failed.
    """
    request_config = request_config or RequestConfig()
    settings = {
        'request_config': request_config,
        'adapter_request': adapter_request,
        'pre_infer_hook': pre_infer_hook,
    }
    ticket = Ticket()
    engine._queue.put((infer_request, settings, ticket))
    with _start_lock:
        if engine._task_thread is None:
            engine._start_infer_worker()
    try:
        first = await ticket.get()
    except BaseException:  # a disconnected client is a CancelledError
        ticket.cancelled = True
        raise
    return _chunks(ticket, first) if request_config.stream else first


async def _chunks(ticket: Ticket, first: Any) -> AsyncIterator[Any]:
    try:
        chunk = first
        while chunk is not None:
            yield chunk
            # The end of this answer; the end of the batch may come much later.
            chunk = None if _is_last(chunk) else await ticket.get()
    finally:
        ticket.cancelled = True


# ---- the worker thread


def work(engine: Any) -> None:
    """Answers the requests of an engine in an endless loop. Cancelled requests are skipped."""
    while True:
        batch = engine._fetch_infer_requests()
        if batch is None:
            time.sleep(_IDLE_SECONDS)
            continue
        _rotate(engine._task_pool, batch[0])
        settings, tickets = batch
        requests = settings.pop('infer_requests')
        _answer_all(engine, settings, [(request, ticket) for request, ticket in zip(requests, tickets, strict=True)])


def _rotate(pool: dict[str, Any], served: dict[str, Any]) -> None:
    """Moves the rest of the requests of the kind just served behind all other kinds."""
    if pool:
        key, (settings, _) = next(iter(pool.items()))
        if settings['request_config'] is served['request_config']:
            pool[key] = pool.pop(key)


def _answer_all(engine: Any, settings: dict[str, Any], waiting: list[tuple[Any, Ticket]]) -> None:
    error = _attempt(engine, settings, waiting)
    if error is None:
        return
    left = [(request, ticket) for request, ticket in waiting if ticket.is_open]
    # A stream that has started cannot be restarted.
    again = [pair for pair in left if pair[1].num_chunks == 0 and len(waiting) > 1]
    for _, ticket in left:
        if all(ticket is not other for _, other in again):
            ticket.put(error)
    if again:
        logger.warning(f'A batch of {len(waiting)} requests failed ({_shown(error)}); {len(again)} of them are now '
                       'answered one by one.')
    # The error's frames reference the batch.
    error = None
    for pair in again:
        _answer_all(engine, settings, [pair])


def _attempt(engine: Any, settings: dict[str, Any], waiting: list[tuple[Any, Ticket]]) -> Exception | None:
    """Answers a batch; returns the error that stopped it, or None."""
    waiting = [(request, ticket) for request, ticket in waiting if ticket.is_open]
    tickets = [ticket for _, ticket in waiting]
    if not tickets:
        return None
    token = _cancelled.set(lambda: not any(ticket.is_open for ticket in tickets))
    try:
        answers = engine._infer([request for request, _ in waiting], **settings)
        if settings['request_config'].stream:
            _deliver(answers, tickets)
        else:
            for ticket, whole in zip(tickets, answers, strict=True):
                ticket.put(whole)
        return None
    except GenerationCancelled:
        return None
    # Any error: if this thread died, all later requests would hang.
    except Exception as e:
        if not is_request_error(e):
            logger.exception('A batch of requests failed.')
        return e
    finally:
        _cancelled.reset(token)


def _deliver(stream: Any, tickets: list[Ticket]) -> None:
    for chunks in stream:
        for ticket, chunk in zip(tickets, chunks, strict=True):
            if chunk is not None:
                ticket.put(chunk, last=_is_last(chunk))
        if not any(ticket.is_open for ticket in tickets):
            # This also cancels the generation.
            stream.close()
            return
    for ticket in tickets:
        ticket.put(None)


def _is_last(chunk: Any) -> bool:
    return all(choice.finish_reason for choice in getattr(chunk, 'choices', ()))


def _shown(error: BaseException) -> str:
    return f'{type(error).__name__}: {error}'[:300]
