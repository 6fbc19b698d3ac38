"""What messages of packing say to do, done as it stands there."""

import contextlib
import shutil

import pytest
import yaml
from publish_recipe import COMMAND, COUNTS, write_score

from espnet_mtkd.bin.mtkd_pack import main


def pack(root, *extra, command=COMMAND) -> None:
    with contextlib.chdir(root):
        main([*command, "--out", str(root / "m.zip"), *extra])


def refused(root, capsys, *extra, **options) -> str:
    with pytest.raises(SystemExit) as end:
        pack(root, *extra, **options)
    assert end.value.code in (2, 4)
    return capsys.readouterr().err


DECODED = "decode_asr_asr_model_valid.loss.ave"


@pytest.mark.remedy("no scores in it", "of other weights: expected a directory *")
@pytest.mark.parametrize("what", ["score", "pack those"])
def test_scores_of_other_weights(own_recipe, capsys, what):
    exp = own_recipe / "exp/asr_tiny"
    (exp / DECODED).rename(exp / DECODED.replace("ave", "best"))
    message = refused(own_recipe, capsys)
    assert "decode and score valid.loss.ave.pth" in message and "pack those" in message
    if what == "score":
        write_score(exp / DECODED / "test", COUNTS)
        pack(own_recipe)
    else:
        shutil.copy(exp / "valid.loss.ave.pth", exp / "valid.loss.best.pth")
        pack(own_recipe, "--asr_model_file", "valid.loss.best.pth")


@pytest.mark.remedy("decode and score it (stages 12 and 13), or pack the other")
@pytest.mark.parametrize("what", ["score", "pack the other"])
def test_a_log_that_names_other_weights(own_recipe, capsys, what):
    exp = own_recipe / "exp/asr_tiny"
    log = exp / DECODED / "test/logdir/asr_inference.1.log"
    log.parent.mkdir()
    line = (
        "# python3 -m espnet2.bin.asr_inference --ngpu 0 "
        "--data_path_and_name_and_type dump/raw/test/wav.scp,speech,sound "
        "--output_dir x --asr_model_file exp/asr_tiny/{}.pth --beam_size 1 \n"
    )
    log.write_text(line.format("valid.loss.best"))
    assert "or pack the other" in refused(own_recipe, capsys)
    if what == "score":
        log.write_text(line.format("valid.loss.ave"))
        pack(own_recipe)
    else:
        shutil.copy(exp / "valid.loss.ave.pth", exp / "valid.loss.best.pth")
        (exp / DECODED).rename(exp / DECODED.replace("ave", "best"))
        pack(own_recipe, "--asr_model_file", "valid.loss.best.pth")


@pytest.mark.remedy(
    "{}: {}: run stage {} first", "Run this in the recipe's directory, or the stage"
)
@pytest.mark.parametrize("what", ["exp/asr_tiny", "exp/asr_stats"])
def test_a_stage_that_has_not_run(own_recipe, capsys, what):
    (own_recipe / what).rename(own_recipe / "away")
    message = refused(own_recipe, capsys)
    assert "run stage 11 first" in message or "(5: tokens, 6: statistics)" in message
    (own_recipe / "away").rename(own_recipe / what)
    pack(own_recipe)


@pytest.mark.remedy("expected an identifier of the Hub")
def test_a_licence_that_the_hub_does_not_list(own_recipe, capsys):
    message = refused(own_recipe, capsys, "--license", "my-own")
    assert "for one that it does not list: other" in message
    pack(own_recipe, "--license", "other")


@pytest.mark.remedy("Publish a student, not the teacher transducer")
def test_a_teacher_transducer_is_not_published(own_recipe, capsys):
    path = own_recipe / "exp/asr_tiny/config.yaml"
    before = path.read_text()
    config = yaml.safe_load(before)
    path.write_text(yaml.safe_dump({**config, "frontend": "mtkd_teacher"}))
    assert "Publish a student" in refused(own_recipe, capsys)
    path.write_text(before)
    pack(own_recipe)


@pytest.mark.remedy("Name the stage 1 that this student began with")
def test_another_stage_1(own_recipe, capsys):
    import torch

    exp = own_recipe / "exp/mtkd_tiny"
    shutil.copytree(exp, own_recipe / "right")
    path = exp / "valid.loss.best.pth"
    state = torch.load(path, weights_only=True)
    name = next(k for k in state if k.startswith("encoder."))
    torch.save({k: v for k, v in state.items() if k != name}, path)
    assert "Name the stage 1" in refused(own_recipe, capsys)
    shutil.rmtree(exp)
    (own_recipe / "right").rename(exp)
    pack(own_recipe)


@pytest.mark.remedy("take it out of that file, and pack the model again")
def test_a_trace_is_taken_out(own_recipe, capsys):
    path = own_recipe / "exp/asr_tiny/RESULTS.md"
    path.write_text("# RESULTS\nby /home/jane/espnet/asr.sh\n")
    assert "/home/jane" in refused(own_recipe, capsys)
    path.write_text("# RESULTS\nby asr.sh\n")
    pack(own_recipe)
