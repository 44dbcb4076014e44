"""The length of a row without its pixels: what `CitrusVTemplate.encode` would give, from text and image headers."""
import importlib.metadata
import torch
from collections.abc import Mapping
from copy import copy
from PIL import ExifTags, Image
from qwen_vl_utils import fetch_image, vision_process
from swift.template import StdTemplateInputs
from torch import Tensor
from typing import Any

from ..files.errors import IMAGE_ERRORS, shown_name, unreadable
from ..files.images import open_image, open_label_map
from ..rows.contract import Sample
from ..rows.masks import _PATH_REMEDY, _check_size
from .chunks import Piece
from .template import CitrusVTemplate

# Formats whose header tells the size that the image has after loading; of a TIFF its orientation tells the rest. PIL
# settles the size of some others (ICO, EPS, ...) only as it decodes them.
_TOLD_BY_HEADER = {'BMP', 'DICOM', 'GIF', 'JPEG', 'JPEG2000', 'MPO', 'NIFTI', 'PNG', 'PPM', 'TIFF', 'WEBP'}
_WIDTH_TAG, _HEIGHT_TAG = 256, 257
# The release whose way with lists of frames `_video_size` follows; with any other the frames are decoded.
_KNOWN_QWEN_VL_UTILS = '0.0.14'
_NO_MASKS = Sample('', (), (), ())


def measure(template: CitrusVTemplate, row: dict[str, Any]) -> list[Piece]:
    """The pieces of a row, as `template.encode` makes them, without a pixel or a mask decoded.

    Images and mask files are opened for their headers; the images' sizes go through the very functions that resize
    images. What only pixels tell (a JPEG cut short, a broken RLE) is not seen here, but when the row is trained on. A
    video file is decoded, as no container tells the number of its frames exactly; a list of frames is not.

    Args:
        template: The template in training mode; it is not changed. Many rows are measured faster with one
            `MeasuringTemplate`.
        row: A row as ms-swift's preprocessors leave it.

    Returns:
        One piece, or with `--truncation_strategy split` one or more.

    Raises:
        RowError: As `template.encode`, for a row that breaks the row contract or names a file that is no image.
        MaxLengthError: As `template.encode`, for a row that is too long.
    """
    return MeasuringTemplate(template).measure(row)


class MeasuringTemplate(CitrusVTemplate):
    """A template whose images have sizes and no pixels; all else runs through the code of `template`.

    Args:
        template: A template in any mode for training. Its settings are taken over as they are now.
    """

    # The types of tokens add nothing to their number.
    _requires_mm_token_type_ids = False

    def __init__(self, template: CitrusVTemplate) -> None:
        self.__dict__.update(template.__getstate__())
        self.processor = processor = copy(template.processor)
        processor.image_processor = _Grids(processor.image_processor)
        # A processor that is set to sample frames needs them.
        self._frames_by_size = (
            importlib.metadata.version('qwen-vl-utils') == _KNOWN_QWEN_VL_UTILS
            and not getattr(processor.video_processor, 'do_sample_frames', False))
        if self._frames_by_size:
            processor.video_processor = _Grids(processor.video_processor)

    def measure(self, row: dict[str, Any]) -> list[Piece]:
        """See the function `measure`. In the modes of RLHF a row has one piece for each of ms-swift's lengths."""
        encoded = self.encode(row, return_length=True)
        if isinstance(encoded, list):
            encoded = encoded[0]
        if self.mode != 'train':
            return [Piece(0, length, 0, 0) for length in encoded['lengths']]
        return encoded.get('pieces') or super().pieces_of(encoded, encoded.get('sample', _NO_MASKS))

    def pieces_of(self, encoded: dict[str, Any], sample: Sample) -> list[Piece]:
        encoded['pieces'] = super().pieces_of(encoded, sample)
        return encoded['pieces']

    def _encode_masks(self, sample: Sample, input_ids: list[int], images: dict[int, Image.Image]) -> dict[str, Any]:
        self._seg_positions(sample, input_ids)
        for position, (entry, image) in enumerate(zip(sample.masks, sample.mask_images)):
            _check_mask_size(entry, (images[image].height, images[image].width), f'masks[{position}]', sample.row)
        return {'sample': sample}

    def _load_image(self, image: Any, load_images: bool) -> Image.Image:
        """As the template's, with the size alone."""
        opened = open_image(image)
        size = _SizeOnly.of(opened)
        if opened is not image:
            opened.close()
        return size

    def _fetch_video(self, index: int, inputs: StdTemplateInputs) -> list[Any]:
        video = inputs.videos[index]
        if not isinstance(video, list) or not video or not self._frames_by_size:
            return super()._fetch_video(index, inputs)
        inputs.videos[index] = _video_size(video, inputs.chat_template_kwargs)
        inputs.mm_processor_kwargs.setdefault('fps', []).append(vision_process.FPS)
        return ['<|vision_start|><|video_pad|><|vision_end|>']


class _SizeOnly(Image.Image):
    """An RGB image that has a size and no pixels."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self._mode, self._size = 'RGB', size

    @classmethod
    def of(cls, image: Image.Image) -> '_SizeOnly':
        """The size (width, height) that `image` has once it is loaded."""
        if isinstance(image, cls):
            return image
        if image.format == 'TIFF':
            return cls(_tiff_size(image))
        if image.format is not None and image.format not in _TOLD_BY_HEADER:
            image.load()
        return cls(image.size)

    def load(self) -> None:
        """There is nothing to load."""

    def convert(self, *args: Any, **kwargs: Any) -> '_SizeOnly':
        return self

    def resize(self, size: Any, *args: Any, **kwargs: Any) -> '_SizeOnly':
        width, height = size
        if width < 1 or height < 1:
            raise ValueError('height and width must be > 0')  # as PIL says it
        return _SizeOnly((width, height))


def _check_mask_size(entry: Any, size: tuple[int, int], where: str, row_id: str) -> None:
    """What `masks.decode_mask` says of an RLE or a mask file whose (height, width) is not the image's."""
    if not isinstance(entry, Mapping):
        return
    if 'path' not in entry:
        _check_size(entry['size'], size, where, row_id)
        return
    where = f'{where} ({shown_name(entry["path"])})'
    try:
        with open_label_map(entry['path']) as image:
            mask = _SizeOnly.of(image)
    except IMAGE_ERRORS as e:
        raise unreadable(row_id, where, e, 'mask-file', _PATH_REMEDY) from e
    _check_size((mask.height, mask.width), size, where, row_id)


def _tiff_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) after loading, when PIL turns a TIFF upright; what it says before that depends on its version."""
    tags = getattr(image, 'tag_v2', {})
    if _WIDTH_TAG not in tags or _HEIGHT_TAG not in tags:  # loaded before it came here
        return image.size
    width, height = tags[_WIDTH_TAG], tags[_HEIGHT_TAG]
    # Not the tag alone: PIL also finds an orientation in XMP.
    turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def _video_size(frames: list[Any], settings: dict[str, Any]) -> Tensor:
    """What `qwen_vl_utils.fetch_video` makes of a list of frames: a tensor [T, 3, H, W] on the meta device.

    Args:
        frames: As `images.FileRules.video` gives them.
        settings: The row's `chat_template_kwargs`.
    """
    # As `fetch_video` does, which gives `fetch_image` the side of a merged patch for that of a patch.
    side = 14 * vision_process.SPATIAL_MERGE_SIZE
    sizes = [fetch_image({'image': _frame(frame), **settings}, side).size for frame in frames]
    # Frames of several sizes are an error of torch, and stay one.
    torch.stack([torch.empty((3, height, width), device='meta') for width, height in sizes])
    width, height = sizes[0]
    num_frames = vision_process.ceil_by_factor(len(frames), vision_process.FRAME_FACTOR)
    if 'resized_height' in settings and 'resized_width' in settings:
        size = vision_process.smart_resize(settings['resized_height'], settings['resized_width'], factor=side)
    else:
        token = side * side
        low = settings.get('min_pixels', vision_process.VIDEO_MIN_TOKEN_NUM * token)
        # An even share of all that a video may have, within the bounds of a frame.
        share = settings.get('total_pixels', vision_process.MODEL_SEQ_LEN * token * .9) / num_frames
        high = max(
            min(vision_process.VIDEO_MAX_TOKEN_NUM * token, share * vision_process.FRAME_FACTOR), int(low * 1.05))
        high = min(settings.get('max_pixels', high), high)
        size = vision_process.smart_resize(height, width, factor=side, min_pixels=low, max_pixels=high)
    return torch.empty((num_frames, 3, *size), device='meta')


def _frame(frame: str | Image.Image) -> _SizeOnly:
    """A frame as `images.FileRules.frame` gives it, without its pixels."""
    if isinstance(frame, Image.Image):
        return _SizeOnly.of(frame)
    with open_label_map(frame) as image:
        return _SizeOnly.of(image)


class _Grids:
    """Counts the patches of images and videos as the processor does, when told not to resize."""

    def __init__(self, processor: Any) -> None:
        self.patch_size = processor.patch_size
        self.merge_size = processor.merge_size
        self.temporal_patch_size = processor.temporal_patch_size

    def __call__(self, *, images: Any = (), videos: Any = (), **kwargs: Any) -> '_Grid':
        shapes = [(1, image.height, image.width) for image in images]
        shapes += [(-(-len(video) // self.temporal_patch_size), *video.shape[-2:]) for video in videos]
        return _Grid(
            torch.tensor([[time, height // self.patch_size, width // self.patch_size]
                          for time, height, width in shapes]))


class _Grid(dict):
    """`image_grid_thw` or `video_grid_thw`, which is looked up, but does not become a part of the encoded row."""

    def __init__(self, grid: Tensor) -> None:
        super().__init__()
        self.grid = grid

    def __missing__(self, key: str) -> Tensor:
        return self.grid
