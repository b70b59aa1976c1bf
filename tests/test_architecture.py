import ast
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings
from django.test import SimpleTestCase
from django.urls import URLPattern, URLResolver, get_resolver

from accounts.permissions import Capability
from images.api.service import api as images

# Each imports only from those before it; settings and urls put the layers together.
LAYERS = ["controlpanel", "accounts", "images", "sharing", "servers"]
ASSEMBLY = {"controlpanel/settings.py", "controlpanel/urls.py"}

# Its gate is asked in one query with the count, since every open page polls it.
OWN_GATE = {"offers"}

OUTSIDE_WORLD = {
    "asyncio",
    "ftplib",
    "http.client",
    "httpx",
    "multiprocessing",
    "pty",
    "qemu",
    "requests",
    "shutil",
    "signal",
    "socket",
    "socketserver",
    "subprocess",
    "telnetlib",
    "urllib.request",
}
MAY_TOUCH_IT = ("images/stores/", "servers/compute/", "controlpanel/worker.py")
NOT_OURS = {"bench", "chaos", "tests", "tools"}


def sources() -> Iterator[tuple[str, ast.Module]]:
    for layer in LAYERS:
        for path in Path(settings.BASE_DIR, layer).rglob("*.py"):
            module = path.relative_to(settings.BASE_DIR).as_posix()
            yield module, ast.parse(path.read_text())


def imports() -> Iterator[tuple[str, str]]:
    """Every module of ours, with all that it imports, also inside functions."""
    for module, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                yield module, node.module
                for alias in node.names:
                    yield module, f"{node.module}.{alias.name}"
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    yield module, alias.name


def views(
    patterns: list[URLPattern | URLResolver], route: str = ""
) -> Iterator[tuple[str, URLPattern]]:
    for pattern in patterns:
        whole = route + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from views(pattern.url_patterns, whole)
        else:
            yield whole, pattern


class ArchitectureTests(SimpleTestCase):
    def test_apps_import_only_from_lower_layers(self):
        assert not [
            (module, imported)
            for module, imported in imports()
            if module not in ASSEMBLY and imported.split(".")[0] in layers_above(module)
        ]

    def test_no_app_imports_tools_or_tests(self):
        assert not [
            (module, imported)
            for module, imported in imports()
            if imported.split(".")[0] in NOT_OURS
        ]

    def test_only_stores_and_compute_touch_the_outside_world(self):
        assert not [
            (module, imported)
            for module, imported in imports()
            if imported in OUTSIDE_WORLD and not module.startswith(MAY_TOUCH_IT)
        ]

    def test_every_page_of_an_account_has_its_gate(self):
        gated = 0
        for route, pattern in views(get_resolver().url_patterns):
            if "account_number" in route and pattern.name not in OWN_GATE:
                with self.subTest(route=route):
                    assert isinstance(capability_of(pattern.callback), Capability)
                    gated += 1
        assert gated > 40

    def test_the_worker_finds_every_job(self):
        """In an app's tasks, in what these import, or where the settings say."""
        found = set(settings.PROCRASTINATE_IMPORT_PATHS)
        for module, imported in imports():
            if module.endswith("/tasks.py"):
                found |= {module_name(module), imported}
        with_jobs = {
            module_name(module)
            for module, tree in sources()
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and any("jobs.task" in ast.unparse(made) for made in node.decorator_list)
        }
        assert "servers.schedules" in with_jobs
        assert with_jobs <= found

    def test_every_operation_on_images_has_its_gate(self):
        assert get_resolver().url_patterns  # the operations on members, too
        gated = 0
        for _, router in images._routers:
            for view in router.path_operations.values():
                for operation in view.operations:
                    if operation.auth_param is None:  # versions are for everyone
                        assert "version" in operation.view_func.__name__
                        continue
                    with self.subTest(operation=operation.view_func.__name__):
                        assert isinstance(
                            capability_of(operation.view_func), Capability
                        )
                        gated += 1
        assert gated > 20

    def test_only_permissions_knows_what_a_role_allows(self):
        assert not [
            (module, node.lineno)
            for module, tree in sources()
            for node in ast.walk(tree)
            if not module.startswith("accounts/")
            and (asks_for_permission(node) or compares_a_role(node))
        ]

    def test_templates_ask_for_no_role(self):
        for path in Path(settings.BASE_DIR, "templates").rglob("*.html"):
            with self.subTest(path=path.name):
                assert "perms." not in path.read_text()


def capability_of(view):
    """What @requires has left, below other decorators."""
    while view is not None and not hasattr(view, "capability"):
        view = getattr(view, "__wrapped__", None)
    return getattr(view, "capability", None)


def module_name(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".")


def layers_above(module: str) -> list[str]:
    return LAYERS[LAYERS.index(module.split("/", maxsplit=1)[0]) + 1 :]


def asks_for_permission(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in {"has_perm", "has_perms"}


def compares_a_role(node: ast.AST) -> bool:
    """As in `if role == "cloudImages:admin"`."""
    if not isinstance(node, ast.Compare):
        return False
    return any(
        isinstance(part, ast.Constant)
        and str(part.value).startswith(("cloudImages:", "nova:", "identity:"))
        for part in [node.left, *node.comparators]
    )
