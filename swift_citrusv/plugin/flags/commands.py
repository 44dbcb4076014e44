"""The rules of each command of ms-swift."""
from collections.abc import Iterator

from .rule import Rule


def training_rules() -> Iterator[Rule]:
    """All rules of `swift sft` and `swift pt`."""
    from . import rules, setting_rules, tuner_rules
    for group in (*rules.RULES.values(), tuner_rules.RULES, *setting_rules.SETTING_RULES.values()):
        yield from group


def rlhf_rules() -> Iterator[Rule]:
    """All rules of `swift rlhf`: its own, and those of `swift sft` that concern its model, tuners and processes."""
    from . import rlhf_rules as own
    from . import rules, tuner_rules
    for group in own.RULES.values():
        yield from group
    named = {*own.NOT_SHARED, *(name for rule in own.RULES[own.DIFFERENT] for name in rule.names())}
    for shared in (*(rules.RULES[title] for title in own.SHARED), tuner_rules.RULES):
        yield from (rule for rule in shared if not named & set(rule.names()))


def inference_rules() -> Iterator[Rule]:
    """All rules of `swift infer`, `swift deploy` and `swift app`."""
    from . import inference_rules as module
    for group in module.RULES.values():
        yield from group
