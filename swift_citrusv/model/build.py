"""Builds a Citrus-V checkpoint directory from a Qwen2.5-VL and a SAM2."""
import os
import tempfile
import torch
from collections.abc import Iterable
from transformers import AutoConfig, AutoProcessor, PreTrainedConfig
from typing import Any

from ..constants import SEGMENTATION_MODULES
from .graft import add_seg_token, finish_graft, graft_config, ignore_missing_segmentation_weights
from .modeling import CitrusVForConditionalGeneration
from .published_layout import refuse_published
from .safe_loading import refuse_remote_code
from .sam2_weights import resolve_sam2
from .tiny import CORPUS, build_tiny_mllm


def _check_loaded(mllm: str, info: dict[str, Any]) -> None:
    # Transformers initialises missing weights at random, which only the segmentation parts may be.
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
                     seed: int = 0,
                     max_pixels: int | None = None) -> CitrusVForConditionalGeneration:
    """Builds and saves a checkpoint: model, processor, tokenizer with `[SEG]`.

    Args:
        mllm: A directory with a Qwen2.5-VL, or 'tiny' for a random one of about 1 M parameters. Nothing is downloaded.
        sam2: As in `resolve_sam2`: a `.pt` file, its directory, a hub name, or a preset name (random weights).
        output_dir: Created if it does not exist; must not contain a model.
        sam2_preset: The preset of a `.pt` file whose name does not contain it.
        multimask_output: See `CitrusVConfig`.
        dtype: Dtype of the MLLM; that of its checkpoint by default. The segmentation parts stay float32.
        corpus: Texts to train the tokenizer of 'tiny' on.
        seed: Seed of the random initialisation.
        max_pixels: The most pixels of an image that the vision encoder of 'tiny' sees.

    Returns:
        The model that was saved.

    Raises:
        ValueError: An input cannot be used, or the output directory already contains a model.
    """
    if os.path.exists(os.path.join(output_dir, 'config.json')):
        raise ValueError(f'{output_dir} already contains a model. Give another --output, or remove it.')
    source = resolve_sam2(sam2, sam2_preset)
    with tempfile.TemporaryDirectory() as folder:
        if mllm == 'tiny':
            build_tiny_mllm(folder, corpus, seed, max_pixels=max_pixels)
            mllm = folder
        refuse_remote_code(mllm)
        refuse_published(PreTrainedConfig.get_config_dict(mllm)[0], mllm)
        processor = AutoProcessor.from_pretrained(mllm)
        config = AutoConfig.from_pretrained(mllm)
        if config.model_type != 'qwen2_5_vl':
            raise ValueError(f'{mllm} contains a {config.model_type}; --mllm needs a Qwen2.5-VL (model_type '
                             'qwen2_5_vl).')
        seg_token_id = add_seg_token(processor.tokenizer)
        config = graft_config(config, source, seg_token_id, multimask_output)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            with ignore_missing_segmentation_weights():
                model, info = CitrusVForConditionalGeneration.from_pretrained(
                    mllm, config=config, dtype=dtype or 'auto', output_loading_info=True)
            _check_loaded(mllm, info)
            finish_graft(model, source, seg_token_id)
        model.save_pretrained(output_dir)
        processor.save_pretrained(output_dir)
    return model
