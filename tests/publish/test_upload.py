"""Uploads to the stub of the Hub: whole or not at all, and the message says which."""

import re
import shutil
import zipfile

import hub_stub
import pytest

from espnet_mtkd.bin.mtkd_upload import main

REPO = "user/tiny"


def members(archive) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def expected_files(archive) -> dict[str, bytes]:
    """The archive, its card with the repository's name."""
    files = members(archive)
    files["README.md"] = files["README.md"].replace(b"USER/MODEL", REPO.encode())
    return files


@pytest.fixture
def own_archive(archive, tmp_path):
    return shutil.copy(archive, tmp_path / "archive.zip")


def rewrite(archive, change) -> None:
    """Give an archive other members."""
    files = members(archive)
    change(files)
    with zipfile.ZipFile(archive, "w") as packed:
        for name, data in files.items():
            packed.writestr(name, data)


def command(archive, *extra) -> list[str]:
    return ["--archive", str(archive), "--hf_repo", REPO, *extra]


def refused(capsys, *args) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        main(list(args))
    return end.value.code, capsys.readouterr().err


def test_all_files_come_in_one_commit(hub, archive, capsys):
    main(command(archive))
    assert len(hub.repos[REPO]) == 2  # the Hub's own first one, and ours
    files = dict(hub.files(REPO))
    del files[".gitattributes"]
    assert files == expected_files(archive)
    assert f"{hub.url}/{REPO}/commit/{hub.sha(REPO)}" in capsys.readouterr().out
    assert hub.created[0].get("visibility", "public") == "public"


def test_the_card_names_the_repository(hub, archive):
    main(command(archive))
    card = hub.files(REPO)["README.md"].decode()
    assert f'from_pretrained("{REPO}"' in card
    assert f"--model_tag {REPO}" in card
    assert "USER/MODEL" not in card


def test_a_repository_that_is_there_gets_one_commit_more(hub, archive):
    hub.repos[REPO] = [{"notes.txt": b"mine", "README.md": b"old"}]
    main(command(archive))
    assert hub.created == []
    assert len(hub.repos[REPO]) == 2
    assert hub.files(REPO) == {"notes.txt": b"mine", **expected_files(archive)}


def test_a_new_repository_is_private_if_asked(hub, archive):
    main(command(archive, "--private", "true"))
    assert hub.created[0]["visibility"] == "private"


@pytest.mark.remedy(
    "which is public and would stay so",
)
def test_a_public_repository_does_not_become_private_by_a_flag(hub, archive, capsys):
    hub.repos[REPO] = [{"README.md": b"old"}]
    code, message = refused(capsys, *command(archive, "--private", "true"))
    assert code == 2
    assert f"found {REPO} on {hub.url}, which is public" in message
    assert "Nothing was uploaded" in message
    assert hub.repos[REPO] == [{"README.md": b"old"}]
    hub.private.add(REPO)  # what the message says to do
    main(command(archive, "--private", "true"))
    assert len(hub.repos[REPO]) == 2


def test_a_hub_that_makes_it_public_all_the_same(hub, archive, capsys, monkeypatch):
    create = hub_stub._Handler.create

    def make(handler, body):
        create(handler, body)
        hub.private.clear()

    monkeypatch.setitem(hub_stub._Handler.routes, "POST /api/repos/create", make)
    code, message = refused(capsys, *command(archive, "--private", "true"))
    assert code == 2 and "which is public" in message
    assert hub.repos[REPO] == [{".gitattributes": b""}]


def test_a_dry_run_writes_just_what_would_be_uploaded(
    hub, own_archive, tmp_path, monkeypatch, capsys
):
    monkeypatch.delenv("HF_TOKEN")
    out = tmp_path / "dry"
    for _ in range(2):  # the second replaces the first
        main(command(own_archive, "--dry_run", "true", "--out_dir", str(out)))
        (out / "leftover").touch()
    (out / "leftover").unlink()
    assert hub.calls == []
    written = {
        str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()
    }
    printed = capsys.readouterr().out
    for name, data in written.items():
        assert re.search(rf"^ *{len(data):,} bytes  {re.escape(name)}$", printed, re.M)
    monkeypatch.setenv("HF_TOKEN", hub_stub.TOKEN)
    main(command(own_archive))
    uploaded = dict(hub.files(REPO))
    del uploaded[".gitattributes"]
    assert written == uploaded
    assert {p.name for p in tmp_path.iterdir()} == {"archive.zip", "dry"}


def test_a_dry_run_touches_no_other_directory(hub, archive, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").touch()
    out = ("--out_dir", str(tmp_path / "mine"))
    code, message = refused(capsys, *command(archive, "--dry_run", "true", *out))
    assert code == 2 and "older dry run" in message
    assert (tmp_path / "mine/file").is_file()


# ------------------------------------------------------------- what is refused here


def drop_wer(files):
    card = files["README.md"].decode()
    start, end = card.index("    - type: wer"), card.index("    - type: cer")
    files["README.md"] = (card[:start] + card[end:]).encode()


@pytest.mark.parametrize(
    "change, message",
    [
        (drop_wer, "a WER in model-index"),
        (lambda f: f.pop("README.md"), "no model card"),
        (lambda f: f.pop("meta.yaml"), "no meta.yaml"),
        (lambda f: f.update({"meta.yaml": b"- a"}), "expected a mapping"),
        (lambda f: f.update({"meta.yaml": b"files: [a"}), "expected a mapping"),
        (lambda f: f.update({"meta.yaml": b"files: [a]"}), "expected a mapping"),
        (
            lambda f: f.update(
                {
                    "README.md": f["README.md"].replace(
                        b"license: cc-by-sa-3.0", b"license: cc-by-sa"
                    )
                }
            ),
            "license: expected an identifier of the Hub, found 'cc-by-sa'",
        ),
        (
            lambda f: f.update(
                {"meta.yaml": b"files: {asr_model_file: /etc/hostname}"}
            ),
            "asr_model_file: no such file in it: /etc/hostname",
        ),
        (lambda f: f.pop("exp/asr_tiny/config.yaml"), "exp/asr_tiny/config.yaml"),
        (lambda f: f.pop("exp/asr_tiny/valid.loss.ave.pth"), "valid.loss.ave.pth"),
        (
            lambda f: f.update({"a.txt": b"see /home/jane/x"}),
            "a.txt: the absolute path",
        ),
        (lambda f: f.update({"../a.txt": b""}), "leads out of it: ../a.txt"),
    ],
)
@pytest.mark.remedy(
    "score the model (stages 12 and 13) and pack it again (stage 14)",
    "pack the model again with another --license (stage 14)",
    "expected a mapping: pack the model again (stage 14)",
    "pack the model by stage 14",
    "pack the model by mtkd_pack (stage 14)",
)
def test_an_archive_that_lacks_something(
    hub, archive, own_archive, capsys, change, message
):
    rewrite(own_archive, change)
    code, text = refused(capsys, *command(own_archive))
    assert code == 4 and message in text
    assert hub.calls == []
    shutil.copy(archive, own_archive)  # packed again
    main(command(own_archive))


@pytest.mark.remedy(
    "{}: not a whole zip ({}): run stage 14 again",
    "--archive: no such file: {}: run stage 14 first",
)
def test_an_archive_that_is_damaged_or_not_there(
    hub, archive, own_archive, tmp_path, capsys
):
    own_archive.write_bytes(own_archive.read_bytes()[:-100])
    code, message = refused(capsys, *command(own_archive))
    assert code == 4 and "run stage 14 again" in message
    code, message = refused(capsys, *command(tmp_path / "no.zip"))
    assert code == 2 and "no.zip: run stage 14 first" in message
    assert hub.calls == []
    for path in (own_archive, tmp_path / "no.zip"):
        shutil.copy(archive, path)  # packed again
        main(command(path))


@pytest.mark.parametrize("repo", ["tiny", "a/b/c", "user/a b", "user/..", ""])
def test_a_name_that_is_no_repository(hub, archive, capsys, repo):
    code, message = refused(capsys, *command(archive), "--hf_repo", repo)
    assert code == 2 and "--hf_repo" in message
    assert hub.calls == []


@pytest.mark.remedy("no token of the Hugging Face Hub")
def test_without_a_token(hub, archive, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    code, message = refused(capsys, *command(archive))
    assert code == 2
    assert "hf auth login" in message and "Nothing was uploaded" in message
    assert hub.calls == []
    monkeypatch.setenv("HF_TOKEN", hub_stub.TOKEN)
    main(command(archive))


# ------------------------------------------------------------- what the Hub refuses

WHO, INFO = "GET /api/whoami-v2", f"GET /api/models/{REPO}$"
CREATE, PREUPLOAD = "POST /api/repos/create", "POST .*/preupload/"
BATCH, STORE = "POST .*objects/batch", "PUT /lfs-store"
COMMIT = "POST .*/commit/"


@pytest.mark.parametrize(
    "call, fault, message",
    [
        (WHO, 500, "answered 500"),
        (WHO, "drop", "dropped the connection"),
        (WHO, 429, "too many requests: wait some minutes"),
        (INFO, 500, "answered 500"),
        (CREATE, 401, "the token is not valid"),
        (CREATE, 403, "the token may not write there"),
        (CREATE, 409, "somebody else"),
        (CREATE, "drop", "dropped the connection"),
        (PREUPLOAD, 401, "answered 40"),
        (PREUPLOAD, 500, "answered 500"),
        (PREUPLOAD, "drop", "dropped the connection"),
        (BATCH, 500, "answered 500"),
        (STORE, 500, "answered 500"),
        (STORE, "drop", "dropped the connection"),
        (COMMIT, 401, "answered 40"),
        (COMMIT, 403, "the token may not write there"),
        (COMMIT, 409, "somebody else changed the repository"),
        (COMMIT, 500, "answered 500"),
        (COMMIT, "drop", "dropped the connection"),
    ],
)
@pytest.mark.remedy(
    "401, 403",
    "409",
    "5xx, hub down, connection dropped",
    "cannot be reached, or dropped the connection",
    "the Hub has a fault",
    "too many requests: wait some minutes",
    "the next run fills it",
)
def test_a_fault_leaves_nothing_half_uploaded(
    hub, own_archive, capsys, call, fault, message
):
    hub.faults[call] = fault
    code, text = refused(capsys, *command(own_archive))
    assert code == 7
    assert message in text and hub.url in text
    assert "Nothing was uploaded." in text
    was_made = REPO in hub.repos
    assert was_made == (call not in (WHO, INFO, CREATE))
    assert (f"The repository {REPO} was made just now and is empty" in text) == was_made
    if was_made:
        assert hub.repos[REPO] == [{".gitattributes": b""}]
    assert [p.name for p in own_archive.parent.glob("*.zip")] == ["archive.zip"]
    assert list(own_archive.parent.glob(".upload*")) == []
    # What is to be done, works.
    hub.faults.clear()
    main(command(own_archive))
    assert expected_files(own_archive).items() <= hub.files(REPO).items()


def test_an_old_repository_is_as_it_was_after_a_fault(hub, archive, capsys):
    hub.repos[REPO] = [{"README.md": b"old"}]
    hub.faults[STORE] = "drop"
    code, message = refused(capsys, *command(archive))
    assert code == 7 and "made just now" not in message
    assert hub.repos[REPO] == [{"README.md": b"old"}]


@pytest.mark.remedy("the token is not valid (any more)")
def test_a_wrong_token(hub, archive, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    code, message = refused(capsys, *command(archive))
    assert code == 7
    assert "answered 401" in message and "the token is not valid" in message
    assert hub.repos == {}
    monkeypatch.setenv("HF_TOKEN", hub_stub.TOKEN)
    main(command(archive))


def test_metadata_that_the_hub_does_not_take(hub, own_archive, capsys):
    def change(files):
        files["README.md"] = files["README.md"].replace(
            b"language:\n- en\n", b"language: no-such-language\n"
        )

    rewrite(own_archive, change)
    code, message = refused(capsys, *command(own_archive))
    assert code == 7
    assert '"language" must be one of' in message and "Nothing was uploaded" in message
    assert hub.repos[REPO] == [{".gitattributes": b""}]


def test_a_hub_that_is_down(hub, archive, capsys, monkeypatch):
    from huggingface_hub import constants

    with hub_stub.serve() as other:
        url = other.url
    monkeypatch.setattr(constants, "ENDPOINT", url)  # where nobody listens now
    code, message = refused(capsys, *command(archive))
    assert code == 7
    assert f"{url} cannot be reached" in message and "Nothing was uploaded" in message


def test_a_lost_answer_to_the_commit_is_told_as_such(hub, archive, capsys):
    hub.faults[COMMIT] = "lose"
    code, message = refused(capsys, *command(archive))
    assert code == 7
    assert len(hub.repos[REPO]) == 2  # it did arrive
    assert "Nothing was uploaded" not in message
    assert f"there is a new commit, {hub.sha(REPO)}" in message


def test_a_hub_that_vanishes_at_the_commit_leaves_it_open(hub, archive, capsys):
    hub.faults[COMMIT] = "drop"
    asked = hub_stub._Handler.info

    def info(handler, body, repo, revision=None):
        if any("/commit/" in call for call in hub.calls):
            return handler.answer(503, {"error": "down"})
        return asked(handler, body, repo, revision)

    routes = {k: info if v is asked else v for k, v in hub_stub._Handler.routes.items()}
    handler = hub_stub._Handler
    old, handler.routes = handler.routes, routes
    try:
        code, message = refused(capsys, *command(archive))
    finally:
        handler.routes = old
    assert code == 7
    assert "Whether the commit arrived cannot be asked now" in message


def test_somebody_who_commits_in_between_is_not_overwritten(hub, archive, capsys):
    hub.repos[REPO] = [{"README.md": b"old"}]
    preupload = hub_stub._Handler.preupload

    def meanwhile(handler, body, repo):
        if len(hub.repos[REPO]) == 1:
            hub.repos[REPO].append({"README.md": b"theirs"})
        preupload(handler, body, repo)

    routes = hub_stub._Handler.routes
    key = next(k for k, v in routes.items() if v is preupload)
    routes[key] = meanwhile
    try:
        code, message = refused(capsys, *command(archive))
    finally:
        routes[key] = preupload
    assert code == 7 and "somebody else changed the repository" in message
    assert hub.files(REPO) == {"README.md": b"theirs"}
