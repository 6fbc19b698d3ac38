"""Rows in YAML: what mtkd.sh is called with, what is shared, what is refused."""

import re
import shlex
import subprocess
from pathlib import Path

import builders
import pytest
import yaml

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.ladder.jobs import Jobs, devices_of_each
from espnet_mtkd.ladder.options import Options, check_passed, given
from espnet_mtkd.ladder.plan import Plan, describe

TEMPLATE = builders.ROOT / "egs2/TEMPLATE/mtkd1"
VALUES = dict(
    **dict(rows="", rows_config="", jobs="", encoders="conformer", seeds="0"),
    **dict(teachers="conf/teachers.yaml", single_teachers="", unlabelled_sets=""),
    **dict(kd_teacher_config="conf/t.yaml", kd_teacher_args="", kd_teacher_tag="t"),
    **dict(
        pretrain_epochs="60", head_epochs="8", finetune_epochs="32", head_lr="0.003"
    ),
    **dict(finetune_lr="0.001", mtkd_args="", asr_args="", head_args="", note=""),
    **dict(report_mb="10"),
    **dict(
        finetune_args="", scratch_args="", expdir="exp", python="python3", command=""
    ),
)


@pytest.fixture(autouse=True)
def recipe(tmp_path, monkeypatch):
    """A folder with three teachers."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()
    teachers = [dict(name=x, upstream="fbank") for x in ("a", "b", "c")]
    builders.write_yaml(tmp_path / "conf/teachers.yaml", teachers)
    return tmp_path


def plan(own=None, /, **values) -> Plan:
    """The plan with these rows beside the template's."""
    if own is not None:
        builders.write_yaml(Path("conf/rows.yaml"), own)
        values.setdefault("rows_config", "conf/rows.yaml")
    return Plan({**VALUES, **values}, TEMPLATE)


def of(plan: Plan, title: str):
    (row,) = (x for x in plan.rows if x.title == title)
    return row


ALL = "scratch single live teachers kd unlabelled pseudo"
MORE = dict(
    single_teachers="conf/teacher_x.yaml y.yaml", unlabelled_sets="data/u data/v "
)


def test_the_names_of_the_known_rows_are_those_of_finished_experiments():
    """Who has trained a row before finds it finished: title, stage 1, stage 2."""
    found = [(x.title, x.mtkd_tag, x.tag) for x in plan(rows=ALL, **MORE).rows]
    assert found == [
        ("from scratch", "none", "scratch"),
        ("x alone", "teacher_x", "teacher_x"),
        ("y alone", "y", "y"),
        ("all teachers, live", "teachers", "teachers"),
        ("all teachers", "teachers_stored", "teachers_stored"),
        ("+ path KD", "teachers_stored", "teachers_kd"),
        ("+ unlabelled audio", "teachers_unlabelled", "teachers_unlabelled"),
        ("+ pseudo-labels", "teachers_unlabelled", "teachers_pseudo"),
    ]


def test_the_options_of_the_known_rows_are_letter_by_letter_those_of_before():
    """A stage whose options are written in another way would run again."""
    found = plan(
        **MORE,
        rows=ALL,
        mtkd_args="--a 1  2",
        asr_args="--b 'x y'",
        head_args="--h 1",
        scratch_args="--s 1",
    )
    head = "--max_epoch 8 --optim_conf lr=0.003 --h 1"
    fine = "--max_epoch 32 --optim_conf lr=0.001"
    taught = dict(
        **dict(mtkd_args="--max_epoch 60 --a 1  2", asr_args="--b 'x y'"),
        **dict(head_args=head, finetune_args=fine),
    )
    stored = dict(teachers="conf/teachers.yaml", teacher_mode="cached", **taught)
    kd = dict(kd_teacher_exp="exp/asr_t", **stored)
    unlabelled = dict(unlabelled_sets="data/u data/v ", **kd)
    assert [x.options for x in found.rows] == [
        dict(teachers="none", asr_args="--max_epoch 40 --b 'x y' --s 1"),
        {**stored, "teachers": "conf/teacher_x.yaml"},
        {**stored, "teachers": "y.yaml"},
        {**stored, "teacher_mode": "live"},
        stored,
        kd,
        unlabelled,
        dict(pseudo_labels="true", **unlabelled),
    ]
    assert found.needs_teacher and not plan(rows="scratch live").needs_teacher


def test_a_row_changes_one_thing_of_the_row_it_adds_to():
    found = plan(
        [
            dict(
                name="longer",
                adds_to="kd",
                title="+ longer",
                options=dict(finetune_args="--max_epoch 99", nbpe=100, paths_args=None),
            ),
            dict(name="words", adds_to="longer", options="--kd_args '--x 1' --nbpe=7"),
        ],
        rows="all",
    )
    kd = plan(rows="kd").rows[0]
    longer, words = found.rows
    fine = kd.options["finetune_args"] + " --max_epoch 99"
    changes = dict(finetune_args=fine, nbpe="100", paths_args="")
    assert longer.options == {**kd.options, **changes}
    assert words.options == {**longer.options, "kd_args": "--x 1", "nbpe": "7"}
    assert (words.tag, words.title) == ("teachers_kd_longer_words", "words")
    assert words.others == ("+ longer",) and longer.others == ()  # kd is not asked for
    assert {x.mtkd_tag for x in found.rows} == {"teachers_stored"}


def test_a_stage_1_of_the_same_options_is_trained_once():
    change = dict(mtkd_args="--loss_conf cosine=0")
    rows = [
        dict(name="a", adds_to="teachers", options=change),
        dict(name="b", adds_to="kd", options={**change, "kd_args": "--x 1"}),
        dict(name="c", adds_to="b", options=dict(asr_args="--y 1")),
        dict(name="d", adds_to="teachers", options=dict(teacher_mode="live")),
        dict(name="e", adds_to="teachers", options=dict(unlabelled_ratio=0.5)),
        dict(name="f", adds_to="teachers", options=dict(unlabelled_ratio=1.0)),
    ]
    tags = {x.name: x.mtkd_tag for x in plan(rows, rows="all").rows}
    assert tags["a"] == tags["b"] == tags["c"] == "teachers_stored_a"
    assert tags["d"] == "teachers"  # the row live is the first with these options
    assert tags["e"] == "teachers_stored_e"
    assert tags["f"] == "teachers_stored"  # 1.0 is mtkd.sh's default
    # The other way round in the file, and without the row that it is called after.
    assert {x.name: x.mtkd_tag for x in plan(rows[::-1], rows="c b").rows} == {
        "b": "teachers_kd_b",
        "c": "teachers_kd_b",
    }


def test_each_teacher_is_left_out_once():
    found = plan(rows="teachers loo single", single_teachers="conf/teacher_a.yaml")
    found.write_teachers()
    for label in "abc":
        row = of(found, f"without {label}")
        file = f"exp/teachers/teachers_without_{label}.yaml"
        assert row.options == {**of(found, "all teachers").options, "teachers": file}
        assert row.tag == row.mtkd_tag == f"teachers_without_{label}"
        left = yaml.safe_load(Path(file).read_text())
        assert [x["name"] for x in left] == [x for x in "abc" if x != label]
    others = ("a alone", "without a", "without b", "without c")
    assert of(found, "all teachers").others == others
    before = Path(file).stat().st_mtime_ns
    found.write_teachers()
    assert Path(file).stat().st_mtime_ns == before


def test_rows_are_compared_once_with_what_they_add_to_and_with_others():
    found = plan(**{"rows": ALL, **MORE})
    assert {x.title: x.others for x in found.rows} == {
        "from scratch": (),
        "x alone": ("from scratch",),
        "y alone": ("from scratch",),
        "all teachers, live": ("from scratch", "x alone", "y alone"),
        "all teachers": ("from scratch", "x alone", "y alone"),
        "+ path KD": ("all teachers",),
        "+ unlabelled audio": ("+ path KD",),
        "+ pseudo-labels": ("+ unlabelled audio",),
    }
    pairs = Jobs(found, VALUES, []).pairs()
    assert ("conformer: + path KD", "conformer: all teachers") in pairs


def test_a_row_that_adds_to_a_repeated_one_is_repeated_with_it():
    rows = [dict(name="soft", adds_to="single", title="{label}, soft", options={})]
    found = plan(rows, rows="single soft", single_teachers="p.yaml q.yaml")
    assert [(x.title, x.tag, x.mtkd_tag) for x in found.rows[2:]] == [
        ("p, soft", "p_soft", "p"),
        ("q, soft", "q_soft", "q"),
    ]
    assert [x.others for x in found.rows[2:]] == [("p alone",), ("q alone",)]


def test_a_recipes_own_file_takes_the_place_of_known_rows(recipe):
    own = [dict(name="kd", title="mine", adds_to="teachers"), dict(name="new")]
    builders.write_yaml(recipe / "conf/ladder.yaml", own)
    found = plan(rows="kd")
    assert found.rows[0].title == "mine" and not found.needs_teacher
    assert [x.name for x in plan(rows="all teachers").rows] == [
        *("kd", "new", "teachers")
    ]


def test_the_plan_is_a_row_a_line():
    lines = describe(plan(rows="scratch kd")).splitlines()
    cells = [x.split("\t") for x in lines]
    assert [x[0] for x in cells] == ["scratch", "kd"]
    assert cells[1][2:4] == [
        "mtkd_<encoder>_teachers_stored",
        "asr_<encoder>_teachers_kd",
    ]
    words = shlex.split(cells[1][4])
    assert given(words, "kd_teacher_exp") == "exp/asr_t"


def row(**keys) -> list[dict]:
    return [{"name": "x", **keys}]


BAD = {
    "unknown parent": (
        row(adds_to="teacher"),
        "'x': adds_to: no such row: teacher (the ",
    ),
    "closest": (row(adds_to="teacher"), "closest: teachers"),
    "compare": (row(compare_with="sratch"), "compare_with: no such row: sratch (the "),
    "circle": (
        [dict(name="x", adds_to="y"), dict(name="y", adds_to="x")],
        "goes in a circle: x <- y <- x",
    ),
    "itself": (row(adds_to="x"), "goes in a circle: x <- x"),
    "option": (
        row(options=dict(nbp=1)),
        "no such option of mtkd.sh: nbp (the closest: ",
    ),
    "ladder's": (row(options=dict(seed=1)), "seed: the ladder sets it"),
    "run's": (row(options=dict(force=True)), "force is one of a run as a whole"),
    "twice": ([dict(name="x"), dict(name="x")], "two rows are called 'x'"),
    "slash": ([dict(name="a/b")], "row 'a/b': name: expected at most 80 letters"),
    "space": ([dict(name="a b")], "row 'a b': name: expected"),
    "dots": ([dict(name="..")], "row '..': name: expected"),
    "all": ([dict(name="all")], "not 'all'"),
    "no name": ([dict(title="x")], "row 1: expected a mapping with a name"),
    "no list": (dict(name="x"), "expected a list of rows"),
    "key": (row(add_to="kd"), "no such key: add_to (the closest: adds_to"),
    "title": (row(title="a = b"), "title: expected a line without '=' and ': '"),
    "titles": ([dict(name=x, title="t") for x in "xy"], "would be called 't': x and y"),
    "tag": (row(tag="a/b"), "tag: expected a part of a directory's name"),
    "tags": ([dict(name=x, tag="t") for x in "xy"], "called 't': x and y"),
    "each": (row(each="teacher"), "each: expected single_teachers or left_out_teacher"),
    "each each": (row(adds_to="single", each="single_teachers"), "is repeated already"),
    "place": (row(options=dict(mtkd_args="{epochs}")), "no such placeholder: {epochs}"),
    "list": (row(options=[1]), "options: expected a mapping, or words"),
    "word": (row(options="nbpe 1"), "expected --option value, found 'nbpe'"),
    "quote": (row(options="--nbpe '1"), "No closing quotation"),
    "value": (row(options="--nbpe"), "--nbpe needs a value"),
    "nested": (row(options=dict(nbpe=dict(a=1))), "nbpe: expected a word or a number"),
    "dump": (
        [dict(name="x"), dict(name="y", options=dict(max_wav_duration=9))],
        "x has max_wav_duration '20' and y '9', but both write to one --dumpdir",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_row_is_refused_with_what_is_wrong(name):
    rows, message = BAD[name]
    with pytest.raises(ConfigError) as error:
        plan(rows, rows="all")
    assert message in str(error.value)
    assert name in ("titles", "tags", "dump") or "conf/rows.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            dict(rows="teacher kd"),
            "--rows: no such row, found 'teacher' (the closest: t",
        ),
        (dict(rows="all"), "--rows all: means those of --rows_config"),
        (dict(rows="pseudo"), "the row pseudo needs --unlabelled_sets"),
        (dict(rows="single"), "the row single needs --single_teachers"),
        (
            dict(rows="single", single_teachers="a/x.yaml b/x.yaml"),
            "'x alone': single is repeated",
        ),
        (dict(rows_config="no.yaml"), "--rows_config: no such file: no.yaml"),
        (dict(rows="loo", teachers="no.yaml"), "--teachers: no such file: no.yaml"),
        (dict(rows="loo", teachers="one.yaml"), "needs at least two teachers"),
        (dict(head_epochs="0"), "--head_epochs: expected a number above 0, found '0'"),
        (dict(encoders="lstm"), "--encoders: expected conformer or"),
    ],
)
def test_a_wrong_option_is_refused_with_what_is_wrong(recipe, values, message):
    builders.write_yaml(recipe / "one.yaml", [dict(name="a", upstream="fbank")])
    with pytest.raises(ConfigError) as error:
        plan(**{"rows": "scratch", **values})
    assert message in str(error.value)


def refused(own=None, /, **values) -> str:
    with pytest.raises(ConfigError) as error:
        plan(own, **values)
    return str(error.value)


@pytest.mark.remedy("no such row")
def test_a_row_is_called_as_the_closest_name_says():
    closest = re.compile(r"the closest: (\w+)")
    name = closest.search(refused(rows="teacher"))[1]
    assert [x.name for x in plan(rows=name).rows] == ["teachers"]
    for key in ("adds_to", "compare_with"):
        name = closest.search(refused(row(**{key: "sratch"}), rows="all"))[1]
        assert plan(row(**{key: name}), rows="scratch all").rows[1].others == (
            "from scratch",
        )


@pytest.mark.remedy("no such option of mtkd.sh", "no such placeholder")
def test_what_may_be_written_stands_where_the_page_says():
    """In `mtkd.sh --help` and in the head of the ladder's YAML."""
    message = refused(row(options=dict(mtkd_arg="--x {epochs}")), rows="all")
    assert "no such option of mtkd.sh: mtkd_arg" in message
    command = [TEMPLATE / "mtkd.sh", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    options = set(re.findall(r"^ *--(\w+)", text, re.M)) & {"mtkd_args", "asr_args"}
    assert len(options) == 2
    text = (TEMPLATE / "conf/ladder.yaml").read_text().partition("\n- ")[0]
    words = set(re.findall(r"\{(\w+)\}", text)) - {"word"}
    assert len(words) == 6
    for option in options:
        message = refused(row(options={option: "--x {epochs}"}), rows="all")
        assert "no such placeholder: {epochs}" in message
        value = " ".join(f"{{{x}}}" for x in [*words, "pretrain_epochs", "teachers"])
        rows = row(options={option: value}, title="{label}", each="left_out_teacher")
        rows[0]["tag"] = "x_{label}"
        assert len(plan(rows, rows="all").rows) == 3


@pytest.mark.remedy(
    "would be called",
    "{} and {}: give them different {}s",
)
@pytest.mark.parametrize("what", ["title", "tag"])
def test_rows_are_called_differently(what):
    rows = [dict(name=x) for x in "xy"]
    for entry in rows:
        entry[what] = "t"
    assert f"x and y: give them different {what}s" in refused(rows, rows="all")
    rows[1][what] = "u"
    assert {getattr(x, what) for x in plan(rows, rows="all").rows} == {"t", "u"}


@pytest.mark.remedy("{}{} is repeated: write {label} into its")
@pytest.mark.parametrize("what", ["title", "tag"])
@pytest.mark.parametrize("each", ["single_teachers", "left_out_teacher"])
def test_repeated_rows_are_called_differently(recipe, what, each):
    values = dict(rows="all", single_teachers="p/a.yaml q/b.yaml")
    keys = dict(title="{label}", tag="x_{label}", each=each)
    message = refused(row(**{**keys, what: "same"}), **values)
    assert (
        f"would be called 'same': x is repeated: write {{label}} into its {what}"
        in (message)
    )
    plan(row(**{**keys, what: "same_{label}"}), **values)
    # With it, what the label is made of may be alike.
    if each == "single_teachers":
        values["single_teachers"] = "p/a.yaml q/a.yaml"
    else:
        teachers = [dict(name=x, upstream="fbank") for x in "aab"]
        builders.write_yaml(recipe / "conf/teachers.yaml", teachers)
    message = refused(row(**keys), **values)
    assert "rename what is called alike of --single_teachers or --teachers" in message
    values["single_teachers"] = "p/a.yaml q/b.yaml"
    teachers = [dict(name=x, upstream="fbank") for x in "abc"]
    builders.write_yaml(recipe / "conf/teachers.yaml", teachers)
    plan(row(**keys), **values)


@pytest.mark.remedy("give it a tag of at most 150 letters")
def test_a_long_chain_of_rows_is_given_a_tag():
    names = [x * 60 for x in "abc"]
    rows = [
        dict(name=x, adds_to=y)
        for x, y in zip(names, ["teachers", *names[:-1]], strict=True)
    ]
    assert "give it a tag of at most 150 letters" in refused(rows, rows="all")
    rows[-1]["tag"] = "c"
    assert plan(rows, rows="all").rows[-1].tag == "c"


@pytest.mark.remedy("GPUs on this machine, found")
@pytest.mark.parametrize("what", ["fewer jobs", "--ngpu 0"])
def test_too_few_gpus(monkeypatch, what):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ConfigError, match=f"found 1: give .*{what}"):
        devices_of_each(["--ngpu", "1"], 2, "run.pl", "x")
    if what == "fewer jobs":
        devices_of_each(["--ngpu", "1"], 1, "run.pl", "x")
    else:
        devices_of_each(["--ngpu", "0"], 2, "run.pl", "x")


def test_the_teacher_transducer_has_a_dumpdir_too():
    rows = row(adds_to="kd", options=dict(max_wav_duration=9))
    assert "the teacher transducer has max_wav_duration '20' and x '9'" in refused(
        rows, rows="all"
    )
    rows[0]["options"]["dumpdir"] = "dump9"
    assert plan(rows, rows="all").needs_teacher
    plan(row(adds_to="kd", options=dict(max_wav_duration=20)), rows="all kd")


def test_a_name_in_two_files_of_the_user_is_refused(recipe):
    for name in ("a", "b"):
        builders.write_yaml(recipe / f"{name}.yaml", row())
    with pytest.raises(
        ConfigError, match="b.yaml: row 'x': a row of that name is in a"
    ):
        plan(rows_config="a.yaml b.yaml")


@pytest.mark.parametrize(
    "word", ["--asr-tag", "--mtkd_exp=x", "--encoder", "--teacher_mode", "--seed"]
)
def test_what_rows_are_told_apart_by_is_no_option_for_all(word):
    name = word.partition("=")[0].replace("-", "_").strip("_")
    with pytest.raises(ConfigError, match=f"--{name}: "):
        check_passed([word, "x"])


@pytest.mark.parametrize(
    "path", sorted(builders.ROOT.glob("egs2/*/mtkd1/conf/ablation*.yaml")), ids=str
)
def test_rows_that_are_shipped_can_be_planned(recipe, path):
    found = plan(rows="all", rows_config=str(path), unlabelled_sets="data/u")
    assert len(found.rows) > 2
    assert len({x.tag for x in found.rows}) == len(found.rows)
    names = [row["name"] for row in yaml.safe_load(path.read_text())]
    assert list(dict.fromkeys(x.name for x in found.rows)) == names


# ------------------------------------------------------------- beside each other


def stages_of(job) -> set[int]:
    """Numbers of the stages that a job does not skip."""
    skipped = {int(x) for x in given(job.command, "skip_stages").split()}
    last = int(given(job.command, "stop_stage", "13"))
    return {n for n in range(1, min(last, 13) + 1) if n not in skipped}


def test_what_rows_share_is_one_job_and_comes_first():
    values = {**VALUES, "rows": "scratch teachers kd unlabelled pseudo", **MORE}
    values["seeds"] = "0 1"
    jobs = Jobs(Plan(values, TEMPLATE), values, ["--ngpu", "0"]).split(3)
    names = [x.name for x in jobs]
    assert len(set(names)) == len(names)
    pretrainings = [x for x in jobs if 9 in stages_of(x)]
    assert [x.name for x in pretrainings] == [
        f"mtkd_conformer_teachers_{x}{y}"
        for x in ("stored", "unlabelled")
        for y in ("", "_seed1")
    ]
    data = [x for x in jobs if 1 in stages_of(x)]
    assert {x.alone for x in data} == {"data"} and len(data) == 4
    for job in jobs:
        assert all(names.index(x) < names.index(job.name) for x in job.needs)
        assert stages_of(job) in ({*range(1, 9)}, {9}, {10, 11, 12, 13})
        assert given(job.command, "num_threads") == "3"
        if job in data + pretrainings:  # the teacher need not be there yet
            assert not given(job.command, "kd_teacher_exp")
    needs = {x.name: x.needs for x in jobs}
    rest = needs["asr_conformer_teachers_pseudo_seed1"]
    assert {"asr_t", "mtkd_conformer_teachers_unlabelled_seed1"} < set(rest)
    assert "asr_t" not in needs["asr_conformer_teachers_stored"]


@pytest.mark.parametrize(
    ("passed", "expected"),
    [
        (["--stop_stage", "8"], [{1, 2, 3, 4, 5, 6, 7, 8}]),
        (["--stop_stage", "6"], [{1, 2, 3, 4, 5, 6}]),
        (["--stop_stage", "9"], [{*range(1, 9)}, {9}]),
        (["--stage", "9"], [{9}, {10, 11, 12, 13}]),
        (["--stage=12"], [{10, 11, 12, 13}]),
        (["--stop_stage", "0"], []),
        (["--skip_stages", "6 12"], [{1, 2, 3, 4, 5, 7, 8}, {9}, {10, 11, 13}]),
    ],
)
def test_stages_that_are_asked_for_are_those_of_the_parts(passed, expected):
    values = {**VALUES, "rows": "teachers"}
    jobs = Jobs(Plan(values, TEMPLATE), values, passed).split(1)
    assert [stages_of(x) for x in jobs] == expected


def test_rows_that_would_write_what_others_read_run_after_each_other(recipe):
    for name, hop in (("train_asr_conformer_transducer", 160), ("b", 80), ("c", 160)):
        config = dict(frontend_conf=dict(hop_length=hop), max_epoch=len(name))
        builders.write_yaml(recipe / f"conf/{name}.yaml", config)
    for options, why in (
        (dict(asr_config="conf/c.yaml", nbpe=9), ""),
        (dict(asr_config="conf/b.yaml"), "different front ends"),
        (dict(asr_args="--frontend_conf hop_length=80"), "different front ends"),
        (dict(speed_perturb_factors="0.9 1.0"), "different training sets"),
    ):
        own = [dict(name="x", adds_to="teachers", options=options)]
        found = Jobs(plan(own, rows="teachers x"), VALUES, []).why_one_at_a_time()
        assert why in found and bool(why) == bool(found)
    for passed, why in (
        (["--force", "true"], "--force true does again"),
        (["--stage", "3"], "--stage 3 does again"),
        (["--stage", "9"], ""),
        (["--stage=12"], ""),
    ):
        found = Jobs(plan(rows="teachers"), VALUES, passed).why_one_at_a_time()
        assert why in found and bool(why) == bool(found)


def test_the_teacher_transducer_comes_before_rows_that_have_it_as_a_teacher(recipe):
    text = (recipe / "conf/teachers.yaml").read_text()
    text += "- {name: t, upstream: espnet, path_or_url: exp/asr_t}\n"
    (recipe / "conf/more.yaml").write_text(text)
    own = [dict(name="x", adds_to="teachers", options=dict(teachers="conf/more.yaml"))]
    values = {**VALUES, "rows": "teachers x", "rows_config": "conf/rows.yaml"}
    found = plan(own, rows="teachers x")
    assert found.needs_teacher and not plan(rows="teachers").needs_teacher
    jobs = {x.name: x for x in Jobs(found, values, []).split(1)}
    for name, needed in (("teachers_stored", False), ("teachers_stored_x", True)):
        (data,) = jobs[f"mtkd_conformer_{name}"].needs
        assert ("asr_t" in jobs[data].needs) == needed
    assert Jobs(found, values, []).whole()[0].name == "asr_t"


def test_each_job_has_gpus_of_its_own(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,GPU-x,7")
    assert devices_of_each([], 2, "run.pl --mem 1", "x") == ["4", "5"]
    assert devices_of_each(["--ngpu", "2"], 2, "", "x") == ["4,5", "GPU-x,7"]
    with pytest.raises(ConfigError, match="expected 6 GPUs on this machine, found 4"):
        devices_of_each(["--ngpu=2"], 3, "run.pl", "x")
    for passed, num, cmd in (
        ([], 1, "run.pl"),
        (["--ngpu", "0"], 2, "run.pl"),
        ([], 9, "slurm.pl"),
    ):
        assert devices_of_each(passed, num, cmd, "x") is None


def test_the_options_that_decide_stage_1_are_among_mtkd_shs():
    options = Options(TEMPLATE / "options.txt")
    assert options.pretraining < set(options.names)
    assert options.data < set(options.names)
