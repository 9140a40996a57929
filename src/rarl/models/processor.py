"""Qwen2.5-VL's processor for images and text alone. The class of transformers insists on a video processor,
which needs torchvision; this one is the same without it, and is written to disk so that either class can read
it. It is used with torchvision too, so that a prompt is read alike on every machine."""

from typing import Any

from transformers import ProcessorMixin, Qwen2_5_VLProcessor


class ImageTextProcessor(Qwen2_5_VLProcessor):
    """As `Qwen2_5_VLProcessor`, without videos."""

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None
    ) -> None:
        self.image_token = "<|image_pad|>"
        self.video_token = "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        # Past Qwen2_5_VLProcessor's own __init__, which would ask for a video processor (transformers 5.23).
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    def to_dict(self) -> dict[str, Any]:
        """What `processor_config.json` holds, with the video processor that AutoProcessor looks for there."""
        fields = super().to_dict()
        same = {
            key: fields["image_processor"][key] for key in ("merge_size", "patch_size", "temporal_patch_size")
        }
        return fields | {"video_processor": {"video_processor_type": "Qwen2VLVideoProcessor", **same}}


# transformers 5.23 writes this name into a saved folder. AutoProcessor, in other programs too, knows no
# other: for a class that it doesn't know it gives the tokenizer alone, and says nothing.
ImageTextProcessor.__name__ = Qwen2_5_VLProcessor.__name__


def image_text_processor(image_processor: Any, tokenizer: Any, chat_template: str | None) -> ProcessorMixin:
    """The processor of an image processor, a tokenizer and a chat template."""
    return ImageTextProcessor(image_processor, tokenizer, chat_template=chat_template)
