"""Which settings of pip ``make`` passes on to uv."""

from __future__ import annotations

from install import for_uv, settings

LISTED = """\
:env:.find-links='/wheels /more'
:env:.default-timeout='180'
global.cert='/etc/ca.pem'
global.find-links='/others'
global.index-url='https://u:p=x@one.example/simple'
global.extra-index-url='https://two.example/simple\\nfile:///three'
install.constraint='/etc/constraints.txt'
list.format='columns'
"""


def test_pips_settings_are_read_as_pip_reads_them() -> None:
    """A variable comes before the section of the command, and that before the general one."""
    found = settings(LISTED + "install.cert='/etc/other.pem'\n")
    assert found["find-links"] == "/wheels /more"
    assert found["cert"] == "/etc/other.pem"
    assert found["index-url"] == "https://u:p=x@one.example/simple"
    assert "format" not in found


def test_uv_takes_packages_from_where_pip_does() -> None:
    """Each place is passed on, and so are certificates and constraints."""
    assert for_uv(settings(LISTED), {}) == {
        "SSL_CERT_FILE": "/etc/ca.pem",
        "UV_CONSTRAINT": "/etc/constraints.txt",
        "UV_DEFAULT_INDEX": "https://u:p=x@one.example/simple",
        "UV_FIND_LINKS": "/wheels,/more",
        "UV_INDEX": "https://two.example/simple file:///three",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_SYSTEM_CERTS": "true",
    }


def test_a_variable_for_uv_stays() -> None:
    """Whoever has set up uv itself is not overruled."""
    found = for_uv(
        {"index-url": "https://one.example"}, {"UV_DEFAULT_INDEX": "https://two.example"}
    )
    assert found == {"UV_SYSTEM_CERTS": "true"}


def test_pip_is_used_where_uv_has_no_such_setting() -> None:
    """A setting that changes what is installed isn't dropped."""
    assert for_uv({"require-hashes": "true"}, {}) == "require-hashes"
    assert for_uv({"no-index": "true"}, {}) == "no-index"
