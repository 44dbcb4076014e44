"""Names of `--dataset` that look like files and are none: found at once, with the files that they may have meant."""
import difflib
import os

# Endings of the files that ms-swift reads.
_ENDINGS = ('.jsonl', '.json', '.csv', '.tsv', '.txt', '.parquet', '.arrow')
_NUM_NEIGHBOURS = 3
_HUB = 'For a dataset of a hub write hf::NAME or ms::NAME.'


def near_names(path: str) -> list[str]:
    """The files and folders whose names are nearest to that of a missing path, at most three, the nearest first.

    They are sought in the nearest folder above it that exists; where the folder itself is misspelled, the folders near
    it are looked into as well.
    """
    path = os.path.expanduser(path).rstrip('/' + os.sep)
    folder, name = os.path.split(path)
    if os.path.exists(path):
        return [path]
    if os.path.isdir(folder or '.'):
        return [os.path.join(folder, near) for near in _near(name, os.listdir(folder or '.'))]
    found = []
    for near in near_names(folder) if folder and folder != path else []:
        inside = os.path.join(near, name)
        found += [inside] if os.path.exists(inside) else near_names(inside) if os.path.isdir(near) else []
    return found[:_NUM_NEIGHBOURS]


def _near(name: str, names: list[str]) -> list[str]:
    """The names near to `name`, upper and lower case and the ending aside."""

    def likeness(other: str) -> float:
        whole = difflib.SequenceMatcher(None, name.lower(), other.lower()).ratio()
        stem, other_stem = (os.path.splitext(text.lower())[0] for text in (name, other))
        return max(whole, 0.95 * difflib.SequenceMatcher(None, stem, other_stem).ratio())

    rated = sorted(((likeness(other), other) for other in names if not other.startswith('.')), reverse=True)
    return [other for rate, other in rated if rate >= 0.75][:_NUM_NEIGHBOURS]


def is_data_file(path: str) -> bool:
    """Whether a path has the ending of a file of rows."""
    return path.lower().endswith(_ENDINGS)


def missing_dataset(name: str, flag: str, *, may_be_on_hub: bool = True) -> str | None:
    """Why a dataset's name means a local file or folder that does not exist; None if it exists or may be on a hub.

    Args:
        name: The name, without hub, subset and number of rows.
        flag: What names it, for the message.
        may_be_on_hub: Whether the name may be that of a dataset on a hub. It is taken for one unless it has the form of
            a path, or a folder or a file of rows has nearly this name.
    """
    if os.path.exists(name):
        return None
    if '://' in name:
        return f'{flag} {name}: ms-swift reads no URLs. Download the file, and name the copy.'
    # On a hub, a name is owner/name, or one word.
    is_path = (
        is_data_file(name) or name.startswith(('/', './', '../', '~')) or name.endswith('/') or '\\' in name
        or name.count('/') > 1)
    near = [path for path in near_names(name) if os.path.isdir(path) or is_data_file(path)]
    if may_be_on_hub and not is_path and not near:
        return None
    meant = f' Did you mean {" or ".join(near)}?' if near else ''
    hub = f' {_HUB}' if may_be_on_hub and not is_path else ''
    return f'{flag} {name}: there is no such file or folder (looked from {os.getcwd()}).{meant}{hub}'
