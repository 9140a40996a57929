"""A chat model behind an address, against a server of this test: what is sent, what is tried again, and what
a user hears of everything else."""

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rarl.cli import main
from rarl.data.writing import write_collection
from rarl.errors import ConfigError, ModelError
from rarl.method.prompts import messages
from rarl.method.replies import reference_reply
from rarl.method.tasks import Task
from rarl.models.generation.endpoint import KEY, TRIES, Endpoint, data_url

Answer = tuple[int, dict[str, str], Any]
"""Status, headers and body of an answer."""


class Server:
    """Answers as `answer` says, and keeps what it was asked and how many asked at once."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Callable[[dict[str, Any], int], Answer] = lambda body, number: said("hello")
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.at_once += 1
                    server.most_at_once = max(server.most_at_once, server.at_once)
                    server.asked.append({"path": self.path, **body})
                    server.headers.append(dict(self.headers.items()))
                    number = len(server.asked)
                status, headers, answer = server.answer(body, number)
                with server.lock:
                    server.at_once -= 1
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *given: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in (KEY, "OPENAI_API_KEY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def said(text: Any, **more: Any) -> Answer:
    return 200, {}, {"choices": [{"message": {"content": text, **more}}]}


def refused(status: int, message: str = "no", **headers: str) -> Answer:
    return status, headers, {"error": {"message": message}}


def image(grey: int) -> Image.Image:
    return Image.new("RGB", (3, 2), (grey,) * 3)


def ask(server: Server, *greys: int, **options: Any) -> list[str]:
    """The replies to a prompt for each image."""
    endpoint = Endpoint(server.url, "vlm", wait=0.0, **options)
    prompts = [messages(1, "age", "0-9")] * len(greys)
    return endpoint.replies(prompts, [[image(grey)] for grey in greys], max_new_tokens=7)


def grey_in(body: dict[str, Any]) -> int:
    """The grey of the last image of a request."""
    url = [part for part in body["messages"][1]["content"] if part["type"] == "image_url"][-1]["image_url"][
        "url"
    ]
    with Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))) as picture:
        found = picture.getpixel((0, 0))
    assert isinstance(found, tuple)
    return int(found[0])


# ── what is sent ─────────────────────────────────────────────────────────────────────────────────────────


def test_the_request(server: Server) -> None:
    prompt = messages(2, "age", "0-9")
    Endpoint(f"{server.url}/", "org/vlm").replies([prompt], [[image(10), image(20)]], max_new_tokens=7)
    [body] = server.asked
    assert (body["path"], body["model"], body["max_tokens"], body["temperature"]) == (
        "/v1/chat/completions",
        "org/vlm",
        7,
        0,
    )
    system, user = body["messages"]
    assert system == prompt[0]
    kinds = [part.get("text") or part["type"] for part in user["content"]]
    assert kinds == ["Picture 1: ", "image_url", "Picture 2: ", "image_url", prompt[1]["content"][-1]["text"]]
    assert grey_in(body) == 20
    assert "Authorization" not in server.headers[0]


def test_the_key_is_of_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "for openai alone")
    ask(server, 1)
    monkeypatch.setenv(KEY, "secret")
    ask(server, 1)
    assert [headers.get("Authorization") for headers in server.headers] == [None, "Bearer secret"]


def test_a_large_image_is_sent_as_jpeg() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1300, 1300, 3), dtype=np.uint8)
    assert data_url(Image.fromarray(noise)).startswith("data:image/jpeg;base64,")
    assert data_url(image(3)).startswith("data:image/png;base64,")


# ── what comes back ──────────────────────────────────────────────────────────────────────────────────────


def test_replies_in_the_order_of_the_prompts_and_no_more_at_once_than_said(server: Server) -> None:
    def slowly(body: dict[str, Any], number: int) -> Answer:
        time.sleep(0.02 if grey_in(body) % 2 else 0.06)
        return said(str(grey_in(body)))

    server.answer = slowly
    assert ask(server, *range(9), concurrency=3) == [str(grey) for grey in range(9)]
    assert server.most_at_once == 3


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (said("<answer>"), "<answer>"),
        (said(None), ""),
        (said([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), "ab"),
        (said("<answer>x</answer>", reasoning_content="why"), "<think>why</think>\n<answer>x</answer>"),
        (said("x", reasoning="why"), "<think>why</think>\nx"),
        (said("<think>a</think>x", reasoning="why"), "<think>a</think>x"),
    ],
)
def test_what_a_reply_is(server: Server, answer: Answer, reply: str) -> None:
    server.answer = lambda body, number: answer
    assert ask(server, 1) == [reply]


@pytest.mark.parametrize("body", [b"<html>", {}, {"choices": []}, {"choices": [{"message": None}]}, [1]])
def test_an_answer_that_is_none(server: Server, body: Any) -> None:
    server.answer = lambda given, number: (200, {}, body)
    with pytest.raises(ModelError, match="no chat completion"):
        ask(server, 1)


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_what_passes_is_tried_again(server: Server, status: int) -> None:
    server.answer = lambda body, number: said("at last") if number == 3 else refused(status)
    assert ask(server, 1) == ["at last"]
    assert len(server.asked) == 3


def test_as_long_as_the_server_says(server: Server) -> None:
    server.answer = lambda body, number: (
        said("at last") if number == 2 else refused(429, **{"Retry-After": "1"})
    )
    begun = time.monotonic()
    assert ask(server, 1) == ["at last"]
    assert time.monotonic() - begun >= 1


def test_not_for_ever(server: Server) -> None:
    server.answer = lambda body, number: refused(503, "overloaded\nand more")
    with pytest.raises(ModelError, match=f"{TRIES} tries, and the last one: 503 overloaded$"):
        ask(server, 1)
    assert len(server.asked) == TRIES


@pytest.mark.parametrize(
    ("answer", "said_of_it"),
    [
        (refused(401), "wants a key .* set RARL_API_KEY"),
        (refused(404, "not found"), "no model 'vlm', or the address lacks its /v1"),
        (refused(400, "too many images"), "400 too many images$"),
        ((413, {}, b"too\nlarge"), "413 too$"),
        ((302, {"Location": "http://127.0.0.1:1/"}, b""), "302"),
    ],
)
def test_what_does_not_pass_is_told_at_once(server: Server, answer: Answer, said_of_it: str) -> None:
    server.answer = lambda body, number: answer
    with pytest.raises(ModelError, match=said_of_it):
        ask(server, 1)
    assert len(server.asked) == 1


def test_a_wrong_key(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")
    server.answer = lambda body, number: refused(403)
    with pytest.raises(ModelError, match="refuses the key") as told:
        ask(server, 1)
    assert "secret" not in str(told.value)


def test_models_that_reason_are_asked_in_their_way(server: Server) -> None:
    """Also where several requests were sent before the first refusal came."""
    together = threading.Barrier(3)

    def strict(body: dict[str, Any], number: int) -> Answer:
        if number <= 3:
            together.wait(10)
        if "max_tokens" in body:
            return refused(400, "Unsupported parameter: use 'max_completion_tokens' instead.")
        return refused(400, "temperature does not support 0") if "temperature" in body else said("ok")

    server.answer = strict
    assert ask(server, 1, 2, 3, concurrency=3) == ["ok"] * 3
    assert server.asked[-1]["max_completion_tokens"] == 7


def test_nobody_is_there() -> None:
    with pytest.raises(ModelError, match="nobody answers there"):
        Endpoint("http://127.0.0.1:1/v1", "vlm").replies(
            [messages(1, "age", "0-9")], [[image(1)]], max_new_tokens=1
        )


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://x/v1", "http://", "http://x/v1?key=1", "http://a:b@x/v1"]
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigError, match="--endpoint"):
        Endpoint(url, "vlm")


# ── rarl evaluate ────────────────────────────────────────────────────────────────────────────────────────


def test_evaluate(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The server sees values in the images' grey, and says one too many of each."""
    task = Task("toy", "brightness", low=0, high=10, step=1, delta=2)
    rows = [(f"{value}", value, Image.new("RGB", (28, 28), (value * 20,) * 3)) for value in range(9)]
    write_collection(tmp_path / "toy", task, {"test": rows})

    def one_too_many(body: dict[str, Any], number: int) -> Answer:
        urls = [
            part["image_url"]["url"] for part in body["messages"][1]["content"] if part["type"] == "image_url"
        ]
        greys = [
            grey_in({"messages": [None, {"content": [{"type": "image_url", "image_url": {"url": u}}]}]})
            for u in urls
        ]
        return said(reference_reply([grey / 20 + 1 for grey in greys], 1))

    server.answer = one_too_many
    command = [
        "evaluate",
        "org/vlm",
        str(tmp_path / "toy"),
        "--endpoint",
        server.url,
        "--images",
        "1,2",
        "--json",
    ]
    with pytest.raises(SystemExit) as leaving:
        main([*command, "--position-lists", "0", "--batch-size", "4", "--out", str(tmp_path / "out")])
    assert not leaving.value.code
    measured = json.loads(capsys.readouterr().out)["arms"]["vlm"]
    assert (measured["mae"]["value"], measured["tau2"]["value"]) == (1.0, 1.0)
    assert server.most_at_once <= 4
