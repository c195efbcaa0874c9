"""Encoder folders on the Hugging Face Hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

from rsp_robot.errors import UserError

FILES = ("config.json", "model.safetensors")
"""All that is downloaded: nothing that could be executed."""
# Among its bases is what the library below raises, httpx or requests.
_FAILED: tuple[type[Exception], ...] = (
    *(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)),
    OSError,
)
_REFUSED: tuple[type[Exception], ...] = (HFValidationError, *_FAILED)
_REPOSITORY = re.compile(r"[\w][\w.-]*/[\w][\w.-]*$")


def is_repository(text: str) -> bool:
    """Whether a text can be the name of a repository.

    >>> is_repository("someone/encoder"), is_repository("runs/rsp/encoder"), is_repository("./runs")
    (True, False, False)
    """
    return _REPOSITORY.match(text) is not None


def download(repository: str) -> Path:
    """Return the local copy of an encoder folder; it is downloaded where the cache has no newer one.

    With ``HF_HUB_OFFLINE=1`` the cache alone is asked; ``HF_HOME`` tells where it lies.

    Args:
        repository: ``owner/name``.

    Raises:
        UserError: there is no such repository, or it cannot be reached and is not in the cache.
    """
    if not is_repository(repository):
        raise UserError(f"{repository!r} is no repository; write hub:<owner>/<name>")
    try:
        folder = Path(huggingface_hub.snapshot_download(repository, allow_patterns=list(FILES)))
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(
            f"the Hub has no repository {repository} that you may read ({type(error).__name__}); check its name, or "
            "log in with `hf auth login`"
        ) from None
    except _FAILED as error:
        raise UserError(
            f"cannot download {repository} from the Hub ({_first_line(error)}), and it is not in the cache; go online, "
            "or copy the folder and give its path"
        ) from None
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{repository} has no {missing[0]}: it is no encoder folder; give another repository")
    return folder


def upload(folder: str | os.PathLike[str], repository: str, private: bool = False, token: str | None = None) -> str:
    """Create a repository where there is none, and put the files of a folder into it, in one commit.

    Returns:
        Address of the commit.

    Raises:
        UserError: the name is none, or the Hub refuses or cannot be reached.
    """
    if not is_repository(repository):
        raise UserError(f"{repository!r} is no repository; write <owner>/<name>")
    api = huggingface_hub.HfApi(token=token)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repository, folder_path=os.fspath(folder), commit_message="Upload encoder")
    except _REFUSED as error:
        raise UserError(
            f"cannot upload to {repository} ({_first_line(error)}); log in with `hf auth login`, and check the network"
        ) from None
    return str(commit)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")[:160] or type(error).__name__
