"""The scripts in `examples/` run as they stand, with a tiny model on the CPU."""
import os
import pytest
import subprocess
import sys
from pathlib import Path
from support.rows import Maker, write_jsonl

EXAMPLES = Path(__file__).resolve().parents[2] / 'examples'
# One CPU process instead of eight GPUs; flags after a script's name override its own.
LAPTOP = ('--use_cpu true --ddp_backend gloo --torch_dtype float32 --fp16 false --bf16 false --max_steps 1 '
          '--dataset_num_proc 1 --dataloader_num_workers 0 --gradient_accumulation_steps 1 --report_to none '
          '--max_length 1024 --packing_length 300').split()
# script -> its model: 'citrusv' a Citrus-V directory, 'plain' a Qwen2.5-VL, 'built' one that the script builds
RECIPES = {
    'stage1.sh': 'citrusv',
    'stage2.sh': 'citrusv',
    'stage3.sh': 'citrusv',
    'stage4.sh': 'citrusv',
    'lora.sh': 'plain',
    'single_gpu.sh': 'built',
}


def test_every_recipe_is_run():
    assert {path.name for path in EXAMPLES.glob('*.sh')} == set(RECIPES)


# The stage files are trained by `tests/runs/test_stages.py`, ZeRO-2 by `test_distributed.py`, LoRA and its merge by
# `test_lora.py`.
@pytest.mark.parametrize(
    'recipe', [pytest.param(name, marks=() if name == 'single_gpu.sh' else pytest.mark.slow) for name in RECIPES])
def test_recipe(recipe, tiny_checkpoint, tiny_mllm, tmp_path):
    rows = [row for row in Maker(tmp_path / 'images').every_kind() if 'videos' not in row]
    model = {'citrusv': tiny_checkpoint, 'plain': tiny_mllm, 'built': str(tmp_path / 'model')}[RECIPES[recipe]]
    environment = {
        **os.environ,
        'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
        'MODEL': model,
        'MLLM': tiny_mllm,
        'SAM2': 'tiny',
        'DATASET': write_jsonl(tmp_path / 'train.jsonl', rows),
        'OUTPUT': str(tmp_path / 'out'),
        # Stage 3 mixes text, images and masks: two ranks under ZeRO-2.
        'NPROC_PER_NODE': '2' if recipe == 'stage3.sh' else '1',
    }
    done = subprocess.run(['bash', str(EXAMPLES / recipe), *LAPTOP],
                          env=environment,
                          capture_output=True,
                          text=True,
                          errors='replace',
                          timeout=280)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert list((tmp_path / 'out').glob('checkpoint-1/*.safetensors'))
    if recipe == 'lora.sh':
        assert (tmp_path / 'out' / 'merged' / 'model.safetensors').exists()
