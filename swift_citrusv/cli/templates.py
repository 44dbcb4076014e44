"""`citrusv templates`: lists, locates and copies the files in `templates/`."""
import argparse
import shutil
from pathlib import Path

from ..package_files import shipped_files, templates_dir

NAME = 'templates'
HELP = 'list, locate or copy the stage files and prompts'
DESCRIPTION = ('Lists the stage files and prompt templates. With NAME it prints only the path of that file: '
               '`swift sft $(citrusv templates stage4) --model DIR --dataset rows.jsonl`.')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('name', nargs='?', metavar='NAME', help='a listed name, e.g. stage4')
    parser.add_argument(
        '--copy', metavar='DIR', type=Path, help='copy the file, or all files, to this directory; never overwrites')


def run(args: argparse.Namespace) -> int:
    folder = templates_dir()
    files = {path.relative_to(folder).with_suffix('').as_posix(): path for path in shipped_files(folder)}
    if args.name is not None:
        wanted = args.name.removesuffix('.yaml')
        if wanted not in files:
            raise ValueError(f'There is no template {args.name!r}. Give one of: {", ".join(files)}.')
        files = {wanted: files[wanted]}
    if args.copy is not None:
        for path in copy_templates(folder, list(files.values()), args.copy):
            print(path)
    elif args.name is not None:
        print(files[wanted])
    else:
        width = max(map(len, files))
        for name, path in files.items():
            print(f'{name:{width}}  {_headline(path)}')
        print(f'\nFolder: {folder}')
    return 0


def copy_templates(folder: Path, files: list[Path], target: Path) -> list[Path]:
    """Copies `files`, which are in `folder`, to `target` under their relative names.

    Raises:
        ValueError: One of them exists already. Then none is copied.
    """
    copies = {path: target / path.relative_to(folder) for path in files}
    if present := [str(copy) for copy in copies.values() if copy.exists()]:
        raise ValueError(f'{", ".join(present)} would be overwritten. Move it, or give another --copy directory.')
    for path, copy in copies.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return list(copies.values())


def _headline(path: Path) -> str:
    """Returns the first sentence of the comment at the top of the file."""
    text = ''
    for line in path.read_text(encoding='utf-8').splitlines():
        if not line.startswith('#') or not line.strip('# '):
            break
        text += line.lstrip('#')
    return text.strip().partition('. ')[0].partition(': ')[0].rstrip('.')
