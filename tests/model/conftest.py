"""Shared fixtures: a slow varlen kernel, a batch for the model, and published checkpoints."""
import copy
import pytest
import shutil
from pathlib import Path
from support.model_rows import every_kind_of_row
from support.published_checkpoint import tiny_published, write_published
from support.varlen_reference import SlowKernel
from support.weights import spread
from transformers import AutoProcessor
from typing import Any

from swift_citrusv.model import attention
from swift_citrusv.model.convert import convert_checkpoint
from swift_citrusv.model.modeling import CitrusVForConditionalGeneration


@pytest.fixture
def kernel(monkeypatch) -> SlowKernel:
    """The slow kernel in place of torch's, as if it could run here."""
    slow = SlowKernel()
    monkeypatch.setattr(attention, 'varlen_attn', slow)
    monkeypatch.setattr(attention, 'kernel_refusal', lambda *args: None)
    return slow


# ---- the model


@pytest.fixture(scope='session')
def loaded(tiny_checkpoint) -> CitrusVForConditionalGeneration:
    """A tiny model with weights that let every input show in the result; not to be changed."""
    model = CitrusVForConditionalGeneration.from_pretrained(tiny_checkpoint)
    spread(model, 1)
    return model


@pytest.fixture
def model(loaded) -> CitrusVForConditionalGeneration:
    """A copy of `loaded` in evaluation mode."""
    return copy.deepcopy(loaded).eval()


@pytest.fixture(scope='session')
def processor(tiny_checkpoint):
    return AutoProcessor.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope='session')
def rows(processor) -> list[dict[str, Any]]:
    return every_kind_of_row(processor)


# ---- published checkpoints


@pytest.fixture(scope='session')
def published(tiny_mllm, tmp_path_factory) -> Path:
    """One with the plain projector, in one file; not to be written into."""
    return write_published(tmp_path_factory.mktemp('published') / 'plain', tiny_published(tiny_mllm, False), tiny_mllm)


@pytest.fixture(scope='session')
def converted(published, tmp_path_factory) -> Path:
    """`published` after conversion; not to be written into."""
    output = tmp_path_factory.mktemp('converted') / 'plain'
    convert_checkpoint(str(published), str(output))
    return output


@pytest.fixture
def broken(published, tmp_path) -> Path:
    """A copy of `published` to break."""
    shutil.copytree(published, tmp_path / 'broken')
    return tmp_path / 'broken'
