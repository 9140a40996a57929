"""A model folder on the Hugging Face hub. Whether that will work is asked before anything is trained; what
may name the images of a private collection stays at home."""

from pathlib import Path
from typing import Any

from rarl.errors import ConfigError, ModelError

FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "README.md", "task.yaml")
"""What is uploaded: the model, its processor, its card and its task."""
AT_HOME = ("training.json", "groups.jsonl", "log.jsonl", "digests.json")
"""What stays: it may name images; and the digests, which are of these files, too."""


def check_push(repository: str) -> None:
    """Whether a model could be uploaded to `repository`, by asking the hub who is logged in.

    Raises:
        ConfigError: if the name is none, nobody is logged in, or the hub can't be reached.
    """
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise ConfigError(f"--push-to-hub {repository}: must be OWNER/NAME, such as ada/age-3b")
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        _api().whoami()
    except LocalTokenNotFoundError as error:
        raise ConfigError("--push-to-hub: nobody is logged in; `hf auth login`, or set HF_TOKEN") from error
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise ConfigError(f"--push-to-hub: the hub refuses, or can't be reached: {_line(error)}") from error


def push(folder: Path, repository: str) -> str:
    """Uploads a model folder to `repository`, which is made private where there is none.

    Returns:
        The address of the repository.

    Raises:
        ModelError: if the hub refuses or can't be reached; the folder stays as it is.
    """
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    api = _api()
    try:
        address = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=list(FILES), ignore_patterns=list(AT_HOME)
        )
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise ModelError(f"{folder} could not be uploaded to {repository}: {_line(error)}") from error
    return str(address)


def _api() -> Any:
    from huggingface_hub import HfApi

    return HfApi(library_name="rarl")


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
