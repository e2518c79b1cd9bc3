"""The proxy of the environment through which a request goes, so that its failures are not taken for a server's."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

from survey.credentials import scrub

_TUNNEL = "Tunnel connection failed"  # of the standard library: the proxy refused to connect to a server
_OF_PROXY = {"ProxyError", "InvalidProxyURL", "ProxySchemeUnknown", "ProxySchemeUnsupported"}
_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")
_NO_ADDRESS = "is not an address such as http://HOST:PORT. Correct the variable."


@dataclass(frozen=True)
class Proxy:
    """A proxy, and the variable that names it."""

    address: str  # without user name and password
    variable: str
    encrypted: bool = False  # the request is: the proxy connects to the server, and sees no more than its name

    def __str__(self) -> str:
        return f"the proxy {self.address} (of the variable {self.variable})"


def proxy_of(url: str, environment: Mapping[str, str] | None = None) -> Proxy | None:
    """The proxy for an address, by the rules of requests and urllib; None when it is asked directly."""
    found = os.environ if environment is None else environment
    parts = urlsplit(url)
    variable = next((name for name in _variables(parts.scheme) if found.get(name)), None)
    if variable is None or _is_bypassed(url, found):
        return None
    return Proxy(_shown_address(found[variable].strip()), variable, parts.scheme == "https")


def through(url: str) -> str:
    """`` through the proxy ...`` for an address that is asked through one, or that no_proxy exempts; else ''."""
    if proxy := proxy_of(url):
        return f" through {proxy}"
    has_proxy = any(os.environ.get(name) for name in _variables(urlsplit(url).scheme))
    return f" (directly, as {_exceptions(os.environ)[0]} says)" if has_proxy else ""


def malformed(url: str) -> str:
    """What is wrong with the address of the proxy for a URL, before it is used; '' for nothing."""
    proxy = proxy_of(url)
    if proxy is None:
        return ""
    try:
        parts = urlsplit(proxy.address if "://" in proxy.address else f"http://{proxy.address}")
        is_address = parts.scheme.lower() in _SCHEMES and re.fullmatch(r"[^\s/@]+", parts.hostname or "") is not None
        is_address &= parts.port != 0 and "@" not in proxy.address
    except ValueError:
        is_address = False
    return "" if is_address else f"{proxy} {_NO_ADDRESS}"


def fault_of_proxy(url: str, error: BaseException) -> str:
    """What is wrong with the proxy of a request that failed; '' where the proxy is not the cause, or there is none.

    Parameters
    ----------
    url : that was asked
    error : of requests, urllib3 or urllib, with those that it was raised from
    """
    proxy = proxy_of(url)
    if proxy is None:
        return ""
    chain = errors_within(error)
    names = {kind.__name__ for link in chain for kind in type(link).__mro__}
    texts = " ".join(str(link) for link in chain)
    if match := re.search(rf"{_TUNNEL}: (\d+)", texts):
        return fault_of_status(url, int(match[1]), certain=True)
    if "SOCKS" in texts:
        return f"{proxy}: SOCKS needs the package pysocks: pip install pysocks."
    if malformed(url) or names & {"InvalidProxyURL", "LocationParseError", "ProxySchemeUnknown"}:
        return f"{proxy} {_NO_ADDRESS}"
    # urllib connects to nothing but the proxy.
    if names & _OF_PROXY or ("URLError" in names and not names & {"HTTPError", "SSLError"}):
        failed = [link for link in chain if isinstance(link, OSError) and link.errno is not None] or chain
        cause = scrub(f"{type(failed[-1]).__name__}: {failed[-1]}")[:150]
        return f"{proxy} cannot be reached or used ({cause}). Check the variable and the proxy."
    return ""


def fault_of_status(url: str, status: int, *, certain: bool = False) -> str:
    """What a status of HTTP says about the proxy of a request; '' where it is the server's, or there is no proxy.

    Parameters
    ----------
    certain : the proxy answered, not the server
    """
    proxy = proxy_of(url)
    if proxy is None:
        return ""
    if status == 407:
        return (
            f"{proxy} asks for a user name and a password (HTTP 407). Write them into the variable: "
            "http://USER:PASSWORD@HOST:PORT."
        )
    if certain:
        return (
            f"{proxy} refused to connect to {urlsplit(url).hostname} (HTTP {status}). Check the variable, or no_proxy."
        )
    return ""


def answerer(url: str) -> str:
    """``, or the proxy ...`` for a plain http address, whose answers may be the proxy's; '' for others."""
    proxy = proxy_of(url)
    return f", or {proxy}" if proxy is not None and not proxy.encrypted else ""


def for_urllib(environment: Mapping[str, str]) -> dict[str, str]:
    """Proxies by scheme with which urllib does what requests does: by itself it does not read all_proxy."""
    fallback = environment.get("all_proxy") or environment.get("ALL_PROXY") or ""
    if not fallback.lower().startswith(("http://", "https://")):
        return {}
    return {scheme: fallback for scheme in ("http", "https") if not any(map(environment.get, _variables(scheme)[:2]))}


def _variables(scheme: str) -> list[str]:
    """Names of variables in the order in which they are read."""
    names = [f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY"]
    return [name for name in names if not (name == "HTTP_PROXY" and "REQUEST_METHOD" in os.environ)]


def _exceptions(environment: Mapping[str, str]) -> tuple[str, str]:
    """Name and value of the variable that exempts hosts."""
    name = "no_proxy" if "no_proxy" in environment else "NO_PROXY"
    return name, environment.get(name, "")


def _is_bypassed(url: str, environment: Mapping[str, str]) -> bool:
    """Whether no_proxy exempts an address."""
    from requests.utils import should_bypass_proxies

    _, exempt = _exceptions(environment)
    try:
        # The first reads a single *, the second also networks such as 10.0.0.0/8.
        return bool(
            should_bypass_proxies(url, no_proxy=exempt)
            or proxy_bypass_environment(urlsplit(url).netloc, {"no": exempt})
        )
    except (TypeError, ValueError):
        return False


def _shown_address(value: str) -> str:
    """A proxy's address without user name and password, whatever it looks like."""
    scheme, separator, rest = value.partition("://")
    login, at, place = (rest if separator else value).rpartition("@")
    if "/" in login:  # which has to be written as %2F
        place = f"***{at}{place}"
    return (f"{scheme}{separator}{place}" if separator else place)[:100]


def errors_within(error: BaseException) -> list[BaseException]:
    """An error and all those that it holds or was raised from or after, the outermost first."""
    found = [error]
    for seen in found:
        held = [getattr(seen, "reason", None), seen.__cause__, seen.__context__, *seen.args]
        found += [item for item in held if isinstance(item, BaseException) and item not in found]
    return found
