"""What goes to the hub, and what a user hears where that can't work. The hub itself is a stand-in."""

from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from rarl.errors import ConfigError, ModelError
from rarl.models.folders import hub

REFUSED = HfHubHTTPError("403 Forbidden\nmore", response=SimpleNamespace(headers={}, request=None))  # type: ignore[arg-type]


class Hub:
    """Keeps what it is asked, or refuses with an error."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.made: dict[str, Any] = {}
        self.uploaded: list[str] = []

    def whoami(self) -> dict[str, str]:
        if self.error:
            raise self.error
        return {"name": "ada"}

    def create_repo(self, repository: str, *, private: bool, exist_ok: bool) -> str:
        self.whoami()
        self.made = {"repository": repository, "private": private, "exist_ok": exist_ok}
        return f"https://hub/{repository}"

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, allow_patterns: list[str], ignore_patterns: list[str]
    ) -> None:
        def among(name: str, patterns: list[str]) -> bool:
            return any(fnmatch(name, pattern) for pattern in patterns)

        names = [path.name for path in folder_path.iterdir()]
        self.uploaded = [n for n in names if among(n, allow_patterns) and not among(n, ignore_patterns)]


def use(monkeypatch: pytest.MonkeyPatch, given: Hub) -> Hub:
    monkeypatch.setattr(hub, "_api", lambda: given)
    return given


def test_the_model_goes_and_what_names_images_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = [
        "config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "task.yaml",
    ]
    model += ["README.md", "chat_template.jinja", "preprocessor_config.json"]
    for name in [*model, "groups.jsonl", "log.jsonl", "training.json", "photo.jpg", "optimizer.pt"]:
        (tmp_path / name).touch()
    seen = use(monkeypatch, Hub())
    assert hub.push(tmp_path, "ada/age") == "https://hub/ada/age"
    assert seen.made == {"repository": "ada/age", "private": True, "exist_ok": True}
    assert sorted(seen.uploaded) == sorted(model)


@pytest.mark.parametrize("name", ["age", "a/b/c", "/age", "ada/"])
def test_what_is_no_repository(name: str) -> None:
    with pytest.raises(ConfigError, match="OWNER/NAME"):
        hub.check_push(name)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (LocalTokenNotFoundError("?"), "hf auth login"),
        (REFUSED, "403 Forbidden$"),
        (OfflineModeIsEnabled("offline"), "offline"),
        (OSError(), "OSError"),
    ],
)
def test_what_a_user_hears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    use(monkeypatch, Hub(error))
    with pytest.raises(ConfigError, match=said):
        hub.check_push("ada/age")
    if not isinstance(error, LocalTokenNotFoundError):
        with pytest.raises(ModelError, match=said):
            hub.push(tmp_path, "ada/age")
