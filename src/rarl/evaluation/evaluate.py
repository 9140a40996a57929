"""Evaluation as in section 4.1: a model's greedy replies over a split, to single images and to lists, become
`predictions.jsonl` and `metrics.json`. All arms of one folder see the same lists, and every number has its
interval. Nothing is chosen or compared here; the table is `report`'s."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, ProcessorMixin

from rarl.data.collection import Collection
from rarl.data.columns import read_columns
from rarl.data.groups import Group, draw_groups, load_groups, save_groups, tie_rate
from rarl.data.images import open_image
from rarl.errors import ConfigError
from rarl.evaluation.metrics import Entry, list_tau, tau_values
from rarl.evaluation.results import open_metrics, write_metrics, write_predictions
from rarl.evaluation.summary import by_column, summarize
from rarl.files import locked
from rarl.method.prompts import messages
from rarl.method.replies import parse
from rarl.method.tasks import Task
from rarl.models.generation import greedy_replies

Prediction = dict[str, Any]


def evaluate(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    collection: Collection,
    out: str | os.PathLike[str],
    *,
    arm: str,
    images: Sequence[int] = (1, 2, 4, 8),
    split: str = "test",
    lists: int = 200,
    seed: int = 0,
    batch_size: int = 16,
    max_new_tokens: int = 1024,
    position_lists: int = 25,
    by: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Entry]:
    """Evaluate one arm and write it into the folder `out`, beside the other arms that are there.

    With 1 in `images` every image of the split is asked for alone; with N, `lists` lists of N images are
    drawn with `seed`, or read from `out/lists-SPLIT-SEED.json` where they have been drawn already. Of those
    lists the first `position_lists` are asked in every cyclic rotation of their pictures.

    Args:
        arm: the key in `metrics.json`, which is the name of the model's folder.
        batch_size: prompts in one pass.
        max_new_tokens: where a reply that doesn't end by itself is cut.
        position_lists: lists of each number of images above 1 that are rotated; 0 for none, and then there
            are no `agreementN` and `position_biasN`.
        by: columns of the split's `metadata.jsonl`, by whose values single images are measured apart, under
            `subgroups`; None for those that `read_columns` chooses, () for none.
        progress: called with the number of replies done and the number of all.

    Returns:
        METRIC -> value, 95 % interval and number of replies, as in `metrics.json`.

    Raises:
        DataError: if the split is missing or too small, has not the columns of `by`, or a file in `out` is
            not what it should be.
        ConfigError: if `out` holds the results of another task, split, seed or number of lists.
    """
    if not images or min(images) < 1 or lists < 1:
        raise ConfigError(
            f"evaluation needs at least 1 image a prompt and 1 list, not {list(images)} and {lists}"
        )
    if position_lists < 0:
        raise ConfigError(f"position_lists must be 0 or more, not {position_lists}")
    if by and 1 not in images:
        raise ConfigError(
            f"single images are divided by {', '.join(by)}, and none is asked for: put 1 among the numbers"
        )
    if 1 in images and not collection.knows_values(split):
        raise ConfigError(
            f"{collection.root / split} knows orders alone, and one image has none: evaluate lists, as with "
            "--images 2,4"
        )
    columns = read_columns(collection, split, by) if 1 in images else {}
    folder, task = Path(out), collection.task
    open_metrics(
        folder, task.name, split, seed, collection.digest(split)
    )  # a mismatch is an error before the model runs
    with locked(folder, "results", wait=True):  # of other arms, perhaps, which are evaluated meanwhile
        groups = _groups(collection, folder, sorted(set(images)), split, lists, seed)
    rotations = _rotations(groups, position_lists)
    prompts = [*groups, *(_rotated(groups[place], turn) for place, _, turn in rotations if turn)]

    texts: list[str] = []
    # Not in one batch: the first get the replies that they get without the others.
    for some in (groups, prompts[len(groups) :]):
        for _, text in ask(model, processor, some, task, batch_size, max_new_tokens):
            texts.append(text)
            if progress is not None:
                progress(len(texts), len(prompts))
    head = {"arm": arm, "split": split}
    predictions = [{**head, **predict(*asked)} for asked in zip(groups, texts, strict=False)]
    replies = iter(texts[len(groups) :])
    for place, number, turn in rotations:
        text = next(replies) if turn else texts[place]  # as it was drawn, a list has its reply already
        said = predict(_rotated(groups[place], turn), text)
        predictions.append({**head, **said, "list": number, "rotation": turn})

    metrics = summarize(predictions, task, seed)
    divided = by_column(predictions, columns, task, seed) if columns else {}
    with locked(folder, "results", wait=True):
        write_predictions(folder, arm, predictions)
        saved = open_metrics(folder, task.name, split, seed, collection.digest(split))
        for count in sorted({len(group.rows) for group in groups} - {1}):
            drawn = [group for group in groups if len(group.rows) == count]
            saved["lists"][str(count)] = {"n": len(drawn), "tie_rate": tie_rate(drawn)}
        saved["arms"][arm] = metrics
        saved.setdefault("subgroups", {})[arm] = divided
        write_metrics(folder, saved)
    return metrics


def predict(group: Group, text: str) -> Prediction:
    """What a reply to the images of `group` says, as a line of `predictions.jsonl`: picture by picture.

    `values` and `positions` (from 0) have a null for a missing picture; `positions` is null where the reply
    is no ranking; `tau` and `tau_values` are null for a single image.
    """
    count, truths, reply = len(group.rows), group.values, parse(text)
    values, positions = reply.values(count), reply.positions(count)
    return {
        "images": count,
        "ids": [row.id for row in group.rows],
        "truth": truths,
        "reply": text,
        "values": values,
        "positions": positions,
        "parsed": reply.items is not None,
        "valid": reply.is_permutation(count),
        "tau": list_tau(positions, truths) if count > 1 else None,
        "tau_values": tau_values(positions, values, truths) if count > 1 else None,
    }


def _groups(
    collection: Collection, folder: Path, counts: Sequence[int], split: str, number: int, seed: int
) -> list[Group]:
    """The prompts to ask: single images, then lists; lists not yet in the folder's file are added to it."""
    rows = collection.split(split)
    path = folder / f"lists-{split}-{seed}.json"
    saved = load_groups(path, rows) if path.exists() else []
    drawn: list[Group] = []
    for count in counts:
        if count == 1:
            continue
        there = [group for group in saved if len(group.rows) == count]
        if there and len(there) != number:
            raise ConfigError(
                f"{path} holds {len(there)} lists of {count} images, not {number}: "
                "ask for as many, or evaluate into another folder"
            )
        if not there:
            there = draw_groups(rows, count, number, seed)
            saved += there
            save_groups(saved, path)
        drawn += there
    return [*(Group((row,)) for row in rows if 1 in counts), *drawn]


def _rotations(groups: Sequence[Group], number: int) -> list[tuple[int, int, int]]:
    """The rotations to ask of the first `number` lists of each count: the place of the list among `groups`,
    its number among those of its count, and by how much it is turned, 0 too."""
    found: list[tuple[int, int, int]] = []
    numbers: Counter[int] = Counter()
    for place, group in enumerate(groups):
        count = len(group.rows)
        if count > 1 and numbers[count] < number:
            found += [(place, numbers[count], turn) for turn in range(count)]
            numbers[count] += 1
    return found


def _rotated(group: Group, turn: int) -> Group:
    """The same images; picture p, from 0, is image p + `turn`, and after the last comes the first."""
    return Group(group.rows[turn:] + group.rows[:turn])


def ask(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    groups: Sequence[Group],
    task: Task,
    batch_size: int,
    max_new_tokens: int,
) -> Iterator[tuple[Group, str]]:
    """Each group with its reply. Images are opened a batch at a time, so a split of any size fits."""
    for count in sorted({len(group.rows) for group in groups}):
        same = [group for group in groups if len(group.rows) == count]
        for start in range(0, len(same), batch_size):
            batch = same[start : start + batch_size]
            prompts = [messages(count, group.rule or task.rule, task.value_range) for group in batch]
            opened = [[open_image(row.path) for row in group.rows] for group in batch]
            texts = greedy_replies(
                model, processor, prompts, opened, max_new_tokens=max_new_tokens, batch_size=batch_size
            )
            yield from zip(batch, texts, strict=True)
