"""A browser without a screen: it signs in, keeps cookies, and sends forms."""

import http.client
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
# Of everybody in the demo data.
PASSPHRASE = "try-the-demo"
HTMX = {"HX-Request": "true"}


class Cut(Exception):
    """No whole answer came: what was asked for may have been done, or not."""


@dataclass(frozen=True)
class Answer:
    status: int
    location: str
    text: str

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
        connection = http.client.HTTPConnection(HOST, self._port, timeout=seconds)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise Cut(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()
        for line in response.headers.get_all("Set-Cookie", []):
            for name, morsel in SimpleCookie(line).items():
                self._cookies[name] = morsel.value
        return Answer(response.status, response.headers.get("Location", ""), text)

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
