"""As much of S3 as object locks need, which believes no request that is not signed whole.

    python strict_s3.py PORT ACCESS_KEY SECRET_KEY

Signatures are computed by botocore; every x-amz header must be part of them, and what comes with a lock needs its
checksum. Nothing is read back: only names and the ends of locks are kept.
"""

import base64
import hashlib
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

ACCESS, SECRET = sys.argv[2:4]
locks: dict[str, tuple[str, str] | None] = {}
hidden: set[str] = set()


def complaint(method: str, target: str, headers: dict[str, str], body: bytes) -> str | None:
    authorization = headers.get("authorization", "")
    found = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=([^/]+)/\d+/us-east-1/s3/aws4_request, SignedHeaders=([^,]+), Signature=(\w+)",
        authorization,
    )
    if not found or found[1] != ACCESS:
        return "AuthorizationHeaderMalformed"
    signed = found[2].split(";")
    if unsigned := [name for name in headers if name.startswith("x-amz-") and name not in signed]:
        return f"there are headers that are not signed: {unsigned}"
    url = f"http://{headers['host']}{target}"
    request = AWSRequest(method=method, url=url, headers={name: headers[name] for name in signed})
    request.context["timestamp"] = headers["x-amz-date"]
    auth = S3SigV4Auth(Credentials(ACCESS, SECRET), "s3", "us-east-1")
    text = auth.string_to_sign(request, auth.canonical_request(request))
    if auth.signature(text, request) != found[3]:
        return "SignatureDoesNotMatch"
    wants_sum = "x-amz-object-lock-mode" in headers or target.endswith("?retention")
    checksum = base64.b64encode(hashlib.md5(body).digest()).decode()
    if wants_sum and headers.get("content-md5") != checksum:
        return "BadDigest"
    return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status: int, body: str = "", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body.encode())

    def handle_one(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        wrong = complaint(self.command, self.path, headers, body)
        if wrong:
            return self.answer(403, f"<Error><Code>Strict</Code><Message>{wrong}</Message></Error>")
        split = urlsplit(self.path)
        name, about = split.path, split.query
        if self.command == "GET" and about == "object-lock":
            return self.answer(200, "<O><ObjectLockEnabled>Enabled</ObjectLockEnabled></O>")
        if self.command == "PUT" and about == "retention":
            mode, until = (re.search(f"<{tag}>(.*?)</{tag}>", body.decode())[1] for tag in ("Mode", "RetainUntilDate"))
            if name in hidden:
                return self.answer(405, "<Error><Code>MethodNotAllowed</Code></Error>")
            if name not in locks:
                return self.answer(404, "<Error><Code>NoSuchKey</Code></Error>")
            locks[name] = (mode, until)
            return self.answer(200)
        if self.command == "PUT" and not about:
            if name in locks and headers.get("if-none-match") == "*":
                return self.answer(412, "<Error><Code>PreconditionFailed</Code></Error>")
            mode = headers.get("x-amz-object-lock-mode")
            locks[name] = mode and (mode, headers["x-amz-object-lock-retain-until-date"])
            return self.answer(200, headers={"ETag": '"x"'})
        if self.command == "HEAD" and name in locks:
            kept = locks[name]
            lock = kept and {"x-amz-object-lock-mode": kept[0], "x-amz-object-lock-retain-until-date": kept[1]}
            return self.answer(200, headers=lock or {})
        if self.command == "DELETE":
            locks.pop(name, None)
            hidden.add(name)
            return self.answer(204)
        self.answer(404)

    do_GET = do_HEAD = do_PUT = do_DELETE = handle_one


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
