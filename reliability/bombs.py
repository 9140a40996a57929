"""Texts of YAML that take a parser long, or make it stumble, to stand where a `task.yaml` or a configuration
is read. Each must end in one sentence, or be read, within a second."""

GOOD = "name: x\nrule: how many\nlow: 0\nhigh: 9\nstep: 1\ndelta: 2\n"


def _levels(first: str, next_level: str, levels: int) -> str:
    """Lines `a0: &a0 FIRST`, `a1: &a1 NEXT`, … in each of which `*` stands for the one before."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{n}: &a{n} {next_level.replace('*', f'*a{n - 1}')}" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


def _task(**changed: str) -> str:
    """A task with some values replaced."""
    lines = dict(line.split(": ", 1) for line in GOOD.splitlines())
    return "".join(f"{key}: {value}\n" for key, value in (lines | changed).items())


BOMBS = {
    "aliases, 9 to the power of 11": _levels("[lol, lol, lol]", "[*, *, *, *, *, *, *, *, *]", 12),
    "aliases as a value of the task": _levels("[x, x, x]", "[*, *, *, *, *, *, *, *, *]", 12)
    + _task(rule="*a11"),
    "merges, 9 to the power of 11": _levels("{x: 1}", "{<<: [*, *, *, *, *, *, *, *, *]}", 12),
    "merges, 2 to the power of 40": _levels("{x: 1}", "{<<: [*, *]}", 40),
    "an alias within itself": "name: &a [*a]\n",
    "a mapping within itself": "name: &a {b: *a}\n",
    "an integer of 100,000 digits": _task(high="9" * 100_000),
    "an integer of 18,000 digits": _task(high="9" * 18_000),
    "an integer of 18,000 hexadecimal digits": _task(high="0x" + "f" * 18_000),
    "an integer of 18,000 octal digits": _task(high="0o" + "7" * 18_000),
    "an integer of 18,000 digits as a key": "9" * 18_000 + ": 1\n" + GOOD,
    "a float too large": _task(high="1e999999"),
    "no number": _task(high=".nan"),
    "an infinity": _task(high=".inf"),
    "a step of nearly nothing": _task(step="1e-300"),
    "a date": _task(high="2026-11-27"),
    "an impossible date": _task(high="2026-99-99"),
    "a set": _task(name="!!set {x, y}"),
    "bytes": _task(name="!!binary aGVsbG8="),
    "a tag that runs code": _task(name="!!python/object/apply:os.system ['touch RAN']"),
    "18,000 brackets": "[" * 9_000 + "]" * 9_000,
    "18,000 dashes": "- " * 9_000,
    "18,000 question marks": "? " * 9_000,
    "200,000 brackets": "[" * 100_000 + "]" * 100_000,
    "a list of 100,000 numbers": "name: [" + "1," * 100_000 + "1]",
    "a list of 9,000 numbers": "name: [" + "1," * 9_000 + "1]",
    "2,000 keys": "".join(f"k{n}: 1\n" for n in range(2000)),
    "one anchor 2,000 times": "name: [" + "&a x," * 2000 + "x]",
    "a megabyte of text": _task(rule="x" * 2**20),
    "18,000 characters of text": _task(rule="x" * 18_000),
    "a name of control characters": _task(name='"\\e[2J\\u202e"'),
    "two documents": "---\na: 1\n---\nb: 2\n",
    "another version": "%YAML 9999.1\n---\na: 1\n",
    "a version of 10,000 digits": "%YAML " + "9" * 10_000 + ".1\n---\na: 1\n",
    "null bytes": GOOD + "\0" * 100,
    "nothing": "",
    "a word": "hello",
    "a list": "[1, 2]",
}
