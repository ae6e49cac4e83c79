"""Texts inside data: scripts, commands, addresses and credentials where a model has none.

Metadata and configurations are shown in pages, pasted into shells and read by other programs.
Code in them is rejected. An address of an unknown host, or a credential, is quarantined: it may be
honest, and a person has to look.
"""

import re
from urllib.parse import urlsplit

from pedigree.admission.verdict import Report, show, words

_CODE: list[tuple[str, re.Pattern[str]]] = [
    (
        "a script for a browser",
        re.compile(
            r"<\s*(script|iframe|object|embed|svg)\b|javascript\s*:|\bon(load|error|click)\s*=\s*[\"'\w]"
            r"|document\.(cookie|location)|data:text/html",
            re.I,
        ),
    ),
    (
        "Python code",
        re.compile(
            r"__(import|builtins|globals|subclasses|class|reduce|getattribute)__"
            r"|\b(eval|exec|compile|execfile|getattr|globals|locals)\s*\(\s*[\w'\"\[(]"
            r"|\bimport\s+(os|sys|subprocess|socket|shutil|pty|ctypes|base64|requests|urllib|pickle|marshal"
            r"|importlib|builtins|codecs|tempfile|platform|http|ftplib|paramiko|runpy)\b"
            r"|\bfrom\s+(os|sys|subprocess|socket|shutil|ctypes|urllib|importlib|builtins)[\w.]*\s+import\b"
            r"|\b(os\.(system|popen|exec\w*|spawn\w*|remove|unlink|environ)|subprocess\.\w+"
            r"|pickle\.loads?|marshal\.loads?|torch\.load|base64\.b\w*decode|socket\.\w+|shutil\.rmtree"
            r"|requests\.(get|post)|urllib\.request|importlib\.import_module)\b"
            r"|\blambda\s{1,9}(\w{1,40}\s{0,9})?:\s{0,9}\w{1,40}\s{0,9}\("
        ),
    ),
    (
        "a command for a shell",
        re.compile(
            r"\brm\s+-[a-z]*[rf][a-z]*\s|\bchmod\s+(\+x|[0-7]{3,4})\b|\b(curl|wget)\s+(-\S{1,40}\s+){0,8}\S{0,200}?(://|\w\.\w)"
            r"|\|\s*(ba|z|da)?sh\b|/bin/(ba|z|da)?sh\b|\bnc\s+-[a-z]*[el]|\bbash\s+-[ci]\b|/dev/tcp/"
            r"|\bpowershell(\.exe)?\s+-|\bcmd(\.exe)?\s+/c\b|\bmkfifo\b|\bsudo\s+\w|/etc/(passwd|shadow)"
            r"|\$\([a-z]{1,40}[^)]{0,200}\)|\bdd\s+if=|\bpython3?\s+-c\b|:\(\)\s*\{",
            re.I,
        ),
    ),
    (
        "bytes in escapes",
        re.compile(
            r"(?<!\\)((\\{1,8}x[0-9a-fA-F]{2}){6,}|(\\{1,8}u00[0-9a-fA-F]{2}){6,})"
        ),
    ),
    (
        "a pickle or an executable in base64",
        re.compile(r"\b(gA[MQRSTUV][A-Za-z0-9+/]{24,}|f0VMR[A-Za-z0-9+/]{24,}|TVqQ[A-Za-z0-9+/]{24,})"),
    ),
]  # fmt: skip
_ADDRESS = re.compile(r"\b(?:https?|ftps?|wss?|file|ldap|gopher)://[^\s\"'<>)\]}]+", re.I)
_CREDENTIAL_NAME = re.compile(
    r"(api|secret|private|access|exfil\w*|auth)[_-]?(key|token)\b|\bpassw(or)?d\b|\bclient_secret\b",
    re.I,
)
_CREDENTIAL = re.compile(
    r"\b(sk-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|AKIA[0-9A-Z]{16}|xox[abp]-[\w-]{10,})\b"
)
# Where models, papers and licences are published; an address there fetches or reports nothing.
_KNOWN_HOSTS = words(
    "huggingface.co hf.co github.com githubusercontent.com gitlab.com arxiv.org doi.org "
    "aclanthology.org "
    "openreview.net apache.org creativecommons.org opensource.org spdx.org gnu.org mit-license.org "
    "w3.org json-schema.org schema.org modelscope.cn civitai.com kaggle.com paperswithcode.com "
    "zenodo.org wikipedia.org pytorch.org tensorflow.org keras.io onnx.ai python.org sbert.net "
    "openai.com meta.com google.com microsoft.com nvidia.com mistral.ai stability.ai qwenlm.ai"
)
_DOCUMENTING = re.compile(
    r"(licen[cs]e|homepage|author|citation|paper|doi|reference|source|description|documentation"
    r"|publisher|organi[sz]ation|repository|dataset)", re.I
)  # fmt: skip
_LOOKED_AT = 100_000
_DOCUMENT = 1_000_000


_FENCED = re.compile(r"^ {0,3}(```|~~~).*?(^ {0,3}\1|\Z)|`[^`\n]{1,500}`", re.M | re.S)
_ACTIVE = re.compile(
    r"<\s{0,9}script\b|\bjavascript\s{0,9}:|\bon(load|error|click)\s{0,9}=\s{0,9}[\"']", re.I
)
_YAML_OBJECT = re.compile(r"!!?python/|!<tag:yaml\.org,2002:python/")


def judge_document(text: str, where: str, report: Report) -> None:
    """Judge a text for people: examples of code are welcome, and what a page would run is not."""
    text = text[:_DOCUMENT]
    if _YAML_OBJECT.search(text.partition("\n---")[0]):
        report.reject(where, "text_code", "its YAML makes objects of Python.")
    match = _ACTIVE.search(_FENCED.sub("", text))
    if match is not None:
        report.quarantine(
            where,
            "text_code",
            f"a page that shows it would run {show(match.group())!r}: look at it.",
        )


def judge_text(text: str, name: str, where: str, report: Report) -> None:
    """Judge one string of a configuration or of metadata; `name` is its key."""
    if len(text) > _LOOKED_AT:
        report.quarantine(
            where,
            "text_too_long",
            f"{show(name)!r} has {len(text)} characters: not looked at in full.",
        )
        text = text[:_LOOKED_AT]
    if len(text) < 4:
        return
    for what, pattern in _CODE:
        match = pattern.search(text)
        if match is not None:
            report.reject(
                where, "text_code", f"{show(name)!r} holds {what}: {show(match.group()[:60])!r}."
            )
            return
    _judge_addresses(text, name, where, report)
    if (_CREDENTIAL_NAME.search(name) and len(text) >= 8) or _CREDENTIAL.search(text):
        report.quarantine(
            where,
            "credential",
            f"{show(name)!r} looks like a credential: nobody ships one honestly.",
        )


def _judge_addresses(text: str, name: str, where: str, report: Report) -> None:
    for address in _ADDRESS.findall(text)[:50]:
        try:
            parts = urlsplit(address)
            host = (parts.hostname or "").lower()
        except ValueError:
            host, parts = "", None
        known = any(host == known or host.endswith("." + known) for known in _KNOWN_HOSTS)
        documents = _DOCUMENTING.search(name) and parts is not None and parts.scheme == "https"
        if not known and not documents:
            report.quarantine(
                where,
                "address",
                f"{show(name)!r} holds the address {show(address, 80)!r}, of a host "
                "that does not publish models: a person has to look.",
            )
            return
