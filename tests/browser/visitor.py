"""Somebody at a browser, and the words in which the tests tell what they do."""

import re

from django.test import Client
from playwright.sync_api import expect

# How long a page may take, on a machine that does much else.
SECONDS = 60
# A conflict and a form with errors: answers that the pages show.
SHOWN = {409, 413, 422}
# How Chromium and htmx tell of an answer, which is judged by its status instead, and
# of a question that another has overtaken.
ANSWERS = (
    "Failed to load resource: the server responded",
    "Response Status Error",
    "htmx:afterRequest",
    "htmx:sendAbort",
)


class Visitor:
    """A user at a browser of their own. What a page does wrong gathers in `faults`."""

    def __init__(self, browser, base_url, user=None, **options):
        self.base_url = base_url
        self.faults = []
        self.shown = set(SHOWN)
        # Nothing moves when it is pressed: Playwright scrolls in another way each time
        # it has to wait, and would press where a menu was before.
        options = {"reduced_motion": "reduce"} | options
        self.context = browser.new_context(base_url=base_url, **options)
        self.context.set_default_timeout(SECONDS * 1000)
        self.context.on("console", self._hear)
        self.context.on("weberror", lambda told: self.faults.append(str(told.error)))
        self.context.on("response", self._judge)
        if user:
            self.sign_in(user)
        self.page = self.context.new_page()

    def leave(self):
        self.context.close()

    def sign_in(self, user):
        client = Client(headers={"user-agent": "Chromium"})
        client.force_login(user)
        cookie = {"name": "sessionid", "value": client.cookies["sessionid"].value}
        self.context.add_cookies([cookie | {"url": self.base_url}])

    def sign_out(self):
        self.context.clear_cookies(name="sessionid")

    def go(self, account, page="images/", **query):
        query_text = "&".join(f"{key}={value}" for key, value in query.items())
        self.page.goto(f"/{account.number}/{page}" + (query_text and f"?{query_text}"))
        return self.page

    # ---- Parts of a page, by what they are called.

    @property
    def dialog(self):
        return self.page.get_by_role("dialog")

    @property
    def offers(self):
        """The notification above a list of images."""
        return self.page.get_by_role("region", name="Offered images")

    @property
    def sharing(self):
        """The section at the bottom of Image Detail."""
        return self.page.get_by_role("region", name="Image Sharing")

    @property
    def messages(self):
        return self.page.locator("#messages")

    @property
    def header_count(self):
        return self.page.locator(".offers-button")

    def row(self, text):
        return self.page.get_by_role("row").filter(has_text=text)

    def button(self, name):
        """In the dialog, if one is open."""
        return self._front.get_by_role("button", name=name, exact=True)

    def link(self, name):
        return self._front.get_by_role("link", name=name, exact=True)

    def field(self, label):
        whole = re.compile(rf"^{re.escape(label)}( \(optional\))?$")
        return self._front.get_by_label(whole)

    @property
    def _front(self):
        return self.dialog if self.dialog.is_visible() else self.page

    # ---- Deeds.

    def choose_from_gear(self, image, action):
        self.page.get_by_role("button", name=f"Actions for {image.name}").click()
        self.page.get_by_role("link", name=action, exact=True).click()

    def review(self, image):
        """Open the offer from the notification."""
        self.offers.get_by_role("link", name=f"Accept or reject {image.name}").click()
        expect(self.dialog.get_by_role("heading", name=image.name)).to_be_visible()

    def answer_the_questions(self):
        for question in ("may pass on all", "holds no private keys", "holds nothing"):
            self.page.get_by_label(re.compile(question)).check()

    def share_with_number(self, number, message=""):
        self.choose_way("Another customer")
        self.field("Account number").fill(number)
        self.field("Message").fill(message)
        self.button("Share Image").click()

    def share_with_credential(self, username, password):
        self.choose_way("An account I have access to")
        self.field("Username").fill(username)
        self.field("Password").fill(password)
        self.button("Share Image").click()

    def choose_way(self, label):
        self.page.get_by_role("radio", name=label).check()

    def _hear(self, message):
        if message.type in {"error", "warning"} and not message.text.startswith(
            ANSWERS
        ):
            self.faults.append(f"{message.type} on {message.page.url}: {message.text}")

    def _judge(self, response):
        if response.status >= 400 and response.status not in self.shown:
            self.faults.append(f"{response.status} for {response.url}")
