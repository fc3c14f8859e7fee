"""Pretrained weights from the Hugging Face hub: from the cache or downloaded, with time limits."""

import os
import threading
from pathlib import Path
from typing import Any, Final, NoReturn

from sdclr.errors import InputError
from sdclr.files import storing
from sdclr.progress import stage

PATIENCE: Final = 4.0
"""Seconds to wait for the hub's first answer. Name lookups have no timeout, so they run in a thread."""

_FILES: Final = ("model.safetensors", "pytorch_model.bin")
"""Names of files of weights in timm's repositories, in order of preference."""


def cached_weights(repository: str) -> Path | None:
    """The file of weights of a hub repository in the local cache; None if it is not there."""
    import huggingface_hub

    for name in _FILES:
        found = huggingface_hub.try_to_load_from_cache(
            *_repository(repository), revision=_revision(repository), filename=name
        )
        if isinstance(found, str):
            return Path(found)
    return None


def fetch_weights(repository: str, remedies: str) -> Path:
    """The file of weights of a hub repository, from the cache or downloaded into it.

    Args:
        repository: "owner/name", or "owner/name@revision".
        remedies: Alternatives to the hub, for the end of the error message.

    Raises:
        InputError: If the hub does not answer within `PATIENCE` seconds, is disabled, or has no such weights.
        StorageError: If there is no space for the file.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    cached = cached_weights(repository)
    if cached is not None:
        return cached
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise InputError(f"the weights of {repository} are not in the cache and HF_HUB_OFFLINE is set: {remedies}")
    with stage(f"asking the hub for {repository}"):
        name = _first_file(repository, remedies)
    try:
        with storing(huggingface_hub.constants.HF_HUB_CACHE):
            return Path(huggingface_hub.hf_hub_download(*_repository(repository), name, revision=_revision(repository)))
    except (OSError, HfHubHTTPError) as error:
        return _give_up(repository, f"the download stopped ({_one_line(error)})", remedies, error)


def _first_file(repository: str, remedies: str) -> str:
    """The first of `_FILES` in the repository, requested with a time limit."""
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    answers: dict[str, Any] = {}

    def ask() -> None:
        for name in _FILES:
            url = huggingface_hub.hf_hub_url(*_repository(repository), name, revision=_revision(repository))
            try:
                huggingface_hub.get_hf_file_metadata(url, timeout=PATIENCE)
            except huggingface_hub.errors.EntryNotFoundError:
                continue
            except Exception as error:  # noqa: BLE001  # the waiting thread reports any error in one line
                answers["error"] = error
                return
            answers["name"] = name
            return
        answers["error"] = InputError(f"{repository} has no file {' or '.join(_FILES)}")

    thread = threading.Thread(target=ask, daemon=True)  # daemon: a lookup that hangs must not block the exit
    thread.start()
    thread.join(PATIENCE)
    if "name" in answers:
        return str(answers["name"])
    error = answers.get("error")
    if isinstance(error, GatedRepoError):
        return _give_up(
            repository, "its authors ask you to accept their terms on the hub and to log in first", remedies, error
        )
    if isinstance(error, RepositoryNotFoundError):
        return _give_up(repository, "the hub has no such repository", remedies, error)
    reason = f"the hub did not answer within {PATIENCE:g} s" if error is None else "the hub cannot be reached"
    return _give_up(repository, reason, remedies, error)


def _give_up(repository: str, reason: str, remedies: str, error: BaseException | None) -> NoReturn:
    raise InputError(f"the weights of {repository} are not in the cache, and {reason}: {remedies}") from error


def _repository(repository: str) -> tuple[str]:
    return (repository.partition("@")[0],)


def _revision(repository: str) -> str | None:
    return repository.partition("@")[2] or None


def _one_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or os.strerror(getattr(error, "errno", 0) or 0)
