"""Rows for the model itself, as tensors, and padded batches of them."""
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from typing import Any


def picture(seed: int, size=(84, 84)) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    small = torch.randint(0, 256, (3, 3, 3), dtype=torch.uint8, generator=generator).numpy()
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def row_of(processor, text: str, num_images: int, mask_images: list[int], seed: int) -> dict[str, Any]:
    """One row, not padded; `mask_images` has an entry for each [SEG] of the text."""
    pictures = [picture(100 * seed + i) for i in range(num_images)]
    prefix = '<|vision_start|><|image_pad|><|vision_end|>' * num_images
    inputs = processor(text=[prefix + text], images=pictures or None, return_tensors='pt')
    seg = processor.tokenizer.convert_tokens_to_ids('[SEG]')
    generator = torch.Generator().manual_seed(seed)
    places = (inputs['input_ids'][0] == seg).nonzero().flatten()
    assert len(places) == len(mask_images)
    return {
        'inputs': dict(inputs),
        'images': torch.randint(0, 256, (num_images, 3, 256, 256), dtype=torch.uint8, generator=generator),
        'masks': torch.randint(0, 2, (len(mask_images), 1, 64, 64), dtype=torch.uint8, generator=generator),
        'mask_images': torch.tensor(mask_images, dtype=torch.int64),
        'places': places,
    }


def every_kind_of_row(processor) -> list[dict[str, Any]]:
    """Of every kind: one mask, three on two images out of order, none, two on one image, an image without mask."""
    return [
        row_of(processor, 'The nuclei: [SEG].', 1, [0], seed=1),
        row_of(processor, 'First [SEG], then the bone, [SEG], and the vessels [SEG].', 2, [1, 0, 1], seed=2),
        row_of(processor, 'What imaging modality is this?', 0, [], seed=3),
        row_of(processor, 'Cell [SEG] [SEG]', 1, [0, 0], seed=4),
        row_of(processor, 'Only in the last one: [SEG]', 3, [2], seed=5),
    ]


def stack(parts: list[Tensor], value: int) -> Tensor:
    longest = max(len(part) for part in parts)
    return torch.stack(
        [F.pad(part, (0, 0) * (part.ndim - 1) + (0, longest - len(part)), value=value) for part in parts])


def padded_batch(rows: list[dict[str, Any]], side: str = 'right') -> dict[str, Tensor]:
    """Pads rows as the row contract says."""
    longest = max(row['inputs']['input_ids'].shape[1] for row in rows)
    batch = {}
    for key in ('input_ids', 'attention_mask', 'mm_token_type_ids'):
        shifts = [longest - row['inputs'][key].shape[1] for row in rows]
        batch[key] = torch.cat([
            F.pad(row['inputs'][key], (shift, 0) if side == 'left' else (0, shift)) for row, shift in zip(rows, shifts)
        ])
    for key in ('pixel_values', 'image_grid_thw'):
        batch[key] = torch.cat([row['inputs'][key] for row in rows if key in row['inputs']])
    places = [row['places'] + (shift if side == 'left' else 0) for row, shift in zip(rows, shifts)]
    return batch | {
        # The empty places hold what would hurt, were they read.
        'g_pixel_values': stack([row['images'] for row in rows], 255),
        'masks': stack([row['masks'] for row in rows], 1),
        'mask_image_index': stack([row['mask_images'] for row in rows], -1),
        'mask_token_index': stack(places, -1),
    }
