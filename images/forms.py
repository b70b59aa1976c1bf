from __future__ import annotations

import unicodedata
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.core.files.uploadedfile import UploadedFile

from images.models import Image

MOST_TAGS = 20
LONGEST_TAG = 60
# They write what follows backwards, so that a name reads as another.
OVERRIDES = "\u202d\u202e"
MOST_DISK_GB = 64 * 1024
MOST_RAM_MB = 4 * 1024 * 1024


def refuse_control_characters(text: str) -> None:
    """Any script, emoji and line break, but nothing that moves a terminal's cursor."""
    for character in text:
        is_control = unicodedata.category(character) == "Cc"
        if (is_control and character not in "\r\n\t") or character in OVERRIDES:
            raise ValidationError("Control characters are not allowed.")


def refuse_line_breaks(text: str) -> None:
    if any(character in "\r\n\t\u2028\u2029" for character in text):
        raise ValidationError("This must be a single line.")


class TagsField(forms.CharField):
    """Tags with commas between them, as a list without repeats."""

    def to_python(self, value: Any) -> list[str]:  # type: ignore[override]
        text = super().to_python(value) or ""
        return list(
            dict.fromkeys(tag.strip() for tag in text.split(",") if tag.strip())
        )

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(value) if isinstance(value, list) else value

    def validate(self, value: list[str]) -> None:
        super().validate(value)
        if len(value) > MOST_TAGS:
            raise ValidationError(f"At most {MOST_TAGS} tags are allowed.")
        for tag in value:
            if len(tag) > LONGEST_TAG:
                raise ValidationError(
                    f"{tag[:20]}… is longer than a tag may be ({LONGEST_TAG})."
                )

    def run_validators(self, value: list[str]) -> None:
        for tag in value:
            super().run_validators(tag)


ONE_LINE = [refuse_control_characters, refuse_line_breaks]


class DescriptionForm(forms.Form):
    """What the owner says about an image, at its upload as well as later."""

    name = forms.CharField(max_length=255, validators=ONE_LINE)
    description = forms.CharField(
        max_length=1000,
        required=False,
        validators=[refuse_control_characters],
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text="Whoever the image is shared with reads this too.",
    )
    os = forms.CharField(
        label="Operating system",
        max_length=100,
        required=False,
        validators=ONE_LINE,
        widget=forms.TextInput(attrs={"placeholder": "Debian 13"}),
    )

    def clean_description(self) -> str:
        return str(self.cleaned_data["description"]).replace("\r\n", "\n")


class ImageForm(DescriptionForm):
    tags = TagsField(
        required=False, validators=ONE_LINE, help_text="Separate tags with commas."
    )
    min_disk_gb = forms.IntegerField(
        label="Minimum disk (GB)", min_value=0, max_value=MOST_DISK_GB
    )
    min_ram_mb = forms.IntegerField(
        label="Minimum RAM (MB)", min_value=0, max_value=MOST_RAM_MB
    )
    protected = forms.BooleanField(
        label="Protect from deletion",
        required=False,
        help_text="A protected image cannot be deleted by anyone until this is "
        "switched off.",
    )

    @classmethod
    def of(cls, image: Image, data: Any = None) -> ImageForm:
        initial = {name: getattr(image, name) for name in cls.base_fields}
        return cls(data, initial=initial)


class UploadForm(DescriptionForm):
    name = forms.CharField(
        max_length=255,
        required=False,
        validators=ONE_LINE,
        help_text="Empty: the name of the file.",
    )
    file = forms.Field(
        widget=forms.FileInput,
        help_text="qcow2 and raw disks are kept byte for byte. VMDK, VDI, VHD and "
        "VHDX are converted to qcow2.",
    )

    field_order = ["name", "description", "os", "file"]

    def clean_file(self) -> UploadedFile[bytes]:
        file: UploadedFile[bytes] = self.cleaned_data["file"]
        return file

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if not cleaned.get("name") and "file" in cleaned and "name" in cleaned:
            cleaned["name"] = (cleaned["file"].name or "Image")[:255]
        return cleaned
