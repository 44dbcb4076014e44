"""What all tests share: no hub, few threads, and `gpu` tests skipped where there is no CUDA."""
import os
import pytest

# Before anything imports huggingface_hub or torch. `make test` says the same; this is for a bare `pytest`.
for _name in ('HF_HUB_OFFLINE', 'TRANSFORMERS_OFFLINE', 'HF_DATASETS_OFFLINE'):
    os.environ.setdefault(_name, '1')
os.environ.setdefault('OMP_NUM_THREADS', '1')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu_items = [item for item in items if item.get_closest_marker('gpu')]
    if not gpu_items:
        return
    import torch  # Seconds; only for those who collected a gpu test.
    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason='needs CUDA'))
