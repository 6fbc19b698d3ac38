"""Exit codes are a promise to scripts."""

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
    }
    assert {e: e.exit_code for e in errors.MTKDError.__subclasses__()} == codes


@pytest.mark.parametrize("kind", errors.MTKDError.__subclasses__())
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
