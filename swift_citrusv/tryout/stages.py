"""The training stages of a tiny model, each a run of stock `swift sft` with a stage file."""
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..constants import IMAGE_PLACEHOLDER, SEG_TOKEN
from ..package_files import templates_dir
from .child import PROCESSOR_SECONDS
from .naming import text_of
from .processes import SwiftProcesses
from .progress import Progress
from .user_rows import UserMask, UserRow

# On CPUs, in float32. Packs of up to eight segmentation images in all ranks together.
LAPTOP = ('--torch_dtype float32 --fp16 false --bf16 false --use_cpu true --gradient_checkpointing false '
          '--max_length 4096 --packing_length 1024 --gradient_accumulation_steps 1 --dataset_num_proc 1 '
          '--dataloader_num_workers 0 --add_version false --save_strategy steps --save_steps 1000000 '
          '--save_only_model true --eval_strategy no --report_to none --logging_steps 5 --seed 0 '
          '--data_seed 0').split()
_GLOO = ('--ddp_backend', 'gloo', '--ddp_find_unused_parameters', 'false')
_PACK_IMAGES = 8
# Rows times epochs of each stage in ten minutes: what a model that starts from noise needs.
_PASSES = {'text': 5000, 'joint': 1500, 'segmentation': 6000}
_MOST_EPOCHS = {'text': 60, 'joint': 20, 'segmentation': 60}
LOSSES = ('loss', 'loss_token', 'loss_dice', 'loss_bce')


@dataclass(frozen=True)
class Stage:
    """A run of `swift sft`.

    Attributes:
        name: Names its folder and its line.
        template: The stage file: 'stage2'.
        dataset: The rows.
        arguments: Flags besides `LAPTOP`, over which they win.
        model_kwargs: The setting of `--model_kwargs`.
    """
    name: str
    template: str
    dataset: Path
    arguments: tuple[str, ...] = ()
    model_kwargs: dict[str, Any] = field(default_factory=dict)

    def command(self, model: str, output: Path, num_ranks: int) -> list[str]:
        """The arguments of `swift sft`."""
        settings = {'pack_images': max(1, _PACK_IMAGES // num_ranks), **self.model_kwargs}
        return [
            str(templates_dir() / f'{self.template}.yaml'), '--model', model, '--dataset',
            str(self.dataset), '--output_dir',
            str(output), *LAPTOP, *(_GLOO if num_ranks > 1 else ()), '--model_kwargs',
            json.dumps(settings), *self.arguments
        ]


def tiny_stages(folder: Path, rows: Sequence[UserRow], masks: Sequence[UserMask], minutes: float) -> list[Stage]:
    """The three stages of `citrusv try`, and their files.

    The words first, as text alone; then everything; then the masks. A pretrained MLLM encodes at `[SEG]` which
    structure is meant. One that starts from noise learns it only if it must predict the name there. So the text stage
    has each row with masks a second time, with the name behind each `[SEG]`: 'Here is the left atrium: [SEG] left
    atrium.'

    Args:
        folder: Where the files of the stages go.
        rows: The training rows.
        masks: Their masks; `row` is the index in `rows`.
        minutes: Nominal minutes on two quiet cores; the steps are in proportion.
    """
    everything = [item.row for item in rows]
    files = {
        'text': [*named_rows(rows, masks), *(without_images(row) for row in everything if row.get('messages'))],
        'joint': everything,
        'segmentation': [item.row for item in rows if item.num_masks]
    }
    paths = {name: write_jsonl(folder / f'{name}.jsonl', content) for name, content in files.items()}

    def epochs(name: str) -> str:
        return str(max(1, min(math.ceil(_PASSES[name] * minutes / 10 / len(files[name])), _MOST_EPOCHS[name])))

    return [
        Stage('text', 'stage2', paths['text'],
              ('--num_train_epochs', epochs('text'), '--packing_length', '256', '--learning_rate', '1e-3', '--vit_lr',
               '5e-4', '--aligner_lr', '5e-4')),
        Stage('joint', 'stage3', paths['joint'],
              ('--num_train_epochs', epochs('joint'), '--learning_rate', '5e-4', '--vit_lr', '5e-4', '--aligner_lr',
               '5e-4'), {'seg_lr': 7e-4, 'mask_grad_scale': 1.}),
        Stage('segmentation', 'stage4', paths['segmentation'],
              ('--num_train_epochs', epochs('segmentation'), '--learning_rate', '7e-4', '--warmup_ratio', '0.1'),
              {'seg_lr': 7e-4})
    ]  # yapf: disable


def named_rows(rows: Sequence[UserRow], masks: Sequence[UserMask]) -> list[dict[str, Any]]:
    """The rows with masks as text, with the name of each mask behind its `[SEG]`; rows without a name are left out."""
    names: dict[int, list[str]] = {}
    for mask in masks:
        names.setdefault(mask.row, []).append(mask.name)
    found = []
    for index, own in names.items():
        if not any(own):
            continue
        messages, place = [], 0
        for message in without_images(rows[index].row)['messages']:
            if message['role'] == 'assistant':
                text, *others = message['content'].split(SEG_TOKEN)
                for other in others:
                    name, place = own[place], place + 1
                    behind = f'{" " if name.isascii() else ""}{name}'
                    text += f'{SEG_TOKEN}{"" if name.lower() in other.lower() else behind}{other}'
                message = {**message, 'content': text}
            messages.append(message)
        found.append({'messages': messages})
    return found


def without_images(row: dict[str, Any]) -> dict[str, Any]:
    """A row as text only: `[SEG]` in the answer, no image, no mask."""
    messages = [{**message, 'content': text_of(message['content']).replace(IMAGE_PLACEHOLDER, '').strip() or '?'}
                for message in row['messages']]  # yapf: disable
    return {'messages': messages}


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Writes rows, one a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows), encoding='utf-8')
    return path


def train(processes: SwiftProcesses,
          stage: Stage,
          model: str,
          output: Path,
          num_ranks: int = 1,
          verdict: Callable[[Progress], None] | None = None) -> tuple[str, dict[str, Any]]:
    """Trains a stage.

    Args:
        processes: Starts the run.
        stage: The stage.
        model: The checkpoint to start from.
        output: The folder of the whole run; the stage gets a folder and a log of its name in it.
        num_ranks: Number of processes, one a core.
        verdict: Called once, after the first minute or at the end.

    Returns:
        The checkpoint, and the entry of the report.

    Raises:
        RunError: The run failed.
    """
    folder, log = output / stage.name, output / f'{stage.name}.log'
    command = stage.command(model, folder, num_ranks)
    with Progress(stage.name, folder / 'logging.jsonl', verdict) as progress:
        seconds = processes.swift('sft', command, log, num_ranks, progress.update)
    history = [json.loads(line) for line in (folder / 'logging.jsonl').read_text(encoding='utf-8').splitlines()]
    summary = history[-1]
    steps = [entry for entry in history if 'loss_token' in entry]
    report = {
        **_packed(log), 'steps': summary['global_step'],
        'ranks': num_ranks,
        'seconds': round(seconds, 1),
        'processor_seconds': processor_seconds(log),
        'first_losses': {key: steps[0][key] for key in LOSSES if key in steps[0]},
        'last_losses': {key: steps[-1][key] for key in LOSSES if key in steps[-1]},
        'command': ['swift', 'sft', *command]
    }  # yapf: disable
    return summary['last_model_checkpoint'], report


def _packed(log: Path) -> dict[str, int]:
    found = re.search(r'packed (\d+) rows \(\d+ chunks\) into (\d+) packs', log.read_text('utf-8', 'replace'))
    assert found is not None, f'{log} does not say how many packs there are'
    return {'rows': int(found[1]), 'packs': int(found[2])}


def processor_seconds(log: Path) -> float:
    """The processor time of all ranks of a run, from the ends of their logs; 0 where a log lacks it."""
    total = 0.
    for path in (log, *log.parent.glob(f'{log.stem}.rank*{log.suffix}')):
        lines = path.read_text(encoding='utf-8', errors='replace').splitlines()
        total += next((float(line.split()[-1]) for line in reversed(lines[-20:]) if line.startswith(PROCESSOR_SECONDS)),
                      0.)  # yapf: disable
    return round(total, 1)
