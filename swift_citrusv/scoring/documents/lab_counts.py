"""Counts of right fields in a lab report, and what a judge has to be asked about it."""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .canonical import Field
from .lab_results import Entry, agrees, candidates, match_entries, open_places

Ask = dict[str, Any]


@dataclass(frozen=True)
class Counted:
    """A document that is compared field by field, by rules.

    A field counts on a side where its cell there is not empty, so one that is empty on both counts nowhere.

    Attributes:
        fields: That are scored.
        right: By field, in how many matched entries both cells say the same.
        predicted: By field, how many cells the answer has.
        gold: By field, how many cells the reference has.
        wrong: For people: what is wrong, a line each.
        asks: Questions for a judge, as JSON can hold them. Each has `kind` (the field), `gold` and `predicted`. A name
            that would match two entries also has `right`, the fields that would be right with it, and `then`, the
            questions that would follow.
    """
    fields: tuple[Field, ...]
    right: dict[Field, int]
    predicted: dict[Field, int]
    gold: dict[Field, int]
    wrong: list[str]
    asks: list[Ask]

    def values(self) -> dict[str, float]:
        """The columns of a case: tp, predicted and gold of all fields and of each, and the document's own scores."""
        columns: dict[str, float] = {}
        for name, counts in (('tp', self.right), ('predicted', self.predicted), ('gold', self.gold)):
            columns[name] = float(sum(counts.values()))
            columns |= {f'{name}_{field}': float(counts[field]) for field in self.fields}
        return columns | document_scores(columns['tp'], columns['predicted'], columns['gold'])


def document_scores(right: float, predicted: float, gold: float) -> dict[str, float]:
    """Precision, recall and F1 of one document.

    A document without a field on either side scores 1: nothing was to be found, and nothing was. Without a field on
    one side alone all three are 0.
    """
    if not predicted and not gold:
        return dict.fromkeys(('document_precision', 'document_recall', 'document_f1'), 1.)
    return {
        'document_precision': right / predicted if predicted else 0.,
        'document_recall': right / gold if gold else 0.,
        'document_f1': 2 * right / (predicted + gold)
    }


def count_fields(gold: Sequence[Entry], predicted: Sequence[Entry], fields: tuple[Field, ...],
                 threshold: float) -> Counted:
    """Compares two lists of entries.

    Args:
        gold, predicted: The entries of the reference and of the answer.
        fields: That are scored.
        threshold: Of the similarity of names; see `match_entries`.
    """
    right = dict.fromkeys(fields, 0)
    wrong: list[str] = []
    asks: list[Ask] = []
    pairs = match_entries(gold, predicted, threshold, fields)
    for i, j in pairs:
        agreed, differing = _compared(gold[i], predicted[j], fields)
        for field in agreed:
            right[field] += 1
        asks += differing
        wrong += [f'{_name(gold[i])}: {field} {_shown(predicted[j], field)}, not {_shown(gold[i], field)}'
                  for field in fields if field not in agreed
                  and (gold[i].has(field) or predicted[j].has(field))]  # yapf: disable
    for i, j in candidates(gold, predicted, pairs, fields):
        agreed, differing = _compared(gold[i], predicted[j], fields)
        asks.append({
            'kind': 'entry_name',
            'gold': gold[i].entry_name,
            'predicted': predicted[j].entry_name,
            # The name itself is right by then.
            'right': [field for field in agreed if field != 'entry_name'],
            'then': [ask for ask in differing if ask['kind'] != 'entry_name']
        })
    missing, extra = open_places(pairs, len(gold), len(predicted))
    wrong += [f'{_name(gold[i])}: missing' for i in missing] + [f'{_name(predicted[j])}: not in the reference'
                                                                for j in extra]  # yapf: disable
    counts = [{field: sum(entry.has(field) for entry in entries) for field in fields} for entries in (predicted, gold)]
    return Counted(fields, right, counts[0], counts[1], wrong, asks)


def _compared(gold: Entry, predicted: Entry, fields: Sequence[Field]) -> tuple[list[Field], list[Ask]]:
    """The fields that both have and that agree, and questions about those that both have and that do not."""
    agreed: list[Field] = []
    asks: list[Ask] = []
    for field in fields:
        if gold.has(field) and predicted.has(field):
            if agrees(field, gold, predicted):
                agreed.append(field)
            else:
                asks.append({'kind': field, 'gold': gold.of(field), 'predicted': predicted.of(field)})
    return agreed, asks


def _name(entry: Entry) -> str:
    return entry.entry_name or '(no name)'


def _shown(entry: Entry, field: Field) -> str:
    return repr(entry.of(field)) if entry.has(field) else 'empty'
