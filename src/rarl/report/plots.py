"""The plots of a report, as SVG texts: curves over training steps, predicted against true values, tau by list
length, position bias, reliability. Their colours are variables of `page.css`, which has a light and a dark
set."""

import io
import random
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rarl.evaluation.metrics import METRICS, calibration_bins, list_lengths
from rarl.evaluation.position_bias import mean_places
from rarl.method.rewards import TERMS
from rarl.paper.arms import PAPER_ARMS
from rarl.report.record import EARLIER_KEYS, Arm, Record
from rarl.report.tables import arm_names

# Stand-ins, to be replaced by variables of the style sheet. No plot has these colours for another reason.
INK, MUTED, GRID = "#010203", "#020304", "#030405"
PALETTE_SIZE = len(PAPER_ARMS)
SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rarl",
    "font.size": 9,
    "text.parse_math": False,  # a $ in the name of a model is no formula
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.6,
    "path.simplify": True,
}
MOST_POINTS = 800  # of a scatter: more could not be told apart, and each is an element of the page
FEW_VALUES = 30  # up to here points that coincide are one dot, larger the more there are


@dataclass(frozen=True)
class Plot:
    """A plot: its title, its SVG, and what it shows in a sentence, for those who can't see it."""

    title: str
    svg: str
    description: str


def arm_colour(arm: str, arms: Iterable[str]) -> int:
    """The place of an arm in the palette of the style sheet; arms of other names take what is left."""
    if arm in PAPER_ARMS:
        return PAPER_ARMS[arm].colour
    others = [name for name in arms if name not in PAPER_ARMS]
    free = [row.colour for name, row in PAPER_ARMS.items() if name not in arms]
    return free[others.index(arm) % len(free)] if free else PALETTE_SIZE - 1


def training_curves(record: Record) -> list[Plot]:
    """What the policy's own responses earned in training, their entropy and KL, and the share of stagnant
    groups."""
    names: dict[str, tuple[str, ...]] = {
        **{term.title: (f"policy/rewards/{term.name}_reward",) for term in TERMS},
        **{title: (f"policy/{part}",) for term in TERMS for part, title in term.parts.items()},
        "Entropy": ("policy/entropy",),
        "KL from the reference": ("policy/kl",),
        "Stagnant groups, share": ("mutation/stagnant_before", "mutation/stagnant_after"),
    }
    plots = []
    for title, keys in names.items():
        trained = [arm for arm in record.arms.values() if any("policy/reward" in log for log in arm.log)]
        plot = _curves(record, title, keys, trained)
        plots += [plot] if plot else []
    return plots


def validation_curves(record: Record) -> list[Plot]:
    """The task's metric for single images and tau for lists, on the validation split."""
    metric, tau = METRICS[record.task.metric], METRICS["tauN"]
    prefix = "validation/"
    logged = {key for arm in record.arms.values() for log in arm.log for key in log}
    counts = list_lengths(key.removeprefix(prefix) for key in logged if key.startswith(prefix))
    keys = {f"{metric.label} {metric.arrow}, 1 image": f"{prefix}{metric.name}"}
    keys |= {f"{tau.label} {tau.arrow}, {count} images": f"{prefix}tau{count}" for count in counts}
    plots = [_curves(record, title, (key,), list(record.arms.values())) for title, key in keys.items()]
    return [plot for plot in plots if plot]


def predicted_against_true(record: Record) -> list[Plot]:
    """A plot for each arm that was asked for single images."""
    plots: list[Plot] = []
    task = record.task
    names = arm_names(record.arms, record.model)
    for name, arm in ((name, record.arms[name]) for name in names):
        pairs = [
            (line.truth[0], min(max(value, task.low), task.high))
            for line in arm.predictions
            if line.images == 1 and (value := line.values[0]) is not None
        ]
        if not pairs:
            continue
        title, (figure, axes) = names[name], _figure(names[name], 2.9, 2.9)
        paint = _stand_in(arm_colour(name, record.arms))
        axes.plot([task.low, task.high], [task.low, task.high], color=MUTED, linewidth=0.8, linestyle=":")
        counted = Counter((truth, task.nearest(given)) for truth, given in pairs)
        if len({truth for truth, _ in counted}) <= FEW_VALUES:
            most = max(counted.values())
            xs, ys = zip(*counted, strict=True)
            sizes = [130 * number / most for number in counted.values()]
            axes.scatter(xs, ys, s=sizes, color=paint, alpha=0.75, linewidths=0)
        else:
            shown = random.Random("points").sample(pairs, min(len(pairs), MOST_POINTS))
            xs, ys = zip(*shown, strict=True)
            axes.scatter(xs, ys, s=7, color=paint, alpha=0.35, linewidths=0)
        axes.set(xlabel="true value", ylabel="predicted value", aspect="equal")
        margin = 0.05 * (task.high - task.low)
        low, high = (f(number for pair in pairs for number in pair) for f in (min, max))
        axes.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin))
        description = f"{title}: predicted against true values of {len(pairs)} single images"
        plots.append(Plot(title, _svg(figure, f"scatter-{len(plots)}"), description))
    return plots


def tau_by_length(record: Record) -> Plot | None:
    """Kendall's tau with its interval, by the number of images in a list."""
    counts = list_lengths(key for arm in record.arms.values() for key in arm.metrics)
    if not counts:
        return None
    figure, axes = _figure("Kendall's τ by list length", 5.0, 2.6)
    names = list(arm_names(record.arms, record.model))
    for place, name in enumerate(names):
        metrics = record.arms[name].metrics
        known = [(x, entry) for x, n in enumerate(counts) if (entry := metrics.get(f"tau{n}"))]
        offset = (place - (len(names) - 1) / 2) * 0.7 / len(names)
        values = [entry["value"] for _, entry in known]
        errors = [
            [max(entry["value"] - entry["low"], 0) for _, entry in known],
            [max(entry["high"] - entry["value"], 0) for _, entry in known],
        ]
        paint = _stand_in(arm_colour(name, record.arms))
        axes.errorbar([x + offset for x, _ in known], values, yerr=errors, fmt="o", color=paint, capsize=2)
    axes.set_xticks(range(len(counts)), [f"{count} images" for count in counts])
    axes.set_ylabel("τ, 95 % interval")
    return Plot(
        "Kendall's τ by list length", _svg(figure, "tau"), "Kendall's tau of every arm by list length"
    )


def position_bias(record: Record) -> Plot | None:
    """The mean place in the reply by the place in the prompt, for the longest lists that were rotated."""
    rotated = {name: arm.rotated for name, arm in record.arms.items() if arm.rotated}
    if not rotated:
        return None
    count = max(line.images for lines in rotated.values() for line in lines)
    title = f"Place in the reply by place in the prompt, {count} images"
    figure, axes = _figure(title, 5.0, 2.6)
    axes.axhline((count + 1) / 2, color=MUTED, linewidth=0.8, linestyle=":")
    for name in arm_names(rotated, record.model):
        if places := mean_places(rotated[name], count):
            paint = _stand_in(arm_colour(name, record.arms))
            axes.plot(range(1, count + 1), [place + 1 for place in places], marker="o", ms=4, color=paint)
    axes.set(xlabel="picture in the prompt", ylabel="mean place in the reply")
    axes.set(xticks=range(1, count + 1), yticks=range(1, count + 1), ylim=(0.8, count + 0.2))
    said = "Mean place in the reply of each picture of the prompt; a model without bias is on the dotted line"
    return Plot(title, _svg(figure, "position"), said)


def reliability(record: Record) -> Plot | None:
    """How often the likeliest value is right, by the probability that it has; larger dots are more images."""
    title = "The likeliest value: claimed and right"
    figure, axes = _figure(title, 3.6, 3.2)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":")
    drawn: list[str] = []
    for name in arm_names(record.arms, record.model):
        alone = [
            (expected[0].probability, record.task.nearest(line.truth[0]) == expected[0].mode)
            for line in record.arms[name].predictions
            if line.images == 1 and (expected := line.expected) and expected[0] is not None
        ]
        if not alone:
            continue
        counts, claims, hits = calibration_bins(*zip(*alone, strict=True))
        there = counts > 0
        known = counts[there]
        xs, ys, sizes = claims[there] / known, hits[there] / known, 12 + 90 * known / known.sum()
        paint = _stand_in(arm_colour(name, record.arms))
        axes.plot(xs, ys, color=paint, linewidth=1.0)
        axes.scatter(xs, ys, s=sizes, color=paint, linewidths=0)
        drawn.append(name)
    if not drawn:
        return None
    axes.set(xlabel="probability of the likeliest value", ylabel="share that is right", aspect="equal")
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    said = (
        "How often the likeliest value is right, by its probability; a calibrated model is on the dotted line"
    )
    return Plot(title, _svg(figure, "reliability"), said)


def _curves(record: Record, title: str, keys: Sequence[str], arms: Sequence[Arm]) -> Plot | None:
    """Logged numbers over the steps since the base; the line of a second key is dashed."""
    figure, axes = _figure(title, 4.2, 2.6)
    drawn: list[str] = []
    for arm in arms:
        for key, style in zip(keys, ("-", "--"), strict=False):
            logged = [(log["step"], log.get(key, log.get(EARLIER_KEYS.get(key, key)))) for log in arm.log]
            points = [(arm.since + step, value) for step, value in logged if _is_number(value)]
            if points:
                paint = _stand_in(arm_colour(arm.name, record.arms))
                few = "." if len(points) < 20 and style == "-" else None
                axes.plot(*zip(*points, strict=True), color=paint, linestyle=style, marker=few, ms=5)
                drawn.append(arm.name)
    if not drawn:
        return None
    axes.set_xlabel("steps since the base")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    names = arm_names(dict.fromkeys(drawn), record.model)
    described = f"{title} over training steps, of {', '.join(names.values())}"
    if len(keys) > 1:
        described += "; solid before mutation, dashed after"
    return Plot(title, _svg(figure, re.sub(r"\W+", "-", keys[0])), described)


def _figure(title: str, width: float, height: float) -> tuple[Figure, Axes]:
    """An empty plot; `width` and `height` in inches, as the text's size is meant."""
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
        axes.set_title(title)
    return figure, axes


def _svg(figure: Figure, name: str) -> str:
    """The figure's `<svg>`, with ids of its own and the colours of the style sheet."""
    file = io.StringIO()
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the page's font will have it
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)  # a style would be the page's
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    # Several figures stand in one page.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text).replace("url(#", f"url(#{name}-")
    for stand_in, variable in _variables().items():
        text = text.replace(stand_in, f"var(--{variable})")
    return text.strip()


def _variables() -> Mapping[str, str]:
    paints = {_stand_in(place): f"arm-{place}" for place in range(PALETTE_SIZE)}
    return {INK: "ink", MUTED: "muted", GRID: "grid", **paints}


def _stand_in(place: int) -> str:
    return f"#0a0b{place:02d}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and value == value
