"""The training losses of paper section 4.3.1, equations 1 to 4: pure functions from logits, in float32 or better."""
import math
import torch
import torch.nn.functional as F
from dataclasses import dataclass, fields
from typing import TypeAlias

from ..constants import IGNORE_INDEX

Count: TypeAlias = float | torch.Tensor

# The smoothing term of equation 2, in pixels; the paper gives no value. It only stands in the denominator, so a perfect
# mask of A pixels still has the loss eps / (2 A + eps): with eps = 1 a one-pixel lesion could not get below 1/3, and
# under a prediction that has collapsed to zero its gradient would be halved. A large eps has no benefit, since the
# denominator of a non-empty mask is at least A >= 1. It only has to prevent 0 / 0 for an empty mask under an empty
# prediction, for which this value suffices in float32 too.
DICE_EPS = 1e-6
# Mask logits are clamped to this range, so that the sum over the pixels of a mask cannot overflow, whatever a decoder
# in half precision returns, Inf included (float16 ends at 65504). The sigmoid saturates long before that (exp(-17) is
# the resolution of float32); beyond the range a pixel gets no gradient.
MAX_LOGIT = 2.**16


@dataclass(frozen=True)
class LossWeights:
    """The balancing coefficients of equation 4: lambda_1, lambda_2, lambda_3 = 1, 2, 1 in the paper.

    Args:
        token, dice, bce: Finite factors >= 0; 0 disables a term but keeps it in the graph.

    Raises:
        ValueError: A factor is negative, infinite or NaN.
    """
    token: float = 1.0
    dice: float = 2.0
    bce: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f'The weight of the {field.name} loss is {value!r}. Set a finite number >= 0.')


def token_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each token, in nats (equation 1, before the mean).

    Args:
        logits: `[K, V]`, any float dtype, already aligned: row k predicts label k.
        labels: `[K]`, int64, 0 to V - 1, or IGNORE_INDEX.

    Returns:
        `[K]`, float32 (float64 for float64 logits), >= 0. Zero, with zero gradient, at IGNORE_INDEX. K may be 0: the
        empty result is still part of the graph.

    Source:
        Paper section 4.3.1, equation 1.
    """
    return F.cross_entropy(_upcast(logits), labels, ignore_index=IGNORE_INDEX, reduction='none')


def dice_loss(logits: torch.Tensor, targets: torch.Tensor, eps: float = DICE_EPS) -> torch.Tensor:
    """Soft Dice loss of each mask, equation 2 as printed: `1 - 2 sum(p g) / (sum p + sum g + eps)`, p = sigmoid(logit).

    An empty target makes the numerator 0: the loss is 1 whatever the prediction, and its gradient is 0. For empty
    masks, only `bce_loss` has a gradient.

    Args:
        logits: `[M, h, w]`, any float dtype. M may be 0.
        targets: `[M, h, w]`, values 0 and 1 (uint8, bool or float; 255 is not 1). Not checked, because that would
            synchronise with the GPU.
        eps: Smoothing term in pixels, > 0; see DICE_EPS.

    Returns:
        `[M]`, float32 (float64 for float64 logits), 0 to 1.

    Raises:
        ValueError: Logits and targets differ in shape, or are not `[M, h, w]`.

    Source:
        Paper section 4.3.1, equation 2.
    """
    _check_shapes(logits, targets)
    logits = _clamp(logits)
    return _dice(logits, targets.to(logits.dtype), eps)


def bce_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of each mask in nats, the mean over its pixels (equation 3), without overflow.

    Logits beyond +-MAX_LOGIT, Inf included, are clamped and get no gradient. An empty target gives
    `mean(softplus(logits))`, which lowers every pixel.

    Args:
        logits: `[M, h, w]`, any float dtype. M may be 0.
        targets: `[M, h, w]`, values 0 and 1 (uint8, bool or float), not checked.

    Returns:
        `[M]`, float32 (float64 for float64 logits), >= 0.

    Raises:
        ValueError: Logits and targets differ in shape, or are not `[M, h, w]`.

    Source:
        Paper section 4.3.1, equation 3.
    """
    _check_shapes(logits, targets)
    logits = _clamp(logits)
    return _bce(logits, targets.to(logits.dtype))


def mask_losses(logits: torch.Tensor,
                targets: torch.Tensor,
                eps: float = DICE_EPS) -> tuple[torch.Tensor, torch.Tensor]:
    """`dice_loss` and `bce_loss` on one shared float32 copy of logits and targets.

    The masks are not processed in chunks: autograd keeps every chunk's activations for the backward pass, so chunks
    would not lower the peak.

    Args:
        logits, targets, eps: As in `dice_loss`.

    Returns:
        Dice `[M]` and BCE `[M]`. With M = 0 both are empty and still part of the graph.

    Raises:
        ValueError: Logits and targets differ in shape, or are not `[M, h, w]`.
    """
    _check_shapes(logits, targets)
    logits = _clamp(logits)
    targets = targets.to(logits.dtype)
    return _dice(logits, targets, eps), _bce(logits, targets)


def combine(token_sum: torch.Tensor, dice_sum: torch.Tensor, bce_sum: torch.Tensor, num_tokens: Count, num_masks: Count,
            weights: LossWeights) -> torch.Tensor:
    """Equation 4 from sums: the contribution of one micro-batch to the loss of the whole optimizer step.

    The counts are those of the whole step (all ranks, all accumulation steps), so the contributions add up to the means
    over its tokens and masks, and the gradient does not depend on packing, micro-batching or the number of ranks.

    Args:
        token_sum: Sum of `token_loss`, a scalar, float32.
        dice_sum, bce_sum: Sums of `mask_losses`, scalars, float32.
        num_tokens: Supervised tokens of the step, >= 0, a number or a scalar tensor.
        num_masks: Masks of the step, empty ones included, >= 0, a number or a scalar tensor.
        weights: The balancing coefficients.

    Returns:
        A scalar, never NaN for finite sums. A count of zero makes its term zero, with zero gradient; the term stays in
        the graph, so a step without masks still gives every segmentation parameter a gradient.

    Source:
        Paper section 4.3.1, equation 4.
    """
    token_mean = _mean(weights.token * token_sum, num_tokens)
    mask_mean = _mean(weights.dice * dice_sum + weights.bce * bce_sum, num_masks)
    return token_mean + mask_mean


def _mean(total: torch.Tensor, count: Count) -> torch.Tensor:
    # Not a clamp to 1: callers that undo DDP's averaging pass count / world_size, which may lie between 0 and 1.
    if isinstance(count, torch.Tensor):
        return total / torch.where(count > 0, count, 1) * (count > 0)
    return total / (count if count > 0 else 1) * (count > 0)


def _dice(logits: torch.Tensor, targets: torch.Tensor, eps: float) -> torch.Tensor:
    probabilities = logits.sigmoid()
    intersection = (probabilities * targets).sum((1, 2))
    return 1 - 2 * intersection / (probabilities.sum((1, 2)) + targets.sum((1, 2)) + eps)


def _bce(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.binary_cross_entropy_with_logits(logits, targets, reduction='none').mean((1, 2))


def _upcast(logits: torch.Tensor) -> torch.Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _clamp(logits: torch.Tensor) -> torch.Tensor:
    """Mask logits in float32 or better, within `MAX_LOGIT`. NaN stays NaN, so that it is noticed."""
    return _upcast(logits).clamp(-MAX_LOGIT, MAX_LOGIT)


def _check_shapes(logits: torch.Tensor, targets: torch.Tensor) -> None:
    # [M, 1, h, w] against [M, h, w] would silently broadcast to M x M pairs.
    if logits.dim() != 3 or logits.shape != targets.shape:
        raise ValueError(f'Mask logits have shape {tuple(logits.shape)} and targets {tuple(targets.shape)}. '
                         'Give both as [num_masks, height, width].')
