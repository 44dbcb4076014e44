"""What needs CUDA: packs in bfloat16, with flash-attn where it is installed and sdpa elsewhere."""
import math
import pytest
from rows import Maker, write_jsonl
from swift_run import run_sft

CUDA = ['--use_cpu', 'false', '--torch_dtype', 'bfloat16', '--bf16', 'true']


@pytest.mark.gpu
@pytest.mark.parametrize('checkpointing', ['true', 'false'])
def test_packed_steps_in_bfloat16(checkpointing, tiny_checkpoint, tmp_path):
    dataset = write_jsonl(tmp_path / 'train.jsonl', Maker(tmp_path / 'images').every_kind())
    watch = run_sft('--model', tiny_checkpoint, '--model_type', 'citrusv', '--dataset', dataset, '--output_dir',
                    str(tmp_path / 'out'), '--tuner_type', 'full', '--packing', 'true', '--packing_length', '700',
                    '--num_train_epochs', '2', '--gradient_accumulation_steps', '1', '--gradient_checkpointing',
                    checkpointing, *CUDA)
    losses = [log['loss'] for log in watch.logs if 'loss' in log]
    assert watch.num_steps == len(losses) >= 4 and all(math.isfinite(loss) for loss in losses)
    assert all(gradient.isfinite().all() for gradient in watch.gradients.values())
    assert any(name.startswith('segmenter') and gradient.abs().max() > 0 for name, gradient in watch.gradients.items())
