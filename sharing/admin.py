from django.contrib import admin

from controlpanel.admin import ReadOnly
from sharing.models import ImageReport, ImageShare, ShareDeclaration, ShareEvent


@admin.register(ImageShare)
class ImageShareAdmin(ReadOnly):
    list_display = ["image_name", "consumer_number", "region", "status", "created_at"]
    list_filter = ["status", "region"]
    list_select_related = ["region"]
    search_fields = ["id__exact", "image__id__exact", "consumer_number__exact"]


@admin.register(ShareEvent)
class ShareEventAdmin(ReadOnly):
    list_display = [
        "created_at",
        "image_name",
        "producer",
        "consumer_number",
        "side",
        "from_status",
        "to_status",
        "actor_name",
    ]
    list_select_related = ["producer"]
    search_fields = ["image_id__exact", "consumer__number__exact"]
    ordering = ["-pk"]


@admin.register(ShareDeclaration)
class ShareDeclarationAdmin(ReadOnly):
    list_display = [
        "created_at",
        "image",
        "made_by",
        "may_be_distributed",
        "holds_no_secrets",
        "holds_no_malware",
    ]
    list_select_related = ["image"]
    search_fields = ["image__id__exact"]
    ordering = ["-pk"]


@admin.register(ImageReport)
class ImageReportAdmin(ReadOnly):
    list_display = ["created_at", "reason", "image_name", "producer", "reporter"]
    list_filter = ["reason"]
    list_select_related = ["producer", "reporter"]
    search_fields = ["image_id__exact", "digest__exact", "producer__number__exact"]
    ordering = ["-pk"]
