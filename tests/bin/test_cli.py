"""The command lines: frozen, each with an example, strict about unknown flags."""

import importlib
import re
import subprocess
import sys

import builders
import pytest

ROOT = builders.ROOT

# What scripts out there may use. A name may be added here, never taken away.
FLAGS = {
    "mtkd_asr_stream": "asr_model_file asr_train_config beam_size bpemodel chunk_ms "
    "dtype endpoint_silence max_segment max_symbols_per_frame microphone model_tag "
    "ngpu num_streams num_threads out real_time resume search_type wav_scp",
    "mtkd_cat_wav": "audio",
    "mtkd_compare": "seeds",
    "mtkd_convert_checkpoint": "checkpoint upstream out",
    "mtkd_doctor": "teachers data_dir out_dir nj list_upstreams",
    "mtkd_extract": "teachers data_dir shape_dir out_dir form num_codebooks exact "
    "batch_seconds shard_bytes ngpu dtype rank world_size nj info verify",
    "mtkd_extract_paths": "asr_exp model_file data_dir shape_dir out_dir num_tokens "
    "exact batch_seconds ngpu rank world_size nj",
    "mtkd_fetch_whisper": "model out_dir source decoder",
    "mtkd_format_audio": "data_dir out_dir channel min_duration max_duration cut "
    "perturbed nj",
    "mtkd_handover": "checkpoint mtkd_config asr_config asr_args wav_scp",
    "mtkd_ladder": "template set cuda_cmd plan",
    "mtkd_pack": "asr_exp asr_model_file mtkd_exp mtkd_model_file kd_teacher_exp out "
    "license language corpus dataset title limits teacher inference_config "
    "inference_args ignore_names",
    "mtkd_preflight": "teachers data_dir distinct ends license asr_config lengths "
    "keep_teachers",
    "mtkd_pseudo_label": "labelled unlabelled decode_dir asr_exp model_file "
    "shape_dir min_confidence min_tokens_per_second max_tokens_per_second max_repeats "
    "out_dir reference curve ngpu nj text alone",
    "mtkd_report": "expdir rows espnet_results compare command note report_mb "
    "without_audio",
    "mtkd_transcribe": "model data_dir out like case language beam_size batch_size "
    "compute_type num_threads ngpu nj min_confidence min_agreement max_no_speech "
    "max_compression max_repeats min_chars_per_second max_chars_per_second reference",
    "mtkd_upload": "archive hf_repo dry_run out_dir private ignore_names",
    # beside all of ESPnet's
    "mtkd_train": "teachers student_config teacher_memory_mb teacher_dtype targets_dir "
    "target_type "
    "unlabelled_wav_scp unlabelled_shape_file unlabelled_ratio align target_delay "
    "loss_conf objective_conf mask_conf noise_conf init frontend frontend_conf "
    "specaug specaug_conf "
    "normalize normalize_conf encoder encoder_conf save_interval_minutes",
}


def flags_of(parser) -> set[str]:
    return {
        option.removeprefix("--")
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--") and option != "--help"
    }


def module(name):
    return importlib.import_module(f"espnet_mtkd.bin.{name}")


def test_every_entry_is_frozen_here():
    entries = {p.stem for p in (ROOT / "espnet_mtkd/bin").glob("mtkd_*.py")}
    # mtkd_espnet takes those of what it runs.
    assert entries == {*FLAGS, "mtkd_espnet"}


@pytest.mark.parametrize("name", FLAGS)
def test_the_flags_are_those_promised(name):
    expected = set(FLAGS[name].split())
    found = flags_of(module(name).get_parser())
    if name == "mtkd_train":
        from espnet2.tasks.abs_task import AbsTask

        espnet = flags_of(AbsTask.get_parser())
        assert espnet <= found
        found -= espnet
    assert found == expected


@pytest.mark.parametrize("name", FLAGS)
def test_help_works_and_its_example_is_a_command_that_parses(name, capsys):
    with pytest.raises(SystemExit) as end:
        module(name).main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert re.search("example:", text, re.I)
    command = text[text.index(f"python -m espnet_mtkd.bin.{name}") :]
    lines = []
    for line in command.splitlines():
        lines.append(line.strip().removesuffix("\\"))
        if not line.rstrip().endswith("\\"):
            break
    for path in re.findall(r"conf/\S+\.yaml", " ".join(lines)):
        recipe = ROOT / "egs2/asterisk/mtkd1"
        assert (ROOT / path).is_file() or (recipe / path).is_file(), path
    flags = set(re.findall(r"--(\w+)", " ".join(lines)))
    assert flags and flags <= flags_of(module(name).get_parser())


@pytest.mark.parametrize("name", FLAGS)
def test_an_unknown_flag_ends_with_code_2(name, capsys):
    with pytest.raises(SystemExit) as end:
        module(name).main(["--no_such_flag", "1"])
    assert end.value.code == 2


def test_espnets_commands_run_with_the_plugins_classes(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)  # put back behind the test
    main = module("mtkd_espnet").main
    with pytest.raises(SystemExit) as end:
        main(["-m", "espnet2.bin.asr_train", "--help"])
    assert end.value.code == 0
    assert "--path_kd_conf" in capsys.readouterr().out
    script = tmp_path / "script.py"
    script.write_text("import sys; print('arguments', sys.argv[1:])")
    main([str(script), "--a", "1"])
    assert "arguments ['--a', '1']" in capsys.readouterr().out
    for command in ([], ["--no_such_flag", "1"]):
        with pytest.raises(SystemExit) as end:
            main(command)
        assert end.value.code == 2
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0


def test_the_doctor_wants_something_to_do(capsys):
    for command in ([], ["--data_dir", "somewhere"]):
        with pytest.raises(SystemExit) as end:
            module("mtkd_doctor").main(command)
        assert end.value.code == 2
    assert "--out_dir" in capsys.readouterr().err


@pytest.mark.remedy(
    "unknown upstream",
    "All names: python -m",
)
def test_the_doctor_lists_upstreams_and_shows_each_target(two_teachers, capsys):
    main = module("mtkd_doctor").main
    main(["--list_upstreams"])
    names = capsys.readouterr().out.split()
    assert {"hubert_base", "wavlm_large", "whisper_local", "fbank"} <= set(names)
    main(["--teachers", str(two_teachers)])
    lines = capsys.readouterr().out.splitlines()
    rows = {
        x.split()[0]: x.split() for x in lines if x.startswith(("whisper", "hubert"))
    }
    assert set(rows) == {"whisper_l3", "hubert_l1", "hubert_l4"}
    columns = next(x.split() for x in lines if x.startswith("target"))
    row = dict(zip(columns, rows["hubert_l1"], strict=True))
    assert (row["hidden"], row["dim"], row["shift/ms"]) == ("5", "16", "20")
    assert row["weight"] == "0.25"


# ------------------------------------------------------------- shell


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The asterisk recipe in a tree of its own, with its links made."""
    folder = builders.mirror_recipe(tmp_path_factory.mktemp("tree"), "asterisk")
    subprocess.run([ROOT / "egs2/TEMPLATE/mtkd1/setup.sh", folder], check=True)
    return folder


def run(folder, *command):
    """Result of a command; its help and messages, in whatever stream, in `stdout`."""
    return builders.run_group(command, folder)


def test_help_of_mtkd_sh_names_every_option_with_its_default(recipe):
    table = (ROOT / "egs2/TEMPLATE/mtkd1/options.txt").read_text()
    options = dict(re.findall(r"^(\w+) *\| *(.*?) *\|", table, re.M))
    assert len(options) > 40
    result = run(recipe, "./mtkd.sh", "--help")
    assert result.returncode == 0
    text = re.sub(r"\n {20,}# ", " ", result.stdout)  # an option a line
    lines = dict(re.findall(r"^ +--(\w+) +# (.*)$", text, re.M))
    assert lines.keys() == options.keys()
    for name, default in options.items():
        if default:
            assert f'(default="{default}").' in lines[name]
        else:
            assert re.search(r"default|required", lines[name]), lines[name]


def test_every_declared_option_of_mtkd_sh_is_used():
    folder = ROOT / "egs2/TEMPLATE/mtkd1"
    table = (folder / "options.txt").read_text()
    text = "".join((folder / f"{x}.sh").read_text() for x in ("mtkd", "stages"))
    declared = set(re.findall(r"^(\w+) *\|", table, re.M))
    assert declared <= set(re.findall(r"\w+", text))


@pytest.mark.parametrize(
    "command, code, message",
    [
        ("./mtkd.sh --no_such_option 1", (1, 2), "no_such_option"),
        ("./mtkd.sh a_positional_argument", (2,), "no positional arguments"),
        ("./mtkd.sh --train_set train", (2,), "--valid_set is required"),
        (
            "./mtkd.sh --train_set a --valid_set b --test_sets c --encoder lstm",
            (2,),
            "expected conformer or contextual_block_conformer, found 'lstm'",
        ),
        (
            "./mtkd.sh --train_set a --valid_set b --test_sets c --teachers no.yaml",
            (2,),
            "--teachers: no such file: no.yaml",
        ),
        (
            "./mtkd.sh --train_set a --valid_set b --test_sets c --expdir a:b",
            (2,),
            "--expdir: expected a name without spaces, quotes, ':'",
        ),
        (
            "./run.sh --budget tiny",
            (2,),
            "expected smoke, default, ladder or full, found 'tiny'",
        ),
        ("./run.sh --budget", (2,), "--budget needs a value"),
        ("./ladder.sh --encoder conformer", (2,), "the ladder's option is --encoders"),
        ("./ladder.sh --encoders lstm", (2,), "found 'lstm'"),
        ("./ladder.sh --rows best", (2,), "found 'best'"),
        ("./ladder.sh --rows unlabelled", (2,), "needs --unlabelled_sets"),
        ("./ladder.sh --head_epochs 0", (2,), "expected a number above 0, found '0'"),
    ],
)
def test_a_wrong_command_line_of_the_recipe_names_the_fault(
    recipe, command, code, message
):
    result = run(recipe, *command.split())
    assert result.returncode in code
    assert message in result.stdout


def test_help_of_run_sh_goes_on_with_that_of_mtkd_sh(recipe):
    result = run(recipe, "./run.sh", "--help")
    assert result.returncode == 0
    for part in ("--budget", "smoke", "full", "--rows", "--train_config"):
        assert part in result.stdout


def test_setup_sh_of_the_template_keeps_own_files_and_repairs_links(tmp_path):
    setup = ROOT / "egs2/TEMPLATE/mtkd1/setup.sh"
    target = tmp_path / "egs2/mine/mtkd1"
    target.mkdir(parents=True)
    (target / "cmd.sh").write_text("# mine\n")
    (target / "utils").symlink_to("/nowhere")
    for _ in range(2):
        subprocess.run([setup, target], check=True, capture_output=True)
        assert (target / "cmd.sh").read_text() == "# mine\n"
        assert (target / "utils/parse_options.sh").is_file()
        assert (target / "asr.sh").is_file()
    assert run(tmp_path, setup).returncode == 2
