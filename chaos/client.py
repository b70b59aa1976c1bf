"""Who asks the panel: a browser without a screen, which signs in, keeps cookies, and
sends forms; and a client of the Cloud Images API.
"""

import http.client
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookies import SimpleCookie
from pathlib import Path
from secrets import token_hex
from urllib.parse import urlencode

from tools.demo import HOST

SECONDS = 40
FORM = "application/x-www-form-urlencoded"
JSON, OCTETS = "application/json", "application/octet-stream"
# Of everybody in the demo data.
PASSPHRASE = "try-the-demo"
HTMX = {"HX-Request": "true"}


class Cut(Exception):
    """No whole answer came: what was asked for may have been done, or not."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    text: str

    @property
    def location(self) -> str:
        return self.headers.get("Location", "")

    @property
    def ok(self) -> bool:
        return self.status == 200

    def find(self, pattern: str) -> str:
        """The first group of the first match in the page; empty if there is none."""
        found = re.search(pattern, self.text)
        return found[1] if found else ""


class Browser:
    def __init__(self, port: int, username: str, password: str) -> None:
        self._port = port
        self._who = {"username": username, "password": password}
        self._cookies: dict[str, str] = {}

    def get(self, path: str, *, seconds: float = SECONDS) -> Answer:
        return self._stay_signed_in("GET", path, seconds=seconds)

    def post(
        self,
        path: str,
        form: Mapping[str, object] | None = None,
        *,
        htmx: bool = False,
    ) -> Answer:
        headers = {"Content-Type": FORM, **(HTMX if htmx else {})}
        return self._stay_signed_in("POST", path, form or {}, headers)

    def upload(self, path: str, file: Path, form: Mapping[str, object]) -> Answer:
        boundary = token_hex(16)
        kind = f"multipart/form-data; boundary={boundary}"
        return self._stay_signed_in("POST", path, form, {"Content-Type": kind}, file)

    def _stay_signed_in(
        self,
        method: str,
        path: str,
        form: Mapping[str, object] | None = None,
        headers: dict[str, str] | None = None,
        file: Path | None = None,
        *,
        seconds: float = SECONDS,
    ) -> Answer:
        if "sessionid" not in self._cookies:
            self._sign_in()
        answer = self._ask(method, path, form, headers or {}, file, seconds)
        if answer.status == 302 and answer.location.startswith("/login/"):
            self._cookies.clear()
            self._sign_in()
            answer = self._ask(method, path, form, headers or {}, file, seconds)
        return answer

    def _sign_in(self) -> None:
        self._ask("GET", "/login/")
        answer = self._ask("POST", "/login/", self._who, {"Content-Type": FORM})
        if answer.status != 302:
            raise Cut(f"signing in was answered by {answer.status}")

    def _ask(
        self,
        method: str,
        path: str,
        form: Mapping[str, object] | None = None,
        headers: dict[str, str] | None = None,
        file: Path | None = None,
        seconds: float = SECONDS,
    ) -> Answer:
        headers = dict(headers or {})
        cookies = "; ".join(f"{name}={each}" for name, each in self._cookies.items())
        headers["Cookie"] = cookies
        body = self._body(form, headers, file) if form is not None else None
        answer = _ask(self._port, method, path, body, headers, seconds)
        for line in answer.headers.get_all("Set-Cookie", []):
            for name, morsel in SimpleCookie(line).items():
                self._cookies[name] = morsel.value
        return answer

    def _body(
        self, form: Mapping[str, object], headers: dict[str, str], file: Path | None
    ) -> bytes:
        fields = {"csrfmiddlewaretoken": self._cookies.get("csrftoken", ""), **form}
        if file is None:
            return urlencode(fields).encode()
        boundary = headers["Content-Type"].partition("boundary=")[2]
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
            f"{value}\r\n"
            for name, value in fields.items()
        ]
        parts.append(
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; '
            f'filename="{file.name}"\r\nContent-Type: application/octet-stream\r\n\r\n'
        )
        end = f"\r\n--{boundary}--\r\n"
        return "".join(parts).encode() + file.read_bytes() + end.encode()


class ApiClient:
    """Speaks for one account, and renews its token when that has ended."""

    def __init__(self, port: int, username: str, password: str, account: str) -> None:
        self._port = port
        user = {"name": username, "domain": {"id": "default"}, "password": password}
        identity = {"methods": ["password"], "password": {"user": user}}
        scope = {"project": {"id": account}}
        self._who = {"auth": {"identity": identity, "scope": scope}}
        self._token = ""

    def post(self, path: str, what: Mapping[str, object]) -> Answer:
        return self._stay_signed_in("POST", path, json.dumps(what).encode(), JSON)

    def put(self, path: str, file: Path) -> Answer:
        return self._stay_signed_in("PUT", path, file.read_bytes(), OCTETS)

    def _stay_signed_in(self, method: str, path: str, body: bytes, kind: str) -> Answer:
        if not self._token:
            self._sign_in()
        answer = self._ask(method, path, body, kind)
        if answer.status == 401:
            self._sign_in()
            answer = self._ask(method, path, body, kind)
        return answer

    def _sign_in(self) -> None:
        path = "/identity/v3/auth/tokens"
        answer = self._ask("POST", path, json.dumps(self._who).encode(), JSON)
        if answer.status != 201:
            raise Cut(f"signing in was answered by {answer.status}")
        self._token = answer.headers["X-Subject-Token"]

    def _ask(self, method: str, path: str, body: bytes, kind: str) -> Answer:
        headers = {"Content-Type": kind, "X-Auth-Token": self._token}
        return _ask(self._port, method, path, body, headers, SECONDS)


def _ask(
    port: int,
    method: str,
    path: str,
    body: bytes | None,
    headers: dict[str, str],
    seconds: float,
) -> Answer:
    connection = http.client.HTTPConnection(HOST, port, timeout=seconds)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
        return Answer(response.status, response.headers, text)
    except (OSError, http.client.HTTPException) as error:
        raise Cut(f"{method} {path}: {error!r}") from error
    finally:
        connection.close()
