"""No password in a URL reaches a message or a file."""

import pytest

from adaptthink.errors import UserError, redact, redact_all


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("http://me:pw@host:8000/v1", "http://***@host:8000/v1"),
        ("at https://pw@host.", "at https://***@host."),
        ("http://me:p@w:d@host/a@b", "http://***@host/a@b"),
        ("me:pw@host:8000", "***@host:8000"),
        ("https://host/v1?api_key=pw&n=1", "https://host/v1?api_key=***&n=1"),
        ("https://host/?n=1&Access-Token=pw#x", "https://host/?n=1&Access-Token=***#x"),
        ("http://[::1]:8000/v1, http://a:pw@[::1]:8", "http://[::1]:8000/v1, http://***@[::1]:8"),
        ("postgresql://me:pw@db/mlflow", "postgresql://***@db/mlflow"),
        ("write to me@example.org: a=b?c=d", "write to me@example.org: a=b?c=d"),
    ],
)
def test_redact(text, redacted):
    assert redact(text) == redacted
    assert str(UserError(text)) == redacted


def test_redact_all():
    value = {"a:b@host": [("http://u:pw@h", 1), None, {"x": "y"}], "n": 2.5}
    assert redact_all(value) == {"***@host": [["http://***@h", 1], None, {"x": "y"}], "n": 2.5}
