"""Upload a packed model to the Hugging Face Hub, whole or not at all.

A commit is atomic on the Hub. `HfApi.upload_folder` is not used: it may split a folder
into several commits.
"""

import contextlib
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, ModelInfo, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from espnet_mtkd.errors import ConfigError, DataError, HubError
from espnet_mtkd.files import scratch_folder
from espnet_mtkd.publish.card import REPO
from espnet_mtkd.publish.content import META, check_content
from espnet_mtkd.publish.traces import CARD

NOTHING = "Nothing was uploaded."
REMEDIES = {
    400: "the Hub does not take the model card or a file's name: see its message",
    401: "the token is not valid (any more): make one with write access on "
    "https://huggingface.co/settings/tokens, then `hf auth login` or HF_TOKEN",
    403: "the token may not write there: it needs write access to this namespace",
    404: "the namespace does not exist, or the token may not see it",
    409: "somebody else changed the repository at the same time: look at it, then run "
    "the same command again",
    412: "somebody else changed the repository at the same time: look at it, then run "
    "the same command again",
    413: "a file is too large for the Hub",
    429: "too many requests: wait some minutes, then run the same command again",
}


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip of stage 14.

    Raises:
        DataError: damaged, or a member that leads out of the folder.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            for name in packed.namelist():
                if name.startswith("/") or ".." in Path(name).parts:
                    raise DataError(f"{archive}: a member leads out of it: {name}")
            packed.extractall(folder)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError) as e:
        raise DataError(f"{archive}: not a whole zip ({e}): run stage 14 again") from e


def check_repo_id(repo_id: str) -> None:
    """Refuse what is no name of a repository.

    Raises:
        ConfigError: not of the form `user/name`.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as e:
        raise ConfigError(f"--hf_repo: {e}") from e
    if repo_id.count("/") != 1:
        raise ConfigError(f"--hf_repo: expected <user>/<model>, found '{repo_id}'")


@contextlib.contextmanager
def prepared(
    archive: Path, repo_id: str, ignored_names: Sequence[str] = ()
) -> Iterator[Path]:
    """A directory with just what is uploaded; it is removed afterwards.

    Raises:
        ConfigError, DataError: see `unpack`, `check_content`, `check_repo_id`.
    """
    check_repo_id(repo_id)
    if not archive.is_file():
        raise ConfigError(f"--archive: no such file: {archive}: run stage 14 first")
    with scratch_folder(archive) as temporary:
        folder = temporary / "content"
        folder.mkdir()
        unpack(archive, folder)
        check_content(folder, archive, ignored_names)
        card = folder / CARD
        text = card.read_text(encoding="utf-8").replace(REPO, repo_id)
        card.write_text(text, encoding="utf-8")
        yield folder


def list_files(folder: Path) -> list[tuple[str, int]]:
    """(name, bytes) of all files, sorted."""
    return sorted(
        (str(p.relative_to(folder)), p.stat().st_size)
        for p in folder.rglob("*")
        if p.is_file()
    )


def dry_run(
    archive: Path, repo_id: str, out_dir: Path, ignored_names: Sequence[str] = ()
) -> list[tuple[str, int]]:
    """Write what would be uploaded into a directory; ask nobody.

    Args:
        archive: of stage 14.
        repo_id: `user/name`.
        out_dir: is made, or replaced where it holds an older dry run.

    Returns:
        (name, bytes) of all files.

    Raises:
        ConfigError: `out_dir` holds something else; see `prepared`.
        DataError: see `prepared`.
    """
    if out_dir.exists() and not (out_dir / META).is_file():
        raise ConfigError(
            f"--out_dir: expected none, or that of an older dry run, found {out_dir}"
        )
    with prepared(archive, repo_id, ignored_names) as folder:
        if out_dir.exists():
            shutil.rmtree(out_dir)
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder, out_dir)
    return list_files(out_dir)


def explain(error: Exception, endpoint: str) -> str:
    """What happened and what to do, in a line or two."""
    cause = error  # what the client wraps
    while not isinstance(cause, HfHubHTTPError) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, HfHubHTTPError):
        code = cause.response.status_code
        remedy = REMEDIES.get(
            code, "the Hub has a fault: run the same command again later"
        )
        said = cause.server_message or str(cause).splitlines()[0]
        return f"{endpoint} answered {code} ({said}): {remedy}."
    if isinstance(error, ValueError):  # metadata of the card
        return f"{endpoint} does not take this: {error}."
    return (
        f"{endpoint} cannot be reached, or dropped the connection "
        f"({type(error).__name__}: {error}): check the network (and HF_ENDPOINT, "
        "HF_HUB_OFFLINE), then run the same command again."
    )


def upload(
    archive: Path,
    repo_id: str,
    is_private: bool = False,
    ignored_names: Sequence[str] = (),
) -> str:
    """Upload in one commit. Files of the repository that have no namesake stay.

    Args:
        archive: of stage 14.
        repo_id: `user/name`; made where it is not there. The Hub is huggingface.co, or
            what `HF_ENDPOINT` says.
        is_private: a new repository is; one that is there has to be.
        ignored_names: user or host names and e-mail addresses that may occur.

    Returns:
        URL of the commit.

    Raises:
        ConfigError: no token; `is_private`, and the repository is public; see
            `prepared`.
        DataError: see `prepared`.
        HubError: the Hub refused, or cannot be reached; the message says what to do and
            what is there now.
    """
    with prepared(archive, repo_id, ignored_names) as folder:
        token = get_token()
        if token is None:
            raise ConfigError(
                "no token of the Hugging Face Hub: make one with write access on "
                "https://huggingface.co/settings/tokens, then `hf auth login`, or put "
                f"it into HF_TOKEN. {NOTHING}"
            )
        api = HfApi(token=token, library_name="espnet_mtkd")
        return _commit(api, repo_id, is_private, folder)


def _check_private(info: ModelInfo, endpoint: str) -> None:
    """Refuse a repository that others can read.

    Raises:
        ConfigError: it is public, or the Hub does not say.
    """
    if info.private is not True:
        raise ConfigError(
            f"--private true: expected a private repository, found {info.id} on "
            f"{endpoint}, which is public and would stay so: make it private "
            f"(`hf repos settings {info.id} --private`), name another one, or leave "
            f"--private out. {NOTHING}"
        )


def _commit(api: HfApi, repo_id: str, is_private: bool, folder: Path) -> str:
    state = NOTHING
    parent = None
    try:
        api.whoami()
        try:
            found = api.repo_info(repo_id)
            if is_private:
                _check_private(found, api.endpoint)
        except RepositoryNotFoundError:
            api.create_repo(repo_id, private=is_private)
            state = (
                f"{NOTHING} The repository {repo_id} was made just now and is empty: "
                f"the next run fills it, or `hf repos delete {repo_id}` removes it."
            )
            found = api.repo_info(repo_id)
        if is_private and found.private is False:  # whatever was asked for
            _check_private(found, api.endpoint)
        operations = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name)
            for name, _ in list_files(folder)
        ]
        api.preupload_lfs_files(repo_id, operations, free_memory=False)
        parent = found.sha
        return api.create_commit(
            repo_id,
            operations,
            commit_message="Upload a model packed by ESPnet",
            parent_commit=parent,
        ).commit_url
    except ConfigError:
        raise
    except Exception as e:  # of several libraries, and none may hide what is there now
        if parent is not None:
            state = _state_after_commit(api, repo_id, parent) or state
        raise HubError(f"{explain(e, api.endpoint)} {state}") from e


def _state_after_commit(api: HfApi, repo_id: str, parent: str) -> str | None:
    """None: the commit did not arrive; else what a lost answer leaves open."""
    try:
        head = api.repo_info(repo_id).sha
    except Exception:  # as above
        return (
            "Whether the commit arrived cannot be asked now; it is there whole or not "
            f"at all: look at {api.endpoint}/{repo_id}."
        )
    if head == parent:
        return None
    return f"But there is a new commit, {head}: look at {api.endpoint}/{repo_id}."
