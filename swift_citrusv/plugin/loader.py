"""Model loading for ms-swift: a Citrus-V checkpoint, or a plain Qwen2.5-VL that gets a new segmentation head."""
from contextlib import nullcontext
from swift.model.models.qwen import Qwen2_5VLLoader
from swift.utils import Processor, get_logger
from transformers import PretrainedConfig, PreTrainedModel
from typing import Any

from ..constants import MODEL_TYPE, SEG_TOKEN
from ..model.graft import add_seg_token, finish_graft, graft_config, ignore_missing_segmentation_weights
from ..model.modeling import CitrusVForConditionalGeneration
from ..model.published_layout import TEXT_REMEDY, missing_text_parts
from ..model.sam2_weights import Sam2Source, resolve_sam2
from ..settings import SettingError, Settings
from .devices import check_devices, one_device
from .models import loaded_next

logger = get_logger()


class CitrusVLoader(Qwen2_5VLLoader):
    """ms-swift's loader for `--model_type citrusv`."""
    # See `model.safe_loading`.
    default_trust_remote_code = False

    def get_config(self, model_dir: str) -> PretrainedConfig:
        config = super().get_config(model_dir)
        settings = Settings.from_env()
        self.sam2: Sam2Source | None = None
        if config.model_type != MODEL_TYPE:
            if settings.sam2 is None:
                raise SettingError(
                    f'{model_dir} is a plain {config.model_type} directory, and no SAM2 is given. Give one: '
                    '--model_kwargs \'{"sam2": "facebook/sam2.1-hiera-large"}\' (or a .pt file, or "tiny" for random '
                    'weights), or build a Citrus-V directory once: citrusv build --mllm ... --sam2 ... --output ...')
            self.sam2 = resolve_sam2(settings.sam2, settings.sam2_preset)
            config = graft_config(config, self.sam2, -1, bool(settings.multimask_output))
        elif settings.multimask_output is not None:
            config.multimask_output = settings.multimask_output
        return config

    def get_processor(self, model_dir: str, config: PretrainedConfig) -> Processor:
        missing = missing_text_parts(model_dir)
        if missing and self.sam2 is None:
            raise FileNotFoundError(f'{model_dir} holds no {" and no ".join(missing)}. {TEXT_REMEDY}')
        processor = super().get_processor(model_dir, config)
        tokenizer = self._get_tokenizer(processor)
        seg_token_id = add_seg_token(tokenizer)
        if self.sam2 is None and config.seg_token_id != seg_token_id:
            raise ValueError(
                f'{model_dir}: config.json has seg_token_id={config.seg_token_id}, but the id of {SEG_TOKEN} in the '
                f'tokenizer is {seg_token_id}. Take both from the same checkpoint.')
        config.seg_token_id = seg_token_id
        return processor

    def get_model(self, model_dir: str, config: PretrainedConfig, processor: Processor,
                  model_kwargs: dict[str, Any]) -> PreTrainedModel:
        if self.auto_model_cls is None:
            self.auto_model_cls: Any = CitrusVForConditionalGeneration
        settings = Settings.from_env()
        model_kwargs['device_map'] = one_device(model_kwargs.get('device_map'))
        with ignore_missing_segmentation_weights() if self.sam2 is not None else nullcontext():
            model = super().get_model(model_dir, config, processor, model_kwargs)
        if not self.return_dummy_model:
            check_devices(model)
            if self.sam2 is not None:
                finish_graft(model, self.sam2, config.seg_token_id, loaded_next())
                model.has_new_segmentation = True
            model.mask_grad_scale = settings.mask_grad_scale
            model.segmenter.chunk = settings.seg_chunk
        return model
