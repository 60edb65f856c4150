"""What is personal or secret in raw code goes: <EMAIL>, <KEY> or <IP_ADDRESS> stands in its place, as in StarCoder's
training texts.

Kept are addresses of example.com and the like, and IP addresses that mean nothing outside a network of their own. The
number of a version that looks like an IP address goes too.
"""

import contextlib
import ipaddress
import re

_PATTERN = re.compile(
    r"(?P<KEY>-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]{1,8000}?-----END [A-Z ]*PRIVATE KEY-----"
    # As the large services write them.
    r"|(?<!\w)(?:(?-i:A[KS]IA[A-Z\d]{16})|gh[oprsu]_\w{36}|github_pat_\w{22,90}|glpat-[\w-]{20}|hf_[a-z\d]{34}"
    r"|sk-[\w-]{20,200}|xox[abprs]-[\w-]{10,100}|(?-i:AIza)[\w-]{35}|eyJ[\w-]{16,999}\.eyJ[\w-]{16,999}\.[\w-]{16,999})(?!\w))"
    # Given to a name that says so; letters and digits, so that prose and the name of a variable stay.
    r"|(?P<before>(?:api_?key|access_?key|secret|token|passw(?:or)?d)\w{0,20}[\"']?\s{0,3}[:=]\s{0,3}[\"'])"
    r"(?P<value>(?=[\w/+=.-]{0,200}\d)(?=[\w/+=.-]{0,200}[a-z])[\w/+=.-]{16,200})(?=[\"'])"
    # a@b.c is a product of matrices too: the last name is a country's, or one of these.
    r"|(?P<EMAIL>(?<![\w.+-])[\w.+-]{1,64}@(?!example\.)(?:[a-z\d-]{1,63}\.){1,4}"
    r"(?:(?-i:[a-z]{2})|com|org|net|edu|gov|mil|info|biz|name|dev|app)(?![\w(-]|\.\w))"
    r"|(?P<IP_ADDRESS>(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]\w)"
    r"|(?<![\w:])(?:[\da-f]{1,4}:){3,7}(?:[\da-f]{1,4}|:[\da-f:]{0,24})(?![\w:]))",
    re.IGNORECASE,
)


def masked(text: str) -> tuple[str, list[str]]:
    """(the text, what was masked in it: "EMAIL", "KEY" or "IP_ADDRESS", in order)."""
    found = []

    def mark(match: re.Match[str]) -> str:
        kind = "KEY" if match["value"] else match.lastgroup or ""
        with contextlib.suppress(ValueError):
            if kind != "IP_ADDRESS" or ipaddress.ip_address(match[0]).is_global:
                found.append(kind)
                return f"{match['before'] or ''}<{kind}>"
        return match[0]

    return _PATTERN.sub(mark, text), found
