"""From a folder of DICOM and a JSONL to a cleaned training set, on real scans: about five minutes."""
import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from make_scans import write_rows, write_scans
from pathlib import Path
from PIL import Image, ImageDraw

_FOLDER = Path('output/demo-data')
_RECIPE = os.path.relpath(Path(__file__).parent / 'clean.yaml')


def run(command: str, **environ: str) -> None:
    """Runs a command and shows it.

    Raises:
        SystemExit: It fails.
    """
    print(f'\n$ {command}', flush=True)
    words = shlex.split(command)
    program = Path(sys.executable).parent / words[0]
    if subprocess.run([str(program), *words[1:]], env={**os.environ, **environ}).returncode:
        raise SystemExit(f'failed: {command}')


def draw_ultrasounds(folder: Path) -> None:
    """Draws the ultrasounds before and after."""
    import pydicom
    cleaned = sorted((folder / 'ultrasounds' / 'files').rglob('*.dcm'))
    before = sorted((folder / 'scans' / 'us').glob('*.dcm'))
    modes = {pydicom.dcmread(path).PhotometricInterpretation: path for path in cleaned}
    pairs = [(path, modes[pydicom.dcmread(path).PhotometricInterpretation]) for path in before]
    sheet = Image.new('RGB', (1040, 20 + 400 * len(pairs)), 'white')
    for row, pair in enumerate(pairs):
        for column, path in enumerate(pair):
            image = Image.fromarray(pydicom.dcmread(path).pixel_array).convert('RGB')
            image.thumbnail((510, 380))
            sheet.paste(image, (5 + 520 * column, 20 + 400 * row))
    draw = ImageDraw.Draw(sheet)
    draw.text((8, 4), 'before', 'black')
    draw.text((528, 4), 'after', 'black')
    sheet.save(folder / 'ultrasounds.png')


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    start = time.monotonic()
    shutil.rmtree(_FOLDER, ignore_errors=True)
    scans = _FOLDER / 'scans'
    write_rows(_FOLDER, write_scans(scans), scans)
    run(f'citrusv data dicom {scans} --output {_FOLDER}/series --workers 2')
    run(f'citrusv data run {_RECIPE} {_FOLDER}/reports.jsonl --output {_FOLDER}/clean --workers 2')
    run(f'citrusv data verify {_FOLDER}/clean')
    run(f'citrusv data why {_FOLDER}/clean reports.jsonl:1')
    run(f'citrusv data deid {scans}/us --output {_FOLDER}/ultrasounds --key {_FOLDER}/deid.key --prove 3 --workers 2')
    run(f'citrusv data stats {_FOLDER}/clean')
    run(f'citrusv check-data {_FOLDER}/clean/rows', ROOT_IMAGE_DIR=str(_FOLDER / 'clean'))
    draw_ultrasounds(_FOLDER)
    summary = json.loads((_FOLDER / 'clean' / 'summary.json').read_text(encoding='utf-8'))
    print(f'\n{summary["in"]} rows in, {summary["kept"] + summary["changed"]} to train on, '
          f'in {time.monotonic() - start:.0f} seconds. Look at:')
    for name in ('series/report.html', 'clean/report.html', 'clean-stats/stats.html', 'ultrasounds.png'):
        print(f'  {_FOLDER}/{name}')


if __name__ == '__main__':
    main()
