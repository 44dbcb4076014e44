"""Report generation (section 5.2.4, table 8 of the paper): reports of a model against reports of radiologists."""
import numpy as np
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...errors import RowError
from ...settings import SettingError
from ..cases import Case, Pair
from ..row_images import first_thumbnail
from ..rows import answer_of, question_of, response_of, without_reasoning
from ..task import CaseCard, CorpusMeasure, Measure, mean
from .cider import cider
from .sections import Sections, split_sections
from .text_metrics import MAX_ORDER, bleu, bleu_counts, meteor, report_tokens, rouge_l, rouge_l_medevalkit

if TYPE_CHECKING:
    from ..table import CaseTable

SECTIONS = ('report', 'findings', 'impression', 'findings+impression')
# Columns of a reference that hold its sections; the second name is that of CheXpert Plus.
SECTION_COLUMNS = {'findings': ('findings', 'section_findings'), 'impression': ('impression', 'section_impression')}
_PICTURE_SIDE = 512


@dataclass(frozen=True)
class ReportsTask:
    """Scores reports by word overlap with reference reports.

    Attributes:
        section: The sections to score, one of `SECTIONS`.
        synonyms: Whether METEOR uses WordNet's synonyms.
        medevalkit: Whether to also compute ROUGE-L as MedEvalKit does.
        rate_ner, rate_embeddings: Folders of RaTEScore's weights; None for no RaTEScore.

    Raises:
        SettingError: An option is invalid.
    """
    section: str = 'report'
    synonyms: bool = False
    medevalkit: bool = False
    rate_ner: str | None = None
    rate_embeddings: str | None = None

    NAME: ClassVar[str] = 'reports'
    TITLE: ClassVar[str] = 'Report generation'

    def __post_init__(self) -> None:
        if self.section not in SECTIONS:
            raise SettingError(f'The section is {self.section!r}: give one of {", ".join(SECTIONS)}.')
        if (self.rate_ner is None) != (self.rate_embeddings is None):
            raise SettingError('RaTEScore has two models: give both --rate-ner DIR and --rate-embeddings DIR.')

    @property
    def meteor_name(self) -> str:
        """The name of METEOR, which is a different measure without synonyms."""
        return 'meteor' if self.synonyms else 'meteor_exact_stem'

    @property
    def measures(self) -> tuple[Measure | CorpusMeasure, ...]:
        found: list[Measure | CorpusMeasure] = [mean('rouge_l'), mean('cider'), mean('cider_d')]
        found += [bleu(order) for order in range(1, MAX_ORDER + 1)]
        found.append(mean(self.meteor_name))
        if self.medevalkit:
            found.append(mean('rouge_l_medevalkit'))
        if self.rate_ner is not None:
            found.append(mean('ratescore'))
        return tuple(found)

    @property
    def rules(self) -> dict[str, str]:
        meteor_rule = ('exact words, Porter stems and WordNet synonyms'
                       if self.synonyms else 'exact words and Porter stems, without synonyms, hence its name')
        found = {
            'text': _TEXT_RULES[self.section],
            'prediction': 'Reasoning is removed. Missing, malformed and empty predictions score 0 in every measure.',
            'reference': 'Columns findings and impression (or section_findings, section_impression), or else the '
                         'answer. A row whose reference lacks the scored section is left out and counted '
                         '(not_in_reference).',
            'words': 'Lower case, NFKC, no punctuation; each Chinese character is a word; all else is split as by '
                     'PTBTokenizer.',
            'rouge_l': 'F1 of the longest common subsequence (rouge-score), no stemming, mean over reports.',
            'cider': 'CIDEr of the 2015 paper, from 0 to 10; tables show it times 100, as papers do. Document '
                     'frequencies come from all scored references, also within groups and resamplings.',
            'cider_d': 'As cider, with clipping and the length penalty (sigma 6): what pycocoevalcap prints as CIDEr.',
            'bleu': 'Of the corpus, up to n-grams of the order, no smoothing.',
            self.meteor_name: f'METEOR of 2007 (NLTK; alpha 0.9, beta 3, gamma 0.5): {meteor_rule}.',
        }  # yapf: disable
        if self.medevalkit:
            found['rouge_l_medevalkit'] = ('Package rouge 1.0.1 on lower case text, as in MedEvalKit: sentences end at '
                                           'each full stop, words at spaces, distinct words count.')
        if self.rate_ner is not None:
            found['ratescore'] = f'Package RaTEScore with {self.rate_ner} and {self.rate_embeddings}.'
        return found

    def score(self, pair: Pair) -> list[Case]:
        """One case for each row.

        Raises:
            RowError: The reference is empty.
            PredictionError: The response is not a string.
        """
        expected, source = self._reference(pair)
        text = without_reasoning(response_of(pair.prediction) or '')
        answer, sections = self._part(text)
        flags = []
        if expected is None or not report_tokens(expected):
            return [Case({}, ('not_in_reference', ))]
        if not source.has_headings and self.section != 'report':
            flags.append('reference_without_headings')
        if text:
            if not sections.has_headings and (source.has_headings or self.section != 'report'):
                flags.append('no_headings')
            else:
                flags += [f'missing_{name}' for name in self._section_names
                          if getattr(source, name) is not None and getattr(sections, name) is None]  # yapf: disable
        elif pair.prediction is not None:
            flags.append('empty_prediction')
        return [Case(self._values(answer or '', expected), tuple(flags), data=[answer or '', expected])]

    def complete(self, table: 'CaseTable') -> None:
        """Adds CIDEr and RaTEScore, and drops the texts, so that scores.json does not contain them."""
        scored = [i for i, data in enumerate(table.data) if data is not None]
        words = [[report_tokens(text) for text in table.data[i]] for i in scored]
        for name, values in zip(('cider', 'cider_d'), cider([w for w, _ in words], [w for _, w in words])):
            table.columns[name] = np.full(len(table), np.nan)
            table.columns[name][scored] = values
        if self.rate_ner is not None and self.rate_embeddings is not None:
            from .ratescore import ratescore
            table.columns['ratescore'] = np.full(len(table), np.nan)
            for i in scored:
                answer, expected = table.data[i]
                table.columns['ratescore'][i] = ratescore(answer, expected, self.rate_ner, self.rate_embeddings)
        table.data.clear()

    def show(self, pair: Pair, index: int) -> CaseCard:
        """The first image, and both texts."""
        expected, _ = self._reference(pair)
        response = response_of(pair.prediction)
        answer, _ = self._part(without_reasoning(response or ''))
        picture, problem = first_thumbnail(pair.reference, _PICTURE_SIDE, _PICTURE_SIDE)
        lines = [('reference', expected or ''), ('prediction', answer or '')]
        question = question_of(pair.reference)
        if question:
            lines.insert(0, ('question', question))
        if response is not None and response.strip() != answer:
            lines.append(('whole response', response))
        if problem:
            lines.append(('image', problem))
        return CaseCard(pair.name, picture, tuple(lines))

    # ---- texts

    @property
    def _section_names(self) -> list[str]:
        """The names of the scored sections."""
        return [*SECTION_COLUMNS] if self.section == 'report' else self.section.split('+')

    def _reference(self, pair: Pair) -> tuple[str | None, Sections]:
        """The reference text to score against, None if it lacks the scored section; and all its sections."""
        texts = {name: next((pair.reference[column] for column in columns
                             if isinstance(pair.reference.get(column), str)), None)
                 for name, columns in SECTION_COLUMNS.items()}  # yapf: disable
        if any(text is not None for text in texts.values()):
            report = f'Findings: {texts["findings"] or ""} Impression: {texts["impression"] or ""}'
            findings, impression = (text if text and report_tokens(text) else None for text in texts.values())
            sections = Sections(findings, impression, True)
            if sections.findings is None and sections.impression is None:
                raise _empty_report(pair, report)
            return self._select(report, sections), sections
        report = answer_of(pair.reference, pair.name)
        if not report_tokens(report):
            raise _empty_report(pair, report)
        return self._part(report)

    def _part(self, text: str) -> tuple[str | None, Sections]:
        sections = split_sections(text)
        return self._select(text, sections), sections

    def _select(self, text: str, sections: Sections) -> str | None:
        if self.section == 'report' or not sections.has_headings:
            return text
        parts = [getattr(sections, name) for name in self._section_names]
        return '\n'.join(part for part in parts if part is not None) or None

    def _values(self, answer: str, expected: str) -> dict[str, float]:
        prediction, reference = report_tokens(answer), report_tokens(expected)
        values = {
            'rouge_l': rouge_l(prediction, reference),
            self.meteor_name: meteor(prediction, reference, self.synonyms),
            **bleu_counts(prediction, reference)
        }
        if self.medevalkit:
            values['rouge_l_medevalkit'] = rouge_l_medevalkit(answer, expected)
        return values


def _empty_report(pair: Pair, text: str) -> RowError:
    return RowError(pair.name, f'the reference report is empty: {text[:80]!r}.',
                    'Write the report, or remove the row from the file.', 'eval-answer')  # yapf: disable


_TEXT_RULES = {
    'report': 'The whole report, including headings.',
    'findings': 'The findings. A text without headings is used as a whole.',
    'impression': 'The impression. A text without headings is used as a whole.',
    'findings+impression': 'Findings and impression, without their headings or other sections. A text without headings '
                           'is used as a whole.',
}  # yapf: disable


TASK = ReportsTask
