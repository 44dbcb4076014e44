"""What was done to a file."""
from dataclasses import dataclass, field
from typing import Any

from .text import Finding


@dataclass
class FileResult:
    """What was done to a file.

    Attributes:
        kind: 'DICOM', 'NIFTI' or a format of PIL.
        actions: Elements of a header by action.
        findings: What was found in the texts of a header.
        metadata: Parts of another file that went: EXIF, comments, text chunks.
        frames: The frames that were read.
        boxes: The places in which text was blanked.
        places: The boxes of each frame.
        by_others: Places that the first engine alone would have missed.
        overlays: Overlays that were cleared.
        left: Texts that an engine still reads in what was written; None if none looked again.
        name: The file below `files/`.
    """
    kind: str
    actions: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    metadata: int = 0
    frames: int = 1
    boxes: int = 0
    places: list[list[tuple[int, int, int, int]]] = field(default_factory=list)
    by_others: int = 0
    overlays: int = 0
    left: int | None = None
    name: str = ''

    def as_json(self) -> dict[str, Any]:
        """For a file beside the cleaned one: counts only."""
        return {
            **{name: value for name, value in vars(self).items() if name not in ('places', 'findings')},
            'findings': [[item.rule, 0, 0, item.is_sure] for item in self.findings],
        }  # yapf: disable

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> 'FileResult':
        """The inverse of `as_json`."""
        return cls(**{**values, 'findings': [Finding(*item) for item in values['findings']]})
