"""What a base can do before any RL, on a collection's validation split: how often its replies are valid
lists, whether the value in the answer is the one that its reasoning gave the same picture (bound), whether
the answer is sorted by those values, how rough the values are, and how much sampled replies differ. Prints a
Markdown table with a column for each base, which is in docs/results/base.md.

    rarl base --seed 1 bases/1
    python benchmarks/base.py tiny bases/1
"""

import argparse
import random
import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL.Image import Image

from rarl.data.collection import Collection, Row, load_collection
from rarl.data.groups import disjoint_groups
from rarl.data.images import open_image
from rarl.data.sources.digits import prepare_digits
from rarl.evaluation.metrics import list_tau
from rarl.method.prompts import messages
from rarl.method.replies import END_THINK, parse
from rarl.models.generation.replies import greedy_replies
from rarl.models.loading import load_model, load_processor, use_one_thread_for

LONGEST = 110  # tokens of a reply; the template of 8 images has about 70
SAMPLES = 8
_SAID = re.compile(r"Picture (\d+): (-?[\d.]*\d)")


class Base:
    """A base and the images it is asked about."""

    def __init__(self, folder: str, collection: Collection) -> None:
        use_one_thread_for(folder)
        self.model, self.processor = load_model(folder), load_processor(folder)
        self.task = collection.task
        self.rows = list(collection.split("validation"))
        self.images: dict[str, Image] = {row.id: open_image(row.path) for row in self.rows}

    def greedy(self, lists: Sequence[Sequence[Row]]) -> list[str]:
        return greedy_replies(
            self.model,
            self.processor,
            [messages(len(rows), self.task.rule, self.task.value_range) for rows in lists],
            [[self.images[row.id] for row in rows] for rows in lists],
            max_new_tokens=LONGEST,
            batch_size=100,
        )

    @torch.no_grad()
    def sampled(self, lists: Sequence[Sequence[Row]]) -> dict[str, str]:
        """Of `SAMPLES` replies a list at temperature 1: the mean entropy of a token's distribution in nats,
        the share of images that are not given one value by all of them, and the share of valid replies."""
        entropies, differing, valid = [], [], []
        for rows in lists:
            prompt = messages(len(rows), self.task.rule, self.task.value_range)
            text = self.processor.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
            inputs = self.processor(
                text=[text] * SAMPLES,
                images=[[self.images[row.id] for row in rows]] * SAMPLES,
                return_mm_token_type_ids=True,
                return_tensors="pt",
            )
            output = self.model.generate(
                **inputs,
                max_new_tokens=LONGEST,
                do_sample=True,
                top_k=0,
                output_logits=True,
                return_dict_in_generate=True,
            )
            self.model.model.rope_deltas = None
            ids = output.sequences[:, inputs["input_ids"].shape[1] :]
            logps = torch.stack(output.logits, dim=1).float().log_softmax(-1)
            entropy = -(logps.exp() * logps).sum(-1)
            entropies += entropy[ids != self.processor.tokenizer.pad_token_id].tolist()
            replies = [
                parse(text) for text in self.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
            ]
            valid += [reply.well_formed and reply.is_permutation(len(rows)) for reply in replies]
            values = [reply.values(len(rows)) for reply in replies]
            differing += [len({given[place] for given in values}) > 1 for place in range(len(rows))]
        return {
            "entropy": f"{np.mean(entropies):.2f}",
            "images whose samples differ": f"{np.mean(differing):.2f}",
            "valid samples": f"{np.mean(valid):.2f}",
        }


def measure(folder: str, collection: Collection, lists: int) -> dict[str, str]:
    """The rows of one column. `lists` is the number of random lists of each length."""
    base = Base(folder, collection)
    generator = random.Random(0)
    found = {"parameters": f"{sum(weight.numel() for weight in base.model.parameters()):,}"}
    errors = [
        abs((base.task.midpoint if (value := parse(text).values(1)[0]) is None else value) - row.value)
        for text, row in zip(base.greedy([[row] for row in base.rows]), base.rows, strict=True)
    ]
    found["MAE of single images"] = f"{np.mean(errors):.2f}"
    for count in range(1, 9):
        drawn = [generator.sample(base.rows, count) for _ in range(lists)]
        found[f"lists of {count}: valid / bound / sorted, %"] = _shares(base.greedy(drawn), count)
    for count in (2, 4, 8):
        groups = [group.rows for group in disjoint_groups(base.rows, count, 200, 0)]
        taus = [
            list_tau(parse(text).positions(count), [row.value for row in rows])
            for text, rows in zip(base.greedy(groups), groups, strict=True)
        ]
        found[f"τ of {count} images"] = f"{np.mean(taus):.3f}"
    torch.manual_seed(0)
    for count, number in ((1, 60), (8, 15)):
        drawn = [generator.sample(base.rows, count) for _ in range(number)]
        found |= {f"{name}, lists of {count}": value for name, value in base.sampled(drawn).items()}
    return found


def _shares(texts: Sequence[str], count: int) -> str:
    """Valid lists in % of all; then, of the valid ones, bound images and sorted lists in %."""
    bound: list[bool] = []
    ordered: list[bool] = []
    for text in texts:
        reply = parse(text)
        if not (reply.well_formed and reply.is_permutation(count)):
            continue
        said = {int(number): float(value) for number, value in _SAID.findall(text.partition(END_THINK)[0])}
        bound += [said.get(item.image_id) == item.value for item in reply.items]
        order = [said.get(item.image_id, -np.inf) for item in reply.items]
        ordered.append(order == sorted(order))
    shares = [
        len(ordered) / len(texts),
        *(np.mean(of) if of else np.nan for of in (bound, ordered)),
    ]
    return " / ".join("–" if np.isnan(share) else f"{100 * share:.1f}" for share in shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("models", nargs="+", help="model folders; `tiny` is the base that ships")
    parser.add_argument(
        "--data", type=Path, help="a collection with a split `validation`; default: the digits"
    )
    parser.add_argument("--lists", type=int, default=200, help="random lists of each length")
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        collection = load_collection(given.data) if given.data else prepare_digits(Path(folder) / "digits")
        columns = [measure(model, collection, given.lists) for model in given.models]
    print("| | " + " | ".join(given.models) + " |")
    print("| --- |" + " ---: |" * len(columns))
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(column[name] for column in columns) + " |")


if __name__ == "__main__":
    main()
