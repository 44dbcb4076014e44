"""Text and masks from a checkpoint, one request at a time.

The answer is generated first, then one pass over prompt and answer reads the hidden state at each `[SEG]`. (Batches,
streaming and serving are the inference issue's.)
"""
import numpy as np
import torch
import torch.nn.functional as F
from dataclasses import dataclass
from PIL import Image
from swift.infer_engine import InferRequest
from swift.model import get_model_processor
from swift.template import get_template
from swift.utils import to_device
from typing import Any

from .constants import MODEL_TYPE
from .modeling import CitrusVForConditionalGeneration


@dataclass(frozen=True)
class Answer:
    """What the model said, and a mask for each `[SEG]` in it.

    text: The answer, without the end token.
    masks: uint8 {0, 1} [h, w] at the image's own size, in the order of the `[SEG]` tokens.
    """
    text: str
    masks: tuple[np.ndarray, ...]


class Predictor:
    """Asks a Citrus-V model about one image.

    Args:
        model: On its device, in evaluation mode.
        template: Its ms-swift template.
    """

    def __init__(self, model: CitrusVForConditionalGeneration, template: Any) -> None:
        self.model = model.eval()
        self.template = template
        template.set_mode('transformers')

    @classmethod
    def from_pretrained(cls, path: str, dtype: torch.dtype | None = None, device: str | None = None) -> 'Predictor':
        """Loads a Citrus-V checkpoint directory.

        Args:
            path: The directory, or a hub name.
            dtype: Of the MLLM; the checkpoint's own by default.
            device: 'cpu', 'cuda', ...; the best there is by default.
        """
        model, processor = get_model_processor(path, model_type=MODEL_TYPE, torch_dtype=dtype, device_map=device)
        assert isinstance(model, CitrusVForConditionalGeneration)
        return cls(model, get_template(processor))

    @torch.no_grad()
    def ask(self, question: str, image: Image.Image | None = None, max_new_tokens: int = 256) -> Answer:
        """Generates an answer (greedily) and draws its masks.

        Args:
            question: The user's turn; `[SEG]` in it is text.
            image: The image that the question and the masks are about.
            max_new_tokens: The most tokens of the answer.

        Raises:
            ValueError: The model answers with `[SEG]` where there is no image to draw on.
        """
        template = self.template
        request = InferRequest(
            messages=[{
                'role': 'user',
                'content': question
            }], images=[] if image is None else [image])
        inputs = to_device(template.data_collator([template.encode(request)]), self.model.device)
        prompt = inputs['input_ids']
        ids = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)[0]
        answer = ids[prompt.shape[1]:]
        text = template.decode_generate_ids(answer.tolist())
        positions = (ids == template.seg_token_id).nonzero()[:, 0]
        # The plain text "[SEG]" of a question is other tokens.
        positions = positions[positions >= prompt.shape[1]]
        if len(positions) == 0:
            return Answer(text, ())
        if image is None:
            raise ValueError(f'The model answered {text!r}, but there is no image to draw a mask on. Give one.')
        return Answer(text, tuple(self._draw(inputs, ids, positions, image)))

    def _draw(self, inputs: dict[str, Any], ids: torch.Tensor, positions: torch.Tensor,
              image: Image.Image) -> list[np.ndarray]:
        side = self.template.input_side
        pixels = np.array(image.convert('RGB').resize((side, side), Image.Resampling.BILINEAR))
        vision = {k: v for k, v in inputs.items() if k in {'pixel_values', 'image_grid_thw'}}
        types = inputs.get('mm_token_type_ids')
        if types is not None:
            vision['mm_token_type_ids'] = F.pad(types, (0, len(ids) - types.shape[1]))
        outputs = self.model(
            input_ids=ids[None],
            attention_mask=torch.ones_like(ids)[None],
            g_pixel_values=torch.from_numpy(pixels).permute(2, 0, 1)[None, None].to(ids.device),
            mask_image_index=torch.zeros_like(positions)[None],
            mask_token_index=positions[None],
            logits_to_keep=1,
            use_cache=False,
            **vision)
        # Upsampled before the threshold: a mask that is cut first and then enlarged has steps.
        logits = F.interpolate(
            outputs.mask_logits[:, None], size=(image.height, image.width), mode='bilinear', align_corners=False)
        return list((logits[:, 0] > 0).to(torch.uint8).cpu().numpy())
