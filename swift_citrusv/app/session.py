"""A visitor's conversation: images, questions, answers with masks, and the folder of its files."""
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from PIL import Image
from typing import Any

from ..constants import IMAGE_PLACEHOLDER
from ..files.images import open_image_file, to_rgb
from ..files.rules import FileRules
from ..inference.results import MaskResult
from .geometry import Geometry
from .uploads import Upload, UploadError, VolumeSlice, series_of, unpacked

# PNG compression of images for the page, which favours speed on a local network.
_COMPRESS_LEVEL = 2


@dataclass(frozen=True)
class InputImage:
    """An image as the model sees it.

    Attributes:
        upload: The uploaded file.
        slice: The slice, if the file is a volume.
        file: The name of the PNG in the session folder.
        size: (width, height).
        geometry: The size of its pixels and the sides of the body.
    """
    upload: Upload
    slice: VolumeSlice | None
    file: str
    size: tuple[int, int]
    geometry: Geometry = Geometry()

    @property
    def title(self) -> str:
        return self.upload.title(self.slice)


@dataclass(eq=False)
class Turn:
    """A question and its answer.

    Attributes:
        question: The text of the user.
        images: The images that were added with it.
        num_previous: Number of images in the conversation before it.
        files: The uploaded files of the images, as `Session.files`.
        answer: The text of the answer so far.
        masks: The masks of the answer.
        state: 'waiting', 'done', or 'stopped' by the user.
    """
    question: str
    images: list[InputImage]
    num_previous: int
    files: dict[str, Upload] = field(default_factory=dict)
    answer: str = ''
    masks: tuple[MaskResult, ...] = ()
    state: str = 'waiting'

    @property
    def content(self) -> str:
        """The question with an `<image>` tag for each new image."""
        if IMAGE_PLACEHOLDER in self.question:
            return self.question
        return IMAGE_PLACEHOLDER * len(self.images) + self.question


@dataclass(eq=False)
class Session:
    """A visitor's conversation, whose files can only be reached with its token.

    Attributes:
        token: A random secret, also the name of the folder; empty until the first upload.
        folder: The folder of the session's files.
        pending: Images that no question has been asked about yet.
        turns: Questions and answers in order.
        files: The uploads whose images are pending, by Gradio's paths.
        volume: The volume whose slice is selected now.
        stopped: Whether the user has stopped the current answer.
    """
    token: str = ''
    folder: str = ''
    pending: list[InputImage] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    files: dict[str, Upload] = field(default_factory=dict)
    volume: Upload | None = None
    stopped: bool = False
    _num_files: int = 0

    def create_folder(self, parent: str) -> None:
        """Creates the folder, named by a new token."""
        self.token = secrets.token_urlsafe(24)
        self.folder = os.path.join(parent, self.token)
        os.mkdir(self.folder, mode=0o700)

    def remove(self) -> None:
        """Deletes all files of the session."""
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def images(self) -> list[InputImage]:
        """The images of all questions, in the order of `MaskResult.image_index`."""
        return [image for turn in self.turns for image in turn.images]

    @property
    def answering(self) -> bool:
        return bool(self.turns) and self.turns[-1].state == 'waiting'

    def path(self, name: str) -> str:
        """Returns the path of a file of this session."""
        return os.path.join(self.folder, name)

    def load_image(self, image: InputImage) -> Image.Image:
        """Loads the pixels of an image, RGB."""
        return to_rgb(open_image_file(self.path(image.file), image.upload.rules))

    def new_name(self, suffix: str) -> str:
        """Returns an unused file name."""
        self._num_files += 1
        return f'{self._num_files}{suffix}'

    # ---- images

    def set_files(self, paths: Sequence[str], rules: FileRules) -> list[str]:
        """Sets the pending images to those of the files that the user has selected.

        Args:
            paths: All selected files.
            rules: Which files may be opened.

        Returns:
            An error message for each file that cannot be read.
        """
        problems: list[str] = []
        files: dict[str, Upload] = {}
        for group in self._groups(paths, rules, problems):
            # A series is made anew if one of its files comes or goes.
            known = {id(self.files.get(path)) for path in group}
            same = [path for path, upload in self.files.items() if {id(upload)} == known]
            try:
                upload = self.files[group[0]] if same == group else self._upload(group, rules)
                files.update(dict.fromkeys(group, upload))
            except UploadError as e:
                problems.append(str(e))
        gone = {*self.files.values()} - {*files.values()}
        self.pending = [image for image in self.pending if image.upload not in gone]
        self.files = files
        if self.volume in gone:
            self.volume = next((image.upload for image in self.pending if image.slice is not None), None)
        return problems

    def select_slice(self, selected: VolumeSlice) -> None:
        """Selects another slice of the volume. It replaces the pending slice, or is added as a new image.

        Raises:
            UploadError: The slice cannot be decoded, or its window is invalid.
        """
        assert self.volume is not None
        image = self._add_image(self.volume, selected)
        for i, other in enumerate(self.pending):
            if other.upload is self.volume:
                self.pending[i] = image
                return
        self.pending.append(image)

    def remove_slice(self) -> None:
        """Removes the pending slice of the volume."""
        self.pending = [image for image in self.pending if image.upload is not self.volume]

    def last_slice(self) -> VolumeSlice | None:
        """The last selected slice of the volume."""
        selected = [image.slice for image in (*self.images, *self.pending) if image.upload is self.volume]
        return selected[-1] if selected else None

    def _groups(self, paths: Sequence[str], rules: FileRules, problems: list[str]) -> list[list[str]]:
        """The selected files, those of a DICOM series together."""
        groups: dict[str, list[str]] = {}
        for path in paths:
            try:
                groups.setdefault(series_of(path, rules) or path, []).append(path)
            except UploadError as e:
                problems.append(str(e))
        return [*groups.values()]

    def _upload(self, paths: Sequence[str], rules: FileRules) -> Upload:
        # Copies, because Gradio may delete its own files before the session ends.
        folder = self.path(self.new_name(''))
        os.mkdir(folder)
        for number, path in enumerate(paths):
            # Files of a series may have the same name in different folders.
            name = os.path.basename(path) if len(paths) == 1 else f'{number:05}_{os.path.basename(path)}'
            copied = shutil.copyfile(path, os.path.join(folder, name))
        if len(paths) == 1:
            upload = Upload(unpacked(copied) or copied, rules)
        else:
            upload = Upload(folder, rules)
        middle = upload.middle_slice()
        self.pending.append(self._add_image(upload, middle))
        if middle is not None:
            self.volume = upload
        return upload

    def _add_image(self, upload: Upload, selected: VolumeSlice | None) -> InputImage:
        image = upload.open(selected)
        file = self.new_name('.png')
        image.save(self.path(file), compress_level=_COMPRESS_LEVEL)
        return InputImage(upload, selected, file, image.size, upload.geometry(selected))

    # ---- questions

    def ask(self, question: str) -> None:
        """Starts a turn with the pending images."""
        self.turns.append(Turn(question, self.pending, len(self.images), self.files))
        self.pending, self.files, self.stopped = [], {}, False

    def undo_question(self) -> str:
        """Removes the last turn, which has no answer, and returns its question."""
        turn = self.turns.pop()
        self.pending = turn.images + self.pending
        self.files = turn.files | self.files
        return turn.question

    def request(self, system: str | None) -> tuple[list[Image.Image], list[dict[str, Any]]]:
        """Returns the images and messages of the conversation, as `CitrusVPipeline` takes them."""
        messages = [] if system is None else [{'role': 'system', 'content': system}]
        for turn in self.turns:
            messages.append({'role': 'user', 'content': turn.content})
            if turn.state != 'waiting':
                messages.append({'role': 'assistant', 'content': turn.answer})
        return [self.load_image(image) for image in self.images], messages
