"""Sharing and accepting by the keyboard alone, with the focus always in sight."""

import pytest
from playwright.sync_api import expect

from sharing.models import ImageShare
from tests.factories import ImageShareFactory

# Whether what has the focus is on the screen, and marked as having it.
FOCUS_IS_SEEN = """
() => {
    const focused = document.activeElement;
    // The page as a whole, after the link that skips to it or a deed, is not marked.
    if (focused.matches("body, main")) return true;
    const {top, bottom, width} = focused.getBoundingClientRect();
    const style = getComputedStyle(focused);
    const marked = style.outlineStyle !== "none" || style.boxShadow !== "none";
    const inside = bottom > 0 && top < innerHeight && width > 0;
    return (marked && inside) || focused.outerHTML.slice(0, 200);
}
"""


class Keyboard:
    """Presses keys, and looks after each where the focus is."""

    def __init__(self, visitor):
        self.visitor, self.page = visitor, visitor.page

    def press(self, key):
        self.page.keyboard.press(key)
        assert self.page.evaluate(FOCUS_IS_SEEN) is True

    def type(self, text):
        self.page.keyboard.type(text)

    def tab_to(self, target, key="Tab"):
        for _ in range(60):
            if target.evaluate("each => each === document.activeElement"):
                return
            self.press(key)
        pytest.fail(f"the focus never came to {target}")


def test_alice_shares_an_image(visit, cast):
    alice = visit(cast.alice)
    alice.go(cast.acme)
    keys = Keyboard(alice)

    keys.press("Tab")
    expect(alice.link("Skip to the page")).to_be_focused()
    keys.press("Enter")
    gear = alice.page.get_by_role("button", name="Actions for web-golden")
    keys.tab_to(gear)
    keys.press("Enter")
    keys.press("ArrowDown")
    keys.tab_to(alice.link("Share Image"), key="ArrowDown")
    keys.press("Enter")
    expect(alice.dialog.get_by_role("heading", name="Share web-golden")).to_be_visible()

    for box in alice.dialog.get_by_role("checkbox").all():
        keys.tab_to(box)
        keys.press("Space")
    keys.tab_to(alice.dialog.get_by_role("radio", checked=True))
    keys.press("ArrowDown")
    expect(alice.dialog.get_by_role("radio", name="Another customer")).to_be_checked()
    keys.tab_to(alice.field("Account number"))
    keys.type(cast.beta.number)
    keys.press("Enter")

    expect(alice.dialog).to_be_hidden()
    expect(alice.messages).to_contain_text("is offered to")
    expect(gear).to_be_focused()
    assert ImageShare.objects.get().consumer == cast.beta


def test_escape_closes_menu_and_dialog_and_the_focus_returns(visit, cast):
    alice = visit(cast.alice)
    alice.go(cast.acme, f"images/{cast.image.pk}/")
    keys = Keyboard(alice)
    gear = alice.page.get_by_role("button", name="Actions for")
    keys.tab_to(gear)
    keys.press("ArrowDown")
    menu = alice.page.locator(".menu:popover-open")
    expect(menu).to_be_visible()
    keys.press("Escape")
    expect(menu).to_have_count(0)
    expect(gear).to_be_focused()

    share = alice.sharing.get_by_role("link", name="Share Image")
    keys.tab_to(share)
    keys.press("Enter")
    expect(alice.dialog).to_be_visible()
    keys.press("Tab")
    expect(alice.dialog.locator(":focus")).to_have_count(1)
    keys.press("Escape")
    expect(alice.dialog).to_be_hidden()
    expect(share).to_be_focused()


# The browser tells that a dialog is closed a frame later; the answer here is faster.
CLOSE_AND_OPEN_AGAIN = """
() => {
    const again = document.querySelector("#dialog").innerHTML;
    document.querySelector("#dialog-frame").close();
    htmx.swap("#dialog", again, {swapStyle: "innerHTML"});
    return new Promise((told) => requestAnimationFrame(() => setTimeout(told, 100)));
}
"""


def test_a_dialog_that_is_opened_again_at_once_is_not_emptied(visit, cast):
    alice = visit(cast.alice)
    alice.go(cast.acme, f"images/{cast.image.pk}/")
    alice.sharing.get_by_role("link", name="Share Image").click()
    heading = alice.dialog.get_by_role("heading", name="Share web-golden")
    expect(heading).to_be_visible()

    alice.page.evaluate(CLOSE_AND_OPEN_AGAIN)

    expect(heading).to_be_visible()
    alice.page.keyboard.press("Escape")
    expect(alice.dialog).to_be_hidden()
    expect(alice.page.locator("#dialog")).to_be_empty()


def test_bob_postpones_then_accepts(visit, cast):
    ImageShareFactory.create(image=cast.image, consumer=cast.beta)
    bob = visit(cast.bob)
    bob.go(cast.beta)
    keys = Keyboard(bob)
    review = bob.offers.get_by_role("link", name="Accept or reject")

    keys.tab_to(review)
    keys.press("Enter")
    expect(bob.dialog).to_be_visible()
    keys.press("Escape")
    expect(review).to_be_focused()

    keys.press("Enter")
    keys.tab_to(bob.button("Accept"))
    keys.press("Enter")

    expect(bob.dialog).to_be_hidden()
    expect(bob.offers).to_have_count(0)
    expect(bob.row("web-golden")).to_contain_text("Shared Image")
    # Its opener is gone, and the focus is not lost at the start of the page.
    expect(bob.page.locator("#main")).to_be_focused()
