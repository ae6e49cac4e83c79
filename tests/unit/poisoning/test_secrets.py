"""Secrets: published test numbers as oracles, what merely resembles them, masking, severities."""

import base64
import json
import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pedigree.errors import PedigreeError
from pedigree.evidence.check_limits import SecretLimits
from pedigree.findings import CheckResult
from pedigree.poisoning.secrets import find_secrets, iban_holds, luhn_holds, mask

LIMITS = SecretLimits()
DRAW = random.Random(7)


def draw_text(length: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    return "".join(DRAW.choices(alphabet, k=length))


def look(text: str, limits: SecretLimits = LIMITS) -> CheckResult:
    return find_secrets(["nothing to see here", text], limits)


def kinds_of(text: str) -> set[str]:
    return {finding.group for finding in look(text).findings}


def encode(part: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


# The one token with a valid checksum was published as an example and revoked.
GITHUB = "ghp_" + "zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ" + "0mLq17"
WEB_TOKEN = (
    f"{encode({'alg': 'HS256', 'typ': 'JWT'})}.{encode({'sub': '1234567890'})}.{draw_text(43)}"
)
SECRETS = {
    "private key": "-----BEGIN RSA PRIVATE KEY-----\n" + draw_text(64) + "\n",
    "AWS access key": "AKIA" + draw_text(16, string.ascii_uppercase + "234567"),
    "GitHub token": GITHUB,
    "GitLab token": "glpat-" + draw_text(20),
    "PyPI token": "pypi-AgE" + draw_text(80),
    "Slack token": "xoxb-" + draw_text(12, string.digits) + "-" + draw_text(24),
    "Stripe key": "sk_live_" + draw_text(24),
    "Google key": "AIza" + draw_text(35),
    "SendGrid key": f"SG.{draw_text(22)}.{draw_text(43)}",
    "Hugging Face token": "hf_" + draw_text(34, string.ascii_letters),
    "model provider key": "sk-proj-" + draw_text(48),
    "JSON web token": WEB_TOKEN,
    "password in a URL": "tr0ub4dor",
    "assigned secret": "q8Zt3vXc91LmB2wE",
    "card number": "4111 1111 1111 1111",
    "IBAN": "DE89 3704 0044 0532 0130 00",
    "social security number": "219-09-9999",
    "mail address": "ada.lovelace@example.org",
    "telephone number": "+44 20 7946 0958",
}
AROUND = {
    "password in a URL": "connect to postgres://admin:{}@db.internal:5432/sales now",
    "assigned secret": 'api_key = "{}"',
}


@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_is_found_masked_and_placed(kind: str) -> None:
    secret = SECRETS[kind]
    text = AROUND.get(kind, "please note {} and keep it").format(secret)
    result = look(text)
    assert [(f.row, f.group, f.severity) for f in result.findings] == [(1, kind, "INFO")]
    assert result.passed
    assert result.severity == "INFO"
    shown = f"{result.findings[0].reason} {result.summary} {result.examples}"
    assert secret.strip() not in shown
    assert len(secret) < 16 or secret.strip()[8:20] not in shown
    if kind != "private key":
        assert f"at character {text.index(secret)}" in shown


@pytest.mark.parametrize(
    "text",
    [
        "ghp_" + "zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ" + "0mLq18",  # checksum
        "AKIAIOSFODNN7EXAMPLE",
        "sk-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "-----BEGIN PRIVATE KEY-----",
        "https://user:password@host/ and https://user:<password>@host and http://a.b/c:d",
        "eyJhYmNkZWZnaGlqa2w.eyJhYmNkZWZnaGlq.c2lnbmF0dXJlc2ln",
        "password: please choose a longer one",
        "token = tokenizer.next_token()",
        "4111 1111 1111 1112",  # Luhn
        "DE89 3704 0044 0532 0130 01",  # modulo 97
        "DE89 3704 0044 0532 0130 0000",  # length
        "on 2024-05-17 at 12:30, or 17.05.2024",
        "version 1.2.3.4 of 10.0.0.1, pi is 3.14159265358979",
        "the year 1984 and 1,000,000,000 dollars or 12345678901234.50",
        "commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
        "follow @someone, or mail me at home dot org",
        "rated 10/10 - 9/10 - 8/10",
    ],
)
def test_what_only_resembles_a_secret_is_left_alone(text: str) -> None:
    assert look(text).findings == (), [f.reason for f in look(text).findings]


@pytest.mark.parametrize(
    ("number", "holds"),
    # Published test numbers of the card schemes; the example of ISO/IEC 7812-1.
    [("4012888888881881", True), ("378282246310005", True), ("5555555555554444", True),
     ("6011111111111117", True), ("17893729974", True), ("4012888888881882", False),
     ("79927398713", True), ("79927398710", False)],
)  # fmt: skip
def test_the_check_digit_of_cards(number: str, holds: bool) -> None:
    assert luhn_holds(number) is holds


@pytest.mark.parametrize(
    "iban",
    # The examples of the IBAN registry.
    ["GB29NWBK60161331926819", "FR1420041010050500013M02606", "NO9386011117947",
     "NL91ABNA0417164300", "CH9300762011623852957", "MT84MALT011000012345MTLCAST001S",
     "SA0380000000608010167519", "BR1800360305000010009795493C1"],
)  # fmt: skip
def test_examples_of_the_registry_hold_and_no_single_change_does(iban: str) -> None:
    assert iban_holds(iban)
    for place in range(2, len(iban)):
        if iban[place].isdigit():
            other = str((int(iban[place]) + 1) % 10)
            assert not iban_holds(iban[:place] + other + iban[place + 1 :])


@given(st.text(min_size=1, max_size=200))
def test_a_mask_shows_four_characters_at_most_and_an_eighth(value: str) -> None:
    shown = mask(value).split("*")[0]
    assert len(shown.encode().decode("unicode_escape")) <= min(4, len(value) // 8)
    assert mask(value).isascii()


@pytest.mark.parametrize(
    ("limits", "text", "severity"),
    [
        (SecretLimits(credentials="ERROR"), GITHUB, "ERROR"),
        (SecretLimits(credentials="ERROR"), "a@b.org", "INFO"),
        (SecretLimits(accounts="WARN"), "4111 1111 1111 1111", "WARN"),
        (SecretLimits(contacts="WARN"), "a@b.org", "WARN"),
    ],
)
def test_the_policy_sets_the_severity_of_each_group(
    limits: SecretLimits, text: str, severity: str
) -> None:
    result = look(text, limits)
    assert result.severity == severity
    assert result.passed is (severity != "ERROR")
    assert result.findings[0].severity == severity
    if severity == "ERROR":
        assert "redact" in result.summary


def test_the_worst_secret_of_a_row_names_it_and_the_others_are_listed() -> None:
    text = f"a@b.org c@d.org e@f.org {GITHUB}"
    finding = look(text).findings[0]
    assert finding.group == "GitHub token"
    assert finding.reason.count(";") == 3
    assert finding.reason.endswith("and 1 more")


def test_sources_and_kinds_are_counted() -> None:
    result = find_secrets(["a@b.org", "b@b.org", "none"], LIMITS, ["forum", "forum", "shop"])
    assert result.counts["by_source"] == {"forum": 2}
    assert result.counts["by_kind"] == {"mail address": 2}


def test_bad_input_is_refused_or_answered() -> None:
    assert find_secrets([], LIMITS).counts == {"applicable": False}
    with pytest.raises(PedigreeError, match="row 1"):
        find_secrets(["a", None], LIMITS)  # type: ignore[list-item]
    assert find_secrets(["", "\ud800", "\x00"], LIMITS).findings == ()
    assert len(find_secrets(["call 020 7946 0958"] * 50, LIMITS).findings) == 50
    large = "1 2-3 (4) a@b:c=d key: eyJ " * 100_000
    assert find_secrets([large], LIMITS).passed


@given(st.lists(st.text(alphabet="0123456789 -+@.:/ABab=", max_size=60), max_size=5))
def test_any_text_gets_an_answer(texts: list[str]) -> None:
    assert find_secrets(texts, LIMITS).passed
