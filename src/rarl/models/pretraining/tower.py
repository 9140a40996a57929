"""The first part of a base's pre-training: the vision tower learns the (mostly wrong) labels of single
images. What it predicts of an image afterwards is all that the replies can say of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

TOWER_STEPS = 300
TOWER_RATE = 2e-3
TOWER_IMAGES = 64
TOKEN_SIZE = 0.08  # root mean square of the image tokens afterwards: that of the untrained text embeddings
SHARPNESS = 5.0  # factor of the logits of the sharper predictions


@dataclass(frozen=True)
class SeenImages:
    """What the trained tower makes of the images.

    Attributes:
        tokens: (images, tokens of each, hidden size).
        predicted: (images, values of the task), the probabilities that the classifier predicts.
        sharp: the same, sharper.
    """

    tokens: Tensor
    predicted: Tensor
    sharp: Tensor


def train_tower(
    tower: Any,
    patches: Tensor,
    grid: Tensor,
    labels: Tensor,
    classes: int,
    on_step: Callable[[int, float], None] | None,
) -> SeenImages:
    """Trains the vision tower with a classifier on its tokens, then scales these to the size of text.

    Args:
        tower: the model's vision tower.
        patches: (images, patches of each, pixels of a patch).
        grid: frames, rows and columns of patches of every image, shape (3,).
        labels: (images,), the number of each image's value on the grid.
        classes: how many values the grid has.
        on_step: called after each step with the number of steps done and the loss in nats.
    """

    def tokens_of(which: Tensor) -> Tensor:
        found = tower(patches[which].flatten(0, 1), grid.expand(len(which), 3)).pooler_output
        return torch.cat(list(found)).view(len(which), -1, found[0].shape[-1])

    head = linear_head(tower.merger.mlp[2].out_features, classes)
    optimizer = torch.optim.AdamW([*tower.parameters(), *head.parameters()], lr=TOWER_RATE, weight_decay=0.05)
    schedule = cosine_schedule(optimizer, TOWER_STEPS, warmup=20)
    tower.train()
    for step in range(TOWER_STEPS):
        batch = torch.randint(len(patches), (TOWER_IMAGES,))
        loss = functional.cross_entropy(head(tokens_of(batch).mean(1)), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if on_step is not None:
            on_step(step + 1, loss.item())
    tower.eval()
    with torch.no_grad():
        tokens = torch.cat([tokens_of(batch) for batch in torch.arange(len(patches)).split(300)])
        logits = head(tokens.mean(1))
        # The shift and the scale go into the tower's last layer.
        middle = tokens.mean((0, 1))
        scale = TOKEN_SIZE / (tokens - middle).square().mean().sqrt()
        last = tower.merger.mlp[2]
        last.weight.mul_(scale)
        last.bias.sub_(middle).mul_(scale)
    return SeenImages((tokens - middle) * scale, logits.softmax(-1), (SHARPNESS * logits).softmax(-1))


def linear_head(hidden: int, classes: int) -> nn.Module:
    """A linear classifier of normalised hidden states."""
    return nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, classes))


def cosine_schedule(optimizer: Any, steps: int, warmup: int) -> Any:
    """The learning rate rises to its full value in `warmup` steps, along a cosine that ends at 0."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
