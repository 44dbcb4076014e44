"""Attention over packs without flash-attn: torch's varlen kernel, registered with Transformers as `torch_varlen`.

A pack is one row of T tokens with several samples, and a token attends to its own sample only. As a mask that is T x T
and almost entirely False; the varlen kernel takes the boundaries of the samples (`cu_seqlens`) instead. The windows of
Qwen2.5-VL's vision tower have the same form: hundreds of short sequences in one row of patches, which Transformers'
sdpa processes one by one.

Inputs without boundaries (padded batches, generation with a cache) use Transformers' sdpa and its own mask, so
evaluation and inference work as with sdpa. Packs on a device or in a dtype that the kernel does not support (CPU,
float32) use sdpa sample by sample, which needs no mask either and far less work.

Legend for shapes: B rows of the batch, T tokens of a row, H and K heads of queries and of keys, D size of a head, n
sequences (samples of a pack, or windows).
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
# Eager attention gets the same block-diagonal mask as sdpa: slow, but correct.
ALLOWED = ('sdpa', 'eager', *_FLASH, TORCH_VARLEN)
_HALF = (torch.bfloat16, torch.float16)

# ---- choosing the attention of a run


@dataclass(frozen=True)
class AttentionChoice:
    """The attention of a run.

    attn_impl: The value of `--attn_impl`.
    reason: The attention and the reason for it, one line for the log.
    """
    attn_impl: str
    reason: str


def kernel_refusal(capability: tuple[int, int] | None, dtype: torch.dtype, heads: Mapping[str, int]) -> str | None:
    """Why torch's varlen kernel cannot run; None if it can.

    Args:
        capability: The compute capability of the CUDA device, (8, 0) for an A100; None without CUDA.
        dtype: The dtype of queries, keys and values.
        heads: The head size of each part of the model.

    Source: FlashAttention 2 (arXiv 2307.08691), whose kernels ship with torch; the limits are those of
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
    """The head size in each part of a Qwen2.5-VL (128 and 80 in the released models)."""
    text, vision = config.text_config, config.vision_config
    return {
        'language model': text.hidden_size // text.num_attention_heads,
        'vision tower': vision.hidden_size // vision.num_heads,
    }


def choose_attention(requested: str | None, *, feature: str, capability: tuple[int, int] | None, dtype: torch.dtype,
                     heads: Mapping[str, int], flash_attn: bool) -> AttentionChoice:
    """Chooses the attention for packs; an explicit request takes precedence.

    Args:
        requested: `--attn_impl`; None to choose by the machine: flash-attn on CUDA in half precision if it is
            installed, else torch's varlen kernel if it can run, else sdpa sample by sample.
        feature: The feature that needs it, for messages: 'packing' or 'padding-free batches'.
        capability: As in `kernel_refusal`.
        dtype: The dtype that attention computes in (autocast's, if it is enabled).
        heads: From `head_sizes`.
        flash_attn: Whether flash-attn is installed.

    Raises:
        ValueError: `requested` cannot separate the samples of a pack.
    """
    refusal = kernel_refusal(capability, dtype, heads)
    if requested is not None:
        if requested not in ALLOWED:
            raise ValueError(f'--attn_impl {requested} cannot separate the samples of a pack. Use one of: '
                             f'{", ".join(ALLOWED)}.')
        return AttentionChoice(requested, _log_line(requested, f'{feature}, --attn_impl', refusal))
    if flash_attn and kernel_refusal(capability, dtype, {}) is None:
        return AttentionChoice('flash_attention_2', _log_line('flash_attention_2', f'{feature} on CUDA', None))
    why = f'{feature} on CUDA, flash-attn is not installed' if refusal is None else feature
    return AttentionChoice(TORCH_VARLEN, _log_line(TORCH_VARLEN, why, refusal))


def _log_line(attn_impl: str, why: str, refusal: str | None) -> str:
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
    """The compute capability of the current CUDA device; None without one."""
    return torch.cuda.get_device_capability() if torch.cuda.is_available() else None


# ---- sequence boundaries

# The kernel needs the longest sequence as a number on the host, and each read of a CUDA tensor synchronises. All layers
# of a forward pass get the same tensor, so it is read once. (A value that held its own key would never be freed.)
_LENGTHS = WeakTensorKeyDictionary()
_CU_SEQLENS = WeakTensorKeyDictionary()


def _lengths(cu_seqlens: Tensor) -> tuple[int, ...]:
    """The lengths of the n sequences, from their boundaries, an integer tensor [n + 1]."""
    cached = _LENGTHS.get(cu_seqlens)
    if cached is None:
        boundaries = cu_seqlens.tolist()
        cached = _LENGTHS[cu_seqlens] = tuple(stop - start for start, stop in zip(boundaries, boundaries[1:]))
    return cached


def _cu_seqlens_from_positions(position_ids: Tensor) -> Tensor | None:
    """The boundaries, int32 [n + 1] over all rows, from positions [B, T]; None if every row is a single sample."""
    if position_ids not in _CU_SEQLENS:
        samples = find_packed_sequence_indices(position_ids)
        boundaries = None
        if samples is not None:
            starts = torch.ones_like(position_ids, dtype=torch.bool)
            starts[:, 1:] = samples[:, 1:] != samples[:, :-1]
            boundaries = nn.functional.pad(starts.flatten().nonzero()[:, 0], (0, 1), value=starts.numel())
            boundaries = boundaries.to(torch.int32)
        _CU_SEQLENS[position_ids] = boundaries
    return _CU_SEQLENS[position_ids]


def _pack_boundaries(query: Tensor, cu_seqlens: Tensor | None, position_ids: Tensor | None) -> Tensor | None:
    """The boundaries of a batch in which a row holds several sequences; None for any other batch."""
    num_rows, num_tokens = query.shape[0], query.shape[2]
    if cu_seqlens is None:
        if position_ids is None or position_ids.shape != (num_rows, num_tokens) or num_tokens == 1:
            return None
        return _cu_seqlens_from_positions(position_ids)
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
    """An attention function for Transformers' `AttentionInterface`.

    Args:
        module: The attention layer; its `is_causal` is used if the argument is None.
        query: [B, H, T, D].
        key: [B, K, T, D], H a multiple of K; with a cache it may be longer than the query.
        value: As `key`.
        attention_mask: The result of `varlen_mask`. With a mask, sdpa is used and boundaries are ignored.
        dropout: Dropout probability of the attention weights.
        scaling: Factor on query times key; D ** -0.5 by default.
        is_causal: Whether a token attends only to itself and to tokens before it.
        cu_seq_lens_q: Boundaries of the sequences over all rows, integers [n + 1] from 0 to B * T.
        position_ids: The position of each token in its sample, [B, T]; used if `cu_seq_lens_q` is not given.
        kwargs: Passed to sdpa.

    Returns:
        [B, T, H, D], and None for the attention weights.

    Raises:
        ValueError: The boundaries do not fit the batch, or a pack is combined with a cache.
    """
    boundaries = _pack_boundaries(query, cu_seq_lens_q, position_ids) if attention_mask is None else None
    if boundaries is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs)
    if key.shape[2] != query.shape[2]:
        raise ValueError(
            f'A pack of {query.shape[2]} tokens is combined with a cache, which gives {key.shape[2]} keys. '
            'Pass use_cache=False with packs.')
    num_rows, num_tokens, lengths = query.shape[0], query.shape[2], _lengths(boundaries)
    causal = module.is_causal if is_causal is None else is_causal
    dtype = _compute_dtype(query, value)
    query, key, value = (states.to(dtype).transpose(1, 2).flatten(0, 1) for states in (query, key, value))
    if dropout == 0 and kernel_refusal(_capability(query), dtype, {'layer': query.shape[-1]}) is None:
        output = _varlen_kernel(query, key, value, boundaries, max(lengths), causal, scaling)
    else:
        output = _sdpa_by_sequence(module, query, key, value, lengths, causal, scaling, dropout)
    return output.unflatten(0, (num_rows, num_tokens)), None


def _compute_dtype(query: Tensor, value: Tensor) -> torch.dtype:
    # Rotary embeddings and norms in float32 give queries a wider dtype than values; autocast casts the inputs of sdpa,
    # but not those of the varlen kernel.
    device = query.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return value.dtype


def _capability(states: Tensor) -> tuple[int, int] | None:
    return torch.cuda.get_device_capability(states.device) if states.is_cuda else None


def _varlen_kernel(query: Tensor, key: Tensor, value: Tensor, boundaries: Tensor, longest: int, causal: bool,
                   scaling: float | None) -> Tensor:
    """[B * T, H, D] from the same layout, with torch's varlen kernel."""
    boundaries = boundaries.to(query.device, torch.int32)
    # On Hopper torch would choose cuDNN, which builds a plan (tens of milliseconds, pytorch#191576) for each new number
    # and longest length of samples; packs rarely repeat theirs.
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return varlen_attn(
            query,
            key,
            value,
            boundaries,
            boundaries,
            longest,
            longest,
            scale=scaling,
            window_size=(-1, 0) if causal else (-1, -1),
            enable_gqa=query.shape[1] != key.shape[1])


def _sdpa_by_sequence(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...],
                      causal: bool, scaling: float | None, dropout: float) -> Tensor:
    """As `_varlen_kernel`, with sdpa, one sequence after another."""
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
    """A mask function for Transformers' `AttentionMaskInterface`: no mask for packs, sdpa's own for all others.

    Args:
        batch_size: B.
        q_length: T.
        kv_length: Number of keys.
        attention_mask: The padding mask, bool [B, number of keys], if there is one.
        local_size: The size of a sliding window, for layers with one.
        use_vmap: True if the model adds its own pattern to the mask.
        kwargs: Passed to `sdpa_mask`.

    Returns:
        bool [B, 1, T, number of keys]; or None for plain causal attention within the boundaries, which
        `varlen_attention_forward` gets as positions or as `cu_seqlens`.
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


def batch_vision_windows(vision: nn.Module) -> None:
    """Passes all windows of Qwen2.5-VL's vision tower to `torch_varlen` in one call.

    Transformers splits queries, keys and values into windows itself, unless the attention's name contains "flash"; but
    with that word it requires the flash-attn package. The hook gives the layer a single window, and gives the attention
    function the boundaries of the real ones. Other attention implementations are not affected.

    Args:
        vision: The vision tower.
    """
    for module in vision.modules():
        if isinstance(module, Qwen2_5_VLVisionAttention):
            module.register_forward_pre_hook(_pass_window_boundaries, with_kwargs=True)


def _pass_window_boundaries(module: nn.Module, args: tuple, kwargs: dict[str,
                                                                         Any]) -> tuple[tuple, dict[str, Any]] | None:
    if module.config._attn_implementation != TORCH_VARLEN:
        return None
    boundaries = kwargs.get('cu_seqlens')
    if boundaries is None or not args:
        raise CompatibilityError(
            f'{type(module).__name__} was called with {len(args)} positional arguments and {sorted(kwargs)}; '
            'swift-citrusv expects the patches first, and cu_seqlens by name. Install transformers >=5.19,<5.20, or '
            'choose another --attn_impl.')
    # On the CPU, because the layer reads it there.
    one_window = torch.tensor([0, args[0].shape[0]], dtype=torch.int32)
    return args, {**kwargs, 'cu_seqlens': one_window, 'cu_seq_lens_q': boundaries}


def register_varlen_attention() -> None:
    """Registers `torch_varlen` with Transformers; idempotent."""
    AttentionInterface.register(TORCH_VARLEN, varlen_attention_forward)
    AttentionMaskInterface.register(TORCH_VARLEN, varlen_mask)
