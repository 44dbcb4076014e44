"""The task `volume` of `citrusv eval`: label maps of scans, scored by label in millimetres."""
import json
import math
import numpy as np
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import RowError
from ...files.errors import FileError, unreadable_file
from ..cases import Case, Pair, PredictionError
from ..task import CaseCard, Measure, mean, ratio
from .grids import GridMap
from .label_volume import Label, LabelVolume, label_key, read_label_volume
from .volume_scores import Overlap, volume_diagonal, volume_scores

if TYPE_CHECKING:
    from ..table import CaseTable

# The columns of a row that name its file.
REFERENCE_COLUMNS, PREDICTION_COLUMNS = ('ref', 'labels', 'path'), ('pred', 'path')
IMAGE_COLUMNS = ('image', 'volume')


@dataclass(frozen=True)
class _Structure:
    """A label of the reference, of the prediction, or of both."""
    title: str
    target: Label | None
    predicted: Label | None


@dataclass(frozen=True)
class VolumeTask:
    """Label maps of scans.

    Attributes:
        tolerance: Of the NSD, in millimetres.
        names: The names of labels, as (number, name); () for those of the files.
        only: The labels to score, by name or number; () for all.
        resample: Whether a prediction on another grid is resampled to that of its reference.
    """
    NAME: ClassVar[str] = 'volume'
    TITLE: ClassVar[str] = 'Segmentation of volumes'
    # A case takes seconds.
    MIN_ROWS_FOR_WORKERS: ClassVar[int] = 2
    ROWS_PER_CHUNK: ClassVar[int] = 1
    tolerance: float = 2.
    names: tuple[tuple[int, str], ...] = ()
    only: tuple[str, ...] = ()
    resample: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise ValueError(f'The tolerance is {self.tolerance}: give 0 or more millimetres.')
        # From JSON these are lists.
        object.__setattr__(self, 'names', tuple((int(value), str(name)) for value, name in self.names))
        object.__setattr__(self, 'only', tuple(map(str, self.only)))

    @property
    def measures(self) -> tuple[Measure, ...]:
        """All measures; Dice is the first."""
        return (mean('dice'), mean('iou'), ratio('ciou', 'intersection', 'union'), mean('precision'), mean('recall'),
                mean('nsd', unit=f'{self.tolerance:g} mm'),
                mean('hd95', percent=False, higher_is_better=False, unit='mm'),
                mean('volume_difference', percent=False, unit='mL'),
                mean('volume_error', percent=False, higher_is_better=False, unit='mL'))  # yapf: disable

    @property
    def rules(self) -> dict[str, str]:
        """See `docs/evaluation.md`."""
        return {
            'case': 'a label of a scan that its reference or its prediction has; all means are over cases',
            'labels': 'matched by name where all labels of both files have names, else by number',
            'surface': 'the voxels with a face to the outside of the mask or of the volume; distances in mm between '
                       'centres of voxels, by the affine',
            'nsd': f'the share of both surfaces within {self.tolerance:g} mm of the other (inclusive)',
            'hd95': 'the larger of the two directed 95th percentiles of distances between the surfaces, in mm',
            'one mask empty': 'a label that only one of the two has: dice, iou, precision, recall, nsd 0; hd95 is the '
                              'diagonal of the volume (flagged hd95_diagonal, and missing_label or extra_label)',
            'no answer': 'a missing or unreadable prediction: each label of the reference scores 0; flagged no_answer',
            'volume_difference, volume_error': 'predicted minus reference volume in mL, and its absolute value',
            'cIoU': 'the sum of all intersections over the sum of all unions, in voxels',
            'grid': 'a prediction on the same voxels in another order or part is put in place; on other voxels it is '
                    + ('resampled to the nearest' if self.resample else 'unreadable'),
        }  # yapf: disable

    def score(self, pair: Pair) -> list[Case]:
        """One case for each label.

        Raises:
            RowError: The reference cannot be read.
            PredictionError: The prediction cannot be read, or lies on another grid.
        """
        return [self._case(structure, overlap, answered, diagonal)
                for structure, overlap, answered, diagonal in self._scored(pair)]  # yapf: disable

    def complete(self, table: 'CaseTable') -> None:
        """Every column is there already."""

    def show(self, pair: Pair, index: int) -> CaseCard:
        """Three planes through the place where the surfaces are farthest apart."""
        from .volume_pictures import draw_planes
        structure, overlap, answered, diagonal = self._scored(pair)[index]
        case = self._case(structure, overlap, answered, diagonal)
        target, predicted, grid = self._volumes(pair)
        masks = [
            target.mask(structure.target) if structure.target else None,
            grid(predicted.mask(structure.predicted)) if predicted and grid and structure.predicted else None
        ]
        image = next((str(pair.reference[name]) for name in IMAGE_COLUMNS if pair.reference.get(name)), None)
        picture, problem = draw_planes(image, target, masks[0], masks[1], overlap.worst)
        values = case.values
        lines = {
            'scores': ' '.join(f'{name} {values[name]:.3f}' for name in ('dice', 'iou', 'precision', 'recall', 'nsd'))
                      + f' hd95 {values["hd95"]:.2f} mm',
            'volume': f'{values["volume"]:.2f} mL, reference {values["target_volume"]:.2f} mL',
            'planes': 'through the voxel where the surfaces are farthest apart: '
                      + (', '.join(map(str, overlap.worst)) if overlap.worst else 'none'),
            'outlines': 'green: reference, orange: prediction, yellow: both',
            'remarks': ', '.join(case.flags),
            'picture': problem,
        }  # yapf: disable
        return CaseCard(f'{structure.title}: {pair.name}', picture,
                        tuple((name, text) for name, text in lines.items() if text))

    # ---- files

    def _volumes(self, pair: Pair) -> tuple[LabelVolume, LabelVolume | None, GridMap | None]:
        """The reference, the prediction, and the map into the reference's grid."""
        names = json.dumps(dict(self.names)) if self.names else None
        path = _file_of(pair.reference, REFERENCE_COLUMNS)
        if path is None:
            raise RowError(pair.name, 'the row names no label map.',
                           f'Name its file in the column {REFERENCE_COLUMNS[0]!r}.', 'eval-reference')
        try:
            target = _read(path, names)
        except (FileError, OSError) as e:
            raise unreadable_file(pair.name, f'{REFERENCE_COLUMNS[0]}={path!r}', e, 'eval-reference') from e
        if pair.prediction is None:
            return target, None, None
        predicted_path = _file_of(pair.prediction, PREDICTION_COLUMNS)
        if predicted_path is None:
            raise PredictionError(f'it names no label map in the column {PREDICTION_COLUMNS[0]!r}')
        try:
            predicted = _read(predicted_path, names)
            grid = GridMap(predicted.shape, predicted.affine, target.shape, target.affine, self.resample)
        except (FileError, OSError) as e:
            raise PredictionError(f'{os.path.basename(predicted_path)}: {str(e).rstrip(".")}') from e
        return target, predicted, grid

    def _scored(self, pair: Pair) -> list[tuple[_Structure, Overlap, bool, float]]:
        return _scored(self, pair.name, json.dumps(dict(pair.reference), default=str),
                       None if pair.prediction is None else json.dumps(dict(pair.prediction), default=str))

    def _structures(self, target: LabelVolume, predicted: LabelVolume | None) -> list[_Structure]:
        by_name = target.is_named and (predicted is None or predicted.is_named)

        def key(label: Label) -> Any:
            return label_key(label.name) if by_name else label.value

        found: dict[Any, list[Label | None]] = {}
        for side, volume in enumerate((target, predicted)):
            for label in volume.labels if volume else ():
                found.setdefault(key(label), [None, None])[side] = label
        wanted = {label_key(text) for text in self.only}
        structures = []
        for first, second in found.values():
            either = first or second
            assert either is not None
            if not wanted or wanted & {label_key(either.name), str(either.value)}:
                structures.append(_Structure(either.name or f'label {either.value}', first, second))
        return structures

    def _case(self, structure: _Structure, overlap: Overlap, answered: bool, diagonal: float) -> Case:
        given = {
            'no_answer': not answered,
            'missing_label': answered and structure.predicted is None,
            'extra_label': structure.target is None,
            'hd95_diagonal': overlap.values['hd95'] == diagonal
        }
        flags = [name for name, holds in given.items() if holds]
        return Case(dict(overlap.values), tuple(flags), {'label': structure.title})


@lru_cache(1)
def _scored(task: VolumeTask, name: str, reference: str,
            prediction: str | None) -> list[tuple[_Structure, Overlap, bool, float]]:
    """The scores of all labels of a row; the last row is kept, for its pictures."""
    pair = Pair(name, json.loads(reference), None if prediction is None else json.loads(prediction))
    target, predicted, grid = task._volumes(pair)
    diagonal = volume_diagonal(target.shape, target.affine)
    empty = np.zeros(target.shape, bool)
    found = []
    for structure in task._structures(target, predicted):
        wanted = target.mask(structure.target) if structure.target else empty
        drawn = empty
        if predicted is not None and grid is not None and structure.predicted is not None:
            try:
                drawn = grid(predicted.mask(structure.predicted))
            except FileError as e:
                raise PredictionError(str(e).rstrip('.')) from e
        overlap = volume_scores(drawn, wanted, target.affine, task.tolerance)
        found.append((structure, overlap, predicted is not None, diagonal))
    return found


@lru_cache(2)
def _read(path: str, names: str | None) -> LabelVolume:
    known = None if names is None else {int(value): name for value, name in json.loads(names).items()}
    return read_label_volume(path, known)


def _file_of(row: Mapping[str, Any], columns: tuple[str, ...]) -> str | None:
    return next((str(row[name]) for name in columns if isinstance(row.get(name), str) and row[name]), None)


TASK = VolumeTask
