"""Requests on their way through the one thread in which an engine answers them, batch by batch.

ms-swift's own thread gives every request of a batch the error of any of them, waits for ever where a stream's
generation fails, goes on writing for clients that have gone, and lets one kind of requests overtake all others. Here
each request has a `Ticket`, and:

- what is wrong with a request is its own error; where a batch fails as a whole, its requests are answered one by one;
- the head of a stream is known with its first piece, so that an error before it can still be a status;
- a generation ends as soon as nobody waits for any of its answers.
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
from ..model.seg_states import Abandoned

logger = get_logger()

_IDLE_SECONDS = 0.01
_start_lock = threading.Lock()
# Whether nobody waits any more for what this thread is working on.
_abandoned: ContextVar[Callable[[], bool] | None] = ContextVar('citrusv_abandoned', default=None)
# Where the errors of a request go that are not its own doing: a list for each HTTP request.
FAULTS: ContextVar[list[BaseException] | None] = ContextVar('citrusv_faults', default=None)


def abandoned() -> Callable[[], bool] | None:
    """For the generation that begins now: see `SegStates`."""
    return _abandoned.get()


def in_worker() -> bool:
    """Whether this thread is the one that answers an engine's requests."""
    return _abandoned.get() is not None


def is_own_doing(error: BaseException) -> bool:
    """Whether an error is about the request itself, and not about the server."""
    return isinstance(error, (RowError, ValueError))


class Ticket:
    """A request that waits for its answer. Made where it waits: in an event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[Any] = asyncio.Queue()
        # Nobody waits for it any more.
        self.abandoned = False
        # How many pieces it was given, and whether the last of them was among these.
        self.num_pieces, self.ended = 0, False

    @property
    def is_open(self) -> bool:
        return not (self.abandoned or self.ended)

    def put(self, item: Any, last: bool = True) -> None:
        """Hands over a piece of the answer, the whole, None for the end of a stream, or an error; from any thread."""
        if self.ended:
            return
        self.num_pieces += 1
        self.ended = last or isinstance(item, BaseException)
        try:
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)
        except RuntimeError:  # the loop is closed
            self.abandoned = True

    async def get(self) -> Any:
        """The next piece.

        Raises:
            What the request ended with.
        """
        item = await self._items.get()
        if isinstance(item, BaseException):
            faults = FAULTS.get()
            if faults is not None and not is_own_doing(item):
                faults.append(item)
            raise item
        return item


# ---- where requests come in


async def answer(engine: Any,
                 infer_request: Any,
                 request_config: RequestConfig | None = None,
                 *,
                 adapter_request: Any = None,
                 pre_infer_hook: Callable | None = None) -> Any:
    """As `TransformersEngine.infer_async`: the response, or, for a stream, its pieces one after another.

    Raises:
        RowError, ValueError: The request cannot be answered; of a stream too, if it is known before the first piece.
        RuntimeError and others: The server cannot.
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
    except BaseException:  # the client's going is a CancelledError
        ticket.abandoned = True
        raise
    return _pieces(ticket, first) if request_config.stream else first


async def _pieces(ticket: Ticket, first: Any) -> AsyncIterator[Any]:
    try:
        piece = first
        while piece is not None:
            yield piece
            # Not the end of the batch, which may be far off.
            piece = None if _is_last(piece) else await ticket.get()
    finally:
        ticket.abandoned = True


# ---- the thread


def work(engine: Any) -> None:
    """Answers the requests of an engine, for ever. One that is abandoned before its turn is left out."""
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
    """Sends what is left of the kind that was just served behind all other kinds."""
    if pool:
        key, (settings, _) = next(iter(pool.items()))
        if settings['request_config'] is served['request_config']:
            pool[key] = pool.pop(key)


def _answer_all(engine: Any, settings: dict[str, Any], waiting: list[tuple[Any, Ticket]]) -> None:
    error = _attempt(engine, settings, waiting)
    if error is None:
        return
    left = [(request, ticket) for request, ticket in waiting if ticket.is_open]
    # A stream that has begun cannot begin again.
    again = [pair for pair in left if pair[1].num_pieces == 0 and len(waiting) > 1]
    for _, ticket in left:
        if all(ticket is not other for _, other in again):
            ticket.put(error)
    if again:
        logger.warning(f'A batch of {len(waiting)} requests failed ({_shown(error)}); {len(again)} of them are now '
                       'answered one by one.')
    # Its frames hold the batch.
    error = None
    for pair in again:
        _answer_all(engine, settings, [pair])


def _attempt(engine: Any, settings: dict[str, Any], waiting: list[tuple[Any, Ticket]]) -> Exception | None:
    """Answers a batch; returns what ended it before all had their answers."""
    waiting = [(request, ticket) for request, ticket in waiting if ticket.is_open]
    tickets = [ticket for _, ticket in waiting]
    if not tickets:
        return None
    token = _abandoned.set(lambda: not any(ticket.is_open for ticket in tickets))
    try:
        answers = engine._infer([request for request, _ in waiting], **settings)
        if settings['request_config'].stream:
            _hand_out(answers, tickets)
        else:
            for ticket, whole in zip(tickets, answers, strict=True):
                ticket.put(whole)
        return None
    except Abandoned:
        return None
    # Of any kind: this thread must outlive it, or all later requests would wait for ever.
    except Exception as e:
        if not is_own_doing(e):
            logger.exception('A batch of requests failed.')
        return e
    finally:
        _abandoned.reset(token)


def _hand_out(pieces: Any, tickets: list[Ticket]) -> None:
    for row in pieces:
        for ticket, piece in zip(tickets, row, strict=True):
            if piece is not None:
                ticket.put(piece, last=_is_last(piece))
        if not any(ticket.is_open for ticket in tickets):
            # Ends the generation too.
            pieces.close()
            return
    for ticket in tickets:
        ticket.put(None)


def _is_last(piece: Any) -> bool:
    return all(choice.finish_reason for choice in getattr(piece, 'choices', ()))


def _shown(error: BaseException) -> str:
    return f'{type(error).__name__}: {error}'[:300]
