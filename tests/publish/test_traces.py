"""What is found of a machine and its user, wherever it stands, and what is not."""

import re

import pytest
import torch
import yaml

from espnet_mtkd.publish import traces


@pytest.mark.parametrize(
    "text, found",
    [
        ("see /home/jane/x.yaml.", ["/home/jane/x.yaml."]),
        ("file:///scratch/a/init", ["/scratch/a/init"]),
        ("(/data/exp) and '/mnt/b/c'", ["/data/exp", "/mnt/b/c"]),
        ("https://huggingface.co/a/b http://x.org/y/z", []),
        ("WER / % exp/asr_x/config.yaml 10/11/12 a/b/c ~/x/y </div>", []),
    ],
)
def test_absolute_paths_in_text(tmp_path, text, found):
    (tmp_path / "a.md").write_text(text)
    (tmp_path / "b.yaml").write_text(
        yaml.safe_dump({"token_list": ["/a/b"], "k": text})
    )
    lines = traces.find_traces(tmp_path)
    assert [x for x in lines if x.startswith("a.md")] == [
        f"a.md: the absolute path {x}" for x in found
    ]
    assert [x for x in lines if x.startswith("b.yaml")] == [
        f"b.yaml: k: the absolute path {x}" for x in found
    ]


@pytest.mark.parametrize(
    "text, found",
    [
        ("password: 123456", "what is called so is not to be published"),
        ("a: {hub_token: 20270101}", "what is called so is not to be published"),
        ("api-key: abcdefgh1", "what is called so is not to be published"),
        ("a: 'api key: abcdefgh1'", "what is called api key"),
        ("a: 'Authorization: Bearer abcdefghijklmnop1234'", "a bearer token"),
        ("a: " + "eyJhbGciOiJI.eyJzdWIiOiIx." + "c2lnbmF0dXJl", "a JSON web token"),
        ("? /home/jane/x\n: 3", "the absolute path /home/jane/x"),
        ("? /home/jane/x\n: {}", "the absolute path /home/jane/x"),
        ("? jane@example.org\n: true", "the e-mail address jane@example.org"),
        ("a: !!binary L2hvbWUvamFuZS94", "the absolute path /home/jane/x"),
        ("a: -I/home/jane/x", "the absolute path /home/jane/x"),
        ("a: '\\\\server\\share\\jane'", "the absolute path \\\\server"),
    ],
)
def test_configs_hold_more_than_strings(tmp_path, text, found):
    (tmp_path / "a.yaml").write_text(text)
    assert any(found in x for x in traces.find_traces(tmp_path))


def test_numbers_of_tokens_and_empty_values_are_no_secrets(tmp_path):
    (tmp_path / "a.yaml").write_text("max_token: 2048\ntoken:\nsecret: {}\nb: [a-b/c]")
    assert traces.find_traces(tmp_path) == []


SECRETS = {  # as the services form them, none of them real
    "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH": "token of the Hugging Face Hub",
    "ghp_" + "0123456789abcdefghijABCDEFGHIJklmnop": "token of GitHub",
    "github_pat_" + "11ABCDEFG0abcdefghijkl_mnopqrs": "token of GitHub",
    "AKIA" + "IOSFODNN7EXAMPLE": "key of AWS",
    "-----BEGIN " + "OPENSSH PRIVATE KEY-----": "private key",
}
PLACES = {
    "a.md": "text {} text",
    "a.sh": "export X='{}'",
    "a.yaml": "a: {{b: [{{c: '{}'}}]}}",
    "comment.yaml": "a: 1  # {}",
    "broken.yaml": "a: [ {}",
    "a.json": '{{"a": "{}"}}',
    "{}-b.txt": "",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "text, found",
    [
        *SECRETS.items(),
        ("jane.doe@example.org", "e-mail address jane.doe@example.org"),
        ("asr_jdoe_x", "user name 'jdoe'"),
        ("Jdoe's", "user name 'jdoe'"),
        ("node-7_gpu", "host name 'node-7'"),
        ("x.pth:/home/jane/a", "absolute path /home/jane/a"),
        ("C:\\Users\\Jane", "absolute path C:\\Users"),
        ("https://jane:s3cret@example.org/a", "password in an address"),
    ],
)
def test_traces_are_found_wherever_they_stand(
    tmp_path, monkeypatch, place, text, found
):
    names = {"jdoe": "user name", "node-7": "host name"}
    monkeypatch.setattr(traces, "local_names", lambda: dict(names))
    if "{}" in place and not re.fullmatch(r"[\w-]+", text):
        pytest.skip("no name of a file")
    if place == "a.yaml":
        text = text.replace("'", "''")
    path = tmp_path / "content" / place.format(text)
    path.parent.mkdir()
    path.write_text(PLACES[place].format(text))
    lines = traces.find_traces(path.parent)
    assert any(found in line for line in lines), lines
    if text in SECRETS and "{}" not in place and "BEGIN" not in text:
        assert text not in "".join(lines)  # the message does not repeat it
    for allowed in ("jdoe", "node-7", "jane.doe@example.org"):
        if allowed in found:
            assert traces.find_traces(path.parent, [allowed.upper()]) == []


@pytest.mark.parametrize("name", ["a.bin", "a.pth", "legacy.pth", "a.safetensors"])
def test_traces_in_binary_files(tmp_path, monkeypatch, name):
    from safetensors.torch import save_file

    monkeypatch.setattr(traces, "local_names", lambda: {"janedoe": "user name"})
    folder = tmp_path / "content"
    folder.mkdir()
    words = ["/home/jane/a.txt", "janedoe", "hf_" + "a1B2" * 8]
    tensor = torch.arange(300.0)
    meta = {str(i): x for i, x in enumerate(words)}
    if name.endswith(".bin"):
        (folder / name).write_bytes(b"\0\x10" + "\0\x10".join(words).encode())
    elif name.endswith(".safetensors"):
        save_file({"a": tensor}, folder / name, meta)
    else:
        old = dict(_use_new_zipfile_serialization=name != "legacy.pth")
        torch.save({"a": tensor, **meta}, folder / name, **old)
    found = "\n".join(traces.find_traces(folder))
    for part in ("path /home/jane/a.txt", "user name 'janedoe'", "Hugging Face Hub"):
        assert part in found


def test_numbers_and_names_that_look_like_traces_are_none(tmp_path):
    rng = torch.Generator().manual_seed(1)
    noise = torch.randint(0, 256, (300_000,), generator=rng, dtype=torch.uint8)
    (tmp_path / "a.bin").write_bytes(b"\0" + bytes(noise.tolist()))
    torch.save(
        {f"layer{i}.weight": torch.rand(9) for i in range(90)}, tmp_path / "a.pth"
    )
    (tmp_path / "a.md").write_text(
        "git clone git@github.com:a/b, https://huggingface.co/a/b?x=1:/c/d, hf_hubert, "
        "hf_wav2vec2_custom, torch@2.11.0, token_type: char, 12:30/31, sk-learn\n"
    )
    config = {"token_list": ["/a/b", "a@b.org"], "token_type": "bpe", "a": "hf_x"}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(config))
    assert traces.find_traces(tmp_path) == []


def test_keys_that_are_called_secret(tmp_path):
    config = {"wandb": {"api_key": "x1"}, "a": {"hf_token": "y2"}, "password": None}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(config))
    found = traces.find_traces(tmp_path)
    assert [x.split(":")[1].strip() for x in found] == ["a.hf_token", "wandb.api_key"]
