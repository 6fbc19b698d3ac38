"""Which stages mtkd.sh runs: when, and only when, what they depend on has changed."""

import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import builders
import pytest
import stub_recipe
from stub_recipe import calls, run

from espnet_mtkd.ladder.options import OF_A_RUN, OWN, Options

# A run in which nearly every option has a say.
BASE = dict(
    encoder="contextual_block_conformer",
    teacher_mode="cached",
    unlabelled_sets="data/es",
    kd_teacher_exp="exp/asr_teacher",
    pseudo_labels="true",
    mtkd_tag="m",
    asr_tag="a",
    skip_packing="false",
    license="cc-by-4.0",
)
# What follows from each stage, by number.
NEXT = {
    **{1: [], 3: [4], 4: [5, 7], 5: [6], 6: [11], 7: [8], 8: [9], 9: [10, 11]},
    **{10: [], 11: [12], 12: [13], 13: [14], 14: []},
}
ALL = set(NEXT)
NONE = set()
# Option -> another value, and the stages whose own result it decides.
CHANGES = {
    **dict(force=("true", ALL), local_data_opts=("--x 1", {1})),
    **{x: ("true", NONE) for x in ("skip_data_prep", "skip_train", "skip_eval")},
    **dict(skip_packing=("true", NONE), skip_stages=("7", NONE)),
    **{x: ("2", NONE) for x in ("num_nodes", "nj", "inference_nj", "num_threads")},
    **dict(gpu_inference=("true", NONE), extract_nj=("2", NONE), nbpe=("9", NONE)),
    **dict(bpemode=("bpe", NONE), seed=("1", {9, 11}), audio_format=("wav", {3})),
    **dict(fs=("16000", NONE), channel=("1", {3}), min_wav_duration=("0.2", {4, 7})),
    **dict(max_wav_duration=("9", {4, 7}), cut_unlabelled=("false", {7})),
    **dict(lang=("de", {5}), token_type=("bpe", {5}), train_set=("other_train", {3})),
    **dict(valid_set=("new", {3}), unlabelled_ratio=("2", {9})),
    **dict(unlabelled_sets=("data/test", {7}), teachers=("conf/other.yaml", {7})),
    **dict(train_config=("conf/other_train.yaml", {9}), teacher_mode=("live", {9})),
    **dict(extract_args=("--form fp16", {8}), mtkd_args=("--max_epoch 9", {9})),
    **dict(pretrained_checkpoint=("2epoch.pth", {10, 11}), encoder=("conformer", {9})),
    **dict(asr_config=("conf/other_asr.yaml", {10, 11}), asr_args=("--x 1", {11})),
    **dict(head_args=("--x 1", {11}), finetune_args=("--x 1", {11})),
    **dict(feats_normalize=("utterance_mvn", {9, 11})),
    **dict(keep_teachers=("weight=100 decay=linear", {11})),
    **dict(kd_teacher_exp=("exp/asr_teacher2", {11})),
    **dict(kd_teacher_model=("valid.loss.best.pth", {11}), kd_args=("--x 1", {11})),
    **dict(paths_args=("--num_tokens 4", {11}), pseudo_labels=("false", {11})),
    **dict(pseudo_args=("--min_confidence 0.1", {11}), pseudo_alone=("true", {11})),
    **dict(inference_config=("conf/other_decode.yaml", {11, 12})),
    **dict(inference_args=("--x 1", {11, 12}), stream_decode=("false", {14})),
    **dict(
        inference_asr_model=("valid.loss.best.pth", {12}), stream_args=("--x", {12})
    ),
    **dict(license=("mit", {14}), language=("de", {14}), pack_args=("--x 1", {14})),
    **dict(hf_repo=("user/model", NONE), upload_args=("--private true", NONE)),
}
# These name directories: what is made there anew, whatever follows from it elsewhere.
PLACES = {
    "dumpdir": ("dump2", {1, 3, 4, 5, 6, 7, 8, 11}),
    "expdir": ("exp2", {6, 7, 8, 9, 10, 11, 12, 13, 14}),
    "targets_dir": ("exp/t2", {8}),
    "paths_dir": ("exp/p2", {11}),
    "mtkd_tag": ("m2", {9, 10}),
    "mtkd_exp": ("exp/m2", {9, 10}),
    "asr_tag": ("a2", {10, 11, 12, 13, 14}),
    "asr_exp": ("exp/a2", {10, 11, 12, 13, 14}),
}
# Tested by themselves, below: which stages are asked for, and what they run with.
OTHERS = set("stage stop_stage dry_run ngpu python skip_upload_hf test_sets".split())
OTHERS |= {"speed_perturb_factors", "pseudo_text", "pseudo_whisper", "transcribe_args"}
OTHERS |= {"teacher_dtype"}


def closure(stages: set[int]) -> set[int]:
    found, todo = set(), list(stages)
    while todo:
        stage = todo.pop()
        if stage not in found:
            found.add(stage)
            todo += NEXT[stage]
    return found


def planned(result) -> set[int]:
    """Numbers of the stages that --dry_run says would run."""
    assert result.returncode == 0, result.stdout[-3000:]
    lines = re.findall(r"Stage (\d+): .*: (would run: |finished before)", result.stdout)
    assert lines
    return {int(number) for number, what in lines if what != "finished before"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A recipe of which all stages have run."""
    recipe = stub_recipe.build(tmp_path_factory.mktemp("stub"))
    for name in ("train_mtkd", "decode_asr"):
        text = (recipe / f"conf/{name}.yaml").read_text()
        other = name.replace("train_mtkd", "train").replace("decode_asr", "decode")
        (recipe / f"conf/other_{other}.yaml").write_text(text + "\nanother_key: 1\n")
    text = (recipe / f"conf/train_asr_{BASE['encoder']}_transducer.yaml").read_text()
    (recipe / "conf/other_asr.yaml").write_text(text + "\nanother_key: 1\n")
    (recipe / "conf/other.yaml").write_text("- {name: b, upstream: whisper_tiny}\n")
    result = run(recipe, **BASE)
    assert result.returncode == 0, result.stdout[-3000:]
    return recipe


def test_every_option_is_looked_at():
    table = (builders.ROOT / "egs2/TEMPLATE/mtkd1/options.txt").read_text()
    options = set(re.findall(r"^(\w+) *\|", table, re.M))
    assert options == {*CHANGES, *PLACES, *OTHERS}


def test_the_ladder_knows_which_options_decide_stage_1_and_the_data():
    """Rows that differ in others share a stage 1, or a run of stages 1 to 8."""
    template = builders.ROOT / "egs2/TEMPLATE/mtkd1"
    found = Options(template / "options.txt")
    deciding = {name: closure(stages) for name, (_, stages) in CHANGES.items()}
    of_a_row = deciding.keys() - OWN - OF_A_RUN - {"local_data_opts"}
    expected = {x for x in of_a_row if 9 in deciding[x]}
    assert expected <= found.pretraining
    # (fs has two names for one value; targets_dir is where they are)
    more = {"encoder", "speed_perturb_factors", "fs", "targets_dir", "asr_config"}
    more |= {"teacher_dtype"}
    assert found.pretraining <= expected | more
    expected = {x for x in of_a_row if deciding[x] & {*range(1, 9)}}
    assert expected - {"unlabelled_ratio"} <= found.data


@pytest.mark.slow
def test_changing_an_option_runs_what_depends_on_it_and_nothing_else(finished):
    assert planned(run(finished, **BASE, dry_run="true")) == set()

    def plan(item):
        name, (value, _) = item
        return planned(run(finished, **{**BASE, name: value, "dry_run": "true"}))

    items = [*CHANGES.items(), *PLACES.items()]
    calls(finished)
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip([x for x, _ in items], pool.map(plan, items), strict=True))
    assert calls(finished) == []
    expected = {name: closure(stages) for name, (_, stages) in CHANGES.items()}
    expected |= {name: stages for name, (_, stages) in PLACES.items()}
    wrong = {
        name: (sorted(found[name]), sorted(expected[name]))
        for name in found
        if found[name] != expected[name]
    }
    assert not wrong


@pytest.fixture
def recipe(tmp_path):
    return stub_recipe.build(tmp_path)


def test_a_new_test_set_costs_its_own_stages(recipe):
    (recipe / "checkpoints").touch()
    assert run(recipe).returncode == 0
    calls(recipe)
    result = run(recipe, test_sets="test new")
    assert result.returncode == 0, result.stdout[-2000:]
    found = [x.split()[1:3] for x in calls(recipe) if x.startswith("asr")]
    sets = {int(stage): x.removeprefix("sets=").split(",") for stage, x in found}
    assert set(sets) == {3, 4, 12, 13}  # (data/new is there: stage 1 is not needed)
    assert all("new" in sets[n] and "test" not in sets[n] for n in (3, 4, 12, 13))


def test_what_an_editor_leaves_in_local_changes_nothing(recipe):
    assert run(recipe).returncode == 0
    for name in ("data.sh~", ".data.sh.swp", "data.sh.bak", "#data.sh#"):
        (recipe / "local" / name).write_text("x")
    assert planned(run(recipe, dry_run="true")) == set()
    (recipe / "local/data.sh").write_text("#!/usr/bin/env bash\necho new\n")
    assert planned(run(recipe, dry_run="true")) == {1}


@pytest.mark.parametrize("factors", ["0 1.0", "0.9 1 1.0"])
def test_speeds_that_no_corpus_can_have_are_refused_at_once(recipe, factors):
    result = run(recipe, speed_perturb_factors=factors)
    assert result.returncode == 2 and calls(recipe) == []
    assert "--speed_perturb_factors: " in result.stdout


def test_a_training_with_other_settings_is_refused_before_anything_runs(recipe):
    (recipe / "checkpoints").touch()
    assert run(recipe, asr_tag="a").returncode == 0
    calls(recipe)
    text = (recipe / "data/train/text").read_text().replace("ONE", "SIX")
    for change, named in (
        (lambda: None, '--seed: was "0", is "1"'),
        (lambda: (recipe / "data/train/text").write_text(text), "data/train/text: was"),
    ):
        change()
        options = {} if "text" in named else dict(seed="1")
        result = run(recipe, asr_tag="a", **options)
        assert result.returncode == 2
        message = result.stdout.splitlines()[-1]
        assert "exp/asr_a holds a training with other settings" in message
        assert named in message
        assert message.index("another name") < message.index("or remove")
        assert calls(recipe) == []


def test_kept_teachers_reach_the_part_whose_encoder_learns(recipe):
    result = run(recipe, keep_teachers="weight=100 until=0.5", mtkd_tag="m")
    assert result.returncode == 0, result.stdout[-2000:]
    head, whole = (x for x in calls(recipe) if x.startswith("asr 11"))
    assert "/head " in head and "keep_teachers" not in head
    checkpoint = "exp/mtkd_m/valid.loss.best.pth"
    words = (
        f"--keep_teachers_from,{checkpoint}",
        "--keep_teachers_conf,weight=100,--keep_teachers_conf,until=0.5,",
    )
    assert ",".join(words) in whole
    assert "exp/asr_m_keepweight100until0.5_" in whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(teachers="none", keep_teachers="weight=3"), "with --teachers none"),
        (dict(keep_teachers="wieght=3"), "did you mean 'weight'?"),
        (dict(keep_teachers="true"), "expected words <key>=<value>"),
        (dict(keep_teachers="weight=3 unlabelled=0.5"), "needs --unlabelled_sets"),
    ],
)
def test_kept_teachers_that_mean_nothing_are_refused_at_once(recipe, options, message):
    result = run(recipe, **options)
    assert result.returncode == 2 and message in result.stdout
    assert calls(recipe) == []


@pytest.mark.remedy("--teacher_dtype: expected nothing with --teacher_mode")
def test_the_data_type_of_live_teachers_is_stage_9s(recipe):
    options = dict(mtkd_tag="m", asr_tag="a")
    assert run(recipe, **options).returncode == 0
    calls(recipe)
    changed = dict(options, teacher_dtype="bfloat16")
    found = planned(run(recipe, **changed, dry_run="true"))
    assert found == closure({9}) - {14}  # (packing is not asked for)
    result = run(recipe, teacher_dtype="bfloat16", stop_stage="9")
    assert result.returncode == 0, result.stdout[-2000:]
    (line,) = [x for x in calls(recipe) if "mtkd_train" in x]
    assert "--teacher_dtype bfloat16" in line and "_bfloat16 " in line
    result = run(recipe, teacher_dtype="bf16")
    assert result.returncode == 2 and "expected float32 or bfloat16" in result.stdout
    cached = dict(teacher_mode="cached", stop_stage="9")
    result = run(recipe, **cached, teacher_dtype="bfloat16")
    assert result.returncode == 2
    remedy = 'give --extract_args "--dtype bfloat16" instead'
    assert remedy in result.stdout
    assert run(recipe, **cached, extract_args="--dtype bfloat16").returncode == 0


@pytest.mark.parametrize("name", ["wav.scp", "text", "audio"])
def test_changed_data_is_seen(recipe, name):
    assert run(recipe, teachers="none").returncode == 0
    if name == "audio":  # exchanged under its name, of the same size
        (recipe / "data/train/train-1.flac").write_text("train-2")
    else:
        path = recipe / "data/train" / name
        path.write_text(path.read_text().replace("train-1 ", "train-1  "))
    found = planned(run(recipe, teachers="none", dry_run="true"))
    assert found == {3, 4, 5, 6, 11, 12, 13}


def test_of_an_espnet_teacher_only_config_and_models_count(recipe):
    teacher = recipe / "exp/asr_teacher"
    (teacher / "config.yaml").write_text("encoder: conformer\n")
    (recipe / "conf/teachers.yaml").write_text(
        f"- {{name: a, upstream: espnet_local, path_or_url: {teacher}}}\n"
    )
    options = dict(stop_stage="9", stage="1")
    (recipe / "bin/python3").write_text(
        (recipe / "bin/python3").read_text().replace("*mtkd_preflight* | ", "")
    )
    assert run(recipe, **options).returncode == 0
    (teacher / "RESULTS.md").write_text("written by scoring\n")
    (teacher / "train.log").write_text("...\n")
    assert planned(run(recipe, stop_stage="9", dry_run="true")) == set()
    (teacher / "valid.loss.ave.pth").write_text("other weights")
    assert planned(run(recipe, stop_stage="9", dry_run="true")) == {7, 9}


def test_corrected_transcripts_do_not_cost_the_pretraining(recipe):
    assert run(recipe).returncode == 0
    path = recipe / "data/train/text"
    path.write_text(path.read_text().replace("ONE", "SIX"))
    assert planned(run(recipe, dry_run="true")) == {3, 4, 5, 6, 11, 12, 13}


def test_data_that_was_moved_away_after_its_formatting_is_no_change(recipe):
    assert run(recipe).returncode == 0
    (recipe / "data").rename(recipe / "elsewhere")
    result = run(recipe, stage="2", skip_stages="3", dry_run="true")
    assert planned(result) == set()


def test_the_stage_that_is_asked_for_runs_again_and_says_so(recipe):
    assert run(recipe).returncode == 0
    calls(recipe)
    result = run(recipe, stage="12")
    assert "(again: asked for by --stage 12)" in result.stdout
    assert [x.split()[1] for x in calls(recipe)] == ["12"]
    assert "Stage 13: " in result.stdout and result.returncode == 0


def test_two_unlabelled_sets_of_one_name_are_both_heard(recipe):
    for language in ("es", "fr"):
        stub_recipe.add_set(recipe / f"corpora/{language}/train", with_text=False)
    sets = "corpora/es/train corpora/fr/train"
    result = run(recipe, unlabelled_sets=sets, stop_stage="9")
    assert result.returncode == 0, result.stdout[-2000:]
    (line,) = [x for x in calls(recipe) if "mtkd_train" in x]
    scps = re.findall(r"\S+unlabelled_\S+/wav\.scp", line)
    heard = [(recipe / x).read_text() for x in dict.fromkeys(scps)]
    assert len(heard) == 2 and heard[0] != heard[1]


def test_pseudo_labels_do_not_need_teachers(recipe):
    options = dict(teachers="none", kd_teacher_exp="exp/asr_teacher")
    result = run(recipe, **options, unlabelled_sets="data/es", pseudo_labels="true")
    assert result.returncode == 0, result.stdout[-2000:]
    assert any("mtkd_pseudo_label" in x for x in calls(recipe))


def with_text(recipe, text="es-0 ONE\n"):
    (recipe / "whisper.txt").write_text(text)
    return dict(unlabelled_sets="data/es", pseudo_text="whisper.txt", asr_tag="a")


def test_transcripts_of_any_recogniser_need_no_teacher(recipe):
    options = with_text(recipe)
    result = run(recipe, **options, teachers="none")
    assert result.returncode == 0, result.stdout[-2000:]
    found = calls(recipe)
    (line,) = [x for x in found if "mtkd_pseudo_label" in x]
    assert "--text whisper.txt --labelled dump/raw/train --unlabelled" in line
    assert not {"--asr_exp", "--decode_dir", "--alone"} & set(line.split())
    assert "--out_dir dump/raw/train_pseudo_text_whisper --" in line
    trained = [x for x in found if x.startswith("asr 11")]
    assert trained and all("sets=train_pseudo_text_whisper," in x for x in trained)


@pytest.mark.parametrize("change", ["text", "confidences", "alone"])
def test_other_transcripts_train_anew(recipe, change):
    options = with_text(recipe)
    assert run(recipe, **options).returncode == 0
    assert planned(run(recipe, **options, dry_run="true")) == set()
    if change == "text":
        options = with_text(recipe, "es-0 THREE FOUR\n")
    elif change == "confidences":
        (recipe / "whisper.txt.confidence").write_text("es-0 0.9\n")
    else:
        options["pseudo_alone"] = "true"
    assert planned(run(recipe, **options, dry_run="true")) == {11, 12, 13}


def with_whisper(recipe):
    (recipe / "whisper").mkdir(exist_ok=True)
    for name in ("model.bin", "tokenizer.json"):
        (recipe / "whisper" / name).touch()
    return dict(unlabelled_sets="data/es", pseudo_whisper="whisper", asr_tag="a")


def test_whisper_transcribes_before_the_training(recipe):
    options = with_whisper(recipe)
    result = run(recipe, **options, teachers="none")
    assert result.returncode == 0, result.stdout[-2000:]
    found = calls(recipe)
    (first, second) = [x for x in found if "_transcribe " in x or "_pseudo_label " in x]
    assert "mtkd_transcribe --model whisper --data_dir dump/raw/unlabelled_es" in first
    assert "--like data/train/text --out exp/mtkd_text/whisper.txt" in first
    assert "mtkd_pseudo_label --text exp/mtkd_text/whisper.txt" in second
    trained = [x for x in found if x.startswith("asr 11")]
    assert trained and all("sets=train_pseudo_text_whisper," in x for x in trained)


@pytest.mark.parametrize(
    "lang, given, expected",
    [
        ("noinfo", "", None),
        ("es", "", "--language es"),
        ("es", "--min_confidence 0.7", "--language es --min_confidence 0.7"),
        ("es", "--language pt", "--language pt"),
    ],
)
def test_whisper_hears_the_corpus_s_language(recipe, lang, given, expected):
    options = dict(with_whisper(recipe), teachers="none", stop_stage="11")
    result = run(recipe, **options, lang=lang, transcribe_args=given)
    assert result.returncode == 0, result.stdout[-2000:]
    (call,) = [x for x in calls(recipe) if "mtkd_transcribe " in x]
    if expected is None:
        assert "--language" not in call
    else:
        assert call.endswith(expected) and call.count("--language") == 1


@pytest.mark.parametrize("change", ["arguments", "model", "audio"])
def test_whisper_transcribes_again_where_something_is_new(recipe, change):
    options = with_whisper(recipe)
    assert run(recipe, **options).returncode == 0
    assert planned(run(recipe, **options, dry_run="true")) == set()
    expected = {11, 12, 13}
    if change == "arguments":
        options["transcribe_args"] = "--min_confidence 0.7"
    elif change == "model":
        (recipe / "whisper/model.bin").write_text("another")
    else:
        (recipe / "data/es/es-0.flac").write_text("another recording")
        expected |= {7, 9, 10}
    result = run(recipe, **options, dry_run="true")
    assert planned(result) == expected
    assert "Stage 11: transcripts: whisper, data/es" in result.stdout


@pytest.mark.parametrize(
    "options, message",
    [
        (
            dict(pseudo_whisper="none", unlabelled_sets="data/es"),
            "found no none/model.bin: fetch one",
        ),
        (dict(pseudo_text="none.txt", unlabelled_sets="data/es"), "no such file: none"),
        (dict(pseudo_text="a.txt"), "expected --unlabelled_sets, whose transcripts"),
        (dict(pseudo_alone="true"), "--pseudo_alone true needs --pseudo_whisper"),
        (
            dict(
                pseudo_text="a.txt",
                pseudo_labels="true",
                kd_teacher_exp="exp/asr_teacher",
                unlabelled_sets="data/es",
            ),
            "expected no --pseudo_labels true",
        ),
    ],
)
def test_options_of_pseudo_labels_that_do_not_fit_are_refused(recipe, options, message):
    (recipe / "a.txt").write_text("es-0 ONE\n")
    result = run(recipe, **options)
    assert result.returncode == 2 and message in result.stdout
    assert calls(recipe) == []


def test_nothing_in_pack_args_is_run(recipe):
    options = dict(skip_packing="false", license="mit")
    result = run(
        recipe, **options, pack_args="--limits 'a $(touch hacked) b' --title x"
    )
    assert result.returncode == 0, result.stdout[-2000:]
    (line,) = [x for x in calls(recipe) if "mtkd_pack" in x]
    assert "--limits a $(touch hacked) b --title x" in line
    assert not (recipe / "hacked").exists()


def test_gpus_that_are_not_there_are_missed_before_stage_1(recipe):
    result = run(recipe, env={"CUDA_VISIBLE_DEVICES": ""}, ngpu="1")
    assert result.returncode == 2 and calls(recipe) == []
    assert "--ngpu: expected 1 GPU(s) on this machine, found 0" in result.stdout
    (recipe / "cmd.sh").write_text("train_cmd=x cuda_cmd=slurm.pl decode_cmd=x\n")
    result = run(recipe, env={"CUDA_VISIBLE_DEVICES": ""}, ngpu="1", stop_stage="5")
    assert result.returncode == 0


def test_two_runs_of_one_experiment_the_second_names_the_first(recipe):
    assert run(recipe, stop_stage="7").returncode == 0
    calls(recipe)
    env = {"STUB_SLEEP": "3"}
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: run(recipe, env=env), range(2)))
    assert sorted(r.returncode for r in results) == [0, 2]
    refused = next(r for r in results if r.returncode)
    assert re.search(
        r"another run is at it \(host \S+, pid \d+, since ", refused.stdout
    )
    found = calls(recipe)
    assert sum("espnet2.bin.launch" in x for x in found) == 1


def test_two_rows_that_share_stage_1_come_to_its_hand_over_together(recipe):
    """Stage 10 looks at stage 1's directory and writes nothing that another reads."""
    python = recipe / "bin/python3"
    text = python.read_text()
    slow = 'case "$*" in *mtkd_handover*) sleep 3 ;; esac\n'
    python.write_text(text.replace("next=\n", f"{slow}next=\n", 1))
    assert run(recipe, mtkd_tag="m", asr_tag="a", stop_stage="9").returncode == 0
    with ThreadPoolExecutor(2) as pool:
        results = list(
            pool.map(lambda x: run(recipe, mtkd_tag="m", asr_tag=x), ("a", "b"))
        )
    assert [r.returncode for r in results] == [0, 0], results[0].stdout[-2000:]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_to_the_script_ends_all_that_it_started(recipe, number):
    words = [x for k, v in stub_recipe.OPTIONS.items() for x in (f"--{k}", v)]
    with open(recipe / "log", "w") as log:
        process = subprocess.Popen(
            ["./mtkd.sh", *words, "--teachers", "none"],
            cwd=recipe,
            env={
                "PATH": "/usr/bin:/bin",
                "PYTHONPATH": str(builders.ROOT),
                "STUB_SLEEP": "60",
            },
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    for _ in range(300):
        if any(
            x.startswith("asr 11") for x in (recipe / "calls").read_text().splitlines()
        ):
            break
        time.sleep(0.1)
    process.send_signal(number)
    try:
        assert process.wait(20) == 128 + number
        assert builders.session_of(process.pid) == []
    finally:
        builders.kill_session(process.pid)
    log = (recipe / "log").read_text()
    assert "run the same command again" in log.splitlines()[-1]
