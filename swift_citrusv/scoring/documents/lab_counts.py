"""Counts of correct fields in a lab report, and the questions about it for a judge."""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .canonical import Field
from .lab_results import LabResult, cells_agree, match_lab_results, possible_synonyms, unmatched_indices

JudgeQuestion = dict[str, Any]


@dataclass(frozen=True)
class FieldCounts:
    """The field-by-field comparison of a document, by the rules.

    Only non-empty cells count, on each side separately.

    Attributes:
        fields: The scored fields.
        right: By field, the number of matched lab results whose cells agree.
        predicted: By field, the number of cells in the answer.
        gold: By field, the number of cells in the reference.
        wrong: Human-readable errors, one per line.
        questions: Questions for a judge, JSON-serialisable. Each has `kind` (the field), `gold` and `predicted`. A
            question about a name also has `right`, the fields that become correct if the names match, and `then`, its
            follow-up questions.
    """
    fields: tuple[Field, ...]
    right: dict[Field, int]
    predicted: dict[Field, int]
    gold: dict[Field, int]
    wrong: list[str]
    questions: list[JudgeQuestion]

    def values(self) -> dict[str, float]:
        """The columns of a case: tp, predicted and gold in total and by field, and the scores of the document."""
        columns: dict[str, float] = {}
        for name, counts in (('tp', self.right), ('predicted', self.predicted), ('gold', self.gold)):
            columns[name] = float(sum(counts.values()))
            columns |= {f'{name}_{field}': float(counts[field]) for field in self.fields}
        return columns | document_scores(columns['tp'], columns['predicted'], columns['gold'])


def document_scores(right: float, predicted: float, gold: float) -> dict[str, float]:
    """Precision, recall and F1 of one document.

    All are 1 if both sides are empty, and 0 if only one is.
    """
    if not predicted and not gold:
        return dict.fromkeys(('document_precision', 'document_recall', 'document_f1'), 1.)
    return {
        'document_precision': right / predicted if predicted else 0.,
        'document_recall': right / gold if gold else 0.,
        'document_f1': 2 * right / (predicted + gold)
    }


def count_fields(gold: Sequence[LabResult], predicted: Sequence[LabResult], fields: tuple[Field, ...],
                 threshold: float) -> FieldCounts:
    """Compares the lab results of an answer with those of the reference.

    Args:
        gold, predicted: Lab results of the reference and of the answer.
        fields: The scored fields.
        threshold: The lowest similarity of two names that may be matched; see `match_lab_results`.
    """
    right = dict.fromkeys(fields, 0)
    wrong: list[str] = []
    questions: list[JudgeQuestion] = []
    pairs = match_lab_results(gold, predicted, threshold, fields)
    for i, j in pairs:
        agreed, differing = _compared(gold[i], predicted[j], fields)
        for field in agreed:
            right[field] += 1
        questions += differing
        wrong += [f'{_shown_name(gold[i])}: {field} {_shown(predicted[j], field)}, not {_shown(gold[i], field)}'
                  for field in fields if field not in agreed
                  and (gold[i].has(field) or predicted[j].has(field))]  # yapf: disable
    for i, j in possible_synonyms(gold, predicted, pairs, fields):
        agreed, differing = _compared(gold[i], predicted[j], fields)
        questions.append({
            'kind': 'entry_name',
            'gold': gold[i].entry_name,
            'predicted': predicted[j].entry_name,
            # `kind` already counts the name.
            'right': [field for field in agreed if field != 'entry_name'],
            'then': [question for question in differing if question['kind'] != 'entry_name']
        })
    missing, extra = unmatched_indices(pairs, len(gold), len(predicted))
    wrong += [f'{_shown_name(gold[i])}: missing' for i in missing]
    wrong += [f'{_shown_name(predicted[j])}: not in the reference' for j in extra]
    num_predicted, num_gold = ({field: sum(result.has(field) for result in results) for field in fields}
                               for results in (predicted, gold))  # yapf: disable
    return FieldCounts(fields, right, num_predicted, num_gold, wrong, questions)


def _compared(gold: LabResult, predicted: LabResult,
              fields: Sequence[Field]) -> tuple[list[Field], list[JudgeQuestion]]:
    """Of the fields that both have: those that agree, and questions about those that do not."""
    agreed: list[Field] = []
    questions: list[JudgeQuestion] = []
    for field in fields:
        if gold.has(field) and predicted.has(field):
            if cells_agree(field, gold, predicted):
                agreed.append(field)
            else:
                questions.append({'kind': field, 'gold': gold.cell(field), 'predicted': predicted.cell(field)})
    return agreed, questions


def _shown_name(result: LabResult) -> str:
    return result.entry_name or '(no name)'


def _shown(result: LabResult, field: Field) -> str:
    return repr(result.cell(field)) if result.has(field) else 'empty'
