"""The rules of each command of ms-swift."""
from collections.abc import Iterator

from .rule import Rule


def training_rules() -> Iterator[Rule]:
    """All rules of `swift sft` and `swift pt`."""
    from . import rules, setting_rules, tuner_rules
    for group in (*rules.RULES.values(), tuner_rules.RULES, *setting_rules.SETTING_RULES.values()):
        yield from group


def rlhf_rules() -> Iterator[Rule]:
    """Those that hold for `swift rlhf` too."""
    from .rules import ONE_PROCESS_A_GPU
    yield ONE_PROCESS_A_GPU


def inference_rules() -> Iterator[Rule]:
    """All rules of `swift infer`, `swift deploy` and `swift app`."""
    from . import inference_rules as module
    for group in module.RULES.values():
        yield from group
