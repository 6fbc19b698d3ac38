"""Exit codes are a promise to scripts."""

import pickle
import re

import pytest
from builders import ROOT

from espnet_mtkd import errors


def test_every_error_has_its_documented_code():
    codes = {
        errors.ConfigError: 2,
        errors.NonFiniteError: 3,
        errors.DataError: 4,
        errors.TargetStoreError: 5,
        errors.DiskError: 6,
        errors.HubError: 7,
        errors.PreemptedError: 8,
    }
    found = errors.MTKDError.__subclasses__()
    # (launch.ProcessDied takes the code of the process that died)
    own = {e: e.exit_code for e in found if e.__module__ == errors.__name__}
    assert own == codes
    assert errors.ERRORS == list(codes)
    assert errors.MTKDError.exit_code == 1


def test_the_pages_name_the_tables_codes_and_no_others():
    codes = [e.exit_code for e in errors.ERRORS]
    page = (ROOT / errors.HELP).read_text()
    sections = re.findall(r"^## Exit code (\d+): \S", page, re.M)
    assert list(map(int, sections)) == [errors.MTKDError.exit_code, *codes]
    readme = (ROOT / "README.md").read_text()
    (sentence,) = re.findall(r"Exit codes: ([^.]*)\.", readme)
    named = [re.match(r"(\d+) \w", x)[1] for x in re.split(r",\s+", sentence)]
    assert list(map(int, named)) == codes


@pytest.mark.parametrize("kind", [errors.MTKDError, *errors.ERRORS])
def test_an_error_has_its_name_in_the_module_and_crosses_processes(kind):
    assert getattr(errors, kind.__name__) is kind
    assert kind.__doc__.endswith(".")
    error = kind("file: expected a, found b")
    error.add_note("in utterance u")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (copy.args, copy.__notes__) == (error.args, error.__notes__)
    assert copy.exit_code == kind.exit_code


@pytest.mark.parametrize("kind", errors.ERRORS)
def test_main_prints_one_message_and_ends_with_the_code(kind, capsys):
    @errors.report_errors
    def main(what):
        raise kind(f"{what}: expected a, found b")

    with pytest.raises(SystemExit) as end:
        main("file")
    assert end.value.code == kind.exit_code
    captured = capsys.readouterr()
    message, pointer = captured.err.splitlines()
    assert message == "error: file: expected a, found b"
    page = (ROOT / pointer.split()[1]).read_text()
    assert f"## Exit code {kind.exit_code}:" in page
    assert captured.out == ""


def test_other_errors_keep_their_traceback_and_results_pass():
    @errors.report_errors
    def main(value):
        """Docstring."""
        return 1 / value

    assert main(2) == 0.5
    assert main.__doc__ == "Docstring."
    with pytest.raises(ZeroDivisionError):
        main(0)
