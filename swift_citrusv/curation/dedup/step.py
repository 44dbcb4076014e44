"""The step `dedup`."""
import os
import pyarrow.parquet as pq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...files.rules import FileRules
from ..inputs import Shard
from ..shard_task import shard_name
from ..step import Decision, Row, Ruling, Stage, Step, rules_recipe
from .clusters import CandidateTask, ChooseTask, CompareTask
from .image_copies import COMPARED, HASHED, CopyTask, HashTask, LikenessTask
from .signatures import FormTask, SignatureTask

_RULES = {
    'exact-text': 'the same text as another row without images',
    'near-text': 'nearly the text of another row without images',
    'exact-pair': 'the same text as another row about the same images',
    'near-image': 'the same text as another row about copies of its images',
    'near-pair': 'nearly the text of another row about the same images or copies of them',
    'near-but-different': 'nearly the text of another row, but another side, denial, course or number',
}
# Parts of the comparison of texts.
_MAX_PARTS = 64
# Copies have .99 and more; the next slice of a CT of 2.5 mm has up to .981.
IMAGE_THRESHOLD = .985


@dataclass(frozen=True)
class DedupStep(Step):
    """Merges rows that say the same.

    Attributes:
        threshold: The smallest Jaccard index of near-duplicates, of normal forms; None: only equal texts are merged.
        image_threshold: The smallest likeness of copies of an image; None: only equal pixels are the same.
        reads_images: Whether images are the same by their pixels; else by their names, and no copies are found.
        scope: A column: rows with different values are never the same.
        different: What happens to near-duplicates with a decisive difference: 'review', 'merge' or 'keep'.
        files: What rows may name.
    """
    name: ClassVar[str] = 'dedup'
    threshold: float | None = .8
    image_threshold: float | None = IMAGE_THRESHOLD
    reads_images: bool = True
    scope: str | None = None
    different: str = 'review'
    files: FileRules = FileRules()

    def rules(self) -> Mapping[str, str]:
        return _RULES

    def recipe(self) -> dict[str, Any]:
        return {
            'threshold': self.threshold,
            'images': 'pixels' if self.reads_images else 'names',
            'image_threshold': self._copy_threshold,
            'scope': self.scope,
            'different': self.different,
            'files': rules_recipe(self.files),
        }

    @property
    def _copy_threshold(self) -> float | None:
        return self.image_threshold if self.reads_images else None

    def stages(self, folder: str, shards: Sequence[Shard]) -> Sequence[Stage]:
        if not shards:
            return ()
        count = len(shards)
        parts = min(count, _MAX_PARTS)
        is_near = self.threshold is not None
        stages, copy_threshold = [], self._copy_threshold
        if copy_threshold is not None:
            stages += [
                Stage('dedup-images', HashTask(shards, folder, self.files), count, folder, None, HASHED),
                Stage('dedup-likeness', LikenessTask(folder, parts, copy_threshold, self.files), parts, folder, None,
                      COMPARED),
                Stage('dedup-copies', CopyTask(folder), 1, folder),
            ]
        signatures = SignatureTask(shards, folder, self.files, self.reads_images, self.scope, is_near, copy_threshold
                                   is not None)
        stages += [
            Stage('dedup-signatures', signatures, count, folder),
            Stage('dedup-candidates', CandidateTask(folder), 1, folder),
        ]
        if self.threshold is not None:
            stages += [
                Stage('dedup-texts', FormTask(shards, folder), count, folder),
                Stage('dedup-compare', CompareTask(folder, parts, self.threshold), parts, folder),
            ]
        return [*stages, Stage('dedup-choose', ChooseTask(folder, self.different), 1, folder)]

    def judge(self, folder: str, shard: int) -> Callable[[Row], Ruling]:
        path = os.path.join(folder, 'decisions', f'{shard_name(shard)}.parquet')
        found: dict[str, Decision] = {}
        if os.path.exists(path):
            for item in pq.read_table(path).to_pylist():
                threshold = self.image_threshold if item['rule'] == 'near-image' else self.threshold
                threshold = None if item['measure'] is None else threshold
                found[item['row_id']] = Decision(item['rule'], item['verdict'], item['measure'], threshold,
                                                 item['winner'], item['detail'])
        kept = Ruling()

        def decide(row: Row) -> Ruling:
            decision = found.get(row.row_id)
            return kept if decision is None else Ruling((decision, ))

        return decide
