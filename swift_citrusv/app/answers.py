"""Streamed answers for the page, from an engine that several visitors share."""
import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from PIL import Image
from swift.infer_engine import InferRequest, RequestConfig
from typing import Any

from ..inference.results import MaskResult

# Seconds between two checks whether the visitor has stopped the answer before its first token.
_POLL_SECONDS = 0.1


async def stream_answer(engine: Any, images: Sequence[Image.Image], messages: Sequence[dict[str, Any]],
                        generation: Mapping[str, Any],
                        stopped: Callable[[], bool]) -> AsyncGenerator[tuple[str, tuple[MaskResult, ...] | None], None]:
    """Streams the answer to one request.

    Args:
        engine: The engine of a `CitrusVPipeline`; `inference.request_queue` batches concurrent requests.
        images: All images of the conversation, RGB.
        messages: The conversation up to the question.
        generation: Fields of ms-swift's `RequestConfig`.
        stopped: Polled while the answer is generated; generation ends once it returns True.

    Yields:
        Parts of the text, each with None; the last part comes with the masks, unless the answer was stopped.

    Raises:
        The errors of `inference.request_queue.answer`.
    """
    config = RequestConfig(**{**generation, 'stream': True})
    # `CitrusVPipeline.stream` would keep generating after the reader has stopped.
    request = asyncio.ensure_future(
        engine.infer_async(InferRequest(messages=list(messages), images=list(images)), config))
    try:
        while not request.done():
            if stopped():
                return
            await asyncio.wait({request}, timeout=_POLL_SECONDS)
        async with aclosing(request.result()) as chunks:
            async for chunk in chunks:
                delta = chunk.choices[0].delta
                masks = getattr(delta, 'masks', None)
                yield delta.content or '', None if masks is None else tuple(MaskResult(**mask) for mask in masks)
                if stopped():
                    return
    finally:
        request.cancel()
