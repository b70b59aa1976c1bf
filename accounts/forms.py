from collections.abc import Collection, Iterable
from typing import Any, cast

from django import forms
from django.contrib.auth.forms import BaseUserCreationForm
from django.core.validators import RegexValidator
from django.forms.models import model_to_dict

from accounts.models import Account, User
from accounts.permissions import Role, why_not_assign
from accounts.regions import RegionChoice

NO_CONTROL_CHARACTERS = RegexValidator(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029]",
    "Control characters and line breaks are not allowed.",
    inverse_match=True,
)


class AccountForm(forms.Form):
    name = forms.CharField(
        max_length=100,
        validators=[NO_CONTROL_CHARACTERS],
        help_text="Accounts that this one shares images with are shown it.",
    )
    home_region = forms.ChoiceField(help_text="Create Server starts with this region.")
    discoverable = forms.BooleanField(
        required=False,
        label="Show the name of this account to whoever types its number",
        help_text="Off, the number alone tells nobody whose it is.",
    )

    def __init__(
        self, data: Any = None, *, account: Account, regions: Iterable[RegionChoice]
    ) -> None:
        super().__init__(data, initial=model_to_dict(account, list(self.base_fields)))
        choices = [(region.code, region.label) for region in regions]
        cast(forms.ChoiceField, self.fields["home_region"]).choices = choices


class RolesForm(forms.Form):
    """Which roles a user is to have, as ticked by somebody with roles of their own."""

    roles = forms.MultipleChoiceField(choices=Role.choices, required=False)

    def __init__(
        self, data: Any = None, *, held: Collection[Role], by: Collection[Role]
    ) -> None:
        super().__init__(data)
        self.kept = {role for role in held if why_not_assign([role], by=by)}

    def clean_roles(self) -> set[Role]:
        # Boxes that the actor may not change are disabled, and not sent.
        return {Role(role) for role in self.cleaned_data["roles"]} | self.kept

    @property
    def problem(self) -> str:
        return " ".join(str(error) for error in self.errors.get("roles", []))


class InvitationForm(forms.Form):
    email = forms.EmailField(label="E-mail address")
    roles = forms.MultipleChoiceField(
        choices=Role.choices,
        error_messages={"required": "Choose at least one role."},
    )

    def clean_roles(self) -> set[Role]:
        return {Role(role) for role in self.cleaned_data["roles"]}


class CredentialForm(forms.Form):
    """A key for a program, with some of the roles that its user has."""

    name = forms.CharField(
        max_length=255,
        validators=[NO_CONTROL_CHARACTERS],
        help_text="What will use it, so that you know later which to delete.",
    )
    roles = forms.MultipleChoiceField(
        widget=forms.CheckboxSelectMultiple,
        help_text="It can do no more than you can, and less if you lose a role.",
        error_messages={"required": "Choose at least one role."},
    )
    days = forms.TypedChoiceField(
        label="Expires",
        coerce=int,
        initial=90,
        choices=[
            (30, "After 30 days"),
            (90, "After 90 days"),
            (365, "After a year"),
            (0, "Never"),
        ],
    )

    def __init__(self, data: Any = None, *, held: Collection[Role]) -> None:
        super().__init__(data, initial={"roles": list(held)})
        roles = cast(forms.MultipleChoiceField, self.fields["roles"])
        roles.choices = [(role.value, f"{role.label} ({role.value})") for role in held]

    def clean_roles(self) -> set[Role]:
        return {Role(role) for role in self.cleaned_data["roles"]}


class JoinForm(BaseUserCreationForm[User]):
    class Meta(BaseUserCreationForm.Meta):
        model = User
        fields = ("username",)
