"""What a stranger's model folder would have this process compute while it is read, tried first in a process
of its own with limits of time and memory: its chat template, and the pattern by which an adapter names
modules.
The sandbox of Jinja keeps a template from files and code, but not from loops without end. It judges nothing
but whether an end is reached. The file is run as a script too, so it imports nothing of this library."""

import json
import re
import subprocess
import sys
from contextlib import suppress
from typing import Any

SECONDS = 2  # of CPU time; a template takes some milliseconds
PATIENCE = 7  # seconds in all, on a machine that is busy or has no limits of its own
MEMORY = 2**30  # bytes
LONGEST_PROMPT = 1_000_000  # characters


def ends(what: str, **given: Any) -> bool:
    """Whether `render` or `match` ends within the limits; how it ends, also with an error, is not asked.

    Args:
        what: `render`, with `template` and `conversations`, or `match`, with `pattern` and `names`.
    """
    command = [sys.executable, "-I", __file__]
    try:
        tried = subprocess.run(
            command,
            input=json.dumps({"what": what, **given}),
            text=True,
            capture_output=True,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return False
    return tried.returncode == 0


def _render(template: str, conversations: list[Any]) -> None:
    """Renders each conversation as transformers 5.23 does, with the same globals and filters."""
    from datetime import datetime

    from jinja2 import ext, nodes
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(ext.Extension):
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **form: json.dumps(value, ensure_ascii=False, **form)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    rendered = environment.from_string(template)
    for messages in conversations:
        if len(rendered.render(messages=messages, add_generation_prompt=True)) > LONGEST_PROMPT:
            sys.exit(1)


def _match(pattern: str, names: list[str]) -> None:
    for name in names:
        re.fullmatch(pattern, name)


def _main() -> None:
    with suppress(ImportError, ValueError, OSError):  # Windows has no such limits
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    given = json.load(sys.stdin)
    try:
        if given.pop("what") == "render":
            _render(**given)
        else:
            _match(**given)
    except MemoryError:
        sys.exit(1)
    except Exception:
        return  # what is wrong is said where it is used


if __name__ == "__main__":
    _main()
