"""Names and numbers that several modules share. Imports nothing."""

# A value of --eval_metric: the scores of `citrusv eval segmentation` during training.
SEG_METRIC = 'citrusv_seg'
MODEL_TYPE = 'citrusv'
SEG_TOKEN = '[SEG]'
# Marks the place of an image in the text of a message, as ms-swift writes it.
IMAGE_PLACEHOLDER = '<image>'
IGNORE_INDEX = -100
# The modules that Citrus-V adds to Qwen2.5-VL.
SEGMENTATION_MODULES = ('seg_projector', 'segmenter')
# Padding value of `mask_image_index` and `mask_token_index` in a batch.
NO_MASK = -1
# Pixel statistics of ImageNet, as `sam2.utils.transforms.SAM2Transforms` uses them (RGB, range 0 to 1).
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
# The column that carries "file.jsonl:line" from the dataset to the error message.
ROW_COLUMN = 'citrusv_row'
# Key of a batch: the names of its rows, a list of such strings.
ROWS_KEY = 'citrusv_rows'
# Key of a batch: the errors of its skipped rows. Also the key of the placeholder that replaces a skipped row.
SKIPPED_KEY = 'citrusv_skipped'
# The column with the chunks of a row (`chunks.Chunk`), flattened: four numbers a chunk.
CHUNKS_COLUMN = 'citrusv_chunks'
# Key of a row: the one chunk of it that `template.encode` encodes.
CHUNK_KEY = 'citrusv_chunk'
# A value of --attn_impl: variable-length attention over packs, in PyTorch.
TORCH_VARLEN = 'torch_varlen'
# Key of an inference request: its images at their original size (`template.SegRequest`).
SEG_REQUEST_KEY = 'citrusv_seg_request'
