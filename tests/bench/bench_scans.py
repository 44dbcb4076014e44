"""Time to read a slice of a volume, by file format and plane.

    python tests/bench/bench_scans.py --output output/bench/scans.json

Every row opens its file again. A compressed file is decompressed up to the last voxel of the
slice; `citrusv volume` reads it once.
"""
import argparse
import json
import numpy as np
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def milliseconds(function: Callable[[], object], repeats: int) -> float:
    """The best of several runs."""
    best = float('inf')
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return round(1000 * best, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--side', type=int, default=512)
    parser.add_argument('--slices', type=int, default=300)
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--output', help='where to write the figures as JSON')
    args = parser.parse_args()

    from support.scans import affine_of, dicom, nifti
    from tqdm import tqdm

    from swift_citrusv.files.images import open_image, to_rgb
    from swift_citrusv.files.rules import FileRules
    from swift_citrusv.volumes.volume import Volume
    rules, rng = FileRules(), np.random.default_rng(0)
    line = np.linspace(-1, 1, args.side)
    # A body in air, with the noise of a CT.
    body = np.where(np.hypot(line[:, None], line) < .8, 0, -1000)[..., None]
    voxels = (body + rng.normal(0, 20, (args.side, args.side, args.slices))).astype(np.int16)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        paths = [nifti(Path(name) / f'a{suffix}', voxels, affine_of(np.eye(3))) for suffix in ('.nii', '.nii.gz')]
        jobs = {}
        for path in paths:
            for plane, index in (('axial', 0), ('axial', args.slices - 1), ('coronal', 9), ('sagittal', 9)):
                jobs[f'{Path(path).name}, {plane} {index}'] = f'{path}#plane={plane}&index={index}&window=lung'
        jobs['DICOM'] = dicom(Path(name) / 'a.dcm', pixels=voxels[..., 0]) + '#window=lung'
        for job, reference in tqdm(jobs.items(), desc='Slices'):
            figures[job] = milliseconds(lambda: to_rgb(open_image(reference, rules)), args.repeats)  # noqa: B023
            figures[f'{job}, header'] = milliseconds(lambda: open_image(reference, rules), args.repeats)  # noqa: B023
        figures['all axial slices of .nii.gz'] = milliseconds(lambda: sum(1 for _ in Volume(paths[1], 'axial', 'lung')),
                                                              1)
    for job, figure in figures.items():
        print(f'{job:<40}{figure:>10.2f} ms')
    if args.output:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        Path(args.output).write_text(
            json.dumps({
                'shape': [args.side, args.side, args.slices],
                'milliseconds': figures
            }, indent=1))


if __name__ == '__main__':
    main()
