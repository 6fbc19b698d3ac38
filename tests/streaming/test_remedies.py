"""What messages of the streaming decoder say to do, done as it stands there."""

import re
import subprocess
import sys

import builders
import numpy as np
import pytest
import soundfile
import streaming_models as models
import torch
import yaml

from espnet_mtkd.bin.mtkd_asr_stream import main
from espnet_mtkd.errors import ConfigError, DataError
from espnet_mtkd.streaming import Speech2TextStreamingTransducer

RATE = builders.SAMPLE_RATE


def refused(capsys, *words) -> str:
    with pytest.raises(SystemExit) as end:
        main([str(x) for x in words])
    assert end.value.code in (2, 4, 6)
    return capsys.readouterr().err


def write(path, seconds=1.0, rate=RATE):
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, builders.speech_like(seconds, 1), rate, subtype="PCM_16")
    return path


@pytest.mark.remedy("utterances could not be decoded, the others were")
def test_bad_files_are_repaired_and_the_rest_resumed(flags, tmp_path, capsys):
    scp, out = tmp_path / "wav.scp", tmp_path / "text"
    paths = [write(tmp_path / f"a{i}.flac", 0.6) for i in range(3)]
    scp.write_text("".join(f"{p.stem} {p}\n" for p in paths))
    paths[1].write_text("no audio")
    message = refused(capsys, *flags, "--wav_scp", scp, "--out", out)
    assert "1 of 3" in message and "a1: " in message
    write(paths[1], 0.6)
    main([*flags, "--wav_scp", str(scp), "--out", str(out), "--resume"])
    assert [x.split()[0] for x in out.read_text().splitlines()] == ["a0", "a1", "a2"]


@pytest.mark.remedy("--resume goes on with the file that --out names: give it")
def test_resume_needs_a_file_and_goes_on_with_it(flags, tmp_path, capsys):
    path = write(tmp_path / "a.flac", 0.6)
    (tmp_path / "wav.scp").write_text(f"a {path}\n")
    words = [*flags, "--wav_scp", str(tmp_path / "wav.scp"), "--resume"]
    assert "give it" in refused(capsys, *words)
    main([*words, "--out", str(tmp_path / "text")])
    assert (tmp_path / "text").is_file()


@pytest.mark.remedy("convert it, `")
@pytest.mark.parametrize("name", ["8 kHz.wav", "stereo.wav", "x.mp3"])
def test_the_command_for_another_rate(flags, tmp_path, capsys, monkeypatch, name):
    path, wave = tmp_path / name, builders.speech_like(1.0, 1)
    rate = 8000 if name == "8 kHz.wav" else 22050 if name == "x.mp3" else RATE
    soundfile.write(path, np.stack([wave] * 2, 1) if "stereo" in name else wave, rate)
    message = refused(capsys, *flags, path)
    command = re.search(r"convert it, `(.*?)`", message)[1]
    command = re.sub(r"^python ", f"{sys.executable} ", command)
    monkeypatch.chdir(tmp_path)
    subprocess.run(command, shell=True, check=True)
    main([*flags, "converted.wav"])


@pytest.mark.remedy("two audio files have one name: give them in a --wav_scp")
def test_two_files_of_one_name(flags, tmp_path, capsys):
    paths = [write(tmp_path / x / "u.flac", 0.6) for x in "ab"]
    assert "one name" in refused(capsys, *flags, *paths)
    scp = tmp_path / "wav.scp"
    scp.write_text("".join(f"{p.parent.name}-u {p}\n" for p in paths))
    main([*flags, "--wav_scp", str(scp)])


@pytest.mark.remedy("not finite: the model's", "not finite: the model's weights")
@pytest.mark.parametrize("what", ["another checkpoint", "--dtype float32"])
def test_numbers_that_are_not_finite(flags, files, tmp_path, capsys, what):
    config, weights = files
    path = write(tmp_path / "a.flac")
    state = torch.load(weights)
    if what == "another checkpoint":
        state["joint_network.lin_out.bias"][4] = float("nan")
        options = []
    else:  # more than fp16 holds, and no NaN
        state["joint_network.lin_out.weight"] *= 1e5
        options = ["--dtype", "float16"]
    torch.save(state, tmp_path / "bad.pth")
    words = [*flags[:3], str(tmp_path / "bad.pth"), str(path)]
    message = refused(capsys, *words, *options)
    assert "another checkpoint" in message and "float32" in message
    if what == "another checkpoint":
        main([*flags, str(path)])
    else:
        main([*words, "--dtype", "float32"])


@pytest.mark.remedy("expected floats in -1 to 1", "divide 16-bit audio by 32768")
@pytest.mark.parametrize("what", ["divide", "int16"])
def test_floats_of_the_range_of_16_bits(files, what):
    stream = Speech2TextStreamingTransducer(*files).open_stream()
    samples = np.round(32767 * builders.speech_like(1, 1))
    with pytest.raises(DataError, match="divide 16-bit audio by 32768, or give it as"):
        stream.accept(samples)
    stream.accept(samples / 32768 if what == "divide" else samples.astype("int16"))


@pytest.mark.remedy(
    "is finished: open another with open_stream()",
    "it has ended: open another stream",
    "give it to that one, or open_stream() of this one",
)
def test_another_stream_is_opened(files):
    decoder, other = (Speech2TextStreamingTransducer(*files) for _ in range(2))
    chunk = builders.speech_like(1, 1)
    finished, foreign = decoder.open_stream(), other.open_stream()
    finished.finish()
    with pytest.raises(RuntimeError, match="open another with open_stream"):
        finished.accept(chunk)
    with pytest.raises(ValueError, match=r"or open_stream\(\) of this one"):
        decoder.accept([foreign], [chunk])
    other.accept([foreign], [chunk])
    decoder.accept([decoder.open_stream()], [chunk])
    with torch.no_grad():
        decoder.asr_model.joint_network.lin_out.bias.fill_(float("nan"))
    failed = decoder.open_stream()
    with pytest.raises(DataError):
        failed.accept(chunk)
    with pytest.raises(RuntimeError, match="open another stream"):
        failed.accept(chunk)
    with torch.no_grad():
        decoder.asr_model.joint_network.lin_out.bias.zero_()
    decoder.open_stream().accept(chunk)


@pytest.mark.remedy("decode it with espnet2.bin.asr_inference", "which attends to the")
def test_what_cannot_stream_is_decoded_whole(tmp_path):
    from espnet2.bin.asr_inference import Speech2Text

    conf = builders.ENCODERS["conformer"]
    files = models.build(
        tmp_path / "m", can_stream=False, encoder="conformer", encoder_conf=conf
    )
    with pytest.raises(ConfigError, match="decode it with espnet2.bin.asr_inference"):
        Speech2TextStreamingTransducer(*files)
    assert Speech2Text(*files, beam_size=1)(builders.speech_like(1, 1))


@pytest.mark.remedy("Train with 'normalize: global_mvn'")
def test_a_model_with_utterance_mvn_is_trained_with_global_mvn(tmp_path):
    changes = dict(normalize="utterance_mvn", normalize_conf={})
    files = models.build(tmp_path / "m", can_stream=False, **changes)
    with pytest.raises(ConfigError, match="Train with 'normalize: global_mvn'"):
        Speech2TextStreamingTransducer(*files)
    Speech2TextStreamingTransducer(*models.build(tmp_path / "n"))


@pytest.mark.remedy("bpemodel: no such file: {}: give its path")
def test_the_path_of_the_bpe_model(files, tmp_path):
    import sentencepiece

    text = tmp_path / "text"
    text.write_text("ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "bpe"), vocab_size=20
    )
    config = yaml.safe_load(files[0].read_text())
    config.update(token_type="bpe", bpemodel="gone/bpe.model")
    builders.write_yaml(tmp_path / "config.yaml", config)
    with pytest.raises(ConfigError, match="gone/bpe.model: give its path"):
        Speech2TextStreamingTransducer(tmp_path / "config.yaml", files[1])
    Speech2TextStreamingTransducer(
        tmp_path / "config.yaml", files[1], bpemodel=str(tmp_path / "bpe.model")
    )
