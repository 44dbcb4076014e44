"""Adds a new segmentation head to a plain Qwen2.5-VL: `[SEG]`, the projector and SAM2."""
import logging
import math
import torch
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from safetensors import safe_open
from torch import nn
from transformers import AddedToken, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations import is_deepspeed_zero3_enabled

from ..constants import SEG_TOKEN, SEGMENTATION_MODULES
from .config import CitrusVConfig
from .modeling import CitrusVForConditionalGeneration
from .sam2_weights import Sam2Source, load_sam2_weights

# A child of ms-swift's logger: uses its handlers and level if ms-swift is loaded, and does not import it.
logger = logging.getLogger('swift.citrusv')


def gathered(parameters: Iterable[nn.Parameter]) -> AbstractContextManager:
    """A context in which parameters are complete and writable under ZeRO-3; rank 0's values are kept."""
    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    import deepspeed

    # Without duplicates: embeddings may be tied.
    return deepspeed.zero.GatheredParameters(list(dict.fromkeys(parameters)), modifier_rank=0)


def add_seg_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Adds `[SEG]` to the tokenizer if it is missing, and returns its id.

    It is an added token but not a special one, so decoding with `skip_special_tokens` keeps it in the text.
    """
    tokenizer.add_tokens([AddedToken(SEG_TOKEN, normalized=False, special=False)])
    return tokenizer.convert_tokens_to_ids(SEG_TOKEN)


def resize_for_seg(model: PreTrainedModel, seg_token_id: int) -> None:
    """Sets the embedding of `[SEG]` to the mean of the others, after enlarging the embeddings if necessary.

    Qwen2.5-VL's embeddings have unused rows, so they rarely grow (then to a multiple of 128, as Qwen pads them). The
    unused rows were never trained, hence the mean.
    """
    weight = model.get_input_embeddings().weight
    rows = getattr(weight, 'ds_shape', weight.shape)[0]
    if seg_token_id >= rows:
        model.resize_token_embeddings(math.ceil((seg_token_id + 1) / 128) * 128)
    weights = [layer.weight for layer in (model.get_input_embeddings(), model.get_output_embeddings())]
    with torch.no_grad(), gathered(weights):
        for weight in weights:
            weight[seg_token_id] = weight[:seg_token_id].float().mean(dim=0).to(weight.dtype)


def graft_config(config: PretrainedConfig, sam2: Sam2Source, seg_token_id: int,
                 multimask_output: bool) -> CitrusVConfig:
    """The Citrus-V configuration for a plain Qwen2.5-VL's configuration."""
    values = {
        k: v
        for k, v in config.to_dict().items() if k not in {'model_type', 'architectures', 'transformers_version'}
    }
    return CitrusVConfig(
        **values, sam2_preset=sam2.preset, seg_token_id=seg_token_id, multimask_output=multimask_output)


@contextmanager
def ignore_missing_segmentation_weights() -> Iterator[None]:
    """Leaves only the segmentation parts out of Transformers' report of missing weights.

    A plain Qwen2.5-VL never has them; a hundred lines about them would hide a line about a weight that it should have.
    """
    model_class = CitrusVForConditionalGeneration
    before = model_class._keys_to_ignore_on_load_missing
    model_class._keys_to_ignore_on_load_missing = [*(before or ()), *(rf'^{name}\.' for name in SEGMENTATION_MODULES)]
    try:
        yield
    finally:
        model_class._keys_to_ignore_on_load_missing = before


def holds_segmentation(checkpoint: str) -> bool:
    """Whether a checkpoint, or an adapter, in a folder holds weights of the projector and of SAM2."""
    names: set[str] = set()
    for path in Path(checkpoint).glob('*.safetensors'):
        with safe_open(path, framework='pt') as file:
            names.update(part for name in file.keys() for part in name.split('.'))
    return names.issuperset(SEGMENTATION_MODULES)


def finish_graft(model: CitrusVForConditionalGeneration,
                 sam2: Sam2Source,
                 seg_token_id: int,
                 loaded_next: Sequence[str] = ()) -> None:
    """Completes a model that was loaded from a plain Qwen2.5-VL: SAM2's weights, and the embedding of `[SEG]`.

    Args:
        model: The model.
        sam2: SAM2's weights.
        seg_token_id: The id of `[SEG]` in the tokenizer.
        loaded_next: Folders of adapters or checkpoints that are loaded after it; their weights replace these.
    """
    if sam2.path is not None:
        with gathered(model.segmenter.parameters()):
            load_sam2_weights(model.segmenter, sam2.path)
    resize_for_seg(model, seg_token_id)
    model.config.seg_token_id = seg_token_id
    source = next((folder for folder in loaded_next if holds_segmentation(folder)), None)
    if source is not None:
        logger.info(f'Added a segmentation head, SAM2 {sam2.preset}. Its weights come from {source}.')
        return
    lacking = f' {" and ".join(loaded_next)} holds no weights of segmentation.' if loaded_next else ''
    logger.info(f'Added a new segmentation head: SAM2 {sam2.preset} from {sam2.path or "random initialisation"}, a new '
                f'projector.{lacking}')
