"""Converts a published Citrus-V checkpoint (`published_layout`) to a directory in our layout, with identical weights.

All checks come before the first write, from the names and shapes of the weights alone. Then the weights are copied, one
new file in memory at a time. config.json is written last: without it no loader accepts a directory as a checkpoint.
"""
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from huggingface_hub.errors import StrictDataclassError
from pathlib import Path
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import Qwen2_5_VLProcessor
from typing import Any

from .config import CitrusVConfig
from .graft import add_seg_token
from .published_layout import PADDING_POINTS, TEXT_REMEDY, TRAINING_SETTINGS, config_arguments, missing_text_parts
from .published_weights import WeightPlan, find_weight_files, iter_tensors, plan_weights
from .safe_loading import refuse_remote_code
from .segmenter import PRESETS

# Bytes of a new weight file, and so the memory that the conversion needs.
SHARD_BYTES = 2 * 2**30
# Files of an earlier checkpoint in the directory, which Transformers would read instead of the new ones.
_OLD_WEIGHTS = ('model*.safetensors', 'model.safetensors.index.json', 'pytorch_model*.bin',
                'pytorch_model.bin.index.json')
_TEXT_PATTERNS = ('*.json', '*.jinja', 'merges.txt')


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion.

    config: The saved configuration.
    num_bytes: Bytes of the weights.
    num_files: Number of weight files.
    parts: Number and dtypes ('bfloat16') of the weights of 'MLLM', 'projector' and 'SAM2'.
    left_out: A sentence for each group of weights and settings that was not converted.
    text_from: The directory of tokenizer and processor; None if there are none.
    """
    config: CitrusVConfig
    num_bytes: int
    num_files: int
    parts: dict[str, tuple[int, list[str]]]
    left_out: list[str]
    text_from: str | None


def convert_checkpoint(source: str,
                       output_dir: str,
                       *,
                       tokenizer: str | None = None,
                       padding_points: int = PADDING_POINTS,
                       overwrite: bool = False,
                       shard_bytes: int = SHARD_BYTES) -> Conversion:
    """Converts a checkpoint directory.

    Args:
        source: A directory in the published layout: safetensors or `.bin`, in one file or several.
        output_dir: The new directory; must be empty or not exist.
        tokenizer: A directory with tokenizer and processor, if `source` has none or others should be used. `[SEG]` is
            added to them.
        padding_points: See `CitrusVConfig`.
        overwrite: Whether `output_dir` may contain files. Weights and config.json in it are removed, others stay.
        shard_bytes: Maximum size of a new weight file in bytes (a single weight may be larger).

    Returns:
        A summary. Without tokenizer and processor, the new directory supports masks and logits but no text.

    Raises:
        ValueError: `source` is incomplete, not in that layout, or names code; or the tokenizer has another id for
            `[SEG]`. Nothing was written.
        OSError: A file cannot be read or written. The new directory has no config.json.
    """
    folder, output = Path(source), Path(output_dir)
    if not folder.is_dir():
        raise NotADirectoryError(f'{source} is not a directory. Give one with a published Citrus-V checkpoint.')
    _check_output(folder, output, overwrite)
    refuse_remote_code(source)
    values = _read_config(folder / 'config.json')
    config = _translate_config(values, str(folder / 'config.json'), padding_points)
    plan = plan_weights(find_weight_files(folder), config)
    processor, text_from = _load_processor(source, tokenizer, config.seg_token_id)
    shards = _plan_shards(plan, shard_bytes)
    _check_disk_space(output, plan.num_bytes)

    output.mkdir(parents=True, exist_ok=True)
    for pattern in ('config.json', *_OLD_WEIGHTS):
        for path in output.glob(pattern):
            path.unlink()
    _write_weights(plan, shards, output)
    if processor is not None:
        processor.save_pretrained(output)
    if (folder / 'generation_config.json').is_file():
        shutil.copyfile(folder / 'generation_config.json', output / 'generation_config.json')
    with tempfile.TemporaryDirectory(dir=output) as unfinished:
        config.save_pretrained(unfinished)
        os.replace(Path(unfinished) / 'config.json', output / 'config.json')
    settings = [key for key in TRAINING_SETTINGS if key in values]
    left_out = [*plan.left_out, *([f'settings of its training: {", ".join(settings)}'] if settings else [])]
    parts = {part: (len(held), sorted({weight.dtype for weight in held})) for part, held in plan.parts().items()}
    return Conversion(config, plan.num_bytes, len(shards), parts, left_out, text_from)


# ---- before the first write


def _check_output(source: Path, output: Path, overwrite: bool) -> None:
    if output.is_file():
        raise ValueError(f'{output} is a file. Give a directory.')
    if output.exists() and os.path.samefile(source, output):
        raise ValueError(f'{output} is the directory to convert. Give another output directory.')
    names = sorted(path.name for path in output.iterdir()) if output.exists() else []
    if names and not overwrite:
        raise ValueError(f'{output} is not empty ({", ".join(names[:3])}{", ..." if len(names) > 3 else ""}). Give '
                         'another directory, or add --overwrite.')


def _check_disk_space(output: Path, num_bytes: int) -> None:
    existing = next(path for path in (output, *output.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < num_bytes:
        raise OSError(f'{existing} has {free / 1e9:.1f} GB of free space, but the weights need '
                      f'{num_bytes / 1e9:.1f} GB. Free some, or give another directory.')


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f'{path.parent} holds no config.json. Download the checkpoint again.')
    # `refuse_remote_code` has checked that it is JSON.
    values = json.loads(path.read_text(encoding='utf-8'))
    if not isinstance(values, dict):
        raise ValueError(f'{path} contains no JSON object. Download the checkpoint again.')
    return values


def _translate_config(values: dict[str, Any], source: str, padding_points: int) -> CitrusVConfig:
    settings = config_arguments(values, source, padding_points)
    if settings['sam2_preset'] not in PRESETS:
        raise ValueError(f'{source} names the SAM2 configuration {settings["sam2_preset"]!r} (the end of cfg_path in '
                         f'grounding_encoder_config). Supported are: {", ".join(PRESETS)}.')
    try:
        return CitrusVConfig(**settings)
    except (StrictDataclassError, ValueError, TypeError, LookupError, AttributeError) as e:
        raise ValueError(f'{source} is not a configuration of a Qwen2.5-VL: {e} Download the file again.') from e


def _load_processor(source: str, tokenizer: str | None,
                    seg_token_id: int | None) -> tuple[Qwen2_5_VLProcessor | None, str | None]:
    """Reads tokenizer and processor, adds `[SEG]`, and returns the processor with the directory it was read from."""
    folder = source if tokenizer is None else tokenizer
    missing = missing_text_parts(folder)
    if missing:
        if tokenizer is not None:
            raise ValueError(f'--tokenizer {tokenizer} holds no {" and no ".join(missing)}. Give a directory of '
                             'Qwen2.5-VL; only these files are read.')
        return None, None
    refuse_remote_code(folder)
    with tempfile.TemporaryDirectory() as text:
        # Without config.json, whose model type Transformers does not support.
        for pattern in _TEXT_PATTERNS:
            for path in Path(folder).glob(pattern):
                if path.name != 'config.json' and not path.name.endswith('.index.json'):
                    _check_json(path)
                    shutil.copyfile(path, Path(text) / path.name)
        (Path(text) / 'config.json').write_text(json.dumps({'model_type': 'qwen2_5_vl'}), encoding='utf-8')
        try:
            processor = Qwen2_5_VLProcessor.from_pretrained(text, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as e:
            raise ValueError(f'Tokenizer and processor in {folder} cannot be read: {e} {TEXT_REMEDY}') from e
    found = add_seg_token(processor.tokenizer)
    if found != seg_token_id:
        raise ValueError(f'The id of [SEG] in the tokenizer in {folder} is {found}, but the model was trained with '
                         f'seg_token_idx {seg_token_id}, so with another tokenizer. {TEXT_REMEDY}')
    return processor, folder


def _check_json(path: Path) -> None:
    if path.suffix == '.json':
        try:
            json.loads(path.read_text(encoding='utf-8'))
        except (ValueError, RecursionError) as e:
            raise ValueError(f'{path} cannot be read as JSON: {e}. Download it again.') from e


# ---- writing


def _plan_shards(plan: WeightPlan, shard_bytes: int) -> list[list[str]]:
    """The published names of the weights of each new file."""
    shards: list[list[str]] = [[]]
    space = shard_bytes
    for key, weight in plan.weights.items():
        if shards[-1] and weight.num_bytes > space:
            shards.append([])
            space = shard_bytes
        shards[-1].append(key)
        space -= weight.num_bytes
    return shards


def _write_weights(plan: WeightPlan, shards: list[list[str]], output: Path) -> None:
    names = [f'model-{i:05}-of-{len(shards):05}.safetensors' for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = ['model.safetensors']
    with tqdm(total=plan.num_bytes, unit='B', unit_scale=True, desc='converting', delay=1) as bar:
        for name, keys in zip(names, shards):
            tensors = {}
            # Reopened for each new file: the pages read from a memory-mapped file stay resident until it is closed.
            for path in dict.fromkeys(plan.weights[key].path for key in keys):
                for key, tensor in iter_tensors(path, set(keys)):
                    tensors[plan.weights[key].name] = tensor
                    bar.update(tensor.nbytes)
            # Transformers refuses files without a format.
            save_file(tensors, output / name, metadata={'format': 'pt'})
            del tensors
    if len(shards) > 1:
        index = {
            'metadata': {
                'total_size': plan.num_bytes
            },
            'weight_map': {
                plan.weights[key].name: name
                for name, keys in zip(names, shards)
                for key in keys
            },
        }
        (output / 'model.safetensors.index.json').write_text(json.dumps(index, indent=2) + '\n', encoding='utf-8')
