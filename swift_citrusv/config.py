"""The configuration of a Citrus-V checkpoint; apart from the model, so that `AutoConfig` costs no import of SAM2."""
from transformers import Qwen2_5_VLConfig

from .constants import MODEL_TYPE


class CitrusVConfig(Qwen2_5_VLConfig):
    """Configuration of `CitrusVForConditionalGeneration`: that of Qwen2.5-VL, and

    Args:
        sam2_preset: The SAM2 network, one of `swift_citrusv.segmenter.PRESETS`.
        multimask_output: Draw with SAM2's multimask heads (the best by predicted IoU), for checkpoints trained so.
        seg_token_id: The id of `[SEG]` in the tokenizer of this checkpoint.
        seg_projector_hidden_size: Inner width of the projector; the MLLM's hidden size by default.
    """
    model_type = MODEL_TYPE

    sam2_preset: str = 'sam2.1_hiera_l'
    multimask_output: bool = False
    seg_token_id: int | None = None
    seg_projector_hidden_size: int | None = None
