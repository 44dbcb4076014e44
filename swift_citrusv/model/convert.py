"""Turns a published Citrus-V checkpoint (`published`) into a directory of ours, number for number.

Everything is checked before anything is written, from the names and shapes of the weights alone. Then the weights go
through memory a file at a time, and config.json is written last: a directory without it is no checkpoint to anybody.
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
from .published_layout import PADDING_POINTS, TEXT_REMEDY, TRAINING_SETTINGS, missing_for_text, our_settings
from .published_weights import Plan, find_files, plan_weights, tensors_of
from .safe_loading import refuse_code
from .segmenter import PRESETS

# Bytes of a file of weights, which is what the conversion holds in memory.
SHARD_BYTES = 2 * 2**30
# What an earlier checkpoint in the directory may have left; Transformers would read it before, or beside, the new one.
_OLD_WEIGHTS = ('model*.safetensors', 'model.safetensors.index.json', 'pytorch_model*.bin',
                'pytorch_model.bin.index.json')
_TEXT_PATTERNS = ('*.json', '*.jinja', 'merges.txt')


@dataclass(frozen=True)
class Conversion:
    """What was converted.

    config: As it was saved.
    num_bytes: Of the weights.
    num_files: That hold them.
    parts: Number and types ('bfloat16') of the weights of 'MLLM', 'projector' and 'SAM2'.
    left_out: Sentences about what was not carried over.
    text_from: Where tokenizer and processor came from; None where there are none.
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
        output_dir: The new directory; has to be empty, or not there.
        tokenizer: A directory with tokenizer and processor, where `source` has none or others are wanted. `[SEG]` is
            added to them.
        padding_points: See `CitrusVConfig`.
        overwrite: Whether `output_dir` may hold files. Weights and config.json in it are removed, others stay.
        shard_bytes: The most bytes of a new file of weights (one weight may be more).

    Returns:
        What was converted. Without tokenizer and processor the directory is good for masks and logits alone.

    Raises:
        ValueError: `source` is not whole, not in that layout, or names code; or the tokenizer gives `[SEG]` another id.
            Nothing was written.
        OSError: A file cannot be read or written. What was written has no config.json.
    """
    folder, output = Path(source), Path(output_dir)
    if not folder.is_dir():
        raise NotADirectoryError(f'{source} is no directory. Name one that holds a published Citrus-V checkpoint.')
    _check_output(folder, output, overwrite)
    refuse_code(source)
    values = _read_config(folder / 'config.json')
    config = _config(values, str(folder / 'config.json'), padding_points)
    plan = plan_weights(find_files(folder), config)
    processor, text_from = _processor(source, tokenizer, config.seg_token_id)
    shards = _shards(plan, shard_bytes)
    _check_room(output, plan.num_bytes)

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


# ---- before anything is written


def _check_output(source: Path, output: Path, overwrite: bool) -> None:
    if output.is_file():
        raise ValueError(f'{output} is a file. Name a directory.')
    if output.exists() and os.path.samefile(source, output):
        raise ValueError(f'{output} is the directory that is converted. Name another one.')
    held = sorted(path.name for path in output.iterdir()) if output.exists() else []
    if held and not overwrite:
        raise ValueError(f'{output} is not empty ({", ".join(held[:3])}{", ..." if len(held) > 3 else ""}). Name '
                         'another directory, or say --overwrite.')


def _check_room(output: Path, num_bytes: int) -> None:
    there = next(path for path in (output, *output.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < num_bytes:
        raise OSError(f'{there} has {free / 1e9:.1f} GB of room, but the weights take {num_bytes / 1e9:.1f} GB.')


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f'{path.parent} holds no config.json. Download the checkpoint again.')
    # That it is JSON, `refuse_code` has seen.
    values = json.loads(path.read_text(encoding='utf-8'))
    if not isinstance(values, dict):
        raise ValueError(f'{path} holds no JSON object. Download the checkpoint again.')
    return values


def _config(values: dict[str, Any], source: str, padding_points: int) -> CitrusVConfig:
    settings = our_settings(values, source, padding_points)
    if settings['sam2_preset'] not in PRESETS:
        raise ValueError(f'{source} names the SAM2 configuration {settings["sam2_preset"]!r} (the end of cfg_path in '
                         f'grounding_encoder_config), which is none of: {", ".join(PRESETS)}.')
    try:
        return CitrusVConfig(**settings)
    except (StrictDataclassError, ValueError, TypeError, LookupError, AttributeError) as e:
        raise ValueError(f'{source} is no configuration of a Qwen2.5-VL: {e} Download the file again.') from e


def _processor(source: str, tokenizer: str | None,
               seg_token_id: int | None) -> tuple[Qwen2_5_VLProcessor | None, str | None]:
    """Reads tokenizer and processor, with `[SEG]`, and says where they came from."""
    folder = source if tokenizer is None else tokenizer
    missing = missing_for_text(folder)
    if missing:
        if tokenizer is not None:
            raise ValueError(f'--tokenizer {tokenizer} holds no {" and no ".join(missing)}. Name a directory of '
                             'Qwen2.5-VL, of which nothing but these files is read.')
        return None, None
    refuse_code(folder)
    with tempfile.TemporaryDirectory() as text:
        # Apart from its config.json, which Transformers would ask for a class that it does not know.
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
        raise ValueError(f'The tokenizer in {folder} gives [SEG] the id {found}, but the model was trained with '
                         f'seg_token_idx {seg_token_id}: it is another tokenizer. {TEXT_REMEDY}')
    return processor, folder


def _check_json(path: Path) -> None:
    if path.suffix == '.json':
        try:
            json.loads(path.read_text(encoding='utf-8'))
        except (ValueError, RecursionError) as e:
            raise ValueError(f'{path} cannot be read as JSON: {e}. Download it again.') from e


# ---- writing


def _shards(plan: Plan, shard_bytes: int) -> list[list[str]]:
    """The published names of the weights by new file."""
    shards: list[list[str]] = [[]]
    room = shard_bytes
    for key, weight in plan.weights.items():
        if shards[-1] and weight.num_bytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(key)
        room -= weight.num_bytes
    return shards


def _write_weights(plan: Plan, shards: list[list[str]], output: Path) -> None:
    names = [f'model-{i:05}-of-{len(shards):05}.safetensors' for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = ['model.safetensors']
    with tqdm(total=plan.num_bytes, unit='B', unit_scale=True, desc='converting', delay=1) as bar:
        for name, keys in zip(names, shards):
            held = {}
            # Opened anew for each new file: what was read of a mapped file stays in memory until it is closed.
            for path in dict.fromkeys(plan.weights[key].path for key in keys):
                for key, tensor in tensors_of(path, set(keys)):
                    held[plan.weights[key].name] = tensor
                    bar.update(tensor.nbytes)
            # Transformers refuses files without a format.
            save_file(held, output / name, metadata={'format': 'pt'})
            del held
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
