"""The whole of `citrusv try`, from the rows to the report."""
import json
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .answers import UNNAMED, drawn_masks, infer, read_jsonl, score, scores_by_name
from .learnable import Finding, check_rows
from .naming import text_of
from .page import write_page
from .processes import SwiftProcesses, cores
from .progress import Progress
from .split import groups_of, sample_rows, split_rows
from .stages import Stage, processor_seconds, tiny_stages, train, write_jsonl
from .user_rows import UserMask, UserRow, masks_of, read_rows

_PACKAGES = ('swift-citrusv', 'ms-swift', 'torch', 'transformers', 'sam2')
_STATE = 'try.json'
# The tiny MLLM sees the image in 16 tokens or so; SAM2 sees it at 256 x 256.
_MAX_PIXELS = 112 * 112
# The same for all machines with two cores and more, so that their figures agree.
_MOST_RANKS = 2
# By stage, a loss, what it is of, and the share of its start above which nothing is learned.
_FALLS = {'text': ('loss_token', 'words', .7), 'joint': ('loss_dice', 'masks', .9)}
_Tell = Callable[[str], None]


class NotLearnable(ValueError):
    """The rows cannot be learned."""


@dataclass
class Plan:
    """The rows of a run.

    Attributes:
        train, held_out: The rows.
        train_masks, held_out_masks: Their masks; `row` is the index in `train` and `held_out`.
        findings: What speaks against learning them.
        notes: What else to say.
    """
    train: list[UserRow]
    held_out: list[UserRow]
    train_masks: list[UserMask]
    held_out_masks: list[UserMask]
    findings: list[Finding]
    notes: list[str] = field(default_factory=list)


def plan_rows(path: str, val: str | None, most_rows: int, most_held_out: int) -> Plan:
    """Reads, checks and splits the rows.

    Args:
        path: The JSONL file.
        val: The held-out rows, in a file of their own; None to split `path`.
        most_rows: The most rows with masks that train, and as many without.
        most_held_out: The most held-out rows.

    Raises:
        RowError: A row is bad.
        NotLearnable: The rows cannot be learned; the message says why.
    """
    notes: list[str] = []
    limit = most_rows if val is not None else most_rows + most_held_out
    rows = _sampled(read_rows(path), limit, f'rows of {path} are used (--max-rows)', notes)
    masks = masks_of(rows)
    findings = check_rows(rows, masks, needs_split=val is None)
    stops = [str(finding) for finding in findings if finding.level == 'stop']
    if stops:
        raise NotLearnable(f'These rows cannot be learned. {" ".join(stops)}')
    if val is not None:
        held = [item for item in read_rows(val) if item.num_masks]
        if not held:
            raise NotLearnable(f'--val {val} has no row with masks. Give rows with masks, or leave --val out.')
        held = _sampled(held, most_held_out, f'rows of {val} are answered (--max-held-out)', notes)
        shared = {image for item in rows for image in item.images} & {image for item in held for image in item.images}
        if shared:
            notes.append(f'{len(shared):,} images of --val are in the training rows too: their Dice is not held out.')
        return Plan(rows, held, masks, masks_of(held), findings, notes)
    if len(set(groups_of([item for item in rows if item.num_masks]))) < 2:
        raise NotLearnable('All rows with masks share images or a patient, directly or through others: none is left to '
                           'test on. Add rows about other images, or give other rows with --val.')
    parts = split_rows(rows, masks, most_held_out)
    if not parts[1]:
        raise NotLearnable('No image can be held out: each has a name that no other image has. Add rows, use the same '
                           'name for the same structure, or give other rows with --val.')
    train_rows, held_rows = parts
    train_rows = [train_rows[place] for place in sample_rows([rows[index] for index in train_rows], most_rows)]
    return Plan([rows[index] for index in train_rows], [rows[index] for index in held_rows],
                _masks_of_part(masks, train_rows), _masks_of_part(masks, held_rows), findings, notes)


def _sampled(rows: list[UserRow], most: int, what: str, notes: list[str]) -> list[UserRow]:
    kept = sample_rows(rows, most)
    if len(kept) < len(rows):
        notes.append(f'{len(kept):,} of {len(rows):,} {what}.')
    return [rows[index] for index in kept]


def _masks_of_part(masks: Sequence[UserMask], part: Sequence[int]) -> list[UserMask]:
    places = {row: place for place, row in enumerate(part)}
    return [UserMask(**{**vars(mask), 'row': places[mask.row]}) for mask in masks if mask.row in places]


class _State:
    """What a run has finished, in a file, so that an interrupted run can go on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content: dict[str, Any] = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}
        self.done: dict[str, Any] = self._content.setdefault('done', {})

    def finish(self, name: str, checkpoint: str, report: dict[str, Any]) -> None:
        self.done[name] = {'checkpoint': checkpoint, 'report': report}
        self._path.write_text(json.dumps(self._content, ensure_ascii=False), encoding='utf-8')


def start_folder(output: Path, options: dict[str, Any], resume: bool) -> None:
    """Makes the folder of a run, and writes its options there.

    Raises:
        ValueError: It exists and is not to be resumed, or was started with other rows or options.
    """
    path = output / _STATE
    if output.exists() and not output.is_dir():
        raise ValueError(f'--output {output} is a file. Name a folder.')
    if output.exists() and any(output.iterdir()):
        if not path.exists():
            raise ValueError(f'--output {output} exists and is not empty. Name another folder.')
        if (output / 'report.json').exists():
            raise ValueError(f'--output {output} holds a finished run: see {output / "page.html"}. Name another '
                             'folder, or remove this one.')
        if not resume:
            raise ValueError(f'--output {output} holds a run that did not end. Give --resume to go on with it, or name '
                             'another folder, or remove this one.')
        before = json.loads(path.read_text(encoding='utf-8')).get('options', {})
        changed = [name for name in options if options[name] != before.get(name)]
        if changed:
            raise ValueError(f'--output {output} was started with another {", ".join(changed)}. Start anew in another '
                             'folder.')
        return
    output.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({'options': options}, ensure_ascii=False), encoding='utf-8')


def leave_folder(output: Path) -> None:
    """Removes the folder of a run that never started, so that the next one can use it."""
    path = output / _STATE
    if path.exists() and not _State(path).done:
        path.unlink()
        if not any(output.iterdir()):
            output.rmdir()


def run_try(plan: Plan, file: str, output: Path, processes: SwiftProcesses, minutes: float, tell: _Tell) -> dict:
    """Builds, trains and scores the tiny model, and writes `report.json` and `page.html`.

    Stages that an interrupted run has finished are not trained again.

    Args:
        plan: The rows.
        file: The file's name, for the report.
        output: The folder of the run.
        processes: Starts the runs.
        minutes: Nominal minutes on two quiet cores.
        tell: Prints a line.

    Returns:
        The report.

    Raises:
        RunError: A run failed.
    """
    start = time.monotonic()
    num_ranks = min(cores(), _MOST_RANKS)
    data = output / 'data'
    stages = tiny_stages(data, plan.train, plan.train_masks, minutes)
    train_file = write_jsonl(data / 'train.jsonl', [item.row for item in plan.train])
    held_out = write_jsonl(data / 'held_out.jsonl', _named(plan.held_out, plan.held_out_masks))
    verdicts: list[str] = []
    reports: dict[str, Any] = {}
    checkpoint = _train_all(stages, plan, output, processes, num_ranks, reports, verdicts, tell)
    earlier = sum(entry['seconds'] for entry in reports.values() if entry.pop('earlier', False))
    tell(f'answers to {len(plan.held_out):,} held-out questions, with `swift infer`')
    answers = infer(processes, checkpoint, held_out, output)
    content = score(held_out, answers, output / 'eval')
    drawn = drawn_masks(read_jsonl(held_out), read_jsonl(answers))
    by_name = scores_by_name(content, plan.train_masks, plan.held_out_masks)
    model = _keep_model(output, checkpoint, stages)
    images = [len({mask.image for mask in masks}) for masks in (plan.train_masks, plan.held_out_masks)]
    report = {
        'file': file,
        'held_out': {
            'dice': round(content['scores']['dice']['value'], 4),
            'masks': len(drawn),
            'missing': sum(item.prediction is None for item in drawn),
            'average_mask': _weighted(by_name, 'average_mask'),
            'ceiling': _weighted(by_name, 'ceiling'),
            'by_name': by_name
        },
        'rows': {'train': len(plan.train), 'held_out': len(plan.held_out)},
        'images': {'train': images[0], 'held_out': images[1]},
        'findings': [asdict(finding) for finding in plan.findings],
        'verdicts': verdicts,
        'notes': plan.notes,
        'stages': reports,
        'ranks': num_ranks,
        'seconds': round(time.monotonic() - start + earlier, 1),
        'processor_seconds': round(processor_seconds(output / 'infer.log') +
                                   sum(entry['processor_seconds'] for entry in reports.values()), 1),
        'model': str(model),
        'next': next_commands(train_file, held_out, model),
        'versions': {name: version(name) for name in _PACKAGES}
    }  # yapf: disable
    (output / 'report.json').write_text(json.dumps(report, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')
    write_page(output / 'page.html', report, drawn)
    return report


def _train_all(stages: Sequence[Stage], plan: Plan, output: Path, processes: SwiftProcesses, num_ranks: int,
               reports: dict[str, Any], verdicts: list[str], tell: _Tell) -> str:
    """Builds the model and trains the stages that are not done yet; returns the last checkpoint."""
    state = _State(output / _STATE)
    if 'model' not in state.done:
        shutil.rmtree(output / 'start', ignore_errors=True)
        corpus = [text_of(message['content']) for item in plan.train for message in item.row.get('messages') or ()]
        seconds = processes.build(output / 'start', corpus, output / 'build.log', max_pixels=_MAX_PIXELS)
        state.finish('model', str(output / 'start'), {'seconds': round(seconds, 1)})
    checkpoint = state.done['model']['checkpoint']
    for stage in stages:
        if stage.name in state.done:
            tell(f'{stage.name}: done before the interruption')
            reports[stage.name] = {**state.done[stage.name]['report'], 'earlier': True}
        else:
            shutil.rmtree(output / stage.name, ignore_errors=True)
            trained, entry = train(processes, stage, checkpoint, output, num_ranks,
                                   lambda progress: _judge(progress, verdicts, tell))
            state.finish(stage.name, trained, entry)
            reports[stage.name] = entry
        checkpoint = state.done[stage.name]['checkpoint']
    return checkpoint


def _judge(progress: Progress, verdicts: list[str], tell: _Tell) -> None:
    """Says what the losses of the first minute, or of a shorter stage, mean."""
    if progress.name not in _FALLS:
        return
    key, label, most = _FALLS[progress.name]
    values = [entry[key] for entry in progress.entries if key in entry]
    # A single step says little.
    last = sum(values[-3:]) / 3
    if len(values) > 5 and last > most * values[0]:
        when = progress.entries[-1].get('elapsed_time', 'a minute')
        text = (
            f'The {label} are not learned: after {when} the loss is {last:.2f}, at the start {values[0]:.2f}. Do they '
            'fit the images and the words? Look at the pictures of `citrusv check-data --pictures`.')
        verdicts.append(text)
        tell(f'\nwarning: {text}')


def _named(rows: Sequence[UserRow], masks: Sequence[UserMask]) -> list[dict[str, Any]]:
    """The rows with the name of each mask in `structures`, by which `citrusv eval` groups."""
    names: dict[int, list[str]] = {}
    for mask in masks:
        names.setdefault(mask.row, []).append(mask.name or UNNAMED)
    return [{**{key: value for key, value in item.row.items() if key != 'structure'}, 'structures': names[index]}
            for index, item in enumerate(rows)]  # yapf: disable


def _weighted(by_name: dict[str, dict[str, Any]], key: str) -> float | None:
    known = [(value[key], value['masks']) for value in by_name.values() if value[key] is not None]
    total = sum(count for _, count in known)
    return round(sum(value * count for value, count in known) / total, 4) if total else None


def _keep_model(output: Path, checkpoint: str, stages: Sequence[Stage]) -> Path:
    """Moves the last checkpoint to `model` and removes the others."""
    model = output / 'model'
    shutil.move(checkpoint, model)
    shutil.rmtree(output / 'start', ignore_errors=True)
    for stage in stages:
        for folder in (output / stage.name).glob('*checkpoint*'):
            folder.unlink() if folder.is_symlink() else shutil.rmtree(folder)
    return model


def next_commands(train: Path, held_out: Path, model: Path) -> list[str]:
    """The commands for real weights on the user's rows, and for a look at the tiny model."""
    real, output = 'output/citrusv-3b', 'output/mine'
    quoted = [shlex.quote(str(path)) for path in (train, held_out, model)]
    return [
        f'citrusv build --mllm Qwen/Qwen2.5-VL-3B-Instruct --sam2 facebook/sam2.1-hiera-base-plus --output {real}',
        f'swift sft "$(citrusv templates stage3)" --model {real} --dataset {quoted[0]} --output_dir {output}/joint '
        '--add_version false',
        f'swift sft "$(citrusv templates stage4)" --model {output}/joint/last-checkpoint --dataset {quoted[0]} '
        f'--val_dataset {quoted[1]} --output_dir {output}/masks --add_version false',
        f'citrusv app --model {quoted[2]}',
    ]
