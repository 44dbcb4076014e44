"""Gradient clipping in stage 3: one norm over the whole model against one norm for each part.

    python tests/bench/bench_clipping.py --output output/bench/clipping.json

A tiny random model trains with the learning rates and the hook of `templates/stage3.yaml`, times `--scale`, on rows of
every kind; once with `--max_grad_norm 1` over all parameters, as ms-swift, DeepSpeed and FSDP2 clip, and once with the
MLLM and the segmentation modules clipped apart. It prints the norms, the factors, and how far the MLLM moves.
"""
import argparse
import json
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))
os.environ.setdefault('OMP_NUM_THREADS', '1')

MAX_NORM = 1.
MASK_GRAD_SCALE = 1e-3


def rates(name: str, scale: float) -> float:
    """Stage 3's learning rate of a parameter."""
    return scale * (2e-6 if name.startswith('model.visual') and 'merger' not in name else 1e-5)


def train(checkpoint: str, batches: list[dict[str, Any]], by_part: bool, scale: float) -> dict[str, Any]:
    """Trains a step on each batch.

    Returns:
        `norms` of the MLLM and of segmentation, and the `factors` that multiply their gradients, one pair a step; and
        the `movement` of the MLLM's parameters, a flat tensor.
    """
    import torch

    from swift_citrusv.constants import IGNORE_INDEX, SEGMENTATION_MODULES
    from swift_citrusv.model.losses import LossWeights, combine, mask_losses, token_loss
    from swift_citrusv.model.modeling import CitrusVForConditionalGeneration
    torch.manual_seed(0)
    model = CitrusVForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).train()
    model.mask_grad_scale = MASK_GRAD_SCALE
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    seg = [p for name, p in named.items() if name.startswith(SEGMENTATION_MODULES)]
    mllm = [p for name, p in named.items() if not name.startswith(SEGMENTATION_MODULES)]
    start = torch.cat([p.detach().flatten().clone() for p in mllm])
    optimizer = torch.optim.AdamW([{'params': [p], 'lr': rates(name, scale)} for name, p in named.items()],
                                  weight_decay=.1)  # yapf: disable
    norms, factors = [], []
    for batch in batches:
        labels = batch['labels'][:, 1:].flatten()
        outputs = model(**{key: value for key, value in batch.items() if key != 'labels'}, use_cache=False)
        tokens = token_loss(outputs.logits[:, :-1].flatten(0, 1), labels)
        dice, bce = mask_losses(outputs.mask_logits, outputs.mask_targets)
        combine(tokens.sum(), dice.sum(), bce.sum(), (labels != IGNORE_INDEX).sum(), max(len(dice), 1),
                LossWeights()).backward()
        parts = [float(torch.nn.utils.get_total_norm([p.grad for p in part if p.grad is not None]))
                 for part in (mllm, seg)]  # yapf: disable
        whole = (parts[0]**2 + parts[1]**2)**.5
        used = [min(1., MAX_NORM / norm) for norm in (parts if by_part else [whole] * 2)]
        for part, factor in zip((mllm, seg), used):
            for p in part:
                if p.grad is not None:
                    p.grad.mul_(factor)
        optimizer.step()
        optimizer.zero_grad()
        norms.append(parts)
        factors.append(used)
    return {
        'norms': norms,
        'factors': factors,
        'movement': torch.cat([p.detach().flatten() for p in mllm]) - start,
    }


def make_batches(folder: Path, checkpoint: str, steps: int, size: int) -> list[dict[str, Any]]:
    from support.rows import Maker
    from swift.model import get_model_processor
    from swift.template import get_template

    from swift_citrusv.constants import ROWS_KEY
    from swift_citrusv.plugin.register import register
    register()
    _, processor = get_model_processor(checkpoint, model_type='citrusv', load_model=False)
    template = get_template(processor, max_length=2048)
    template.set_mode('train')
    maker, rng = Maker(folder / 'images'), random.Random(0)
    rows = [template.encode(row, return_length=True) for _ in range(4) for row in maker.every_kind()]
    # The collator takes keys out of rows.
    batches = [template.data_collator([dict(row) for row in rng.sample(rows, size)]) for _ in range(steps)]
    return [{key: value for key, value in batch.items() if key != ROWS_KEY} for batch in batches]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--steps', type=int, default=200)
    parser.add_argument('--rows', type=int, default=4, help='of a step')
    parser.add_argument('--scale', type=float, default=100., help='factor on the learning rates')
    parser.add_argument('--output', type=Path)
    args = parser.parse_args()
    import torch

    from swift_citrusv.model.build import build_checkpoint
    from swift_citrusv.model.tiny import build_tiny_mllm
    with tempfile.TemporaryDirectory() as name:
        mllm, checkpoint = f'{name}/mllm', f'{name}/citrusv'
        build_tiny_mllm(mllm)
        build_checkpoint(mllm, 'tiny', checkpoint)
        batches = make_batches(Path(name), checkpoint, args.steps, args.rows)
        one, apart = (train(checkpoint, batches, by_part, args.scale) for by_part in (False, True))
    median: dict[str, Any] = {}
    for way, run in (('one norm', one), ('by part', apart)):
        of_mllm, of_seg = (torch.tensor(run['norms']).median(0).values.tolist())
        factor, seg_factor = torch.tensor(run['factors']).median(0).values.tolist()
        median[way] = {
            'norm of the MLLM': of_mllm,
            'norm of segmentation': of_seg,
            'factor of the MLLM': factor,
            'factor of segmentation': seg_factor,
            'movement of the MLLM': float(run['movement'].norm()),
        }
    cosine = float(torch.cosine_similarity(one['movement'], apart['movement'], dim=0))
    result = {**median, 'cosine of the movements': cosine, 'steps': args.steps, 'rows': args.rows, 'scale': args.scale}
    print(json.dumps(result, indent=2))
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
    main()
