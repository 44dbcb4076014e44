"""A visitor's conversation: pictures, questions, answers with masks, and the folder in which their files lie."""
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from PIL import Image
from typing import Any

from ..files.images import open_image_file, to_rgb
from ..files.rules import FileRules
from ..inference.results import MaskResult
from ..rows.target_image import IMAGE_TAG
from .uploads import Cut, Upload, UploadError

# Of pictures for the page: it comes from this machine or its net, where time costs more than bytes.
_COMPRESS_LEVEL = 2


@dataclass(frozen=True)
class Picture:
    """A picture as the model sees it.

    Attributes:
        upload: Its file.
        cut: The slice, of a volume.
        file: The name of its PNG in the folder of the session.
        size: (width, height).
    """
    upload: Upload
    cut: Cut | None
    file: str
    size: tuple[int, int]

    @property
    def title(self) -> str:
        return self.upload.title(self.cut)


@dataclass(eq=False)
class Turn:
    """A question and its answer.

    Attributes:
        question: As the user wrote it.
        pictures: The new ones that came with it.
        before: Pictures of the conversation before it.
        files: The uploaded files that they come from, as `Session.files`.
        answer: Its text, as far as it is written.
        masks: Of the answer.
        state: 'waiting', 'done', or 'stopped' by the user.
    """
    question: str
    pictures: list[Picture]
    before: int
    files: dict[str, Upload] = field(default_factory=dict)
    answer: str = ''
    masks: tuple[MaskResult, ...] = ()
    state: str = 'waiting'

    @property
    def content(self) -> str:
        """The question with an `<image>` for each new picture."""
        return self.question if IMAGE_TAG in self.question else IMAGE_TAG * len(self.pictures) + self.question


@dataclass(eq=False)
class Session:
    """All of a visitor's conversation; nothing of it is reached but by its token.

    Attributes:
        token: What nobody guesses, the name of its folder; empty until something is kept.
        pending: Pictures that no question has been asked about.
        turns: In order.
        files: Those whose pictures are pending, by the paths that the page knows.
        volume: The volume of which slices are chosen now.
        stopped: The user wants no more of the answer that is being written.
    """
    token: str = ''
    folder: str = ''
    pending: list[Picture] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    files: dict[str, Upload] = field(default_factory=dict)
    volume: Upload | None = None
    stopped: bool = False
    _num_files: int = 0

    def open_in(self, parent: str) -> None:
        """Makes the folder."""
        self.token = secrets.token_urlsafe(24)
        self.folder = os.path.join(parent, self.token)
        os.mkdir(self.folder, mode=0o700)

    def remove(self) -> None:
        """Deletes all files."""
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def pictures(self) -> list[Picture]:
        """Those that questions have been asked about, as `image_index` counts them."""
        return [picture for turn in self.turns for picture in turn.pictures]

    @property
    def answering(self) -> bool:
        return bool(self.turns) and self.turns[-1].state == 'waiting'

    def path(self, name: str) -> str:
        """Of a file of this session."""
        return os.path.join(self.folder, name)

    def image(self, picture: Picture) -> Image.Image:
        """The pixels, RGB."""
        return to_rgb(open_image_file(self.path(picture.file), picture.upload.rules))

    def new_name(self, suffix: str) -> str:
        """A name for a file that there is not yet."""
        self._num_files += 1
        return f'{self._num_files}{suffix}'

    # ---- pictures

    def set_files(self, paths: Sequence[str], rules: FileRules) -> list[str]:
        """Makes the pending pictures those of the files that the user has chosen and not yet asked about.

        Args:
            paths: All of them.
            rules: What may be opened.

        Returns:
            For each file that cannot be read, why.
        """
        problems, files = [], {}
        for path in paths:
            try:
                files[path] = self.files.get(path) or self._upload(path, rules)
            except UploadError as e:
                problems.append(str(e))
        gone = {upload for path, upload in self.files.items() if path not in files}
        self.pending = [picture for picture in self.pending if picture.upload not in gone]
        self.files = files
        if self.volume in gone:
            self.volume = next((picture.upload for picture in self.pending if picture.cut is not None), None)
        return problems

    def set_cut(self, cut: Cut) -> None:
        """Takes another slice of the volume: instead of the one that is pending, else as a new picture.

        Raises:
            UploadError: It cannot be shown so.
        """
        assert self.volume is not None
        picture = self._picture(self.volume, cut)
        for i, other in enumerate(self.pending):
            if other.upload is self.volume:
                self.pending[i] = picture
                return
        self.pending.append(picture)

    def leave_out(self) -> None:
        """Takes the pending slice of the volume away."""
        self.pending = [picture for picture in self.pending if picture.upload is not self.volume]

    def last_cut(self) -> Cut | None:
        """The slice of the volume that was taken last."""
        taken = [picture.cut for picture in (*self.pictures, *self.pending) if picture.upload is self.volume]
        return taken[-1] if taken else None

    def _upload(self, path: str, rules: FileRules) -> Upload:
        # A copy lives as long as this session, and has the name that the user knows.
        folder = self.path(self.new_name(''))
        os.mkdir(folder)
        upload = Upload(shutil.copyfile(path, os.path.join(folder, os.path.basename(path))), rules)
        cut = upload.middle()
        self.pending.append(self._picture(upload, cut))
        if cut is not None:
            self.volume = upload
        return upload

    def _picture(self, upload: Upload, cut: Cut | None) -> Picture:
        image = upload.open(cut)
        file = self.new_name('.png')
        image.save(self.path(file), compress_level=_COMPRESS_LEVEL)
        return Picture(upload, cut, file, image.size)

    # ---- questions

    def ask(self, question: str) -> None:
        """Begins a turn with the pending pictures."""
        self.turns.append(Turn(question, self.pending, len(self.pictures), self.files))
        self.pending, self.files, self.stopped = [], {}, False

    def take_back(self) -> str:
        """Undoes a turn that has no answer; its question."""
        turn = self.turns.pop()
        self.pending = turn.pictures + self.pending
        self.files = turn.files | self.files
        return turn.question

    def request(self, system: str | None) -> tuple[list[Image.Image], list[dict[str, Any]]]:
        """Images and messages of the conversation, for `CitrusVPipeline`."""
        messages = [] if system is None else [{'role': 'system', 'content': system}]
        for turn in self.turns:
            messages.append({'role': 'user', 'content': turn.content})
            if turn.state != 'waiting':
                messages.append({'role': 'assistant', 'content': turn.answer})
        return [self.image(picture) for picture in self.pictures], messages
