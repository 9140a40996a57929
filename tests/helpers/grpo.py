"""RARLTrainer and TRL's own trainer with the embedded model, on prompts of digits, and
scripted replies. The equations are the oracle of these tests."""

from copy import deepcopy

from trl import GRPOConfig, GRPOTrainer

from helpers.training import cpu_arguments
from rarl.method.equations import final_reward
from rarl.method.replies import reference_reply
from rarl.method.rewards import format_reward, ranking_reward, regression_reward
from rarl.models.generation.replies import vision_tokens
from rarl.models.loading import load_model, load_processor
from rarl.training.engines.sampling import Sampling
from rarl.training.trainer import REWARDS, RARLConfig, RARLTrainer

# Replies to two pictures of digits 3 and 7, and what they earn (R_reg + R_rank + R_format).
TRUTH = [3.0, 7.0]
PERFECT = reference_reply(TRUTH, 1)  # 1 + 3 + 1 = 5
# Both values off by more than delta (2): 0. The list has its length (1) and agrees with its values (1), not
# with the truth (0); its form is right (1).
WRONG = '<think>a</think>\n<answer>[{"image_id": 2, "value": 0}, {"image_id": 1, "value": 9}]</answer>'  # 3
# Digits right (1), one that is listed first is the greater (r_len 1, r_consis 0, r_acc 0), the form is right
# (1).
BACKWARDS = (
    '<think>bc</think><answer>[{"image_id": 2, "value": 7}, {"image_id": 1, "value": 3}]</answer>'  # 3
)
NOTHING = "What is this?"  # 0
REWARD = {PERFECT: 5.0, WRONG: 3.0, BACKWARDS: 3.0, NOTHING: 0.0}


def settings(folder, **given):
    """Arguments for a few steps on a CPU: two prompts of four responses a step."""
    return cpu_arguments(
        folder,
        **{
            "per_device_train_batch_size": 8,
            "num_generations": 4,
            "max_completion_length": 64,
            "max_steps": 2,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
            "beta": 0.0,
            "loss_type": "grpo",
            "reward_weights": [1.0, 1.0, 1.0],
            **given,
        },
    )


class Stock(Sampling, GRPOTrainer):
    """TRL's own trainer, which samples what ours samples."""


def unchanged(dataset, folder, model="tiny", **given):
    """TRL's own trainer with our rewards."""
    return Stock(
        load_model(model, training=True),
        [regression_reward, ranking_reward, format_reward],
        GRPOConfig(**settings(folder, **given)),
        train_dataset=dataset,
        processing_class=load_processor(model),
    )


def stock(dataset, folder, model="tiny", **given):
    """The same, which bans the tokens that RARLTrainer bans."""
    trainer = unchanged(dataset, folder, model, **given)
    trainer.generation_config.suppress_tokens = vision_tokens(trainer.model, trainer.processing_class)
    return trainer


def ours(dataset, folder, mutation=None, eval_dataset=None, reward_funcs=None, peft_config=None, **given):
    """RARLTrainer; without `mutation` the probability is its default, 0."""
    fields = {f"mutation_{key}": value for key, value in (mutation or {}).items()}
    return RARLTrainer(
        load_model("tiny", training=True),
        reward_funcs,
        args=RARLConfig(**settings(folder, **fields, **given)),
        train_dataset=dataset,
        eval_dataset=eval_dataset,
        processing_class=load_processor("tiny"),
        peft_config=peft_config,
    )


def script(monkeypatch, texts, logprobs=None):
    """Makes the policy say `texts`, one after the other. Token ids stand for what no text can spell."""

    def generate(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        assert len(prompt_ids) == len(texts)
        ids = [text if isinstance(text, list) else ids_of(text) for text in texts]
        return ids, None if logprobs is None else deepcopy(logprobs)

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", generate)


TOKENIZER = load_processor("tiny").tokenizer


def ids_of(text):
    return [*TOKENIZER.encode(text, add_special_tokens=False), TOKENIZER.eos_token_id]


def text_of(ids):
    return TOKENIZER.decode(ids, skip_special_tokens=True)


class Batch:
    """One generation batch as the trainer makes it, before TRL shuffles its rows."""

    def __init__(self, trainer):
        trainer.model.train()
        self.inputs = next(iter(trainer.get_train_dataloader()))
        self.output = trainer._generate_and_score_completions(self.inputs)
        lengths = self.output["completion_mask"].sum(dim=1).tolist()
        self.ids = [
            ids[:length] for ids, length in zip(self.output["completion_ids"].tolist(), lengths, strict=True)
        ]
        self.texts = [completion[-1]["content"] for completion in trainer._logs["completion"]]
        self.advantages = self.output["advantages"].tolist()
        self.parts = list(zip(*(trainer._logs["rewards"][f.__name__] for f in REWARDS), strict=True))
        self.mutated = list(trainer._logs["extra"]["mutated"])
        self.metrics = {key: values[-1] for key, values in trainer._metrics["train"].items()}


def spy_on_generation(monkeypatch):
    """The policy's own generations, call after call, as copies: (completion_ids, texts)."""
    calls = []
    original = GRPOTrainer._generate

    def generate(self, prompts):
        output = original(self, prompts)
        calls.append((deepcopy(output[1]), [completion[-1]["content"] for completion in output[3]]))
        return output

    monkeypatch.setattr(GRPOTrainer, "_generate", generate)
    return calls


def rewards_of(texts, inputs, weights=(1.0, 1.0, 1.0)):
    """Eq. 8, computed from the rewards and the equations alone."""
    columns = {key: [row[key] for row in inputs] for key in ("values", "delta", "range")}
    parts = [reward(texts, **columns) for reward in REWARDS]
    return [final_reward(*row, weights) for row in zip(*parts, strict=True)]


def trained(trainer):
    """Trains, and returns the logs without times, and the weights."""
    trainer.train()
    timed = ("step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second")
    timed += ("effort/seconds",)
    logs = [
        {key: value for key, value in log.items() if key not in timed} for log in trainer.state.log_history
    ]
    return logs, {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
