"""Runs stock `swift infer`."""
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from swift.pipelines import infer_main
from typing import Any

from swift_citrusv.plugin.register import register

MAX_TOKENS = 16
COMMON = ('--torch_dtype float32 --device_map cpu --temperature 0 --dataset_num_proc 1 --load_from_cache_file false '
          f'--max_new_tokens {MAX_TOKENS}').split()


@contextmanager
def own_environment() -> Iterator[None]:
    """Removes what ms-swift writes into the environment."""
    environment = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)


def swift_infer(model: str, result: Path, *arguments: str) -> list[dict[str, Any]]:
    register()
    with own_environment():
        infer_main(['--model', model, *COMMON, '--result_path', str(result), *arguments])
    return [json.loads(line) for line in result.read_text(encoding='utf-8').splitlines()]
