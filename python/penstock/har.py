"""HAR 1.2: dialogs as browsers' developer tools, and much else, read them.

Source: http://www.softwareishard.com/blog/har-12-spec/. Names of our own begin with an underscore, as it asks for.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import errno
import json
import os
import re
import secrets
import urllib.parse
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any

from penstock._native import __version__, read_limit
from penstock.blocking._ops import default_policy
from penstock.blocking.policy import Policy, checked
from penstock.body.image import BodyImage
from penstock.dialog import Dialog, phrase_of, with_history
from penstock.headers import Headers
from penstock.http.charset import charset_of

__all__ = ["entry", "write"]

EPOCH = datetime.datetime.fromtimestamp(0, datetime.UTC)
# `int` refuses thousands of digits.
LENGTH = re.compile("[0-9]{1,18}")


async def write(
    path: str | os.PathLike[str],
    dialogs: Iterable[Dialog] | AsyncIterable[Dialog],
    *,
    max_text: int | str = "1MiB",
    overwrite: bool = False,
    policy: Policy | None = None,
) -> int:
    """Writes dialogs to a HAR file, one after the other; the redirects before each of them, too.

    Memory is bounded by `max_text`, of which it takes a few times as much. The file is there when it is complete.

    Args:
        path: Where; its directory must exist.
        dialogs: An iterable, asynchronous or not: an archive's by `record.dialog()`.
        max_text: Bytes of a body that are written, as text or base64. A larger body is left out, and a comment says so.
        overwrite: Replace a file that is there.
        policy: Runs what waits for files; `None` is the process's default pool.

    Returns:
        How many entries it has.

    Raises:
        FileExistsError: `path` is there and `overwrite` is false.
        OSError: What else the file system says.

    Failed or cancelled, nothing is left; but cancelled at its very end, the file may be there, complete.
    """
    run = (checked(policy) or default_policy).run
    if (limit := read_limit(max_text, "max_text")) is None:
        raise TypeError("max_text=None: takes a size, which bounds memory")
    path = Path(path)
    if not overwrite and await run(path.exists):
        raise FileExistsError(errno.EEXIST, f"{os.strerror(errno.EEXIST)}, overwrite=True replaces it", str(path))
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")

    async def open_part() -> IO[bytes]:
        return await run(_open, part, path)

    async def undo() -> None:
        await asyncio.wait([opening])
        if not opening.cancelled() and opening.exception() is None:
            await run(_drop, opening.result(), part)

    opening = asyncio.create_task(open_part())
    try:
        # Not to be cancelled itself: the file would be made all the same.
        file = await asyncio.shield(opening)
        creator = {"name": "penstock", "version": __version__}
        await run(_put, file, path, b'{"log":{"version":"1.2","creator":%s,"entries":[' % json.dumps(creator).encode())
        count = 0
        async for last in _each(dialogs):
            for dialog in with_history(last):
                bodies = [await _read(body, limit) for body in (dialog.req_body, dialog.res_body)]
                text = json.dumps(entry(dialog, *bodies), ensure_ascii=False, separators=(",", ":"))
                await run(_put, file, path, (b",\n" if count else b"\n") + text.encode())
                count += 1
        await run(_put, file, path, b"\n]}}\n")
        await run(_finish, file, part, path, overwrite)
    except BaseException:
        undoing = asyncio.create_task(undo())
        while not undoing.done():
            # A cancel scope of anyio's cancels again and again.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([undoing])
        undoing.result()
        # It has the error, which has this frame, and the dialogs.
        del opening
        raise
    return count


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Says of an OSError where: of a write the system doesn't, and a draft's name is one that nobody knows."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def _open(part: Path, path: Path) -> IO[bytes]:
    with _naming(path):
        return open(part, "xb")


def _put(file: IO[bytes], path: Path, data: bytes) -> None:
    with _naming(path):
        file.write(data)
        file.flush()


def _finish(file: IO[bytes], part: Path, path: Path, overwrite: bool) -> None:
    file.close()
    if not overwrite:
        # A link refuses what came there meanwhile, which a rename would replace.
        try:
            path.hardlink_to(part)
        except FileExistsError:
            raise
        except OSError:
            # A file system that has none.
            pass
        else:
            part.unlink(missing_ok=True)
            return
    part.replace(path)


def _drop(file: IO[bytes], part: Path) -> None:
    # What a full disk hasn't taken, it doesn't take now.
    with contextlib.suppress(OSError):
        file.close()
    part.unlink(missing_ok=True)


async def _each(dialogs: Iterable[Dialog] | AsyncIterable[Dialog]) -> AsyncIterator[Dialog]:
    if isinstance(dialogs, AsyncIterable):
        async for dialog in dialogs:
            yield dialog
    else:
        for dialog in dialogs:
            yield dialog


async def _read(body: BodyImage, limit: int) -> bytes | None:
    return await body.read() if len(body) <= limit else None


def entry(dialog: Dialog, req_body: bytes | None, res_body: bytes | None) -> dict[str, Any]:
    """One entry of a log: of a dialog, and its bodies where they are to be in it.

    What a dialog doesn't say is what HAR has for that: -1, an empty text, or 1970 with a comment.
    """
    trace = dialog.trace
    sent = trace.sent or 0.0
    first_byte = max(trace.first_byte or 0.0, sent)
    done = max(trace.done or 0.0, first_byte)
    # Of the way to a connection no part is known by itself: it is in `send`.
    timings = {"send": _ms(sent), "wait": _ms(first_byte - sent), "receive": _ms(done - first_byte)}
    found: dict[str, Any] = {
        "startedDateTime": (trace.started or EPOCH).isoformat(timespec="milliseconds"),
        "time": sum(timings.values()),
        "request": _request(dialog, req_body),
        "response": _response(dialog, res_body),
        "cache": {},
        "timings": timings,
    }
    if trace.started is None:
        found["comment"] = "when it was isn't known"
    if trace.peer is not None:
        found["serverIPAddress"], found["connection"] = trace.peer[0], str(trace.peer[1])
    return found


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _request(dialog: Dialog, body: bytes | None) -> dict[str, Any]:
    head, fields, size = dialog.trace.req_head, dialog.req_headers, len(dialog.req_body)
    # Not by `urlsplit`, which refuses some.
    query = dialog.url.partition("#")[0].partition("?")[2]
    found: dict[str, Any] = {
        "method": dialog.method,
        "url": dialog.url,
        "httpVersion": "HTTP/1.1",
        "cookies": [_cookie(pair) for line in fields.get_all("cookie") for pair in line.split(";") if pair.strip()],
        "headers": _fields(fields),
        "queryString": [
            {"name": name, "value": value} for name, value in urllib.parse.parse_qsl(query, keep_blank_values=True)
        ],
        "headersSize": len(head) or -1,
        "bodySize": size,
    }
    if size:
        found["postData"] = {"mimeType": fields.get("content-type", ""), **_text(body, fields, size, "_encoding")}
    return found


def _response(dialog: Dialog, body: bytes | None) -> dict[str, Any]:
    head, fields, size = dialog.trace.res_head, dialog.res_headers, len(dialog.res_body)
    coded = set(dialog.res_decoded) - {"chunked", "identity"}
    announced = fields.get("content-length", "")
    # What came over the wire, if that can be told.
    came = size if not coded else int(announced) if LENGTH.fullmatch(announced) else -1
    content: dict[str, Any] = {"size": size, "mimeType": fields.get("content-type", "")}
    if coded and came >= 0:
        content["compression"] = size - came
    if size:
        content.update(_text(body, fields, size, "encoding"))
    return {
        "status": dialog.status,
        "statusText": dialog.response().reason or phrase_of(dialog.status),
        "httpVersion": dialog.version,
        "cookies": [_set_cookie(line) for line in fields.get_all("set-cookie")],
        "headers": _fields(fields),
        "content": content,
        "redirectURL": fields.get("location", ""),
        "headersSize": len(head) or -1,
        "bodySize": came,
    }


def _fields(fields: Headers) -> list[dict[str, str]]:
    return [{"name": name.decode("latin-1"), "value": value.decode("latin-1")} for name, value in fields.raw]


def _text(body: bytes | None, fields: Headers, size: int, encoding: str) -> dict[str, str]:
    """A body as text, if it is that by its charset, else in base64."""
    if body is None:
        return {"comment": f"left out: {size} bytes are over max_text"}
    charset, text = charset_of(fields), "\0"
    if charset is not None:
        # What can't be decoded, or not be written as UTF-8, isn't text.
        with contextlib.suppress(ValueError):
            decoded = body.decode(charset)
            decoded.encode()
            text = decoded
    return {"text": base64.b64encode(body).decode(), encoding: "base64"} if "\0" in text else {"text": text}


def _cookie(pair: str) -> dict[str, Any]:
    name, _, value = pair.strip().partition("=")
    return {"name": name, "value": value}


def _set_cookie(line: str) -> dict[str, Any]:
    pair, *attributes = line.split(";")
    found = _cookie(pair)
    for attribute in attributes:
        name, _, value = attribute.strip().partition("=")
        match name.lower():
            case "path" | "domain":
                found[name.lower()] = value
            case "expires":
                # What isn't a date, or none that a datetime holds, is left out.
                with contextlib.suppress(ValueError, OverflowError):
                    date = parsedate_to_datetime(value)
                    found["expires"] = (date if date.tzinfo else date.replace(tzinfo=datetime.UTC)).isoformat()
            case "httponly":
                found["httpOnly"] = True
            case "secure":
                found["secure"] = True
            case _:
                continue
    return found
