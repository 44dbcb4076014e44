"""SAM2's networks on the meta device, built once in a process: sam2's own from its YAML files, and ours."""
import torch
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from support.published_checkpoint import sam2_of
from torch import nn
from unittest import mock

from swift_citrusv.model.segmenter import Segmenter


@contextmanager
def meta_device() -> Iterator[None]:
    """The meta device, for SAM2 too, which reads numbers while it is built."""
    linspace = torch.linspace

    @wraps(linspace)
    def on_cpu(*args, **kwargs):
        return linspace(*args, **{**kwargs, 'device': 'cpu'})

    with mock.patch.object(torch, 'linspace', on_cpu), torch.device('meta'):
        yield


@lru_cache
def sam2_on_meta(preset: str) -> nn.Module:
    """SAM2 as its package builds it, with the modules for video."""
    with meta_device():
        return sam2_of(preset)


@lru_cache
def segmenter_on_meta(preset: str) -> Segmenter:
    with torch.device('meta'):
        return Segmenter(preset)
