"""The step `filter`."""
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from ...errors import RowError
from ...files.rules import FileRules
from ...rows.columns import ColumnRules
from ...rows.jsonl import check_row, parse_line
from ..images import images_of
from ..inputs import sha256_of
from ..step import Decision, Row, Ruling, Step, rules_recipe
from ..texts import row_text, token_counter, tokenizer_file
from .image_rules import ImageJudge
from .rule_file import FilterRules, descriptions
from .series import RULE, SeriesJudge
from .text_rules import TextJudge

_RULES = {
    'contract': 'the row breaks the row contract, and training would refuse it',
    'no-answer': 'a question without an answer',
    'small-image': 'an image with too few pixels',
    'undecodable-image': 'an image that is missing or cannot be decoded',
    'single-colour': 'an image of one colour',
    'blank-image': 'an image on which nothing is to be seen',
    'short': 'too few tokens',
    'long': 'too many tokens',
    'repetition': 'a text that repeats itself',
    RULE: 'a slice of a series that `citrusv data dicom` did not let pass',
}
# Integers of more than 64 bits, which need the strict reader.
_LONG_NUMBER = re.compile(rb'[\[,:\s-]\d{19,}')


@dataclass(frozen=True)
class FilterStep(Step):
    """Drops rows of low quality.

    Attributes:
        filter_rules: The rules.
        tokenizer: The folder of a tokenizer; None: characters and words count.
        check_images: Whether to open the images.
        files: What rows may name.
        series: An output of `citrusv data dicom` that slices must have passed; None: any slice.
    """
    name: ClassVar[str] = 'filter'
    filter_rules: FilterRules
    tokenizer: str | None = None
    check_images: bool = True
    files: FileRules = FileRules()
    series: str | None = None

    def rules(self) -> Mapping[str, str]:
        return {**_RULES, **descriptions(self.filter_rules.text_rules)}

    def recipe(self) -> dict[str, Any]:
        tokens = 'characters and words' if self.tokenizer is None else sha256_of(tokenizer_file(self.tokenizer))
        return {
            'rules': asdict(self.filter_rules),
            'tokens': tokens,
            'images': self.check_images,
            'files': rules_recipe(self.files),
            'series': None if self.series is None else sha256_of(os.path.join(self.series, 'summary.json')),
        }

    def judge(self, folder: str, shard: int) -> Callable[[Row], Ruling]:
        texts = TextJudge(self.filter_rules, token_counter(self.tokenizer))
        images = ImageJudge(self.filter_rules, self.files) if self.check_images else None
        series = None if self.series is None else SeriesJudge(self.series, self.files)
        columns = ColumnRules()

        def decide(row: Row) -> Ruling:
            name = f'{row.source}:{row.line}'
            try:
                if row.is_strict and row.text.count(b'[') + row.text.count(b'{') < 100 \
                        and not _LONG_NUMBER.search(row.text):
                    check_row(row.data, name, columns)
                else:
                    parse_line(row.text.decode('utf-8', 'surrogateescape'), name)
                text = row_text(row.data, name)
            except RowError as error:
                detail = f'{error.kind}: {error.problem} {error.remedy}'
                return Ruling([Decision('contract', 'dropped', detail=detail)])
            found = list(texts.decide(text, bool(row.data.get('masks'))))
            if images is not None:
                found += images.decide(images_of(row.data))
            if series is not None:
                found += series.decide(images_of(row.data))
            return Ruling(found)

        return decide
