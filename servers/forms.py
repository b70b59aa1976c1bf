import uuid
from typing import Any, cast

from django import forms
from django.http import QueryDict

from accounts.models import Account, Region
from images.models import Image
from servers.keys import KeyRefused, read_public_key
from servers.models import (
    MOST_KEPT,
    WEEKDAYS,
    Flavor,
    ImageSchedule,
    Server,
    SSHKey,
)

NOT_BOOTABLE = "This account cannot boot that image. Choose one from the list."


class NameField(forms.CharField):
    """A name in any script, without characters that nobody can see."""

    def clean(self, value: Any) -> str:
        name: str = super().clean(value)
        if not name.isprintable():
            raise forms.ValidationError("The name has characters that cannot be seen.")
        return name


class OrderForm(forms.Form):
    """What a new server is made of. The radio buttons stand in the selector."""

    token = forms.UUIDField(widget=forms.HiddenInput)
    region = forms.CharField(widget=forms.HiddenInput, max_length=16)
    name = NameField(
        label="Server name",
        max_length=255,
        help_text="The machine's host name is made from it.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    image = forms.UUIDField(
        error_messages={"required": "Choose an image.", "invalid": NOT_BOOTABLE}
    )
    flavor = forms.ModelChoiceField(
        Flavor.objects.filter(is_public=True),
        error_messages={
            "required": "Choose a flavor.",
            "invalid_choice": "There is no such flavor. Choose one from the list.",
        },
    )
    ssh_key = forms.ModelChoiceField(
        SSHKey.objects.none(),
        required=False,
        label="SSH key",
        empty_label="None: sign in with the root password",
    )
    new_key = forms.CharField(
        required=False,
        max_length=4000,
        label="Or paste a new public key",
        help_text="One line, as in ~/.ssh/id_ed25519.pub.",
        widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false"}),
    )
    new_key_name = NameField(
        required=False,
        max_length=100,
        label="Keep the new key as",
        help_text="Leave it empty to use the key for this server only.",
    )

    def __init__(self, *args: Any, account: Account, region: Region, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.account, self.in_region = account, region
        self.chosen: Image | None = None
        keys = cast("forms.ModelChoiceField[SSHKey]", self.fields["ssh_key"])
        keys.queryset = account.ssh_keys.all()

    def clean_token(self) -> uuid.UUID:
        token: uuid.UUID = self.cleaned_data["token"]
        return token

    def clean_image(self) -> Image:
        """Only what the account may boot; all else looks alike, whether it exists."""
        images = Image.objects.bootable_by(self.account).select_related("region")
        image = images.filter(pk=self.cleaned_data["image"]).first()
        if image is None:
            raise forms.ValidationError(NOT_BOOTABLE)
        self.chosen = image
        if image.region_id != self.in_region.pk:
            raise forms.ValidationError(
                f"The image lies in {image.region}, and a server is made in the "
                "region of its image."
            )
        return image

    def clean_new_key(self) -> str:
        text: str = self.cleaned_data["new_key"]
        return _read_key(text) if text else ""

    def clean_new_key_name(self) -> str:
        name: str = self.cleaned_data["new_key_name"]
        if name and self.account.ssh_keys.filter(name=name).exists():
            raise forms.ValidationError("There is a key with this name already.")
        return name

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        image, flavor = cleaned.get("image"), cleaned.get("flavor")
        if image and flavor and (reason := flavor.why_not(image)):
            self.add_error("flavor", f"{flavor} does not fit. {reason}")
        if cleaned.get("ssh_key") and cleaned.get("new_key"):
            self.add_error("new_key", "Choose a key or paste one, not both.")
        if cleaned.get("new_key_name") and not self.data.get("new_key", "").strip():
            self.add_error("new_key", "Paste the key that is to be kept.")
        return cleaned

    @property
    def public_key(self) -> str:
        chosen: SSHKey | None = self.cleaned_data["ssh_key"]
        pasted: str = self.cleaned_data["new_key"]
        return chosen.public_key if chosen else pasted


class KeyForm(forms.Form):
    name = NameField(max_length=100)
    public_key = forms.CharField(
        max_length=4000,
        help_text="One line, as in ~/.ssh/id_ed25519.pub. Never the private key.",
        widget=forms.Textarea(attrs={"rows": 4, "spellcheck": "false"}),
    )

    def __init__(self, *args: Any, account: Account, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.account = account

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if self.account.ssh_keys.filter(name=name).exists():
            raise forms.ValidationError("There is a key with this name already.")
        return name

    def clean_public_key(self) -> str:
        return _read_key(self.cleaned_data["public_key"])


class RebootForm(forms.Form):
    how = forms.ChoiceField(
        choices=[
            ("soft", "Soft: the system shuts down in order and starts again"),
            ("hard", "Hard: the power is cut; unsaved data is lost"),
        ],
        label="How",
        initial="soft",
        widget=forms.RadioSelect,
    )


class RebuildForm(forms.Form):
    """The radio buttons stand in the selector."""

    image = forms.UUIDField(
        error_messages={"required": "Choose an image.", "invalid": NOT_BOOTABLE}
    )
    is_sure = forms.BooleanField(
        label="I know that all data on its disk is lost",
        error_messages={"required": "Say that you know it: nothing can be undone."},
    )


class ResizeForm(forms.Form):
    flavor = forms.ModelChoiceField(
        Flavor.objects.filter(is_public=True),
        error_messages={
            "required": "Choose a flavor.",
            "invalid_choice": "There is no such flavor. Choose one from the list.",
        },
    )


class RenameForm(forms.Form):
    name = NameField(max_length=255, help_text="The machine keeps its host name.")

    def __init__(self, data: QueryDict | None, *, server: Server) -> None:
        super().__init__(data, initial={"name": server.name})


class CreateImageForm(forms.Form):
    name = NameField(
        max_length=255,
        required=False,
        help_text="Left empty, the image has the server's name.",
    )

    def __init__(self, data: QueryDict | None, *, server: Server) -> None:
        super().__init__(data)
        self.fields["name"].widget.attrs["placeholder"] = server.name


class ScheduleForm(forms.Form):
    day = forms.ChoiceField(
        choices=[
            ("every", "Every day"),
            *((str(n), f"Every {day}") for n, day in enumerate(WEEKDAYS)),
        ],
    )
    hour = forms.TypedChoiceField(
        label="At",
        coerce=int,
        choices=[(hour, f"{hour:02}:00 UTC") for hour in range(24)],
        initial=2,
        help_text="UTC all year: where clocks are put forward in summer, it is an hour "
        "later there.",
    )
    keep = forms.IntegerField(
        label="Images to keep",
        min_value=1,
        max_value=MOST_KEPT,
        initial=7,
        help_text=f"1 to {MOST_KEPT}. Each counts in the account's quota.",
    )

    def __init__(
        self, data: QueryDict | None, *, schedule: ImageSchedule | None
    ) -> None:
        super().__init__(data)
        if schedule:
            self.initial = {
                "day": "every" if schedule.weekday is None else schedule.weekday,
                "hour": schedule.hour,
                "keep": schedule.keep,
            }

    @property
    def weekday(self) -> int | None:
        day: str = self.cleaned_data["day"]
        return None if day == "every" else int(day)


def _read_key(text: str) -> str:
    try:
        return read_public_key(text).line
    except KeyRefused as refusal:
        raise forms.ValidationError(str(refusal)) from None
