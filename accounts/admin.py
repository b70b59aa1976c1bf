from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin as BaseUserAdmin
from django.contrib.auth.models import Group, Permission
from django.db.models import Field, ForeignKey, ManyToManyField, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html_join
from django.utils.safestring import mark_safe

from accounts.models import Account, Invitation, Quota, Region, RoleGrant, User
from accounts.permissions import Role
from controlpanel.admin import Cheap, ReadOnly, TellsConflicts
from controlpanel.http import Conflict

# Roles are granted to users alone.
admin.site.unregister(Group)


@admin.register(Region)
class RegionAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ["code", "name", "backend"]

    def get_readonly_fields(
        self, request: HttpRequest, obj: Region | None = None
    ) -> list[str]:
        # Images and servers are there, in what the backend keeps.
        return ["code", "backend"] if obj else []


# The fields of an account that say what it may hold.
QUOTA_FIELDS = {
    "quota_servers": Quota.SERVERS,
    "quota_memory_mb": Quota.MEMORY_MB,
    "quota_images": Quota.IMAGES,
    "quota_image_gib": Quota.IMAGE_BYTES,
}


@admin.register(Account)
class AccountAdmin(Cheap):
    list_display = ["number", "name", "home_region", "status", "discoverable"]
    list_filter = ["status", "home_region"]
    list_select_related = ["home_region"]
    search_fields = ["number__exact", "name__istartswith"]
    fieldsets = [
        (
            None,
            {
                "fields": [
                    "number",
                    "name",
                    "home_region",
                    "discoverable",
                    "status",
                    "created_at",
                ]
            },
        ),
        (
            "What it may hold",
            {
                "description": "Lowering a limit below what is in use deletes nothing: "
                "only new things are refused.",
                "fields": ["in_use", *QUOTA_FIELDS],
            },
        ),
    ]
    readonly_fields = ["number", "status", "created_at", "in_use"]
    actions = ["suspend", "reinstate"]

    def has_delete_permission(
        self, request: HttpRequest, obj: Account | None = None
    ) -> bool:
        return False  # its number is never given out again

    def save_model(
        self, request: HttpRequest, obj: Account, form: Any, change: bool
    ) -> None:
        if not change:
            opened = Account.objects.open(name=obj.name, home_region=obj.home_region)
            obj.number, obj.created_at = opened.number, opened.created_at
            obj._state.adding = False
        obj.edit(
            name=obj.name,
            home_region=obj.home_region_id,
            discoverable=obj.discoverable,
        )
        obj.set_quotas(**{name: getattr(obj, name) for name in QUOTA_FIELDS})

    def formfield_for_dbfield(
        self, db_field: Field[Any, Any], request: HttpRequest, **kwargs: Any
    ) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if field and (quota := QUOTA_FIELDS.get(db_field.name)):
            default = quota.text(quota.default)
            field.help_text = f"Empty: the cloud's default, {default}."
        return field

    @admin.display(description="In use")
    def in_use(self, account: Account) -> str:
        uses = account.quota_uses() if account.pk else []
        return format_html_join(mark_safe("<br>"), "{}", ([use.text] for use in uses))

    @admin.action(
        description="Suspend: refuse its users, boot nothing from its images",
        permissions=["change"],
    )
    def suspend(self, request: HttpRequest, queryset: QuerySet[Account]) -> None:
        for account in queryset:
            account.suspend()
            self.log_change(request, account, "Suspended.")
        self.message_user(request, "Suspended. Running servers go on.")

    @admin.action(description="Reinstate", permissions=["change"])
    def reinstate(self, request: HttpRequest, queryset: QuerySet[Account]) -> None:
        for account in queryset:
            account.reinstate()
            self.log_change(request, account, "Reinstated.")
        self.message_user(request, "Reinstated.")


def _role_field(field: Any) -> Any:
    field.label = "Role"
    field.queryset = Permission.objects.filter(
        codename__in=Role.values, content_type__app_label="accounts"
    )
    field.label_from_instance = lambda role: f"{role.name} ({role.codename})"
    return field


class RoleGrantInline(admin.TabularInline):  # type: ignore[type-arg]
    model = RoleGrant
    verbose_name = "role"
    autocomplete_fields = ["content_object"]
    extra = 0

    def get_queryset(self, request: HttpRequest) -> QuerySet[RoleGrant]:
        grants = super().get_queryset(request)
        return grants.select_related("content_object", "permission")

    def has_change_permission(
        self, request: HttpRequest, obj: object | None = None
    ) -> bool:
        return False  # another role is another grant

    def formfield_for_foreignkey(
        self, db_field: ForeignKey[Any, Any], request: HttpRequest, **kwargs: Any
    ) -> Any:
        field = super().formfield_for_foreignkey(db_field, request, **kwargs)
        if db_field.name == "permission":
            return _role_field(field)
        if field and db_field.name == "content_object":
            field.label = "Account"
        return field


@admin.register(User)
class UserAdmin(TellsConflicts, Cheap, BaseUserAdmin):  # type: ignore[type-arg]
    list_display = ["username", "home_account", "is_active", "is_staff", "last_login"]
    list_filter = ["is_active", "is_staff", "is_superuser"]
    list_select_related = ["home_account"]
    search_fields = ["username__startswith", "email__exact"]
    readonly_fields = ["is_active", "last_login", "date_joined"]
    autocomplete_fields = ["home_account"]
    filter_horizontal = ["user_permissions"]
    inlines = [RoleGrantInline]
    actions = ["deactivate", "reactivate"]
    fieldsets = [
        (None, {"fields": ["username", "password", "home_account", "is_active"]}),
        ("Person", {"fields": ["first_name", "last_name", "email"]}),
        (
            "The cloud's own staff",
            {"fields": ["is_staff", "is_superuser", "user_permissions"]},
        ),
        ("Dates", {"fields": ["last_login", "date_joined"]}),
    ]
    add_fieldsets = [
        (
            None,
            {
                "fields": [
                    "username",
                    "email",
                    "home_account",
                    "usable_password",
                    "password1",
                    "password2",
                ]
            },
        ),
    ]

    def has_delete_permission(
        self, request: HttpRequest, obj: User | None = None
    ) -> bool:
        return False  # deactivated instead: roles may need an owner to stay

    def has_change_permission(
        self, request: HttpRequest, obj: User | None = None
    ) -> bool:
        # Else whoever sets passwords could sign in as a superuser.
        is_above = obj is not None and obj.is_superuser and not _is_superuser(request)
        return super().has_change_permission(request, obj) and not is_above

    def get_readonly_fields(
        self, request: HttpRequest, obj: User | None = None
    ) -> list[str]:
        own = list(super().get_readonly_fields(request, obj))
        if _is_superuser(request):
            return own
        return [*own, "is_staff", "is_superuser", "user_permissions"]

    def formfield_for_manytomany(
        self, db_field: ManyToManyField[Any, Any], request: HttpRequest, **kwargs: Any
    ) -> forms.ModelMultipleChoiceField[Any] | None:
        # Roles are granted on an account, below; as a permission they do nothing.
        field = super().formfield_for_manytomany(db_field, request, **kwargs)
        if field and field.queryset is not None and db_field.name == "user_permissions":
            field.queryset = field.queryset.exclude(codename__in=Role.values)
        return field

    def save_formset(
        self, request: HttpRequest, form: Any, formset: Any, change: bool
    ) -> None:
        granted = formset.save(commit=False)
        for grant in formset.deleted_objects:
            role = Role(grant.permission.codename)
            grant.content_object.withdraw(role, of=grant.user)
        for grant in granted:
            role = Role(grant.permission.codename)
            grant.content_object.grant(role, to=grant.user)

    def user_change_password(
        self, request: HttpRequest, id: str, form_url: str = ""
    ) -> HttpResponse:
        response = super().user_change_password(request, id, form_url)
        if response.status_code == 302:
            for user in User.objects.filter(pk=id):
                user.end_sessions(but=request.session.session_key)
        return response

    @admin.action(
        description="Deactivate, and end all sessions", permissions=["change"]
    )
    def deactivate(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        for user in self._within_reach(request, queryset):
            try:
                user.deactivate()
            except Conflict as conflict:
                self.message_user(request, f"{user}: {conflict}", messages.ERROR)
            else:
                self.log_change(request, user, "Deactivated.")

    @admin.action(description="Reactivate", permissions=["change"])
    def reactivate(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        for user in self._within_reach(request, queryset):
            user.reactivate()
            self.log_change(request, user, "Reactivated.")

    def _within_reach(
        self, request: HttpRequest, users: QuerySet[User]
    ) -> QuerySet[User]:
        reached = users if _is_superuser(request) else users.filter(is_superuser=False)
        return reached.select_related("home_account")


def _is_superuser(request: HttpRequest) -> bool:
    return bool(request.user.is_active and request.user.is_superuser)


@admin.register(RoleGrant)
class RoleGrantAdmin(ReadOnly):
    """All grants; they are given and taken on the page of the user."""

    list_display = ["user", "role", "content_object"]
    list_select_related = ["user", "permission", "content_object"]
    search_fields = ["content_object__number__exact", "user__username__exact"]

    @admin.display(description="Role")
    def role(self, grant: RoleGrant) -> str:
        return grant.permission.codename


@admin.register(Invitation)
class InvitationAdmin(ReadOnly):
    list_display = [
        "email",
        "account",
        "invited_by",
        "created_at",
        "expires_at",
        "accepted_by",
        "withdrawn_at",
    ]
    list_select_related = ["account", "accepted_by"]
    search_fields = ["account__number__exact", "email__exact"]
    exclude = ["token_hash"]
    ordering = ["-pk"]
