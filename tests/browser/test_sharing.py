"""The producer's side: the dialog by each way there is, and the table it fills."""

import pytest
from playwright.sync_api import expect

from accounts.permissions import Role
from images.models import Image
from sharing.models import ImageShare
from tests.factories import PASSWORD, AccountFactory, ImageShareFactory

PENDING, ACCEPTED = "Pending Acceptance", "Accepted"


def from_the_list(alice, cast):
    alice.go(cast.acme)
    alice.choose_from_gear(cast.image, "Share Image")


def from_the_gear_of_the_detail(alice, cast):
    alice.go(cast.acme, f"images/{cast.image.pk}/")
    alice.page.get_by_role("button", name="Actions for").click()
    alice.page.locator(".menu").get_by_role("link", name="Share Image").click()


def from_the_section(alice, cast):
    alice.go(cast.acme, f"images/{cast.image.pk}/")
    alice.sharing.get_by_role("link", name="Share Image").click()


@pytest.fixture
def alice(visit, cast):
    return visit(cast.alice)


@pytest.fixture
def dialog(alice, cast):
    from_the_section(alice, cast)
    alice.answer_the_questions()
    return alice.dialog


@pytest.mark.parametrize(
    "open_dialog", [from_the_list, from_the_gear_of_the_detail, from_the_section]
)
class DialogTests:
    def test_another_customer_by_number(self, alice, cast, open_dialog):
        open_dialog(alice, cast)
        alice.answer_the_questions()
        alice.share_with_number(cast.beta.number, "For the exotic OS group")

        expect(alice.messages).to_contain_text(f"is offered to {cast.beta.number}")
        expect(alice.dialog).to_be_hidden()
        alice.go(cast.acme, f"images/{cast.image.pk}/")
        row = alice.sharing.get_by_role("row").filter(has_text=cast.beta.number)
        expect(row).to_contain_text(PENDING)
        expect(row).to_contain_text("For the exotic OS group")
        expect(row).to_contain_text("by alice")

    def test_an_account_whose_password_is_known(self, alice, cast, open_dialog):
        open_dialog(alice, cast)
        alice.answer_the_questions()
        alice.share_with_credential("bob", PASSWORD)

        expect(alice.messages).to_contain_text("and accepted there")
        expect(alice.dialog).to_be_hidden()
        share = ImageShare.objects.get()
        assert (share.consumer, share.status) == (cast.beta, "accepted")


class WaysTests:
    def test_the_section_shows_the_share_at_once(self, alice, cast, dialog):
        alice.share_with_number(cast.beta.number)

        expect(alice.sharing.get_by_role("row").nth(1)).to_contain_text(PENDING)

    def test_of_several_accounts_one_is_chosen_after_the_check(
        self, alice, cast, dialog
    ):
        gamma = AccountFactory.create(name="Gamma")
        gamma.grant(Role.IMAGES_ADMIN, to=cast.bob)

        alice.share_with_credential("bob", PASSWORD)
        dialog.get_by_role("radio", name="Gamma").check()
        alice.button("Share Image").click()

        expect(alice.messages).to_contain_text(f"is shared with Gamma ({gamma.number})")
        expect(alice.sharing.get_by_role("row").nth(1)).to_contain_text(ACCEPTED)
        assert ImageShare.objects.get().consumer == gamma

    def test_a_wrong_password_says_no_more_than_that_and_keeps_the_form(
        self, alice, cast, dialog
    ):
        alice.share_with_credential("bob", "wrong")

        expect(dialog).to_contain_text("This did not work. Check username and password")
        expect(alice.field("Username")).to_have_value("bob")
        expect(alice.field("Password")).to_have_value("")

        alice.field("Password").fill(PASSWORD)
        alice.button("Share Image").click()
        expect(alice.messages).to_contain_text("and accepted there")

    def test_an_own_role_elsewhere_needs_no_password(self, alice, cast):
        cast.beta.grant(Role.IMAGES_ADMIN, to=cast.alice)
        from_the_section(alice, cast)
        alice.answer_the_questions()

        alice.choose_way("An account of mine")
        alice.dialog.get_by_label("Account", exact=True).select_option(cast.beta.number)
        alice.button("Share Image").click()

        expect(alice.messages).to_contain_text("and accepted there")
        expect(alice.sharing.get_by_role("row").nth(1)).to_contain_text(ACCEPTED)

    def test_a_typing_error_keeps_the_form(self, alice, cast, dialog):
        number = cast.beta.number
        wrong = number[:-1] + str((int(number[-1]) + 1) % 10)
        alice.share_with_number(wrong, "Hello")

        expect(dialog).to_contain_text("check it for a typing error")
        field = alice.field("Account number")
        expect(field).to_have_value(wrong)
        expect(field).to_be_focused()
        expect(alice.field("Message")).to_have_value("Hello")
        assert not ImageShare.objects.exists()

        field.fill(number)
        alice.button("Share Image").click()
        expect(alice.messages).to_contain_text("is offered to")

    def test_the_questions_are_not_passed_over(self, alice, cast):
        from_the_section(alice, cast)
        alice.share_with_number(cast.beta.number)

        expect(alice.dialog).to_contain_text("Answer this before you share the image.")
        expect(alice.field("Account number")).to_have_value(cast.beta.number)

    def test_a_double_click_makes_one_share(self, alice, cast, dialog):
        alice.choose_way("Another customer")
        alice.field("Account number").fill(cast.beta.number)
        alice.button("Share Image").dblclick()

        expect(alice.messages).to_contain_text("is offered to")
        expect(alice.dialog).to_be_hidden()
        assert ImageShare.objects.count() == 1

    def test_the_name_of_a_discoverable_account_is_echoed(self, alice, cast, dialog):
        cast.beta.discoverable = True
        cast.beta.save(update_fields=["discoverable"])

        alice.choose_way("Another customer")
        alice.field("Account number").press_sequentially(cast.beta.number)

        expect(dialog).to_contain_text("This is the account of Beta.")


class AfterwardsTests:
    def test_after_a_rejection_alice_removes_and_shares_again(self, alice, cast):
        ImageShareFactory.create(
            image=cast.image,
            consumer=cast.beta,
            offered_by=cast.alice,
            rejected=True,
            answered_by=cast.bob,
        )
        alice.go(cast.acme, f"images/{cast.image.pk}/")
        expect(alice.sharing).to_contain_text("Rejected")

        alice.button("Remove and share again").click()
        expect(alice.field("Account number")).to_have_value(cast.beta.number)
        alice.answer_the_questions()
        alice.button("Share Image").click()

        expect(alice.dialog).to_be_hidden()
        expect(alice.sharing.get_by_role("row").nth(1)).to_contain_text(PENDING)
        assert ImageShare.objects.get().status == "pending"

    def test_alice_stops_sharing_and_bob_loses_the_image(self, alice, visit, cast):
        ImageShareFactory.create(
            image=cast.image,
            consumer=cast.beta,
            offered_by=cast.alice,
            accepted=True,
            answered_by=cast.bob,
        )
        bob = visit(cast.bob)
        bob.go(cast.beta)
        expect(bob.row("web-golden")).to_be_visible()

        alice.go(cast.acme, f"images/{cast.image.pk}/")
        alice.link(f"Remove {cast.beta.number}").click()
        alice.dialog.get_by_role("button", name="Remove").click()

        expect(alice.sharing).to_contain_text("Shared with nobody")
        bob.page.reload()
        expect(bob.page.get_by_role("heading", name="No saved images")).to_be_visible()

    def test_an_answer_shows_on_the_open_page(self, alice, cast):
        share = ImageShareFactory.create(
            image=cast.image, consumer=cast.beta, offered_by=cast.alice
        )
        alice.page.clock.install()
        alice.go(cast.acme, f"images/{cast.image.pk}/")
        expect(alice.sharing).to_contain_text(PENDING)

        share.accept(by=cast.bob)
        alice.page.clock.fast_forward("00:30")

        expect(alice.sharing.get_by_role("row").nth(1)).to_contain_text(ACCEPTED)

    def test_two_of_acme_remove_at_once_and_the_second_is_told(self, alice, cast):
        share = ImageShareFactory.create(
            image=cast.image, consumer=cast.beta, offered_by=cast.alice
        )
        alice.shown.add(404)
        alice.go(cast.acme, f"images/{cast.image.pk}/")
        alice.link(f"Remove {cast.beta.number}").click()
        expect(alice.dialog).to_be_visible()
        share.revoke(by=cast.alice)

        alice.dialog.get_by_role("button", name="Remove").click()

        expect(alice.dialog.get_by_role("alert")).to_contain_text("no longer exists")
        assert Image.objects.filter(pk=cast.image.pk).exists()
