"""The configuration of a Citrus-V checkpoint. Not beside the model, so that `AutoConfig` does not import SAM2."""
from transformers import Qwen2_5_VLConfig
from typing import Any

from ..constants import MODEL_TYPE
from .published_layout import refuse_published


class CitrusVConfig(Qwen2_5_VLConfig):
    """The configuration of `CitrusVForConditionalGeneration`: that of Qwen2.5-VL, and these.

    Args:
        sam2_preset: The SAM2 network, one of `model.segmenter.PRESETS`.
        multimask_output: Use SAM2's multimask heads (the best by predicted IoU), for checkpoints trained that way.
        padding_points: Number of SAM2's "not a point" embeddings in the sparse prompt, before that of `[SEG]`, for
            checkpoints trained that way.
        seg_token_id: The id of `[SEG]` in the tokenizer of this checkpoint.
        seg_projector_hidden_size: Inner width of the projector; the MLLM's hidden size by default.
        residual_projector: Whether the projector has a linear skip connection, for checkpoints trained that way.
    """
    model_type = MODEL_TYPE

    sam2_preset: str = 'sam2.1_hiera_l'
    multimask_output: bool = False
    padding_points: int = 0
    seg_token_id: int | None = None
    seg_projector_hidden_size: int | None = None
    residual_projector: bool = False

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: Any,
                        **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """As in Transformers.

        Raises:
            ValueError: A published checkpoint before conversion; Transformers would use default sizes and random
                weights.
        """
        values, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        refuse_published(values, str(pretrained_model_name_or_path))
        return values, kwargs
