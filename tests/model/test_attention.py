"""Packed attention without flash-attn: the choice, the borders, the vision windows, and whole packs against sdpa.

There is no CUDA here, so a slow loop over explicit softmaxes stands for the kernel (`tests/test_gpu.py` has the real
one); what the real one takes is checked on meta tensors.
"""
import gc
import itertools
import pytest
import torch
from collections.abc import Iterable, Sequence
from PIL import Image
from support.rows import Maker, write_jsonl
from support.swift_run import run_sft
from support.weights import spread
from swift.arguments import InferArguments
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface, AttentionMaskInterface, Qwen2_5_VLConfig, StaticCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import create_causal_mask
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from types import SimpleNamespace
from typing import Any

from swift_citrusv import CitrusVPipeline
from swift_citrusv.constants import TORCH_VARLEN
from swift_citrusv.errors import CompatibilityError
from swift_citrusv.model import attention
from swift_citrusv.model.attention import (AttentionChoice, choose_attention, head_sizes, kernel_refusal,
                                           varlen_attention_forward, varlen_mask)
from swift_citrusv.model.modeling import CitrusVForConditionalGeneration
from swift_citrusv.plugin import arguments as patches
from swift_citrusv.plugin import register

HEADS = {'language model': 128, 'vision tower': 80}
A100 = (8, 0)


def softmax_attention(states: Sequence[Tensor], allowed: Tensor, scaling: float) -> Tensor:
    """[T, H, D] from queries [T, H, D], keys and values [T, K, D] and allowed bool [T, T], written out."""
    query, key, value = states
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = torch.einsum('thd,shd->hts', query, key) * scaling
    return torch.einsum('hts,shd->thd', scores.masked_fill(~allowed, -torch.inf).softmax(-1), value)


class SlowKernel:
    """Stands for `varlen_attn`: the same arguments, one explicit softmax a stretch."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa):
        lengths = cu_seq_q.diff().tolist()
        assert cu_seq_q.dtype == torch.int32 and torch.equal(cu_seq_q, cu_seq_k)
        assert cu_seq_q[0] == 0 and cu_seq_q[-1] == len(query) == len(key) == len(value)
        assert max_q == max_k == max(lengths) and isinstance(max_q, int)
        assert query.dtype == key.dtype == value.dtype
        assert enable_gqa == (query.shape[1] != key.shape[1]) and window_size in ((-1, -1), (-1, 0))
        self.calls.append({'lengths': lengths, 'causal': window_size == (-1, 0)})
        parts = zip(*(states.split(lengths) for states in (query, key, value)))
        outputs = []
        for part, length in zip(parts, lengths):
            allowed = torch.ones(length, length, dtype=torch.bool)
            outputs.append(softmax_attention(part, allowed.tril() if window_size == (-1, 0) else allowed, scale))
        return torch.cat(outputs)


@pytest.fixture
def kernel(monkeypatch) -> SlowKernel:
    """As if the kernel could run here."""
    slow = SlowKernel()
    monkeypatch.setattr(attention, 'varlen_attn', slow)
    monkeypatch.setattr(attention, 'kernel_refusal', lambda *args: None)
    return slow


# ---- the choice


@pytest.mark.parametrize(('requested', 'capability', 'dtype', 'heads', 'flash_attn', 'expected'), [
    (None, A100, torch.bfloat16, HEADS, True, 'flash_attention_2'),
    (None, A100, torch.bfloat16, HEADS, False, TORCH_VARLEN),
    (None, (9, 0), torch.float16, HEADS, False, TORCH_VARLEN),
    (None, A100, torch.float32, HEADS, True, TORCH_VARLEN),
    (None, A100, torch.float32, HEADS, False, TORCH_VARLEN),
    (None, (7, 5), torch.float16, HEADS, False, TORCH_VARLEN),
    (None, (7, 5), torch.float16, HEADS, True, TORCH_VARLEN),
    (None, A100, torch.bfloat16, {
        'language model': 128,
        'vision tower': 20
    }, False, TORCH_VARLEN),
    (None, A100, torch.bfloat16, {
        'language model': 264,
        'vision tower': 80
    }, False, TORCH_VARLEN),
    (None, None, torch.float32, HEADS, False, TORCH_VARLEN),
    (None, None, torch.bfloat16, HEADS, True, TORCH_VARLEN),
    ('sdpa', A100, torch.bfloat16, HEADS, True, 'sdpa'),
    ('eager', None, torch.float32, HEADS, False, 'eager'),
    ('flash_attn', A100, torch.bfloat16, HEADS, True, 'flash_attn'),
    ('flash_attention_3', A100, torch.bfloat16, HEADS, False, 'flash_attention_3'),
    (TORCH_VARLEN, A100, torch.bfloat16, HEADS, True, TORCH_VARLEN),
])
def test_choice(requested, capability, dtype, heads, flash_attn, expected):
    choice = choose_attention(
        requested, feature='packing', capability=capability, dtype=dtype, heads=heads, flash_attn=flash_attn)
    assert choice.attn_impl == expected
    assert choice.reason.startswith('attention: ') and '; vision tower: ' in choice.reason


def test_choice_refused():
    with pytest.raises(ValueError, match='flex_attention cannot separate the samples of a pack'):
        choose_attention(
            'flex_attention', feature='packing', capability=A100, dtype=torch.bfloat16, heads=HEADS, flash_attn=False)


@pytest.mark.parametrize(('capability', 'dtype', 'heads', 'reason'), [
    (None, torch.bfloat16, HEADS, 'there is no CUDA device'),
    (A100, torch.float32, HEADS, 'the run computes in float32'),
    ((7, 5), torch.float16, HEADS, 'compute capability 7.5'),
    (A100, torch.bfloat16, {
        'vision tower': 20
    }, 'a head of the vision tower has 20 channels'),
])
@pytest.mark.parametrize('requested', [None, TORCH_VARLEN])
def test_without_the_kernel_sample_by_sample(requested, capability, dtype, heads, reason):
    choice = choose_attention(
        requested, feature='packing', capability=capability, dtype=dtype, heads=heads, flash_attn=False)
    assert choice.attn_impl == TORCH_VARLEN
    assert 'sdpa, sample by sample' in choice.reason and reason in choice.reason


@pytest.mark.parametrize(('capability', 'reason'), [
    (A100, 'attention: torch varlen (packing on CUDA, flash-attn is not installed); vision tower: torch varlen over '
     'windows'),
    (None, 'attention: sdpa, sample by sample (packing; no varlen kernel, because there is no CUDA device); vision '
     'tower: sdpa, window by window'),
])
def test_reason_says_which_and_why(capability, reason):
    choice = choose_attention(
        None, feature='packing', capability=capability, dtype=torch.bfloat16, heads=HEADS, flash_attn=False)
    assert choice.reason == reason


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


# ---- the function


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


def _borders(lengths: tuple[int, ...]) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)


def _positions(lengths: tuple[int, ...]) -> Tensor:
    return torch.cat([torch.arange(length) for length in lengths])


@pytest.mark.parametrize('route', ['kernel', 'one by one'])
@pytest.mark.parametrize('told', ['borders', 'positions'])
@pytest.mark.parametrize('heads', [(4, 2), (3, 3), (6, 1)])
@pytest.mark.parametrize('lengths', [(13, ), (5, 8), (1, 1, 1), (3, 47, 1, 31), (7, ) * 9])
def test_equals_softmax(lengths, heads, told, route, request):
    if route == 'kernel':
        request.getfixturevalue('kernel')
    total = sum(lengths)
    sample = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    known = {'cu_seq_lens_q': _borders(lengths)} if told == 'borders' else {'position_ids': _positions(lengths)[None]}
    weights = torch.randn(total, heads[0], 8, generator=torch.Generator().manual_seed(1))
    # Positions belong to text, which is causal; vision has borders only.
    for causal in (True, False) if told == 'borders' else (True, ):
        states = _states(1, total, heads)
        allowed = sample[:, None] == sample
        exact = [state.detach().double()[0].transpose(0, 1).requires_grad_() for state in states]
        expected = softmax_attention(exact, allowed.tril() if causal else allowed, 0.3)
        # The vision tower says it in the call, text in the layer.
        layer = Layer(heads[0] // heads[1], causal=told == 'positions' or not causal)
        said = {} if told == 'positions' else {'is_causal': causal}
        output = _attend(layer, states, sliding_window=None, **known, **said)
        assert output.shape == (1, total, heads[0], 8)
        (output[0] * weights).sum().backward()
        (expected * weights.double()).sum().backward()
        torch.testing.assert_close(output[0].double(), expected, rtol=1e-5, atol=1e-5)
        for state, reference in zip(states, exact):
            torch.testing.assert_close(state.grad[0].transpose(0, 1).double(), reference.grad, rtol=1e-5, atol=1e-5)


def test_several_packs_in_a_batch(kernel):
    states = _states(2, 9)
    # Two rows without padding: packs of 4 + 5 and of 2 + 3 + 4.
    positions = torch.stack([_positions((4, 5)), _positions((2, 3, 4))])
    output = _attend(Layer(), states, position_ids=positions)
    assert kernel.calls == [{'lengths': [4, 5, 2, 3, 4], 'causal': True}]
    for i in range(2):
        row = _attend(Layer(), (state[i:i + 1] for state in states), position_ids=positions[i:i + 1])
        torch.testing.assert_close(output[i:i + 1], row)


@pytest.mark.parametrize('case', ['mask', 'one sample', 'no borders', 'cache', 'whole rows'])
def test_what_is_no_pack_goes_to_sdpa(case, monkeypatch):
    monkeypatch.setattr(attention, 'kernel_refusal', lambda *args: None)
    monkeypatch.setattr(attention, 'varlen_attn', None)
    query, key, value = _states(2 if case == 'whole rows' else 1, 6, (4, 2))
    mask, known = None, {}
    if case == 'mask':
        # It decides alone.
        mask, known = torch.eye(6, dtype=torch.bool)[None, None], {'cu_seq_lens_q': _borders((2, 4))}
    elif case == 'one sample':
        known = {'cu_seq_lens_q': _borders((6, ))}
    elif case == 'cache':
        query, known = query[:, :, -1:], {'position_ids': torch.tensor([[5]])}
    elif case == 'whole rows':
        known = {'position_ids': torch.arange(6).repeat(2, 1)}
    output = _attend(Layer(2), (query, key, value), mask, **known)
    assert torch.equal(output, sdpa_attention_forward(Layer(2), query, key, value, mask, scaling=0.3)[0])


def test_errors():
    query, key, value = _states(1, 6)
    with pytest.raises(ValueError, match='2 samples of 7 tokens, but the batch has 1 x 6'):
        _attend(Layer(), (query, key, value), cu_seq_lens_q=_borders((3, 4)))
    with pytest.raises(ValueError, match='A pack of 4 tokens is combined with a cache, which gives 6 keys'):
        _attend(Layer(), (query[:, :, :4], key, value), cu_seq_lens_q=_borders((2, 2)))


def test_borders_are_read_once_and_let_go(monkeypatch):
    reads = []
    to_list = Tensor.tolist

    def counted(self):
        reads.append(self.shape)
        return to_list(self)

    monkeypatch.setattr(Tensor, 'tolist', counted)
    states, borders, positions = _states(1, 6), _borders((2, 4)), _positions((2, 4))[None]
    gc.collect()
    before = len(attention._LENGTHS), len(attention._CU_SEQLENS)
    for _ in range(3):
        _attend(Layer(), states, cu_seq_lens_q=borders)
        _attend(Layer(), states, position_ids=positions)
    assert reads == [(3, ), (3, )]
    del borders, positions
    gc.collect()
    assert (len(attention._LENGTHS), len(attention._CU_SEQLENS)) == before


def test_the_real_kernel_takes_the_call(monkeypatch):
    monkeypatch.setattr(attention, 'kernel_refusal', lambda *args: None)
    # A meta tensor has no numbers, and its device no autocast.
    monkeypatch.setattr(attention, '_lengths', lambda borders: (5, 8))
    monkeypatch.setattr(attention, '_compute_dtype', lambda query, value: value.dtype)
    borders = torch.empty(3, dtype=torch.int32, device='meta')
    for heads, causal in (((4, 2), True), ((2, 2), False)):
        states = [state.detach().to('meta', torch.bfloat16).requires_grad_() for state in _states(1, 13, heads)]
        output = _attend(Layer(heads[0] // heads[1], causal), states, cu_seq_lens_q=borders)
        assert output.shape == (1, 13, heads[0], 8) and output.dtype == torch.bfloat16
        assert 'varlen_attn' in type(output.grad_fn.next_functions[0][0]).__name__
        output.sum().backward()
        assert [state.grad.shape for state in states] == [state.shape for state in states]


def test_autocast_type_goes_to_the_kernel(kernel):
    query, key, value = _states(1, 6)
    with torch.autocast('cpu', torch.bfloat16):
        # As behind rotary embeddings in float32.
        output = _attend(Layer(), (query, key, value.bfloat16()), cu_seq_lens_q=_borders((2, 4)))
    assert output.dtype == torch.bfloat16 and len(kernel.calls) == 1


# ---- the mask


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


class Largest(TorchDispatchMode):
    """Watches the largest tensor that any operation makes."""

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
    with Largest() as largest:
        hidden = model.model(
            input_ids=ids, position_ids=positions, use_cache=False, cu_seq_lens_q=_borders(lengths)).last_hidden_state
        hidden.sum().backward()
    assert (largest.num_elements >= total**2) == makes_it
    assert len(kernel.calls) == (0 if makes_it else 2)


# ---- the vision tower


def _pixels(grid: Tensor) -> Tensor:
    return torch.randn(int(grid.prod(-1).sum()), 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('route', ['kernel', 'one by one'])
def test_windows_of_images_and_frames(route, tiny_checkpoint, request):
    slow = request.getfixturevalue('kernel') if route == 'kernel' else None
    # In patches: several windows, with rests at both borders; one window; a video of three frames.
    grid = torch.tensor([[1, 20, 12], [1, 4, 6], [3, 8, 18]])
    pixels = _pixels(grid)
    results = []
    for attn_impl in ('sdpa', TORCH_VARLEN):
        vision = _model(tiny_checkpoint, attn_impl).model.visual
        output = vision(pixels, grid_thw=grid).pooler_output
        (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
        results.append((output, {name: p.grad for name, p in vision.named_parameters()}))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-5, atol=1e-5)
    for name, expected in results[0][1].items():
        assert (results[1][1][name] - expected).abs().max() <= 1e-5 * expected.abs().max(), name
    if slow is not None:
        # Each layer once: windows of 8 x 8 patches, then whole images and frames.
        assert [call['lengths'] for call in slow.calls] == [[64, 32, 64, 32, 32, 16, 24, *(64, 64, 16) * 3],
                                                            [240, 24, 144, 144, 144]]
        assert not any(call['causal'] for call in slow.calls)


def test_a_changed_call_of_the_layer_is_told(tiny_checkpoint):
    layer = _model(tiny_checkpoint, TORCH_VARLEN).model.visual.blocks[0].attn
    with pytest.raises(CompatibilityError, match='expects the patches first, and cu_seqlens by name'):
        layer(torch.zeros(4, 64), torch.tensor([0, 4]))


# ---- registration, checkpoints


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


def test_saved_configuration_does_not_name_it(tiny_checkpoint, tmp_path):
    model = _model(tiny_checkpoint, TORCH_VARLEN)
    model.save_pretrained(tmp_path)
    assert TORCH_VARLEN not in (tmp_path / 'config.json').read_text()
    again = CitrusVForConditionalGeneration.from_pretrained(tmp_path)
    assert again.config.text_config._attn_implementation == 'sdpa'


# ---- whole runs


@pytest.fixture(scope='module')
def dataset(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp('windows')
    maker = Maker(folder / 'images')
    rows = maker.every_kind()
    # Larger than a window of the vision tower, and of different shapes.
    rows += [
        maker.row('<image>Segment it.', 'It: [SEG].', images=[maker.image(168, 224)], masks=[maker.mask(168, 224)]),
        maker.row('<image><image>Compare.', 'They differ.', images=[maker.image(84, 308),
                                                                    maker.image(252, 140)]),
        maker.row('<video>What moves?', 'A vessel.', videos=[[maker.image(168, 140) for _ in range(4)]]),
    ]
    return write_jsonl(folder / 'train.jsonl', rows)


PACKED = {
    'packs': '--packing true --packing_length 420 --gradient_accumulation_steps 15',
    'one pack, checkpointing': '--packing true --packing_length 4096 --gradient_accumulation_steps 1 '
    '--gradient_checkpointing true',
    'padding free': '--padding_free true --per_device_train_batch_size 5 --gradient_accumulation_steps 3',
}


def _run(layout: str, dataset: str, checkpoint: str, output: str):
    return run_sft('--model', checkpoint, '--model_type', 'citrusv', '--dataset', dataset, '--output_dir', output,
                   '--tuner_type', 'full', '--freeze_vit', 'false', '--freeze_aligner', 'false', '--learning_rate',
                   '1e-4', '--num_train_epochs', '1', '--max_length', '2048', '--model_kwargs', '{"pack_images": 32}',
                   *layout.split())


@pytest.fixture(scope='module')
def reference(dataset, tiny_checkpoint, tmp_path_factory):
    """One row at a time, in stock Transformers' sdpa."""
    return _run('--per_device_train_batch_size 1 --gradient_accumulation_steps 15', dataset, tiny_checkpoint,
                str(tmp_path_factory.mktemp('out')))


@pytest.fixture
def chosen(monkeypatch, kernel) -> SlowKernel:
    """As if a run on this machine could take the kernel."""
    monkeypatch.setattr(attention, 'choose_attention', lambda *args, **kwargs: AttentionChoice(TORCH_VARLEN, 'for a test'))
    return kernel


@pytest.mark.parametrize('name', PACKED)
def test_packed_gradient_equals_unpacked(name, dataset, tiny_checkpoint, reference, chosen, tmp_path):
    watch = _run(PACKED[name], dataset, tiny_checkpoint, str(tmp_path))
    assert watch.num_steps == reference.num_steps == 1
    # Both kinds of attention went through the kernel, and packs had borders to keep.
    assert {call['causal'] for call in chosen.calls} == {True, False}
    assert all(len(call['lengths']) > 1 for call in chosen.calls)
    assert watch.gradients.keys() == reference.gradients.keys()
    for part in ('segmenter', 'seg_projector', 'model.visual', 'model.language_model'):
        keys = [key for key in reference.gradients if key.startswith(part)]
        largest = max(reference.gradients[key].abs().max() for key in keys)
        assert max((watch.gradients[key] - reference.gradients[key]).abs().max() for key in keys) <= 1e-5 * largest


@pytest.mark.parametrize(('capability', 'use_cpu', 'bf16', 'expected'), [
    (A100, False, True, 'torch varlen'),
    (A100, False, False, 'sdpa, sample by sample'),
    (A100, True, True, 'sdpa, sample by sample'),
    (None, False, True, 'sdpa, sample by sample'),
])
def test_choice_from_the_arguments(capability, use_cpu, bf16, expected, tiny_checkpoint, monkeypatch, caplog):
    monkeypatch.setattr(attention, 'cuda_capability', lambda: capability)
    args = SimpleNamespace(
        attn_impl=None,
        packing=True,
        use_cpu=use_cpu,
        bf16=bf16,
        fp16=False,
        torch_dtype=torch.float32,
        model_dir=tiny_checkpoint)
    with caplog.at_level('INFO', logger='swift'):
        patches._choose_attention(args)
    assert args.attn_impl == TORCH_VARLEN
    assert [record.message.split(' (packing')[0] for record in caplog.records] == [f'attention: {expected}']


def test_checkpoint_of_such_a_run_answers_without_cuda(dataset, tiny_checkpoint, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(attention, 'choose_attention', lambda *args, **kwargs: AttentionChoice(TORCH_VARLEN, 'for a test'))
        _run(f'{PACKED["padding free"]} --save_strategy epoch --save_only_model true', dataset, tiny_checkpoint,
             str(tmp_path))
    checkpoint = next(path.parent for path in tmp_path.rglob('args.json') if path.parent.name.startswith('checkpoint'))
    # `swift infer` reads the arguments of the training.
    args = InferArguments(model=str(checkpoint), torch_dtype='float32')
    assert args.attn_impl == TORCH_VARLEN
    image = Image.new('RGB', (168, 224), (90, 0, 90))
    answers = []
    for attn_impl in (TORCH_VARLEN, 'sdpa'):
        args.attn_impl = attn_impl
        model, processor = args.get_model_processor()
        assert model.config.text_config._attn_implementation == attn_impl
        monkeypatch.setattr(attention, 'varlen_attn', None)
        pipe = CitrusVPipeline(model, args.get_template(processor))
        answers.append(pipe(image, 'Segment the cell.', max_tokens=5))
    assert answers[0].text == answers[1].text
