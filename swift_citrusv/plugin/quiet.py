"""The patches for the log at the start of a run: each fact once, nothing that misleads, long listings in files.

Replaces `_prepare_gradient_checkpointing` of `swift.trainers.mixin.SwiftMixin` and `TunerMixin.prepare_model` in
`swift.pipelines.train.tuner`, and adds a filter to ms-swift's logger. With LOG_LEVEL=DEBUG the log is complete.
"""
import logging
import os
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields
from typing import Any

from ..constants import MODEL_TYPE, ROW_COLUMN
from .wrapping import is_citrusv, wrap

_MODEL_CLASS = 'CitrusVForConditionalGeneration'
# The file with the model's modules, in the run's folder.
MODEL_FILE = 'structure.txt'
_EMPTY = {'None', '[]', '{}', ''}


class StartFilter(logging.Filter):
    """Shortens what ms-swift logs of a Citrus-V run at its start; other messages and other models' pass unchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.model_file: str | None = None
        self._attention_named = False

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.msg
        if not isinstance(text, str) or logging.getLogger(record.name).isEnabledFor(logging.DEBUG):
            return True
        if text.startswith('attention: '):
            self._attention_named = True
        elif text.startswith('attn_impl: ') and self._attention_named:
            # Why: `attn_impl: torch_varlen` after "attention: sdpa, sample by sample" reads as a contradiction.
            self._attention_named = False
            return False
        elif text.startswith('args: SftArguments(') and f'\nmodel_type={MODEL_TYPE},\n' in text:
            record.msg = shorten_arguments(text, hidden=('attn_impl', ) if self._attention_named else ())
        elif text.startswith('model: ') and _MODEL_CLASS in text and '\n' in text:
            where = f' Its modules: {self.model_file}' if self.model_file else ''
            record.msg = f'{text.partition("(")[0]}.{where}'
        elif text.startswith(f"model_info: ModelInfo(model_type='{MODEL_TYPE}'"):
            record.msg = re.sub(r'config=CitrusVConfig \{.*\n\}\n?', 'config=its config.json', text, flags=re.DOTALL)
        elif text.startswith('model.generation_config: '):
            record.msg = ' '.join(text.split())
        elif text.startswith(('train_dataset: ', 'val_dataset: ')) and ROW_COLUMN in text:
            record.msg = ' '.join(text.split())
        return True


def shorten_arguments(dump: str, hidden: tuple[str, ...] = ()) -> str:
    """ms-swift's listing of 330 arguments, without those that have their default.

    Args:
        dump: 'args: SftArguments(', a line for each argument, and ')'.
        hidden: Arguments to leave out as well.
    """
    from swift.arguments import SftArguments
    defaults = {}
    for field in fields(SftArguments):
        value = field.default_factory() if field.default_factory is not MISSING else field.default
        defaults[field.name] = str(value)
    kept: list[str] = []
    lines = dump.splitlines()[1:-1]
    for line in lines:
        name, sign, value = line.removesuffix(',').partition('=')
        # The rest of a value of several lines.
        if not sign or name not in defaults:
            kept.append(line)
        # ms-swift turns None into an empty list or dict, and hides tokens whether they are given or not.
        elif (value != defaults[name] and {value, defaults[name]} - _EMPTY and value != f'<{name.upper()}>'
              and name not in hidden):
            kept.append(f'{name}={value}')
    num_left = len(lines) - len(kept)
    text = textwrap.fill(', '.join(kept), width=116, break_long_words=False, break_on_hyphens=False)
    return (f'args, as given or derived ({num_left} more have their defaults; all are in args.json of --output_dir):\n'
            f'{textwrap.indent(text, "  ")}')


_FILTER = StartFilter()


def install_filter() -> None:
    """Adds the filter to ms-swift's logger; calling it again changes nothing."""
    from swift.utils import get_logger
    get_logger().addFilter(_FILTER)


@contextmanager
def without_messages(logger_name: str, *beginnings: str) -> Iterator[None]:
    """Keeps the messages of a logger that begin so out of the log."""
    logger = logging.getLogger(logger_name)

    def keep(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(beginnings)

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def patch_quiet_pipeline() -> None:
    """Writes the model's modules to a file, 300 lines that ms-swift puts into the log."""
    from swift.pipelines.train import tuner

    install_filter()

    # Why: ms-swift prints the model right after this, and the structure should stay somewhere.
    def model_file(original):

        def patched(cls, args, model, **kwargs):
            model = original(args, model, **kwargs)
            if args.model_type == MODEL_TYPE and getattr(args, 'output_dir', None):
                from swift.utils import is_master
                _FILTER.model_file = os.path.join(args.output_dir, MODEL_FILE)
                if is_master():
                    os.makedirs(args.output_dir, exist_ok=True)
                    with open(_FILTER.model_file, 'w', encoding='utf-8') as file:
                        file.write(f'{model}\n')
            return model

        return classmethod(patched)

    # (`inspect` takes a classmethod's first parameter away once more for each wrapper.)
    wrap(tuner.TunerMixin, 'prepare_model', ('model', ), model_file)


def patch_frozen_checkpointing() -> None:
    """Turns gradient checkpointing off where nothing is trained."""
    from swift.trainers.mixin import SwiftMixin

    # Why: ms-swift turns it on in every part. A frozen part runs without gradients, where there is nothing to
    # recompute: torch warns "None of the inputs have requires_grad=True. Gradients will be None", and saves the state
    # of the random generators in vain.
    def prepare_checkpointing(original):

        def patched(self, model):
            original(self, model)
            if is_citrusv(self.template):
                for part in frozen_parts(model):
                    part.gradient_checkpointing_disable()

        return patched

    wrap(SwiftMixin, '_prepare_gradient_checkpointing', ('self', 'model'), prepare_checkpointing)


def frozen_parts(model: Any) -> list[Any]:
    """The vision tower and the language model of a Citrus-V model, as far as no gradient passes through them.

    Args:
        model: `CitrusVForConditionalGeneration`, with or without adapters in it.
    """
    mllm = model.model
    parts = (mllm.visual, mllm.language_model)
    if not any(parameter.requires_grad for parameter in mllm.parameters()):
        return list(parts)
    # Gradients of the vision tower pass through the language model.
    return [mllm.visual] if not any(parameter.requires_grad for parameter in mllm.visual.parameters()) else []
