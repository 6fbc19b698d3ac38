"""The sentence at the top, and what each teacher added: from numbers made up here."""

import dataclasses

import pytest

from espnet_mtkd.report.headline import headline
from espnet_mtkd.report.outcomes import Outcome
from espnet_mtkd.report.teachers import what_teachers_added
from espnet_mtkd.results.compare import Difference

BASE = Outcome(
    student="conformer",
    what="from scratch",
    dset="test",
    streamed=False,
    num_seeds=1,
    words=1234,
    wer=50.0,
    cer=20.0,
    werr=None,
    cerr=None,
    wer_interval=(45.0, 55.0),
    werr_interval=None,
    is_first=True,
    baseline=None,
    drawn="by speaker, 20 speakers",
    parameters=None,
    rtf=None,
)


def taught(what: str, wer: float, interval, **changes) -> Outcome:
    werr = 100 * (1 - wer / BASE.wer)
    changes |= dict(what=what, wer=wer, werr=werr, werr_interval=interval)
    return dataclasses.replace(BASE, baseline=BASE.what, is_first=False, **changes)


def test_the_surest_gain_is_named_not_the_largest():
    """One with a greater mean, whose interval begins lower, is not."""
    rows = [
        BASE,
        taught("all teachers", 40.0, (12.0, 28.0)),
        taught("lucky", 30.0, (5.0, 60.0)),
    ]
    sentence, holds_for = headline(rows)
    assert sentence == (
        "“all teachers” makes 20.0 % fewer word errors than “from scratch” on test "
        "(95 % interval 12.0 to 28.0 %): WER 40.0 % instead of 50.0 %."
    ).replace(" %", "\u00a0%")
    assert holds_for == (
        "test: 1,234 words. Interval by speaker, 20 speakers. The surest of 2 "
        "comparisons."
    )


@pytest.mark.parametrize(
    "wer, change", [(49.0, "2.0\u00a0% fewer"), (52, "4.0\u00a0% more")]
)
def test_no_gain_is_claimed_that_an_interval_denies(wer, change):
    sentence, _ = headline([BASE, taught("all teachers", wer, (-6.0, 8.0))])
    assert sentence.startswith("No row is surely better than “from scratch”")
    assert change in sentence


def test_students_are_named_where_there_are_several():
    other = taught("all", 40.0, (12.0, 28.0), student="streaming")
    assert headline([BASE, other])[0].startswith("“streaming: all” makes")


def test_a_row_without_errors_is_not_passed_over():
    perfect = taught("perfect", 0.0, None, wer_interval=None)
    sentence, _ = headline([BASE, taught("good", 40.0, (12.0, 28.0)), perfect])
    assert sentence == "“perfect” makes no word error on test: WER 0.0\u00a0%."


def test_without_a_baseline_it_is_the_rate_alone():
    alone = dataclasses.replace(BASE, wer_interval=None)
    assert headline([alone]) == (
        "“from scratch”: WER 50.0\u00a0% on test.",
        "test: 1,234 words.",
    )


def test_what_a_teacher_added_has_one_sign_whichever_row_was_asked_for():
    found = Difference("test", 2.0, (-1.0, 3.0), 0.2, (), "by speaker")
    turned = Difference("test", -2.0, (-3.0, 1.0), 0.2, (), "by speaker")
    pairs = [
        ("e: all", "e: without hubert", found),
        ("e: without wavlm", "e: all", turned),
        ("e: all", "e: from scratch", found),
        ("e: without hubert", "e: without wavlm", found),
        ("e: without hubert", "e: from scratch", found),  # one teacher, and none
        ("e: all", "e: without speed perturbation", found),
    ]
    both = {"hubert", "wavlm"}
    teachers = {"e: all": both, "e: without speed perturbation": both}
    teachers |= {"e: without hubert": {"wavlm"}, "e: without wavlm": {"hubert"}}
    added = what_teachers_added(pairs, {**teachers, "e: from scratch": set()})
    assert [x.title for x in added] == ["hubert, test", "wavlm, test"]
    assert all(x.points == 2.0 and x.interval == (-1.0, 3.0) for x in added)
