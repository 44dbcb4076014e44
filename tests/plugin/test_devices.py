"""A Citrus-V model is on one device: what 'auto' becomes, and what is refused."""
import pytest
import torch
from swift.arguments import InferArguments
from swift.model import get_default_device_map, get_model_processor
from swift.utils import parse_args

from swift_citrusv.plugin.devices import one_device


@pytest.fixture(scope='module', autouse=True)
def registered():
    from swift_citrusv.plugin.register import register
    register()


def test_auto_takes_one_device(monkeypatch):
    """On a machine with four GPUs, where one process sees all of them or each of four sees its own."""
    monkeypatch.setattr('swift.model.utils.is_torch_cuda_available', lambda: True)
    monkeypatch.setattr('swift.utils.get_device_count', lambda: 4)
    # What ms-swift takes where no flag is given.
    assert get_default_device_map() == 'auto' and one_device('auto') == 'cuda:0'
    for given in ('cuda:3', 'cpu', {'': 1}, None):
        assert one_device(given) is given
    for name, value in {'RANK': '2', 'LOCAL_RANK': '2', 'WORLD_SIZE': '4', 'LOCAL_WORLD_SIZE': '4'}.items():
        monkeypatch.setenv(name, value)
    assert get_default_device_map() == 'cuda:2' and one_device('auto') == 'cuda:2'


def test_a_spread_model_is_refused(tiny_checkpoint, tmp_path):
    """By loading one: SAM2 on another device than the rest."""
    spread = {'model': 'cpu', 'lm_head': 'cpu', 'seg_projector': 'cpu', 'segmenter': 'disk'}
    with pytest.raises(ValueError, match='--device_map spreads the model over cpu, disk, .*NPROC_PER_NODE'):
        get_model_processor(tiny_checkpoint, model_type='citrusv', torch_dtype=torch.float32, device_map=spread,
                            model_kwargs={'offload_folder': str(tmp_path)})  # yapf: disable


def test_auto_loads(tiny_checkpoint):
    """As the flag, on this machine."""
    args = parse_args(InferArguments, ['--model', tiny_checkpoint, '--device_map', 'auto'])[0]
    model, _ = args.get_model_processor()
    devices = {parameter.device for parameter in model.parameters()}
    assert len(devices) == 1
