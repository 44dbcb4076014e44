"""Which attention a run over packs gets, and the reason in its log."""
import pytest
import torch
from transformers import Qwen2_5_VLConfig

from swift_citrusv.constants import TORCH_VARLEN
from swift_citrusv.model.attention import choose_attention, head_sizes, kernel_refusal

HEADS = {'language model': 128, 'vision tower': 80}
A100 = (8, 0)

# (requested, capability, dtype, heads, flash-attn installed, chosen)
CHOICES = [
    (None, A100, torch.bfloat16, HEADS, True, 'flash_attention_2'),
    (None, A100, torch.bfloat16, HEADS, False, TORCH_VARLEN),
    (None, (9, 0), torch.float16, HEADS, False, TORCH_VARLEN),
    (None, A100, torch.float32, HEADS, True, TORCH_VARLEN),
    (None, A100, torch.float32, HEADS, False, TORCH_VARLEN),
    (None, (7, 5), torch.float16, HEADS, False, TORCH_VARLEN),
    (None, (7, 5), torch.float16, HEADS, True, TORCH_VARLEN),
    (None, A100, torch.bfloat16, HEADS | {
        'vision tower': 20
    }, False, TORCH_VARLEN),
    (None, A100, torch.bfloat16, HEADS | {
        'language model': 264
    }, False, TORCH_VARLEN),
    (None, None, torch.float32, HEADS, False, TORCH_VARLEN),
    (None, None, torch.bfloat16, HEADS, True, TORCH_VARLEN),
    ('sdpa', A100, torch.bfloat16, HEADS, True, 'sdpa'),
    ('eager', None, torch.float32, HEADS, False, 'eager'),
    ('flash_attn', A100, torch.bfloat16, HEADS, True, 'flash_attn'),
    ('flash_attention_3', A100, torch.bfloat16, HEADS, False, 'flash_attention_3'),
    (TORCH_VARLEN, A100, torch.bfloat16, HEADS, True, TORCH_VARLEN),
]


def test_choice():
    for case in CHOICES:
        requested, capability, dtype, heads, flash_attn, expected = case
        choice = choose_attention(
            requested, feature='packing', capability=capability, dtype=dtype, heads=heads, flash_attn=flash_attn)
        assert choice.attn_impl == expected, case
        assert choice.reason.startswith('attention: ') and '; vision tower: ' in choice.reason, case


def test_an_attention_that_mixes_samples_is_refused():
    with pytest.raises(ValueError, match='flex_attention cannot separate the samples of a pack'):
        choose_attention(
            'flex_attention', feature='packing', capability=A100, dtype=torch.bfloat16, heads=HEADS, flash_attn=False)


# (capability, dtype, heads, a part of the reason)
WITHOUT_KERNEL = [
    (None, torch.bfloat16, HEADS, 'there is no CUDA device'),
    (A100, torch.float32, HEADS, 'the run computes in float32'),
    ((7, 5), torch.float16, HEADS, 'compute capability 7.5'),
    (A100, torch.bfloat16, {
        'vision tower': 20
    }, 'a head of the vision tower has 20 channels'),
]


@pytest.mark.parametrize('requested', [None, TORCH_VARLEN])
def test_without_the_kernel_sample_by_sample(requested):
    for case in WITHOUT_KERNEL:
        capability, dtype, heads, reason = case
        choice = choose_attention(
            requested, feature='packing', capability=capability, dtype=dtype, heads=heads, flash_attn=False)
        assert choice.attn_impl == TORCH_VARLEN, case
        assert 'sdpa, sample by sample' in choice.reason and reason in choice.reason, case


def test_the_reason_names_attention_and_cause():
    for capability, reason in (
        (A100, 'attention: torch varlen (packing on CUDA, flash-attn is not installed); vision tower: torch varlen '
         'over windows'),
        (None, 'attention: sdpa, sample by sample (packing; no varlen kernel, because there is no CUDA device); vision '
         'tower: sdpa, window by window'),
    ):
        choice = choose_attention(
            None, feature='packing', capability=capability, dtype=torch.bfloat16, heads=HEADS, flash_attn=False)
        assert choice.reason == reason, capability


def test_head_sizes_of_the_released_model():
    # Qwen2.5-VL-7B: 28 heads over 3584 channels, 16 over 1280 in the vision tower.
    config = Qwen2_5_VLConfig(
        text_config={
            'hidden_size': 3584,
            'num_attention_heads': 28
        },
        vision_config={
            'hidden_size': 1280,
            'num_heads': 16
        })
    assert head_sizes(config) == HEADS and kernel_refusal(A100, torch.bfloat16, HEADS) is None
