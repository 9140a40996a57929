"""Qwen2.5-VL's processor for images and text alone. The class of transformers insists on a video processor, which
needs torchvision; this one is the same without it, and is written to disk so that either class can read it."""

from typing import Any

from transformers import ProcessorMixin, Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor

__all__ = ["ImageTextProcessor", "image_text_processor"]

assert issubclass(Qwen2VLProcessor, ProcessorMixin)


class ImageTextProcessor(Qwen2_5_VLProcessor):
    """As `Qwen2_5_VLProcessor`, without videos."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        self.image_token = "<|image_pad|>"
        self.video_token = "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        # Past Qwen2_5_VLProcessor's own __init__, which would ask for a video processor (transformers 5.23).
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


def image_text_processor(image_processor: Any, tokenizer: Any, chat_template: str | None) -> ProcessorMixin:
    """The processor of an image processor, a tokenizer and a chat template."""
    return ImageTextProcessor(image_processor, tokenizer, chat_template=chat_template)
