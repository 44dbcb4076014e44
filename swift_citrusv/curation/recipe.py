"""A recipe: the steps of a run, in a YAML file."""
from typing import Any

from ..settings import SettingError
from .data_files import read_yaml


def read_recipe(path: str) -> list[tuple[str, dict[str, Any]]]:
    """(name, options) of the steps of a recipe.

    Raises:
        SettingError: The file is no recipe; the message names the place.
    """
    content = read_yaml(path)
    steps = content.get('steps') if isinstance(content, dict) and content.keys() == {'steps'} else content
    if not isinstance(steps, list) or not steps:
        raise SettingError(f'{path} holds no list of steps. Write one step a line, e.g. `- filter: {{min_tokens: 5}}`.')
    found = []
    for number, step in enumerate(steps, start=1):
        if isinstance(step, str):
            step = {step: None}
        if not isinstance(step, dict) or len(step) != 1:
            raise SettingError(f'{path}: step {number} is {step!r}. Write `- NAME` or `- NAME: {{option: value}}`.')
        (name, options), = step.items()
        if options is not None and not isinstance(options, dict):
            raise SettingError(f'{path}: step {number} ({name}) has options {options!r}, not a mapping.')
        found.append((str(name), {str(key): value for key, value in (options or {}).items()}))
    return found
