"""What a series is, and what can be wrong with it."""
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .facts import Slice

RULES = {
    'other-file': 'neither DICOM nor NIfTI',
    'no-image': 'a DICOM object without an image: a report, a plan, a DICOMDIR',
    'damaged': 'the header or the pixels cannot be read',
    'duplicate': 'the same image again',
    'localizer': 'a scout, which lies across the slices',
    'uid-conflict': 'two different images with one SOPInstanceUID',
    'mixed-patient': 'a series of several patients',
    'mixed-study': 'a series of several studies',
    'mixed-modality': 'a series of several modalities',
    'mixed-size': 'slices of different sizes',
    'mixed-pixels': 'slices whose pixels are stored in different ways',
    'mixed-orientation': 'slices that are not parallel, or patients in different positions',
    'mixed-spacing': 'slices with different distances of their pixels, or of different thickness',
    'mixed-frame': 'slices in several frames of reference',
    'missing-geometry': 'no position, orientation or distance of pixels',
    'orientation': 'axes that contradict each other, the patient position, or the order of the slices',
    'tilt': 'slices that are shifted against each other, as with a tilted gantry',
    'same-position': 'several slices at one position that are no phases',
    'gap': 'missing slices',
    'uneven-spacing': 'different distances between slices',
    'order': 'InstanceNumbers that do not follow the positions',
    'spacing-mismatch': 'the distance of slices is not what the header says',
    'impossible-extent': 'a physical size that no body or scanner has',
    'rescale-mismatch': 'values whose slope or intercept is wrong',
    'blank-slice': 'a slice of one value',
    'repeated-pixels': 'the same pixels at several positions',
    'few-slices': 'fewer slices than asked for',
}
# Rules that leave a series in doubt only.
DOUBTS = ('tilt', 'order')


@dataclass(frozen=True)
class Limits:
    """What sizes are possible.

    Attributes:
        min_extent, max_extent: Millimetres of the side of a slice of CT, MR or PET.
        max_length: Millimetres from the first slice to the last, and of the side of any other image.
        max_voxel: Millimetres of the side of a voxel.
        min_slices: Slices of a CT, MR or PET series.
    """
    min_extent: float = 40
    max_extent: float = 1000
    max_length: float = 2500
    max_voxel: float = 25
    min_slices: int = 1


class Fault(NamedTuple):
    """A rule that a series or a slice breaks.

    Attributes:
        rule: One of `RULES`.
        detail: In words, with names of slices.
        measure, threshold: What was measured, and the limit.
        slices: The numbers of the slices that it concerns; () for the whole series.
        evidence: For a duplicate the number of the slice that stays.
    """
    rule: str
    detail: str
    measure: float | None = None
    threshold: float | None = None
    slices: tuple[int, ...] = ()
    evidence: int | None = None


@dataclass
class Series:
    """What was found out of a series.

    Attributes:
        slices: All its slices.
        faults: What is wrong.
        order: The numbers of the slices that count, in their order along the normal; phases follow each other.
        volumes: The number of phases.
        step: Millimetres from slice to slice; None if it is unknown.
        gaps, duplicates: How many slices are missing, and how many are copies.
    """
    slices: Sequence[Slice]
    faults: list[Fault] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    volumes: int = 1
    step: float | None = None
    gaps: int = 0
    duplicates: int = 0

    def add(self,
            rule: str,
            detail: str,
            measure: float | None = None,
            threshold: float | None = None,
            slices: tuple[int, ...] = (),
            evidence: int | None = None) -> None:
        """Adds a fault."""
        self.faults.append(Fault(rule, detail, measure, threshold, slices, evidence))

    def has(self, rule: str) -> bool:
        """Whether a rule is broken."""
        return any(fault.rule == rule for fault in self.faults)
