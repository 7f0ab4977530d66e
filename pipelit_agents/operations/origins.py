"""Sites that a CORS configuration admits by mistake."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pipelit_agents.operations.addresses import is_clear

__all__ = ["origin_problems"]

# Domains under which anyone can register a name.
_OPEN_DOMAINS: Final = (
    "com", "net", "org", "io", "dev", "app", "ai", "co", "info", "biz", "xyz", "me", "cloud",
    "site", "online", "eu", "de", "uk", "us", "co.uk", "com.au", "vercel.app", "netlify.app",
    "pages.dev",
    "workers.dev", "github.io", "gitlab.io", "web.app", "firebaseapp.com", "herokuapp.com",
    "onrender.com", "fly.dev", "azurewebsites.net", "azurestaticapps.net", "cloudfront.net",
    "amplifyapp.com", "ngrok.io", "ngrok.app", "ngrok-free.app", "trycloudflare.com", "surge.sh",
)  # fmt: skip
# Origins with a name that no configuration includes on purpose.
_STRANGERS: Final = ("https://zq7.invalid", *(f"https://zq7.{each}" for each in _OPEN_DOMAINS))
# Second labels under which country registries register names: co.jp, com.br.
_SECOND_LABELS: Final = frozenset(
    {"ac", "co", "com", "edu", "go", "gob", "gov", "ne", "net", "or", "org"}
)
# Nobody can register a name under these.
_PRIVATE_DOMAINS: Final = frozenset(
    {"corp", "home", "internal", "lan", "local", "localhost", "test"}
)
_HOST: Final = re.compile(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*")
# Parts of a pattern that aren't literals: classes, quantifiers, flags, escapes, repeated dots.
_NO_LITERAL: Final = re.compile(
    r"\[\^?\]?[^\]]*\]|\{[0-9,]*\}|\(\?(?:P?<\w+>|[a-zA-Z]+[:)]|[:=!]|<[=!])|\\[A-Za-z0-9]|\.[*+?{]"
)
_MAX_LITERALS: Final = 20
_BARE_DOT: Final = re.compile(r"(?<!\\)\.(?![*+?{])")


def origin_problems(cors: Mapping[str, object]) -> list[str]:
    """Return which sites a CORS configuration allows by mistake."""
    found = []
    origins, pattern = cors.get("allow_origins"), cors.get("allow_origin_regex")
    listed = [origins] if isinstance(origins, str) else origins
    listed = listed if isinstance(listed, list) else [] if listed is None else ["*"]
    if any("*" in str(each) for each in listed):
        found.append("allows every site")
    if any(str(each).strip().lower() == "null" for each in listed):
        found.append('allows "null", which is the origin of every sandboxed page and local file')
    if any(is_clear(str(each)) for each in listed):
        found.append("allows a site without TLS")
    if pattern:
        found += _wide_pattern(pattern)
    if found and cors.get("allow_credentials") is True:
        found.append("and browsers may send cookies and keys with the requests")
    return found


def _wide_pattern(pattern: object) -> list[str]:
    try:
        origins = re.compile(str(pattern))
    except re.error:
        return ["has an allow_origin_regex that isn't a regular expression"]
    strangers = [each for each in _STRANGERS if origins.fullmatch(each)]
    if _STRANGERS[0] in strangers:
        return ["allows every site"]
    if strangers:
        domains = [each.partition(".")[2] for each in strangers]
        more = " and others" if len(domains) > 3 else ""
        return [f"allows every site of .{', .'.join(domains[:3])}{more}"]
    if found := _unmeant(origins):
        return found
    outside = re.sub(r"\[[^\]]*\]", "", str(pattern))
    if _BARE_DOT.search(outside):
        return [r"has an allow_origin_regex whose dots aren't escaped (\.), so other names match"]
    return []


def _unmeant(origins: re.Pattern[str]) -> list[str]:
    """Return what a pattern matches besides the intended names.

    The server matches the whole origin, so this function does too.
    """
    literal = _NO_LITERAL.sub(" ", origins.pattern.replace("[.]", r"\."))
    literal = literal.replace(r"\.", ".").replace(r"\-", "-")
    runs = [each.lower() for each in _HOST.findall(literal)][:_MAX_LITERALS]
    words = [each for each in runs if each not in ("http", "https")]
    hosts = {each for each in words if "." in each} | {"localhost"}
    # For patterns such as app\.example\.(com|net).
    hosts |= {f"{host}.{each}" for host in hosts for each in words if _is_open(each)}

    # All names under a public suffix: .fr, .co.jp.
    open_ones = [each for each in words if _is_open(each) and each not in _OPEN_DOMAINS]
    matching = [each for each in open_ones if _matches_any(origins, f"https://zq7.{each}", "zqx")]
    if matching:
        return [f"allows every site of .{', .'.join(dict.fromkeys(matching))}"]

    found = []
    own = {_own_name(each) for each in hosts if not _is_open(each)} - {""}
    longer = [
        f"https://{before}{host}{after}"
        for host in (*own, *hosts)
        for before, after in (
            ("", ".zq7.invalid"), ("", "zq7.invalid"), ("", "-zq7.invalid"), ("", ":1.zq7.invalid")
        )
    ] + [f"https://{before}{host}" for host in own for before in ("zq7", "zq7-")]  # fmt: skip
    longer += [
        f"https://{word}{middle}zq7.{domain}"
        for word in words
        for middle in ("", "-")
        for domain in (*_OPEN_DOMAINS, *open_ones)
    ]
    longer += [f"https://{head}{word}.invalid" for head in ("", "zqx.") for word in words]
    if any(_matches_any(origins, each, "zqx") for each in longer):
        found.append(
            "has an allow_origin_regex that also matches longer names, which anyone may register"
        )
    heads = ["", "zqx.", "7.", *(f"{word}{end}." for word in words for end in ("", "zqx", "7"))]
    clear = [f"http://{head}{host}" for host in hosts for head in heads]
    if any(origins.fullmatch(each) and is_clear(each) for each in clear):
        found.append("allows a site without TLS")
    return found


def _matches_any(origins: re.Pattern[str], origin: str, other: str) -> bool:
    """Whether a pattern matches an origin, or a variant with only letters or only a digit."""
    return any(origins.fullmatch(origin.replace("zq7", each)) for each in ("zq7", other, "7"))


def _is_open(domain: str) -> bool:
    """Whether anyone can register a name under a domain."""
    labels = domain.strip(".").split(".")
    if domain in _OPEN_DOMAINS:
        return True
    if labels[-1] in _PRIVATE_DOMAINS or not re.fullmatch("[a-z]{2,}", labels[-1]):
        return False
    return len(labels) == 1 or (
        len(labels) == 2 and len(labels[1]) == 2 and labels[0] in _SECOND_LABELS
    )


def _own_name(host: str) -> str:
    """Return the registered part of a host name, according to the lists above."""
    labels = host.split(".")
    for count in (3, 2):
        if len(labels) >= count and _is_open(".".join(labels[1 - count :])):
            return ".".join(labels[-count:]).lstrip("-")
    return ""
