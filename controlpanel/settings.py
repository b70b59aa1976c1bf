"""Every setting comes from the environment; `.env.example` lists the variables."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from django.utils.csp import CSP

from controlpanel import env

BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY = env.text("SECRET_KEY")
DEBUG = env.flag("DEBUG")
ALLOWED_HOSTS = env.names("ALLOWED_HOSTS")
CSRF_TRUSTED_ORIGINS = env.names("CSRF_TRUSTED_ORIGINS", ",")
DATABASES = {"default": env.database("DATABASE_URL")}
DATA_DIR = env.folder("DATA_DIR", BASE_DIR / "var")

PRODUCT_NAME = env.text("PRODUCT_NAME", "Skyhook")
SUPPORT_EMAIL = env.text("SUPPORT_EMAIL", "support@example.com")

INSTALLED_APPS = [
    "accounts",
    "images",
    "sharing",
    "servers",
    "guardian",
    "axes",
    "procrastinate.contrib.django",
    "django_htmx",
    "controlpanel.admin.PanelAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.postgres",
    "django.contrib.staticfiles",
    "django.forms",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "controlpanel.api.dispatch.api",
    "controlpanel.middleware.only_utf8",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.middleware.csp.ContentSecurityPolicyMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "accounts.signin.AuthenticationMiddleware",
    "controlpanel.middleware.keep_private",
    "controlpanel.middleware.htmx",
    "controlpanel.middleware.LoginRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]
ROOT_URLCONF = "controlpanel.urls"
WSGI_APPLICATION = "controlpanel.wsgi.application"
TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "controlpanel.context.product",
            ],
        },
    }
]
FORM_RENDERER = "django.forms.renderers.TemplatesSetting"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# People sign in with a password; django-axes counts the failures first.
AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
    "guardian.backends.ObjectPermissionBackend",
]
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{validator}"}
    for validator in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
# Guardian would add a user named AnonymousUser, and methods to every user.
ANONYMOUS_USER_NAME = None
GUARDIAN_MONKEY_PATCH_USER = False
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "login"
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_LOCKOUT_CALLABLE = "accounts.signin.locked_out"
AXES_RESET_ON_SUCCESS = True
# What axes keeps of a failed attempt must hold nothing that opens a door.
AXES_SENSITIVE_PARAMETERS = [
    "password",
    "old_password",
    "new_password1",
    "new_password2",
    "csrfmiddlewaretoken",
    "next",
]
AXES_VERBOSE = False
# A sign-in that succeeds has its row among the sessions.
AXES_DISABLE_ACCESS_LOG = True
AXES_CLIENT_IP_CALLABLE = "accounts.signin.client_address"
# Reverse proxies that add to X-Forwarded-For; 0 when clients connect directly.
PROXY_COUNT = env.number("PROXY_COUNT", 0)

SESSION_ENGINE = "accounts.sessions"
SESSION_COOKIE_AGE = 14 * 24 * 60 * 60
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_HTTPONLY = True
MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"

STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATIC_ROOT = env.folder("STATIC_ROOT", DATA_DIR / "static")
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"

# Mail goes to the log of the process until a server for it is named.
MAILERS: dict[str, dict[str, Any]] = {
    "default": {"BACKEND": "django.core.mail.backends.console.EmailBackend"}
}
if email_host := env.text("EMAIL_HOST", ""):
    MAILERS["default"] = {
        "BACKEND": "django.core.mail.backends.smtp.EmailBackend",
        "OPTIONS": {
            "host": email_host,
            "port": env.number("EMAIL_PORT", 25, least=1),
            "username": env.text("EMAIL_HOST_USER", ""),
            "password": env.text("EMAIL_HOST_PASSWORD", ""),
            "use_tls": env.flag("EMAIL_USE_TLS"),
            "timeout": 10,
        },
    }
DEFAULT_FROM_EMAIL = env.text("DEFAULT_FROM_EMAIL", SUPPORT_EMAIL)

# What a panel page may load: its own files, and small pictures inside the css.
SECURE_CSP = {
    "default-src": [CSP.SELF],
    "img-src": [CSP.SELF, "data:"],
    "object-src": [CSP.NONE],
    "base-uri": [CSP.NONE],
    "form-action": [CSP.SELF],
    "frame-ancestors": [CSP.NONE],
}
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
# The demo is served on loopback without TLS; everything else is.
if not DEBUG and not env.flag("PLAIN_HTTP"):
    CSRF_COOKIE_SECURE = True
    SESSION_COOKIE_SECURE = True
    SECURE_SSL_REDIRECT = True
    # A monitor on the host asks the process itself.
    SECURE_REDIRECT_EXEMPT = [r"^(healthz|readyz)$"]
    SECURE_HSTS_SECONDS = 365 * 24 * 60 * 60
    SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    SECURE_HSTS_PRELOAD = True
if env.flag("BEHIND_TLS_PROXY"):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

# Limits that the panel states when they are reached.
ACCOUNTS = {
    "invitations_per_day": env.number("INVITATIONS_PER_DAY", 50, least=1),
    "joins_per_day": env.number("JOINS_PER_DAY", 100, least=1),
}
SHARING = {
    "members_per_image": 128,
    "offers_per_day": env.number("OFFERS_PER_DAY", 100, least=1),
    "lookups_per_day": env.number("LOOKUPS_PER_DAY", 50, least=1),
    "reports_per_day": env.number("REPORTS_PER_DAY", 20, least=1),
    "credential_checks_per_hour": env.number("CREDENTIAL_CHECKS_PER_HOUR", 10, least=1),
}
API = {
    "token_hours": env.number("TOKEN_HOURS", 12, least=1),
    # Of one account, in one web process.
    "requests_per_minute": env.number("API_REQUESTS_PER_MINUTE", 1200, least=1),
    # How long the answer to an upload waits for the check of it.
    "upload_wait_seconds": env.number("UPLOAD_WAIT_SECONDS", 60),
}
# What an account may hold at once, unless the admin sets something else for it.
QUOTAS = {
    "servers": env.number("SERVERS_PER_ACCOUNT", 10),
    "memory_mb": env.number("SERVER_MEMORY_MIB_PER_ACCOUNT", 8192),
    "images": env.number("IMAGES_PER_ACCOUNT", 1000),
    "image_bytes": env.number("IMAGE_GIB_PER_ACCOUNT", 500) << 30,
}
IMAGES = {
    "max_upload_bytes": env.number("MAX_UPLOAD_MIB", 20 * 1024, least=1) << 20,
    "max_virtual_bytes": env.number("MAX_VIRTUAL_GIB", 1024, least=1) << 30,
    "min_free_bytes": env.number("MIN_FREE_MIB", 1024) << 20,
}
COMPUTE: dict[str, Any] = {
    "accelerator": env.choice("LOCAL_REGION_ACCELERATOR", "tcg", of={"tcg", "kvm"}),
    "ssh_bind": env.text("SSH_BIND", "127.0.0.1"),
    "ssh_ports": env.ports("SSH_PORTS"),
    "max_servers": env.number("MAX_SERVERS", 20, least=1),
    "max_memory_mb": env.number("MAX_SERVER_MEMORY_MIB", 8192, least=64),
    "min_free_bytes": IMAGES["min_free_bytes"],
    "detach_mib": env.number("DETACH_MIB_PER_SECOND", 100),
    "user": env.text("SERVER_USER", "nobody"),
}

# What the worker does at once. An account occupies half of each number at most.
JOBS = {
    "server_slots": env.number("SERVER_SLOTS", 4, least=1),
    "image_slots": env.number("IMAGE_SLOTS", 2, least=1),
}
PROCRASTINATE_ON_APP_READY = "controlpanel.worker.prepare"
# Jobs are found in each app's tasks; these are others.
PROCRASTINATE_IMPORT_PATHS = [
    "servers.reconciling",
    "servers.schedules",
    "servers.withdrawals",
]

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}
    },
    "filters": {"links": {"()": "controlpanel.logs.HideLinks"}},
    "handlers": {
        "stderr": {
            "class": "logging.StreamHandler",
            "formatter": "line",
            "filters": ["links"],
        }
    },
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {"panel": {"level": "INFO"}, "procrastinate": {"level": "WARNING"}},
}
