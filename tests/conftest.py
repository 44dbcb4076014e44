"""What all tests share: no hub, few threads, and `gpu` tests skipped where there is no CUDA."""
import os
import pytest
import sys
from collections.abc import Iterator
from typing import Any

# Before anything imports huggingface_hub or torch. `make test` sets the same; this is for a bare `pytest`.
for _name in ('HF_HUB_OFFLINE', 'TRANSFORMERS_OFFLINE', 'HF_DATASETS_OFFLINE'):
    os.environ.setdefault(_name, '1')
os.environ.setdefault('OMP_NUM_THREADS', '1')


def pytest_configure() -> None:
    """Keeps absl's log handler, which libraries of ms-swift install, from closing pytest's capture of stderr.

    It holds the stderr of its import, and closes it when uvicorn configures logging while `capsys` has replaced stderr;
    every later test of the process would fail.
    """
    from absl import logging
    logging.get_absl_handler().python_handler.stream = sys.__stderr__


# Folders with long files. Workers take whole files in this order; a long one at the end would leave the others idle.
_FIRST = ('runs', 'project', 'cli', 'plugin', 'app')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _FIRST.index(item.path.parent.name) if item.path.parent.name in _FIRST else len(_FIRST))
    gpu_items = [item for item in items if item.get_closest_marker('gpu')]
    if not gpu_items:
        return
    import torch  # Seconds; only for those who collected a gpu test.
    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason='needs CUDA'))


@pytest.fixture(autouse=True)
def own_row_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgets the files of other tests, with which a file of this test could share its folder and name."""
    monkeypatch.setattr('swift_citrusv.rows.names._owners', {})


@pytest.fixture(autouse=True)
def own_environ() -> Iterator[None]:
    """Removes after each test what ms-swift wrote into the environment, such as settings of `--model_kwargs`."""
    environ, before = os.environ, dict(os.environ)
    yield
    # `datasets.map` with processes replaces it by a copy, which `monkeypatch` would never restore.
    os.environ = environ
    environ.clear()
    environ.update(before)


@pytest.fixture(scope='module')
def browser() -> Iterator[Any]:
    """A headless browser, for tests marked `in_browser`."""
    from support.page import chromium
    with chromium() as browser:
        yield browser


# ---- Tiny checkpoints, built once for each worker; tests must not write into them. ----


@pytest.fixture(scope='session')
def tiny_mllm(tmp_path_factory) -> str:
    """A plain tiny Qwen2.5-VL directory."""
    from swift_citrusv.model.tiny import build_tiny_mllm
    folder = str(tmp_path_factory.mktemp('tiny') / 'mllm')
    build_tiny_mllm(folder)
    return folder


@pytest.fixture(scope='session')
def tiny_checkpoint(tiny_mllm, tmp_path_factory) -> str:
    """A tiny Citrus-V directory: `tiny_mllm` and the SAM2 preset 'tiny', random weights."""
    from swift_citrusv.model.build import build_checkpoint
    folder = str(tmp_path_factory.mktemp('tiny') / 'citrusv')
    build_checkpoint(tiny_mllm, 'tiny', folder)
    return folder


@pytest.fixture(scope='session')
def talkative_checkpoint(tiny_checkpoint, tmp_path_factory) -> str:
    """A tiny Citrus-V directory whose answers have words and `[SEG]`s: see `talkative`."""
    from support.talkative import build_talkative
    return build_talkative(tiny_checkpoint, str(tmp_path_factory.mktemp('tiny') / 'talkative'))


@pytest.fixture(scope='session')
def make_template(tiny_checkpoint):
    """Makes templates of `tiny_checkpoint`: `make_template(max_length, mode, **settings of get_template)`."""
    from swift.model import get_model_processor
    from swift.template import get_template

    from swift_citrusv.plugin.register import register
    register()
    _, processor = get_model_processor(tiny_checkpoint, model_type='citrusv', load_model=False)

    def make(max_length: int | None = None, mode: str = 'train', **settings):
        template = get_template(processor, max_length=max_length, **settings)
        template.set_mode(mode)
        return template

    return make
