"""HTTP to calls of the stand-in for an API server, and what kubectl asks before it comes to the point."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.kubernetes.api_objects import BUILT_IN, RELEASE, Object, Refusal, Resource
from tests.kubernetes.api_server import ApiServer

# A document that describes nothing, in protobuf: field 1, 'swagger', is '2.0'. kubectl asks for it about kinds that it finds nowhere else.
_OPENAPI_V2 = b"\x0a\x032.0"


class Endpoint(ThreadingHTTPServer):
    """An address of this machine at which `api` answers, which may be exchanged: kubectl remembers of an address what kinds it has."""

    def __init__(self, api: ApiServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.api = api

    @contextmanager
    def serving(self) -> Iterator["Endpoint"]:
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            thread.join()
            self.server_close()

    def write_kubeconfig(self, path: Path) -> None:
        """With the context `test`, whose namespace is `team`."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{self.server_port}"}}],
            "users": [{"name": "tester", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "tester", "namespace": "team"}}],
            "current-context": "test",
        }
        path.write_text(yaml.safe_dump(config))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def api(self) -> ApiServer:
        assert isinstance(self.server, Endpoint)
        return self.server.api

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            found = self._route(self.command, parts.path.strip("/").split("/"), query, body)
        except Refusal as refusal:
            self._send(refusal.code, refusal.status)
            return
        if isinstance(found, dict):
            self._send(200, found)
        else:
            self._stream(found, "application/json" if "watch" in query else "text/plain")

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815 - the base class's names

    def _send(self, code: int, found: Object) -> None:
        content = json.dumps(found).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, lines: Iterator[bytes], content_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for line in lines:
                self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):  # kubectl has seen enough
            self.close_connection = True

    def _route(self, method: str, path: list[str], query: dict[str, str], body: bytes) -> Object | Iterator[bytes]:
        match method, path:
            case "GET", ["version"]:
                major, minor = RELEASE.split(".")
                return {"major": major, "minor": minor, "gitVersion": f"v{RELEASE}.0"}
            case "GET", ["api"]:
                return {"kind": "APIVersions", "versions": ["v1"]}
            case "GET", ["apis"]:
                return {"kind": "APIGroupList", "apiVersion": "v1", "groups": self._groups()}
            case "GET", ["openapi", "v2"]:
                return iter([_OPENAPI_V2])
            case "GET", ["apis", "apiextensions.k8s.io", "v1", "customresourcedefinitions"]:
                return {"kind": "CustomResourceDefinitionList", "apiVersion": "apiextensions.k8s.io/v1", "metadata": {}, "items": []}
            case "GET", ["openapi", "v3"]:
                documents = sorted({_root(resource) for resource in self.api.resources})
                return {"paths": {root: {"serverRelativeURL": f"/openapi/v3/{root}"} for root in documents}}
            case "GET", ["openapi", "v3", *root]:
                return self._openapi("/".join(root))
            case "GET", ["api", "v1"]:
                return self._resource_list("")
            case "GET", ["apis", group, "v1"]:
                return self._resource_list(group)
            case _, ["api", "v1", "namespaces", name] if method == "GET":
                return self.api.get(BUILT_IN[0], name)
            case _, ["api", "v1", "namespaces", namespace, resource, *rest]:
                return self._namespaced(method, "", namespace, resource, rest, query, body)
            case _, ["apis", group, "v1", "namespaces", namespace, resource, *rest]:
                return self._namespaced(method, group, namespace, resource, rest, query, body)
        raise Refusal(405, "MethodNotAllowed", f"the stand-in does not know {method} {self.path}")

    def _namespaced(
        self, method: str, group: str, namespace: str, name: str, rest: list[str], query: dict[str, str], body: bytes
    ) -> Object | Iterator[bytes]:
        api = self.api
        resource = next((found for found in api.resources if (found.group, found.name) == (group, name)), None)
        if resource is None:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        addressed = "/".join([resource.name, *rest[1:]])
        if addressed in api.forbidden:
            verb = {"GET": "get" if rest else "list", "PATCH": "patch", "DELETE": "delete"}.get(method, method)
            what = f'User "tester" cannot {verb} resource "{addressed}" in API group "{group}" in the namespace "{namespace}"'
            raise Refusal(403, "Forbidden", f"{resource.qualified} is forbidden: {what}")
        if method != "GET":
            if namespace != "team":
                raise Refusal(404, "NotFound", f'namespaces "{namespace}" not found')
            api.requests.append(f"{method} {resource.name}" + (" (dry run)" if query.get("dryRun") == "All" else ""))
            api.num_pods_then.append(len(api.of_kind("Pod")))
        match method, rest:
            case "GET", []:
                if namespace != "team":
                    query |= {"fieldSelector": "metadata.name="}  # nothing: an unknown namespace is an empty one to whoever reads
                return api.watch(resource, query) if query.get("watch") in ("true", "1") else api.list(resource, query)
            case "GET", [object_name]:
                return api.get(resource, object_name)
            case "GET", [object_name, "log"] if resource.name == "pods":
                api.get(resource, object_name)
                return api.log_lines(object_name, query)
            case "PATCH", [object_name] if self.headers["Content-Type"] == "application/apply-patch+yaml":
                if query.get("fieldValidation") not in ("Strict", None):
                    raise Refusal(400, "BadRequest", "the launcher asks for strict validation")
                sent = yaml.safe_load(body)
                return api.apply(resource, object_name, sent, query["fieldManager"], query.get("dryRun") == "All")
            case "DELETE", [object_name]:
                propagation = json.loads(body or b"{}").get("propagationPolicy", "Background")
                return api.delete(resource, object_name, propagation)
        raise Refusal(405, "MethodNotAllowed", f"the stand-in does not know {method} {self.path} of {self.headers['Content-Type']}")

    def _groups(self) -> list[Object]:
        groups = sorted({resource.group for resource in self.api.resources} - {""})
        versions = {group: {"groupVersion": f"{group}/v1", "version": "v1"} for group in groups}
        return [{"name": group, "versions": [version], "preferredVersion": version} for group, version in versions.items()]

    def _resource_list(self, group: str) -> Object:
        verbs = ["delete", "get", "list", "patch", "watch"]
        found = [resource for resource in self.api.resources if resource.group == group]
        if not found:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        resources = [
            {
                "name": resource.name,
                "singularName": resource.kind.lower(),
                "namespaced": resource.kind != "Namespace",
                "kind": resource.kind,
                "verbs": verbs,
                "shortNames": [resource.short],
            }
            for resource in found
        ]
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": found[0].api_version, "resources": resources}

    def _openapi(self, root: str) -> Object:
        """What kubectl looks for in it: whether a kind can be tried without effect, and validated by the server."""
        parameters = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in ("dryRun", "fieldManager", "fieldValidation")]
        paths = {}
        for resource in self.api.resources:
            if _root(resource) == root:
                kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
                patch = {"parameters": parameters, "x-kubernetes-group-version-kind": kind, "responses": {}}
                paths[f"/{root}/namespaces/{{namespace}}/{resource.name}/{{name}}"] = {"patch": patch}
        return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": RELEASE}, "paths": paths}


def _root(resource: Resource) -> str:
    """'apis/batch/v1'."""
    return f"apis/{resource.api_version}" if resource.group else "api/v1"
