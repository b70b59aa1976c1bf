"""What gophercloud does, which the OpenStack plug-ins of Terraform and Packer are built
on: its requests to the letter, and what it takes for an answer.
"""

import http.client
import json
from io import BytesIO
from urllib.parse import urlencode, urlsplit

AGENT = "gophercloud/v2.8.0"
# Each operation's own, as its source has them.
FINE = {"GET": {200}, "POST": {201, 202}, "PUT": {201, 202}, "DELETE": {202, 204}}
PATCH_TYPE = "application/openstack-images-v2.1-json-patch"


class Gopher:
    """A client that has signed in by application credential, in one region."""

    def __init__(self, auth, region):
        self.token = ""
        self.address = urlsplit(auth["auth_url"]).netloc
        base = f"{auth['auth_url'].removesuffix('/v3')}/"
        endpoint = self.discover(base)
        secret = {
            "id": auth["application_credential_id"],
            "secret": auth["application_credential_secret"],
        }
        identity = {"methods": ["application_credential"]}
        identity["application_credential"] = secret
        body = {"auth": {"identity": identity}}
        url = f"{endpoint}auth/tokens"
        answer, headers = self.ask("POST", url, body, fine={201})
        self.token = headers["X-Subject-Token"]
        self.project = answer["token"]["project"]["id"]
        self.catalog, self.region = answer["token"]["catalog"], region
        self.image = f"{self.endpoint('image')}v2/"
        self.compute = self.endpoint("compute")

    def discover(self, base):
        """The newest stable version of Identity; with a slash at the end."""
        answer, _ = self.ask("GET", base, fine={200, 300})
        (href,) = (
            link["href"]
            for version in answer["versions"]["values"]
            if version["status"] in {"current", "supported", "stable"}
            and version["id"].startswith("v3")
            for link in version["links"]
            if link["rel"] == "self"
        )
        return href if href.endswith("/") else f"{href}/"

    def endpoint(self, kind):
        (url,) = (
            endpoint["url"]
            for service in self.catalog
            if service["type"] == kind
            for endpoint in service["endpoints"]
            if endpoint["interface"] == "public"
            and self.region in {endpoint["region"], endpoint["region_id"]}
        )
        return url if url.endswith("/") else f"{url}/"

    def ask(self, method, url, body=None, *, fine=None, **headers):
        """The answer's JSON, or None, and its headers. A file's length is not told."""
        sent = {"Accept": "application/json", "User-Agent": AGENT}
        if self.token:
            sent["X-Auth-Token"] = self.token
        if isinstance(body, dict | list):
            sent["Content-Type"] = "application/json"
            body = json.dumps(body).encode()
        sent |= {name.replace("_", "-"): text for name, text in headers.items()}
        connection = http.client.HTTPConnection(self.address, timeout=120)
        try:
            path = url.removeprefix(f"http://{self.address}")
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        expected = fine or FINE[method]
        assert response.status in expected, f"{method} {url}: {text.decode()[:500]}"
        return (json.loads(text) if text else None), response.headers

    def send_file(self, url, data):
        octets = "application/octet-stream"
        self.ask("PUT", url, BytesIO(data), fine={204}, Content_Type=octets)

    def get(self, url, **query):
        return self.ask("GET", f"{url}?{urlencode(query)}" if query else url)[0]

    def all_images(self, **query):
        """As AllPages follows `next`: its path, put behind the service's own."""
        found, url = [], f"{self.image}images?{urlencode(query)}"
        while url:
            page = self.get(url)
            found += page["images"]
            after = page.get("next", "")
            base = self.image.removesuffix("v2/")
            url = after and f"{base}{after.removeprefix('/')}"
        return found

    def patch(self, image, *changes):
        url = f"{self.image}images/{image}"
        kind = {"Content_Type": PATCH_TYPE, "fine": {200}}
        return self.ask("PATCH", url, list(changes), **kind)[0]

    def status_of(self, url):
        """Of a server or image; DELETED when it is gone, as the plug-ins have it."""
        answer, _ = self.ask("GET", url, fine={200, 404})
        thing = answer.get("server", answer)
        return thing.get("status", "DELETED")
