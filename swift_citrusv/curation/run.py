"""Runs a step, or the steps of a recipe one after another."""
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import __version__
from ..settings import SettingError
from .data_files import FILES, read_json, write_json
from .engine import Engine
from .finish import FinishRun, FinishStep
from .inputs import SHARD_BYTES, InputFile, Shard, is_output, split
from .shard_task import ShardTask, shard_name
from .step import Stage, Step

SUMMARY = 'summary.json'


@dataclass(frozen=True)
class Plan:
    """A run of steps.

    Attributes:
        folders: Those of the steps; a single step has the output itself.
        stages: All stages, in order.
        head: What must be the same for the run to go on: steps, input, versions.
    """
    folders: Sequence[str]
    stages: Sequence[Stage]
    head: Mapping[str, Any]


def run_steps(steps: Sequence[Step],
              inputs: Sequence[str],
              output: str,
              engine: Engine = Engine(),
              *,
              is_recipe: bool = False,
              shard_bytes: int = SHARD_BYTES,
              quiet: bool = False) -> dict[str, Any] | None:
    """Runs steps, or goes on with an interrupted run of the same steps and input.

    Args:
        steps: One step, or those of a recipe.
        inputs: Files and folders of rows.
        output: The folder to write.
        engine: Where it runs. It does not change a byte of the output.
        is_recipe: Whether the output has a folder for each step.
        shard_bytes: Bytes of a part of the input.
        quiet: Whether to show no progress bars.

    Returns:
        The summary; None if the jobs of a cluster will write it.

    Raises:
        SettingError: The input or the options are wrong, or the folder has something else.
        StageError: A part has failed.
    """
    work = os.path.join(output, 'work')
    finished, started = os.path.join(output, SUMMARY), os.path.join(work, 'plan.json')
    is_new = not os.path.exists(finished) and not os.path.exists(started)
    if is_new and os.path.isdir(output) and set(os.listdir(output)) - {'work'}:
        raise SettingError(f'{output} is not empty, and not the output of this command. Name another folder.')
    plan = _plan(steps, inputs, output, is_recipe, shard_bytes, quiet)
    if os.path.exists(finished):
        _check_same(read_json(finished)['run'], plan.head, output)
    else:
        if not is_new:
            _check_same(read_json(started), plan.head, output)
        os.makedirs(work, exist_ok=True)
        write_json(started, plan.head)
        if not engine.run(plan.stages, quiet):
            return None
    for folder in (work, *(os.path.join(folder, 'work') for folder in plan.folders)):
        shutil.rmtree(folder, ignore_errors=True)
    summary: dict[str, Any] = read_json(finished)
    return summary


def _plan(steps: Sequence[Step], inputs: Sequence[str], output: str, is_recipe: bool, shard_bytes: int,
          quiet: bool) -> Plan:
    late = next((step.name for step in steps[1:] if step.reads_folders), None)
    if late is not None:
        raise SettingError(f'The step {late} reads folders of files, not rows: it must be the first one.')
    folders = [os.path.join(output, f'{number:02d}-{step.name}') if is_recipe else output
               for number, step in enumerate(steps, start=1)]  # yapf: disable
    files = steps[0].input_files(inputs, os.path.join(folders[0], 'work'), quiet)
    total_bytes = sum(os.path.getsize(file.path) for file in files)
    shards = split(files, steps[0].shard_bytes(total_bytes, shard_bytes), True)
    lines = [file.lines for file in files]
    total = None if None in lines else sum(filter(None, lines))
    # Once: a recipe may hold the hash of a file.
    recipes = [_recipe(step) for step in steps]
    # Steps open the files that an earlier one has written, and hand them on.
    carried = [name for name in inputs if is_output(name) and os.path.isdir(os.path.join(name, FILES))]
    if len(carried) == 1 and steps[0].files.image_dir is None:
        steps = [step.with_files_of(carried[0]) for step in steps]
    writer = next((number for number, step in enumerate(steps) if step.writes_files), len(steps))
    steps = [step if number <= writer else step.with_files_of(folders[writer]) for number, step in enumerate(steps)]
    stages: list[Stage] = []
    for number, (step, recipe, folder) in enumerate(zip(steps, recipes, folders)):
        name = f'{number + 1:02d}-{step.name}'
        work = os.path.join(folder, 'work')
        label = name if is_recipe else step.name
        stages += step.stages(work, shards)
        if shards:
            task = ShardTask(step, shards, work, recipe['recipe_hash'])
            stages.append(Stage(label, task, len(shards), work, total, 'rows'))
        head = {
            'steps': [recipe],
            'input': os.path.basename(folders[number - 1])
        } if number else _head([recipe], files, shard_bytes)
        hands_on = [] if number or step.writes_files else carried
        finish = FinishStep(step, folder, head, len(shards), tuple(map(os.path.abspath, hands_on)))
        stages.append(Stage(f'{label}-summary', finish, 1, work))
        shards = [
            Shard(os.path.join(folder, 'rows', f'{shard_name(index)}.jsonl'), f'{name}/rows/{shard_name(index)}.jsonl',
                  is_optional=True) for index in range(len(shards))
        ]  # yapf: disable
        total = None
    head = _head(recipes, files, shard_bytes)
    if is_recipe:
        names = [os.path.basename(folder) for folder in folders]
        stages.append(Stage('summary', FinishRun(output, names, head), 1, os.path.join(output, 'work')))
    return Plan(folders, stages, head)


def _head(recipes: Sequence[Mapping[str, Any]], files: Sequence[InputFile], shard_bytes: int) -> dict[str, Any]:
    return {
        'version': __version__,
        'steps': recipes,
        'input': [{
            'source': file.source,
            'sha256': file.sha256
        } for file in files],
        'shard_bytes': shard_bytes,
    }


def _recipe(step: Step) -> dict[str, Any]:
    """All that a step's decisions depend on beside its input, and the hash of it."""
    # As JSON reads it back: lists, no tuples.
    recipe: dict[str, Any] = json.loads(json.dumps(step.recipe()))
    text = json.dumps({'step': step.name, 'version': __version__, **recipe}, sort_keys=True)
    return {'step': step.name, 'recipe_hash': hashlib.sha256(text.encode()).hexdigest()[:16], **recipe}


def _check_same(old: Mapping[str, Any], new: Mapping[str, Any], output: str) -> None:
    for name in new:
        if old.get(name) != new[name]:
            raise SettingError(f'{output} belongs to a run with another {name.removesuffix("s")}: '
                               f'{_difference(old.get(name), new[name])}. Name another folder, or remove it.')


def _difference(old: Any, new: Any) -> str:
    """The first difference in words."""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return next(_difference(a, b) for a, b in zip(old, new) if a != b)
    if isinstance(old, dict) and isinstance(new, dict):
        return '; '.join(f'{name} was {json.dumps(old.get(name))[:60]}, is {json.dumps(new.get(name))[:60]}'
                         for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)
                         and name != 'recipe_hash')  # yapf: disable
    return f'it was {json.dumps(old)[:60]}, is {json.dumps(new)[:60]}'
