"""The storage in a bucket: objects by key, below a prefix, whole or not there at all.

An object is `<prefix>/<area>/<key>`, and has its hash in its metadata. What is put again while somebody may be about to
remove it is marked beside it, as an object cannot be given another time:

<prefix>/touched/<area>/<key>   when it was wanted last
<prefix>/removing/<area>/<key>  somebody is about to remove it
<prefix>/done/<name>            when a piece of work was begun last
"""

from __future__ import annotations

import contextlib
import errno
import math
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from email.utils import parsedate_to_datetime
from io import RawIOBase
from pathlib import Path
from typing import Any

from blake3 import blake3

from core.job_files import is_id, job_folder
from core.settings import Settings
from core.storage.copying import copy_within
from core.storage.folders import FRESH_S, BucketFault, age_s
from core.storage.object_client import place_of, storage_client, translated
from core.storage.object_reader import ObjectReader, object_reader
from core.storage.placing import CHUNK_BYTES, LocalFile, Told, digest_of
from core.storage.sending import LARGE_BYTES, Sender, threads

_HASH = re.compile("[0-9a-f]{64}")
#: What is younger than this needs no mark to be kept: it is not removed for as long again.
YOUNG_S = FRESH_S / 2
#: Files of one job on their way at once; of large ones so many parts.
FILES_AT_ONCE = 4
#: A removal that was announced is done within this time, or not at all.
REMOVAL_S = 30.0
#: A process that announced one and was killed is waited for no longer than this.
REMOVER_DEAD_S = 120.0
REMOVER_PAUSE_S = 0.2
#: Between two looks for those, by one process.
SWEEP_EVERY_S = 600.0


class S3Storage:
    """The `StorageBackend` of one area (`outputs`, `inputs`) of a bucket. Safe to share between threads.

    What the server refuses, and that it does not answer, is raised as BucketFault, in words for the operator.
    """

    is_remote = True

    def __init__(self, settings: Settings, area: str) -> None:
        self._settings = settings
        self._url = settings.storage_url
        self._bucket, self._prefix = place_of(settings)
        self._area = area
        #: Where files of this machine wait that are on their way: a job's below `<job id>/`.
        self.workplace = settings.data_dir / "outgoing"
        self._drafts = settings.data_dir / "drafts"
        self._sender = Sender(settings)
        self._swept_at_s = self._looked_at_s = -math.inf

    def draft(self) -> Path:
        """Return a new local path to write a file to that is to be `put`; the caller removes it."""
        self._settings.make_data_dir()
        self._drafts.mkdir(exist_ok=True)
        self._sweep_local()
        return self._drafts / uuid.uuid4().hex

    def put(self, key: str, file: Path, *, is_needed: bool = False) -> None:
        """Bring a local file in, which leaves its place. One that is there already stays: equal keys are equal bytes.

        Several processes may do this with one key at once, and one may be about to remove it.

        Parameters:
          is_needed: nobody removes what is there, for the ledger refers to it.
        """
        # A content key is the hash; reading so much again would keep other requests of an API process waiting.
        name = key.rpartition("/")[2]
        digest = f"blake3:{name}" if _HASH.fullmatch(name) else digest_of(file)
        if not self._will_stay(key, file.stat().st_size, digest, is_needed=is_needed):
            sent = LocalFile(key=key, path=file, digest=digest, content_type="application/octet-stream")
            self._sender.send(self._name(key), sent)
            self._check_kept([sent] if file.stat().st_size >= LARGE_BYTES else [])
        file.unlink()

    def adopt(self, name: str, etag: str, key: str, size_bytes: int, digest: str) -> None:
        """Bring in a file that lies elsewhere in the bucket, as `put`; it stays there. Other bytes are refused."""
        if not self._will_stay(key, size_bytes, digest):
            copy_within(self._settings, name, etag, self._name(key), size_bytes=size_bytes, digest=digest)

    def take_over(self, source: object, source_key: str, key: str, *, size_bytes: int, digest: str) -> bool:
        """Bring in what another area of the bucket has; False: it is no area of this bucket."""
        if not isinstance(source, S3Storage):
            return False
        name = source._name(source_key)
        with threads(1, "look") as pool:
            is_there = pool.submit(self._will_stay, key, size_bytes, digest)
            found = self._sure_head(name)
        if found is None or found["ContentLength"] != size_bytes:
            raise FileNotFoundError(errno.ENOENT, f"{self._url}: it has no such object of this size")
        if not is_there.result():
            told: dict[str, Any] = {"size_bytes": size_bytes, "digest": digest, "is_ours": True}
            copy_within(self._settings, name, found["ETag"], self._name(key), **told)
        return True

    def keep(self, files: Sequence[LocalFile]) -> None:
        """Bring in copies of local files of one folder, under keys that are the caller's alone.

        What is there is not sent again, and large files go on where a process was killed. When this returns, the server
        has said of every file that it is there.
        """
        sizes = self._sizes(files)

        def keep(file: LocalFile) -> LocalFile | None:
            # A single one is sent as soon as it is asked for.
            if self._name(file.key) in sizes and self.has(file.key, file.path.stat().st_size, file.digest):
                return None
            self._sender.send(self._name(file.key), file, resumes=True)
            return file

        # Parts of one large file take as many connections.
        large = {file.key for file in files if file.path.stat().st_size >= LARGE_BYTES}
        with threads(FILES_AT_ONCE, "keep") as pool:
            sent = [each.result() for each in [pool.submit(keep, file) for file in files if file.key not in large]]
        sent += [keep(file) for file in files if file.key in large]
        self._check_kept([file for file in sent if file is not None])

    def has(self, key: str, size_bytes: int, digest: str) -> bool:
        """Return whether a file is there whole, by its size and the hash that was written with it."""
        return self._matching(key, size_bytes, digest) is not None

    def open(self, key: str, *, size_bytes: int) -> RawIOBase:
        """Open a file for reading at any place. Raises FileNotFoundError: there is none, or none of this size."""
        if not _is_key(key):
            raise FileNotFoundError(key)
        found = self._sure_head(self._name(key))
        if found is None or found["ContentLength"] != size_bytes:
            raise FileNotFoundError(errno.ENOENT, f"{self._url}: it has no such object of this size")
        return self._reader(key, found)

    @contextlib.contextmanager
    def local(self, key: str) -> Iterator[Path]:
        """Give a local path to read a file at, for the time of the block. Raises FileNotFoundError."""
        draft = self.draft()
        try:
            self.copy(key, draft)
            yield draft
        finally:
            draft.unlink(missing_ok=True)

    def copy(self, key: str, target: Path, told: Told | None = None) -> None:
        """Copy a file out, whole or not at all. Raises FileNotFoundError; OSError also where its hash is another."""
        with translated(self._url):
            # All of it in one request, if nothing breaks: a GPU may be waiting.
            found = self._client.get_object(Bucket=self._bucket, Key=self._name(key))
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
        digest = blake3()
        try:
            with self._reader(key, found, found["Body"]) as source, draft.open("wb") as file:
                while piece := source.read(CHUNK_BYTES):
                    digest.update(piece)
                    file.write(piece)
                    if told is not None:
                        told(file.tell(), found["ContentLength"])
            if found["Metadata"].get("blake3", digest.hexdigest()) != digest.hexdigest():
                raise BucketFault(errno.EIO, f"{self._url}: an object is not what was put there, by its hash")
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)

    def touch(self, key: str) -> None:
        """Keep a file from being discarded for a while: it is about to be recorded. Raises FileNotFoundError."""
        found = self._sure_head(self._name(key))
        if found is None or (_age_s(found) >= YOUNG_S and not self._is_kept(key)):
            raise FileNotFoundError(errno.ENOENT, f"{self._url}: it has no such object")

    def discard(self, key: str) -> bool:
        """Remove a file that nobody refers to, unless it was put or touched lately; return whether it went.

        It is announced first. Whoever puts or touches the file meanwhile leaves a mark and then looks for the
        announcement, and we look for the mark after announcing: one of the two sees the other.
        """
        if not self._is_old(key):
            return False
        notice = self._mark("removing", key)
        self._write(notice)
        announced_s = time.monotonic()
        try:
            if not self._is_old(key) or time.monotonic() - announced_s > REMOVAL_S:
                return False
            self._delete(self._name(key))
            self._delete(self._mark("touched", key))
        finally:
            self._delete(notice)
        return True

    def keys(self) -> Iterator[str]:
        """Yield the key of every file, in no order that matters."""
        beginning = self._name("")
        for item in self._listed(beginning):
            yield item["Key"].removeprefix(beginning)

    def folders(self) -> Iterator[str]:
        """Yield the first part of every key, once each."""
        beginning = self._name("")
        with translated(self._url):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=beginning, Delimiter="/"
            )
            for page in pages:
                yield from (item["Prefix"].removeprefix(beginning)[:-1] for item in page.get("CommonPrefixes", ()))

    def folder_age_s(self, folder: str) -> float:
        """Return the seconds since a folder was last changed; infinite where there is none."""
        newest = max((item["LastModified"].timestamp() for item in self._listed(self._folder(folder))), default=None)
        return math.inf if newest is None else time.time() - newest

    def remove_folder(self, folder: str) -> None:
        """Remove all files of a folder; nothing happens when there are none."""
        for item in self._listed(self._folder(folder)):
            self._delete(item["Key"])
        self.clear_workplace(folder)

    def clear_workplace(self, folder: str) -> None:
        """Remove what this machine still holds of a folder whose files are all in storage, or not wanted."""
        shutil.rmtree(job_folder(self.workplace, folder), ignore_errors=True)

    def sweep_drafts(self) -> None:
        """Remove, now and then, parts of uploads that their makers left behind when they died."""
        if time.monotonic() - self._swept_at_s < SWEEP_EVERY_S:
            return
        self._swept_at_s = time.monotonic()
        self._sender.sweep(self._name(""))

    def is_due(self, work: str, *, every_s: float) -> bool:
        """Return whether nobody in the fleet has begun a piece of work for so long, and note that it begins now."""
        name = f"{self._prefix}done/{self._area}-{work}"
        found = self._head(name)
        if found is not None and _age_s(found) < every_s:
            return False
        self._write(name)
        return True

    def free_bytes(self) -> int | None:
        """Return None: a bucket has no end that it tells of."""
        return None

    def link(self, key: str, *, content_type: str, disposition: str, expires_s: int) -> str | None:
        """Return a URL at which anybody may fetch the file for some time."""
        parameters = {
            "Bucket": self._bucket,
            "Key": self._name(key),
            "ResponseContentType": content_type,
            "ResponseContentDisposition": disposition,
        }
        with translated(self._url):
            return str(self._client.generate_presigned_url("get_object", Params=parameters, ExpiresIn=expires_s))

    @property
    def _client(self) -> Any:
        return storage_client(self._settings)

    def _sweep_local(self) -> None:
        # Drafts lie on each machine, and only one at a time sweeps the bucket.
        if time.monotonic() - self._looked_at_s < SWEEP_EVERY_S:
            return
        self._looked_at_s = time.monotonic()
        for draft in self._drafts.iterdir():
            with contextlib.suppress(OSError):
                if age_s(draft) > FRESH_S:
                    draft.unlink()

    def _name(self, key: str) -> str:
        if key and not _is_key(key):
            raise ValueError(f"not a key: {key!r}")
        return f"{self._prefix}{self._area}/{key}"

    def _folder(self, folder: str) -> str:
        if not is_id(folder):
            raise ValueError(f"not usable as a folder name: {folder!r}")
        return self._name("") + f"{folder}/"

    def _mark(self, kind: str, key: str) -> str:
        return f"{self._prefix}{kind}/{self._area}/{key}"

    def _head(self, name: str) -> Any:
        """What the server says of an object; None if there is none, or not even a bucket: HEAD tells no more."""
        try:
            with translated(self._url):
                return self._client.head_object(Bucket=self._bucket, Key=name)
        except FileNotFoundError:
            return None
        except BucketFault as exc:
            if exc.errno in (errno.EACCES, errno.EIO):
                # It was refused, and an answer to HEAD has no words.
                self._ask_in_words(name)
            raise

    def _sure_head(self, name: str) -> Any:
        """The same where nothing is written afterwards. Raises OSError: there is no bucket."""
        found = self._head(name)
        if found is None:
            self._ask_in_words(name)
        return found

    def _ask_in_words(self, name: str) -> None:
        """Raise what is wrong with the bucket, if anything is."""
        with translated(self._url):
            self._client.list_objects_v2(Bucket=self._bucket, Prefix=name, MaxKeys=1)

    def _is_kept(self, key: str, size_bytes: int | None = None, digest: str = "") -> bool:
        """Mark an object as wanted; False where somebody had begun to remove it and has done so."""
        self._write(self._mark("touched", key))
        notice = self._mark("removing", key)
        began_s = time.monotonic()
        while (found := self._head(notice)) is not None:
            if _age_s(found) > REMOVER_DEAD_S or time.monotonic() - began_s > REMOVER_DEAD_S:
                self._delete(notice)
                break
            time.sleep(REMOVER_PAUSE_S)
        # Also where nobody has announced anything: whoever did may have been done right before we looked.
        return self._head(self._name(key)) is not None if size_bytes is None else self.has(key, size_bytes, digest)

    def _will_stay(self, key: str, size_bytes: int, digest: str, *, is_needed: bool = False) -> bool:
        """Return whether a file is there whole, and stays for a while."""
        if is_needed:
            # Who refers to it may give it up while we wait: a mark outlasts that, and nobody has begun to remove it.
            with threads(1, "mark") as pool:
                marked = pool.submit(self._write, self._mark("touched", key))
                is_there = self.has(key, size_bytes, digest)
                marked.result()
            return is_there
        found = self._matching(key, size_bytes, digest)
        return found is not None and (_age_s(found) < YOUNG_S or self._is_kept(key, size_bytes, digest))

    def _matching(self, key: str, size_bytes: int, digest: str) -> Any:
        """What the server says of a file that is there whole; else None."""
        found = self._head(self._name(key))
        if found is None or found["ContentLength"] != size_bytes:
            return None
        return found if found["Metadata"].get("blake3") == digest.partition(":")[2] else None

    def _is_old(self, key: str) -> bool:
        found, touched = self._head(self._name(key)), self._head(self._mark("touched", key))
        return found is not None and _age_s(found) >= FRESH_S and (touched is None or _age_s(touched) >= FRESH_S)

    def _check_kept(self, files: Sequence[LocalFile]) -> None:
        """See that files are there which the server has taken. Raises BucketFault."""
        sizes = self._sizes(files)
        for file in files:
            size_bytes = file.path.stat().st_size
            # Some servers are late with their listings.
            if sizes.get(self._name(file.key)) != size_bytes and not self.has(file.key, size_bytes, file.digest):
                raise BucketFault(errno.EIO, f"{self._url}: the S3 server has not kept an object that it took")

    def _sizes(self, files: Sequence[LocalFile]) -> dict[str, int]:
        """What a listing says of files of one folder, by name; nothing of a single one, which is better asked for."""
        if len(files) < 2:
            return {}
        folder = self._name(files[0].key).rpartition("/")[0]
        return {item["Key"]: item["Size"] for item in self._listed(f"{folder}/")}

    def _reader(self, key: str, found: Any, body: Any = None) -> ObjectReader:
        part_of = object_reader(self._settings, self._name(key), found["ETag"])
        return ObjectReader(part_of, found["ContentLength"], body)

    def _write(self, name: str) -> None:
        with translated(self._url):
            self._client.put_object(Bucket=self._bucket, Key=name, Body=b"")

    def _delete(self, name: str) -> None:
        # One by one: requests that delete several need checksums of which servers know different ones.
        with translated(self._url):
            self._client.delete_object(Bucket=self._bucket, Key=name)

    def _listed(self, beginning: str) -> Iterator[Any]:
        with translated(self._url):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=beginning):
                yield from page.get("Contents", ())


def _is_key(key: str) -> bool:
    return all(part and not part.startswith(".") and "\0" not in part for part in key.split("/"))


def _age_s(found: Any) -> float:
    """Seconds since an object was written, by the server's clock alone, which may be another than ours."""
    said = found["ResponseMetadata"]["HTTPHeaders"].get("date")
    now_s = time.time() if said is None else parsedate_to_datetime(said).timestamp()
    return float(now_s - found["LastModified"].timestamp())
