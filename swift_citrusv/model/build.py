"""Makes a Citrus-V checkpoint directory out of a Qwen2.5-VL and a SAM2."""
import os
import tempfile
import torch
from collections.abc import Iterable
from transformers import AutoConfig, AutoProcessor, PreTrainedConfig
from typing import Any

from ..constants import SEGMENTATION_MODULES
from .graft import add_seg_token, finish_graft, fresh_head_expected, graft_config
from .modeling import CitrusVForConditionalGeneration
from .published_layout import refuse_published
from .safe_loading import refuse_code
from .sam2_weights import resolve_sam2
from .tiny import CORPUS, build_tiny_mllm


def _check_loaded(mllm: str, info: dict[str, Any]) -> None:
    """Transformers fills what a file does not hold with random numbers; only the graft may start so."""
    missing = sorted(name for name in info['missing_keys'] if not name.startswith(SEGMENTATION_MODULES))
    if missing:
        raise ValueError(f'{mllm} lacks {len(missing)} weights of Qwen2.5-VL: {", ".join(missing[:5])}'
                         f'{", ..." if len(missing) > 5 else ""}. Download it again.')


def build_checkpoint(mllm: str,
                     sam2: str,
                     output_dir: str,
                     *,
                     sam2_preset: str | None = None,
                     multimask_output: bool = False,
                     dtype: torch.dtype | None = None,
                     corpus: Iterable[str] = CORPUS,
                     seed: int = 0) -> CitrusVForConditionalGeneration:
    """Builds and saves a checkpoint: model, processor, tokenizer with `[SEG]`.

    Args:
        mllm: A Qwen2.5-VL directory, a hub name, or 'tiny' for a random one of about 1 M parameters.
        sam2: A `.pt` file, a hub name, or a preset name (random weights; 'tiny' is the small one).
        output_dir: Made where it does not exist; must not hold a model.
        sam2_preset: The preset of a `.pt` file whose name does not tell it.
        multimask_output: See `CitrusVConfig`.
        dtype: Of the MLLM; that of its checkpoint by default. The segmentation parts stay float32.
        corpus: Texts for the tokenizer of 'tiny'.
        seed: Of what is initialised at random.

    Returns:
        The model that was saved.

    Raises:
        ValueError: An input that cannot be used, or an output directory that holds a model already.
    """
    if os.path.exists(os.path.join(output_dir, 'config.json')):
        raise ValueError(f'{output_dir} holds a model already. Name another --output, or remove it.')
    source = resolve_sam2(sam2, sam2_preset)
    with tempfile.TemporaryDirectory() as folder:
        if mllm == 'tiny':
            build_tiny_mllm(folder, corpus, seed)
            mllm = folder
        refuse_code(mllm)
        refuse_published(PreTrainedConfig.get_config_dict(mllm)[0], mllm)
        processor = AutoProcessor.from_pretrained(mllm)
        config = AutoConfig.from_pretrained(mllm)
        if config.model_type != 'qwen2_5_vl':
            raise ValueError(f'{mllm} holds a {config.model_type}; --mllm takes a Qwen2.5-VL (model_type qwen2_5_vl).')
        seg_token_id = add_seg_token(processor.tokenizer)
        config = graft_config(config, source, seg_token_id, multimask_output)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            with fresh_head_expected():
                model, info = CitrusVForConditionalGeneration.from_pretrained(
                    mllm, config=config, dtype=dtype or 'auto', output_loading_info=True)
            _check_loaded(mllm, info)
            finish_graft(model, source, seg_token_id)
        model.save_pretrained(output_dir)
        processor.save_pretrained(output_dir)
    return model
