"""A student's embeddings outside of this package's trainings are those inside."""

import argparse
import copy
import http.server
import re
import threading
import zipfile

import builders
import numpy as np
import pytest
import torch
import yaml

from espnet_mtkd.errors import ConfigError, DataError, HubError
from espnet_mtkd.student import load_student
from espnet_mtkd.student.weights import write_safetensors

ENCODERS = list(builders.ENCODERS)
TOLERANCE = 1e-5  # between batches of other sizes


def batch_of(*seconds):
    """Waveforms (B, N), (B,), with noise behind the short ones."""
    waves = [
        torch.from_numpy(builders.speech_like(s, i)) for i, s in enumerate(seconds)
    ]
    lengths = torch.tensor([len(w) for w in waves])
    noise = torch.Generator().manual_seed(4)
    speech = torch.randn(len(waves), int(lengths.max()) + 50, generator=noise)
    for b, wave in enumerate(waves):
        speech[b, : len(wave)] = wave
    return speech, lengths


def build_asr(folder, encoder: str):
    """A folder as stage 2 leaves it, of random weights; the ESPnet model of it."""
    from espnet2.tasks.asr import ASRTask

    folder.mkdir(parents=True)
    stats = folder / "stats.npz"
    count, one = 100, np.ones(80)
    np.savez(stats, count=count, sum=-800 * one, sum_square=8000 * one)
    config = {
        **ASRTask.get_default_config(),
        **builders.asr_config(
            encoder,
            normalize="global_mvn",
            normalize_conf=dict(stats_file=str(stats)),
            specaug="specaug",
            specaug_conf=dict(apply_time_warp=False, time_mask_width_range=[5, 9]),
            token_list=["<blank>", "<unk>", "A", "<sos/eos>"],
            token_type="char",
        ),
    }
    model = ASRTask.build_model(argparse.Namespace(**config)).eval()
    builders.randomize(model, 5)
    torch.save(model.state_dict(), folder / "valid.loss.ave.pth")
    builders.write_yaml(folder / "config.yaml", config)
    stats.unlink()  # the model file has the statistics
    return model


@pytest.fixture(scope="module")
def asr(tmp_path_factory):
    """Function: encoder -> (a folder of stage 2, ESPnet's model); made once."""
    made = {}

    def get(encoder):
        if encoder not in made:
            folder = tmp_path_factory.mktemp("student") / f"exp/asr_{encoder}"
            made[encoder] = folder, build_asr(folder, encoder)
        return made[encoder]

    return get


@pytest.fixture
def folder(asr, tmp_path):
    """A folder of stage 2 to spoil: config as a dict, and the two files."""
    import shutil

    source, _ = asr("conformer")
    shutil.copytree(source, tmp_path / "asr")
    return tmp_path / "asr"


@torch.no_grad()
def encode(model, speech, lengths):
    return model.eval().encode(speech, lengths)


# ------------------------------------------------------------- equality


@pytest.mark.parametrize("encoder", ENCODERS)
def test_embeddings_of_stage_1_are_those_of_its_own_model(stage1, encoder):
    from espnet_mtkd.pretraining.task import MTKDTask

    run = stage1(encoder)
    model, _ = MTKDTask.build_model_from_file(str(run.config), str(run.best))
    speech, lengths = batch_of(1.1, 2.3, 0.4)
    expected, expected_lengths = encode(model, speech, lengths)
    student = load_student(run.exp)
    for _ in range(2):  # no dropout, no masks
        found, found_lengths = student(speech, lengths)
        assert torch.equal(found, expected)
        assert torch.equal(found_lengths, expected_lengths)
    assert found.shape == (3, int(found_lengths.max()), student.dim)
    assert not found.requires_grad
    assert student.frame_shift == model.frames.shift == 640


@pytest.mark.parametrize("encoder", ENCODERS)
def test_embeddings_of_stage_2_are_those_of_espnets_model(asr, encoder):
    path, model = asr(encoder)
    speech, lengths = batch_of(0.5, 1.9)
    expected, expected_lengths = encode(model, speech, lengths)
    found, found_lengths = load_student(path)(speech, lengths)
    assert torch.equal(found, expected)
    assert torch.equal(found_lengths, expected_lengths)


def test_three_lines_give_embeddings(asr):
    path, _ = asr("conformer")
    wav = torch.from_numpy(builders.speech_like(2.0, 3))[None]
    student = load_student(str(path))
    embeddings, lengths = student(wav)
    assert embeddings.shape == (1, 49, 16) and lengths.tolist() == [49]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_longest_of_a_batch_is_as_alone(asr, encoder):
    path, _ = asr(encoder)
    student = load_student(path)
    speech, lengths = batch_of(0.7, 1.6, 1.2)
    batch, _ = student(speech, lengths)
    alone, (num,) = student(speech[1:2, : lengths[1]])
    torch.testing.assert_close(batch[1, :num], alone[0], atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("seconds", [(0.4, 0.45), (1.3, 2.2, 0.6)])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_hidden_states_are_those_of_an_encoder_cut_off_there(asr, encoder, seconds):
    """Of utterances within one block of the streaming encoder and of longer ones."""
    path, model = asr(encoder)
    student = load_student(path)
    speech, lengths = batch_of(*seconds)
    hidden, num_frames = student(speech, lengths, layers=True)
    embeddings, expected_lengths = student(speech, lengths)
    num_blocks = builders.ENCODERS[encoder]["num_blocks"]
    assert len(hidden) == num_blocks + 1 == student.num_layers
    assert torch.equal(hidden[-1], embeddings)
    assert torch.equal(num_frames, expected_lengths)
    for depth in range(1, num_blocks):
        cut = copy.deepcopy(model)
        cut.encoder.encoders = cut.encoder.encoders[:depth]
        cut.encoder.after_norm = torch.nn.Identity()
        expected, _ = encode(cut, speech, lengths)
        assert torch.equal(hidden[depth], expected)
    with torch.no_grad():
        feats, num = model._extract_feats(speech, lengths)
        feats, num = model.normalize(feats, num)
        expected, _ = model.encoder.embed(feats, None)
        if encoder == "conformer":
            expected = expected[0]
        else:
            expected = model.encoder.pos_enc(expected)
    assert torch.equal(hidden[0], expected)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in student.modules())


@pytest.mark.parametrize("encoder", ENCODERS)
def test_gradients_reach_every_block_where_they_are_asked_for(asr, encoder):
    path, _ = asr(encoder)
    student = load_student(path).requires_grad_(True)
    hidden, _ = student(*batch_of(1.0, 0.8), layers=True)
    sum(h.square().mean() for h in hidden).backward()
    idle = [n for n, p in student.named_parameters() if p.grad is None]
    assert idle == []


@pytest.mark.parametrize("encoder", ENCODERS)
def test_sizes_are_those_that_running_it_shows(asr, encoder):
    from espnet_mtkd.student.frames import measure_frame_shift

    path, model = asr(encoder)
    student = load_student(path)
    assert student.frame_shift == measure_frame_shift(model.frontend, model.encoder)
    least = student.min_samples
    wav = torch.from_numpy(builders.speech_like(0.5, 2))[None]
    _, lengths = student(wav[:, :least])
    assert lengths.tolist() == [1]
    with pytest.raises(DataError, match=f"expected {least} .* found {least - 1}"):
        student(wav[:, : least - 1])
    with pytest.raises(Exception, match="(?i)too short|kernel size"):
        encode(model, wav[:, : least - 1], torch.tensor([least - 1]))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_features_of_valid_frames_saw_no_padding(asr, encoder):
    """What follows an utterance does not change the input of the first block there."""
    path, _ = asr(encoder)
    student = load_student(path)
    wav = torch.from_numpy(builders.speech_like(1.5, 6))[None]
    for num in (16000, 16001, 16159, 16160, 16500):
        length = torch.tensor([num])
        (valid,) = student.num_valid_frames(length).tolist()
        padded = wav.clone()
        padded[:, num:] = 0.3
        first, _ = student(wav, layers=True)
        second, _ = student(padded, layers=True)
        # As rows that reach to the end, so that nothing is masked.
        same = (first[0] == second[0]).all(2)[0].int().cumprod(0).sum()
        assert valid <= int(same) <= valid + 1
        _, frames = student(wav[:, :num])
        assert valid <= int(frames) <= valid + 1


# ------------------------------------------------------------- where it is found


def test_stage_1_takes_what_is_handed_over_and_stage_2_what_is_decoded(folder):
    state = torch.load(folder / "valid.loss.ave.pth", weights_only=True)
    name = "encoder.after_norm.bias"
    state[name] = torch.full_like(state[name], 3.0)
    torch.save(state, folder / "valid.loss.best.pth")
    bias = load_student(folder).encoder.after_norm.bias
    assert not torch.equal(bias, state[name])
    named = load_student(folder / "valid.loss.best.pth").encoder.after_norm.bias
    assert torch.equal(named, state[name])
    config = yaml.safe_load((folder / "config.yaml").read_text())
    builders.write_yaml(folder / "config.yaml", {**config, "teachers": []})
    bias = load_student(folder).encoder.after_norm.bias
    assert torch.equal(bias, state[name])


def test_safetensors_serve_in_place_of_the_pth(folder):
    speech, lengths = batch_of(0.9)
    expected, _ = load_student(folder)(speech, lengths)
    pth = folder / "valid.loss.ave.pth"
    safe = write_safetensors(pth)
    for keep in ("both", "safetensors"):
        if keep == "safetensors":
            pth.unlink()
        for where in (folder, safe, pth if pth.exists() else safe):
            assert torch.equal(load_student(where)(speech, lengths)[0], expected)


@pytest.fixture(scope="module")
def packed(asr, tmp_path_factory):
    """Content of a model that ESPnet's own command packed: name -> bytes."""
    from espnet2.bin.pack import main

    path, _ = asr("conformer")
    root = tmp_path_factory.mktemp("packed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parents[1])
        name = path.relative_to(path.parents[1])
        flags = ["asr", "--outpath", f"{root}/model.zip"]
        flags += ["--asr_train_config", f"{name}/config.yaml"]
        flags += ["--asr_model_file", f"{name}/valid.loss.ave.pth"]
        main(flags)
    with zipfile.ZipFile(root / "model.zip") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_files(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_a_model_that_espnet_packed_is_loaded_from_anywhere(
    asr, packed, tmp_path, monkeypatch
):
    _, model = asr("conformer")
    write_files(tmp_path / "model", packed)
    monkeypatch.chdir(tmp_path)
    speech, lengths = batch_of(1.0, 0.8)
    found, _ = load_student("model")(speech, lengths)
    assert torch.equal(found, encode(model, speech, lengths)[0])
    # The pre-trained encoder lies in a folder of its own.
    inner = load_student("model/exp/asr_conformer")
    assert torch.equal(inner(speech, lengths)[0], found)


@pytest.mark.parametrize(
    "change, message",
    [
        ("no config", "names .*config.yaml, which is not there"),
        ("no model", "names .*valid.loss.ave.pth, which is not there"),
        ("a language model", r"expected one <task>_train_config .*found \['lm_file'"),
        ("a list", "expected a mapping"),
        ("no YAML", "not valid YAML"),
    ],
)
def test_a_pack_without_an_encoder_is_refused(packed, tmp_path, change, message):
    write_files(tmp_path, packed)
    meta = tmp_path / "meta.yaml"
    if change == "no config":
        next(tmp_path.rglob("config.yaml")).unlink()
    elif change == "no model":
        next(tmp_path.rglob("*.pth")).unlink()
    elif change == "a language model":
        value = dict(files={"lm_file": "x"}, yaml_files={"lm_train_config": "y"})
        builders.write_yaml(meta, value)
    else:
        meta.write_text("[1, 2]" if change == "a list" else "{a: [")
    with pytest.raises(ConfigError, match=message) as error:
        load_student(tmp_path)
    assert str(tmp_path) in str(error.value)


# ------------------------------------------------------------- the hub


class HubHandler(http.server.BaseHTTPRequestHandler):
    """What `hf_hub_download` asks the Hugging Face Hub for, of one repository."""

    files: dict = {}
    asked: list = []

    def log_message(self, *args):
        pass

    def do_GET(self):
        found = re.fullmatch(r"/user/model/resolve/(main|v1)/(.+)", self.path)
        self.asked.append((self.command, self.path))
        headers, data, status = {}, b"{}", 404
        if not self.path.startswith("/user/model/"):
            headers["X-Error-Code"] = "RepoNotFound"
        elif found is None:
            headers["X-Error-Code"] = "RevisionNotFound"
        elif found[2] not in self.files:
            headers["X-Error-Code"] = "EntryNotFound"
        else:
            data, status = self.files[found[2]], 200
            headers = {"ETag": f'"{found[2]}"', "X-Repo-Commit": "a" * 40}
        self.send_response(status)
        for name, value in {**headers, "Content-Length": len(data)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    do_HEAD = do_GET


@pytest.fixture
def hub(packed, tmp_path, monkeypatch):
    """A local server in place of the Hub; its `files` and what was `asked`."""
    from huggingface_hub import constants

    class Handler(HubHandler):
        files = dict(packed)
        asked = []

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    url = f"http://127.0.0.1:{server.server_port}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, url)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    yield Handler
    server.shutdown()
    server.server_close()


def downloads(hub) -> list[str]:
    """File names that were fetched, not only asked for."""
    return [
        found[1]
        for method, path in hub.asked
        if method == "GET" and (found := re.search(r"/resolve/\w+/(.+)", path))
    ]


@pytest.mark.parametrize(
    "where", ["user/model", "user/model@v1", "user/model/exp/asr_conformer"]
)
@pytest.mark.parametrize("has_safetensors", [False, True])
def test_a_student_on_the_hub_is_loaded_by_name(hub, asr, where, has_safetensors):
    path, model = asr("conformer")
    model_name = "exp/asr_conformer/valid.loss.ave"
    if has_safetensors:
        safe = write_safetensors(path / "valid.loss.ave.pth", "s.safetensors")
        hub.files[f"{model_name}.safetensors"] = safe.read_bytes()
    speech, lengths = batch_of(0.9)
    found, _ = load_student(where)(speech, lengths)
    assert torch.equal(found, encode(model, speech, lengths)[0])
    suffix = "safetensors" if has_safetensors else "pth"
    expected = {"exp/asr_conformer/config.yaml", f"{model_name}.{suffix}"}
    if "exp" not in where:
        expected.add("meta.yaml")
    assert set(downloads(hub)) == expected  # and no other weights
    asked = {path for _, path in hub.asked if "/resolve/" in path}
    assert all(("/v1/" in path) == ("@" in where) for path in asked)


def test_what_was_fetched_is_loaded_again_without_the_hub(hub, monkeypatch):
    from huggingface_hub import constants

    load_student("user/model")
    for where in ("user/model", "user/model/exp/asr_conformer"):
        load_student(where)
        with monkeypatch.context() as patch:
            patch.setattr(constants, "HF_HUB_OFFLINE", True)
            num_asked = len(hub.asked)
            load_student(where)
            assert len(hub.asked) == num_asked


@pytest.mark.parametrize(
    "where, message",
    [
        ("user/nobody", "no repository user/nobody on .*`hf auth login`"),
        ("user/model@v9", "no repository user/model with a revision v9"),
        ("user/model/exp/none", "expected config.yaml .* found neither"),
        ("exp/mtkd_x", r"no folder exp/mtkd_x here \(looked from .*\), and no repos"),
    ],
)
def test_a_name_that_is_not_on_the_hub_is_refused(hub, where, message):
    with pytest.raises(ConfigError, match=message):
        load_student(where)


def test_a_hub_that_does_not_answer_is_named(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="user/model here .* does not answer"):
        load_student("user/model")


# ------------------------------------------------------------- the page


def test_the_pages_snippets_run(hub, stage1, asr, tmp_path):
    import shutil

    import soundfile

    from espnet_mtkd.teachers.base import parse_teachers
    from espnet_mtkd.teachers.s3prl import S3PRLTeacher

    page = (builders.ROOT / "docs/use_the_encoder.md").read_text()
    run = stage1("conformer")
    for name in ("config.yaml", "valid.loss.best.pth"):
        path = tmp_path / "exp/mtkd_x" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(run.exp / name, path)
        hub.files[f"exp/mtkd_x/{name}"] = path.read_bytes()
    shutil.copytree(asr("conformer")[0], tmp_path / "exp/asr_x")
    soundfile.write("speech.wav", builders.speech_like(1.0, 1), builders.SAMPLE_RATE)
    waveforms, num_samples = batch_of(1.0, 0.7)
    names = {"waveforms": waveforms, "num_samples": num_samples}
    snippets = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    assert len(snippets) == 5
    for snippet in snippets:
        exec(snippet, names)
    assert (tmp_path / "exp/asr_x/valid.loss.ave.safetensors").is_file()
    rows = re.findall(r"^\| (?:.*?)`([^`*]+/[^`*]+)` \|", page, re.M)
    rows += re.findall(r"`(user/model[\w/@]*)`", page)
    assert len(set(rows)) == 3
    for where in rows:
        load_student(where)
    teachers = re.findall(r"^```yaml\n(- name.*?)^```", page, re.M | re.S)
    (teacher,) = map(S3PRLTeacher, parse_teachers(teachers[0]))
    assert teacher.config.upstream == "mtkd_student"


# ------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(encoder="branchformer"), "encoder: expected one of .*found branchformer"),
        (dict(encoder=None), "encoder: expected one of .*found None"),
        (dict(frontend="s3prl"), "frontend: expected one of .*found s3prl"),
        (dict(preencoder="sinc"), "preencoder: expected none, found sinc"),
        (dict(frontend_conf=dict(fs="8k")), "fs: expected 16000, found 8k"),
        (dict(encoder_conf=dict(no_such=1)), "encoder_conf: .*no_such"),
        (dict(encoder="contextual_block_conformer"), "are not those of"),
        (dict(normalize=None), "2 unexpected: normalize.mean, normalize.std"),
        (dict(normalize="utterance_mvn"), "normalize_conf: .*'stats_file'"),
    ],
)
def test_a_config_of_another_model_is_refused(folder, change, message):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    if change.get("encoder") == "contextual_block_conformer":
        change = {**change, "encoder_conf": builders.ENCODERS[change["encoder"]]}
    builders.write_yaml(folder / "config.yaml", {**config, **change})
    with pytest.raises(ConfigError, match=message) as error:
        load_student(folder)
    assert str(folder / "config.yaml") in str(error.value)


def test_all_that_is_wrong_with_a_config_is_said_at_once(folder):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config.update(encoder="rnn", postencoder="length_adaptor")
    builders.write_yaml(folder / "config.yaml", config)
    with pytest.raises(ConfigError, match="(?s)encoder: .*postencoder: "):
        load_student(folder)


@pytest.mark.parametrize(
    "gone, message",
    [
        (["config.yaml"], "expected config.yaml .* or meta.yaml"),
        (["valid.loss.ave.pth"], "expected valid.loss.* found neither"),
        (["config.yaml", "valid.loss.ave.pth"], "expected config.yaml"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused(folder, gone, message):
    for name in gone:
        (folder / name).unlink()
    with pytest.raises(ConfigError, match=message) as error:
        load_student(folder)
    assert str(folder) in str(error.value)


def test_a_model_file_without_its_config_or_of_another_kind_is_refused(folder):
    (folder / "config.yaml").rename(folder / "train.yaml")
    with pytest.raises(ConfigError, match="no such config: .*config.yaml"):
        load_student(folder / "valid.loss.ave.pth")
    with pytest.raises(ConfigError, match="expected a folder, a .pth"):
        load_student(folder / "train.yaml")
    with pytest.raises(ConfigError, match="no such folder or model file"):
        load_student(folder / "nothing/here")


def test_missing_tensors_are_named(folder):
    path = folder / "valid.loss.ave.pth"
    state = torch.load(path, weights_only=True)
    del state["encoder.after_norm.weight"]
    torch.save(state, path)
    with pytest.raises(ConfigError, match="1 missing: encoder.after_norm.weight"):
        load_student(folder)
    del state["normalize.mean"]
    torch.save(state, path)
    with pytest.raises(ConfigError, match="global_mvn, but .*no normalize.mean"):
        load_student(folder)


def ints(*values):
    return torch.tensor(values)


@pytest.mark.parametrize(
    "wav, lengths, options, message",
    [
        (torch.zeros(0, 16000), None, {}, r"at least one utterance, .*\(0, 16000\)"),
        (torch.zeros(16000), None, {}, r"\(B, N\) .*found .*\(16000,\).*wav\[None\]"),
        (torch.zeros(1, 16000, dtype=torch.int16), None, {}, "int16.*by 32768"),
        (torch.zeros(2, 16000), ints(16000), {}, "lengths: expected 2 .*found"),
        (torch.zeros(1, 16000), torch.tensor([1.0]), {}, "whole numbers.*float32"),
        (torch.zeros(2, 16000), ints(16000, 16001), {}, "utterance 1 .*found 16001"),
        (torch.zeros(2, 16000), ints(0, 16000), {}, "utterance 0 .*found 0"),
        (torch.zeros(1, 0), None, {}, "found 0: leave it out"),
        (torch.zeros(1, 8000), None, dict(sample_rate=8000), "16000 Hz, found 8000"),
        (torch.full((2, 16000), torch.nan), None, {}, "utterance 0 .*NaN or infinite"),
    ],
)
def test_a_batch_that_would_give_nonsense_is_refused(
    asr, wav, lengths, options, message
):
    path, _ = asr("conformer")
    with pytest.raises(DataError, match=message):
        load_student(path)(wav, lengths, **options)


def test_one_infinite_sample_is_found_in_its_utterance(asr):
    path, _ = asr("conformer")
    speech, lengths = batch_of(0.5, 0.6)
    speech[1, 77] = torch.inf
    with pytest.raises(DataError, match="utterance 1 .*infinite"):
        load_student(path)(speech, lengths)


# ------------------------------------------------------------- remedies


def change_config(folder, **changes):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    builders.write_yaml(folder / "config.yaml", {**config, **changes})


def other_encoder(folder):
    encoder = "contextual_block_conformer"
    change_config(folder, encoder=encoder, encoder_conf=builders.ENCODERS[encoder])


def drop_mean(folder):
    path = folder / "valid.loss.ave.pth"
    state = torch.load(path, weights_only=True)
    torch.save({k: v for k, v in state.items() if k != "normalize.mean"}, path)


def cut(folder):
    path = folder / "valid.loss.ave.pth"
    path.write_bytes(path.read_bytes()[:-99])


def cut_safetensors(folder):
    path = write_safetensors(folder / "valid.loss.ave.pth")
    path.write_bytes(path.read_bytes()[:-99])


def not_ended(folder):
    (folder / "valid.loss.ave.pth").rename(folder / "3epoch.pth")


def resumable(folder):
    path = folder / "valid.loss.ave.pth"
    state = torch.load(path, weights_only=True)
    torch.save({"model": state, "epoch": 3}, path)


@pytest.mark.remedy(
    "are not those of",
    "Take both from one training",
    "take both from one training",
    "not the config of a student that this package trains",
    "copy or train it anew",
    "copy it anew, or remove it where the .pth lies beside it",
    "train it to its end, or name the model file in place of the folder",
    "take valid.loss.best.pth or the like",
)
@pytest.mark.parametrize(
    "spoil, message, mend",
    [
        (other_encoder, "Take both from one training", "copy"),
        (drop_mean, "take both from one training", "copy"),
        (lambda x: change_config(x, encoder="rnn"), "not the config of", "copy"),
        (cut, "copy or train it anew", "copy"),
        (cut_safetensors, "or remove it where the .pth lies beside it", "remove"),
        (not_ended, "or name the model file in place of the folder", "name"),
        (not_ended, "train it to its end", "copy"),
        (resumable, "take valid.loss.best.pth or the like", "copy"),
    ],
)
def test_what_messages_on_files_say_helps(asr, folder, spoil, message, mend):
    import shutil

    spoil(folder)
    with pytest.raises(ConfigError, match=f"(?s){re.escape(message)}"):
        load_student(folder)
    if mend == "copy":
        shutil.rmtree(folder)
        shutil.copytree(asr("conformer")[0], folder)
    elif mend == "remove":
        (folder / "valid.loss.ave.safetensors").unlink()
    load_student(folder / "3epoch.pth" if mend == "name" else folder)


@pytest.mark.remedy(
    "resample the audio (torchaudio.functional.resample)",
    "repair the audio or leave it out",
    "samples, found {}: leave it out",
)
def test_what_messages_on_waveforms_say_helps(asr):
    import torchaudio

    student = load_student(asr("conformer")[0])
    speech, lengths = batch_of(0.5, 0.6)
    with pytest.raises(DataError, match="torchaudio.functional.resample"):
        student(speech[:, ::2], lengths // 2, sample_rate=8000)
    student(torchaudio.functional.resample(speech[:, ::2], 8000, 16000))
    bad = speech.clone()
    bad[1, 5] = torch.nan
    with pytest.raises(DataError, match="repair the audio or leave it out"):
        student(bad, lengths)
    student(bad.nan_to_num(), lengths)
    student(bad[:1], lengths[:1])
    with pytest.raises(DataError, match="utterance 1 .* found 3: leave it out"):
        student(speech, torch.stack([lengths[0], torch.tensor(3)]))


@pytest.mark.remedy("does not answer", "or a private one: check the name")
def test_what_messages_on_the_hub_say_helps(hub, packed, tmp_path, monkeypatch):
    """A right name, and what was downloaded elsewhere; no log-in."""
    from huggingface_hub import constants

    with pytest.raises(ConfigError, match="check the name; `hf auth login`"):
        load_student("user/modle")
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(HubError, match="download the repository elsewhere and"):
            load_student("user/model")
        for name, content in packed.items():
            path = tmp_path / "elsewhere" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        load_student(tmp_path / "elsewhere")
    load_student("user/model")
