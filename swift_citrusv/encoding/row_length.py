"""The length of an encoded row, computed from its text and image headers, without decoding pixels."""
import importlib.metadata
import torch
from collections.abc import Mapping, Sequence
from copy import copy
from PIL import Image
from qwen_vl_utils import fetch_image, vision_process
from swift.template import StdTemplateInputs
from torch import Tensor
from typing import Any

from ..files.errors import IMAGE_ERRORS, file_repr, unreadable_file
from ..files.images import open_image, open_label_map
from ..files.orientation import TURNED_BY, ImageSize
from ..rows.contract import Sample
from ..rows.masks import MASK_FILE_REMEDY, check_mask_size
from .chunks import Chunk
from .template import CitrusVTemplate

# Formats whose header holds the size of the decoded image. For some others (ICO, EPS, ...) PIL knows it only after
# decoding.
_TOLD_BY_HEADER = {'BMP', 'DICOM', 'GIF', 'JPEG', 'JPEG2000', 'MPO', 'NIFTI', 'PNG', 'PPM', 'TIFF', 'WEBP'}
# `_video_size` reproduces this release; with any other release the frames are decoded.
_KNOWN_QWEN_VL_UTILS = '0.0.14'


def measure(template: CitrusVTemplate, row: dict[str, Any]) -> list[Chunk]:
    """Computes the chunks of a row as `template.encode` makes them, without decoding pixels or masks.

    Only the headers of image and mask files are read; the sizes pass through the same functions that resize images.
    Faults in pixel data (a truncated JPEG, a broken RLE) are found only when the row is encoded. A video file is
    decoded, because no container states its exact number of frames; a list of frames is not.

    Args:
        template: The template in training mode; not modified. For many rows, one `MeasuringTemplate` is faster.
        row: A row after ms-swift's preprocessors.

    Returns:
        One chunk; with `--truncation_strategy split` one or more.

    Raises:
        RowError: The row breaks the row contract, or names a file that is not an image.
        MaxLengthError: The row is too long.
    """
    return MeasuringTemplate(template).measure(row)


class MeasuringTemplate(CitrusVTemplate):
    """A template whose images have a size but no pixels; everything else is the code of `CitrusVTemplate`.

    Args:
        template: A template in a training mode, whose current settings are copied.
    """

    # Token types do not change the length.
    _requires_mm_token_type_ids = False

    def __init__(self, template: CitrusVTemplate) -> None:
        self.__dict__.update(template.__getstate__())
        self.processor = processor = copy(template.processor)
        processor.image_processor = _Grids(processor.image_processor)
        # A processor that samples frames needs their pixels.
        self._frames_by_size = (
            importlib.metadata.version('qwen-vl-utils') == _KNOWN_QWEN_VL_UTILS
            and not getattr(processor.video_processor, 'do_sample_frames', False))
        if self._frames_by_size:
            processor.video_processor = _Grids(processor.video_processor)

    def measure(self, row: dict[str, Any]) -> list[Chunk]:
        """See the function `measure`. In RLHF modes a row has one chunk for each of ms-swift's lengths."""
        encoded = self.encode(row, return_length=True)
        if self.mode != 'train':
            return [Chunk(0, length, 0, 0) for length in encoded['lengths']]
        return encoded['chunks']

    def _open_image(self, image: Any) -> Image.Image:
        opened = open_image(image)
        size = _SizeOnly.of(opened)
        if opened is not image:
            opened.close()
        return size

    def _mask_tensors(self, sample: Sample, positions: list[int], images: Sequence[Image.Image]) -> dict[str, Any]:
        for position, (entry, image) in enumerate(zip(sample.masks, sample.mask_images)):
            _check_mask_size(entry, ImageSize.of(images[image]), f'masks[{position}]', sample.row)
        return {}

    def _cut(self, inputs: StdTemplateInputs, encoded: dict[str, Any], sample: Sample,
             positions: list[int]) -> dict[str, Any]:
        return {**encoded, 'chunks': self.chunks_of(encoded, sample, positions)}

    def _fetch_video(self, index: int, inputs: StdTemplateInputs) -> list[Any]:
        video = inputs.videos[index]
        if not isinstance(video, list) or not video or not self._frames_by_size:
            return super()._fetch_video(index, inputs)
        inputs.videos[index] = _video_size(video, inputs.chat_template_kwargs)
        inputs.mm_processor_kwargs.setdefault('fps', []).append(vision_process.FPS)
        return ['<|vision_start|><|video_pad|><|vision_end|>']


class _SizeOnly(Image.Image):
    """An RGB image with a size but no pixels."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self._mode, self._size = 'RGB', size

    @classmethod
    def of(cls, image: Image.Image) -> '_SizeOnly':
        """An image of the size (width, height) that `image` has after decoding."""
        if isinstance(image, cls):
            return image
        if image.format is not None and image.format not in _TOLD_BY_HEADER:
            image.load()
        size = cls(image.size)
        size.info.update({key: value for key, value in image.info.items() if key == TURNED_BY})
        return size

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
    """Raises what `rows.masks.decode_mask` raises for a mask whose (height, width) is not the image's."""
    if not isinstance(entry, Mapping):
        return
    if 'path' not in entry:
        check_mask_size(entry['size'], size, where, row_id)
        return
    where = f'{where} ({file_repr(entry["path"])})'
    try:
        with open_label_map(entry['path']) as image:
            mask = _SizeOnly.of(image)
    except IMAGE_ERRORS as e:
        raise unreadable_file(row_id, where, e, 'mask-file', MASK_FILE_REMEDY) from e
    check_mask_size((mask.height, mask.width), size, where, row_id)


def _video_size(frames: list[Any], settings: dict[str, Any]) -> Tensor:
    """The result of `qwen_vl_utils.fetch_video` for a list of frames, as a tensor [T, 3, H, W] on the meta device.

    Args:
        frames: The result of `files.images.checked_video`.
        settings: The row's `chat_template_kwargs`.
    """
    # `fetch_video` also passes `fetch_image` the side of a merged patch instead of that of a patch.
    side = 14 * vision_process.SPATIAL_MERGE_SIZE
    sizes = [fetch_image({'image': _frame(frame), **settings}, side).size for frame in frames]
    # Frames of different sizes raise torch's error, as in `fetch_video`.
    torch.stack([torch.empty((3, height, width), device='meta') for width, height in sizes])
    width, height = sizes[0]
    num_frames = vision_process.ceil_by_factor(len(frames), vision_process.FRAME_FACTOR)
    if 'resized_height' in settings and 'resized_width' in settings:
        size = vision_process.smart_resize(settings['resized_height'], settings['resized_width'], factor=side)
    else:
        token = side * side
        low = settings.get('min_pixels', vision_process.VIDEO_MIN_TOKEN_NUM * token)
        # An equal share of the pixels allowed for a video, within the limits of a frame.
        share = settings.get('total_pixels', vision_process.MODEL_SEQ_LEN * token * .9) / num_frames
        high = max(
            min(vision_process.VIDEO_MAX_TOKEN_NUM * token, share * vision_process.FRAME_FACTOR), int(low * 1.05))
        high = min(settings.get('max_pixels', high), high)
        size = vision_process.smart_resize(height, width, factor=side, min_pixels=low, max_pixels=high)
    return torch.empty((num_frames, 3, *size), device='meta')


def _frame(frame: str | Image.Image) -> _SizeOnly:
    """A frame from `files.images.checked_frame`, without its pixels."""
    if isinstance(frame, Image.Image):
        return _SizeOnly.of(frame)
    with open_label_map(frame) as image:
        return _SizeOnly.of(image)


class _Grids:
    """Counts the patches of images and videos as the processor does with resizing turned off."""

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
    """Returns `image_grid_thw` or `video_grid_thw` on lookup, without adding it to the encoded row."""

    def __init__(self, grid: Tensor) -> None:
        super().__init__()
        self.grid = grid

    def __missing__(self, key: str) -> Tensor:
        return self.grid
