"""The embedded model with a chat template that begins the reply itself, as those of models that always reason
do, or of models that were told not to."""

import shutil

from rarl.models.loading import check_model

OPEN, CLOSED = "<think>\n", "<think>\n\n</think>\n\n"


def opened_model(folder, opening, drops_reasoning=True):
    """A copy of the embedded model whose generation prompt ends with `opening`. Its template drops the
    reasoning of a finished reply, as most such templates do."""
    shutil.copytree(check_model("tiny"), folder)
    path = folder / "chat_template.jinja"
    template = path.read_text(encoding="utf-8")
    header = "<|im_start|>assistant\n"
    assert template.count(header) == 1
    template = template.replace(header, header + opening.replace("\n", "{{ '\\n' }}"))
    if drops_reasoning:
        content = "{{ message['content'] }}"
        assert template.count(content) == 1
        template = template.replace(content, "{{ message['content'].split('</think>')[-1] }}")
        template = template.replace("{{ part['text'] }}", SPLIT)
    path.write_text(template, encoding="utf-8")
    return folder


SPLIT = (
    "{% if message['role'] == 'assistant' %}{{ part['text'].split('</think>')[-1] }}"
    "{% else %}{{ part['text'] }}{% endif %}"
)
