"""A user of the panel, who asks its real web server as a browser does."""

import http.client
import re
import uuid
from typing import Any
from urllib.parse import urlencode

from bench.client import CSRF

USERNAME, PASSWORD = "alice", "try-the-demo"  # the demo's
REGION = "IAD"
_SESSION = re.compile(r"sessionid=(\w+)")
_SERVER = re.compile(r"/servers/([0-9a-f-]{36})/")
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Visitor:
    def __init__(self, port: int, account: str) -> None:
        self.port = port
        self.account = account
        self._session = ""
        form = urlencode({"username": USERNAME, "password": PASSWORD}).encode()
        response, _ = self._request("POST", "/login/", form, _FORM)
        cookies = " ".join(response.headers.get_all("Set-Cookie") or [])
        found = _SESSION.search(cookies)
        if not found:
            raise SystemExit(f"signing in was answered by {response.status}")
        self._session = found[1]

    def get(self, path: str) -> str:
        return self._expect("GET", path, None, {}, 200)

    def post(self, path: str, expected: int = 302, **form: Any) -> str:
        return self._expect("POST", path, urlencode(form).encode(), _FORM, expected)

    def order(self, image: str) -> str:
        """Create Server; returns its ID."""
        page = self.post(
            "servers/create/",
            201,
            token=uuid.uuid4(),
            region=REGION,
            name="bench",
            image=image,
            flavor="micro",
        )
        found = _SERVER.search(page)
        if not found:
            raise SystemExit("the answer to the order names no server")
        return found[1]

    def upload(self, content: bytes) -> str:
        """Upload Image; returns its ID."""
        mark = uuid.uuid4().hex
        head = (
            f'--{mark}\r\nContent-Disposition: form-data; name="file"; '
            'filename="disk"\r\nContent-Type: application/octet-stream\r\n\r\n'
        )
        body = head.encode() + content + f"\r\n--{mark}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={mark}"}
        where = self._expect("POST", "images/upload/", body, headers, 302)
        return where.partition("?")[0].rstrip("/").rpartition("/")[2]

    def _expect(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: dict[str, str],
        expected: int,
    ) -> str:
        """The page, or where it leads to."""
        whole = f"/{self.account}/{path}"
        response, text = self._request(method, whole, body, headers)
        if response.status != expected:
            raise SystemExit(f"{whole} answered {response.status}: {text[-2000:]}")
        return response.headers.get("Location", text)

    def _request(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[http.client.HTTPResponse, str]:
        cookies = f"sessionid={self._session}; csrftoken={CSRF}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(
                method,
                path,
                body,
                {"Cookie": cookies, "X-CSRFToken": CSRF, **headers},
            )
            response = connection.getresponse()
            return response, response.read().decode()
        finally:
            connection.close()
