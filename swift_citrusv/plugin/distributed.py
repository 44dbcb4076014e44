"""The patches for training on several ranks with DeepSpeed or FSDP2.

Replaces `SftArguments._init_deepspeed` and `SftArguments._init_fsdp` in `swift.arguments`; and of accelerate
`Accelerator._prepare_deepspeed`, `Accelerator._prepare_fsdp2` and `AcceleratorState.__init__`.
"""
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from ..constants import MODEL_TYPE
from .wrapping import wrap

# The full name, as in DeepSpeed's configuration.
_SEGMENTER = 'swift_citrusv.model.segmenter.Segmenter'


def patch_distributed() -> None:
    """Supports DeepSpeed and FSDP2 for a model with random buffers and ranks without masks, on CPUs too."""
    from swift.arguments import SftArguments

    # Why: it reads the DeepSpeed configuration, before the model is loaded under it.
    def init_deepspeed(original):

        def patched(self):
            original(self)
            if self.model_type == MODEL_TYPE and self.deepspeed:
                _patch_accelerator()
                if self.deepspeed.get('zero_optimization', {}).get('stage') == 3:
                    _prepare_zero3(self)

        return patched

    # Why: as above, for FSDP.
    def init_fsdp(original):

        def patched(self):
            original(self)
            if self.model_type == MODEL_TYPE and self.fsdp:
                _patch_accelerator()
                if self.use_cpu:
                    _allow_fsdp_on_cpu()

        return patched

    wrap(SftArguments, '_init_deepspeed', ('self', ), init_deepspeed)
    wrap(SftArguments, '_init_fsdp', ('self', ), init_fsdp)


def _prepare_zero3(args) -> None:
    from swift.utils import get_dist_setting

    # ZeRO-3 gathers the weights of a module when it runs, layer by layer. The ranks of a step have different numbers of
    # images and masks, and so call SAM2's layers differently often. As a leaf module, the segmenter is gathered once.
    leaves = args.deepspeed['zero_optimization'].setdefault('leaf_module', {})
    leaves['classes'] = [*leaves.get('classes', []), _SEGMENTER]
    if args.use_cpu and get_dist_setting()[2] > 1:
        # With --use_cpu Transformers starts torch's process group, but not `deepspeed.comm`. Loading the model would
        # then get a world size of 1 from it.
        from deepspeed import comm
        comm.init_distributed(
            dist_backend=args.ddp_backend or 'gloo',
            auto_mpi_discovery=False,
            verbose=False,
            timeout=timedelta(seconds=args.ddp_timeout))


def _patch_accelerator() -> None:
    from accelerate import Accelerator

    # Why: DeepSpeed broadcasts the parameters of rank 0, but not the buffers. With random SAM2 weights, each rank would
    # have its own positional encoding.
    def prepare_deepspeed(original):

        def patched(self, *args):
            for module, name in _buffers(args):
                module.register_buffer(name, _broadcast(getattr(module, name), self.device))
            return original(self, *args)

        return patched

    # Why: as above; and with `cpu_ram_efficient_loading` it treats everything in the state dict as sharded parameters.
    def prepare_fsdp2(original):

        def patched(self, *args):
            with _buffers_outside_state_dict(args, self.device):
                return original(self, *args)

        return patched

    wrap(Accelerator, '_prepare_deepspeed', ('self', 'args'), prepare_deepspeed)
    wrap(Accelerator, '_prepare_fsdp2', ('self', 'args'), prepare_fsdp2)


def _buffers(prepared: Sequence[Any]) -> list[tuple[Any, str]]:
    """The buffers in the models' state dicts, as pairs of module and name."""
    from torch import nn
    return [(module, name) for model in prepared if isinstance(model, nn.Module) for module in model.modules()
            for name, _ in module.named_buffers(recurse=False) if name not in module._non_persistent_buffers_set]


def _broadcast(buffer, device):
    """Rank 0's values of the buffer [...], on `device`: NCCL does not send from a CPU."""
    import torch.distributed as dist
    value = buffer.to(device)
    if dist.is_initialized():
        dist.broadcast(value, src=0)
    return value


@contextmanager
def _buffers_outside_state_dict(prepared: Sequence[Any], device) -> Iterator[None]:
    """Gives every rank the buffers of rank 0, and keeps them out of the models' state dicts inside the context."""
    buffers = _buffers(prepared)
    for module, name in buffers:
        module.register_buffer(name, _broadcast(getattr(module, name), device), persistent=False)
    try:
        yield
    finally:
        for module, name in buffers:
            module._non_persistent_buffers_set.discard(name)


def _allow_fsdp_on_cpu() -> None:
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    # Why: it applies --fsdp to every kind of device except CPUs, and silently uses DDP there.
    def accelerator_state(original):

        def patched(self, *args, fsdp_plugin=None, **kwargs):
            original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
            if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
                self.distributed_type = PartialState._shared_state['distributed_type'] = DistributedType.FSDP
                self.fsdp_plugin = fsdp_plugin
                if self._mixed_precision != 'no':
                    fsdp_plugin.set_mixed_precision(self._mixed_precision)

        return patched

    wrap(AcceleratorState, '__init__', ('self', 'fsdp_plugin'), accelerator_state)
