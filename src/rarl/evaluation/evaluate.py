"""Evaluation as in section 4.1: a model is asked for greedy replies over a split, to single images and to
lists, and they become `predictions.jsonl` and `metrics.json`. All arms of one folder see the same lists.
Nothing is chosen or compared here; tables are in `report`."""

import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from transformers import PreTrainedModel, ProcessorMixin

from rarl.data.collection import Collection, Row
from rarl.data.columns import by_problem, read_columns
from rarl.data.groups import Group, share_images, tie_rate
from rarl.data.images import open_image
from rarl.data.sources import SHOWN
from rarl.errors import ConfigError
from rarl.evaluation.asking import in_shares, key_of, open_kept, rank_and_size
from rarl.evaluation.expected import expected_of, images_of, own_scoring
from rarl.evaluation.lists import groups_to_ask
from rarl.evaluation.metrics import MetricEntry
from rarl.evaluation.prediction import predict
from rarl.evaluation.results import open_metrics, write_metrics, write_predictions
from rarl.evaluation.summary import by_column, expected_metrics, lenient_metrics, summarize
from rarl.files import locked
from rarl.method.prompts import messages
from rarl.method.tasks import Task
from rarl.models.generation.endpoint import Endpoint
from rarl.models.generation.replies import greedy_replies
from rarl.models.limits import refused_images
from rarl.models.processor import resizing_of
from rarl.scoring.candidates import has_grid
from rarl.scoring.scoring import Scoring

_log = logging.getLogger(__name__)


def evaluate(
    model: PreTrainedModel | Endpoint,
    processor: ProcessorMixin | None,
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
    scoring: Scoring | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, MetricEntry]:
    """Evaluate one arm and write it into the folder `out`, beside the other arms that are there.

    If 1 is in `images`, every image of the split is asked for alone. For any other number N, lists of N
    images are drawn with `seed`, no image in two of them: `lists` lists, or fewer if the images don't
    suffice. If `out/lists-SPLIT-SEED.json` has lists of N images, those are asked. The first `position_lists`
    of them are asked in every cyclic rotation of their pictures.

    Args:
        model, processor: one that is loaded, or an endpoint and None.
        arm: the key in `metrics.json`, usually the name of the model's folder.
        lists: the most lists of each number of images; `metrics.json` says how many there are.
        batch_size: prompts in one pass.
        max_new_tokens: where a reply is cut that does not end by itself.
        position_lists: how many lists of each number of images above 1 are rotated; with 0 there are no
            `agreementN` and `position_biasN`.
        by: columns of the split's `metadata.jsonl`; single images are measured for each of their values too,
            under `subgroups`. None for the columns that `read_columns` chooses, () for none.
        scoring: the model's, for its distributions; None for those over whole replies as they are. The
            replies are greedy in any case.
        progress: called with the number of replies and distributions so far, and the number of all.

    Where the split has values and the task's grid is not too fine (`has_grid`), each image gets a
    distribution over it, too, and so do the images of lists; an endpoint gives none.

    Where several processes work together, all call it: each asks its share, and the first one writes. Replies
    are kept in a hidden folder of `out` until the results are written, so that a killed evaluation of the
    same model goes on.

    An image that the processor refuses is not asked for: alone it has no value, no new list has it, and a
    list of before that has it has no reply. The log names it.

    Returns:
        METRIC -> value, 95 % interval and number of replies, as in `metrics.json`.

    Raises:
        DataError: if the split is missing or too small, lacks a column of `by`, or a file in `out` is not
            what it should be.
        ConfigError: if `out` holds the results of another task, split, seed or number of lists.
    """
    if not images or min(images) < 1 or lists < 1:
        raise ConfigError(
            f"evaluation needs at least 1 image a prompt and 1 list, not {list(images)} and {lists}"
        )
    if position_lists < 0:
        raise ConfigError(f"position_lists must be 0 or more, not {position_lists}")
    if problem := by_problem(by, images):
        raise ConfigError(f"by: {problem}")
    if 1 in images and not collection.knows_values(split):
        raise ConfigError(
            f"{collection.root / split} knows orders alone, and one image has none: evaluate lists, as with "
            "--images 2,4"
        )
    columns = read_columns(collection, split, by) if 1 in images else {}
    refused = refused_rows(processor, collection.split(split))
    folder, task = Path(out), collection.task
    # A folder of something else is an error now, before the model runs.
    open_metrics(folder, task.name, split, seed, collection.digest(split))
    with locked(folder, "results", wait=True):  # another arm may be evaluated into it at the same time
        groups = groups_to_ask(collection, folder, sorted(set(images)), split, lists, seed, refused=refused)
    rotations = _rotations(groups, position_lists)
    prompts = [*groups, *(_rotated(groups[place], turn) for place, _, turn in rotations if turn)]

    knows = collection.knows_values(split) and has_grid(task)
    alone = images_of(groups, refused) if knows and not isinstance(model, Endpoint) else []
    total = len(prompts) + len(alone)
    asked = (model.url, model.model) if isinstance(model, Endpoint) else ()
    settings_of_all = (task.to_dict(), scoring, batch_size, max_new_tokens, len(groups), asked)
    key = key_of(model, processor, prompts, *settings_of_all)
    kept = open_kept(folder / f".replies-{arm}", key)
    texts: list[str] = []
    # Never in one batch: the replies to lists must not depend on whether rotations are asked as well.
    for name, some in (("lists", groups), ("rotations", prompts[len(groups) :])):
        can_be_shown = [refused.isdisjoint(row.path for row in group.rows) for group in some]
        shown = [group for group, possible in zip(some, can_be_shown, strict=True) if possible]
        settings = (task, batch_size, max_new_tokens)
        replies = ask(model, processor, shown, *settings, shared=True, kept=kept / name)
        for possible in can_be_shown:
            texts.append(next(replies)[1] if possible else "")
            if progress is not None:
                progress(len(texts), total)
    predictions = [
        predict(group, text, arm=arm, split=split) for group, text in zip(groups, texts, strict=False)
    ]
    if alone:
        assert not isinstance(model, Endpoint)
        said_alone = {
            group.rows[0]: text for group, text in zip(groups, texts, strict=False) if len(group.rows) == 1
        }
        found = expected_of(
            model,
            cast(ProcessorMixin, processor),
            alone,
            task,
            scoring or own_scoring(list(said_alone.values()), task),
            said_alone,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            kept=kept / "expected",
            progress=progress and (lambda done: progress(len(prompts) + done, total)),
        )
        predictions = [
            replace(line, expected=[found.get(row) for row in group.rows])
            for line, group in zip(predictions, groups, strict=True)
        ]
    rotated = iter(texts[len(groups) :])
    for place, number, turn in rotations:
        text = next(rotated) if turn else texts[place]  # rotation 0 is the list as drawn, already asked
        said = predict(_rotated(groups[place], turn), text, arm=arm, split=split)
        predictions.append(replace(said, list=number, rotation=turn))

    metrics = summarize(predictions, task, seed)
    metrics |= lenient_metrics(predictions, metrics, task, seed)
    metrics |= expected_metrics(predictions, task, seed)
    divided = by_column(predictions, columns, task, seed) if columns else {}
    if rank_and_size()[0] > 0:
        return metrics
    with locked(folder, "results", wait=True):
        write_predictions(folder, arm, predictions)
        saved = open_metrics(folder, task.name, split, seed, collection.digest(split))
        for count in sorted({len(group.rows) for group in groups} - {1}):
            drawn = [group for group in groups if len(group.rows) == count]
            entry: dict[str, float] = {"n": len(drawn), "tie_rate": tie_rate(drawn)}
            if share_images(drawn):
                entry["share_images"] = True
            saved["lists"][str(count)] = entry
        saved["arms"][arm] = metrics
        saved.setdefault("subgroups", {})[arm] = divided
        write_metrics(folder, saved)
    shutil.rmtree(kept)
    return metrics


def refused_rows(processor: ProcessorMixin | None, rows: Sequence[Row]) -> frozenset[Path]:
    """The image files that the processor refuses; they are named in the log. An endpoint's is not known."""
    if processor is None:
        return frozenset()
    refused = refused_images(processor, [row.path for row in rows])
    for path, problem in list(refused.items())[:SHOWN]:
        _log.warning("%s: %s; it gets no value", path, problem)
    if len(refused) > SHOWN:
        _log.warning("%d images in all get no value", len(refused))
    return frozenset(refused)


def _rotations(groups: Sequence[Group], number: int) -> list[tuple[int, int, int]]:
    """The rotations to ask, of the first `number` lists of each count. Each is the place of the list among
    `groups`, its number among the lists of its count, and by how many pictures it is turned, from 0."""
    found: list[tuple[int, int, int]] = []
    numbers: Counter[int] = Counter()
    for place, group in enumerate(groups):
        count = len(group.rows)
        if count > 1 and numbers[count] < number:
            found += [(place, numbers[count], turn) for turn in range(count)]
            numbers[count] += 1
    return found


def _rotated(group: Group, turn: int) -> Group:
    """The same images, moved on: picture p, from 0, shows image p + `turn`; the first follows the last."""
    return Group(group.rows[turn:] + group.rows[:turn])


def ask(
    model: PreTrainedModel | Endpoint,
    processor: ProcessorMixin | None,
    groups: Sequence[Group],
    task: Task,
    batch_size: int,
    max_new_tokens: int,
    *,
    shared: bool = False,
    kept: Path | None = None,
    together: bool = False,
) -> Iterator[tuple[Group, str]]:
    """Yields each group with its reply, groups with fewer images first. Images are opened a batch at a time,
    so a split of any size fits.

    Args:
        shared: whether all processes ask, each its share of the batches; otherwise this one asks alone.
        kept, together: as in `in_shares`.
    """

    resizing = resizing_of(processor)

    def answer(batch: Sequence[Group]) -> list[str]:
        count = len(batch[0].rows)
        prompts = [messages(count, group.rule or task.rule, task.value_range) for group in batch]
        pictures = [[open_image(row.path, resizing) for row in group.rows] for group in batch]
        return greedy_replies(
            model, processor, prompts, pictures, max_new_tokens=max_new_tokens, batch_size=batch_size
        )

    batches: list[list[Group]] = []
    for count in sorted({len(group.rows) for group in groups}):
        same = [group for group in groups if len(group.rows) == count]
        batches += [same[start : start + batch_size] for start in range(0, len(same), batch_size)]
    replies = in_shares(batches, answer, kept=kept, together=together) if shared else map(answer, batches)
    for batch, texts in zip(batches, replies, strict=True):
        yield from zip(batch, texts, strict=True)
