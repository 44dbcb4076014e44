"""Makes the engine of a server wait for a whole batch, or fail."""
import pytest
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from support.serving import Server
from typing import Any


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


@contextmanager
def breaking(server: Server,
             monkeypatch: pytest.MonkeyPatch,
             *,
             poison: str | None = None,
             step: int = 0) -> Iterator[threading.Event]:
    """Makes the model fail from a step of generation on; with `poison`, only if a prompt of the batch contains it.

    If that is not the first step, it fails once the yielded event is set.
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
