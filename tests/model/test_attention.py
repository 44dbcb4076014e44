"""Packed attention without flash-attn: sequence boundaries, masks, vision windows, and registration with Transformers.

There is no CUDA here, so a slow loop over explicit softmaxes replaces the kernel (`tests/runs/test_gpu.py` has the real
one); the arguments of the real one are checked on meta tensors.
"""
import gc
import itertools
import pytest
import torch
from collections.abc import Iterable
from support.closeness import assert_same_update
from support.varlen_reference import softmax_attention
from support.weights import spread
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface, AttentionMaskInterface, StaticCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import create_causal_mask
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from typing import Any

from swift_citrusv.constants import TORCH_VARLEN
from swift_citrusv.errors import CompatibilityError
from swift_citrusv.model import attention
from swift_citrusv.model.attention import varlen_attention_forward, varlen_mask
from swift_citrusv.model.modeling import CitrusVForConditionalGeneration
from swift_citrusv.plugin import register


class Layer(nn.Module):
    """The attributes of an attention layer that attention functions read."""

    def __init__(self, groups: int = 1, causal: bool = True) -> None:
        super().__init__()
        self.num_key_value_groups = groups
        self.is_causal = causal


def _states(num_rows: int, num_tokens: int, heads: tuple[int, int] = (2, 2)) -> list[Tensor]:
    """Queries, keys and values."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(num_rows, num, num_tokens, 8, generator=generator).requires_grad_()
        for num in (heads[0], heads[1], heads[1])
    ]


def _attend(layer: Layer, states: Iterable[Tensor], mask: Tensor | None = None, **known: Any) -> Tensor:
    query, key, value = states
    return varlen_attention_forward(layer, query, key, value, mask, scaling=0.3, **known)[0]


def _boundaries(lengths: tuple[int, ...]) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)


def _positions(lengths: tuple[int, ...]) -> Tensor:
    return torch.cat([torch.arange(length) for length in lengths])


@pytest.mark.parametrize('route', ['kernel', 'sdpa by sequence'])
def test_equals_softmax(route, request):
    """Output and gradients, with boundaries and with positions, for several head counts and sample lengths."""
    if route == 'kernel':
        request.getfixturevalue('kernel')
    all_lengths = [(13, ), (5, 8), (1, 1, 1), (3, 47, 1, 31), (7, ) * 9]
    # Positions belong to text, which is causal; vision has boundaries only.
    ways = [('boundaries', True), ('boundaries', False), ('positions', True)]
    for lengths, heads, (given, causal) in itertools.product(all_lengths, [(4, 2), (3, 3), (6, 1)], ways):
        case = f'{lengths}, {heads} heads, {given}, causal={causal}'
        total = sum(lengths)
        sample = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
        known: dict[str, Any] = {'position_ids': _positions(lengths)[None]}
        if given == 'boundaries':
            known = {'cu_seq_lens_q': _boundaries(lengths), 'is_causal': causal}
        weights = torch.randn(total, heads[0], 8, generator=torch.Generator().manual_seed(1))
        states = _states(1, total, heads)
        allowed = sample[:, None] == sample
        exact = [state.detach().double()[0].transpose(0, 1).requires_grad_() for state in states]
        expected = softmax_attention(exact, allowed.tril() if causal else allowed, 0.3)
        # The vision tower passes `is_causal`, text has it in the layer; the argument takes precedence.
        layer = Layer(heads[0] // heads[1], causal=given == 'positions' or not causal)
        output = _attend(layer, states, sliding_window=None, **known)
        assert output.shape == (1, total, heads[0], 8), case
        (output[0] * weights).sum().backward()
        (expected * weights.double()).sum().backward()
        pairs = [(output[0], expected)]
        pairs += [(state.grad[0].transpose(0, 1), reference.grad) for state, reference in zip(states, exact)]
        for found, wanted in pairs:
            torch.testing.assert_close(
                found.double(), wanted, rtol=1e-5, atol=1e-5, msg=lambda text, case=case: f'{case}: {text}')


def test_several_packs_in_a_batch(kernel):
    states = _states(2, 9)
    # Two rows without padding: packs of 4 + 5 and of 2 + 3 + 4.
    positions = torch.stack([_positions((4, 5)), _positions((2, 3, 4))])
    output = _attend(Layer(), states, position_ids=positions)
    assert kernel.calls == [{'lengths': [4, 5, 2, 3, 4], 'causal': True}]
    for i in range(2):
        row = _attend(Layer(), (state[i:i + 1] for state in states), position_ids=positions[i:i + 1])
        torch.testing.assert_close(output[i:i + 1], row)


@pytest.mark.parametrize('case', ['mask', 'one sample', 'no boundaries', 'cache', 'whole rows'])
def test_other_batches_use_sdpa(case, monkeypatch):
    monkeypatch.setattr(attention, 'kernel_refusal', lambda *args: None)
    monkeypatch.setattr(attention, 'varlen_attn', None)
    query, key, value = _states(2 if case == 'whole rows' else 1, 6, (4, 2))
    mask, known = None, {}
    if case == 'mask':
        # It decides alone.
        mask, known = torch.eye(6, dtype=torch.bool)[None, None], {'cu_seq_lens_q': _boundaries((2, 4))}
    elif case == 'one sample':
        known = {'cu_seq_lens_q': _boundaries((6, ))}
    elif case == 'cache':
        query, known = query[:, :, -1:], {'position_ids': torch.tensor([[5]])}
    elif case == 'whole rows':
        known = {'position_ids': torch.arange(6).repeat(2, 1)}
    output = _attend(Layer(2), (query, key, value), mask, **known)
    assert torch.equal(output, sdpa_attention_forward(Layer(2), query, key, value, mask, scaling=0.3)[0])


def test_boundaries_that_do_not_fit_are_errors():
    query, key, value = _states(1, 6)
    with pytest.raises(ValueError, match='2 samples of 7 tokens, but the batch has 1 x 6'):
        _attend(Layer(), (query, key, value), cu_seq_lens_q=_boundaries((3, 4)))
    with pytest.raises(ValueError, match='A pack of 4 tokens is combined with a cache, which gives 6 keys'):
        _attend(Layer(), (query[:, :, :4], key, value), cu_seq_lens_q=_boundaries((2, 2)))


def test_boundaries_are_read_once_and_freed(monkeypatch):
    reads = []
    to_list = Tensor.tolist

    def counted(self):
        reads.append(self.shape)
        return to_list(self)

    monkeypatch.setattr(Tensor, 'tolist', counted)
    states, boundaries, positions = _states(1, 6), _boundaries((2, 4)), _positions((2, 4))[None]
    gc.collect()
    before = len(attention._LENGTHS), len(attention._CU_SEQLENS)
    for _ in range(3):
        _attend(Layer(), states, cu_seq_lens_q=boundaries)
        _attend(Layer(), states, position_ids=positions)
    assert reads == [(3, ), (3, )]
    del boundaries, positions
    gc.collect()
    assert (len(attention._LENGTHS), len(attention._CU_SEQLENS)) == before


def test_the_real_kernel_accepts_the_arguments(monkeypatch):
    monkeypatch.setattr(attention, 'kernel_refusal', lambda *args: None)
    # A meta tensor has no numbers, and its device no autocast.
    monkeypatch.setattr(attention, '_lengths', lambda boundaries: (5, 8))
    monkeypatch.setattr(attention, '_compute_dtype', lambda query, value: value.dtype)
    boundaries = torch.empty(3, dtype=torch.int32, device='meta')
    for heads, causal in (((4, 2), True), ((2, 2), False)):
        states = [state.detach().to('meta', torch.bfloat16).requires_grad_() for state in _states(1, 13, heads)]
        output = _attend(Layer(heads[0] // heads[1], causal), states, cu_seq_lens_q=boundaries)
        assert output.shape == (1, 13, heads[0], 8) and output.dtype == torch.bfloat16
        assert 'varlen_attn' in type(output.grad_fn.next_functions[0][0]).__name__
        output.sum().backward()
        assert [state.grad.shape for state in states] == [state.shape for state in states]


def test_autocast_type_goes_to_the_kernel(kernel):
    query, key, value = _states(1, 6)
    with torch.autocast('cpu', torch.bfloat16):
        # As behind rotary embeddings in float32.
        output = _attend(Layer(), (query, key, value.bfloat16()), cu_seq_lens_q=_boundaries((2, 4)))
    assert output.dtype == torch.bfloat16 and len(kernel.calls) == 1


def _model(tiny_checkpoint: str, attn_implementation: str) -> CitrusVForConditionalGeneration:
    model = CitrusVForConditionalGeneration.from_pretrained(tiny_checkpoint, attn_implementation=attn_implementation)
    spread(model, 1)
    return model.train()


def test_mask_is_sdpas_own_but_for_packs(tiny_checkpoint):
    ours = _model(tiny_checkpoint, TORCH_VARLEN).config.text_config
    sdpa = _model(tiny_checkpoint, 'sdpa').config.text_config
    embeds = torch.zeros(2, 6, ours.hidden_size)
    positions = _positions((2, 4)).repeat(2, 1)
    assert create_causal_mask(sdpa, embeds, None, None, positions) is not None
    assert create_causal_mask(ours, embeds, None, None, positions) is None
    padding = torch.tensor([[1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1]])
    static = StaticCache(config=ours, max_cache_len=9)
    for arguments in ((padding, None), (torch.ones(2, 6), None), (None, static), (torch.ones(2, 9), static)):
        expected = create_causal_mask(sdpa, embeds, *arguments)
        found = create_causal_mask(ours, embeds, *arguments)
        assert (found is None) == (expected is None)
        assert found is None or torch.equal(found, expected)
    assert varlen_mask(batch_size=1, q_length=6, kv_length=6, local_size=4, allow_is_causal_skip=False) is not None


@pytest.mark.parametrize('side', ['left', 'right'])
def test_padded_batches_and_generation_as_in_sdpa(side, tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(attention, 'kernel_refusal', lambda *args: None)
    monkeypatch.setattr(attention, 'varlen_attn', None)
    ids = torch.randint(300, 400, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9) < torch.tensor([[9], [4], [6]])
    mask = (mask.flip(1) if side == 'left' else mask).long()
    results = []
    for attn_impl in ('sdpa', TORCH_VARLEN):
        model = _model(tiny_checkpoint, attn_impl).eval()
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask).logits[mask.bool()]
            answer = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
        results.append((logits, answer))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.num_elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result, ):
            if isinstance(tensor, Tensor):
                self.num_elements = max(self.num_elements, tensor.numel())
        return result


@pytest.mark.parametrize(('attn_impl', 'makes_it'), [(TORCH_VARLEN, False), ('sdpa', True)])
def test_no_square_mask(attn_impl, makes_it, tiny_checkpoint, kernel):
    model = _model(tiny_checkpoint, attn_impl)
    lengths = (60, ) * 20
    total = sum(lengths)
    positions = _positions(lengths).expand(4, 1, -1)
    ids = torch.randint(300, 400, (1, total), generator=torch.Generator().manual_seed(0))
    with LargestTensor() as largest:
        hidden = model.model(
            input_ids=ids, position_ids=positions, use_cache=False,
            cu_seq_lens_q=_boundaries(lengths)).last_hidden_state
        hidden.sum().backward()
    assert (largest.num_elements >= total**2) == makes_it
    assert len(kernel.calls) == (0 if makes_it else 2)


def _pixels(grid: Tensor) -> Tensor:
    return torch.randn(int(grid.prod(-1).sum()), 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('route', ['kernel', 'sdpa by sequence'])
def test_windows_of_images_and_frames(route, tiny_checkpoint, request):
    slow = request.getfixturevalue('kernel') if route == 'kernel' else None
    # In patches: several windows, with remainders at both edges; one window; a video of three frames.
    grid = torch.tensor([[1, 20, 12], [1, 4, 6], [3, 8, 18]])
    pixels = _pixels(grid)
    results = []
    for attn_impl in ('sdpa', TORCH_VARLEN):
        vision = _model(tiny_checkpoint, attn_impl).model.visual
        output = vision(pixels, grid_thw=grid).pooler_output
        (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
        results.append((output, {name: p.grad for name, p in vision.named_parameters()}))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-5, atol=1e-5)
    assert_same_update(results[1][1], results[0][1])
    if slow is not None:
        # Each layer once: windows of 8 x 8 patches, then whole images and frames.
        assert [call['lengths'] for call in slow.calls] == [[64, 32, 64, 32, 32, 16, 24, *(64, 64, 16) * 3],
                                                            [240, 24, 144, 144, 144]]
        assert not any(call['causal'] for call in slow.calls)


def test_a_changed_call_of_the_layer_is_an_error(tiny_checkpoint):
    layer = _model(tiny_checkpoint, TORCH_VARLEN).model.visual.blocks[0].attn
    with pytest.raises(CompatibilityError, match='expects the patches first, and cu_seqlens by name'):
        layer(torch.zeros(4, 64), torch.tensor([0, 4]))


def test_registered_for_models_without_ours(tiny_checkpoint, monkeypatch):
    config = CitrusVForConditionalGeneration.config_class.from_pretrained(tiny_checkpoint)
    config._attn_implementation = TORCH_VARLEN
    for interface in (AttentionInterface, AttentionMaskInterface):
        monkeypatch.delitem(interface._global_mapping, TORCH_VARLEN)
    # As in a spawned DataLoader worker, whose template makes a Qwen2.5-VL for its positions.
    with torch.device('meta'), pytest.raises(ValueError, match='not supported'):
        Qwen2_5_VLModel(config)
    register.register_deferred_attention()
    with torch.device('meta'):
        Qwen2_5_VLModel(config)
    assert AttentionInterface()[TORCH_VARLEN].resolve() is varlen_attention_forward
    assert AttentionMaskInterface()[TORCH_VARLEN].resolve() is varlen_mask


def test_saved_configuration_does_not_name_the_attention(tiny_checkpoint, tmp_path):
    model = _model(tiny_checkpoint, TORCH_VARLEN)
    model.save_pretrained(tmp_path)
    assert TORCH_VARLEN not in (tmp_path / 'config.json').read_text()
    again = CitrusVForConditionalGeneration.from_pretrained(tmp_path)
    assert again.config.text_config._attn_implementation == 'sdpa'
