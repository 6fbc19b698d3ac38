"""What is in an archive, what is not, and what is refused."""

import contextlib
import socket
import sys
import zipfile
from pathlib import Path

import builders
import pytest
import torch
import yaml
from publish_recipe import (
    COMMAND,
    COUNTS,
    SCRATCH_COMMAND,
    from_scratch,
    write_score,
)
from safetensors.torch import load_file

from espnet_mtkd.bin.mtkd_pack import main
from espnet_mtkd.errors import DataError
from espnet_mtkd.publish import traces

FILES = {
    "README.md",
    "meta.yaml",
    "exp/asr_stats/train/feats_stats.npz",
    *(
        f"exp/asr_tiny/{name}"
        for name in (
            *("config.yaml", "RESULTS.md", "images/curves.png"),
            *("valid.loss.ave.pth", "valid.loss.ave.safetensors"),
        )
    ),
    *(
        f"exp/mtkd_tiny/{name}"
        for name in (
            *("config.yaml", "images/curves.png"),
            *("valid.loss.best.pth", "valid.loss.best.safetensors"),
        )
    ),
}


@pytest.fixture
def content(archive, tmp_path) -> Path:
    """The archive, unpacked."""
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path / "content")
    return tmp_path / "content"


def names_in(archive: Path) -> set[str]:
    with zipfile.ZipFile(archive) as packed:
        return set(packed.namelist())


def run(root: Path, *extra, command=COMMAND) -> Path:
    """Pack as in the recipe's directory; the archive."""
    out = root / "out" / "model.zip"
    with contextlib.chdir(root):
        main([*command, "--out", str(out), *extra])
    return out


def refused(root: Path, capsys, *extra, command=COMMAND) -> tuple[int, str]:
    """Exit code and message; nothing may be left."""
    with pytest.raises(SystemExit) as end:
        run(root, *extra, command=command)
    assert list((root / "out").glob("*")) == []
    return end.value.code, capsys.readouterr().err


def edit(path: Path, **changes) -> None:
    config = yaml.safe_load(path.read_text())
    config.update(changes)
    builders.write_yaml(path, config)


def test_model_and_card_are_in_it_logs_and_checkpoints_are_not(archive, content):
    assert names_in(archive) == FILES
    meta = yaml.safe_load((content / "meta.yaml").read_text())
    assert meta["yaml_files"] == {"asr_train_config": "exp/asr_tiny/config.yaml"}
    assert meta["files"] == {"asr_model_file": "exp/asr_tiny/valid.loss.ave.pth"}


def test_no_file_tells_of_the_machine(recipe, content):
    secrets = [str(recipe), str(Path.home()), "a.host.example", "somebody"]
    if len(socket.gethostname()) > 4:
        secrets.append(socket.gethostname())
    for path in content.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        assert [x for x in secrets if x.encode() in data] == [], path


def test_the_config_is_the_trained_one_in_stock_espnets_keys(recipe, content):
    from espnet2.bin.asr_train import get_parser

    before, after = (
        yaml.safe_load((folder / "exp/asr_tiny/config.yaml").read_text())
        for folder in (recipe, content)
    )
    stock = {action.dest for action in get_parser()._actions} | {"version"}
    assert set(after) <= stock
    assert "path_targets_dir" in before and "path_targets_dir" not in after
    for key in ("token_list", "encoder_conf", "decoder_conf", "frontend_conf", "optim"):
        assert after[key] == before[key], key
    stats = after["normalize_conf"]["stats_file"]
    assert stats == "exp/asr_stats/train/feats_stats.npz"
    assert (content / stats).read_bytes() == (recipe / stats).read_bytes()


def test_flags_of_the_command_do_not_reach_the_config(own_recipe, monkeypatch):
    """ESPnet parses the command line of the process for its defaults."""
    flags = ["--out", "exp/x.zip", "--seed", "77", "--max_epoch", "9"]
    monkeypatch.setattr(sys, "argv", ["mtkd_pack.py", *flags])
    edit(own_recipe / "exp/asr_tiny/config.yaml", seed=5)
    config = yaml.safe_load((own_recipe / "exp/asr_tiny/config.yaml").read_text())
    del config["max_epoch"]
    builders.write_yaml(own_recipe / "exp/asr_tiny/config.yaml", config)
    with zipfile.ZipFile(run(own_recipe)) as packed:
        published = yaml.safe_load(packed.read("exp/asr_tiny/config.yaml"))
    assert published["seed"] == 5
    assert published["max_epoch"] != 9
    assert "output_dir" not in published


def test_weights_are_the_trained_ones_in_both_forms(recipe, content):
    def load(root, name):
        return torch.load(root / name, weights_only=True)

    def assert_equal(a, b):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a)

    asr = "exp/asr_tiny/valid.loss.ave"
    trained = load(recipe, f"{asr}.pth")
    assert_equal(load(content, f"{asr}.pth"), trained)
    assert_equal(load_file(content / f"{asr}.safetensors"), trained)
    mtkd = "exp/mtkd_tiny/valid.loss.best"
    encoder = load(recipe, f"{mtkd}.pth")
    del encoder["heads.whisper_l4.weight"]  # for training alone
    assert_equal(load(content, f"{mtkd}.pth"), encoder)
    assert_equal(load_file(content / f"{mtkd}.safetensors"), encoder)


def test_a_student_from_scratch_needs_no_stage_1(own_recipe):
    from_scratch(own_recipe)
    names = names_in(run(own_recipe, command=SCRATCH_COMMAND))
    assert names == {x for x in FILES if not x.startswith("exp/mtkd_tiny")}


@pytest.mark.parametrize("tokens", [["exp"], ["exp", "exp_", "▁data"]])
def test_a_token_named_as_a_directory_stays_a_token(own_recipe, tokens, tmp_path):
    """ESPnet's downloader puts paths in place of all strings that equal one."""
    from espnet_model_zoo.downloader import ModelDownloader

    path = own_recipe / "exp/asr_tiny/config.yaml"
    listed = yaml.safe_load(path.read_text())["token_list"]
    listed[4 : 4 + len(tokens)] = tokens
    edit(path, token_list=listed)
    with zipfile.ZipFile(run(own_recipe)) as packed:
        packed.extractall(tmp_path / "content")
    found = ModelDownloader._unpack_cache_dir_for_huggingfase(tmp_path / "content")
    config = yaml.safe_load(Path(found["asr_train_config"]).read_text())
    assert config["token_list"] == listed
    assert Path(config["normalize_conf"]["stats_file"]).is_file()


def test_a_tokeniser_is_packed_and_its_secrets_are_found(own_recipe, capsys):
    model = own_recipe / "data/token_list/bpe.model"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"\0\1pieces")
    edit(own_recipe / "exp/asr_tiny/config.yaml", bpemodel=str(model))
    out = run(own_recipe)
    assert "data/token_list/bpe.model" in names_in(out)
    out.unlink()
    model.write_bytes(b"\0" + str(own_recipe / "train.txt").encode())
    code, message = refused(own_recipe, capsys)
    assert code == 4 and "data/token_list/bpe.model" in message


def test_files_from_elsewhere_go_below_exp(own_recipe, tmp_path):
    stats = tmp_path / "elsewhere" / "s.npz"
    stats.parent.mkdir()
    stats.write_bytes((own_recipe / "exp/asr_stats/train/feats_stats.npz").read_bytes())
    for name in ("asr_tiny", "mtkd_tiny"):
        edit(
            own_recipe / "exp" / name / "config.yaml",
            normalize_conf=dict(stats_file=str(stats)),
        )
    names = names_in(run(own_recipe))
    assert "exp/elsewhere/s.npz" in names
    assert "exp/asr_stats/train/feats_stats.npz" not in names


# ------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "name, code, message",
    [
        ("exp/asr_tiny/config.yaml", 2, "exp/asr_tiny: no config.yaml in it"),
        ("exp/mtkd_tiny/config.yaml", 2, "exp/mtkd_tiny: no config.yaml in it"),
        ("exp/asr_tiny/valid.loss.ave.pth", 2, "exp/asr_tiny/valid.loss.ave.pth"),
        ("exp/mtkd_tiny/valid.loss.best.pth", 2, "exp/mtkd_tiny/valid.loss.best.pth"),
        ("exp/asr_stats/train/feats_stats.npz", 4, "normalize_conf.stats_file"),
        (
            "exp/asr_tiny/decode_asr_asr_model_valid.loss.ave/test/score_wer/result.txt",
            4,
            "has this row been scored (stage 13)?",
        ),
    ],
)
def test_what_is_missing_is_named(own_recipe, capsys, name, code, message):
    (own_recipe / name).unlink()
    found, text = refused(own_recipe, capsys)
    assert found == code
    assert message in text


def test_a_directory_that_is_not_there_names_the_stage(own_recipe, capsys):
    code, message = refused(own_recipe, capsys, "--asr_exp", "exp/no")
    assert code == 2
    assert "exp/no: no such directory: run stage 11 first" in message


def test_no_scores_or_those_of_other_weights(own_recipe, capsys):
    decoded = own_recipe / "exp/asr_tiny/decode_asr_asr_model_valid.loss.ave"
    decoded.rename(decoded.with_name("decode_asr_asr_model_valid.loss.best"))
    code, message = refused(own_recipe, capsys)
    assert code == 4
    assert "expected a directory *_asr_model_valid.loss.ave, found" in message
    decoded.with_name("decode_asr_asr_model_valid.loss.best").rename(own_recipe / "x")
    code, message = refused(own_recipe, capsys)
    assert code == 4
    assert "no scores in it: run stages 12 and 13 first" in message


def test_of_two_scored_weights_the_packed_one_counts(own_recipe):
    from huggingface_hub import ModelCard

    other = own_recipe / "exp/asr_tiny/decode_asr_asr_model_valid.loss.best/test"
    write_score(other, {unit: (20, 100, 0, 0, 0, 0, 1, 1) for unit in ("wer", "cer")})
    with zipfile.ZipFile(run(own_recipe)) as packed:
        card = ModelCard(packed.read("README.md").decode())
    wer = next(r for r in card.data.eval_results if r.metric_type == "wer")
    assert wer.metric_value == pytest.approx(
        100 * COUNTS["wer"][6] / COUNTS["wer"][1], abs=0.005
    )


def test_a_model_that_stock_espnet_cannot_build(own_recipe, capsys):
    path = own_recipe / "exp/asr_tiny/config.yaml"
    edit(path, frontend="mtkd_teacher")
    code, message = refused(own_recipe, capsys)
    assert code == 2
    assert "frontend: expected a class of stock ESPnet, found 'mtkd_teacher'" in message


def test_the_plugins_classes_are_known_for_what_they_are(own_recipe, capsys):
    """Also in a process in which ESPnet was taught them."""
    from espnet_mtkd.transducer.task import register

    register()
    edit(own_recipe / "exp/asr_tiny/config.yaml", model="mtkd_transducer")
    assert "found 'mtkd_transducer'" in refused(own_recipe, capsys)[1]


def test_weights_of_another_model(own_recipe, capsys):
    path = own_recipe / "exp/asr_tiny/config.yaml"
    config = yaml.safe_load(path.read_text())
    edit(path, decoder_conf={**config["decoder_conf"], "hidden_size": 24})
    code, message = refused(own_recipe, capsys)
    assert code == 2
    assert "of another shape: decoder." in message


def test_stage_1_of_another_student(own_recipe, capsys):
    path = own_recipe / "exp/mtkd_tiny/valid.loss.best.pth"
    state = torch.load(path, weights_only=True)
    name = next(k for k in state if k.startswith("encoder."))
    del state[name]
    torch.save(state, path)
    code, message = refused(own_recipe, capsys)
    assert code == 2
    assert f"1 missing: {name}" in message and "exp/mtkd_tiny" in message


def test_traces_are_refused_by_file_and_an_older_archive_stays(own_recipe, capsys):
    out = run(own_recipe)
    before = out.read_bytes()
    results = own_recipe / "exp/asr_tiny/RESULTS.md"
    results.write_text("# RESULTS\nby /home/jane/espnet/asr.sh\n")
    edit(own_recipe / "exp/asr_tiny/config.yaml", cleaner="/opt/tools/cleaner")
    with pytest.raises(SystemExit) as end:
        run(own_recipe)
    message = capsys.readouterr().err
    assert end.value.code == 4
    assert "RESULTS.md: the absolute path /home/jane/espnet/asr.sh" in message
    assert "config.yaml: cleaner: the absolute path /opt/tools/cleaner" in message
    assert out.read_bytes() == before
    assert [p.name for p in out.parent.iterdir()] == [out.name]


@pytest.mark.remedy(
    "tells of this machine or its user",
    "names and addresses that may stay: --ignore_names",
)
def test_names_of_user_and_host_are_found_unless_allowed(
    own_recipe, capsys, monkeypatch
):
    names = {"jdoe": "user name", "node-7": "host name"}
    monkeypatch.setattr(traces, "local_names", lambda: dict(names))
    results = own_recipe / "exp/asr_tiny/RESULTS.md"
    results.write_text("run by jdoe on node-7, not by jdoes on xnode-7\n")
    code, message = refused(own_recipe, capsys)
    assert code == 4
    for name, what in names.items():
        assert f"RESULTS.md: this machine's {what} '{name}'" in message
    assert "'node-7'" not in refused(own_recipe, capsys, "--ignore_names", "node-7")[1]
    run(own_recipe, "--ignore_names", "node-7", "jdoe")


@pytest.mark.parametrize(
    "extra, message",
    [
        (("--out", "model.tgz"), "ends with .zip"),
        (("--language", "english"), "expected ISO codes"),
        (("--teacher", "wavlm"), "expected NAME=HUB_ID,LICENCE"),
        (("--teacher", "hubert=a/b,mit"), "no such teacher: hubert"),
        (("--teacher", "wavlm=a/b,apachee-2.0"), "did you mean apache-2.0"),
        (("--license", "apache2"), "did you mean apache-2.0"),
        (("--license", "BSD-2-Clause-Patent"), "for one that it does not list: other"),
    ],
)
def test_flags_that_make_no_sense(own_recipe, capsys, extra, message):
    code, text = refused(own_recipe, capsys, *extra)
    assert code == 2
    assert message in text


@pytest.mark.parametrize("name", ["asr-jdoe", "asr_jdoe_tiny"])
def test_packing_refuses_what_uploading_would(own_recipe, capsys, monkeypatch, name):
    """One search for both: a name in a directory's name, a key in a picture."""
    from espnet_mtkd.publish.upload import prepared

    monkeypatch.setattr(traces, "local_names", lambda: {"jdoe": "user name"})
    (own_recipe / "exp/asr_tiny").rename(own_recipe / "exp" / name)
    (own_recipe / "exp" / name / "RESULTS.md").write_text("# RESULTS\n")
    command = [x.replace("asr_tiny", name) for x in COMMAND]
    code, message = refused(own_recipe, capsys, command=command)
    assert code == 4 and f"exp/{name}/config.yaml: its name" in message
    out = run(own_recipe, "--ignore_names", "jdoe", command=command)
    with prepared(out, "jdoe/model", ["jdoe"]) as folder:
        assert (folder / "README.md").is_file()
    with pytest.raises(DataError, match="its name: this machine's user name 'jdoe'"):
        with prepared(out, "jdoe/model"):
            pass


def test_licences_are_written_as_the_hub_has_them(own_recipe):
    with zipfile.ZipFile(run(own_recipe, "--license", "Apache-2.0")) as packed:
        assert "\nlicense: apache-2.0\n" in packed.read("README.md").decode()
