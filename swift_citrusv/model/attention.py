"""Attention over packs without flash-attn: torch's own varlen kernel, known to Transformers as `torch_varlen`.

A pack is one row of T tokens with several samples in it, and a token sees its own sample only. Written as a mask that
is T x T, of which nearly all is forbidden; the varlen kernel is told the samples' borders (`cu_seqlens`) instead. The
windows of Qwen2.5-VL's vision tower are the same thing: hundreds of short stretches of one row of patches, which
Transformers' sdpa goes through one by one.

What carries no borders (padded batches, generation with a cache) goes to Transformers' sdpa with its own mask, so a
model with this attention can be evaluated and asked as any other. Packs on a device or in a type that the kernel does
not take (a CPU, float32) go through sdpa sample by sample: no mask there either, and far less work.

Legend for shapes: B rows of the batch, T tokens of a row, H and K heads of queries and of keys, D size of a head, n
stretches (samples of a pack, or windows).
"""
import torch
from collections.abc import Mapping
from dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import AttentionInterface, PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, find_packed_sequence_indices, sdpa_mask
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLVisionAttention
from typing import Any

from ..constants import TORCH_VARLEN
from ..errors import CompatibilityError

_FLASH = ('flash_attn', 'flash_attention_2', 'flash_attention_3', 'flash_attention_4')
# Eager attention gets the same block-diagonal mask as sdpa; it is slow, but right.
ALLOWED = ('sdpa', 'eager', *_FLASH, TORCH_VARLEN)
_HALF = (torch.bfloat16, torch.float16)

# ---- which attention a run takes


@dataclass(frozen=True)
class Choice:
    """The attention of a run.

    attn_impl: The value for `--attn_impl`.
    reason: What runs and why, in one line for the log.
    """
    attn_impl: str
    reason: str


def kernel_refusal(capability: tuple[int, int] | None, dtype: torch.dtype, heads: Mapping[str, int]) -> str | None:
    """Why torch's varlen kernel cannot run, or None where it can.

    Args:
        capability: The compute capability of the CUDA device, (8, 0) for an A100; None without CUDA.
        dtype: Of queries, keys and values.
        heads: The size of a head, by the part of the model.

    Source: FlashAttention 2 (arXiv 2307.08691), whose kernels torch carries; their limits are those of
        `torch.nn.functional.scaled_dot_product_attention` with `SDPBackend.FLASH_ATTENTION`.
    """
    if capability is None:
        return 'there is no CUDA device'
    if capability < (8, 0):
        return f'the device has compute capability {capability[0]}.{capability[1]}, and the kernel needs 8.0'
    if dtype not in _HALF:
        return f'the run computes in {str(dtype).removeprefix("torch.")}, and the kernel needs bfloat16 or float16'
    for part, size in heads.items():
        if size % 8 or not 0 < size <= 256:
            return f'a head of the {part} has {size} channels, and the kernel needs a multiple of 8 up to 256'
    return None


def head_sizes(config: PretrainedConfig) -> dict[str, int]:
    """The size of an attention head in each part of a Qwen2.5-VL (128 and 80 in the released ones)."""
    text, vision = config.text_config, config.vision_config
    return {
        'language model': text.hidden_size // text.num_attention_heads,
        'vision tower': vision.hidden_size // vision.num_heads,
    }


def choose_attention(requested: str | None, *, feature: str, capability: tuple[int, int] | None, dtype: torch.dtype,
                     heads: Mapping[str, int], flash_attn: bool) -> Choice:
    """Which attention runs over packs; what the user asks for wins.

    Args:
        requested: `--attn_impl`; None to choose by the machine: flash-attn on CUDA in half precision where it is
            installed, else torch's varlen kernel where it can run, else sdpa sample by sample.
        feature: What needs it, for the messages: 'packing' or 'padding-free batches'.
        capability: As in `kernel_refusal`.
        dtype: The type that attention computes in (autocast's, where it is on).
        heads: From `head_sizes`.
        flash_attn: Whether flash-attn is installed.

    Raises:
        ValueError: `requested` cannot keep the samples of a pack apart.
    """
    refusal = kernel_refusal(capability, dtype, heads)
    if requested is not None:
        if requested not in ALLOWED:
            raise ValueError(f'--attn_impl {requested} cannot keep the samples of a pack apart. Use one of: '
                             f'{", ".join(ALLOWED)}.')
        return Choice(requested, _describe(requested, f'{feature}, --attn_impl', refusal))
    if flash_attn and kernel_refusal(capability, dtype, {}) is None:
        return Choice('flash_attention_2', _describe('flash_attention_2', f'{feature} on CUDA', None))
    why = f'{feature} on CUDA, flash-attn is not installed' if refusal is None else feature
    return Choice(TORCH_VARLEN, _describe(TORCH_VARLEN, why, refusal))


def _describe(attn_impl: str, why: str, refusal: str | None) -> str:
    if attn_impl == TORCH_VARLEN and refusal is None:
        name, vision = 'torch varlen', 'torch varlen over windows'
    elif attn_impl == TORCH_VARLEN:
        name, vision = 'sdpa, sample by sample', 'sdpa, window by window'
        why = f'{why}; no varlen kernel, because {refusal}'
    elif attn_impl in _FLASH:
        name, vision = attn_impl, f'{attn_impl} over windows'
    else:
        name, vision = f'{attn_impl} with a block-diagonal mask', f'{attn_impl}, window by window'
    return f'attention: {name} ({why}); vision tower: {vision}'


def cuda_capability() -> tuple[int, int] | None:
    """The compute capability of the current CUDA device, None without one."""
    return torch.cuda.get_device_capability() if torch.cuda.is_available() else None


# ---- borders

# The kernel needs the longest stretch as a number on the host, and each look at a CUDA tensor stops the queue. All
# layers of a forward get the same tensor, so it is looked at once. (No value may hold its own key, or it never leaves.)
_LENGTHS = WeakTensorKeyDictionary()
_FROM_POSITIONS = WeakTensorKeyDictionary()


def _lengths(cu_seqlens: Tensor) -> tuple[int, ...]:
    """The lengths of the stretches, n numbers, from their borders, an integer tensor [n + 1]."""
    known = _LENGTHS.get(cu_seqlens)
    if known is None:
        borders = cu_seqlens.tolist()
        known = _LENGTHS[cu_seqlens] = tuple(stop - start for start, stop in zip(borders, borders[1:]))
    return known


def _borders_from_positions(position_ids: Tensor) -> Tensor | None:
    """The borders that positions [B, T] tell, int32 [n + 1] over all rows; None where no row holds several samples."""
    if position_ids not in _FROM_POSITIONS:
        samples = find_packed_sequence_indices(position_ids)
        borders = None
        if samples is not None:
            starts = torch.ones_like(position_ids, dtype=torch.bool)
            starts[:, 1:] = samples[:, 1:] != samples[:, :-1]
            borders = nn.functional.pad(starts.flatten().nonzero()[:, 0], (0, 1), value=starts.numel())
            borders = borders.to(torch.int32)
        _FROM_POSITIONS[position_ids] = borders
    return _FROM_POSITIONS[position_ids]


def _borders(query: Tensor, cu_seqlens: Tensor | None, position_ids: Tensor | None) -> Tensor | None:
    """The borders of a batch with several stretches in a row; None for any other."""
    num_rows, num_tokens = query.shape[0], query.shape[2]
    if cu_seqlens is None:
        if position_ids is None or position_ids.shape != (num_rows, num_tokens) or num_tokens == 1:
            return None
        return _borders_from_positions(position_ids)
    lengths = _lengths(cu_seqlens)
    if sum(lengths) != num_rows * num_tokens or min(lengths) < 0:
        raise ValueError(f'cu_seqlens describes {len(lengths)} samples of {sum(lengths)} tokens, but the batch has '
                         f'{num_rows} x {num_tokens}. It belongs to another batch.')
    return None if len(lengths) == 1 else cu_seqlens


# ---- attention


def varlen_attention_forward(module: nn.Module,
                             query: Tensor,
                             key: Tensor,
                             value: Tensor,
                             attention_mask: Tensor | None,
                             dropout: float = 0.0,
                             scaling: float | None = None,
                             is_causal: bool | None = None,
                             cu_seq_lens_q: Tensor | None = None,
                             position_ids: Tensor | None = None,
                             **kwargs: Any) -> tuple[Tensor, None]:
    """An attention function of Transformers' `AttentionInterface`.

    Args:
        module: The attention layer; tells whether it is causal where `is_causal` does not.
        query: [B, H, T, D].
        key: [B, K, T, D], H a multiple of K; with a cache it may be longer than the query.
        value: As `key`.
        attention_mask: What `varlen_mask` returned. A mask decides alone, and sdpa follows it.
        dropout: Of the attention weights.
        scaling: Factor on query times key; D ** -0.5 by default.
        is_causal: Whether a token sees what stands before it only.
        cu_seq_lens_q: Borders of the stretches over all rows, integers [n + 1] from 0 to B * T.
        position_ids: The place of each token in its sample, [B, T]; read where `cu_seq_lens_q` is not given.
        kwargs: Passed on to sdpa.

    Returns:
        [B, T, H, D], and None for the attention weights.

    Raises:
        ValueError: The borders do not fit the batch, or a pack meets a cache.
    """
    borders = _borders(query, cu_seq_lens_q, position_ids) if attention_mask is None else None
    if borders is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs)
    if key.shape[2] != query.shape[2]:
        raise ValueError(f'A pack of {query.shape[2]} tokens meets a cache that makes {key.shape[2]} keys. Pass '
                         'use_cache=False with packs.')
    num_rows, num_tokens, lengths = query.shape[0], query.shape[2], _lengths(borders)
    causal = module.is_causal if is_causal is None else is_causal
    dtype = _compute_dtype(query, value)
    query, key, value = (states.to(dtype).transpose(1, 2).flatten(0, 1) for states in (query, key, value))
    if dropout == 0 and kernel_refusal(_capability(query), dtype, {'layer': query.shape[-1]}) is None:
        output = _kernel(query, key, value, borders, max(lengths), causal, scaling)
    else:
        output = _one_by_one(module, query, key, value, lengths, causal, scaling, dropout)
    return output.unflatten(0, (num_rows, num_tokens)), None


def _compute_dtype(query: Tensor, value: Tensor) -> torch.dtype:
    # Rotary embeddings and norms kept in float32 make queries wider than values; autocast, which would narrow sdpa's
    # inputs, does not know the varlen kernel.
    device = query.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return value.dtype


def _capability(states: Tensor) -> tuple[int, int] | None:
    return torch.cuda.get_device_capability(states.device) if states.is_cuda else None


def _kernel(query: Tensor, key: Tensor, value: Tensor, borders: Tensor, longest: int, causal: bool,
            scaling: float | None) -> Tensor:
    """[B * T, H, D] from the same layout, through the kernel."""
    borders = borders.to(query.device, torch.int32)
    # torch would take cuDNN on Hopper, which builds a plan (tens of milliseconds, pytorch#191576) for each new count
    # and longest length of samples; packs hardly ever repeat theirs.
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return varlen_attn(
            query,
            key,
            value,
            borders,
            borders,
            longest,
            longest,
            scale=scaling,
            window_size=(-1, 0) if causal else (-1, -1),
            enable_gqa=query.shape[1] != key.shape[1])


def _one_by_one(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], causal: bool,
                scaling: float | None, dropout: float) -> Tensor:
    """As `_kernel`, through sdpa, one stretch after another."""
    rows = (states.transpose(0, 1)[None].split(lengths, dim=2) for states in (query, key, value))
    outputs = [
        sdpa_attention_forward(module, *states, None, dropout=dropout, scaling=scaling, is_causal=causal)[0][0]
        for states in zip(*rows) if states[0].shape[2]
    ]
    return torch.cat(outputs)


def varlen_mask(batch_size: int,
                q_length: int,
                kv_length: int,
                *,
                attention_mask: Tensor | None = None,
                local_size: int | None = None,
                use_vmap: bool = False,
                **kwargs: Any) -> Tensor | None:
    """A mask function of Transformers' `AttentionMaskInterface`: no mask for packs, sdpa's own for all others.

    Args:
        batch_size: B.
        q_length: T.
        kv_length: Number of keys.
        attention_mask: The padding mask, bool [B, number of keys], where there is one.
        local_size: The window of a layer with a sliding window.
        use_vmap: True where a model puts a pattern of its own over the mask.
        kwargs: Passed on to `sdpa_mask`.

    Returns:
        bool [B, 1, T, number of keys], or None where plain causal attention within the borders is meant: the layers
        get the positions, or the borders themselves, and `varlen_attention_forward` reads them there.
    """
    if attention_mask is None and local_size is None and not use_vmap and q_length == kv_length:
        return None
    return sdpa_mask(
        batch_size,
        q_length,
        kv_length,
        attention_mask=attention_mask,
        local_size=local_size,
        use_vmap=use_vmap,
        **kwargs)


# ---- vision tower


def join_windows(vision: nn.Module) -> None:
    """Lets `torch_varlen` see all windows of Qwen2.5-VL's vision tower in one call.

    Transformers cuts queries, keys and values into windows itself unless the attention's name says "flash", and that
    word would make it look for the flash-attn package. The hook tells a layer that there is one window, and the
    attention function which there are. Other attentions are left alone.

    Args:
        vision: The vision tower.
    """
    for module in vision.modules():
        if isinstance(module, Qwen2_5_VLVisionAttention):
            module.register_forward_pre_hook(_hand_on_windows, with_kwargs=True)


def _hand_on_windows(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
    if module.config._attn_implementation != TORCH_VARLEN:
        return None
    borders = kwargs.get('cu_seqlens')
    if borders is None or not args:
        raise CompatibilityError(
            f'{type(module).__name__} was called with {len(args)} positional arguments and {sorted(kwargs)}; '
            'swift-citrusv expects the patches first, and cu_seqlens by name. Install transformers >=5.19,<5.20, or '
            'choose another --attn_impl.')
    # On the CPU, because the layer reads it back.
    whole = torch.tensor([0, args[0].shape[0]], dtype=torch.int32)
    return args, {**kwargs, 'cu_seqlens': whole, 'cu_seq_lens_q': borders}


def register_attention() -> None:
    """Makes `torch_varlen` known to Transformers; calling it again changes nothing."""
    AttentionInterface.register(TORCH_VARLEN, varlen_attention_forward)
    AttentionMaskInterface.register(TORCH_VARLEN, varlen_mask)
