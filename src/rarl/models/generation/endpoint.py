"""A chat model behind an OpenAI-compatible address (vLLM, SGLang, llama.cpp, a provider's): the prompts of
Table 1 with the images as data URLs, decoded greedily as far as the server does it. Several requests wait at
once; those that the server turns away for now are sent again. The key comes from the environment alone and is
never written anywhere."""

import base64
import json
import logging
import os
import random
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from threading import Event
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from rarl.data.images import encoded
from rarl.errors import ConfigError, ModelError
from rarl.method.replies import END_THINK, THINK

KEY = "RARL_API_KEY"
"""The variable of the key; for api.openai.com, `OPENAI_API_KEY` will do."""
TRIES = 6
TIMEOUT = 600.0  # seconds; a long reply of a large model takes minutes
LONGEST_WAIT = 60.0
LARGEST_PNG = 4_000_000  # bytes; beyond it, an image is sent as JPEG of quality 95: providers refuse 5 MB

_log = logging.getLogger(__name__)


class Endpoint:
    """A model that is asked over the network.

    Args:
        url: the address of the API, such as `http://localhost:8000/v1`; `/chat/completions` is added.
        model: the model's name there.
        concurrency: how many requests wait at once.
        wait: seconds before the first of the further tries; each waits twice as long as the one before.

    Raises:
        ConfigError: if `url` is no http address, or holds a password.
    """

    def __init__(self, url: str, model: str, *, concurrency: int = 16, wait: float = 1.0) -> None:
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError as error:
            raise ConfigError(f"--endpoint {url}: {error}; such as http://localhost:8000/v1") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise ConfigError(f"--endpoint {url}: must be an address such as http://localhost:8000/v1")
        if parts.password or parts.username:
            raise ConfigError(f"--endpoint: no password in the address; set {KEY} to the key")
        self.url = f"{url.rstrip('/').removesuffix('/chat/completions')}/chat/completions"
        self.model = model
        self.concurrency = concurrency
        self._wait = wait
        self._key = (
            os.environ.get(KEY)
            or (os.environ.get("OPENAI_API_KEY") if parts.hostname == "api.openai.com" else None)
            or ""
        ).strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise ConfigError(f"the key in {KEY} has characters that no key has: copy it again")
        self._settings: dict[str, Any] = {"temperature": 0}
        self._length = "max_tokens"
        self._has_answered = False

    def replies(
        self,
        prompts: Sequence[Sequence[Mapping[str, Any]]],
        images: Sequence[Sequence[Image.Image]],
        *,
        max_new_tokens: int,
    ) -> list[str]:
        """The reply to each prompt, in their order. What a server parts off as reasoning is put back in
        front.

        Args:
            prompts: chat messages, with a `{"type": "image"}` part for each image.
            images: the images of each prompt, in the order of its image parts.
            max_new_tokens: the length at which a reply that has not ended is cut.

        Raises:
            ModelError: if the server can't be reached, refuses, or answers with something else than a chat
                completion.
        """
        pool, stop = ThreadPoolExecutor(self.concurrency), Event()
        try:
            waiting = [
                pool.submit(self._reply, chat_of(prompt, pictures), max_new_tokens, stop)
                for prompt, pictures in zip(prompts, images, strict=True)
            ]
            return [reply.result() for reply in waiting]
        finally:
            stop.set()  # after one that failed, or an interruption, no other tries again
            pool.shutdown(cancel_futures=True)

    def _reply(self, chat: Sequence[Mapping[str, Any]], max_new_tokens: int, stop: Event) -> str:
        problem = ""
        for number in range(TRIES):
            # As they are now: a refusal of another request may change them meanwhile.
            settings = {self._length: max_new_tokens, **self._settings}
            try:
                answer = self._post({"model": self.model, "messages": chat, **settings})
            except urllib.error.HTTPError as error:
                problem, wait = self._refusal(error, settings), error.headers.get("Retry-After", "")
                if problem == "":
                    continue
            except (OSError, HTTPException) as error:
                if not self._has_answered and isinstance(
                    _cause(error), ConnectionRefusedError | socket.gaierror
                ):
                    raise ModelError(f"{self.url}: nobody answers there ({_cause(error)})") from error
                problem, wait = str(_cause(error)) or type(error).__name__, ""
            else:
                self._has_answered = True
                return _text(answer, self.url)
            if number + 1 < TRIES:
                pause = float(wait) if re.fullmatch(r"\d{1,4}", wait) else self._wait * 2**number
                _log.info("%s: %s; again in %.0f s", self.url, problem, pause)
                if stop.wait(min(pause, LONGEST_WAIT) * random.uniform(1, 1.25)):
                    break
        raise ModelError(f"{self.url}: {TRIES} tries, and the last one: {problem}")

    def _post(self, body: Mapping[str, Any]) -> bytes:
        headers = {"Content-Type": "application/json", "User-Agent": "rarl"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        with _OPENER.open(request, timeout=TIMEOUT) as response:
            return bytes(response.read())

    def _refusal(self, error: urllib.error.HTTPError, settings: Mapping[str, Any]) -> str:
        """What is to be said of a refusal that may pass; nothing for one that is mended by asking otherwise
        than with these settings.

        Raises:
            ModelError: for one that will not pass.
        """
        said = _message(error)
        if error.code in (408, 409, 425, 429) or error.code >= 500:
            return f"{error.code} {said}"
        if error.code == 400 and "max_completion_tokens" in said and "max_tokens" in settings:
            self._length = "max_completion_tokens"  # models that reason are told their length by this name
            return ""
        if error.code == 400 and "temperature" in said and "temperature" in settings:
            if self._settings:
                _log.warning("%s: %s takes no temperature, and decodes as it likes", self.url, self.model)
            self._settings = {}
            return ""
        if error.code in (401, 403):
            which = "refuses the key" if self._key else "wants a key"
            raise ModelError(
                f"{self.url} {which} ({error.code} {said}): set {KEY} in the environment"
            ) from error
        if error.code == 404:
            raise ModelError(
                f"{self.url}: 404 {said}: there is no model '{self.model}', or the address lacks its /v1"
            ) from error
        raise ModelError(f"{self.url}: {error.code} {said}") from error


def chat_of(prompt: Sequence[Mapping[str, Any]], images: Sequence[Image.Image]) -> list[dict[str, Any]]:
    """The chat messages as the API takes them: texts, and an image as a data URL wherever the prompt has
    one."""
    left = iter(images)
    return [
        {
            "role": message["role"],
            "content": [
                {"type": "image_url", "image_url": {"url": data_url(next(left))}}
                if part["type"] == "image"
                else part
                for part in message["content"]
            ],
        }
        for message in prompt
    ]


def data_url(image: Image.Image) -> str:
    """The image as a data URL: PNG, which changes no pixel, or JPEG where that would be too large."""
    suffix, data = "png", encoded(image, ".png")
    if len(data) > LARGEST_PNG:
        suffix, data = "jpeg", encoded(image, ".jpg")
    return f"data:image/{suffix};base64,{base64.b64encode(data).decode()}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would take the key, and the images, to another address than the user's."""

    def redirect_request(self, *given: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _text(answer: bytes, url: str) -> str:
    try:
        message = json.loads(answer)["choices"][0]["message"]
        text = message.get("content") or ""
        reasoning = message.get("reasoning_content") or message.get("reasoning")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        shown = answer[:80].decode(errors="replace")
        raise ModelError(f"{url}: the answer is no chat completion: {shown}") from error
    if isinstance(text, list):  # parts
        text = "".join(part.get("text") or "" for part in text if isinstance(part, dict))
    if isinstance(reasoning, str) and THINK not in str(text):
        text = f"{THINK}{reasoning}{END_THINK}\n{text}"
    return str(text)


def _message(error: urllib.error.HTTPError) -> str:
    """The first line of what a server says of its refusal."""
    body = error.read(100_000).decode(errors="replace")
    try:
        found = json.loads(body)
        found = found.get("error", found)
        body = str(found.get("message", body) if isinstance(found, dict) else found)
    except (ValueError, AttributeError):
        pass
    lines = body.strip().splitlines()
    return (lines[0] if lines else str(error.reason))[:300]


def _cause(error: Exception) -> Any:
    return error.reason if isinstance(error, urllib.error.URLError) else error
