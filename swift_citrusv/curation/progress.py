"""What tasks count while they run, for the progress bar of another process."""
import os
import time

_SECONDS = .5


class Progress:
    """The number of things that a task has done, in a file of `folder/progress/unit`.

    Args:
        folder: The work folder.
        unit: What is counted, as `Stage.unit`.
        name: The name of the task.
    """

    def __init__(self, folder: str, unit: str, name: str) -> None:
        self._path = os.path.join(folder, 'progress', unit, name)
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        self._count, self._written = 0, time.monotonic()

    def add(self, count: int = 1) -> None:
        """Counts; the file follows twice a second."""
        self._count += count
        if time.monotonic() - self._written > _SECONDS:
            self.end()

    def end(self) -> None:
        """Writes the count."""
        self._written = time.monotonic()
        with open(self._path, 'w', encoding='ascii') as file:
            file.write(f'{self._count}')


def counted(folder: str, unit: str) -> int:
    """What all tasks have counted."""
    top, done = os.path.join(folder, 'progress', unit), 0
    for name in os.listdir(top) if os.path.isdir(top) else ():
        with open(os.path.join(top, name), encoding='ascii') as file:
            # Just opened for writing: nothing.
            done += int(file.read() or 0)
    return done
