"""Whatever a message or the page on troubles tells people to do, a test does."""

from remedies import UNTESTED, claims, messages, rows


def test_each_row_of_the_page_has_a_test():
    assert len(rows()) > 50
    known = {*claims(), *UNTESTED}
    assert [row for row, keys in rows().items() if not known & {*keys}] == []


def test_each_message_that_says_what_to_do_has_a_test():
    assert len(messages()) > 150
    known = [*claims(), *UNTESTED]
    missing = {
        text: where
        for text, where in messages().items()
        if not any(word in text for word in known)
    }
    assert missing == {}


def test_tests_and_exceptions_are_of_what_is_said():
    keys = {key for found in rows().values() for key in found}
    stale = [
        word
        for word in (*claims(), *UNTESTED)
        if word not in keys and not any(word in text for text in messages())
    ]
    assert stale == []
    assert {*claims()} & {*UNTESTED} == set()
