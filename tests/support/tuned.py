"""A model with its tuner as `swift sft` makes it, without training; and models as the other commands load them."""
import torch
from torch import Tensor
from typing import Any

INPUTS = ('input_ids', 'attention_mask', 'pixel_values', 'image_grid_thw', 'mm_token_type_ids', 'g_pixel_values',
          'mask_image_index', 'mask_token_index')  # yapf: disable


def sft_arguments(model: str, dataset: str, output_dir: str, **flags: Any) -> Any:
    """`SftArguments` for one CPU in float32; `flags` as on the command line, without dashes."""
    from swift.arguments import SftArguments

    from swift_citrusv.plugin.register import register
    register()
    common = {
        'model': model,
        'model_type': 'citrusv',
        'dataset': [dataset],
        'output_dir': output_dir,
        'torch_dtype': 'float32',
        'fp16': False,
        'bf16': False,
        'use_cpu': True,
        'add_version': False,
        'report_to': ['none'],
        'device_map': 'cpu',
    }
    return SftArguments(**{**common, **flags})


def tuned(args: Any) -> Any:
    """The model with its tuner, every trainable parameter moved away from its initial value."""
    from swift.pipelines.train.sft import SwiftSft
    model, _ = args.get_model_processor()
    model = SwiftSft.prepare_model(args, model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return model


def loaded(*arguments: str) -> tuple[Any, Any]:
    """The model, with its adapters, and the template as `swift infer` loads them."""
    from swift.arguments import InferArguments
    from swift.pipelines.utils import prepare_model_template
    from transformers import HfArgumentParser

    from swift_citrusv.plugin.register import register
    register()
    args = HfArgumentParser(InferArguments).parse_args_into_dataclasses(
        [*arguments, '--torch_dtype', 'float32', '--device_map', 'cpu'])[0]
    return prepare_model_template(args)


def batch_of(template: Any, row: dict[str, Any]) -> dict[str, Tensor]:
    template.set_mode('train')
    batch = template.data_collator([template.encode(row, return_length=True)])
    return {key: batch[key] for key in INPUTS if key in batch}


def outputs(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Mask logits and token logits."""
    with torch.no_grad():
        result = model.eval()(**batch)
    return result.mask_logits, result.logits
