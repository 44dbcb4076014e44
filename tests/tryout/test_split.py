"""No image and no patient is in both parts, and the split is the same at every call."""
import shutil
from support.rows import write_jsonl
from support.try_rows import make_row, shape_rows

from swift_citrusv.tryout.run import plan_rows
from swift_citrusv.tryout.split import sample_rows, split_rows
from swift_citrusv.tryout.user_rows import masks_of, read_rows


def images_of(rows):
    return {image for row in rows for image in row.images}


def test_images_are_in_one_part_only(tmp_path):
    rows = shape_rows(tmp_path, 20)
    # A copy under another name, and a row with two images, which ties both together.
    copy = tmp_path / 'copy.png'
    shutil.copy(rows[0]['images'][0], copy)
    mask = rows[0]['masks'][0]
    rows.append(make_row(str(copy), '<image>Please show me the pale disc.', 'Here is the pale disc: [SEG].', mask))
    two = make_row('', '<image><image>The pale disc in image 1?', 'Here is the pale disc: [SEG].', mask,
                   mask_images=[0])  # yapf: disable
    rows.append({**two, 'images': [rows[4]['images'][0], rows[9]['images'][0]]})
    rows.append({'messages': [{'role': 'user', 'content': 'Hello.'}, {'role': 'assistant', 'content': 'Good day.'}]})
    plan = plan_rows(write_jsonl(tmp_path / 'rows.jsonl', rows), None, 1000, 200)
    again = plan_rows(str(tmp_path / 'rows.jsonl'), None, 1000, 200)
    assert not images_of(plan.train) & images_of(plan.held_out)
    assert [row.name for row in plan.held_out] == [row.name for row in again.held_out]
    # 19 groups (two images are one), a fifth of them: 4, with two or more rows each.
    assert len(plan.train) + len(plan.held_out) == len(rows) and 8 <= len(plan.held_out) <= 12
    assert {mask.name for mask in plan.held_out_masks} == {'pale disc', 'dark block'}
    assert [plan.held_out[mask.row].num_masks for mask in plan.held_out_masks] == [1] * len(plan.held_out_masks)


def test_a_patient_is_in_one_part_only(tmp_path):
    rows = shape_rows(tmp_path, 24)
    for index, row in enumerate(rows):
        row['patient_id'] = f'p{index // 6}'
    plan = plan_rows(write_jsonl(tmp_path / 'rows.jsonl', rows), None, 1000, 200)
    parts = [{row.group for row in part} for part in (plan.train, plan.held_out)]
    assert len(parts[0]) + len(parts[1]) == 8 and not parts[0] & parts[1]


def test_a_volume_is_in_one_part_only(tmp_path):
    """Its slices are neighbours; but the slices of a few volumes are split, or nothing could be held out."""
    rows = shape_rows(tmp_path, 24)
    for volumes, groups in ((6, 6), (2, 0)):
        for index, row in enumerate(rows):
            row['images'] = [f'scan_{index // 2 % volumes}.nii.gz#{index // 2}']
        checked = read_rows(write_jsonl(tmp_path / 'rows.jsonl', rows))
        assert len({row.group for row in checked if row.group}) == groups, volumes
        train, val = split_rows(checked, masks_of(checked), 200)
        shared = {row['images'][0].partition('#')[0] for row in map(rows.__getitem__, train)}
        shared &= {row['images'][0].partition('#')[0] for row in map(rows.__getitem__, val)}
        assert bool(shared) == (groups == 0) and val


def test_a_name_never_leaves_training(tmp_path):
    rows = shape_rows(tmp_path, 12)
    for image in (2, 5):
        rows[2 * image]['messages'][1]['content'] = f'Here is the rare thing {image}: [SEG].'
    checked = read_rows(write_jsonl(tmp_path / 'rows.jsonl', rows))
    masks = masks_of(checked)
    train, val = split_rows(checked, masks, 200)
    names = {mask.name for mask in masks if mask.row in train}
    assert names == {mask.name for mask in masks} and val


def test_limits(tmp_path):
    rows = read_rows(write_jsonl(tmp_path / 'rows.jsonl', shape_rows(tmp_path, 20)))
    kept = sample_rows(rows, 11)
    assert kept == sorted(kept) == sample_rows(rows, 11) and len(kept) == 11
    # Whole images but the last.
    assert len({rows[index].images for index in kept}) == 6
    _, val = split_rows(rows, masks_of(rows), most=3)
    assert len(val) == 2


def test_rows_of_val_are_used_as_they_are(tmp_path):
    rows = write_jsonl(tmp_path / 'rows.jsonl', shape_rows(tmp_path, 12))
    val = write_jsonl(tmp_path / 'val.jsonl', shape_rows(tmp_path, 3, seed=1))
    plan = plan_rows(rows, val, 1000, 200)
    assert (len(plan.train), len(plan.held_out)) == (24, 6) and not plan.notes
    same = plan_rows(rows, rows, 1000, 200)
    assert '12 images of --val are in the training rows' in same.notes[0]
