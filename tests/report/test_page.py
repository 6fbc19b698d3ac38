"""report.html from real sclite output: its numbers, its size, what it leaves out."""

import base64
import html.parser
import io
import json
import re

import numpy as np
import pytest
import report_recipe
import soundfile
from sclite_scores import HYPOTHESES, REFERENCE, error_rate, needs_sclite, score

from espnet_mtkd.bin import mtkd_report
from espnet_mtkd.errors import ConfigError
from espnet_mtkd.report.page import write_page

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
    assert cosine == [["hubert", "2", *["0.500"] * 3], ["hubert", "2", *["0.900"] * 3]]
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
        *("pytorch version", "2.11"),
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
    limit = (len(whole) - without + 900) / 1e6
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
