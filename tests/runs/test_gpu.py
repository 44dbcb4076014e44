"""Tests that need CUDA: packs in bfloat16, with torch's varlen kernel and with the attention chosen by default.

The allowed error of bfloat16 is measured in the same test: packs must not be further from float32 than the same rows
unpacked in bfloat16, whose error is only rounding.
"""
import math
import pytest
import torch
import torch.nn.functional as F
from support.rows import Maker, write_jsonl
from support.swift_run import run_sft
from torch import Tensor, nn

from swift_citrusv.constants import TORCH_VARLEN
from swift_citrusv.model import attention

CUDA = ['--use_cpu', 'false', '--torch_dtype', 'bfloat16', '--bf16', 'true']
FLOAT32 = ['--use_cpu', 'false', '--torch_dtype', 'float32', '--bf16', 'false']


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


def _difference(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference relative to that of `expected`."""
    return float((found.float() - expected.float()).norm() / expected.float().norm())


class Layer(nn.Module):
    """The attributes of an attention layer that attention functions read."""

    def __init__(self, groups: int, causal: bool) -> None:
        super().__init__()
        self.num_key_value_groups = groups
        self.is_causal = causal


# Those of Qwen2.5-VL-7B's language model and vision tower, and of the tiny model's.
@pytest.mark.gpu
@pytest.mark.parametrize(('num_heads', 'num_key_heads', 'head_size', 'causal'), [
    (28, 4, 128, True),
    (16, 16, 80, False),
    (4, 2, 32, True),
    (4, 4, 16, False),
])
def test_varlen_kernel_against_float32(num_heads, num_key_heads, head_size, causal, device='cuda'):
    lengths = [3, 47, 1, 31, 64, 300]
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, num, sum(lengths), head_size) for num in (num_heads, num_key_heads, num_key_heads)]
    # Both start from the same values.
    half = [torch.randn(shape, generator=generator).to(device, torch.bfloat16).requires_grad_() for shape in shapes]
    exact = [state.detach().float().requires_grad_() for state in half]
    weights = torch.randn((1, sum(lengths), num_heads, head_size), generator=generator).to(device)
    borders = F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).to(device, torch.int32)
    assert attention.kernel_refusal(attention.cuda_capability(), torch.bfloat16, {'layer': head_size}) is None
    query, key, value = half
    output, _ = attention.varlen_attention_forward(
        Layer(num_heads // num_key_heads, causal),
        query,
        key,
        value,
        None,
        scaling=head_size**-0.5,
        cu_seq_lens_q=borders)
    (output * weights).sum().backward()
    parts = [
        F.scaled_dot_product_attention(query, key, value, is_causal=causal, enable_gqa=num_heads != num_key_heads)
        for query, key, value in zip(*(state.split(lengths, dim=2) for state in exact))
    ]
    expected = torch.cat(parts, dim=2).transpose(1, 2)
    (expected * weights).sum().backward()
    # bfloat16 keeps 8 bits; sums of many products, each rounded, come to about one unit, gradients to two.
    assert _difference(output, expected) <= 2**-7
    for state, reference in zip(half, exact):
        assert _difference(state.grad, reference.grad) <= 2**-6


@pytest.mark.gpu
def test_packs_through_varlen_as_exact_as_rows(tiny_checkpoint, tmp_path, monkeypatch):
    maker = Maker(tmp_path / 'images')
    # Some images larger than a window of the vision tower.
    rows = maker.every_kind() + [
        maker.row('<image>Segment it.', 'It: [SEG].', images=[maker.image(168, 224)], masks=[maker.mask(168, 224)]),
        maker.row('<image><image>Compare.', 'They differ.', images=[maker.image(84, 308),
                                                                    maker.image(252, 140)]),
    ]
    dataset = write_jsonl(tmp_path / 'train.jsonl', rows)
    causal_calls = set()
    kernel = attention._varlen_kernel

    def watched(*args):
        causal_calls.add(args[-2])
        return kernel(*args)

    monkeypatch.setattr(attention, '_varlen_kernel', watched)

    def gradients(name: str, *arguments: str) -> dict[str, Tensor]:
        watch = run_sft('--model', tiny_checkpoint, '--model_type', 'citrusv', '--dataset', dataset, '--output_dir',
                        str(tmp_path / name), '--tuner_type', 'full', '--freeze_vit', 'false', '--freeze_aligner',
                        'false', '--num_train_epochs', '1', '--model_kwargs', '{"pack_images": 32}', *arguments)
        assert watch.num_steps == 1
        return watch.gradients

    unpacked = ['--per_device_train_batch_size', '1', '--gradient_accumulation_steps', '14', '--attn_impl', 'sdpa']
    packed = [
        '--packing', 'true', '--packing_length', '1024', '--gradient_accumulation_steps', '14', '--attn_impl',
        TORCH_VARLEN
    ]
    exact = gradients('float32', *unpacked, *FLOAT32)
    rounded = gradients('unpacked', *unpacked, *CUDA)
    assert not causal_calls
    found = gradients('packed', *packed, *CUDA)
    assert causal_calls == {True, False}
    assert found.keys() == exact.keys()
    for part in ('segmenter', 'seg_projector', 'model.visual', 'model.language_model'):
        keys = [key for key in exact if key.startswith(part)]
        reference, row, pack = (
            torch.cat([run[key].flatten().float() for key in keys]) for run in (exact, rounded, found))
        assert _difference(pack, reference) <= 2 * _difference(row, reference), part
