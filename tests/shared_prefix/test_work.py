"""Work that is done once for a group: the vision tower and the image processor see an image once, and the
rewards still get the images of each response."""

from collections import Counter

from transformers import ProcessorMixin

from helpers.sharing import patches_of, spy_on_vision, trainer_of


def test_the_vision_tower_sees_an_image_once_a_pass(dataset, tmp_path):
    """Two micro-batches of one prompt: one rollout and two reference passes, then an update each."""
    given = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 1}
    both, first, second = patches_of(dataset, (0, 1)), patches_of(dataset, [0]), patches_of(dataset, [1])
    assert first != second
    runs = {}
    for shared in ("on", "off"):
        trainer = trainer_of(dataset, tmp_path, shared, **given)
        runs[shared] = []
        spy_on_vision("policy", trainer.model, runs[shared])
        spy_on_vision("reference", trainer.ref_model, runs[shared])
        trainer.train()
    reference = [("reference", False, first), ("reference", False, second)]
    update = [("policy", True, first), ("policy", True, second)]
    assert runs["on"][:3] == [("policy", False, both), *reference]
    assert sorted(runs["on"][3:]) == sorted(update)  # the groups are shuffled
    assert sum(patches for *_, patches in runs["off"]) == 4 * sum(patches for *_, patches in runs["on"])


def test_an_image_is_processed_once_a_generation(dataset, tmp_path, monkeypatch):
    """Counted in patches, wherever they are made: by transformers, or by `rarl.models.pixels`."""
    made = Counter()
    original = ProcessorMixin._process_images

    def counting(self, images, **settings):
        processed, replacements = original(self, images, **settings)
        made["patches"] += len(processed["pixel_values"])
        return processed, replacements

    monkeypatch.setattr(ProcessorMixin, "_process_images", counting)
    for shared, times in (("on", 1), ("off", 2 * 4)):
        made.clear()
        trainer_of(dataset, tmp_path, shared).train()
        assert made["patches"] == times * patches_of(dataset, range(4))


def test_rewards_are_given_the_images_of_each_response(dataset, tmp_path):
    seen = {}
    for shared in ("on", "off"):
        calls = seen[shared] = []

        def reward(prompts, completions, images, calls=calls, **columns):
            inside = [
                [part["image"].tobytes() for part in prompt[1]["content"] if part["type"] == "image"]
                for prompt in prompts
            ]
            given = [[image.tobytes() for image in of_one] for of_one in images]
            assert inside == given
            calls.append((given, sorted(columns)))
            return [0.0] * len(completions)

        trainer = trainer_of(dataset, tmp_path, shared, rewards=[reward], max_steps=1)
        trainer.train()
        logged = [[image.tobytes() for image in images] for images in trainer._logs["images"]]
        assert logged == calls[-1][0]
    assert seen["on"] == seen["off"]
    assert [len(images) for images in seen["on"][0][0]] == [2, 2, 2, 2, 1, 1, 1, 1]


def test_nothing_is_logged_of_images_that_are_not_there(texts, tmp_path):
    logged = []
    for shared in ("on", "off"):
        trainer = trainer_of(texts, tmp_path, shared, max_steps=1)
        trainer.train()
        logged.append(list(trainer._logs["images"]))
    assert logged == [[], []]
