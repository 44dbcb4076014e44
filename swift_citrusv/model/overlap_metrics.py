"""Dice and IoU of binary masks, for evaluation.

Empty masks, in every function here: if prediction and target are both empty the score is 1.0, if exactly one of them is
empty it is 0.0. A correctly empty prediction is rewarded, and no score is NaN.
"""
import numpy as np
import torch


def mask_statistics(logits_or_masks: torch.Tensor, targets: torch.Tensor, threshold: float = 0.0) -> torch.Tensor:
    """Counts the pixels that the scores need. Counts of several devices or tiles may be gathered or summed.

    Args:
        logits_or_masks: `[M, ...]`, usually `[M, h, w]`: logits, or masks of 0 and 1, any dtype. M may be 0.
        targets: The same shape, any dtype; non-zero is foreground.
        threshold: A pixel is foreground if its value lies above. 0.0 suits logits (probability above 0.5) and masks;
            probabilities need 0.5. NaN is background.

    Returns:
        `[M, 3]`, float64, in pixels: intersection, predicted area, target area. All zero for an empty pair.

    Raises:
        ValueError: The shapes differ, or there is no axis of masks.
    """
    if logits_or_masks.dim() < 1 or logits_or_masks.shape != targets.shape:
        raise ValueError(f'Predictions have shape {tuple(logits_or_masks.shape)} and targets {tuple(targets.shape)}. '
                         'Give both as [num_masks, height, width].')
    # flatten(1) needs two axes; the new one has one element.
    predicted = (logits_or_masks > threshold).unsqueeze(-1).flatten(1)
    target = (targets != 0).unsqueeze(-1).flatten(1)
    counts = [(predicted & target).sum(1), predicted.sum(1), target.sum(1)]
    # float64 holds every pixel count exactly; float32 only up to 2^24, one 4096 x 4096 slide tile.
    return torch.stack(counts, dim=1).double()


def dice_from_statistics(stats: torch.Tensor) -> torch.Tensor:
    """Dice, `2 |P and T| / (|P| + |T|)`, 0 to 1.

    Args:
        stats: `[M, 3]` of `mask_statistics` (or any `[..., 3]`).

    Returns:
        `[M]`, the dtype of `stats` (float32 for integers). Both masks empty: 1.0; exactly one: 0.0.
    """
    intersection, predicted, target = _columns(stats)
    return _ratio(2 * intersection, predicted + target)


def iou_from_statistics(stats: torch.Tensor) -> torch.Tensor:
    """Intersection over union (Jaccard index), 0 to 1.

    Args:
        stats: `[M, 3]` of `mask_statistics` (or any `[..., 3]`).

    Returns:
        `[M]`, the dtype of `stats` (float32 for integers). Both masks empty: 1.0; exactly one: 0.0.
    """
    intersection, predicted, target = _columns(stats)
    return _ratio(intersection, predicted + target - intersection)


def dice_score(pred: np.ndarray, target: np.ndarray) -> float:
    """Dice of one pair of binary arrays, 0 to 1.

    Args:
        pred, target: The same shape, of any number of axes and any size. Booleans, integers (non-zero is foreground)
            or floats that are 0 or 1.

    Returns:
        The score. Both empty: 1.0; exactly one: 0.0.

    Raises:
        ValueError: The shapes differ, or an array holds other floats (logits, probabilities).
    """
    return dice_from_statistics(_pair_statistics(pred, target)).item()


def iou_score(pred: np.ndarray, target: np.ndarray) -> float:
    """Intersection over union of one pair of binary arrays, 0 to 1.

    Args:
        pred, target: As in `dice_score`.

    Returns:
        The score. Both empty: 1.0; exactly one: 0.0.

    Raises:
        ValueError: As in `dice_score`.
    """
    return iou_from_statistics(_pair_statistics(pred, target)).item()


def _ratio(numerator: torch.Tensor, denominator: torch.Tensor) -> torch.Tensor:
    # The rule for empty masks: the denominator is 0 if both are empty; the numerator is 0 if one is.
    return torch.where(denominator > 0, numerator / torch.where(denominator > 0, denominator, 1), 1)


def _columns(stats: torch.Tensor) -> tuple[torch.Tensor, ...]:
    if stats.dim() < 1 or stats.shape[-1] != 3:
        raise ValueError(f'Statistics have shape {tuple(stats.shape)}. Give [num_masks, 3] of mask_statistics.')
    return stats.to(torch.promote_types(stats.dtype, torch.float32)).unbind(-1)


def _pair_statistics(pred: np.ndarray, target: np.ndarray) -> torch.Tensor:
    """The counts of `mask_statistics` for one pair, `[3]`."""
    pred, target = _foreground(pred, 'prediction'), _foreground(target, 'target')
    if pred.shape != target.shape:
        raise ValueError(f'The prediction has shape {pred.shape} and the target {target.shape}. '
                         'Resize the prediction to the image first.')
    counts = [np.count_nonzero(pred & target), np.count_nonzero(pred), np.count_nonzero(target)]
    return torch.tensor(counts, dtype=torch.float64)


def _foreground(mask: np.ndarray, name: str) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.dtype.kind not in 'biu':
        binary = mask.dtype.kind == 'f' and bool(np.isin(mask, (0, 1)).all())
        if not binary:
            raise ValueError(f'The {name} ({mask.dtype}) is not a binary mask. Apply a threshold first.')
    return mask != 0
