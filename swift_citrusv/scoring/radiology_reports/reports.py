"""Report generation (section 5.2.4, table 8 of the paper): texts of radiologists against texts of a model."""
import numpy as np
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...errors import RowError
from ...settings import SettingError
from ..cases import Case, Pair
from ..image_facts import first_picture
from ..rows import answer_of, question_of, response_of, without_reasoning
from ..task import Corpus, Measure, Shown, mean
from .cider import cider
from .sections import Sections, split_sections
from .text_metrics import MAX_ORDER, bleu, bleu_counts, meteor, rouge_l, rouge_l_medevalkit, tokens

if TYPE_CHECKING:
    from ..table import Table

SECTIONS = ('report', 'findings', 'impression', 'findings+impression')
# Columns of a reference that hold its sections; the second form is CheXpert Plus's.
SECTION_COLUMNS = {'findings': ('findings', 'section_findings'), 'impression': ('impression', 'section_impression')}
_PICTURE_SIDE = 512


@dataclass(frozen=True)
class ReportsTask:
    """Scores reports by the likeness of their words.

    Attributes:
        section: What is scored, one of `SECTIONS`.
        synonyms: Whether METEOR uses WordNet's synonyms.
        medevalkit: Whether ROUGE-L is also computed as MedEvalKit does.
        rate_ner, rate_embeddings: Folders of RaTEScore's weights; None for no RaTEScore.

    Raises:
        SettingError: An option has a value that cannot be.
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
        """What METEOR is called: without synonyms it is another measure."""
        return 'meteor' if self.synonyms else 'meteor_exact_stem'

    @property
    def measures(self) -> tuple[Measure | Corpus, ...]:
        found: list[Measure | Corpus] = [mean('rouge_l'), mean('cider'), mean('cider_d')]
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
            'prediction': 'Reasoning is removed. What is missing, malformed or empty scores 0 in every measure.',
            'reference': 'Columns findings and impression (or section_findings, section_impression), or else the '
                         'answer. A row whose reference has not the section that is scored is left out and counted '
                         '(not_in_reference).',
            'words': 'Lower case, NFKC, no punctuation; each Chinese character is a word; all else as PTBTokenizer '
                     'divides it.',
            'rouge_l': 'F1 of the longest common subsequence (rouge-score), no stemming, mean over reports.',
            'cider': 'CIDEr of the 2015 paper, from 0 to 10; tables show it times 100, as it is published. Document '
                     'frequencies are those of all references that are scored, also within groups and resamplings.',
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
        """One case a row.

        Raises:
            RowError: The reference has no words.
            PredictionError: The response is no text.
        """
        wanted, source = self._reference(pair)
        text = without_reasoning(response_of(pair.prediction) or '')
        answer, sections = self._part(text)
        flags = []
        if wanted is None or not tokens(wanted):
            return [Case({}, ('not_in_reference', ))]
        if not source.has_headings and self.section != 'report':
            flags.append('reference_without_headings')
        if text:
            if not sections.has_headings and (source.has_headings or self.section != 'report'):
                flags.append('no_headings')
            else:
                flags += [f'missing_{name}' for name in self._names
                          if getattr(source, name) is not None and getattr(sections, name) is None]  # yapf: disable
        elif pair.prediction is not None:
            flags.append('empty_prediction')
        return [Case(self._values(answer or '', wanted), tuple(flags), data=[answer or '', wanted])]

    def complete(self, table: 'Table') -> None:
        """Adds CIDEr, which needs all references, and drops the texts, which then stay out of scores.json."""
        places = [i for i, data in enumerate(table.data) if data is not None]
        words = [[tokens(text) for text in table.data[i]] for i in places]
        for name, values in zip(('cider', 'cider_d'), cider([w for w, _ in words], [w for _, w in words])):
            table.columns[name] = np.full(len(table), np.nan)
            table.columns[name][places] = values
        if self.rate_ner is not None and self.rate_embeddings is not None:
            from .ratescore import ratescore
            table.columns['ratescore'] = np.full(len(table), np.nan)
            for i in places:
                answer, wanted = table.data[i]
                table.columns['ratescore'][i] = ratescore(answer, wanted, self.rate_ner, self.rate_embeddings)
        table.data.clear()

    def show(self, pair: Pair, index: int) -> Shown:
        """The image, and both texts."""
        wanted, _ = self._reference(pair)
        response = response_of(pair.prediction)
        answer, _ = self._part(without_reasoning(response or ''))
        picture, problem = first_picture(pair.reference, _PICTURE_SIDE, _PICTURE_SIDE)
        lines = [('reference', wanted or ''), ('prediction', answer or '')]
        question = question_of(pair.reference)
        if question:
            lines.insert(0, ('question', question))
        if response is not None and response.strip() != answer:
            lines.append(('whole response', response))
        if problem:
            lines.append(('image', problem))
        return Shown(pair.name, picture, tuple(lines))

    # ---- texts

    @property
    def _names(self) -> list[str]:
        """The sections that are scored."""
        return [*SECTION_COLUMNS] if self.section == 'report' else self.section.split('+')

    def _reference(self, pair: Pair) -> tuple[str | None, Sections]:
        """The text to compare with, None where the reference has no such section; and all of its sections."""
        texts = {name: next((pair.reference[column] for column in columns
                             if isinstance(pair.reference.get(column), str)), None)
                 for name, columns in SECTION_COLUMNS.items()}  # yapf: disable
        if any(text is not None for text in texts.values()):
            report = f'Findings: {texts["findings"] or ""} Impression: {texts["impression"] or ""}'
            findings, impression = (text if text and tokens(text) else None for text in texts.values())
            sections = Sections(findings, impression, True)
            if sections.findings is None and sections.impression is None:
                raise self._empty(pair, report)
            return self._chosen(report, sections), sections
        report = answer_of(pair.reference, pair.name)
        if not tokens(report):
            raise self._empty(pair, report)
        return self._part(report)

    def _part(self, text: str) -> tuple[str | None, Sections]:
        sections = split_sections(text)
        return self._chosen(text, sections), sections

    def _chosen(self, text: str, sections: Sections) -> str | None:
        if self.section == 'report' or not sections.has_headings:
            return text
        parts = [getattr(sections, name) for name in self._names]
        return '\n'.join(part for part in parts if part is not None) or None

    def _values(self, answer: str, wanted: str) -> dict[str, float]:
        prediction, reference = tokens(answer), tokens(wanted)
        values = {
            'rouge_l': rouge_l(prediction, reference),
            self.meteor_name: meteor(prediction, reference, self.synonyms),
            **bleu_counts(prediction, reference)
        }
        if self.medevalkit:
            values['rouge_l_medevalkit'] = rouge_l_medevalkit(answer, wanted)
        return values

    @staticmethod
    def _empty(pair: Pair, text: str) -> RowError:
        return RowError(pair.name, f'the report of the reference is empty: {text[:80]!r}.',
                        'Write it, or take the row out of the file.', 'eval-answer')  # yapf: disable


_TEXT_RULES = {
    'report': 'The whole report as it is, headings included.',
    'findings': 'The findings. A text without any heading is taken as a whole.',
    'impression': 'The impression. A text without any heading is taken as a whole.',
    'findings+impression': 'Findings and impression, without their headings; what else there is does not count. A text '
                           'without any heading is taken as a whole.',
}  # yapf: disable


TASK = ReportsTask
