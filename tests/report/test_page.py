"""report.html from real sclite output: its numbers, its size, what it leaves out."""

import base64
import dataclasses
import html.parser
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import report_recipe
import soundfile
from sclite_scores import HYPOTHESES, REFERENCE, error_rate, needs_sclite, score

from espnet_mtkd.bin import mtkd_report
from espnet_mtkd.errors import ConfigError
from espnet_mtkd.report import audio
from espnet_mtkd.report.page import LEAST_ROOM, _sounds, write_page
from espnet_mtkd.report.svg import WIDTHS
from espnet_mtkd.report.titles import run_titles, title_of
from espnet_mtkd.report.utterances import read_alignments, read_test_sets, read_trn

pytestmark = needs_sclite


class Page(html.parser.HTMLParser):
    """What a browser would find: tables by section, scripts of data, text."""

    def __init__(self, text: str):
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.data: dict[str, str] = {}
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self._section = self._script = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if tag == "section":
            self._section = attrs.get("id", "")
        if tag == "script":
            self._script = attrs.get("id", "code")
        if tag == "tr":
            self.tables.setdefault(self._section, []).append([])
        if tag in ("td", "th"):
            self.tables[self._section][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._in_cell = False
        if tag == "script":
            self._script = ""

    _in_cell = False

    def handle_data(self, data):
        if self._script:
            self.data[self._script] = self.data.get(self._script, "") + data
        elif self._in_cell:
            self.tables[self._section][-1][-1] += data.strip()
        else:
            self.text.append(data)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "egs2/words/mtkd1"
    rows = report_recipe.build(folder)
    report_recipe.write_audio(folder)
    return folder, rows


@pytest.fixture(scope="module")
def page(recipe) -> Page:
    folder, rows = recipe
    path = write_page(
        folder / "exp", rows, "run.sh --x", "A <b>note</b>.", report_recipe.PAIRS
    )
    return Page(path.read_text())


def number(cell: str) -> float:
    return float(cell.replace("\u2212", "-"))


def test_error_rates_are_those_of_the_scoring_files(page):
    """Against counts of the textbook's edit distance over the .trn files' words."""
    head, *lines = page.tables["table"]
    columns = [x.split(" /")[0] for x in head]
    found = {(x[0], x[1]): dict(zip(columns, x, strict=True)) for x in lines}
    texts = dict(HYPOTHESES)
    texts["less"] = [f"{report_recipe.EVIL} PRESS", *HYPOTHESES["scratch"][1:]]
    expected = {
        ("from scratch", "test"): "scratch",
        ("two teachers", "test"): "taught",
        ("without hubert", "test"): "less",
        ("streaming", "test"): "taught",
        ("streaming", "test, streamed"): "taught",
    }
    assert found.keys() == expected.keys()
    base = error_rate(texts["scratch"], "wer")
    for key, name in expected.items():
        wer, cer = (error_rate(texts[name], unit) for unit in ("wer", "cer"))
        assert number(found[key]["WER"]) == pytest.approx(wer, abs=0.051)
        if name != "less":  # whose letters sclite's weights align otherwise
            assert number(found[key]["CER"]) == pytest.approx(cer, abs=0.051)
        if key[1] == "test" and name != "scratch":
            werr = 100 * (1 - wer / base)
            assert number(found[key]["WERR"]) == pytest.approx(werr, abs=0.051)
    assert found["two teachers", "test"]["size"] == "2.87"
    assert found["streaming", "test, streamed"]["RTF"] == "0.075"


def test_hypotheses_and_alignments_are_the_files_own(page, recipe):
    folder, rows = recipe
    (dset,) = json.loads(page.data["data"])["sets"]
    assert dset["name"] == "test" and dset["total"] == len(REFERENCE)
    assert dset["decodings"] == [
        *("from scratch", "two teachers", "without hubert", "streaming"),
        "streaming, streamed",
    ]
    assert dset["best"] == 1  # of those alike the first
    changes = []
    for name, reference, heard in dset["utterances"]:
        i = int(name.removeprefix("spk-utt"))
        assert reference == REFERENCE[i]
        assert heard[1][0] == HYPOTHESES["taught"][i]
        for text, ops, errors in heard:
            assert len(text.split()) == sum(ops.count(x) for x in "CSI")
            assert len(reference.split()) == sum(ops.count(x) for x in "CSD")
            assert errors == len(ops) - ops.count("C")
            # An operation C is of two words that are the same.
            refs, hyps = iter(reference.split()), iter(text.split())
            for op in ops:
                ref = next(refs) if op in "CSD" else None
                hyp = next(hyps) if op in "CSI" else None
                assert (op == "C") == (ref is not None and ref == hyp)
        errors = [x[2] for x in heard]
        changes.append(max(errors) - min(errors))
    assert changes == sorted(changes, reverse=True) and changes[0] > 0


def test_text_of_files_is_text_on_the_page(page, recipe):
    folder, _ = recipe
    source = (folder / "exp/report.html").read_text()
    assert report_recipe.EVIL not in source
    assert any(report_recipe.EVIL in x for x in _strings(json.loads(page.data["data"])))
    assert source.count("<script") == 3
    assert "A <b>note</b>." in "".join(page.text)


def _strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for x in value.values() if isinstance(value, dict) else value:
            yield from _strings(x)


def test_nothing_is_asked_of_a_network(page, recipe):
    folder, _ = recipe
    source = (folder / "exp/report.html").read_text()
    for tag, attrs in page.tags:
        for key in ("src", "href", "xlink:href", "poster", "data", "action"):
            value = attrs.get(key, "")
            assert value == "" or value.startswith(("#", "data:")), (tag, value)
    names = set(re.findall(r"https?://[^\s\"'<>)]+", source))
    assert names <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "@import" not in source and not re.search(r"url\((?!#)", source)


def test_ids_are_unique_and_links_lead_somewhere(page):
    assert len(page.ids) == len(set(page.ids))
    for _, attrs in page.tags:
        for key in ("href", "xlink:href"):
            if attrs.get(key, "").startswith("#"):
                assert attrs[key][1:] in page.ids


def test_charts_say_in_words_what_they_show(page):
    charts = [x for tag, x in page.tags if tag == "svg"]
    assert len(charts) == 2 * 7  # two widths each
    alts = {x["aria-label"] for x in charts}
    assert len(alts) == 7
    wer = error_rate(HYPOTHESES["taught"], "wer")
    assert any(f"two teachers on test: {wer:.1f} %" in x for x in alts)
    assert any("two teachers 0.500" in x and "hubert, layer 2" in x for x in alts)


def test_heat_is_the_last_value_of_each_target(page):
    cosine, loss = (
        [x for x in page.tables["targets"] if x[0] == name]
        for name in ("hubert", "wavlm")
    )
    # (the middle one is without hubert)
    assert cosine == [
        ["hubert", "2", "0.500", "\u00b7", "0.500"],
        ["hubert", "2", "0.900", "\u00b7", "0.900"],
    ]
    assert loss == [["wavlm", "10", *["0.750"] * 3], ["wavlm", "10", *["0.600"] * 3]]


def test_what_a_teacher_added_is_the_difference_of_two_rows(page):
    """Positive where the row with it is better, whichever of a pair came first."""
    less = [f"{report_recipe.EVIL} PRESS", *HYPOTHESES["scratch"][1:]]
    points = error_rate(less, "wer") - error_rate(HYPOTHESES["taught"], "wer")
    (alt,) = {
        x["aria-label"]
        for tag, x in page.tags
        if tag == "svg" and x["aria-label"].startswith("What each teacher added")
    }
    assert f"hubert, test: {points:.1f} points" in alt
    by_pair = {(x[0], x[1]): number(x[3]) for x in page.tables["comparisons"][1:]}
    found = by_pair["without hubert", "two teachers"]
    assert found == pytest.approx(-points, abs=0.051)


def test_latencies_and_stages_are_those_of_the_logs(page):
    assert page.tables["latency"][1] == [
        "streaming, test",
        f"{error_rate(HYPOTHESES['taught'], 'wer'):.1f}",
        *("12", "480", "720", "495", "741"),
    ]
    head, first, second, total = page.tables["cost"]
    assert first[:4] == ["from scratch", "11", "transducer training", "1 h 02 min"]
    assert second[:4] == ["two teachers", "9", "pre-training", "75 s"]
    assert total[3] == "1 h 03 min"


def test_disk_is_the_sum_of_the_files(page, recipe):
    folder, _ = recipe
    for line, name in zip(
        page.tables["cost"][1:3], ("asr_scratch", "mtkd_taught"), strict=True
    ):
        files = (folder / "exp" / name).rglob("*")
        expected = sum(x.stat().st_size for x in files if x.is_file()) / 1000
        assert line[4] == f"{expected:.0f} kB" and line[5] == f"exp/{name}"


def test_how_rows_were_made_stands_below(page):
    text = "".join(page.text)
    for part in (
        *("run.sh --x", "python3 -m espnet2.bin.asr_train --tag taught"),
        *("pytorch version", "2.11", "machine of stage 2", "2 cores of A, Linux"),
    ):
        assert part in text
    first, *_, last = json.loads(page.data["data"])["configs"]
    assert first["config"]["stage 2: optim_conf.lr"] == "0.1"
    assert last["config"]["stage 1: teachers.hubert"] == "{layers: [2], name: hubert}"


def test_audio_is_what_was_spoken(page):
    """The pitch of each decoded Opus file is that of its utterance."""
    audio = json.loads(page.data["audio"])
    assert audio["words"] == "4 of 4 utterances have audio."
    (sounds,) = audio["sounds"]
    assert len(sounds) == 4
    for name, text in sounds.items():
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(text)))
        spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
        pitch = np.fft.rfftfreq(len(samples), 1 / rate)[spectrum.argmax()]
        expected = 300 + 200 * int(name.removeprefix("spk-utt"))
        assert abs(pitch - expected) < 10
        assert len(samples) / rate == pytest.approx(0.5, abs=0.03)


@pytest.mark.remedy("--report_mb: expected")
def test_the_page_keeps_to_its_size_and_says_what_is_too_little(recipe, tmp_path):
    folder, rows = recipe
    exp = folder / "exp"
    whole = write_page(exp, rows, pairs=report_recipe.PAIRS).read_bytes()
    audio = json.loads(Page(whole.decode()).data["audio"])["sounds"][0]
    order = [x[0] for x in _utterances(whole)]
    # Room for all but the last two sounds: those that changed least are left out.
    without = sum(len(audio[x]) + len(x) + 10 for x in order[2:])
    limit = (len(whole) - without + LEAST_ROOM) / 1e6
    smaller = write_page(
        exp, rows, pairs=report_recipe.PAIRS, max_mb=limit
    ).read_bytes()
    assert len(smaller) <= limit * 1e6
    found = json.loads(Page(smaller.decode()).data["audio"])
    assert set(found["sounds"][0]) == set(order[:2])
    assert "2 of 4 utterances have audio (--report_mb" in found["words"]
    with pytest.raises(ConfigError, match="--report_mb: expected at least") as e:
        write_page(exp, rows, pairs=report_recipe.PAIRS, max_mb=0.01)
    enough = float(re.search(r"at least ([\d.]+)", str(e.value))[1])
    path = write_page(exp, rows, pairs=report_recipe.PAIRS, max_mb=enough)
    assert path.stat().st_size <= enough * 1e6


def _utterances(page: bytes):
    return json.loads(Page(page.decode()).data["data"])["sets"][0]["utterances"]


def test_what_there_is_nothing_of_is_one_line(tmp_path):
    score(tmp_path / "exp/asr_a", HYPOTHESES["taught"])
    path = write_page(tmp_path / "exp", [("a", tmp_path / "exp/asr_a")])
    page = Page(path.read_text())
    assert not {"comparisons", "teachers", "targets", "training", "latency", "cost"} & {
        *page.ids
    }
    assert sum(tag == "svg" for tag, _ in page.tags) == 2  # the ladder alone
    text = "".join(page.text)
    for word in (
        "Comparisons",
        "each teacher added",
        "Curves",
        "Latency",
        "Time and disk",
    ):
        assert re.search(rf"{word}[^\n]*: .*\.", text), word
    assert json.loads(page.data["audio"])["words"].startswith("No audio: no wav.scp")


def test_audio_that_cannot_be_read_is_said_on_the_page(tmp_path):
    score(tmp_path / "exp/asr_a", HYPOTHESES["taught"])
    files = report_recipe.write_audio(tmp_path)
    files[0].write_bytes(files[0].read_bytes()[:20])
    files[1].unlink()
    path = write_page(tmp_path / "exp", [("e: a", tmp_path / "exp/asr_a")])
    audio = json.loads(Page(path.read_text()).data["audio"])
    assert sorted(audio["sounds"][0]) == ["spk-utt2", "spk-utt3"]
    assert "2 of 3 utterances have audio; 1 cannot be read" in audio["words"]
    assert "utt0.flac: unreadable" in audio["words"]


def test_the_command_writes_all_three_and_checks_the_size(tmp_path, capsys):
    score(tmp_path / "asr_a", HYPOTHESES["taught"])
    command = ["--expdir", str(tmp_path), "--rows", f"e: a={tmp_path}/asr_a"]
    mtkd_report.main([*command[:2], "--report_mb", "3", *command[2:]])
    assert "report.html" in capsys.readouterr().out
    for name in ("RESULTS.md", "curves.png", "report.html"):
        assert (tmp_path / name).stat().st_size > 0
    for size in ("0", "-1", "nan", "inf", "abc"):
        with pytest.raises(SystemExit) as end:
            mtkd_report.main([*command[:2], f"--report_mb={size}", *command[2:]])
        assert end.value.code == 2
        message = f"--report_mb: expected a number above 0, found '{size}'"
        assert message in capsys.readouterr().err


def test_a_page_can_be_made_without_audio(recipe, capsys):
    folder, rows = recipe
    words = ["--expdir", folder / "exp", "--without_audio", "--rows"]
    words += [f"{name}={path}" for name, path in rows]
    mtkd_report.main([str(x) for x in words])
    page = Page((folder / "exp/report.html").read_text())
    audio = json.loads(page.data["audio"])
    assert audio == {"sounds": [{}], "words": "Made without audio."}


def test_audio_is_encoded_once_for_all_pages(tmp_path):
    """But anew where a recording changes; what no page has is not kept."""
    folder = tmp_path / "egs2/words/mtkd1"
    rows = report_recipe.build(folder)
    report_recipe.write_audio(folder)

    def write():
        page = Page(write_page(folder / "exp", rows).read_text())
        kept = (folder / "exp/.report_audio").iterdir()
        sounds = json.loads(page.data["audio"])["sounds"][0]
        states = {x.name: x.stat().st_ino for x in kept}
        return {k: base64.b64decode(v) for k, v in sounds.items()}, states

    sounds, states = write()
    assert len(sounds) == len(states) == 4
    assert write() == (sounds, states)
    changed = next(folder.rglob("*.flac"))
    samples, rate = soundfile.read(changed)
    soundfile.write(changed, np.tile(samples, 5), rate)
    new, new_states = write()
    assert len(new_states) == 4 and len(set(states.items()) - new_states.items()) == 1
    (name,) = (x for x in sounds if sounds[x] != new[x])
    lengths = [soundfile.info(io.BytesIO(x[name])).duration for x in (sounds, new)]
    assert lengths[1] == pytest.approx(5 * lengths[0], rel=0.05)


def test_nothing_that_is_shown_is_taken_for_the_place_of_the_audio(recipe):
    folder, rows = recipe
    path = write_page(folder / "exp", rows, note="/*audio*/ {{ place }}")
    page = Page(path.read_text())
    assert "/*audio*/ {{ place }}" in "".join(page.text)
    assert len(json.loads(page.data["audio"])["sounds"][0]) == 4


def test_names_of_any_script_keep_to_the_size(recipe, monkeypatch):
    """Six bytes a letter, as JSON writes them."""
    dset = read_test_sets(recipe[1][:1])[0]
    names = [f"{i}-" + "\u8bed" * 40 for i in range(200)]
    utterances = [dataclasses.replace(dset.utterances[0], name=x) for x in names]
    dset = dataclasses.replace(dset, utterances=utterances)
    monkeypatch.setattr(audio, "find_audio", lambda *_: dict.fromkeys(names, "x"))
    texts = [dict(utterances=[[x] for x in names])]
    for room in (0, 5000, 30000):
        found = _sounds([dset], texts, room, lambda path: b"12345678")
        assert len(found.encode()) <= room + LEAST_ROOM
    assert 80 < len(json.loads(found)["sounds"][0]) < 120


def test_charts_are_as_wide_as_they_are_meant_to_be(page, tmp_path):
    """Whatever the titles: a wider one would be shrunk on the page, letters and all."""
    long = " ".join(["all teachers and many words more"] * 5)
    rows = [("conformer: from scratch", tmp_path / "exp/asr_a")]
    rows += [(f"conformer: {long}", tmp_path / f"exp/asr_b_seed{i}") for i in range(2)]
    for _, folder in rows:
        score(folder, HYPOTHESES["taught"])
        report_recipe.write_curve(folder, {}, [9.0, 5.0])
    other = Page(write_page(tmp_path / "exp", rows).read_text())
    for each in (page, other):
        charts = [x for tag, x in each.tags if tag == "svg"]
        assert len(charts) >= 4
        for chart in charts:
            width = float(chart["viewbox"].split()[2])
            assert width <= 1.05 * 72 * WIDTHS[chart["class"]], chart["aria-label"]


@pytest.mark.parametrize(
    "exp, title",
    [
        ("egs2/words/mtkd1/exp", "words"),
        ("egs2/words/mtkd1/runs/exp1", "words"),
        ("linked/mtkd1/exp", "linked"),
        ("plain/exp", "plain"),
    ],
)
def test_a_page_is_called_as_its_recipe(tmp_path, exp, title):
    folder = tmp_path / exp
    if title == "linked":
        (tmp_path / "scratch/exp_real").mkdir(parents=True)
        folder.parent.mkdir(parents=True)
        folder.symlink_to(tmp_path / "scratch/exp_real")
    assert title_of(folder) == title


def test_directories_of_one_name_are_told_apart():
    def titles(*folders):
        return [x for x, _ in run_titles([("e: a", Path(x)) for x in folders])]

    assert titles("x/asr_a", "x/asr_a_seed1") == ["a (seed 0)", "a (seed 1)"]
    assert titles("x/asr_a", "x/asr_b") == ["a (asr_a)", "a (asr_b)"]
    assert titles("x/asr_a", "y/asr_a") == ["a (x/asr_a)", "a (y/asr_a)"]


def test_each_recording_is_looked_for_where_it_may_be(tmp_path, monkeypatch):
    """One that dump has no more, in data; a name too long for a file is none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.wav").touch()
    for folder, lines in (
        ("dump/raw/test", f"u1 a.wav\nu2 gone.wav\nu3 {'x' * 300}\n"),
        ("data/test", "u1 gone.wav\nu2 a.wav\n"),
    ):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "wav.scp").write_text(lines)
    exp = tmp_path / "exp/asr_a/decode/test/score_wer"
    found = audio.find_audio(exp.parent, "test", ["s-u1", "s-u2", "s-u3"])
    assert found == dict.fromkeys(["s-u1", "s-u2"], tmp_path / "a.wav")


def test_utterances_have_any_name_and_any_letters(tmp_path):
    (tmp_path / "hyp.trn").write_text("A (B) C\t(spk-utt(1))\n(spk-utt2)\n")
    assert read_trn(tmp_path / "hyp.trn") == {"spk-utt(1)": "A (B) C", "spk-utt2": ""}
    result = (
        "id: (spk-u)\nScores: (#C #S #D #I) 1 1 0 0\nREF:  a \u00c9\nHYP:  A \u00e9\n"
    )
    (tmp_path / "result.txt").write_text(result)
    assert read_alignments(tmp_path / "result.txt") == {"spk-u": "CS"}  # as sclite
