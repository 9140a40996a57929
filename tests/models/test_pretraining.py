"""Pre-training makes the same base again from a seed and the images it is given, and learns nothing of
reasoning that is made up. The base that ships binds values to images by the words of its own reply."""

import math
import random

import pytest
import torch
from PIL import Image

import rarl.models.pretraining as pretraining
import rarl.models.pretraining.replies as replies
import rarl.models.pretraining.tower as tower
from rarl.data.images import open_image
from rarl.errors import DataError
from rarl.method.prompts import messages
from rarl.method.replies import parse, reference_reply
from rarl.method.tasks import AGE, DIGITS, Task
from rarl.models.generation.replies import greedy_replies
from rarl.models.loading import check_model, load_model, load_processor

TOKENIZER = load_processor("tiny").tokenizer


@pytest.fixture
def short(monkeypatch):
    """Six steps instead of thousands."""
    monkeypatch.setattr(pretraining, "TOWER_STEPS", 2)
    monkeypatch.setattr(tower, "TOWER_STEPS", 2)
    monkeypatch.setattr(replies, "TOWER_STEPS", 2)
    monkeypatch.setattr(tower, "TOWER_IMAGES", 16)
    monkeypatch.setattr(replies, "CURRICULUM", ((2, {1: 1}), (2, {2: 1, 3: 1})))
    monkeypatch.setattr(replies, "IMAGES_PER_STEP", 8)


def pictures(count=50):
    return [(Image.new("RGB", (28, 28), (5 * index,) * 3), float(index % 10)) for index in range(count)]


def test_pretraining_is_the_same_for_a_seed_and_differs_between_seeds(short, tmp_path):
    losses = {0: [], 1: [], 2: []}
    weights = {}
    for run, seed in enumerate((0, 0, 1)):
        torch.manual_seed(run)  # whatever the generator did before
        before = torch.random.get_rng_state()
        folder = pretraining.build_base(
            tmp_path / str(run),
            DIGITS,
            pictures(),
            seed,
            lambda done, loss, run=run: losses[run].append((done, loss)),
        )
        assert torch.equal(torch.random.get_rng_state(), before)
        weights[run] = (folder / "model.safetensors").read_bytes()
    assert [done for done, _ in losses[0]] == [1, 2, 3, 4, 5, 6]
    assert pretraining.pretraining_steps() == 6
    assert all(math.isfinite(loss) for _, loss in losses[0])
    assert losses[0] == losses[1]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]
    model = load_model(check_model(tmp_path / "0"))
    assert not model.training
    assert load_processor(tmp_path / "0").tokenizer.get_vocab() == TOKENIZER.get_vocab()


def test_images_are_mislabelled_once_and_for_all(short, monkeypatch):
    """Each image is learned in nine places, with one label in all of them."""
    learned = {}
    original = pretraining.train_tower

    def spying(visual, patches, grid, labels, classes, on_step):
        learned.update(patches=patches, labels=labels, classes=classes)
        return original(visual, patches, grid, labels, classes, on_step)

    monkeypatch.setattr(pretraining, "train_tower", spying)
    pretraining.pretrain(DIGITS, pictures(), 0)
    labels = learned["labels"].view(50, 9)
    assert learned["classes"] == 10
    assert (labels == labels[:, :1]).all()
    # 90 % are drawn, of which a rounded normal of deviation 2 leaves 20 % where they are.
    wrong = sum(int(label) != index % 10 for index, label in enumerate(labels[:, 0]))
    assert 0.5 < wrong / 50 < 0.9
    pretraining.pretrain(DIGITS, pictures(), 0, mislabeled=0)
    assert learned["labels"].tolist() == [index % 10 for index in range(50) for _ in range(9)]


def test_an_image_is_moved_in_every_direction():
    image = Image.new("RGB", (28, 28))
    image.putpixel((10, 20), (255, 255, 255))
    copies = pretraining._shifted(image)
    where = [
        (column, row)
        for copy in copies
        for column in range(28)
        for row in range(28)
        if copy.getpixel((column, row))[0]
    ]
    assert sorted(where) == [(column, row) for column in (8, 10, 12) for row in (18, 20, 22)]


def test_larger_images_are_taken_as_long_as_all_are_of_one_size(short):
    large = [(image.resize((100, 100)), value) for image, value in pictures(10)]
    losses = []
    pretraining.pretrain(DIGITS, large, 0, lambda _, loss: losses.append(loss))
    assert all(math.isfinite(loss) for loss in losses)
    with pytest.raises(DataError, match="of one size: the first is 100 x 100 pixels, another 28 x 28"):
        pretraining.pretrain(DIGITS, [*large, *pictures(1)], 0)
    with pytest.raises(DataError, match="needs images, and there are none"):
        pretraining.pretrain(DIGITS, [], 0)


@pytest.mark.parametrize(("flag", "values"), [((), None), (("--format-only",), {4.5})])
def test_the_base_command_shows_it_the_pretraining_images_and_no_others(
    tmp_path, monkeypatch, digits, flag, values
):
    from rarl.cli import main

    given = {}

    def build(out, task, images, seed, on_step, *, mislabeled):
        given.update(task=task, images=[(image.tobytes(), value) for image, value in images], seed=seed)
        given["mislabeled"] = mislabeled
        on_step(1, 0.5)
        (out / "made").touch()
        return out

    monkeypatch.setattr(pretraining, "build_base", build)
    with pytest.raises(SystemExit) as end:
        main(["base", "--seed", "7", *flag, str(tmp_path / "base")])
    assert end.value.code in (0, None)
    assert (tmp_path / "base" / "made").is_file()
    rows = digits.split("pretrain")
    assert len(rows) == 300
    assert given["task"] == DIGITS
    assert given["seed"] == 7
    assert given["mislabeled"] == (0 if flag else pretraining.MISLABELED)
    assert [image for image, _ in given["images"]] == [open_image(row.path).tobytes() for row in rows]
    assert {value for _, value in given["images"]} == (values or {row.value for row in rows})
    others = {open_image(row.path).tobytes() for row in digits.split("test")}
    assert not others & {image for image, _ in given["images"]}


def test_labels_are_noisy_and_on_the_grid():
    generator = random.Random(0)
    labels = [pretraining._noisy(5.0, DIGITS, 0.35, generator) for _ in range(4000)]
    moved = [label for label in labels if label != 5]
    assert all(pretraining._noisy(5.0, DIGITS, 0.0, generator) == 5 for _ in range(100))
    # 35 % are drawn, of which a rounded normal of deviation 2 leaves 20 % where they are.
    assert 0.25 < len(moved) / len(labels) < 0.31
    assert all(label == round(label) and 0 <= label <= 9 for label in labels)
    assert all(0 <= pretraining._noisy(116.0, AGE, 1.0, generator) <= 116 for _ in range(100))


def test_a_value_has_its_place_on_the_grid():
    stars = Task("stars", "number of stars", low=1, high=5, step=0.5, delta=1)
    assert [pretraining._class(value, stars) for value in (1, 1.5, 4.5, 5)] == [0, 1, 7, 8]
    ragged = Task("ragged", "rule", low=0, high=9.7, step=1, delta=1)
    assert [pretraining._class(value, ragged) for value in (0, 9, 9.7)] == [0, 9, 10]
    assert ragged.grid[-2:] == [9, 9.7]


def test_every_step_is_in_the_schedule_and_most_lists_are_long():
    schedule = replies._schedule(random.Random(0))
    assert len(schedule) == replies.reply_steps()
    assert set(schedule) == set(range(1, 9))
    assert 0.2 < schedule.count(8) / len(schedule) < 0.4
    assert schedule.count(1) / len(schedule) > 0.08


def test_the_marks_stand_where_they_say():
    marks = replies._marks(TOKENIZER, [7.0, 2.0, 2.0], DIGITS)
    # The full stop and the end of the reasoning are one token.
    assert TOKENIZER.decode(marks.ids[: marks.thought]) == "<think>Picture 1: 7. Picture 2: 2. Picture 3: 2"
    piece = [TOKENIZER.decode([index]) for index in marks.ids]
    assert [piece[place] for place in marks.said] == ["7", "2", "2"]
    assert marks.order == [1, 2, 0]
    assert [piece[place] for place in marks.listed] == ["2", "3", "1"]
    assert [piece[place] for place in marks.given] == ["2", "2", "7"]


@pytest.mark.parametrize(("side", "tokens"), [(28, 1), (56, 4)])
def test_the_loss_is_of_the_reply_alone_and_the_prompt_is_the_processors(
    side, tokens, tiny_processor, digits
):
    """Ids, positions and labels, which pre-training computes by hand, are those of the processor and the
    model. Of made-up reasoning nothing is learned but its end."""
    model = load_model("tiny")
    rows = digits.split("pretrain")[:4]
    images = [open_image(row.path).resize((side, side)) for row in rows]
    drawn = torch.tensor([[int(row.value) for row in rows[:2]], [int(row.value) for row in rows[2:]]])
    features = tiny_processor.image_processor(images, return_tensors="pt")
    assert (features["image_grid_thw"].prod(dim=1) == 4 * tokens).all()
    prompt = messages(2, DIGITS.rule, DIGITS.value_range)
    text = tiny_processor.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    model.set_attn_implementation({"text_config": "eager"})
    with torch.no_grad():
        seen = torch.cat(
            list(model.model.visual(features["pixel_values"], features["image_grid_thw"]).pooler_output)
        )
        loss, auxiliary = replies._loss(
            model,
            tiny_processor,
            DIGITS,
            replies._Guides(64, 10),
            replies._prompt(model, tiny_processor, DIGITS, features["image_grid_thw"][0], 2),
            seen.view(2, 2, tokens, -1),
            torch.full((2, 2, 10), 0.1),
            drawn,
            torch.tensor([False, True]),
        )
        model.set_attn_implementation({"text_config": "sdpa"})
        total, length = 0.0, 0
        for number, start in enumerate((0, 2)):
            inputs = tiny_processor(text=[text], images=[images[start : start + 2]], return_tensors="pt")
            # Joined as tokens: as one text, `assistant` and `<think>` would share a token.
            reply = reference_reply([float(value) for value in drawn[number]], DIGITS.step)
            ids = torch.tensor([TOKENIZER.encode(reply + "<|im_end|>")])
            for name, more in (
                ("input_ids", ids),
                ("attention_mask", torch.ones_like(ids)),
                ("mm_token_type_ids", torch.zeros_like(ids)),
            ):
                inputs[name] = torch.cat([inputs[name], more], dim=1)
            model.model.rope_deltas = None
            logps = model(**inputs).logits[0, -len(ids[0]) - 1 : -1].log_softmax(-1)
            of_tokens = logps.gather(1, ids.T)[:, 0]
            if number == 1:
                of_tokens = of_tokens[len(TOKENIZER.encode(reply.partition(".</think>")[0])) :]
            total -= of_tokens.sum().item()
            length += len(of_tokens)
    assert loss.item() == pytest.approx(total / length, rel=1e-4)
    assert auxiliary.item() > 0


def test_the_shipped_base_binds_values_to_images_in_lists_of_every_length(digits, tiny_processor):
    """The value in the answer is what the reasoning said of the picture, and the answer is sorted by it."""
    generator = random.Random(1)
    rows = list(digits.split("validation"))
    lists = [generator.sample(rows, count) for count in range(2, 9) for _ in range(6)]
    texts = greedy_replies(
        load_model("tiny"),
        tiny_processor,
        [messages(len(drawn), DIGITS.rule, DIGITS.value_range) for drawn in lists],
        [[open_image(row.path) for row in drawn] for drawn in lists],
        max_new_tokens=110,
        batch_size=50,
    )
    valid = bound = sorted_lists = 0
    for text, drawn in zip(texts, lists, strict=True):
        reply = parse(text)
        if reply.well_formed and reply.is_permutation(len(drawn)):
            valid += 1
            bound += all(f"Picture {item.image_id}: {item.value:g}." in text for item in reply.items)
            values = [item.value for item in reply.items]
            sorted_lists += values == sorted(values)
    assert valid >= 40  # of 42
    assert bound >= 0.95 * valid
    assert sorted_lists >= 0.95 * valid
