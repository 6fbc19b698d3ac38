"""What opens an account or reaches a person: tokens, keys, passwords, addresses."""

import re
from collections.abc import Collection, Iterator

# Forms that the services document; nothing else looks like them.
TOKENS = {
    "token of the Hugging Face Hub": r"hf_[A-Za-z0-9]{16,}",
    "token of GitHub": r"gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}",
    "token of GitLab": r"glpat-[\w-]{20,}",
    "key of AWS": r"(?:AKIA|ASIA)[0-9A-Z]{16}",
    "key of Google": r"AIza[\w-]{35}",
    "key of OpenAI or Anthropic": r"sk-[\w-]{20,}",
    "token of Slack": r"xox[abeoprs]-[\w-]{10,}",
    "token of PyPI": r"pypi-[\w-]{50,}",
    "JSON web token": r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}",
    "bearer token": r"[Bb]earer [\w.~+/-]{16,}",
}
_TOKENS = {k: re.compile(rf"(?<![A-Za-z0-9])(?:{v})") for k, v in TOKENS.items()}
PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
URL_PASSWORD = re.compile(r"\w://[^\s/:@]+:[^\s/@]+@")
SECRET_NAME = (
    r"password|passwd|secret|secret[_ -]?(?:access[_ -]?)?key|api[_ -]?key|"
    r"access[_ -]?key(?:[_ -]?id)?|(?:auth|access|hub|hf)[_-]?token|credentials?"
)
SECRET_KEY = re.compile(rf"(?:^|[._-])(?:{SECRET_NAME})$", re.I)  # of a config
NAMED_SECRET = re.compile(  # in a text
    rf"(?<![A-Za-z0-9])({SECRET_NAME})[\"']?\s*[:=]\s*[\"']?([^\s\"',;]{{6,}})", re.I
)
# "git@" is what every address of a repository begins with.
EMAIL = re.compile(r"(?<![\w.+-])(?!git@)[\w.+-]+@(?:[\w-]+\.)+[A-Za-z]{2,}(?![\w-])")


def _masked(secret: str) -> str:
    return f"{secret[:6]}..."  # for an error message, which logs keep


def tokens(text: str) -> Iterator[str]:
    """What gives access; also in binary content, read as Latin-1."""
    for what, pattern in _TOKENS.items():
        for match in pattern.finditer(text):
            yield f"a {what}, {_masked(match[0])}"
    if PRIVATE_KEY.search(text):
        yield "a private key"


def secrets(text: str, ignored: Collection[str] = ()) -> Iterator[str]:
    """All of them in a text.

    Args:
        text: of a file, or one value of a config.
        ignored: e-mail addresses that may occur, in small letters.

    Yields:
        What was found, cut short where it gives access.
    """
    yield from tokens(text)
    for match in URL_PASSWORD.finditer(text):
        yield f"a password in an address, {_masked(match[0])}"
    for match in NAMED_SECRET.finditer(text):
        yield f"what is called {match[1]}, {_masked(match[2])}"
    for address in dict.fromkeys(EMAIL.findall(text)):
        if address.lower() not in ignored:
            yield f"the e-mail address {address}"
