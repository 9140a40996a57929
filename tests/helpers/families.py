"""A tiny model of each family that is known, with random weights, and a processor with the family's own
special tokens and chat template, as a folder that can be loaded. Nothing is downloaded."""

import torch
import transformers
from transformers import AutoConfig, AutoModelForImageTextToText

from rarl.models.families import family_processor
from rarl.models.loading import load_processor
from rarl.models.tiny import CHAT_TEMPLATE as QWEN

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
QWEN_TEXT = {
    **TEXT,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [1, 1, 2]},
}
SQUARES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
LLAMA_TEXT = {**TEXT, "model_type": "llama"}

# As on the hub, but for tools and videos.
SMOLVLM = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{% set first = messages[0]['content'] if messages[0]['content'] is string "
    "else messages[0]['content'][0]['text'] %}{% set rest = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
    "{% for message in rest %}<start_of_turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{% if loop.first and first %}{{ first + '\n\n' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}<start_of_image>"
    "{% else %}{{ item['text'] | trim }}{% endif %}{% endfor %}{% endif %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
INTERNVL = QWEN.replace("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>\n")
assert INTERNVL != QWEN

SMOLVLM_TOKENS = {"fake_image_token": "<fake_token_around_image>", "image_token": "<image>"}
SMOLVLM_TOKENS |= {"global_image_token": "<global-img>", "end_of_utterance_token": "<end_of_utterance>"}
SPLIT = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
# Family -> template, end of a turn, special tokens by the tokenizer's name for them, others.
WORDS = {
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), (QWEN, "<|im_end|>", {}, [])),
    "gemma3": (
        GEMMA,
        "<end_of_turn>",
        {
            "bos_token": "<bos>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
        ["<start_of_turn>"],
    ),
    **dict.fromkeys(("smolvlm", "idefics3"), (SMOLVLM, "<end_of_utterance>", SMOLVLM_TOKENS, SPLIT)),
    "internvl": (
        INTERNVL,
        "<|im_end|>",
        {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        [],
    ),
}
QWEN_IMAGES = {"size": {"shortest_edge": 784, "longest_edge": 4 * 784}}
SPLIT_IMAGES = {"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 28}}
IMAGES = {
    "qwen2_vl": QWEN_IMAGES,
    "qwen2_5_vl": QWEN_IMAGES,
    "qwen3_vl": QWEN_IMAGES,
    "gemma3": {"size": {"height": 28, "width": 28}},
    "smolvlm": SPLIT_IMAGES,
    "idefics3": SPLIT_IMAGES,
    "internvl": {"size": {"height": 28, "width": 28}, "max_patches": 4},
}
IMAGE_PROCESSORS = {
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), "Qwen2VLImageProcessor"),
    "gemma3": "Gemma3ImageProcessor",
    "smolvlm": "SmolVLMImageProcessor",
    "idefics3": "Idefics3ImageProcessor",
    "internvl": "GotOcr2ImageProcessor",
}
TOKENS_PER_SQUARE = {
    "gemma3": {"image_seq_length": 1},
    "smolvlm": {"image_seq_len": 1},
    "idefics3": {"image_seq_len": 1},
    "internvl": {"image_seq_length": 1},
}
CONFIGS = {
    "qwen2_vl": {
        "text_config": QWEN_TEXT,
        "vision_config": {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2},
    },
    "qwen2_5_vl": {
        "text_config": QWEN_TEXT,
        "vision_config": {
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [0],
        },
    },
    "qwen3_vl": {
        "text_config": {**QWEN_TEXT, "head_dim": 8},
        "vision_config": {
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 32,
            "patch_size": 14,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
    },
    "gemma3": {
        "text_config": {**TEXT, "head_dim": 8, "sliding_window": 512, "query_pre_attn_scalar": 8},
        "vision_config": {**SQUARES, "vision_use_head": False},
        "mm_tokens_per_image": 1,
    },
    "smolvlm": {"text_config": LLAMA_TEXT, "vision_config": SQUARES, "scale_factor": 2},
    "idefics3": {"text_config": LLAMA_TEXT, "vision_config": SQUARES, "scale_factor": 2},
    "internvl": {
        "text_config": {**TEXT, "model_type": "qwen2"},
        "vision_config": {**SQUARES, "image_size": [28, 28], "patch_size": [14, 14]},
        "image_seq_length": 1,
    },
}


def write_family(kind, folder):
    """Writes the model and the processor of one family."""
    template, end, named, others = WORDS[kind]
    tokenizer = load_processor("tiny").tokenizer
    tokenizer.chat_template = None
    tokenizer.add_special_tokens({"extra_special_tokens": [*named.values(), end, *others]})
    tokenizer.eos_token = end
    tokenizer.bos_token = named.get("bos_token")
    tokenizer._set_model_specific_special_tokens(
        {name: token for name, token in named.items() if name != "bos_token"}
    )
    image_processor = getattr(transformers, IMAGE_PROCESSORS[kind] + "Pil")(**IMAGES[kind])
    processor = family_processor(kind, image_processor, tokenizer, template, TOKENS_PER_SQUARE.get(kind, {}))
    processor.save_pretrained(folder)
    token = tokenizer.convert_tokens_to_ids
    image = {
        "gemma3": "<image_soft_token>",
        "smolvlm": "<image>",
        "idefics3": "<image>",
        "internvl": "<IMG_CONTEXT>",
    }.get(kind, "<|image_pad|>")
    ids = {"gemma3": "image_token_index"}.get(kind, "image_token_id")
    config = CONFIGS[kind] | {ids: token(image)}
    if kind.startswith("qwen"):
        config |= {
            "video_token_id": token("<|video_pad|>"),
            "vision_start_token_id": token("<|vision_start|>"),
            "vision_end_token_id": token("<|vision_end|>"),
        }
    if kind == "gemma3":
        config |= {"boi_token_index": token("<start_of_image>"), "eoi_token_index": token("<end_of_image>")}
    text = {
        **config["text_config"],
        "vocab_size": len(tokenizer),
        "eos_token_id": token(end),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }
    config |= {"text_config": text}
    if kind in ("smolvlm", "idefics3"):
        config["pad_token_id"] = tokenizer.pad_token_id
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(kind, **config))
    model.generation_config.eos_token_id = token(end)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    if kind == "gemma3":  # transformers 5.23 begins with zeros there: no image would be seen
        torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)
    model.save_pretrained(folder)
    return folder
