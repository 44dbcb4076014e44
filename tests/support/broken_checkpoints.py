"""Changes to published checkpoints, and the check that a conversion refuses them."""
import json
import pytest
import re
from collections.abc import Callable
from pathlib import Path
from safetensors.torch import load_file
from support.published_checkpoint import write_weights
from torch import Tensor
from typing import Any

from swift_citrusv.model.convert import convert_checkpoint


def edit_json(folder: Path, name: str = 'config.json', **changes) -> None:
    """Changes entries of a JSON file in `folder`; `...` deletes one."""
    values = {**json.loads((folder / name).read_text()), **changes}
    (folder / name).write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def rewrite_weights(folder: Path, change: Callable[[dict[str, Tensor]], None], **options: Any) -> None:
    """Changes the state dict in model.safetensors, and writes it as `write_weights` does with `options`."""
    state = load_file(folder / 'model.safetensors')
    change(state)
    (folder / 'model.safetensors').unlink()
    write_weights(folder, state, **options)


def assert_refused(folder: Path, tmp_path: Path, match: str, **options) -> None:
    """Conversion of `folder` raises an error that matches, and writes nothing."""
    try:
        convert_checkpoint(str(folder), str(tmp_path / 'out'), **options)
    except (ValueError, OSError) as error:
        assert re.search(match, str(error)), f'{match!r} does not match: {error}'
    else:
        pytest.fail(f'{folder} was converted, without an error that matches {match!r}.')
    assert not (tmp_path / 'out').exists(), match
