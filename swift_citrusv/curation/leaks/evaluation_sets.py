"""Evaluation sets: published benchmarks, rows of any format, folders of images."""
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import RowError
from ...files.medical import medical_format
from ...files.rules import FileRules
from ...scoring.questions.presets import QA_PRESETS, preset_rows
from ...settings import SettingError
from ..images import images_of
from ..inputs import Shard, files_below, find_files, is_output, is_rows, read_shard, sha256_of
from ..shard_task import parsed
from ..slices import slice_fragments
from ..texts import row_text

_IMAGE_NAMES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.gif')


@dataclass(frozen=True)
class EvaluationSet:
    """A set that training rows must not hold.

    Attributes:
        name: Its name in the certificate.
        kind: The name of a preset, or 'files': rows and images.
        path: As it was given.
        files: (path, name) of its files.
        num_unread: Files of the folder that are neither rows nor images.
    """
    name: str
    kind: str
    path: str
    files: tuple[tuple[str, str], ...]
    num_unread: int = 0

    def sha256(self) -> str:
        """The hash of the names and contents of its files."""
        content = hashlib.sha256()
        for path, name in self.files:
            content.update(f'{name}\0{sha256_of(path)}\n'.encode())
        return content.hexdigest()


@dataclass(frozen=True)
class Item:
    """A question, a report or an image of an evaluation set.

    Attributes:
        item_id: Its id: that of the set, else file and line.
        questions, answers: Its texts, each by itself.
        images: What it names as images.
        data: The values of its columns.
        has_images: Whether it is about images, even if they are not at hand.
    """
    item_id: str
    questions: Sequence[str]
    answers: Sequence[str]
    images: Sequence[Any]
    data: Mapping[str, Any]
    has_images: bool


def find_sets(words: Sequence[str]) -> list[EvaluationSet]:
    """The evaluation sets of a command line.

    Args:
        words: `PRESET=PATH`, files of rows, folders of rows, or images and folders of them.

    Raises:
        SettingError: One is none of these.
    """
    sets = []
    for word in words:
        preset, _, path = word.partition('=')
        if path and preset in QA_PRESETS:
            if not os.path.exists(path):
                raise SettingError(f'{word}: there is no {path}.')
            sets.append(EvaluationSet(preset, preset, path, _below(path)))
        elif os.path.isdir(word) and not is_output(word):
            files = _below(word)
            read = tuple((file, name) for file, name in files if _is_table(name) or _is_image(file))
            if not read:
                raise SettingError(f'{word} has neither files of rows nor images.')
            sets.append(EvaluationSet(_name(word), 'files', word, read, len(files) - len(read)))
        elif os.path.isfile(word) and not is_rows(word) and _is_image(word):
            sets.append(EvaluationSet(_name(word), 'files', word, _below(word)))
        elif os.path.exists(word):
            sets.append(EvaluationSet(_name(word), 'files', word, tuple(find_files([word]))))
        else:
            raise SettingError(f'{word}: there is no such file or folder. Give a file or a folder, or PRESET=PATH with '
                               f'one of {", ".join(QA_PRESETS)}.')
    return sets


def _name(path: str) -> str:
    return os.path.basename(os.path.abspath(path))


def _below(path: str) -> tuple[tuple[str, str], ...]:
    """(path, name) of a file, or of the files of a folder."""
    if os.path.isfile(path):
        return ((path, os.path.basename(path)), )
    return tuple((os.path.join(path, file), file.replace(os.sep, '/')) for file in files_below(path))


def _is_table(name: str) -> bool:
    """Whether a file of a folder holds rows: text files beside images are notes."""
    return is_rows(name) and not name.endswith('.txt')


def _is_image(path: str) -> bool:
    return path.lower().endswith(_IMAGE_NAMES) or medical_format(path) is not None


def read_items(chosen: EvaluationSet, image_folder: str) -> Iterator[Item]:
    """The items of a set.

    Args:
        chosen: The set.
        image_folder: Where images inside of Parquet files of a preset are written.

    Raises:
        SettingError: A row cannot be read; the message names it.
    """
    if chosen.kind == 'files':
        for path, name in chosen.files:
            if not is_rows(path):
                item_id = f'{chosen.name}/{name}' if name != chosen.name else name
                # Each slice of a volume is an item.
                for fragment in slice_fragments(path, FileRules()):
                    suffix = f'#{fragment}' if fragment else ''
                    yield Item(f'{item_id}{suffix}', (), (), (f'{path}{suffix}', ), {}, True)
                continue
            for line, content in read_shard(Shard(path, name)):
                row, faults = parsed(content, name, line)
                if faults:
                    raise SettingError(f'{name}:{line} of the evaluation set {chosen.path}: {faults[0].detail}')
                yield _item(row.data, f'{name}:{line}', bool(images_of(row.data)))
    else:
        try:
            for data in preset_rows(chosen.kind, chosen.path, image_output=image_folder):
                # Also where its images are missing.
                yield _item(data, str(data['id']), 'images' in data)
        except (RowError, ValueError) as error:
            raise SettingError(f'{chosen.kind}={chosen.path}: {error}') from error


def _item(data: Mapping[str, Any], place: str, has_images: bool) -> Item:
    """An item from a row, or from a line of questions and answers."""
    if isinstance(data.get('question'), str):
        questions: Sequence[str] = (data['question'], )
        answers: Sequence[str] = (data['answer'], ) if isinstance(data.get('answer'), str) else ()
    else:
        try:
            questions, answers = row_text(data, place)[:2]
        except RowError:
            questions = answers = ()
    item_id = data.get('id')
    return Item(place if item_id in (None, '') else str(item_id), questions, answers, images_of(data), data, has_images)
