"""Secrets that are planted to be looked for: marked, so that they are found in whatever form they come to light."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

#: What a presigned URL says of who signed it. It is of no use without the secret key, and ends with the URL.
IN_A_PRESIGNED_URL = re.compile(rb"X-Amz-(?:Credential|Security-Token)=$")
#: How far around a find one can see.
CONTEXT_BYTES = 60


@dataclass(frozen=True, kw_only=True)
class Find:
    """A marked secret, in the open."""

    where: str
    form: str
    #: The bytes around it.
    context: bytes


class Canary:
    """A word that stands in secrets, and how to find it again.

    Letters and digits only: URL-encoding, JSON and shells leave it as it is.
    """

    def __init__(self, word: str, *, may_sign_urls: bool = False) -> None:
        """Parameters:
        may_sign_urls: access key ids and session tokens begin with it, and these are part of presigned URLs.
        """
        assert word.isascii()
        assert word.isalnum()
        self.word = word
        self._may_sign_urls = may_sign_urls
        self.forms = {
            "plain": word.encode(),
            "hex": word.encode().hex().encode(),
            "HEX": word.encode().hex().upper().encode(),
            **{f"base64 at {shift}": _in_base64(word.encode(), shift) for shift in range(3)},
        }
        self._pattern = re.compile(b"|".join(map(re.escape, self.forms.values())))
        self._form_of = {needle: form for form, needle in self.forms.items()}

    def finds(self, where: str, content: bytes) -> list[Find]:
        """Each place where it shows, but for presigned URLs if it may stand there."""
        return [
            Find(
                where=where,
                form=self._form_of[match[0]],
                context=content[max(0, match.start() - CONTEXT_BYTES) : match.end() + CONTEXT_BYTES],
            )
            for match in self._pattern.finditer(content)
            if not (self._may_sign_urls and _signs_a_url(content, match.start()))
        ]


def finds_in_files(canaries: Iterable[Canary], root: Path, *, but: frozenset[str] = frozenset()) -> list[Find]:
    """What stands in the files below a directory; those that are removed meanwhile are passed over.

    Parameters:
      but: names of files that are not looked into.
    """
    found: list[Find] = []
    # os.walk passes over folders that go while it looks; Path.rglob does not.
    for path in (Path(folder) / name for folder, _, names in os.walk(root) for name in names):
        if path.name in but or path.is_symlink() or not path.is_file():
            continue
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue
        found += [find for canary in canaries for find in canary.finds(str(path), content)]
    return found


def _signs_a_url(content: bytes, start: int) -> bool:
    return IN_A_PRESIGNED_URL.search(content[max(0, start - CONTEXT_BYTES) : start]) is not None


def _in_base64(word: bytes, shift: int) -> bytes:
    """The part of its base64 that does not depend on what stands around it, `shift` bytes after a group's beginning."""
    encoded = base64.b64encode(bytes(shift) + word)
    begin, end = -(-shift * 8 // 6), (shift + len(word)) * 8 // 6
    return encoded[begin:end]
