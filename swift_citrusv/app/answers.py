"""Answers for the page, piece by piece, from an engine that answers several visitors at once."""
import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from PIL import Image
from swift.infer_engine import InferRequest, RequestConfig
from typing import Any

from ..inference.results import MaskResult

# Seconds between two looks whether a visitor still waits for the beginning.
_LOOK_SECONDS = 0.1


async def answer(engine: Any, images: Sequence[Image.Image], messages: Sequence[dict[str, Any]],
                 generation: Mapping[str, Any],
                 stopped: Callable[[], bool]) -> AsyncGenerator[tuple[str, tuple[MaskResult, ...] | None], None]:
    """Answers one request.

    Args:
        engine: Of a `CitrusVPipeline`; `serving` puts requests that wait at the same time into one batch.
        images: RGB, of the whole conversation.
        messages: The conversation, up to the question.
        generation: Fields of ms-swift's `RequestConfig`.
        stopped: Asked now and then: whether nobody wants the rest. Then the generation ends, too.

    Returns:
        Pieces of the text; the last one comes with the masks, unless it was stopped.

    Raises:
        What `serving.answer` does.
    """
    config = RequestConfig(**{**generation, 'stream': True})
    # Not `CitrusVPipeline.stream`: who stops reading it does not stop the generation.
    head = asyncio.ensure_future(engine.infer_async(InferRequest(messages=list(messages), images=list(images)), config))
    try:
        while not head.done():
            if stopped():
                return
            await asyncio.wait({head}, timeout=_LOOK_SECONDS)
        async with aclosing(head.result()) as chunks:
            async for chunk in chunks:
                delta = chunk.choices[0].delta
                masks = getattr(delta, 'masks', None)
                yield delta.content or '', None if masks is None else tuple(MaskResult(**mask) for mask in masks)
                if stopped():
                    return
    finally:
        head.cancel()
