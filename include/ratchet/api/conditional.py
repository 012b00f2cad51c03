"""An answer that whoever asks has already is not sent again: 304 for a GET whose answer is still the same.

The tag is a digest of the answer itself, made anew each time. So it misses no change, whatever the change is of: a row,
a permission, the code, or the time (an age in words, a budget at midnight). It spares the way and the reader, who has
nothing to redraw, not the making; docs/decisions/0079 says why no cheaper tag is right.
"""

from __future__ import annotations

import hashlib
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TAG = re.compile(r'"[^"]*"')
OF_THE_BODY = ("content-length", "content-type")


class Conditional:
    """Tags every answer to a GET that comes whole, and answers 304 where ``If-None-Match`` names its tag.

    An answer that brings a tag of its own keeps it; what is streamed and what is no 200 goes by as it is. Our tag is
    weak, for whatever serves us may compress the answer afterwards.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        had = ",".join(Headers(scope=scope).getlist("if-none-match"))
        held: Message | None = None

        async def send_tagged(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start" and message["status"] == 200:
                held = message
                return
            if held is not None:
                begun, held = held, None
                headers = MutableHeaders(scope=begun)
                if not message.get("more_body"):
                    body = hashlib.blake2b(message.get("body", b""), digest_size=16).hexdigest()
                    tag = headers.setdefault("ETag", f'W/"{body}"').removeprefix("W/")
                    if had.strip() == "*" or tag in TAG.findall(had):
                        begun["status"] = 304
                        message = {**message, "body": b""}
                        for name in OF_THE_BODY:
                            del headers[name]
                await send(begun)
            await send(message)

        await self._app(scope, receive, send_tagged)
