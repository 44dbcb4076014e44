"""The patch for quantization: methods that cannot keep the segmentation modules are refused, by name.

Replaces `QuantizeArguments.__post_init__` in `swift.arguments.base_args.quant_args`. That a method leaves the
segmentation modules alone is up to `CitrusVForConditionalGeneration._keep_in_fp32_modules`, and checked after loading
by `model.quantized.check_quantized`.
"""
from typing import Any

from ..constants import MODEL_TYPE
from .wrapping import wrap

# How ms-swift's methods for loading a model treat Citrus-V. A method that is not listed is refused.
LOADS = ('bnb', 'quanto', 'eetq', 'fp8')
TRAINS = ('bnb', 'quanto', 'eetq')
EXPORTS = ('bnb', 'fp8')
_REASONS = {
    'hqq': 'Transformers 5 cannot quantize with it',
    'awq': 'its calibration knows neither the class of the model nor its masks',
    'gptq': 'its calibration knows neither the class of the model nor its masks',
    'gptq_v2': 'its calibration knows neither the class of the model nor its masks',
}


def patch_quantization() -> None:
    """Refuses `--quant_method` and `--tuner_backend` values that do not work with Citrus-V, in every command."""
    from swift.arguments.base_args.quant_args import QuantizeArguments

    # Why: all arguments that load a model run this step, and it is the first after the model type is known.
    def post_init(original):

        def patched(self):
            original(self)
            if getattr(self, 'model_type', None) == MODEL_TYPE:
                check_loading(self)

        return patched

    wrap(QuantizeArguments, '__post_init__', ('self', ), post_init)


def check_loading(args: Any) -> None:
    """Checks how the model is going to be loaded.

    Raises:
        ValueError: Another loader than ours, or a quantization method that cannot be used, with those that can.
    """
    if args.tuner_backend != 'peft':
        raise ValueError(f'--tuner_backend {args.tuner_backend} loads the model itself, without projector and SAM2. '
                         'Use --tuner_backend peft with --model_type citrusv.')
    method = args.quant_method
    if method is None:
        return
    # Only `swift export` calibrates, and only its arguments have these two.
    exports = hasattr(args, 'quant_n_samples')
    # Only training has a choice of what to train.
    trains = hasattr(args, 'trainable_parameters')
    works, verb = (EXPORTS, 'export') if exports else (TRAINS, 'train') if trains else (LOADS, 'load')
    if method in works:
        if exports and args.adapters and not args.merge_lora:
            raise ValueError(f'--quant_method {method} with --adapters would write the adapter alone, and no quantized '
                             'model. Add --merge_lora true.')
        return
    if trains and method in LOADS:
        reason = f'weights that {method} has quantized cannot be trained, nor an adapter beside them'
    else:
        reason = _REASONS.get(method, 'whether it leaves projector and SAM2 as they are is not known')
    raise ValueError(f'--quant_method {method} cannot {verb} a Citrus-V model: {reason}. Use one of: '
                     f'{", ".join(works)}.')
