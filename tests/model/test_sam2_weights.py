"""Resolving and loading SAM2 weights; the names are checked against the table in the `sam2` package."""
import os
import pickle
import pytest
import torch
from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES

from swift_citrusv.model.sam2_weights import Sam2Source, load_sam2_weights, resolve_sam2
from swift_citrusv.model.segmenter import PRESETS, Segmenter


@pytest.fixture(scope='module')
def other() -> dict[str, torch.Tensor]:
    """The state dict of another tiny segmenter."""
    torch.manual_seed(7)
    return Segmenter('tiny').state_dict()


@pytest.fixture
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter('tiny')


def _load(segmenter: Segmenter, content, folder) -> None:
    path = folder / 'weights.pt'
    torch.save(content, path)
    load_sam2_weights(segmenter, str(path))


def _assert_equal(segmenter: Segmenter, state: dict[str, torch.Tensor]) -> None:
    for name, value in segmenter.state_dict().items():
        assert torch.equal(value, state[name]), name


# --- resolve_sam2 ---


def test_every_checkpoint_of_meta(tmp_path, monkeypatch):
    requests = []

    def download(**kwargs):
        requests.append(kwargs)
        return '/cache/x.pt'

    monkeypatch.setattr('huggingface_hub.hf_hub_download', download)
    assert len(HF_MODEL_ID_TO_FILENAMES) == 8
    for hub_name, (config, file_name) in HF_MODEL_ID_TO_FILENAMES.items():
        preset = os.path.basename(config).removesuffix('.yaml')
        assert resolve_sam2(hub_name) == Sam2Source(preset, '/cache/x.pt'), hub_name
        assert requests.pop() == {'repo_id': hub_name, 'filename': file_name} and not requests
        # The same file on disk, given itself or by its directory; other files beside it are ignored.
        folder = tmp_path / preset
        folder.mkdir()
        path = folder / file_name
        for name in (file_name, 'README.md', 'optimizer.pt'):
            (folder / name).touch()
        assert resolve_sam2(str(path)) == Sam2Source(preset, str(path)), hub_name
        assert resolve_sam2(str(folder)) == Sam2Source(preset, str(path)), hub_name


def test_there_is_a_preset_for_each_checkpoint_and_tiny():
    known = {os.path.basename(config).removesuffix('.yaml') for config, _ in HF_MODEL_ID_TO_FILENAMES.values()}
    assert set(PRESETS) == known | {'tiny'}


def test_a_preset_means_random_weights():
    for preset in PRESETS:
        assert resolve_sam2(preset) == resolve_sam2(preset, preset) == Sam2Source(preset, None), preset


def test_a_file_of_another_name_needs_a_preset(tmp_path):
    path = tmp_path / 'medsam2.pt'
    path.touch()
    with pytest.raises(ValueError, match='medsam2.pt.*sam2_preset'):
        resolve_sam2(str(path))
    assert resolve_sam2(str(path), 'sam2.1_hiera_t') == Sam2Source('sam2.1_hiera_t', str(path))


def test_a_stated_preset_wins_over_the_name_of_the_file(tmp_path):
    path = tmp_path / 'sam2_hiera_large.pt'
    path.touch()
    assert resolve_sam2(str(path), 'tiny') == Sam2Source('tiny', str(path))


def test_a_directory_must_contain_exactly_one(tmp_path):
    cases = [((), 'none'), (('model.pt', ), 'none'),
             (('sam2_hiera_tiny.pt', 'sam2.1_hiera_tiny.pt'), 'sam2.1_hiera_tiny.pt')]
    for i, (names, part) in enumerate(cases):
        folder = tmp_path / str(i)
        folder.mkdir()
        for name in names:
            (folder / name).touch()
        with pytest.raises(ValueError, match='exactly one') as error:
            resolve_sam2(str(folder))
        assert str(folder) in str(error.value), names
        assert f'contains {part}' in str(error.value).replace("['", ''), names


def test_unknown_sources():
    for source in ('facebook/sam2.1-hiera-huge', 'no/such/file.pt', '', 'Tiny'):
        with pytest.raises(ValueError, match='No SAM2 weights') as error:
            resolve_sam2(source)
        assert repr(source) in str(error.value) and 'facebook/sam2.1-hiera-large' in str(error.value), source


def test_an_unknown_preset(tmp_path):
    with pytest.raises(ValueError, match="Unknown SAM2 preset 'hiera_l'.*sam2.1_hiera_l"):
        resolve_sam2(str(tmp_path), 'hiera_l')


@pytest.mark.parametrize('source', ['tiny', 'facebook/sam2.1-hiera-large'])
def test_two_presets_that_contradict_each_other(source, monkeypatch):
    monkeypatch.setattr('huggingface_hub.hf_hub_download', lambda **kwargs: pytest.fail('nothing to download'))
    with pytest.raises(ValueError, match="sam2_preset='sam2_hiera_s'") as error:
        resolve_sam2(source, 'sam2_hiera_s')
    assert source in str(error.value)


# --- load_sam2_weights ---


def test_loads_what_was_saved(segmenter, other, tmp_path):
    assert not torch.equal(segmenter.no_mem_embed, other['no_mem_embed'])
    _load(segmenter, {'model': other}, tmp_path)
    _assert_equal(segmenter, other)


def test_loads_a_bare_state_dict_of_another_type(segmenter, other, tmp_path):
    half = {name: value.half() for name, value in other.items()}
    _load(segmenter, half, tmp_path)
    _assert_equal(segmenter, {name: value.float() for name, value in half.items()})
    assert segmenter.dtype == torch.float32


def test_keys_of_the_video_path_are_left_out(segmenter, other, tmp_path):
    video = ('memory_attention.layers.0.norm1.weight', 'memory_encoder.out_proj.bias', 'maskmem_tpos_enc',
             'no_mem_pos_enc', 'mask_downsample.weight', 'obj_ptr_proj.layers.0.weight', 'obj_ptr_tpos_proj.bias',
             'no_obj_ptr', 'no_obj_embed_spatial')
    # Had one of them not been left out, the error would name it.
    _load(segmenter, {'model': other | {name: torch.zeros(3) for name in video}}, tmp_path)
    _assert_equal(segmenter, other)


class _RunsCode:

    def __init__(self, marker) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f'touch {self.marker}', )


@pytest.mark.parametrize('legacy', [False, True])
def test_code_in_a_file_does_not_run(legacy, segmenter, other, tmp_path):
    marker, path = tmp_path / 'it_ran', tmp_path / 'evil.pt'
    torch.save({'model': other, 'extra': _RunsCode(marker)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match='refused') as error:
        load_sam2_weights(segmenter, str(path))
    assert str(path) in str(error.value) and not marker.exists()
    # Without weights_only=True the code would run.
    torch.load(path, weights_only=False)
    assert marker.exists()


def test_a_bare_pickle_does_not_run(segmenter, tmp_path):
    marker, path = tmp_path / 'it_ran', tmp_path / 'evil.pt'
    path.write_bytes(pickle.dumps(_RunsCode(marker)))
    with pytest.raises(ValueError, match='evil.pt'):
        load_sam2_weights(segmenter, str(path))
    assert not marker.exists()


def test_truncated_and_foreign_files(segmenter, other, tmp_path):
    path = tmp_path / 'weights.pt'
    torch.save({'model': other}, path)
    whole = path.read_bytes()
    truncated = [whole[:size] for size in (0, 4, 1000, len(whole) // 2, int(0.999 * len(whole)))]
    foreign = [b'<html>404</html>', b'version https://git-lfs.github.com/spec/v1\n', b'\x80\x02.']
    before = {name: value.clone() for name, value in segmenter.state_dict().items()}
    for content in truncated + foreign:
        path.write_bytes(content)
        try:
            load_sam2_weights(segmenter, str(path))
        except ValueError as error:
            assert 'weights.pt' in str(error), (len(content), content[:50])
        else:
            pytest.fail(f'{len(content)} bytes were loaded: {content[:50]!r}')
        _assert_equal(segmenter, before)


def test_no_file(segmenter, tmp_path):
    with pytest.raises(ValueError, match='gone.pt'):
        load_sam2_weights(segmenter, str(tmp_path / 'gone.pt'))


def test_no_state_dict(segmenter, tmp_path):
    contents: list = [[1, 2], torch.zeros(2), {'model': 3}, {'model': {'epoch': 3}}, {'epoch': 3}]
    for content in contents:
        try:
            _load(segmenter, content, tmp_path)
        except ValueError as error:
            assert 'no state dict of tensors' in str(error), content
        else:
            pytest.fail(f'{content!r} was loaded')


def _refusal(segmenter, content, folder) -> str:
    before = {name: value.clone() for name, value in segmenter.state_dict().items()}
    with pytest.raises(ValueError, match="not a checkpoint of SAM2 preset 'tiny'") as error:
        _load(segmenter, {'model': content}, folder)
    _assert_equal(segmenter, before)
    return str(error.value)


def test_wrong_keys_are_named(segmenter, other, tmp_path):
    wrong = dict(other)
    del wrong['no_mem_embed']
    wrong['sam_mask_decoder.new'] = torch.zeros(1)
    wrong['sam_mask_decoder.iou_token.weight'] = torch.zeros(1, 65)
    message = _refusal(segmenter, wrong, tmp_path)
    assert '1 missing: no_mem_embed' in message
    assert '1 unexpected: sam_mask_decoder.new' in message
    assert 'sam_mask_decoder.iou_token.weight (1, 65) instead of (1, 64)' in message
    assert 'sam2_preset' in message


def test_a_prefix_shows(segmenter, other, tmp_path):
    """As torch.nn.DataParallel saves."""
    message = _refusal(segmenter, {f'module.{name}': value for name, value in other.items()}, tmp_path)
    assert f'{len(other)} missing' in message and 'unexpected: module.' in message and len(message) < 800


def test_an_empty_state_dict(segmenter, tmp_path):
    assert 'missing' in _refusal(segmenter, {}, tmp_path)
