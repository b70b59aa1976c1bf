from typing import Any, cast

from django import forms
from django.db import models

from accounts import numbers
from accounts.models import Account
from sharing.models import ImageReport, ShareDeclaration


class Way(models.TextChoices):
    OWN = "own", "An account of mine"
    ACCESS = "access", "An account I have access to"
    CUSTOMER = "customer", "Another customer"


NOT_ANSWERED = "Answer this before you share the image."
# What has to be typed for each way.
NEEDED = {
    Way.OWN: {"account": "Choose the account."},
    Way.ACCESS: {
        "username": "Enter the username.",
        "password": "Enter the password.",
    },
    Way.CUSTOMER: {"number": "Enter the account number."},
}


class ShareForm(forms.Form):
    """The three questions before sharing, and with whom in one of the ways.

    When the questions have been answered for this image they are not asked again.
    """

    use_required_attribute = False  # what is needed depends on the way

    may_be_distributed = forms.BooleanField(
        label="No. I may pass on all the software on it.",
        error_messages={"required": NOT_ANSWERED},
    )
    holds_no_secrets = forms.BooleanField(
        label="No. It holds no private keys, passwords or other sensitive information.",
        error_messages={"required": NOT_ANSWERED},
    )
    holds_no_malware = forms.BooleanField(
        label="No. It holds nothing that the Acceptable Use Policy forbids.",
        error_messages={"required": NOT_ANSWERED},
    )
    way = forms.ChoiceField(
        choices=Way,
        error_messages={
            "required": "Choose with whom to share.",
            "invalid_choice": "Choose one of the ways on this page.",
        },
    )
    account = forms.ChoiceField(
        required=False,
        label="Account",
        error_messages={"invalid_choice": "Choose one of your accounts."},
    )
    username = forms.CharField(
        required=False,
        label="Username",
        max_length=150,
        widget=forms.TextInput(
            attrs={"autocomplete": "off", "autocapitalize": "none", "spellcheck": False}
        ),
    )
    password = forms.CharField(
        required=False,
        label="Password",
        strip=False,
        max_length=4096,
        widget=forms.PasswordInput(attrs={"autocomplete": "off"}),
    )
    number = forms.CharField(
        required=False,
        label="Account number",
        max_length=40,
        widget=forms.TextInput(attrs={"inputmode": "numeric", "autocomplete": "off"}),
        help_text=(
            "8 digits, which the other customer finds in the account menu. The offer "
            "shows on their Saved Images and Create Server pages: tell them if they "
            "rarely look there."
        ),
    )
    message = forms.CharField(
        required=False,
        label="Message",
        max_length=280,
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text="Plain text, at most 280 characters.",
    )

    def __init__(
        self,
        data: Any = None,
        *,
        account: Account,
        own_accounts: list[Account],
        declaration: ShareDeclaration | None,
        number: str = "",
    ) -> None:
        super().__init__(data)
        self.producer = account
        self.own_accounts = {each.pk: each for each in own_accounts}
        ways = [way for way in Way if way != Way.OWN or own_accounts]
        self._choices("way", [(way.value, way.label) for way in ways])
        self._choices("account", [(each.pk, str(each)) for each in own_accounts])
        self.initial = {"way": Way.CUSTOMER if number else ways[0], "number": number}
        self.declaration = declaration
        if declaration:
            for question in QUESTIONS:
                del self.fields[question]

    def _choices(self, name: str, choices: list[tuple[str, str]]) -> None:
        cast(forms.ChoiceField, self.fields[name]).choices = choices

    @property
    def asks_questions(self) -> bool:
        return self.declaration is None

    @property
    def chosen_way(self) -> str:
        return str(self["way"].value())

    def clean_number(self) -> str:
        """The digits, however they were grouped."""
        number = "".join(self.cleaned_data["number"].split()).replace("-", "")
        if self.data.get("way") != Way.CUSTOMER or not number:
            return number
        if not numbers.is_valid(number):
            raise forms.ValidationError(
                "This is no account number: check it for a typing error. "
                f"A number has {numbers.LENGTH} digits."
            )
        if number == self.producer.pk:
            raise forms.ValidationError("This is your own account.")
        return number

    def clean(self) -> None:
        way = self.cleaned_data.get("way")
        if not way:
            return
        for name, sentence in NEEDED[Way(way)].items():
            if name not in self.errors and not self.cleaned_data.get(name):
                self.add_error(name, sentence)


QUESTIONS = ["may_be_distributed", "holds_no_secrets", "holds_no_malware"]


class ChosenForm(forms.Form):
    """Which of several accounts, after the credential has been checked."""

    token = forms.CharField(widget=forms.HiddenInput)
    account = forms.ChoiceField(
        label="Account",
        widget=forms.RadioSelect,
        error_messages={
            "required": "Choose the account.",
            "invalid_choice": "Choose one of these accounts.",
        },
    )

    def __init__(
        self, data: Any = None, *, accounts: list[Account], token: str = ""
    ) -> None:
        super().__init__(data, initial={"token": token})
        choices = [(each.pk, str(each)) for each in accounts]
        cast(forms.ChoiceField, self.fields["account"]).choices = choices


class ReportForm(forms.Form):
    reason = forms.ChoiceField(
        label="What is wrong with it?",
        choices=ImageReport.Reason,
        widget=forms.RadioSelect,
        error_messages={"required": "Choose what is wrong."},
    )
    text = forms.CharField(
        required=False,
        label="What did you see?",
        max_length=4000,
        widget=forms.Textarea(attrs={"rows": 4}),
    )
