"""The published layout of Citrus-V, defined once more from other people's classes alone: Transformers' stock
Qwen2.5-VL, the `sam2` package built from its own YAML file, and two projectors. `citrusv convert` is compared with it.
"""
import json
import re
import shutil
import torch
from hydra import compose
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pathlib import Path
from safetensors.torch import save_file
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.transformer import TwoWayTransformer
from support.weights import spread
from torch import Tensor, nn
from transformers import AutoTokenizer, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from typing import Any

# sam2_hiera_t.yaml at the sizes of our preset 'tiny'.
_TINY = [
    '++model.image_size=256', '++model.image_encoder.trunk.embed_dim=16', '++model.image_encoder.trunk.num_heads=1',
    '++model.image_encoder.trunk.stages=[1,2,3,2]', '++model.image_encoder.trunk.global_att_blocks=[4]',
    '++model.image_encoder.trunk.window_spec=[8,4,14,7]', '++model.image_encoder.neck.d_model=64',
    '++model.image_encoder.neck.backbone_channel_list=[128,64,32,16]',
    '++model.image_encoder.neck.position_encoding.num_pos_feats=64', '++model.memory_attention.d_model=64',
    '++model.memory_attention.layer.d_model=64', '++model.memory_attention.layer.self_attention.embedding_dim=64',
    '++model.memory_attention.layer.cross_attention.embedding_dim=64', '++model.memory_encoder.out_dim=16'
]

_TEXT_KEYS = ('vocab_size', 'hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads',
              'num_key_value_heads', 'hidden_act', 'max_position_embeddings', 'initializer_range', 'rms_norm_eps',
              'attention_dropout', 'bos_token_id', 'eos_token_id')
_VISION_KEYS = ('depth', 'hidden_size', 'hidden_act', 'intermediate_size', 'num_heads', 'out_hidden_size', 'patch_size',
                'spatial_merge_size', 'window_size', 'fullatt_block_indexes', 'tokens_per_second',
                'temporal_patch_size')


def sam2_of(name: str, overrides: list[str] | None = None) -> nn.Module:
    """SAM2 from its package's YAML file `name`, with the modules for video."""
    config = compose(config_name=f'configs/{name.split("_")[0]}/{name}.yaml', overrides=overrides or [])
    OmegaConf.resolve(config)
    return instantiate(config.model, _recursive_=True)


def tiny_sam2() -> nn.Module:
    sam2 = sam2_of('sam2_hiera_t', _TINY)
    # Two widths that SAM2's own class does not take from its configuration.
    sam2.sam_mask_decoder = MaskDecoder(
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(depth=2, embedding_dim=64, mlp_dim=256, num_heads=8),
        transformer_dim=64,
        iou_head_depth=3,
        iou_head_hidden_dim=64,
        use_high_res_features=True,
        iou_prediction_use_sigmoid=True,
        pred_obj_scores=True,
        pred_obj_scores_mlp=True,
        use_multimask_token_for_obj_ptr=True)
    return sam2


class ResidualProjector(nn.Module):

    def __init__(self, width: int, output: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, width)
        self.linear2 = nn.Linear(width, output)
        self.residual_mapping = nn.Linear(width, output)

    def forward(self, x: Tensor) -> Tensor:
        return self.residual_mapping(x) + self.linear2(self.linear1(x).clamp(min=0))


class Published(nn.Module):
    """The model of the layout.

    Args:
        config: Of the MLLM.
        residual: Which projector.
        tiny: Whether SAM2 is the tiny one; else it is sam2_hiera_l.
    """

    def __init__(self, config: Qwen2_5_VLConfig, residual: bool, tiny: bool = True) -> None:
        super().__init__()
        self.mllm = Qwen2_5_VLForConditionalGeneration(config)
        self.grounding_encoder = nn.Module()
        self.grounding_encoder.sam2_model = tiny_sam2() if tiny else sam2_of('sam2_hiera_l')
        width, output = config.text_config.hidden_size, self.grounding_encoder.sam2_model.hidden_dim
        self.seg_projector: nn.Module = ResidualProjector(width, output) if residual else nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, output), nn.Dropout(0.))

    @torch.no_grad()
    def forward(self, inputs: dict[str, Tensor], places: list[tuple[int, int]], images: Tensor,
                num_padding: int) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [B, T, V]; and for each (row, position) of `places`, with its image of `images` (uint8 [K, 3, S, S]),
        the three masks [K, 3, m, m] and their predicted IoU [K, 3].
        """
        output = self.mllm(**inputs, output_hidden_states=True)
        sam2 = self.grounding_encoder.sam2_model
        masks, ious = [], []
        for (row, position), image in zip(places, images):
            prompt = self.seg_projector(output.hidden_states[-1][row, position])
            mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
            features = sam2.forward_image(((image / 255 - mean) / std)[None])
            _, levels, _, sizes = sam2._prepare_backbone_features(features)
            levels[-1] = levels[-1] + sam2.no_mem_embed
            fine, middle, coarse = (level.permute(1, 2, 0).view(1, -1, *size) for level, size in zip(levels, sizes))
            # SAM2's prompt encoder adds a padding point to those that it is given.
            given = num_padding - 1
            points = (torch.zeros(1, given, 2), -torch.ones(1, given))
            sparse, dense = sam2.sam_prompt_encoder(points=points, boxes=None, masks=None)
            assert sparse.shape[1] == num_padding
            three, iou, _, _ = sam2.sam_mask_decoder(
                image_embeddings=coarse,
                image_pe=sam2.sam_prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=torch.cat([sparse, prompt[None, None]], dim=1),
                dense_prompt_embeddings=dense,
                multimask_output=True,
                repeat_image=False,
                high_res_features=[fine, middle])
            masks.append(three[0])
            ious.append(iou[0])
        return output.logits, torch.stack(masks), torch.stack(ious)


def tiny_published(mllm: str, residual: bool, tied: bool = False, seed: int = 1) -> Published:
    """A random one, with the text and vision sizes of the Qwen2.5-VL in `mllm`."""
    config = Qwen2_5_VLConfig.from_pretrained(mllm)
    config.tie_word_embeddings = tied
    # Neither Transformers' defaults nor those of the tiny model.
    config.text_config.rope_parameters = {
        'rope_type': 'default',
        'rope_theta': 300.0,
        'mrope_section': [2, 6, 8],
    }
    config.text_config.rms_norm_eps = 1e-3
    config.vision_config.tokens_per_second = 2
    config.vision_config.hidden_act = 'gelu'
    model = Published(config, residual).eval()
    spread(model, seed)
    with torch.no_grad():
        # Mask logits of a few units, as trained ones are.
        for head in model.grounding_encoder.sam2_model.sam_mask_decoder.output_hypernetworks_mlps:
            head.layers[-1].weight *= 0.2
    return model


@torch.no_grad()
def balance(model: Published, inputs: dict[str, Tensor], places: list[tuple[int, int]], images: Tensor,
            num_padding: int) -> None:
    """Makes each of the three masks about as good as the others: which one is the best then depends on the prompt."""
    last = model.grounding_encoder.sam2_model.sam_mask_decoder.iou_prediction_head.layers[-1]
    last.weight *= 5
    last.bias[1:] -= model(inputs, places, images, num_padding)[2].logit().mean(dim=0)


def published_config(model: Published, seg_token_id: int, residual: bool, cfg_path: str) -> dict[str, Any]:
    """config.json as it was published: text fields flat, rope as `rope_scaling`."""
    config = model.mllm.config
    text, vision = config.text_config, config.vision_config
    return {
        'architectures': ['CitrusV'],
        'model_type': 'citrus_v',
        **{
            key: getattr(text, key)
            for key in _TEXT_KEYS
        },
        'max_window_layers': text.num_hidden_layers,
        'sliding_window': 32768,
        'use_sliding_window': False,
        'use_cache': True,
        'rope_theta': text.rope_parameters['rope_theta'],
        'rope_scaling': {
            'type': 'mrope',
            'mrope_section': text.rope_parameters['mrope_section'],
        },
        'vision_start_token_id': config.vision_start_token_id,
        'vision_end_token_id': config.vision_end_token_id,
        'image_token_id': config.image_token_id,
        'video_token_id': config.video_token_id,
        'tie_word_embeddings': config.tie_word_embeddings,
        'torch_dtype': 'bfloat16',
        'transformers_version': '4.52.4',
        'vision_config': {
            **{
                key: getattr(vision, key)
                for key in _VISION_KEYS
            },
            'in_chans': 3,
            'spatial_patch_size': vision.patch_size,
            'torch_dtype': 'bfloat16',
        },
        'grounding_encoder_config': {
            'apply_postprocessing': False,
            'cfg_path': cfg_path,
            'torch_dtype': 'bfloat16',
        },
        'loss_dice_config': {
            'naive_dice': True
        },
        'frozen_sam2_decoder': False,
        'seg_token_idx': seg_token_id,
        **({
            'use_res_seg_projector': True
        } if residual else {}),
    }


def old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names that Qwen2.5-VL had before Transformers 4.52."""
    renamed = {}
    for key, value in state.items():
        key = re.sub(r'^mllm\.model\.visual\.', 'mllm.visual.', key)
        renamed[re.sub(r'^mllm\.model\.language_model\.', 'mllm.model.', key)] = value
    return renamed


def write_weights(folder: Path, state: dict[str, Tensor], suffix: str = '.safetensors', num_files: int = 1) -> None:
    """Weights as `.safetensors` or `.bin`, divided among files with an index where there are several."""
    stem = 'model' if suffix == '.safetensors' else 'pytorch_model'
    names = [f'{stem}-{i + 1:05}-of-{num_files:05}{suffix}' for i in range(num_files)]
    names = [f'{stem}{suffix}'] if num_files == 1 else names
    places = {key: names[i % num_files] for i, key in enumerate(state)}
    for name in names:
        part = {key: state[key] for key, place in places.items() if place == name}
        if suffix == '.safetensors':
            save_file({key: value.contiguous() for key, value in part.items()}, folder / name)
        else:
            torch.save(part, folder / name)
    if num_files > 1:
        (folder / f'{stem}{suffix}.index.json').write_text(json.dumps({'weight_map': places}))


def write_published(folder: Path,
                    model: Published,
                    mllm: str,
                    *,
                    residual: bool = False,
                    suffix: str = '.safetensors',
                    num_files: int = 1,
                    old: bool = False,
                    text: bool = True) -> Path:
    """A checkpoint directory in the published layout; tokenizer and processor are those of `mllm`, without `[SEG]`."""
    folder.mkdir(parents=True)
    state = dict(model.state_dict())
    if model.mllm.config.tie_word_embeddings and suffix == '.safetensors':
        del state['mllm.lm_head.weight']
    write_weights(folder, old_names(state) if old else state, suffix, num_files)
    seg_token_id = len(AutoTokenizer.from_pretrained(mllm))
    config = published_config(model, seg_token_id, residual, '/somewhere/else/sam2_configs/tiny.yaml')
    (folder / 'config.json').write_text(json.dumps(config))
    if text:
        for path in Path(mllm).iterdir():
            if path.suffix in {'.json', '.jinja'} and path.name not in {'config.json', 'generation_config.json'}:
                shutil.copy(path, folder)
    return folder
