"""Keeps a Citrus-V model on one device: ms-swift would spread it over all GPUs that one process sees."""
import os
from typing import Any
from unittest import mock

_REMEDY = ('Give one device (--device_map cuda:0, or CUDA_VISIBLE_DEVICES=0). For more GPUs, start one process on each '
           'with NPROC_PER_NODE=<number of GPUs>.')


def one_device(device_map: Any) -> Any:
    """The `device_map` to load with: the first device of this rank in place of 'auto', and otherwise the same.

    ms-swift takes 'auto' by default where a process sees several GPUs.
    """
    if device_map != 'auto':
        return device_map
    from swift.model.utils import get_default_device_map
    from swift.utils import get_logger

    # With this variable, ms-swift uses one device.
    with mock.patch.dict(os.environ, {'SWIFT_SINGLE_DEVICE_MODE': '1'}):
        device = get_default_device_map()
    get_logger().info(f'Citrus-V runs on one device: device_map auto is {device}.')
    return device


def check_devices(model: Any) -> None:
    """Refuses a loaded model that is spread over several devices.

    Mask inputs and targets stay on the first one, and SAM2 may be split.

    Raises:
        ValueError: It is; the message names the devices.
    """
    devices = {str(device) for device in (getattr(model, 'hf_device_map', None) or {}).values()}
    if len(devices) > 1:
        raise ValueError(f'--device_map spreads the model over {", ".join(sorted(devices))}, but Citrus-V runs on one '
                         f'device. {_REMEDY}')
