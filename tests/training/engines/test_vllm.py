"""vLLM beside training, with a stub in its place: what it is handed, and how often one is opened. The stub
expands prompts as vLLM does for Qwen2.5-VL: one token becomes those of an image."""

import gc
from types import SimpleNamespace

import pytest
import trl.generation.vllm_generation as generation

from helpers.grpo import PERFECT, ids_of, ours
from helpers.sharing import pictures
from rarl.training.engines import vllm
from rarl.training.engines.vllm import close_vllm, one_token_an_image

IMAGE = 7
RUNS = [
    ([1, IMAGE, IMAGE, IMAGE, 2, IMAGE, IMAGE, 3], [1, IMAGE, 2, IMAGE, 3]),
    ([IMAGE], [IMAGE]),
    ([1, 1, 2, 2], [1, 1, 2, 2]),
    ([], []),
]


@pytest.mark.parametrize(("ids", "expected"), RUNS)
def test_one_token_an_image(ids, expected):
    assert one_token_an_image(ids, IMAGE) == expected


class Engine:
    """An LLM of vLLM that always answers the same, with a log-prob of -1 for each token."""

    made = ()

    def __init__(self, **settings):
        self.settings, self.prompts, self.loaded = settings, [], []
        model = SimpleNamespace(load_weights=lambda weights: self.loaded.extend(name for name, _ in weights))
        runner = SimpleNamespace(model_runner=SimpleNamespace(model=model))
        self.llm_engine = SimpleNamespace(model_executor=SimpleNamespace(driver_worker=runner))
        self.made.append(self)

    def reset_prefix_cache(self):
        pass

    def generate(self, prompts, sampling_params, use_tqdm):
        said = ids_of(PERFECT)
        logprobs = [{token: SimpleNamespace(rank=1, logprob=-1.0)} for token in said]
        for prompt in prompts:
            images = prompt["multi_modal_data"]["image"]
            sizes = [
                image.width * image.height // 28**2
                for image in (images if isinstance(images, list) else [images])
            ]
            self.prompts.append(expanded(prompt["prompt_token_ids"], sizes, sampling_params.image_token))
        completion = SimpleNamespace(token_ids=said, logprobs=logprobs)
        return [
            SimpleNamespace(prompt_token_ids=ids, outputs=[completion])
            for ids in self.prompts[-len(prompts) :]
        ]


def expanded(ids, sizes, image_token):
    """Each of the first tokens of an image becomes as many as the image has; others stay as they are."""
    sizes, out = list(sizes), []
    for token in ids:
        out += [token] * (sizes.pop(0) if token == image_token and sizes else 1)
    return out


@pytest.fixture
def engines(monkeypatch, tiny_processor):
    monkeypatch.setattr(Engine, "made", [])
    monkeypatch.setattr(generation, "is_vllm_available", lambda: True)
    monkeypatch.setattr(generation, "LLM", Engine, raising=False)
    token = tiny_processor.image_token_id
    monkeypatch.setattr(
        generation,
        "SamplingParams",
        lambda **given: SimpleNamespace(image_token=token, **given),
        raising=False,
    )
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")  # TRL changes them
        monkeypatch.delenv(name)
    yield Engine.made
    close_vllm()


def trainer_of(dataset, folder, **given):
    return ours(dataset, folder, use_vllm=True, max_steps=1, **given)


@pytest.mark.parametrize("shared_prefix", ["on", "off"])
def test_the_engine_sees_the_prompts_that_are_trained_on(digits, tmp_path, engines, shared_prefix):
    """TRL 1.16 hands over the tokens of an image together with the image, and they would be expanded
    again."""
    dataset = pictures(digits, tmp_path, [[3, 7], [2, 6]])  # of 2 and 4 tokens each
    trainer = trainer_of(dataset, tmp_path, shared_prefix=shared_prefix)
    batches = []
    score = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: batches.append(score(inputs)) or batches[-1]
    trainer.train()
    [engine], [batch] = engines, batches
    trained = [
        ids[mask.bool()].tolist() for ids, mask in zip(batch["prompt_ids"], batch["prompt_mask"], strict=True)
    ]
    assert engine.prompts == trained
    assert len(engine.prompts) == 8
    assert engine.loaded


def test_stages_share_one_engine(prompts_of, tmp_path, engines):
    dataset = prompts_of([3, 7], [1, 5])
    first = trainer_of(dataset, tmp_path / "first")
    first.train()
    [engine] = engines
    weights = len(engine.loaded)
    del first
    gc.collect()
    second = trainer_of(dataset, tmp_path / "second")
    assert second.vllm_generation.llm is engine
    second.train()
    assert len(engine.prompts) == 16
    assert len(engine.loaded) == 2 * weights  # it is given those of the second policy
    trainer_of(dataset, tmp_path / "third", vllm_gpu_memory_utilization=0.2)
    assert len(engines) == 2
    close_vllm()
    trainer_of(dataset, tmp_path / "fourth")
    assert len(engines) == 3


def test_stages_share_one_connection_which_is_closed(monkeypatch):
    log = []

    class Client:
        def __init__(self, **given):
            log.append("opened")

        def init_communicator(self, device):
            log.append("joined")

        def close_communicator(self):
            log.append("closed")

    monkeypatch.setattr(generation, "is_vllm_available", lambda: True)
    monkeypatch.setattr(generation, "VLLMClient", Client)
    state = SimpleNamespace(deepspeed_plugin=None)
    accelerator = SimpleNamespace(
        is_main_process=True, device="cpu", state=state, wait_for_everyone=lambda: log.append("waited")
    )
    made = [vllm.OneVLLM(None, accelerator, None, mode="server") for _ in range(2)]
    assert made[0].vllm_client is made[1].vllm_client
    close_vllm()
    assert log == ["opened", "joined", "waited", "waited", "closed"]
    close_vllm()  # nothing is open
    vllm.OneVLLM(None, accelerator, None, mode="server")
    close_vllm()
    assert log[5:] == ["opened", "joined", "waited", "closed"]
