"""A quantized MLLM: the segmentation modules and the embeddings must keep their own weights."""
import torch
from torch import nn
from transformers import PreTrainedModel

from ..constants import SEG_TOKEN, SEGMENTATION_MODULES

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
# The packages of unquantized layers.
_HOMES = ('torch', 'sam2', __name__.partition('.')[0])


def check_quantized(model: PreTrainedModel) -> None:
    """Checks a loaded model: projector, SAM2, embeddings and language head are not quantized.

    Transformers' quantizers leave out `_keep_in_fp32_modules`, but not all of them, and a checkpoint from elsewhere may
    have been quantized in any way. SAM2 with weights of 4 bits still draws masks: bad ones.

    Raises:
        ValueError: A part is quantized, with the method and the remedy.
    """
    if getattr(model, 'hf_quantizer', None) is None:
        return
    found = {}
    for name in SEGMENTATION_MODULES:
        found[name] = _is_quantized(model.get_submodule(name))
    for name, module in (('the embedding', model.get_input_embeddings()), ('lm_head', model.get_output_embeddings())):
        found[f'{name} of {SEG_TOKEN}'] = _is_quantized(module)
    bad = [name for name, quantized in found.items() if quantized]
    if bad:
        method = model.hf_quantizer.quantization_config.quant_method
        raise ValueError(
            f'{model.name_or_path}: {getattr(method, "value", method)} has quantized {" and ".join(bad)}, so masks '
            'would be wrong. Load a checkpoint that is not quantized, with --quant_method bnb --quant_bits 4 if memory '
            'is short.')


def _is_quantized(module: nn.Module) -> bool:
    """Whether any layer within is of a quantizer's class, or has weights that are not plain floats."""
    for layer in module.modules():
        if type(layer).__module__.partition('.')[0] not in _HOMES:
            return True
        for parameter in layer.parameters(recurse=False):
            # torchao keeps the class of the layer, and replaces that of the weight.
            if type(parameter) is not nn.Parameter or parameter.dtype not in _FLOATS:
                return True
    return False
